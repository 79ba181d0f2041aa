//! A second copy of records that are written once and cannot be derived from others: the file
//! `spare` beside the log. Only a salvage reads it.

use std::io;
use std::path::Path;

use super::frame::{Scanner, ValueFrame};
use crate::private;

/// The file's name.
const FILE: &str = "spare";

/// Whether there is one: then the log was once opened.
pub(super) fn is_kept(dir: &Path) -> bool {
    dir.join(FILE).exists()
}

/// Calls `show` with every whole value.
pub(super) fn read(dir: &Path, show: &mut dyn FnMut(ValueFrame<'_>)) -> io::Result<()> {
    let bytes = match std::fs::read(dir.join(FILE)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        read => read?,
    };
    Scanner::new().scan(&bytes, &mut |_, frame| show(frame));
    Ok(())
}

/// Writes these frames to the file, unless it already contains them.
pub(super) fn keep(dir: &Path, frames: &[u8]) -> io::Result<()> {
    let path = dir.join(FILE);
    if frames.is_empty() || std::fs::read(&path).is_ok_and(|bytes| bytes == frames) {
        return Ok(());
    }
    private::write(&path, frames)
}

//! Rewrites the end of the log after a failed sync: the system may consider those pages written
//! although they are in memory only, and then no later sync would write them.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::log::{SEGMENT_HEAD, SegmentHeader};
use super::open::SEGMENT;

/// How many segments are rewritten: more than are ever written between two syncs.
const LAST_SEGMENTS: usize = 3;

/// Rewrites the last segments of the log with what can be read of them, and syncs them.
pub(super) fn write_end_again(dir: &Path) -> io::Result<()> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(dir.join("db"))?;
    let length = file.metadata()?.len();
    let mut head = [0; SEGMENT_HEAD];
    let mut segments = Vec::new();

    let mut at = 0;
    while at + SEGMENT_HEAD as u64 <= length {
        file.read_exact_at(&mut head, at)?;
        if let Some(header) = SegmentHeader::read(&head) {
            segments.push((header.lsn, at));
        }
        at += SEGMENT as u64;
    }
    segments.sort_unstable();

    let mut buffer = vec![0; SEGMENT];
    for (_, at) in segments.into_iter().rev().take(LAST_SEGMENTS) {
        let here = usize::try_from(length - at).unwrap_or(SEGMENT).min(SEGMENT);
        file.read_exact_at(&mut buffer[..here], at)?;
        file.write_all_at(&buffer[..here], at)?;
    }

    file.sync_data()
}

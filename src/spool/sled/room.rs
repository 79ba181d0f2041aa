//! Allocates disk space for the log before it is needed. sled cannot continue after a write that
//! found no space, not even to read, because its reads write too. So it never meets that: the
//! blocks at the end of the log are allocated already, and nothing is passed to sled once they run
//! out.
//!
//! Where the file system cannot do this, sled fails, and is opened again once there is room.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;

use parking_lot::Mutex;

use super::open::SEGMENT;

/// How far ahead room is taken, from the beginning of the log's last segment on.
const BYTES_AHEAD: u64 = 2 * SEGMENT as u64;
/// How much of it is left for what sled writes by itself.
const MARGIN_BYTES: u64 = SEGMENT as u64 / 2;

/// The room that was taken for a log.
pub(super) struct LogRoom {
    file: File,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// How long the file was when it was looked at last.
    length: u64,
    /// Up to where it has blocks.
    taken: u64,
}

impl LogRoom {
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(dir.join("db"))?;
        let state = Mutex::default();
        Ok(LogRoom { file, state })
    }

    /// Whether what is written next has room.
    ///
    /// # Errors
    /// Where it has none, and none can be had.
    pub(super) fn provide(&self) -> io::Result<()> {
        let length = self.file.metadata()?.len();
        let mut state = self.state.lock();
        if length < state.length {
            // What was taken behind its end went with the end.
            state.taken = length;
        }

        state.length = length;
        let wanted = wanted(length);
        if state.taken >= wanted {
            return Ok(());
        }

        match take(&self.file, length, wanted) {
            Ok(()) => {
                state.taken = wanted;
                Ok(())
            }
            Err(_) if state.taken >= length + MARGIN_BYTES => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// Up to where a log of this length is to have blocks.
fn wanted(length: u64) -> u64 {
    length / SEGMENT as u64 * SEGMENT as u64 + BYTES_AHEAD
}

/// Takes blocks for this part of a file, whose length stays as it is.
#[cfg(target_os = "linux")]
fn take(file: &File, from: u64, to: u64) -> io::Result<()> {
    use rustix::fs::{FallocateFlags, fallocate};
    use rustix::io::Errno;

    match fallocate(file, FallocateFlags::KEEP_SIZE, from, to - from) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) | Ok(()) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(not(target_os = "linux"))]
fn take(_: &File, _: u64, _: u64) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn room_is_taken_ahead_of_the_end_of_the_log_and_again_after_it_shrank() {
        use std::os::unix::fs::MetadataExt;

        let dir = tempfile::tempdir().unwrap();
        let db = File::create(dir.path().join("db")).unwrap();
        let room = LogRoom::open(dir.path()).unwrap();
        let blocks = || db.metadata().unwrap().blocks() * 512;

        room.provide().unwrap();
        assert_eq!(db.metadata().unwrap().len(), 0, "its length stays");
        assert!(blocks() >= BYTES_AHEAD, "{}", blocks());
        db.set_len(BYTES_AHEAD + 5).unwrap();
        room.provide().unwrap();

        assert!(blocks() >= 2 * BYTES_AHEAD, "{}", blocks());
        db.set_len(7).unwrap();
        room.provide().unwrap();
        assert!(blocks() >= BYTES_AHEAD, "{}", blocks());
    }
}

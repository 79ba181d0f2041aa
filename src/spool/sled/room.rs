//! Allocates disk space for the log before it is needed. sled cannot continue after a write that
//! found no space, not even to read, because its reads write too. So the blocks at the end of the
//! log are allocated in advance, and nothing is passed to sled once they run out.
//!
//! If the file system does not support this, sled fails on a full disk, and is reopened once there
//! is space.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;

use parking_lot::Mutex;

use super::open::SEGMENT;

/// How far the allocation reaches, from the start of the log's last segment.
const BYTES_AHEAD: u64 = 2 * SEGMENT as u64;
/// How much of it is reserved for what sled writes by itself.
const MARGIN_BYTES: u64 = SEGMENT as u64 / 2;

/// The space that is allocated for a log.
pub(super) struct LogRoom {
    file: File,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The length of the file when it was last read.
    length: u64,
    /// Up to which byte blocks are allocated.
    allocated: u64,
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

    /// Ensures that there is space for the next write.
    ///
    /// # Errors
    /// There is no space for it.
    pub(super) fn provide(&self) -> io::Result<()> {
        let length = self.file.metadata()?.len();
        let mut state = self.state.lock();
        if length < state.length {
            // Shrinking the file also released the blocks after its end.
            state.allocated = length;
        }

        state.length = length;
        let target = target(length);
        if state.allocated >= target {
            return Ok(());
        }

        match allocate(&self.file, length, target) {
            Ok(()) => {
                state.allocated = target;
                Ok(())
            }
            Err(_) if state.allocated >= length + MARGIN_BYTES => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// Up to which byte a log of this length is to have blocks.
fn target(length: u64) -> u64 {
    length / SEGMENT as u64 * SEGMENT as u64 + BYTES_AHEAD
}

/// Allocates blocks for this range of a file, without changing its length.
#[cfg(target_os = "linux")]
fn allocate(file: &File, from: u64, to: u64) -> io::Result<()> {
    use rustix::fs::{FallocateFlags, fallocate};
    use rustix::io::Errno;

    match fallocate(file, FallocateFlags::KEEP_SIZE, from, to - from) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) | Ok(()) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(not(target_os = "linux"))]
fn allocate(_: &File, _: u64, _: u64) -> io::Result<()> {
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

//! What the keyed spool needs from the store below it: ordered keys, and atomic commits.

use std::ops::ControlFlow;

use super::SpoolError;

/// Keys to write, in order; a key without a value is removed.
pub(super) type Batch = Vec<(Vec<u8>, Option<Vec<u8>>)>;

/// Looks at a key and its value, and says whether to go on.
pub(super) type Visitor<'a> = &'a mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>;

/// Which way to walk.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    /// From the smallest key.
    Up,
    /// From the largest key.
    Down,
}

/// Ordered keys with values. Called by one writer at a time, and by many readers.
pub(super) trait Store: Send + Sync + 'static {
    /// The value of a key.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, SpoolError>;

    /// Walks the keys from `from` (included) to `to` (excluded).
    fn walk(
        &self,
        from: &[u8],
        to: &[u8],
        way: Direction,
        visit: Visitor<'_>,
    ) -> Result<(), SpoolError>;

    /// Writes a batch, whole or not at all. Readers see it at once; it is kept after the next
    /// [`flush`](Store::flush) or [`sync`](Store::sync).
    fn write(&self, batch: Batch) -> Result<(), SpoolError>;

    /// Hands what was written to the system, so that it survives the process. May run beside
    /// [`write`](Store::write).
    fn flush(&self) -> Result<(), SpoolError>;

    /// Puts what was written on disk, so that it survives a power cut. May run beside
    /// [`write`](Store::write).
    fn sync(&self) -> Result<(), SpoolError>;

    /// Whether there is room for more mail.
    fn has_room(&self) -> Result<(), SpoolError>;

    /// Bytes on disk.
    fn bytes(&self) -> u64;

    /// The part of them that grows with what is kept, and with what is not reused yet.
    fn grown_bytes(&self) -> u64 {
        0
    }

    /// Whether it survives the process.
    fn is_persistent(&self) -> bool;

    /// Whether it can be opened again after a write that failed: what was synced before is there,
    /// and nothing else is taken for it.
    fn may_reopen(&self) -> bool {
        false
    }

    /// Opens it again after a write that failed. Where there is no room yet, it stays as it is.
    fn reopen(&self) -> Result<(), SpoolError> {
        Err(SpoolError::Closed)
    }

    /// Lets go of its files, so that they can be opened again. Whatever is asked afterwards is
    /// [`SpoolError::Closed`].
    fn close(&self) {}
}

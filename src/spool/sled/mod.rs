//! The spool on disk, in a sled database.
//!
//! What makes an answered write survive a power cut is the order of syncs, and it is kept here and
//! nowhere else: after opening, `conf`, `db` and the directory are synced; then, for each group,
//! `apply_batch`, `flush`, and `fdatasync` of `db`, before anybody is answered. sled's `flush`
//! alone reaches the page cache, not the disk.

mod inspect;
mod open;

pub use inspect::{Exported, Verified, export, verify};
pub use open::open;

use std::fs::File;
use std::ops::ControlFlow;
use std::path::PathBuf;

use parking_lot::{MappedRwLockReadGuard, RwLock, RwLockReadGuard};

use super::SpoolError;
use super::store::{Batch, Store, Visit, Walk};

/// Free bytes below which no new mail is taken, so that what is under way can still be recorded.
const RESERVE: u64 = 64 * 1024 * 1024;

/// How many keys' old pages one call frees, or more.
const FREED_AT_A_TIME: usize = 64;

struct SledStore {
    path: PathBuf,
    /// Gone once it is closed.
    db: RwLock<Option<sled::Db>>,
    /// The file that everything is written to, for syncing.
    log: File,
}

impl SledStore {
    /// The database. Asked for again by those who look something up in the middle of a walk, so
    /// that one who waits to close it must not come between.
    fn db(&self) -> Result<MappedRwLockReadGuard<'_, sled::Db>, SpoolError> {
        RwLockReadGuard::try_map(self.db.read_recursive(), Option::as_ref)
            .map_err(|_| SpoolError::Closed)
    }

    fn unreadable(&self, error: &sled::Error) -> SpoolError {
        SpoolError::Unreadable(format!("{}: {error}", self.path.display()))
    }

    fn unwritable(&self, reason: impl std::fmt::Display) -> SpoolError {
        SpoolError::Unwritable {
            path: self.path.clone(),
            reason: reason.to_string(),
        }
    }
}

impl Store for SledStore {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, SpoolError> {
        self.db()?
            .get(key)
            .map(|value| value.map(|value| value.to_vec()))
            .map_err(|e| self.unreadable(&e))
    }

    fn walk(&self, from: &[u8], to: &[u8], way: Walk, visit: Visit<'_>) -> Result<(), SpoolError> {
        if from >= to {
            return Ok(());
        }
        let db = self.db()?;
        let mut range = db.range(from..to);
        loop {
            let next = if way == Walk::Up {
                range.next()
            } else {
                range.next_back()
            };
            let Some(next) = next else { return Ok(()) };
            let (key, value) = next.map_err(|e| self.unreadable(&e))?;
            if let ControlFlow::Break(()) = visit(&key, &value) {
                return Ok(());
            }
        }
    }

    fn write(&self, batch: Batch) -> Result<(), SpoolError> {
        let mut group = sled::Batch::default();
        let keys = batch.len();
        for (key, value) in batch {
            match value {
                Some(value) => group.insert(key, value),
                None => group.remove(key),
            }
        }
        self.db()?
            .apply_batch(group)
            .map_err(|e| self.unwritable(e))?;
        // Each key that is written leaves an old page behind, and sled frees those of many keys only
        // when somebody has it do so: a few with each call.
        for _ in 0..=keys / FREED_AT_A_TIME {
            crossbeam_epoch::pin().flush();
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), SpoolError> {
        self.db()?
            .flush()
            .map(|_| ())
            .map_err(|e| self.unwritable(e))
    }

    fn sync(&self) -> Result<(), SpoolError> {
        self.flush()?;
        self.log.sync_data().map_err(|e| self.unwritable(e))
    }

    fn has_room(&self) -> Result<(), SpoolError> {
        // A file system that cannot say how full it is does not stop the mail.
        match fs4::available_space(&self.path) {
            Ok(free) if free < RESERVE => Err(SpoolError::DiskFull {
                path: self.path.clone(),
                free,
                needed: RESERVE,
            }),
            _ => Ok(()),
        }
    }

    fn bytes(&self) -> u64 {
        self.db().map_or(0, |db| db.size_on_disk().unwrap_or(0))
    }

    fn is_persistent(&self) -> bool {
        true
    }

    fn close(&self) {
        *self.db.write() = None;
    }
}

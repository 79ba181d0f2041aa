//! Opens the database, and says clearly why it cannot be opened.

use std::fs::{self, File};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use parking_lot::RwLock;

use super::SledStore;
use crate::spool::keyed::KeyedSpool;
use crate::spool::{Spool, SpoolError, SpoolOptions};

/// How much of the log sled may keep in memory, in bytes.
const CACHE: u64 = 64 * 1024 * 1024;
/// How often sled writes by itself and collects garbage, in milliseconds. It collects for up to
/// half of that before it syncs what it moved.
const FLUSH_EVERY: u64 = 100;
/// The bytes of one segment of sled's log, the most that sled takes. What is written between two
/// syncs must stay well below it: sled takes what it wrote for synced, and a power cut that loses
/// the first of three segments while it keeps the third leaves a log that is read as whole, or
/// whose old places were already used again.
const SEGMENT: usize = 16 * 1024 * 1024;

/// Opens the spool in this directory, which is made if need be.
///
/// # Errors
/// [`SpoolError::Locked`] while another process has it open; [`SpoolError::Unopenable`] where it
/// cannot be made, read or understood. Nothing is deleted then.
pub fn open(path: &Path, options: SpoolOptions) -> Result<Arc<dyn Spool>, SpoolError> {
    let store = open_store(path)?;
    // Damage that sled did not see while opening shows as a panic when it is first read.
    let opened = catch_unwind(AssertUnwindSafe(|| KeyedSpool::open(store, options)));
    match opened {
        Ok(Ok(spool)) => Ok(Arc::new(spool)),
        Ok(Err(error)) => Err(unopenable(path, error)),
        Err(panic) => Err(unopenable(path, panic_text(panic.as_ref()))),
    }
}

pub(super) fn open_store(path: &Path) -> Result<SledStore, SpoolError> {
    fs::create_dir_all(path).map_err(|e| unopenable(path, e))?;
    remove_unfinished_snapshots(path).map_err(|e| unopenable(path, e))?;
    let config = sled::Config::new().path(path).cache_capacity(CACHE);
    let config = config
        .flush_every_ms(Some(FLUSH_EVERY))
        .segment_size(SEGMENT);
    let db = match catch_unwind(AssertUnwindSafe(|| config.open())) {
        Ok(Ok(db)) => db,
        Ok(Err(sled::Error::Io(e))) if is_lock(&e) => {
            return Err(SpoolError::Locked(path.to_owned()));
        }
        Ok(Err(error)) => return Err(unopenable(path, error)),
        Err(panic) => return Err(unopenable(path, panic_text(panic.as_ref()))),
    };
    let log = sync_files(path).map_err(|e| unopenable(path, e))?;
    Ok(SledStore {
        path: path.to_owned(),
        db: RwLock::new(Some(db)),
        log,
    })
}

fn unopenable(path: &Path, reason: impl std::fmt::Display) -> SpoolError {
    SpoolError::Unopenable {
        path: path.to_owned(),
        reason: reason.to_string(),
    }
}

fn is_lock(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::WouldBlock || error.to_string().contains("lock")
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
    format!(
        "its files are damaged ({})",
        text.unwrap_or_else(|| "no more is known".into())
    )
}

/// A snapshot that was being written when the process was killed makes every later opening fail,
/// and is worth nothing.
fn remove_unfinished_snapshots(path: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Puts what opening wrote on disk, and returns the file that everything is written to from now on.
fn sync_files(path: &Path) -> std::io::Result<File> {
    File::open(path.join("conf"))?.sync_all()?;
    let log = File::open(path.join("db"))?;
    log.sync_all()?;
    File::open(path)?.sync_all()?;
    Ok(log)
}

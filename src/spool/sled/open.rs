//! Opens the database, and says clearly why it cannot be opened.
//!
//! sled drops what is behind a damage without a word. So everything is read before it may touch
//! anything ([`check`](super::check)); and what it made of that is compared with what was on disk.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::check::{self, CheckFailure, LogCheck};
use super::format;
use super::outcomes::Outcomes;
use super::room::LogRoom;
use super::watermark::Watermark;
use super::{OpenFiles, RESERVED_BYTES, SledStore, guarded};
use crate::private;
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
pub(super) const SEGMENT: usize = 16 * 1024 * 1024;

/// Said where nothing is left that a salvage could read.
pub(super) const LOST: &str = "its file `db` is gone, and all mail was in it: put the directory \
    back from a copy, or move it away to begin with an empty spool";

/// What a spool is opened for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To keep mail in it.
    Serve,
    /// To look at what is in it.
    Look,
}

/// Opens the spool in this directory, which is made if need be.
///
/// # Errors
/// [`SpoolError::Locked`] while another process has it open; [`SpoolError::Damaged`] where not all
/// of it is there that was on disk; [`SpoolError::Unopenable`] where it cannot be made, read or
/// understood. Nothing is changed then.
pub fn open(path: &Path, options: SpoolOptions) -> Result<Arc<dyn Spool>, SpoolError> {
    let store = open_store(path, Purpose::Serve)?;
    store.keep_spare()?;
    match KeyedSpool::open(store, options) {
        Ok(spool) => Ok(Arc::new(spool)),
        Err(error) => Err(unopenable(path, error)),
    }
}

pub(super) fn open_store(path: &Path, purpose: Purpose) -> Result<SledStore, SpoolError> {
    let (opened, last_commit) = open_files(path, purpose)?;
    Ok(SledStore::new(path, opened, last_commit))
}

/// Opens the files, and says which commit was the last.
pub(super) fn open_files(path: &Path, purpose: Purpose) -> Result<(OpenFiles, u64), SpoolError> {
    let io = |error: std::io::Error| match error.kind() {
        // Whoever starts the service tries again later.
        std::io::ErrorKind::StorageFull => disk_full(path, fs4::available_space(path).unwrap_or(0)),
        _ => unopenable(path, error),
    };
    private::make_directory(path).map_err(io)?;
    let LogCheck {
        mark,
        torn,
        worthless,
    } = check_files(path)?;

    remove_snapshots(&worthless).map_err(io)?;
    // On disk before sled writes anything: a spool is never taken for a closed one that is not.
    let watermark = Watermark::open(path, mark, &torn).map_err(io)?;
    File::open(path)
        .and_then(|dir| dir.sync_all())
        .map_err(io)?;

    let config = sled::Config::new().path(path).cache_capacity(CACHE);
    let config = config
        .flush_every_ms(Some(FLUSH_EVERY))
        .segment_size(SEGMENT);
    let db = match guarded(|| config.open()) {
        Ok(db) => db,
        Err(sled::Error::Io(e)) if is_lock(&e) => {
            return Err(SpoolError::Locked(path.to_owned()));
        }
        Err(sled::Error::Io(e)) => return Err(io(e)),
        Err(error) => return Err(unopenable(path, error)),
    };

    private::close_off(path);
    let log = sync_files(path).map_err(io)?;
    watermark.opened().map_err(io)?;

    let reached = mark.map_or(0, |mark| mark.commit);
    let last_commit = format::last_commit(&db).map_err(|e| unopenable(path, e))?;
    if last_commit < reached {
        return Err(SpoolError::Damaged {
            path: path.to_owned(),
            file: path.join("db"),
            reason: "ends before what is known to have been on disk".into(),
        });
    }

    let opened = OpenFiles {
        db,
        log,
        room: LogRoom::open(path).map_err(io)?,
        watermark,
        outcomes: Outcomes::open(path).map_err(io)?,
    };

    if purpose == Purpose::Serve {
        format::adopt(&opened, path)?;
    }

    let last_commit = format::last_commit(&opened.db).map_err(|e| unopenable(path, e))?;
    Ok((opened, last_commit))
}

/// Reads all of the files, while nobody else has them open.
fn check_files(path: &Path) -> Result<LogCheck, SpoolError> {
    let _alone = lock(path)?;
    check::check(path).map_err(|refusal| match refusal {
        CheckFailure::Damaged { file, reason } => SpoolError::Damaged {
            path: path.to_owned(),
            file,
            reason,
        },
        CheckFailure::Unread(error) => unopenable(path, error),
        CheckFailure::Lost => unopenable(path, LOST),
    })
}

/// Takes sled's own lock, where there is something to be locked.
pub(super) fn lock(path: &Path) -> Result<Option<File>, SpoolError> {
    let file = match File::open(path.join("db")) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(unopenable(path, e)),
    };
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Err(SpoolError::Locked(path.to_owned())),
        Err(TryLockError::Error(e)) => Err(unopenable(path, e)),
    }
}

pub(super) fn unopenable(path: &Path, reason: impl std::fmt::Display) -> SpoolError {
    SpoolError::Unopenable {
        path: path.to_owned(),
        reason: reason.to_string(),
    }
}

/// The disk of this spool has only so many bytes left.
pub(super) fn disk_full(path: &Path, free: u64) -> SpoolError {
    SpoolError::DiskFull {
        path: path.to_owned(),
        free,
        needed: RESERVED_BYTES,
    }
}

fn is_lock(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::WouldBlock || error.to_string().contains("lock")
}

/// Removes snapshots that are not whole. One that was being written when the process was killed
/// makes every later opening fail, and so does one that is damaged.
fn remove_snapshots(worthless: &[PathBuf]) -> std::io::Result<()> {
    for path in worthless {
        if path.extension().is_none_or(|end| end != "generating") {
            tracing::warn!(
                file = %path.display(),
                "a snapshot is damaged; all that it says is in the log, which is read instead"
            );
        }
        fs::remove_file(path)?;
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

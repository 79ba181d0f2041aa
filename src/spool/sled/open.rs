//! Opens the database, with a clear error if that is not possible.
//!
//! sled silently drops everything after a damaged place. So the files are checked before sled opens
//! them ([`check`](super::check)), and its last commit is compared afterwards with the one that is
//! known to have been on disk.

use std::fs::{self, File, TryLockError};
use std::os::unix::fs::MetadataExt;
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

/// The size of sled's cache, in bytes.
const CACHE: u64 = 64 * 1024 * 1024;
/// How often sled flushes and collects garbage by itself, in milliseconds. It collects for up to
/// half of that before it syncs what it moved.
const FLUSH_EVERY: u64 = 100;
/// The size of one segment of sled's log in bytes, the largest that sled supports. The bytes
/// written between two syncs must stay well below it: sled treats written segments as synced, and a
/// power cut that loses the first of three segments but keeps the third would leave a log that
/// seems whole, or whose old segments were already reused.
pub(super) const SEGMENT: usize = 16 * 1024 * 1024;

/// The error if nothing is left that a salvage could read.
pub(super) const LOST: &str = "its file `db` is gone, and all mail was in it: put the directory \
    back from a copy, or move it away to begin with an empty spool";

/// Why a spool is opened.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To store mail in it.
    Serve,
    /// To read what is in it.
    Inspect,
}

/// Opens the spool in this directory, which is created if it does not exist.
///
/// # Errors
/// [`SpoolError::Locked`] while another process has it open; [`SpoolError::Damaged`] if something
/// is missing that was on disk; [`SpoolError::Unopenable`] if it cannot be created, read or
/// decoded. Nothing is changed in these cases.
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

/// Opens the files; returns them with the number of the last commit.
pub(super) fn open_files(path: &Path, purpose: Purpose) -> Result<(OpenFiles, u64), SpoolError> {
    let io = |error: std::io::Error| match error.kind() {
        // A full disk is a temporary failure: the caller tries again later.
        std::io::ErrorKind::StorageFull => disk_full(path, fs4::available_space(path).unwrap_or(0)),
        _ => unreadable(path, error),
    };
    private::make_directory(path).map_err(io)?;
    let LogCheck {
        mark,
        torn,
        broken_snapshots,
    } = check_files(path)?;

    remove_snapshots(&broken_snapshots).map_err(io)?;
    // Synced before sled writes anything, so that an open spool never counts as a closed one.
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
            reason: "ends before the last commit that is known to be on disk".into(),
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

/// Checks all files, under the lock.
fn check_files(path: &Path) -> Result<LogCheck, SpoolError> {
    let _alone = lock(path)?;
    check::check(path).map_err(|refusal| match refusal {
        CheckFailure::Damaged { file, reason } => SpoolError::Damaged {
            path: path.to_owned(),
            file,
            reason,
        },
        CheckFailure::Unread(error) => unreadable(path, error),
        CheckFailure::Lost => unopenable(path, LOST),
    })
}

/// Takes sled's own lock, if the log exists.
pub(super) fn lock(path: &Path) -> Result<Option<File>, SpoolError> {
    let file = match File::open(path.join("db")) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(unreadable(path, e)),
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

/// As [`unopenable`], for an error of the operating system, whose text does not name the file.
pub(super) fn unreadable(path: &Path, error: std::io::Error) -> SpoolError {
    if error.kind() != std::io::ErrorKind::PermissionDenied {
        return unopenable(path, error);
    }

    let is_denied = |file: &PathBuf| {
        let is_directory = file.is_dir();
        let mut how = fs::OpenOptions::new();
        let opened = how.read(true).write(!is_directory).open(file);
        opened.is_err_and(|e| e.kind() == std::io::ErrorKind::PermissionDenied)
    };
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let denied = entries.map(|entry| entry.path()).find(is_denied);
    let denied = denied.unwrap_or_else(|| path.to_owned());
    let owner = fs::metadata(&denied).map(|metadata| metadata.uid());
    let whose = owner.map_or_else(
        |_| String::new(),
        |id| format!(" belongs to the user {id} and"),
    );
    unopenable(
        path,
        format!(
            "{}{whose} may not be read and written ({error}); run this as the owner of the spool, \
             or give its user the directory and all in it with `chown -R`",
            denied.display()
        ),
    )
}

/// The error when the disk of this spool has only `free` bytes left.
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

/// Removes damaged snapshots, and those that were being written when the process was killed: sled
/// cannot open a spool with either.
fn remove_snapshots(broken_snapshots: &[PathBuf]) -> std::io::Result<()> {
    for path in broken_snapshots {
        if path.extension().is_none_or(|end| end != "generating") {
            tracing::warn!(
                file = %path.display(),
                "a snapshot of the log is damaged; the log itself is read instead"
            );
        }
        fs::remove_file(path)?;
    }
    Ok(())
}

/// Syncs what opening wrote, and returns the log.
fn sync_files(path: &Path) -> std::io::Result<File> {
    File::open(path.join("conf"))?.sync_all()?;
    let log = File::open(path.join("db"))?;
    log.sync_all()?;
    File::open(path)?.sync_all()?;
    Ok(log)
}

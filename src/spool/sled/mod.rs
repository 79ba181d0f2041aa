//! The spool on disk, in a sled database.
//!
//! *Invariant:* what was acknowledged survives a power cut. The order of syncs that ensures it is
//! in this file only: after opening, `conf`, `db` and the directory are synced; then, for each
//! group, `apply_batch`, `flush`, and `fdatasync` of `db`, before any caller is answered. sled's
//! own `flush` reaches the page cache only, not the disk.
//!
//! Damage is noticed: each value is in a `frame` with a checksum, each commit has a number, a
//! `watermark` beside the log records which commit is on disk, and `check` reads the whole `log`
//! before sled does.

mod check;
mod format;
mod frame;
mod inspect;
mod log;
mod open;
mod outcomes;
mod pages;
mod rewrite;
mod room;
mod salvage;
mod spare;
#[cfg(feature = "postgres")]
pub(super) mod transfer;
mod watermark;

#[cfg(feature = "postgres")]
pub(super) use inspect::describe;
pub use inspect::{ExportReport, VerifyReport, export, verify};
pub use open::open;
pub use salvage::{SalvageResult, salvage};

use std::fs::File;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{MappedRwLockReadGuard, RwLock, RwLockReadGuard};

use self::open::Purpose;
use self::outcomes::Outcomes;
use self::room::LogRoom;
use self::watermark::Watermark;
use super::SpoolError;
use super::keyed::{IRREPLACEABLE, TOTALS, is_delivery, last_event};
use super::store::{Batch, Direction, Store, Visitor};

/// If less disk space is free, in bytes, no new mail is accepted, so that outcomes can still be
/// recorded.
const RESERVED_BYTES: u64 = 64 * 1024 * 1024;

/// The old pages of at least this many keys are freed by one call.
const FREE_STEP: usize = 64;

/// How long closing waits until the files can be opened again.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(2);

struct SledStore {
    path: PathBuf,
    /// `None` after closing.
    opened: RwLock<Option<OpenFiles>>,
    /// The number of the last commit that was written.
    written: AtomicU64,
    /// The number of the next commit.
    next: AtomicU64,
    /// The number of the journal's last event.
    journal: AtomicU64,
    /// Whether sled has failed; it must be opened again before it does anything.
    is_broken: AtomicBool,
    /// Whether a sync has failed: then what can be read may be in memory only, until it is written
    /// again.
    is_doubtful: AtomicBool,
}

/// The open files of a spool.
struct OpenFiles {
    db: sled::Db,
    /// The log, to sync it.
    log: File,
    room: LogRoom,
    watermark: Watermark,
    outcomes: Outcomes,
}

/// Calls sled, which may panic on a damaged page; other records are not affected by that.
fn guarded<T>(ask: impl FnOnce() -> sled::Result<T>) -> sled::Result<T> {
    catch_unwind(AssertUnwindSafe(ask)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        Err(sled::Error::ReportableBug(format!(
            "its files are damaged ({})",
            text.unwrap_or("without a message")
        )))
    })
}

impl SledStore {
    fn new(path: &Path, opened: OpenFiles, last_commit: u64) -> Self {
        SledStore {
            path: path.to_owned(),
            opened: RwLock::new(Some(opened)),
            written: AtomicU64::new(last_commit),
            next: AtomicU64::new(format::next_life(last_commit)),
            journal: AtomicU64::new(0),
            is_broken: AtomicBool::new(false),
            is_doubtful: AtomicBool::new(false),
        }
    }

    /// The files. The lock is recursive because a visitor of a walk may read another key, which
    /// must not wait for a writer that is waiting to close the files.
    fn opened(&self) -> Result<MappedRwLockReadGuard<'_, OpenFiles>, SpoolError> {
        RwLockReadGuard::try_map(self.opened.read_recursive(), Option::as_ref)
            .map_err(|_| SpoolError::Closed)
    }

    /// Writes a second copy of the records that cannot be derived from others.
    fn keep_spare(&self) -> Result<(), SpoolError> {
        let opened = self.opened()?;
        let mut frames = Vec::new();
        for key in IRREPLACEABLE {
            let value = guarded(|| opened.db.get(key)).map_err(|e| self.unreadable(&e))?;
            frames.extend(value.iter().flat_map(|value| value.iter().copied()));
        }
        if let Err(error) = spare::keep(&self.path, &frames) {
            tracing::warn!(%error, "cannot write `spare`, the copy of the spool's secret");
        }
        Ok(())
    }

    /// How many values are damaged.
    fn damaged_values(&self) -> Result<u64, SpoolError> {
        let opened = self.opened()?;
        let is_framed = guarded(|| opened.db.contains_key(format::FORMAT_KEY));
        if !is_framed.map_err(|e| self.unreadable(&e))? {
            return Ok(0);
        }
        let mut damaged = 0;
        let mut all = opened.db.iter();
        let mut next = || guarded(|| all.next().transpose());
        while let Some((key, value)) = next().map_err(|e| self.unreadable(&e))? {
            damaged += u64::from(frame::commit_of(&key, &value).is_none());
        }
        Ok(damaged)
    }

    /// Waits until the files can be opened again: sled's background threads may hold the lock a
    /// moment longer.
    fn await_lock(&self) {
        let time_limit = Instant::now() + RELEASE_TIMEOUT;
        while matches!(open::lock(&self.path), Err(SpoolError::Locked(_)))
            && Instant::now() < time_limit
        {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn unreadable(&self, error: &sled::Error) -> SpoolError {
        SpoolError::Unreadable(format!("{}: {}", self.path.display(), reason(error)))
    }

    fn broken(&self, error: &sled::Error) -> SpoolError {
        self.is_broken.store(true, Ordering::Relaxed);
        self.unwritable(reason(error))
    }

    fn unwritable(&self, reason: impl std::fmt::Display) -> SpoolError {
        SpoolError::Unwritable {
            path: self.path.clone(),
            reason: reason.to_string(),
        }
    }
}

/// The bytes that the log needs in any case: two segments that are being written, and two that are
/// allocated ahead.
const FIXED_BYTES: u64 = 4 * open::SEGMENT as u64;

/// The size on disk of all files in this directory, in bytes. sled reports only its log, and of
/// that only what is written, not what is allocated.
fn bytes_below(directory: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return 0;
    };
    let of_one = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => bytes_below(&entry.path()),
        Ok(metadata) if metadata.is_file() => on_disk(&metadata),
        _ => 0,
    };
    entries.flatten().map(of_one).sum()
}

/// The size of a file on disk, in bytes.
fn on_disk(file: &std::fs::Metadata) -> u64 {
    use std::os::unix::fs::MetadataExt;
    // The unit of stat(2), whatever the block size of the file system is.
    file.blocks() * 512
}

/// The descriptor of a file that no directory contains any more: its content is lost once that is
/// closed.
fn removed_file(file: &File) -> Option<std::os::fd::RawFd> {
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::MetadataExt;
    let is_removed = file.metadata().is_ok_and(|metadata| metadata.nlink() == 0);
    is_removed.then(|| file.as_raw_fd())
}

/// The text of sled's error, without its request to report it to sled's authors.
fn reason(error: &sled::Error) -> String {
    match error {
        sled::Error::ReportableBug(text) => text.clone(),
        other => other.to_string(),
    }
}

impl Store for SledStore {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, SpoolError> {
        let opened = self.opened()?;
        guarded(|| opened.db.get(key))
            .map(|value| value.map(|value| frame::unwrap(key, &value).to_vec()))
            .map_err(|e| self.unreadable(&e))
    }

    fn walk(
        &self,
        from: &[u8],
        to: &[u8],
        way: Direction,
        visit: Visitor<'_>,
    ) -> Result<(), SpoolError> {
        if from >= to {
            return Ok(());
        }

        let opened = self.opened()?;
        let mut range = opened.db.range(from..to);
        loop {
            let next = guarded(|| match way {
                Direction::Up => range.next().transpose(),
                Direction::Down => range.next_back().transpose(),
            });
            let Some((key, value)) = next.map_err(|e| self.unreadable(&e))? else {
                return Ok(());
            };
            if let ControlFlow::Break(()) = visit(&key, frame::unwrap(&key, &value)) {
                return Ok(());
            }
        }
    }

    fn write(&self, batch: Batch) -> Result<(), SpoolError> {
        let commit = self.next.fetch_add(1, Ordering::Relaxed);
        let mut group = sled::Batch::default();
        let keys = batch.len();
        let mut is_numbered = false;
        let mut is_spared = true;

        let opened = self.opened()?;
        opened.room.provide().map_err(|e| self.unwritable(e))?;
        for (key, value) in batch {
            is_numbered |= value.is_some() && key == TOTALS;
            is_spared &= !IRREPLACEABLE.contains(&&key[..]);
            if let Some(value) = &value {
                if is_delivery(&key) {
                    opened.outcomes.note(&key, commit);
                }
                if let Some(event) = last_event(&key, value) {
                    self.journal.fetch_max(event, Ordering::Relaxed);
                }
            }
            match value {
                Some(value) => group.insert(&key[..], frame::wrap(commit, &key, &value)),
                None => group.remove(key),
            }
        }

        if !is_numbered {
            let key = format::COMMIT_KEY;
            group.insert(key, frame::wrap(commit, key, &[]));
        }

        guarded(|| opened.db.apply_batch(group)).map_err(|e| self.broken(&e))?;
        // Each written key leaves an old page behind, which sled frees only when asked: a few at
        // each call, so that memory does not grow.
        for _ in 0..=keys / FREE_STEP {
            crossbeam_epoch::pin().flush();
        }
        self.written.store(commit, Ordering::Release);
        drop(opened);

        if is_spared { Ok(()) } else { self.keep_spare() }
    }

    fn flush(&self) -> Result<(), SpoolError> {
        let opened = self.opened()?;
        guarded(|| opened.db.flush())
            .map(|_| ())
            .map_err(|e| self.broken(&e))
    }

    fn sync(&self) -> Result<(), SpoolError> {
        let written = self.written.load(Ordering::Acquire);
        self.flush()?;
        let opened = self.opened()?;
        if let Err(error) = opened.log.sync_data() {
            self.is_doubtful.store(true, Ordering::Relaxed);
            return Err(self.unwritable(error));
        }

        // The watermark may be older than the log; then it only detects less.
        let journal = self.journal.load(Ordering::Relaxed);
        let reached = opened.watermark.reach(written, journal);
        if let Err(error) = reached.and_then(|()| opened.outcomes.reach(written)) {
            tracing::warn!(%error, "cannot record in the file `synced` how much is on disk");
        }

        Ok(())
    }

    fn has_room(&self) -> Result<(), SpoolError> {
        if let Ok(opened) = self.opened()
            && let Some(fd) = removed_file(&opened.log)
        {
            return Err(self.unwritable(format!(
                "its file `db` was removed while it was open, and is lost once the service ends: \
                 keep it open in a shell (`exec 3</proc/{}/fd/{fd}`), stop the service, and put it \
                 back in the same shell (`cat <&3 >{}`)",
                std::process::id(),
                self.path.join("db").display()
            )));
        }

        // If the free space is unknown, mail is accepted.
        match fs4::available_space(&self.path) {
            Ok(free) if free < RESERVED_BYTES => Err(open::disk_full(&self.path, free)),
            _ => Ok(()),
        }
    }

    fn bytes(&self) -> u64 {
        bytes_below(&self.path)
    }

    fn grown_bytes(&self) -> u64 {
        // The outcomes grow with each commit, and no further than a segment.
        let outcomes = std::fs::metadata(self.path.join(outcomes::FILE));
        let fixed = FIXED_BYTES + outcomes.map_or(0, |file| on_disk(&file));
        self.bytes().saturating_sub(fixed)
    }

    fn is_persistent(&self) -> bool {
        true
    }

    fn may_reopen(&self) -> bool {
        true
    }

    fn reopen(&self) -> Result<(), SpoolError> {
        let is_doubtful = self.is_doubtful.load(Ordering::Relaxed);
        if let Ok(opened) = self.opened() {
            // Until it is known that reopening can work, the spool stays readable.
            opened.room.provide().map_err(|e| self.unwritable(e))?;
            if is_doubtful {
                opened.watermark.sync().map_err(|e| self.unwritable(e))?;
            }
            if !is_doubtful && !self.is_broken.load(Ordering::Relaxed) {
                // There was no space, so nothing was passed to sled, which is still usable.
                return Ok(());
            }
        }

        self.has_room()?;

        let mut opened = self.opened.write();
        let before = opened.take();
        // sled panics if it cannot sync.
        let _ = guarded(|| {
            drop(before);
            Ok(())
        });

        self.await_lock();
        if is_doubtful {
            rewrite::write_end_again(&self.path).map_err(|e| self.unwritable(e))?;
        }

        let (again, last_commit) = open::open_files(&self.path, Purpose::Serve)?;
        self.written.store(last_commit, Ordering::Release);
        let next = format::next_life(last_commit.max(self.next.load(Ordering::Relaxed)));
        self.next.store(next, Ordering::Relaxed);
        *opened = Some(again);
        self.is_broken.store(false, Ordering::Relaxed);
        self.is_doubtful.store(false, Ordering::Relaxed);

        Ok(())
    }

    fn close(&self) {
        let is_synced = self.sync().is_ok();
        let Some(opened) = self.opened.write().take() else {
            return;
        };
        let OpenFiles {
            db, log, watermark, ..
        } = opened;

        // sled writes when it is dropped; that must be on disk before the spool counts as closed.
        drop(db);
        if is_synced && log.sync_data().is_ok() && watermark.close().is_err() {
            tracing::debug!("cannot record in the file `synced` that it was closed");
        }
        drop((log, watermark));

        self.await_lock();
    }
}

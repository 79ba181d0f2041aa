//! The spool on disk, in a sled database.
//!
//! What makes an answered write survive a power cut is the order of syncs, and it is kept here and
//! nowhere else: after opening, `conf`, `db` and the directory are synced; then, for each group,
//! `apply_batch`, `flush`, and `fdatasync` of `db`, before anybody is answered. sled's `flush`
//! alone reaches the page cache, not the disk.
//!
//! What makes damage seen: each value lies in a `frame`, each commit has a number, a
//! `watermark` beside the log says which commit is on disk, and `check` reads the whole `log`
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

/// Free bytes below which no new mail is taken, so that what is under way can still be recorded.
const RESERVED_BYTES: u64 = 64 * 1024 * 1024;

/// How many keys' old pages one call frees, or more.
const FREE_STEP: usize = 64;

/// How long closing waits until the files can be opened again.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(2);

struct SledStore {
    path: PathBuf,
    /// Gone once it is closed.
    opened: RwLock<Option<OpenFiles>>,
    /// The number of the last commit that was written.
    written: AtomicU64,
    /// The number of the next one.
    next: AtomicU64,
    /// The number of the last event that the journal tells.
    journal: AtomicU64,
    /// Whether sled has failed, and does nothing more until it is opened again.
    is_broken: AtomicBool,
    /// Whether a sync has failed: then what can be read may be in memory only, until it is written
    /// again.
    is_doubtful: AtomicBool,
}

/// The files of a spool.
struct OpenFiles {
    db: sled::Db,
    /// The file that everything is written to, for syncing.
    log: File,
    room: LogRoom,
    watermark: Watermark,
    outcomes: Outcomes,
}

/// Asks sled. Where a page is damaged it may panic; what else is kept has nothing to do with that.
fn guarded<T>(ask: impl FnOnce() -> sled::Result<T>) -> sled::Result<T> {
    catch_unwind(AssertUnwindSafe(ask)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        Err(sled::Error::ReportableBug(format!(
            "its files are damaged ({})",
            text.unwrap_or("no more is known")
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

    /// The files. Asked for again by those who look something up in the middle of a walk, so that
    /// one who waits to close them must not come between.
    fn opened(&self) -> Result<MappedRwLockReadGuard<'_, OpenFiles>, SpoolError> {
        RwLockReadGuard::try_map(self.opened.read_recursive(), Option::as_ref)
            .map_err(|_| SpoolError::Closed)
    }

    /// Keeps a second copy of what can be derived from nothing else.
    fn keep_spare(&self) -> Result<(), SpoolError> {
        let opened = self.opened()?;
        let mut frames = Vec::new();
        for key in IRREPLACEABLE {
            let value = guarded(|| opened.db.get(key)).map_err(|e| self.unreadable(&e))?;
            frames.extend(value.iter().flat_map(|value| value.iter().copied()));
        }
        if let Err(error) = spare::keep(&self.path, &frames) {
            tracing::warn!(%error, "there is no second copy of the spool's secret");
        }
        Ok(())
    }

    /// How many values are not as they were written.
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

    /// Waits until the files can be opened again: what sled still had to do in threads of its own
    /// may hold the lock for a moment.
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

/// What the log takes in any case: two segments that are being written, and two whose room is taken
/// ahead.
const FIXED_BYTES: u64 = 4 * open::SEGMENT as u64;

/// The bytes on disk of all files in this directory. sled knows of its log alone, and of that what
/// it has written and not what it takes up.
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

/// The bytes that a file takes on disk.
fn on_disk(file: &std::fs::Metadata) -> u64 {
    use std::os::unix::fs::MetadataExt;
    // What stat(2) counts in, whatever the blocks of the file system are.
    file.blocks() * 512
}

/// What sled says, without its request to tell its authors.
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
        // Each key that is written leaves an old page behind, and sled frees those of many keys
        // only when somebody has it do so: a few with each call.
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

        // One that is older than the log is only less of a help.
        let journal = self.journal.load(Ordering::Relaxed);
        let reached = opened.watermark.reach(written, journal);
        if let Err(error) = reached.and_then(|()| opened.outcomes.reach(written)) {
            tracing::warn!(%error, "how far the spool is on disk cannot be noted");
        }

        Ok(())
    }

    fn has_room(&self) -> Result<(), SpoolError> {
        // A file system that cannot say how full it is does not stop the mail.
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
            // As long as it is not known that it will work, what can be read stays so.
            opened.room.provide().map_err(|e| self.unwritable(e))?;
            if is_doubtful {
                opened.watermark.sync().map_err(|e| self.unwritable(e))?;
            }
            if !is_doubtful && !self.is_broken.load(Ordering::Relaxed) {
                // sled has not been asked for what there was no room for.
                return Ok(());
            }
        }

        self.has_room()?;

        let mut opened = self.opened.write();
        let before = opened.take();
        // sled panics where it cannot sync.
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

        // What sled writes when it ends is on disk before anybody may rely on it.
        drop(db);
        if is_synced && log.sync_data().is_ok() && watermark.close().is_err() {
            tracing::debug!("that the spool was closed cannot be noted");
        }
        drop((log, watermark));

        self.await_lock();
    }
}

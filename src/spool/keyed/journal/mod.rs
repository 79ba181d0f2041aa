//! The journal over ordered keys. The writer collects entries as it writes ([`entry`]) and adds
//! them to the same commit; the syncer publishes them once they are on disk. The latest events are
//! in memory, shared by all who follow; older ones are read from the store in bounded pages
//! ([`reading`]), until a sweep has deleted them ([`pruning`]).
//!
//! *Invariant:* the events of a record are numbered consecutively, and the record says how many
//! numbers before it were not used: so a reader notices every gap.

pub(in crate::spool) mod entry;
mod handle;
pub(super) mod pruning;
pub(super) mod reading;
mod record_cache;
pub(super) mod verification;

use std::collections::{BTreeMap, VecDeque};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use self::entry::{PendingEntries, RecordHead};
use self::record_cache::RecordCache;
pub(crate) use self::verification::JournalEnd;
use super::keys;
use crate::delivery::Event;
use crate::mail::Timestamp;
use crate::spool::store::{Batch, Direction, Store};
use crate::spool::{JournalOptions, ReaderStatus, SpoolError, SpoolOptions, codec};

/// How many events are kept in memory.
const RECENT_EVENTS: u64 = 8192;
const RECENT_BYTES: usize = 2 * 1024 * 1024;
/// How many numbers are skipped when a spool is opened whose events may have been published before
/// they were on disk: more than can be published between two syncs.
const SKIPPED_NUMBERS: u64 = 1 << 16;

/// A record of the journal.
pub(super) struct JournalRecord {
    first: u64,
    head: RecordHead,
    bytes: Vec<u8>,
    /// Its events, decoded when they are first needed.
    events: OnceLock<Vec<Arc<Event>>>,
}

impl JournalRecord {
    /// The number of its last event.
    fn last(&self) -> u64 {
        self.first + u64::from(self.head.events) - 1
    }

    /// The number that a reader has reached that missed nothing before this record.
    fn follows(&self) -> u64 {
        follows(self.first, &self.head)
    }

    fn events(&self) -> &[Arc<Event>] {
        self.events.get_or_init(|| {
            let events = entry::events(self.first, &self.bytes);
            let events = events.inspect_err(
                |error| tracing::error!(%error, "a record of the journal cannot be read"),
            );
            events
                .unwrap_or_default()
                .into_iter()
                .map(Arc::new)
                .collect()
        })
    }
}

/// The number of a record's last event; `None` if this is not a record.
pub(in crate::spool) fn last_event(key: &[u8], value: &[u8]) -> Option<u64> {
    let first = keys::read_journal(key)?;
    let head = entry::head(value).ok()?;
    Some(first + u64::from(head.events).max(1) - 1)
}

/// The number before a record's first event, and before the unused numbers.
fn follows(first: u64, head: &RecordHead) -> u64 {
    first.saturating_sub(1).saturating_sub(head.skipped)
}

/// The journal's limits, reduced so that it leaves space for mail.
fn bounded(options: &SpoolOptions) -> JournalOptions {
    let most = options.max_size.map_or(u64::MAX, |max| max / 8);
    JournalOptions {
        max_size: options.journal.max_size.min(most),
        ..options.journal
    }
}

/// The stored position of a named reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ReaderCursor {
    pub at: u64,
}

impl codec::Versioned for ReaderCursor {}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ReaderPosition {
    pub at: u64,
    /// How many events were deleted before it read them.
    pub missed: u64,
}

/// The oldest record that exists.
#[derive(Clone, Copy, Debug)]
struct OldestRecord {
    at: Timestamp,
    before: u64,
}

impl OldestRecord {
    fn of(head: &RecordHead) -> Self {
        OldestRecord {
            at: head.at,
            before: head.before,
        }
    }
}

struct State {
    /// The number of the next event.
    next: u64,
    /// How many numbers before it are unused.
    skipped: u64,
    /// The bytes of all records that were ever written.
    written: u64,
    oldest: Option<OldestRecord>,
    readers: BTreeMap<String, ReaderPosition>,
}

#[derive(Default)]
struct RecentRecords {
    records: VecDeque<Arc<JournalRecord>>,
    bytes: usize,
}

pub(super) struct JournalState {
    pub id: u32,
    options: JournalOptions,
    /// Whether events are published before they are on disk.
    is_early: bool,
    state: Mutex<State>,
    recent: Mutex<RecentRecords>,
    record_cache: RecordCache,
    last: watch::Sender<u64>,
    /// When a record may have become too old, in milliseconds.
    pub due: AtomicI64,
    /// Until when records beyond the limits are left alone because a reader has not read them.
    held_until: AtomicI64,
}

impl JournalState {
    /// The journal of a store. Also returns the changes that must be written before anything else.
    pub(super) fn open<S: Store>(
        store: &S,
        options: &SpoolOptions,
    ) -> Result<(Self, Batch), SpoolError> {
        let mut batch = Batch::new();
        let id = store.get(keys::JOURNAL_ID)?;
        let id = match id.and_then(|id| <[u8; 4]>::try_from(id).ok()) {
            Some(id) => u32::from_be_bytes(id),
            None => {
                let id = rand::random::<u32>();
                let key = keys::JOURNAL_ID.to_vec();
                batch.push((key, Some(id.to_be_bytes().to_vec())));
                id
            }
        };

        let mut state = State {
            next: 1,
            skipped: 0,
            written: 0,
            oldest: None,
            readers: BTreeMap::new(),
        };

        state.continue_after_last(store)?;
        let (from, to) = keys::starting_with(keys::READER);
        store.walk(&from, &to, Direction::Up, &mut |key, value| {
            let name = std::str::from_utf8(&key[keys::READER.len()..]);
            if let (Ok(name), Ok(ReaderCursor { at })) =
                (name, codec::decode::<ReaderCursor>(value))
            {
                state
                    .readers
                    .insert(name.to_owned(), ReaderPosition { at, missed: 0 });
            }
            ControlFlow::Continue(())
        })?;

        let last = state.next - 1 - state.skipped;
        let journal = JournalState {
            id,
            options: bounded(options),
            is_early: options.sync_interval.is_some(),
            due: AtomicI64::new(i64::MAX),
            held_until: AtomicI64::new(i64::MIN),
            state: Mutex::new(state),
            recent: Mutex::default(),
            record_cache: RecordCache::default(),
            last: watch::channel(last).0,
        };

        journal.plan(None);
        Ok((journal, batch))
    }

    /// Loads its state again, after the store was reopened.
    pub(super) fn read_again<S: Store>(&self, store: &S) -> Result<(), SpoolError> {
        self.state.lock().continue_after_last(store)
    }

    /// The bytes of all records that were ever written, including deleted ones.
    fn written(&self) -> u64 {
        self.state.lock().written
    }

    /// The bytes of the records that exist.
    pub(super) fn bytes(&self) -> u64 {
        self.state.lock().bytes()
    }

    /// Numbers the entries of a commit and adds their records to its batch.
    pub(super) fn seal(
        &self,
        entries: PendingEntries,
        batch: &mut Batch,
    ) -> Vec<Arc<JournalRecord>> {
        if entries.is_empty() {
            return Vec::new();
        }
        let mut state = self.state.lock();

        let mut all = Vec::new();
        for part in entries.into_parts() {
            let head = RecordHead {
                skipped: state.skipped,
                before: state.written,
                events: part.events,
                at: part.at,
                has_acts: part.has_acts,
                is_early: self.is_early,
            };
            let bytes = entry::record(&head, &part.entries);
            let first = state.next;
            state.next += u64::from(part.events);
            state.skipped = 0;
            state.written += bytes.len() as u64;
            state.oldest.get_or_insert(OldestRecord::of(&head));
            batch.push((keys::journal(first), Some(bytes.clone())));
            if head.has_acts {
                batch.push((keys::acts(first), Some(Vec::new())));
            }
            all.push(Arc::new(JournalRecord {
                first,
                head,
                bytes,
                events: OnceLock::new(),
            }));
        }

        let is_full = state.bytes() > self.options.max_size;
        drop(state);

        let at = all
            .last()
            .map_or(i64::MIN, |record| record.head.at.as_millis());
        if is_full && at >= self.held_until.load(Ordering::Relaxed) {
            self.due.store(i64::MIN, Ordering::Relaxed);
        } else if self.due.load(Ordering::Relaxed) == i64::MAX {
            self.plan(None);
        }

        all
    }

    /// Publishes records that are on disk to all readers. Called in the order of sealing.
    pub(super) fn publish(&self, records: Vec<Arc<JournalRecord>>) {
        let Some(last) = records.last().map(|record| record.last()) else {
            return;
        };

        let mut recent = self.recent.lock();
        for record in records {
            recent.bytes += record.bytes.len();
            recent.records.push_back(record);
        }

        while recent.records.len() > 1
            && let Some(front) = recent.records.front()
            && (recent.bytes > RECENT_BYTES || last - front.last() >= RECENT_EVENTS)
        {
            let bytes = front.bytes.len();
            recent.bytes -= bytes;
            recent.records.pop_front();
        }

        drop(recent);
        self.last.send_replace(last);
    }

    pub(super) fn last(&self) -> watch::Receiver<u64> {
        self.last.subscribe()
    }

    pub(super) fn is_due(&self, now: Timestamp) -> bool {
        self.due.load(Ordering::Relaxed) <= now.as_millis()
    }

    /// Whether the journal exceeds its limits so far that records must be deleted at once.
    pub(super) fn is_full(&self) -> bool {
        self.due.load(Ordering::Relaxed) == i64::MIN
    }

    /// When records must be checked for deletion; `None` for never.
    pub(super) fn next_due(&self) -> Option<Timestamp> {
        let due = self.due.load(Ordering::Relaxed);
        (due < i64::MAX).then(|| Timestamp::from_millis(due))
    }

    /// The position of a reader.
    pub(super) fn reader(&self, name: &str) -> Option<ReaderPosition> {
        self.state.lock().readers.get(name).copied()
    }

    pub(super) fn set_reader(&self, name: &str, at: Option<u64>) {
        let readers = &mut self.state.lock().readers;
        match at {
            Some(at) => readers.entry(name.to_owned()).or_default().at = at,
            None => _ = readers.remove(name),
        }
    }

    pub(super) fn readers(&self) -> Vec<ReaderStatus> {
        let state = self.state.lock();
        let status = |(name, reader): (&String, &ReaderPosition)| ReaderStatus {
            name: name.clone(),
            at: reader.at,
            missed: reader.missed,
        };
        state.readers.iter().map(status).collect()
    }

    /// Sets the time of the next check: `at`, or when the oldest record becomes too old.
    fn plan(&self, at: Option<Timestamp>) {
        let oldest = self.state.lock().oldest;
        let too_old = oldest.map(|oldest| oldest.at + self.options.keep);
        let due = at.or(too_old).map_or(i64::MAX, Timestamp::as_millis);
        self.due.store(due, Ordering::Relaxed);
    }
}

impl State {
    fn bytes(&self) -> u64 {
        self.oldest
            .map_or(0, |oldest| self.written - oldest.before.min(self.written))
    }

    /// Continues after the store's last record. A number is never used twice.
    fn continue_after_last<S: Store>(&mut self, store: &S) -> Result<(), SpoolError> {
        let mut last = None;
        let (from, to) = keys::starting_with(keys::JOURNAL);
        store.walk(&from, &to, Direction::Down, &mut |key, value| {
            let Some(first) = keys::read_journal(key) else {
                return ControlFlow::Continue(());
            };
            // A record that cannot be read has used numbers; how many is unknown.
            let head = entry::head(value).ok();
            last = Some((first, head, value.len() as u64));
            ControlFlow::Break(())
        })?;

        let mut end = 0;
        let mut left_out = 0;
        if let Some((first, head, length)) = last {
            match head {
                Some(head) => {
                    end = first + u64::from(head.events) - 1;
                    self.written = self.written.max(head.before + length);
                    left_out = if head.is_early { SKIPPED_NUMBERS } else { 0 };
                }
                None => {
                    end = first;
                    left_out = SKIPPED_NUMBERS;
                }
            }
        }

        self.next = self.next.max(end + 1 + left_out);
        self.skipped = self.next - 1 - end;
        self.oldest = reading::first_record(store)?.map(|(_, head)| OldestRecord::of(&head));
        Ok(())
    }
}

//! Collects what one commit writes, and adds up its size.
//!
//! *Invariant:* no commit is larger than [`COMMIT_BYTES`]. Operations that may be long are done in
//! steps of about [`STEP_BYTES`].

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::SpoolState;
use super::backlog::QueueMove;
use super::journal::JournalRecord;
use super::journal::entry::{JournalEntry, PendingEntries};
use super::keys::{self, QueueId, QueuePosition, Timer};
use super::queue_head::QueueEntry;
use super::queues::QueueName;
use crate::delivery::Route;
use crate::mail::Timestamp;
use crate::spool::Manifest;
use crate::spool::codec::{self, Totals};
use crate::spool::store::{Batch, Direction, Store};

/// About the most bytes that one step of a long operation writes.
pub(super) const STEP_BYTES: usize = 256 * 1024;
/// The most bytes that one commit holds. sled writes several times as much, and that must stay well
/// below one segment of its log.
pub(super) const COMMIT_BYTES: usize = 2 * 1024 * 1024;
/// About how many bytes the queue, the timer and the totals add to a delivery.
pub(super) const INDEX_BYTES: usize = 256;
/// The most timers under one key, so that one sweep can handle all of them.
const TIMERS: usize = 64;
/// The cost of a key in bytes, besides its own bytes and its value's: sled rewrites the leaf that
/// contains it.
pub(super) const KEY_BYTES: usize = 32;
/// About the bytes of one timer.
const TIMER_BYTES: usize = 64;

/// What one commit changes.
#[derive(Default)]
pub(super) struct Changes {
    batch: Batch,
    weight: usize,
    moves: Vec<QueueMove>,
    /// The timers to set. Those of the same time share a key, because the cost of a commit is the
    /// number of its keys.
    timers: BTreeMap<Timestamp, Vec<Timer>>,
    /// The timers to remove, by the times at which they may be due.
    stale_timers: BTreeMap<Timestamp, HashSet<Timer>>,
    /// The entries to add to the journal.
    entries: PendingEntries,
    /// The accepted mail: account, day, number of deliveries.
    accepted: Vec<(u64, i64, u64)>,
    /// Routes that get their first queue.
    new_queues: HashMap<Route, QueueId>,
}

impl Changes {
    pub(super) fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.weight += key.len() + value.len() + KEY_BYTES;
        self.batch.push((key, Some(value)));
    }

    pub(super) fn remove(&mut self, key: Vec<u8>) {
        self.weight += key.len() + KEY_BYTES;
        self.batch.push((key, None));
    }

    pub(super) fn append(&mut self, batch: Batch) {
        self.weight += weight(&batch);
        self.batch.extend(batch);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.batch.is_empty()
            && self.timers.is_empty()
            && self.stale_timers.is_empty()
            && self.entries.is_empty()
    }

    /// The size of the collected changes, in bytes.
    pub(super) fn weight(&self) -> usize {
        self.weight
    }

    /// Adds an entry to the journal.
    pub(super) fn add_entry(&mut self, entry: JournalEntry<'_>) {
        self.weight += self.entries.push(entry);
    }

    /// Sets a timer: a sweep will handle it at this time.
    pub(super) fn set_timer<S>(&mut self, shared: &SpoolState<S>, at: Timestamp, timer: Timer) {
        self.weight += TIMER_BYTES;
        self.timers.entry(at).or_default().push(timer);
        shared
            .next_timer
            .fetch_min(at.as_millis(), Ordering::Relaxed);
    }

    /// Removes a timer that was set by an earlier commit, if it is due at this time.
    pub(super) fn remove_timer(&mut self, at: Timestamp, timer: Timer) {
        self.weight += 2 * TIMER_BYTES;
        self.stale_timers.entry(at).or_default().insert(timer);
    }

    /// Counts an accepted mail for its submitter's account.
    pub(super) fn accept(&mut self, manifest: &Manifest) {
        let account = manifest.account();
        if account != 0 {
            let day = manifest.accepted_at.day();
            let count = u64::from(manifest.recipients);
            self.accepted.push((account, day, count));
        }
    }

    /// Adds a delivery to a queue.
    pub(super) fn enqueue<S>(
        &mut self,
        shared: &SpoolState<S>,
        queue: &QueueName,
        place: &QueuePosition,
        entry: &QueueEntry,
    ) {
        let id = self.id_of(shared, &queue.route);
        self.put(keys::queue(id, queue.priority, place), entry.to_bytes());
        self.moves.push(QueueMove {
            line: (id, queue.priority),
            place: *place,
            tried: entry.tried,
            account: entry.account,
            comes: true,
        });
    }

    /// Removes a delivery from its queue.
    pub(super) fn dequeue<S>(
        &mut self,
        shared: &SpoolState<S>,
        queue: &QueueName,
        place: &QueuePosition,
        entry: &QueueEntry,
    ) {
        let id = self.id_of(shared, &queue.route);
        self.remove(keys::queue(id, queue.priority, place));
        self.moves.push(QueueMove {
            line: (id, queue.priority),
            place: *place,
            tried: entry.tried,
            account: entry.account,
            comes: false,
        });
    }

    fn id_of<S>(&mut self, shared: &SpoolState<S>, route: &Route) -> QueueId {
        let ids = shared.ids.read();
        if let Some(id) = ids
            .id(route)
            .or_else(|| self.new_queues.get(route).copied())
        {
            return id;
        }
        let id = ids.next(self.new_queues.len());
        drop(ids);
        self.put(keys::route(id), route.as_str().as_bytes().to_vec());
        self.new_queues.insert(route.clone(), id);
        id
    }

    /// Completes the batch with timers, counts, totals and the journal's record, and updates the
    /// counts in memory. Returns the batch, and what the journal publishes once it is on disk.
    pub(super) fn seal<S: Store>(
        mut self,
        shared: &SpoolState<S>,
        totals: &mut Totals,
    ) -> (Batch, Vec<Arc<JournalRecord>>) {
        if !self.new_queues.is_empty() {
            let mut ids = shared.ids.write();
            for (route, id) in self.new_queues.drain() {
                ids.insert(route, id);
            }
        }

        self.remove_stale_timers(&shared.store);
        for (at, timers) in &self.timers {
            for timers in timers.chunks(TIMERS) {
                let (key, value) = keys::timers(*at, timers);
                self.batch.push((key, Some(value)));
            }
        }

        let mut backlog = shared.backlog.lock();
        let mut lines = BTreeSet::new();
        let mut accounts = BTreeSet::new();
        for step in &self.moves {
            backlog.apply(step);
            lines.insert(step.line);
            accounts.insert(step.account);
            let pending = &mut totals.pending[step.line.1.index()];
            *pending = pending.saturating_add_signed(if step.comes { 1 } else { -1 });
        }

        for line in lines {
            let count = codec::encode(&backlog.of(&line));
            self.batch.push((keys::count(line.0, line.1), Some(count)));
        }

        for (account, day, count) in self.accepted {
            backlog.accepted(account, day, count);
            accounts.insert(account);
        }

        for account in accounts.into_iter().filter(|account| *account != 0) {
            let counted = backlog.of_account(account).to_bytes();
            self.batch.push((keys::account(account), Some(counted)));
        }

        drop(backlog);

        self.batch
            .push((keys::TOTALS.to_vec(), Some(codec::encode(totals))));
        let records = shared.journal.seal(self.entries, &mut self.batch);

        if shared.journal.is_full() {
            shared.changed.notify_one();
        }
        (self.batch, records)
    }

    /// Rewrites the keys of stale timers without these. A timer that cannot be read stays: when it
    /// is due, nothing is left to handle.
    fn remove_stale_timers<S: Store>(&mut self, store: &S) {
        if self.stale_timers.is_empty() {
            return;
        }

        // A sweep has removed the keys that are due now, and sets what it has not handled anew.
        let is_timer = |key: &Vec<u8>| key.first() == Some(&b't');
        let removed: HashSet<Vec<u8>> = self
            .batch
            .iter()
            .filter(|(key, value)| value.is_none() && is_timer(key))
            .map(|(key, _)| key.clone())
            .collect();

        let mut rewritten = Vec::new();
        for (at, stale) in std::mem::take(&mut self.stale_timers) {
            let (from, to) = keys::timers_at(at);
            let _ = store.walk(&from, &to, Direction::Up, &mut |key, value| {
                let mut timers = keys::read_timers(key, value);
                let count = timers.len();
                timers.retain(|timer| !stale.contains(timer));
                if timers.len() < count && !removed.contains(key) {
                    let rest = (!timers.is_empty()).then(|| keys::timers_value(&timers));
                    rewritten.push((key.to_vec(), rest));
                }
                ControlFlow::Continue(())
            });
        }
        self.batch.append(&mut rewritten);
    }
}

/// The size of a batch in bytes, as it counts in a commit.
pub(super) fn weight(batch: &[(Vec<u8>, Option<Vec<u8>>)]) -> usize {
    batch
        .iter()
        .map(|(key, value)| key.len() + value.as_ref().map_or(0, Vec::len) + KEY_BYTES)
        .sum()
}

/// Splits changes of deliveries into steps of about [`STEP_BYTES`].
pub(super) fn in_steps<T>(changes: Vec<T>, weight: impl Fn(&T) -> usize) -> Vec<Vec<T>> {
    let mut steps = vec![Vec::new()];
    let mut weighed = 0;
    for change in changes {
        if weighed >= STEP_BYTES {
            steps.push(Vec::new());
            weighed = 0;
        }
        weighed += weight(&change) + INDEX_BYTES;
        if let Some(step) = steps.last_mut() {
            step.push(change);
        }
    }

    steps
}

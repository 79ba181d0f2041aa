//! Deletes events that are older than `keep` or beyond `max_size`; on the writer's thread, in
//! bounded steps.

use std::ops::ControlFlow;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::entry::{self, RecordHead};
use super::{JournalState, OldestRecord, reading};
use crate::mail::Timestamp;
use crate::spool::SpoolError;
use crate::spool::keyed::keys;
use crate::spool::keyed::write_transaction::WriteTransaction;
use crate::spool::store::{Direction, Store};

/// The most records that one step deletes.
const STEP_RECORDS: usize = 512;
/// When to check again records that a reader has not read.
const HELD_RECHECK: Duration = Duration::from_secs(60);

/// Whether a record is deleted, and why not.
#[derive(Clone, Copy, PartialEq, Eq)]
enum RecordFate {
    Stays,
    /// It would be deleted, but a reader has not read it.
    IsHeld,
    Goes,
}

impl JournalState {
    fn judge(&self, last: u64, head: &RecordHead, now: Timestamp) -> RecordFate {
        let state = self.state.lock();
        let newer = state.written.saturating_sub(head.before);
        let is_beyond = |keep: Duration, size: u64| head.at + keep <= now || newer > size;

        // Deletes a little more than needed, so that not every commit requires a step.
        let size = self.options.max_size - self.options.max_size / 16;
        let twice = (self.options.keep.saturating_mul(2), size.saturating_mul(2));

        let is_unread = state.readers.values().any(|reader| reader.at < last);
        // The last record stays: it says which number comes next.
        if last + 1 + state.skipped >= state.next || !is_beyond(self.options.keep, size) {
            RecordFate::Stays
        } else if is_unread && !is_beyond(twice.0, twice.1) {
            RecordFate::IsHeld
        } else {
            RecordFate::Goes
        }
    }

    /// Removes deleted events from memory, up to this number.
    fn forget_recent(&self, last: u64) {
        let mut recent = self.recent.lock();
        while let Some(front) = recent.records.front()
            && front.last() <= last
        {
            recent.bytes -= front.bytes.len();
            recent.records.pop_front();
        }
    }

    /// Counts the events that readers will not find.
    fn count_missed(&self, first: u64, last: u64) {
        for (name, reader) in &mut self.state.lock().readers {
            let from = reader.at.max(first.saturating_sub(1));
            if from >= last {
                continue;
            }
            if reader.missed == 0 {
                tracing::error!(
                    reader = name,
                    "a reader of the journal is so far behind that events are gone before it read \
                     them"
                );
            }
            reader.missed += last - from;
        }
    }
}

/// Deletes some records that are too old or too many; returns whether there are more.
pub(in crate::spool::keyed) fn prune<S: Store>(
    transaction: &mut WriteTransaction<'_, S>,
    now: Timestamp,
) -> Result<bool, SpoolError> {
    let shared = transaction.shared;
    let journal = &shared.journal;
    if !journal.is_due(now) {
        return Ok(false);
    }

    let (from, to) = keys::starting_with(keys::JOURNAL);
    let mut gone = Vec::new();
    let mut verdict = RecordFate::Stays;
    shared
        .store
        .walk(&from, &to, Direction::Up, &mut |key, value| {
            if gone.len() >= STEP_RECORDS {
                verdict = RecordFate::Goes;
                return ControlFlow::Break(());
            }
            let read = keys::read_journal(key).zip(entry::head(value).ok());
            let Some((first, head)) = read else {
                // A record that cannot be read is deleted with its neighbours.
                gone.push((key.to_vec(), None));
                return ControlFlow::Continue(());
            };
            let last = first + u64::from(head.events) - 1;
            verdict = journal.judge(last, &head, now);
            if verdict != RecordFate::Goes {
                return ControlFlow::Break(());
            }
            gone.push((key.to_vec(), Some((first, last, head.has_acts))));
            ControlFlow::Continue(())
        })?;

    let readable = gone.iter().rposition(|(_, read)| read.is_some());
    gone.truncate(readable.map_or(0, |at| at + 1));
    for (key, read) in &gone {
        transaction.changes.remove(key.clone());
        if let Some((first, _, true)) = read {
            transaction.changes.remove(keys::acts(*first));
        }
    }

    transaction.commit()?;
    for (first, last, _) in gone.iter().filter_map(|(_, read)| *read) {
        journal.count_missed(first, last);
        journal.forget_recent(last);
    }

    let oldest = reading::first_record(&shared.store)?;
    let oldest = oldest.map(|(_, head)| OldestRecord::of(&head));
    journal.state.lock().oldest = oldest;

    let held = (verdict == RecordFate::IsHeld).then_some(now + HELD_RECHECK);
    let held_until = held.map_or(i64::MIN, Timestamp::as_millis);
    journal.held_until.store(held_until, Ordering::Relaxed);

    let is_too_old = oldest.is_some_and(|oldest| oldest.at + journal.options.keep <= now);
    if verdict == RecordFate::Stays && is_too_old {
        // It stays only because it is the last, and is deleted once another follows.
        journal.due.store(i64::MAX, Ordering::Relaxed);
    } else {
        journal.plan(held);
    }
    Ok(verdict == RecordFate::Goes)
}

//! The change of one delivery, as changes of keys: its record, its position in a queue, the
//! indices, the timers and the totals.

use super::SpoolState;
use super::changes::Changes;
use super::journal::entry::JournalEntry;
use super::keys::{self, QueuePosition, Timer};
use super::queue_head::QueueEntry;
use super::queues::QueueName;
use crate::delivery::{Delivery, Stage};
use crate::mail::Priority;
use crate::spool::Manifest;
use crate::spool::codec::Totals;
use crate::spool::store::Store;

/// A delivery's change from its old position in a queue to its new state.
pub(super) struct Transition<'a> {
    pub queue: &'a QueueName,
    pub old: QueuePosition,
    pub entry: &'a QueueEntry,
    pub delivery: &'a Delivery,
}

/// The position at which a delivery is queued.
pub(super) type QueuePlace = (QueueName, QueuePosition, QueueEntry);

impl Transition<'_> {
    /// Adds the change to a commit and updates the totals of finished deliveries. Returns the
    /// delivery's new position if it is queued.
    pub(super) fn write<S: Store>(
        &self,
        changes: &mut Changes,
        bytes: Vec<u8>,
        totals: &mut Totals,
        shared: &SpoolState<S>,
    ) -> Option<QueuePlace> {
        let QueuePosition { mail, index, .. } = self.old;
        let priority = self.queue.priority;
        changes.put(keys::delivery(mail, index), bytes);
        changes.dequeue(shared, self.queue, &self.old, self.entry);

        if let Some(due) = self.delivery.stage.due() {
            let place = QueuePosition { due, ..self.old };
            let queue = QueueName {
                route: self.delivery.route.clone(),
                priority,
            };
            let entry = QueueEntry {
                fresh: None,
                tried: self.delivery.tries > 0,
                ..self.entry.clone()
            };
            changes.enqueue(shared, &queue, &place, &entry);
            return Some((queue, place, entry));
        }

        count_finished(totals, &self.delivery.stage, priority, 1);
        if let Some(key) = keys::finished(&self.delivery.stage, mail, index) {
            changes.put(key, Vec::new());
        }

        // A sweep handles the mail when it expires, and plans its deletion then. A timer of its own
        // is needed only if the mail or its message must be deleted before that.
        let options = &shared.options;
        let kept = match self.delivery.stage {
            Stage::Delivered { .. } => options.retention.min(options.keep_bodies),
            _ => options.retention,
        };

        let gone_at = self.delivery.stage.finished_at().map(|at| at + kept);
        if let Some(at) = gone_at.filter(|at| *at < self.entry.expires_at) {
            changes.set_timer(shared, at, Timer::Mail(mail));
        }
        None
    }
}

/// A delivery of a new mail that is dead when it is accepted, for instance because its recipient is
/// suppressed.
pub(super) struct EndedAtAccept<'a> {
    pub manifest: &'a Manifest,
    pub index: u16,
    pub delivery: &'a Delivery,
}

impl EndedAtAccept<'_> {
    /// Counts it, adds its journal entry, and sets the timer for the mail's deletion. Its record is
    /// part of the mail's.
    pub(super) fn write<S: Store>(
        &self,
        changes: &mut Changes,
        totals: &mut Totals,
        shared: &SpoolState<S>,
    ) {
        let EndedAtAccept {
            manifest,
            index,
            delivery,
        } = *self;

        count_finished(totals, &delivery.stage, manifest.priority, 1);
        if let Some(key) = keys::finished(&delivery.stage, manifest.id, index) {
            changes.put(key, Vec::new());
        }

        let at = delivery.stage.finished_at();
        let at = at.unwrap_or(manifest.accepted_at);
        changes.add_entry(JournalEntry::became(
            manifest.id,
            Some(manifest),
            delivery,
            false,
            at,
        ));

        let prune_at = at + shared.options.retention;
        if prune_at < manifest.expires_at {
            changes.set_timer(shared, prune_at, Timer::Mail(manifest.id));
        }
    }
}

/// Adds `by` to the total of finished deliveries that this one counts in.
pub(super) fn count_finished(totals: &mut Totals, stage: &Stage, priority: Priority, by: i64) {
    let kind = match stage {
        Stage::Delivered { .. } => 0,
        Stage::Dead { .. } => 1,
        Stage::Cancelled { .. } => 2,
        _ => return,
    };
    let total = &mut totals.finished[kind][priority.index()];
    *total = total.saturating_add_signed(by);
}

//! One delivery's step, as the keys that it changes: its record, its place in a queue, the indices,
//! the timers and the totals.

use super::Shared;
use super::keys::{self, Place, Timer};
use super::queue_head::Entry;
use super::queues::QueueName;
use crate::delivery::{Delivery, Stage};
use crate::mail::Priority;
use crate::spool::codec::Totals;
use crate::spool::store::{Batch, Store};

/// One delivery's step from its old place in a queue to what it is now.
pub(super) struct Transition<'a> {
    pub queue: &'a QueueName,
    pub old: Place,
    pub entry: &'a Entry,
    pub delivery: &'a Delivery,
}

/// Where a delivery waits now.
pub(super) type Waiting = (QueueName, Place, Entry);

impl Transition<'_> {
    /// Adds the step to a batch, and keeps the totals in step. Returns where the delivery waits
    /// now, if it does.
    pub(super) fn write<S: Store>(
        &self,
        batch: &mut Batch,
        bytes: Vec<u8>,
        totals: &mut Totals,
        shared: &Shared<S>,
    ) -> Option<Waiting> {
        let Place { mail, index, .. } = self.old;
        let priority = self.queue.priority;
        batch.push((keys::delivery(mail, index), Some(bytes)));
        batch.push((keys::queue(&self.queue.route, priority, &self.old), None));
        if let Some(due) = self.delivery.stage.due() {
            let place = Place { due, ..self.old };
            let route = self.delivery.route.clone();
            let entry = Entry {
                fresh: None,
                tried: self.delivery.tries > 0,
                ..self.entry.clone()
            };
            batch.push((
                keys::queue(&route, priority, &place),
                Some(entry.to_bytes()),
            ));
            return Some((QueueName { route, priority }, place, entry));
        }
        count_finished(totals, &self.delivery.stage, priority, 1);
        totals.pending[priority.index()] = totals.pending[priority.index()].saturating_sub(1);
        if let Some(key) = keys::finished(&self.delivery.stage, mail, index) {
            batch.push((key, Some(Vec::new())));
        }
        // The mail is looked at when it expires, and its pruning planned then; unless it should be
        // gone by then.
        let prune_at = self
            .delivery
            .stage
            .finished_at()
            .map(|at| at + shared.options.retention);
        if let Some(at) = prune_at.filter(|at| *at < self.entry.expires_at) {
            shared.set_timers(batch, at, &[Timer::Mail(mail)]);
        }
        None
    }
}

/// Adds `by` to, or takes it from, the total that a finished delivery counts in.
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

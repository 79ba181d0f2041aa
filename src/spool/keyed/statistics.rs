//! Counts the mail by state, with the due time of the oldest that waits.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::Ordering;

use super::SpoolState;
use super::keys::{self, QueueId, QueuePosition, Slot};
use super::queues::QueueName;
use super::reader::first_of;
use crate::delivery::{Route, State};
use crate::mail::{Priority, Timestamp};
use crate::spool::store::Store;
use crate::spool::{SpoolError, SpoolStats};

/// The statistics. Waiting deliveries are counted as they come and go; those that senders hold are
/// subtracted.
pub(super) fn stats<S: Store>(shared: &SpoolState<S>) -> Result<SpoolStats, SpoolError> {
    let mut stats = SpoolStats {
        bytes: shared.store.bytes(),
        ..SpoolStats::default()
    };

    stats.stale_settles = shared.stale.load(Ordering::Relaxed);
    let totals = shared.totals.lock().clone();
    stats.quarantined = totals.quarantined;
    for (kind, state) in [State::Delivered, State::Dead, State::Cancelled]
        .into_iter()
        .enumerate()
    {
        for priority in Priority::ALL {
            let ended = totals.finished[kind][priority.index()];
            stats.counts.add(state, priority, ended);
        }
    }

    let leased: Vec<(QueueName, QueuePosition, bool)> = shared
        .queues
        .lock()
        .leases()
        .map(|leased| (leased.queue.clone(), leased.place, leased.entry.tried))
        .collect();

    let mut waiting = Vec::new();
    {
        let ids = shared.ids.read();
        let backlog = shared.backlog.lock();
        let counts = &mut stats.counts;
        for ((id, priority), count) in backlog.all().filter(|(_, count)| count.pending > 0) {
            let tried_later = count.tried.saturating_sub(count.ripe_tried);
            let later = count.pending.saturating_sub(count.ripe);
            let untried_later = later.saturating_sub(tried_later);
            counts.add(State::Queued, priority, count.ripe);
            counts.add(State::Deferred, priority, tried_later);
            counts.add(State::Scheduled, priority, untried_later);
            waiting.push((id, priority));
        }

        // Deliveries that senders hold are counted as being sent, and not as waiting.
        for (queue, place, tried) in &leased {
            let Some(id) = ids.id(&queue.route) else {
                continue;
            };
            let waits = match backlog.of(&(id, queue.priority)).is_ripe(place) {
                true => State::Queued,
                false if *tried => State::Deferred,
                false => State::Scheduled,
            };
            counts.move_one(queue.priority, waits, State::Sending);
        }
    }

    stats.backlog = backlog(shared);
    let slots: HashSet<Slot> = leased.iter().map(|(_, place, _)| place.slot()).collect();
    for (id, priority) in waiting {
        // If the disk cannot be read now, the numbers stay as they were known.
        let first = first_waiting(shared, id, priority, &slots).unwrap_or_else(|error| {
            tracing::debug!(%error, "since when the oldest waits is not known now");
            None
        });
        stats.oldest_due = match (stats.oldest_due, first) {
            (Some(oldest), Some(first)) => Some(oldest.min(first)),
            (oldest, first) => oldest.or(first),
        };
    }

    Ok(stats)
}

/// How many deliveries are pending on each route.
pub(super) fn backlog<S: Store>(shared: &SpoolState<S>) -> Vec<(Route, u64)> {
    let ids = shared.ids.read();
    let mut by_route: BTreeMap<Route, u64> = BTreeMap::new();
    for ((id, _), count) in shared.backlog.lock().all() {
        if count.pending > 0
            && let Some(route) = ids.route(id)
        {
            *by_route.entry(route.clone()).or_default() += count.pending;
        }
    }
    by_route.into_iter().collect()
}

/// The due time of the first delivery of a queue that no sender holds.
fn first_waiting<S: Store>(
    shared: &SpoolState<S>,
    id: QueueId,
    priority: Priority,
    leased: &HashSet<Slot>,
) -> Result<Option<Timestamp>, SpoolError> {
    let prefix = keys::queue_prefix(id, priority);
    first_of(&shared.store, &prefix, |key| {
        keys::read_queue(key)
            .map(|read| read.place)
            .filter(|place| !leased.contains(&place.slot()))
            .map(|place| place.due)
    })
}

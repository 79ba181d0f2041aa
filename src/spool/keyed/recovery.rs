//! Brings a spool into order when it is opened, before it is used.

use std::ops::ControlFlow;

use super::SpoolState;
use super::backlog::{self, QueueCount};
use super::keys::{self, QueueId, Timer};
use super::large_mail;
use super::queue_head::QueueEntry;
use super::queues::QueueName;
use super::reader::{self};
use super::write_transaction::WriteTransaction;
use crate::delivery::{DeadReason, Route, Stage};
use crate::mail::{Priority, Timestamp};
use crate::spool::SpoolError;
use crate::spool::codec;
use crate::spool::store::{Direction, Store};

/// How many queued deliveries of an older version are moved in one step.
const STEP_DELIVERIES: usize = 1000;

/// Reads which queues there are and how many deliveries each contains. Queues in an older version's
/// format are moved first.
pub(super) fn name_queues<S: Store>(
    transaction: &mut WriteTransaction<'_, S>,
) -> Result<(), SpoolError> {
    let shared = transaction.shared;
    let mut named: Vec<(QueueId, Route)> = reader::routes(&shared.store)?;
    named.extend(unnamed_queues(&shared.store, &named)?);
    for (id, route) in named {
        let is_empty = reader::all_keys(&shared.store, &keys::route_prefix(id), 1)?.is_empty();
        if is_empty {
            transaction.changes.remove(keys::route(id));
            for priority in Priority::ALL {
                transaction.changes.remove(keys::count(id, priority));
            }

            if transaction.is_full() {
                transaction.commit()?;
            }
            continue;
        }
        shared.ids.write().insert(route, id);
        for priority in Priority::ALL {
            let line = (id, priority);
            let count = shared.store.get(&keys::count(id, priority))?;
            let count = match count.map(|bytes| codec::decode::<QueueCount>(&bytes)) {
                Some(Ok(count)) => count,
                _ => backlog::recount(&shared.store, line)?,
            };
            shared.backlog.lock().set(line, count);
        }
    }

    read_accounts(shared)?;
    transaction.commit()?;
    move_old_queues(transaction)
}

/// Reads how many pending deliveries each token and user has submitted.
fn read_accounts<S: Store>(shared: &SpoolState<S>) -> Result<(), SpoolError> {
    let mut backlog = shared.backlog.lock();
    backlog::accounts(&shared.store, &mut |name, account| {
        backlog.set_account(name, account);
    })
}

/// Queues whose route is missing: the route is taken from their deliveries.
fn unnamed_queues<S: Store>(
    store: &S,
    named: &[(QueueId, Route)],
) -> Result<Vec<(QueueId, Route)>, SpoolError> {
    let mut found = Vec::new();
    let (mut from, to) = keys::starting_with(b"u");

    loop {
        let mut first = None;
        store.walk(&from, &to, Direction::Up, &mut |key, _| {
            first = Some(key.to_vec());
            ControlFlow::Break(())
        })?;
        let Some(key) = first else { return Ok(found) };
        let Some(read) = keys::read_queue(&key) else {
            from = [&key[..], &[0]].concat();
            continue;
        };
        let place = read.place;
        if named.iter().any(|(id, _)| *id == read.id) {
            from = keys::starting_with(&keys::route_prefix(read.id)).1;
        } else if let Some(Ok(delivery)) = reader::delivery(store, place.mail, place.index)? {
            from = keys::starting_with(&keys::route_prefix(read.id)).1;
            found.push((read.id, delivery.route));
        } else {
            from = [&key[..], &[0]].concat();
        }
    }
}

fn move_old_queues<S: Store>(transaction: &mut WriteTransaction<'_, S>) -> Result<(), SpoolError> {
    let (mut from, to) = keys::starting_with(b"q");
    loop {
        let mut old = Vec::with_capacity(STEP_DELIVERIES);
        let walk = &mut |key: &[u8], value: &[u8]| {
            old.push((key.to_vec(), QueueEntry::from_bytes(value)));
            if old.len() < STEP_DELIVERIES {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        };

        transaction
            .shared
            .store
            .walk(&from, &to, Direction::Up, walk)?;
        let Some((last, _)) = old.last() else {
            return Ok(());
        };
        from = [&last[..], &[0]].concat();

        for (key, entry) in old {
            let (Some(read), Some(entry)) = (keys::read_old_queue(&key), entry) else {
                continue;
            };
            let queue = QueueName {
                route: read.route,
                priority: read.priority,
            };
            // The totals already count it as pending.
            let pending = &mut transaction.totals.pending[read.priority.index()];
            *pending = pending.saturating_sub(1);
            transaction.changes.remove(key);
            let shared = transaction.shared;
            transaction
                .changes
                .enqueue(shared, &queue, &read.place, &entry);
            if transaction.is_full() {
                transaction.commit()?;
            }
        }
        transaction.commit()?;
    }
}

/// Completes what a stop has interrupted: removes messages that were being written and whose mail
/// was never accepted, queues the remaining recipients of large mails, and ends at-most-once
/// deliveries that may have been sent.
pub(super) fn recover<S: Store>(
    transaction: &mut WriteTransaction<'_, S>,
) -> Result<(), SpoolError> {
    for key in reader::all_keys(&transaction.shared.store, b"w", usize::MAX)? {
        let Some(mail) = keys::mail_of(&key) else {
            continue;
        };
        transaction.set_timer(Timestamp::from_millis(0), Timer::Chunks(mail));
        transaction.changes.remove(key);
        if transaction.is_full() {
            transaction.commit()?;
        }
    }

    transaction.commit()?;
    for key in reader::all_keys(&transaction.shared.store, b"e", usize::MAX)? {
        if let Some(mail) = keys::mail_of(&key) {
            large_mail::queue_recipients(transaction, mail)?;
        }
    }

    for key in reader::all_keys(&transaction.shared.store, b"a", usize::MAX)? {
        let Some(mail) = keys::mail_of(&key) else {
            continue;
        };
        let index = keys::index_of(&key);
        transaction.changes.remove(key);
        let Ok(Some(manifest)) = reader::manifest(&transaction.shared.store, mail) else {
            continue;
        };
        let delivery = reader::delivery(&transaction.shared.store, mail, index)?;
        let Some(Ok(mut delivery)) = delivery else {
            continue;
        };
        if matches!(delivery.stage, Stage::Committing { .. })
            && transaction.seize(&manifest, index, &delivery)
        {
            delivery.stage = Stage::Dead {
                at: Timestamp::now(),
                reason: DeadReason::InDoubt,
            };
            transaction.step_seized(&delivery);
            transaction.add_outcome_entry(&manifest, &delivery, Timestamp::now());
            transaction.report_end(mail, delivery.recipient, DeadReason::InDoubt);
        }
        if transaction.is_full() {
            transaction.commit()?;
        }
    }

    transaction.commit()
}

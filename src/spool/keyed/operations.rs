//! What users do to mail (cancel, retry, purge), and what a reload does (reroute). Each function
//! runs on the writer's thread and is one bounded step, committed as a whole or not at all; longer
//! operations consist of several steps.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::time::Duration;

use super::changes::STEP_BYTES;
use super::claim_reads::BrokenPlaces;
use super::journal::entry::JournalEntry;
use super::keys::{self, QueuePosition, Timer};
use super::queues::QueueName;
use super::reader::{self, StoredMailState};
use super::stored_mail::{self, StoredMail};
use super::transition::count_finished;
use super::write_transaction::WriteTransaction;
use crate::delivery::{DeadReason, Delivery, Requester, Route, Stage};
use crate::mail::{MailId, Timestamp};
use crate::spool::codec;
use crate::spool::store::{Direction, Store};
use crate::spool::{OperationResult, SpoolError, SpoolOptions};

/// How many deliveries one step of rerouting moves.
const REROUTE_STEP: usize = 500;

/// How many records of a mail one step removes. sled rewrites each leaf from which keys are
/// removed.
const REMOVED_KEYS: usize = 512;

/// How many times are looked at to find the timers of one mail.
const MOST_TIMER_TIMES: usize = 256;

/// The result of one step, and the delivery at which the next one begins.
pub(super) type StepResult<T> = (T, Option<u16>);

/// Cancels deliveries, from index `from` on.
pub(super) fn cancel<S: Store>(
    transaction: &mut WriteTransaction<'_, S>,
    by: &Requester,
    id: MailId,
    now: Timestamp,
    from: u16,
) -> Result<StepResult<OperationResult>, SpoolError> {
    let Some((
        StoredMailState {
            mail, deliveries, ..
        },
        next,
    )) = reader::some_of(&transaction.shared.store, id, from, STEP_BYTES)?
    else {
        return Ok((OperationResult::Unknown, None));
    };

    let mut cancelled = Vec::new();
    for (index, delivery) in deliveries {
        if transaction.seize(&mail.manifest, index, &delivery) {
            let ended = transaction.end_seized(delivery, Stage::Cancelled { at: now }, now);
            let became = JournalEntry::became(id, Some(&mail.manifest), &ended, false, now);
            transaction.changes.add_entry(became.by(by));
            match ended.stage {
                Stage::Dead { reason, .. } => transaction.report_end(id, ended.recipient, reason),
                _ => cancelled.push(ended.recipient),
            }
        }
    }

    if !cancelled.is_empty() {
        add_act_entry(transaction, "cancel", by, id, now, from);
    }
    Ok((OperationResult::of(cancelled), next))
}

/// Which deliveries a retry queues again.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum RetryScope {
    Dead,
    /// Only cancelled deliveries, if none is dead: a user who retries dead letters does not mean
    /// the deliveries that were cancelled.
    Cancelled,
    None,
}

impl RetryScope {
    fn includes(self, stage: &Stage) -> bool {
        match stage {
            Stage::Dead { .. } => self == RetryScope::Dead,
            Stage::Cancelled { .. } => self == RetryScope::Cancelled,
            _ => false,
        }
    }
}

/// Begins a retry: prolongs the mail's expiry if a delivery will be queued again. `None` if there
/// is no such mail.
pub(super) fn begin_retry<S: Store>(
    transaction: &mut WriteTransaction<'_, S>,
    id: MailId,
    now: Timestamp,
    lifetime: Duration,
) -> Result<Option<RetryScope>, SpoolError> {
    let Some(StoredMailState {
        mut mail,
        deliveries,
        ..
    }) = reader::whole(&transaction.shared.store, id)?
    else {
        return Ok(None);
    };

    let any = |revived: RetryScope| {
        deliveries
            .values()
            .any(|delivery| revived.includes(&delivery.stage))
    };

    let revived = if any(RetryScope::Dead) {
        RetryScope::Dead
    } else if any(RetryScope::Cancelled) {
        RetryScope::Cancelled
    } else if mail.is_forgotten() {
        return Err(SpoolError::Forgotten(id));
    } else {
        return Ok(Some(RetryScope::None));
    };

    mail.manifest.expires_at = mail.manifest.expires_at.max(now + lifetime);
    transaction.changes.put(keys::manifest(id), mail.to_bytes());
    transaction.set_timer(mail.manifest.expires_at, Timer::Mail(id));

    let mut queues = transaction.shared.queues.lock();
    for (index, delivery) in &deliveries {
        let Some(due) = delivery.stage.due() else {
            continue;
        };
        let queue = QueueName {
            route: delivery.route.clone(),
            priority: mail.manifest.priority,
        };
        queues.outdate(
            &queue,
            &QueuePosition {
                due,
                mail: id,
                index: *index,
            },
        );
    }

    Ok(Some(revived))
}

/// Queues deliveries again, from index `from` on.
pub(super) fn retry<S: Store>(
    transaction: &mut WriteTransaction<'_, S>,
    by: &Requester,
    (id, now): (MailId, Timestamp),
    revived: RetryScope,
    from: u16,
) -> Result<StepResult<OperationResult>, SpoolError> {
    let Some((
        StoredMailState {
            mail, deliveries, ..
        },
        next,
    )) = reader::some_of(&transaction.shared.store, id, from, STEP_BYTES)?
    else {
        return Ok((OperationResult::Unknown, None));
    };

    let manifest = mail.manifest;
    let mut retried = Vec::new();
    for (index, mut delivery) in deliveries {
        match delivery.stage {
            stage if revived.includes(&stage) => {
                count_finished(&mut transaction.totals, &stage, manifest.priority, -1);
                if let Some(key) = keys::finished(&stage, id, index) {
                    transaction.changes.remove(key);
                }
                delivery.stage = Stage::Pending { due: now };
                (delivery.tries, delivery.counted, delivery.crashes) = (0, 0, 0);
                transaction.enqueue_again(&manifest, index, &delivery);
                let happened = JournalEntry::retried(&manifest, &delivery.recipient, now);
                transaction.changes.add_entry(happened.by(by));
                retried.push(delivery.recipient);
            }
            Stage::Pending { due }
                if due > now && transaction.seize(&manifest, index, &delivery) =>
            {
                delivery.stage = Stage::Pending { due: now };
                transaction.step_seized(&delivery);
                let happened = JournalEntry::retried(&manifest, &delivery.recipient, now);
                transaction.changes.add_entry(happened.by(by));
                retried.push(delivery.recipient);
            }
            _ => {}
        }
    }

    if !retried.is_empty() {
        add_act_entry(transaction, "retry", by, id, now, from);
    }
    Ok((OperationResult::of(retried), next))
}

/// Adds the journal entry of an operation on a mail: only in its first step.
fn add_act_entry<S: Store>(
    transaction: &mut WriteTransaction<'_, S>,
    act: &str,
    by: &Requester,
    id: MailId,
    now: Timestamp,
    from: u16,
) {
    if from == 0 && by.who.is_some() && !by.is_part {
        transaction
            .changes
            .add_entry(JournalEntry::act(act, id, now).by(by));
    }
}

pub(super) fn purge<S: Store>(
    transaction: &mut WriteTransaction<'_, S>,
    by: &Requester,
    id: MailId,
    now: Timestamp,
) -> Result<OperationResult, SpoolError> {
    let Some(whole) = reader::whole(&transaction.shared.store, id)? else {
        return Ok(OperationResult::Unknown);
    };

    let (mail, deliveries) = (&whole.mail, &whole.deliveries);
    if whole.is_damaged {
        return Err(SpoolError::Unreadable(format!(
            "a delivery of mail {id} is damaged"
        )));
    }

    if deliveries
        .values()
        .any(|delivery| delivery.stage.finished_at().is_none())
    {
        return Ok(OperationResult::TooLate);
    }

    let recipients = deliveries
        .values()
        .map(|delivery| delivery.recipient.clone())
        .collect();

    let purged = JournalEntry::purged(&mail.manifest, now);
    transaction.changes.add_entry(purged.by(by));
    add_act_entry(transaction, "purge", by, id, now, 0);
    remove_mail(transaction, &whole)?;
    Ok(OperationResult::Done(recipients))
}

/// Removes a mail. Records beyond one step are removed by later sweeps; they belong to no mail
/// meanwhile.
pub(super) fn remove_mail<S: Store>(
    transaction: &mut WriteTransaction<'_, S>,
    whole: &StoredMailState,
) -> Result<(), SpoolError> {
    let StoredMailState {
        mail, deliveries, ..
    } = whole;
    let manifest = &mail.manifest;
    let id = manifest.id;

    transaction
        .totals
        .remove_mail(manifest, mail.is_forgotten());
    for (index, delivery) in deliveries {
        count_finished(
            &mut transaction.totals,
            &delivery.stage,
            manifest.priority,
            -1,
        );
        // So few are part of the mail's record, and have no records of their own from which to find
        // their index keys.
        if deliveries.len() <= stored_mail::INLINE_DELIVERIES
            && let Some(key) = keys::finished(&delivery.stage, id, *index)
        {
            transaction.changes.remove(key);
        }
    }

    for at in timer_times(whole, &transaction.shared.options) {
        transaction.changes.remove_timer(at, Timer::Mail(id));
    }

    transaction.changes.remove(keys::manifest(id));
    if !remove_rest(transaction, id)? {
        transaction.set_timer(Timestamp::from_millis(0), Timer::Chunks(id));
    }
    Ok(())
}

/// The times at which the timers of a finished mail may be due: its expiry, and when its message
/// and its record were to be deleted. Not all of a mail with very many deliveries: those that stay
/// are ignored when they are due.
fn timer_times(whole: &StoredMailState, options: &SpoolOptions) -> BTreeSet<Timestamp> {
    let finished = whole.deliveries.values();
    let finished = finished.filter_map(|delivery| delivery.stage.finished_at());
    let spans = [options.retention, options.keep_bodies];

    let deleted = finished.flat_map(|at| spans.map(|span| at + span));
    let mut times: BTreeSet<Timestamp> = deleted.take(MOST_TIMER_TIMES).collect();
    times.insert(whole.mail.manifest.expires_at);
    times
}

/// Removes the remaining records of a removed mail, as many as one step may. Returns whether none
/// is left.
pub(super) fn remove_rest<S: Store>(
    transaction: &mut WriteTransaction<'_, S>,
    id: MailId,
) -> Result<bool, SpoolError> {
    let ranges = [
        keys::deliveries(id),
        keys::chunks(id),
        keys::feedback_of(id),
    ];
    remove_keys(transaction, id, &ranges)
}

/// Replaces a mail's message by the mark for a deleted one. Chunks beyond one step are removed by
/// later sweeps.
pub(super) fn forget_body<S: Store>(
    transaction: &mut WriteTransaction<'_, S>,
    mut mail: StoredMail,
) -> Result<(), SpoolError> {
    let id = mail.manifest.id;
    mail.forget();
    transaction.totals.forget_message(&mail.manifest);
    transaction.changes.put(keys::manifest(id), mail.to_bytes());
    if !remove_chunks(transaction, id)? {
        transaction.set_timer(Timestamp::from_millis(0), Timer::Chunks(id));
    }
    Ok(())
}

/// Removes the remaining chunks of a deleted message, as many as one step may. Returns whether none
/// is left.
pub(super) fn remove_chunks<S: Store>(
    transaction: &mut WriteTransaction<'_, S>,
    id: MailId,
) -> Result<bool, SpoolError> {
    remove_keys(transaction, id, &[keys::chunks(id)])
}

fn remove_keys<S: Store>(
    transaction: &mut WriteTransaction<'_, S>,
    id: MailId,
    ranges: &[(Vec<u8>, Vec<u8>)],
) -> Result<bool, SpoolError> {
    let mut left = REMOVED_KEYS;
    let WriteTransaction {
        shared, changes, ..
    } = transaction;

    for (from, to) in ranges {
        let mut remove = |key: &[u8], value: &[u8]| {
            if left == 0 {
                return ControlFlow::Break(());
            }
            left -= 1;
            if key[0] == b'd'
                && let Ok(delivery) = codec::decode::<Delivery>(value)
                && let Some(key) = keys::finished(&delivery.stage, id, keys::index_of(key))
            {
                changes.remove(key);
            }
            changes.remove(key.to_vec());
            ControlFlow::Continue(())
        };
        shared.store.walk(from, to, Direction::Up, &mut remove)?;
    }

    Ok(left > 0)
}

/// Moves pending deliveries of routes that no longer exist.
pub(super) fn reroute<S: Store>(
    transaction: &mut WriteTransaction<'_, S>,
    unknown: &[Route],
    fallback: &Route,
) -> Result<usize, SpoolError> {
    let mut moved = 0;
    for route in unknown {
        let Some(id) = transaction.shared.ids.read().id(route) else {
            continue;
        };
        let (mut from, to) = keys::starting_with(&keys::route_prefix(id));
        // A delivery that cannot be moved now, because a sender has it or it cannot be read, must
        // not delay those after it.
        loop {
            let store = &transaction.shared.store;
            let places = reader::keys_between(store, (from.clone(), to.clone()), REROUTE_STEP)?;
            let Some(last) = places.last() else { break };
            from = [&last[..], &[0]].concat();
            for place in places.iter().filter_map(|key| keys::read_queue(key)) {
                if moved >= REROUTE_STEP || transaction.is_full() {
                    return Ok(moved);
                }
                moved += usize::from(move_to(transaction, place.place, fallback)?);
            }
        }
    }

    Ok(moved)
}

fn move_to<S: Store>(
    transaction: &mut WriteTransaction<'_, S>,
    place: QueuePosition,
    route: &Route,
) -> Result<bool, SpoolError> {
    let store = &transaction.shared.store;
    let read = reader::guarded(
        || {
            let manifest = reader::manifest(store, place.mail)?;
            let delivery = reader::delivery(store, place.mail, place.index)?;
            Ok(manifest.zip(delivery.and_then(Result::ok)))
        },
        || format!("mail {}", place.mail),
    );

    let (manifest, mut delivery) = match read {
        Ok(Some(read)) => read,
        Ok(None) | Err(SpoolError::Unreadable(_)) => return Ok(false),
        Err(error) => return Err(error),
    };

    if !transaction.seize(&manifest, place.index, &delivery) {
        return Ok(false);
    }
    delivery.route = route.clone();
    transaction.step_seized(&delivery);
    Ok(true)
}

/// Ends leased deliveries that cannot be sent, each mail in a commit of its own. Removes
/// from `broken` what has ended, so that the rest stays after an error.
pub(super) fn end_broken<S: Store>(
    transaction: &mut WriteTransaction<'_, S>,
    broken: &mut Vec<BrokenPlaces>,
    now: Timestamp,
) -> Result<(), SpoolError> {
    while let Some(BrokenPlaces {
        queue,
        leases,
        in_doubt,
    }) = broken.last()
    {
        let reason = if *in_doubt {
            DeadReason::InDoubt
        } else {
            DeadReason::Quarantined
        };
        for (_, place) in leases {
            if !in_doubt && reader::manifest(&transaction.shared.store, place.mail).is_err() {
                transaction.set_aside(keys::manifest(place.mail))?;
            }
            transaction.end(queue, *place, reason, now)?;
        }
        if !in_doubt {
            transaction.totals.quarantined += 1;
        }
        transaction.commit()?;

        let ended = broken.pop().into_iter().flat_map(|broken| broken.leases);
        let mut queues = transaction.shared.queues.lock();
        for (lease, _) in ended {
            queues.end(&lease.spend());
        }
    }

    Ok(())
}

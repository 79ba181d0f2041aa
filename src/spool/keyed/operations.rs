//! What users do to mail: cancel, retry, purge; and what a reload does: reroute. Each function runs
//! on the writer's thread, undisturbed, and what it adds to the batch is committed whole or not at all.

use std::collections::BTreeMap;
use std::time::Duration;

use super::keys::{self, Place, Timer};
use super::queues::QueueName;
use super::reader::{self, Broken, Whole};
use super::sweep;
use super::transition::count_finished;
use super::write_transaction::WriteTransaction;
use crate::delivery::{DeadReason, Delivery, Route, Stage};
use crate::mail::{MailId, Timestamp};
use crate::spool::store::Store;
use crate::spool::{Manifest, OperationResult, SpoolError};

/// How many deliveries one step of rerouting moves.
const REROUTE: usize = 500;

pub(super) fn cancel<S: Store>(
    transaction: &mut WriteTransaction<'_, S>,
    id: MailId,
    now: Timestamp,
) -> Result<OperationResult, SpoolError> {
    let Some(Whole {
        mail, deliveries, ..
    }) = reader::whole(&transaction.shared.store, id)?
    else {
        return Ok(OperationResult::Unknown);
    };
    let mut cancelled = Vec::new();
    for (index, delivery) in deliveries {
        if transaction.seize(&mail.manifest, index, &delivery) {
            let ended = transaction.end_seized(delivery, Stage::Cancelled { at: now }, now);
            match ended.stage {
                Stage::Dead { reason, .. } => transaction.tell_end(id, ended.recipient, reason),
                _ => cancelled.push(ended.recipient),
            }
        }
    }
    Ok(if cancelled.is_empty() {
        OperationResult::TooLate
    } else {
        OperationResult::Done(cancelled)
    })
}

pub(super) fn retry<S: Store>(
    transaction: &mut WriteTransaction<'_, S>,
    id: MailId,
    now: Timestamp,
    lifetime: Duration,
) -> Result<OperationResult, SpoolError> {
    let Some(Whole {
        mut mail,
        deliveries,
        ..
    }) = reader::whole(&transaction.shared.store, id)?
    else {
        return Ok(OperationResult::Unknown);
    };
    mail.manifest.expires_at = mail.manifest.expires_at.max(now + lifetime);
    let (record, manifest) = (mail.to_bytes(), mail.manifest);
    // A user who wants dead letters sent again has not changed his mind about what he cancelled
    // beside them.
    let any_dead = deliveries
        .values()
        .any(|delivery| matches!(delivery.stage, Stage::Dead { .. }));
    let is_revived = |stage: &Stage| match stage {
        Stage::Dead { .. } => true,
        Stage::Cancelled { .. } => !any_dead,
        _ => false,
    };
    if deliveries
        .values()
        .any(|delivery| is_revived(&delivery.stage))
    {
        transaction.batch.push((keys::manifest(id), Some(record)));
        transaction.set_timer(manifest.expires_at, Timer::Mail(id));
        for (index, delivery) in &deliveries {
            let Some(due) = delivery.stage.due() else {
                continue;
            };
            let queue = QueueName {
                route: delivery.route.clone(),
                priority: manifest.priority,
            };
            transaction.shared.queues.lock().outdate(
                &queue,
                &Place {
                    due,
                    mail: id,
                    index: *index,
                },
            );
        }
    }
    let mut retried = Vec::new();
    for (index, mut delivery) in deliveries {
        match delivery.stage {
            stage if is_revived(&stage) => {
                count_finished(
                    &mut transaction.totals,
                    &delivery.stage,
                    manifest.priority,
                    -1,
                );
                if let Some(key) = keys::finished(&delivery.stage, id, index) {
                    transaction.batch.push((key, None));
                }
                delivery.stage = Stage::Pending { due: now };
                (delivery.tries, delivery.counted, delivery.crashes) = (0, 0, 0);
                transaction.enqueue_again(&manifest, index, &delivery);
                retried.push(delivery.recipient);
            }
            Stage::Pending { due }
                if due > now && transaction.seize(&manifest, index, &delivery) =>
            {
                delivery.stage = Stage::Pending { due: now };
                transaction.step_seized(&delivery);
                retried.push(delivery.recipient);
            }
            _ => {}
        }
    }
    Ok(if retried.is_empty() {
        OperationResult::TooLate
    } else {
        OperationResult::Done(retried)
    })
}

pub(super) fn purge<S: Store>(
    transaction: &mut WriteTransaction<'_, S>,
    id: MailId,
) -> Result<OperationResult, SpoolError> {
    let Some(Whole {
        mail,
        deliveries,
        is_damaged,
    }) = reader::whole(&transaction.shared.store, id)?
    else {
        return Ok(OperationResult::Unknown);
    };
    if is_damaged {
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
    remove_mail(transaction, &mail.manifest, &deliveries)?;
    Ok(OperationResult::Done(recipients))
}

pub(super) fn remove_mail<S: Store>(
    transaction: &mut WriteTransaction<'_, S>,
    manifest: &Manifest,
    deliveries: &BTreeMap<u16, Delivery>,
) -> Result<(), SpoolError> {
    let id = manifest.id;
    for (index, delivery) in deliveries {
        count_finished(
            &mut transaction.totals,
            &delivery.stage,
            manifest.priority,
            -1,
        );
        transaction
            .batch
            .extend(keys::finished(&delivery.stage, id, *index).map(|key| (key, None)));
    }
    let records =
        reader::keys_between(&transaction.shared.store, keys::deliveries(id), usize::MAX)?;
    transaction
        .batch
        .extend(records.into_iter().map(|key| (key, None)));
    transaction.batch.push((keys::manifest(id), None));
    let chunks = reader::keys_between(&transaction.shared.store, keys::chunks(id), sweep::CHUNKS)?;
    if chunks.len() == sweep::CHUNKS {
        transaction.set_timer(Timestamp::from_millis(0), Timer::Chunks(id));
    }
    transaction
        .batch
        .extend(chunks.into_iter().map(|key| (key, None)));
    Ok(())
}

/// Moves pending deliveries of routes that no longer exist.
pub(super) fn reroute<S: Store>(
    transaction: &mut WriteTransaction<'_, S>,
    unknown: &[Route],
    fallback: &Route,
) -> Result<usize, SpoolError> {
    let mut moved = 0;
    for route in unknown {
        let limit = REROUTE.saturating_sub(moved);
        if limit == 0 {
            break;
        }
        for key in reader::all_keys(
            &transaction.shared.store,
            &keys::route_prefix(route.as_str()),
            limit,
        )? {
            let Some(key) = keys::read_queue(&key) else {
                continue;
            };
            let place = key.place;
            let Ok(Some(manifest)) = reader::manifest(&transaction.shared.store, place.mail) else {
                continue;
            };
            let delivery = reader::delivery(&transaction.shared.store, place.mail, place.index)?;
            let Some(Ok(mut delivery)) = delivery else {
                continue;
            };
            if transaction.seize(&manifest, place.index, &delivery) {
                delivery.route = fallback.clone();
                transaction.step_seized(&delivery);
                moved += 1;
            }
        }
    }
    Ok(moved)
}

/// Ends what was leased and cannot be sent.
pub(super) fn end_broken<S: Store>(
    transaction: &mut WriteTransaction<'_, S>,
    broken: Vec<Broken>,
    now: Timestamp,
) -> Result<(), SpoolError> {
    let mut tokens = Vec::new();
    for Broken {
        queue,
        leases,
        in_doubt,
    } in broken
    {
        let reason = if in_doubt {
            DeadReason::InDoubt
        } else {
            DeadReason::Quarantined
        };
        for (lease, place) in leases {
            if !in_doubt && reader::manifest(&transaction.shared.store, place.mail).is_err() {
                transaction.set_aside(keys::manifest(place.mail))?;
            }
            transaction.end(&queue, place, reason, now)?;
            tokens.push(lease);
        }
        if !in_doubt {
            transaction.totals.quarantined += 1;
        }
    }
    transaction.commit()?;
    let mut queues = transaction.shared.queues.lock();
    for lease in tokens {
        queues.end(&lease.spend());
    }
    Ok(())
}

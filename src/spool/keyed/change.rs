//! What users and the clock change. Each function runs on the writer's thread, undisturbed, and
//! what it adds to the batch is committed whole or not at all.

use std::collections::{BTreeMap, HashSet};
use std::ops::ControlFlow;
use std::time::Duration;

use super::book::QueueName;
use super::changing::Changing;
use super::keys::{self, Place, Timer};
use super::reader::{self, Broken, Whole};
use super::step::count_finished;
use crate::delivery::{DeadReason, Delivery, Route, Stage};
use crate::mail::{MailId, Timestamp};
use crate::spool::codec::{self, KeyRecord};
use crate::spool::store::{Store, Walk};
use crate::spool::{Change, Ended, Manifest, SpoolError, Swept};

/// How many timers one sweep looks at, the last key's aside.
const SWEEP: usize = 64;
/// How many keys one sweep changes, the last mail's aside, so that it is written between two syncs
/// without filling a segment of sled's log.
const SWEEP_KEYS: usize = 2048;
/// How many chunks are removed at a time: sled rewrites the leaves that they leave.
const CHUNKS: usize = 512;
/// How many deliveries one step of rerouting moves.
const REROUTE: usize = 500;
/// How long after its expiry a delivery is looked at again that a sender has in its hands.
const LEASED_GRACE: Duration = Duration::from_secs(1);
/// When a mail is looked at again of which something cannot be read. It stays where it is until it
/// is to be sent, and is set aside then; the disk may also read it next time.
const UNREADABLE_GRACE: Duration = Duration::from_secs(3600);

/// Puts a spool in order that was just opened: messages that were being written and never accepted
/// are removed; deliveries that may have been sent and must not be sent twice are dead.
pub(super) fn recover<S: Store>(changing: &mut Changing<'_, S>) -> Result<(), SpoolError> {
    for key in all_keys(&changing.shared.store, b"w", usize::MAX)? {
        let Some(mail) = keys::mail_of(&key) else {
            continue;
        };
        changing.set_timer(Timestamp::from_millis(0), Timer::Chunks(mail));
        changing.batch.push((key, None));
    }
    for key in all_keys(&changing.shared.store, b"a", usize::MAX)? {
        let Some(mail) = keys::mail_of(&key) else {
            continue;
        };
        let index = keys::index_of(&key);
        changing.batch.push((key, None));
        let Ok(Some(manifest)) = reader::manifest(&changing.shared.store, mail) else {
            continue;
        };
        let delivery = reader::delivery(&changing.shared.store, mail, index)?;
        let Some(Ok(mut delivery)) = delivery else {
            continue;
        };
        if matches!(delivery.stage, Stage::Committing { .. })
            && changing.seize(&manifest, index, &delivery)
        {
            delivery.stage = Stage::Dead {
                at: Timestamp::now(),
                reason: DeadReason::InDoubt,
            };
            changing.step_seized(&delivery);
            changing.tell_end(mail, delivery.recipient, DeadReason::InDoubt);
        }
    }
    changing.commit()
}

fn all_keys<S: Store>(store: &S, prefix: &[u8], limit: usize) -> Result<Vec<Vec<u8>>, SpoolError> {
    keys_between(store, keys::starting_with(prefix), limit)
}

fn keys_between<S: Store>(
    store: &S,
    (from, to): (Vec<u8>, Vec<u8>),
    limit: usize,
) -> Result<Vec<Vec<u8>>, SpoolError> {
    let mut found = Vec::new();
    store.walk(&from, &to, Walk::Up, &mut |key, _| {
        found.push(key.to_vec());
        if found.len() < limit {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        }
    })?;
    Ok(found)
}

/// Removes a message's chunks, some now and the rest in further sweeps; none while its mail is
/// there.
fn look_at_chunks<S: Store>(
    changing: &mut Changing<'_, S>,
    mail: MailId,
    now: Timestamp,
) -> Result<(), SpoolError> {
    let store = &changing.shared.store;
    if store.get(&keys::manifest(mail))?.is_some() || store.get(&keys::writing(mail))?.is_some() {
        return Ok(());
    }
    let chunks = keys_between(store, keys::chunks(mail), CHUNKS)?;
    if chunks.len() == CHUNKS {
        changing.set_timer(now, Timer::Chunks(mail));
    }
    changing
        .batch
        .extend(chunks.into_iter().map(|key| (key, None)));
    Ok(())
}

/// Ends what was leased and cannot be sent.
pub(super) fn end_broken<S: Store>(
    changing: &mut Changing<'_, S>,
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
            if !in_doubt && reader::manifest(&changing.shared.store, place.mail).is_err() {
                changing.set_aside(keys::manifest(place.mail))?;
            }
            changing.end(&queue, place, reason, now)?;
            tokens.push(lease);
        }
        if !in_doubt {
            changing.totals.quarantined += 1;
        }
    }
    changing.commit()?;
    let mut book = changing.shared.book.lock();
    for lease in tokens {
        book.end(&lease.spend());
    }
    Ok(())
}

pub(super) fn cancel<S: Store>(
    changing: &mut Changing<'_, S>,
    id: MailId,
    now: Timestamp,
) -> Result<Change, SpoolError> {
    let Some(Whole {
        mail, deliveries, ..
    }) = reader::whole(&changing.shared.store, id)?
    else {
        return Ok(Change::Unknown);
    };
    let mut cancelled = Vec::new();
    for (index, delivery) in deliveries {
        if changing.seize(&mail.manifest, index, &delivery) {
            let ended = changing.end_seized(delivery, Stage::Cancelled { at: now }, now);
            match ended.stage {
                Stage::Dead { reason, .. } => changing.tell_end(id, ended.recipient, reason),
                _ => cancelled.push(ended.recipient),
            }
        }
    }
    Ok(if cancelled.is_empty() {
        Change::TooLate
    } else {
        Change::Done(cancelled)
    })
}

pub(super) fn retry<S: Store>(
    changing: &mut Changing<'_, S>,
    id: MailId,
    now: Timestamp,
    lifetime: Duration,
) -> Result<Change, SpoolError> {
    let Some(Whole {
        mut mail,
        deliveries,
        ..
    }) = reader::whole(&changing.shared.store, id)?
    else {
        return Ok(Change::Unknown);
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
        changing.batch.push((keys::manifest(id), Some(record)));
        changing.set_timer(manifest.expires_at, Timer::Mail(id));
        for (index, delivery) in &deliveries {
            let Some(due) = delivery.stage.due() else {
                continue;
            };
            let queue = QueueName {
                route: delivery.route.clone(),
                priority: manifest.priority,
            };
            changing.shared.book.lock().outdate(
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
                count_finished(&mut changing.totals, &delivery.stage, manifest.priority, -1);
                if let Some(key) = keys::finished(&delivery.stage, id, index) {
                    changing.batch.push((key, None));
                }
                delivery.stage = Stage::Pending { due: now };
                (delivery.tries, delivery.counted, delivery.crashes) = (0, 0, 0);
                changing.enqueue_again(&manifest, index, &delivery);
                retried.push(delivery.recipient);
            }
            Stage::Pending { due } if due > now && changing.seize(&manifest, index, &delivery) => {
                delivery.stage = Stage::Pending { due: now };
                changing.step_seized(&delivery);
                retried.push(delivery.recipient);
            }
            _ => {}
        }
    }
    Ok(if retried.is_empty() {
        Change::TooLate
    } else {
        Change::Done(retried)
    })
}

pub(super) fn purge<S: Store>(
    changing: &mut Changing<'_, S>,
    id: MailId,
) -> Result<Change, SpoolError> {
    let Some(Whole {
        mail,
        deliveries,
        is_damaged,
    }) = reader::whole(&changing.shared.store, id)?
    else {
        return Ok(Change::Unknown);
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
        return Ok(Change::TooLate);
    }
    let recipients = deliveries
        .values()
        .map(|delivery| delivery.recipient.clone())
        .collect();
    remove_mail(changing, &mail.manifest, &deliveries)?;
    Ok(Change::Done(recipients))
}

fn remove_mail<S: Store>(
    changing: &mut Changing<'_, S>,
    manifest: &Manifest,
    deliveries: &BTreeMap<u16, Delivery>,
) -> Result<(), SpoolError> {
    let id = manifest.id;
    for (index, delivery) in deliveries {
        count_finished(&mut changing.totals, &delivery.stage, manifest.priority, -1);
        changing
            .batch
            .extend(keys::finished(&delivery.stage, id, *index).map(|key| (key, None)));
    }
    let records = keys_between(&changing.shared.store, keys::deliveries(id), usize::MAX)?;
    changing
        .batch
        .extend(records.into_iter().map(|key| (key, None)));
    changing.batch.push((keys::manifest(id), None));
    let chunks = keys_between(&changing.shared.store, keys::chunks(id), CHUNKS)?;
    if chunks.len() == CHUNKS {
        changing.set_timer(Timestamp::from_millis(0), Timer::Chunks(id));
    }
    changing
        .batch
        .extend(chunks.into_iter().map(|key| (key, None)));
    Ok(())
}

/// Looks at the mails and the idempotency keys whose time has come.
pub(super) fn sweep<S: Store>(
    changing: &mut Changing<'_, S>,
    now: Timestamp,
) -> Result<Swept, SpoolError> {
    let mut swept = Swept::default();
    let mut seen = HashSet::new();
    // All are taken away before any is set: one that is set for now may have the key of one that
    // was due now.
    let mut due = take_due(changing, now)?.into_iter();
    while changing.batch.len() <= SWEEP_KEYS
        && let Some(timer) = due.next()
    {
        match timer {
            Timer::Mail(mail) if seen.insert(mail) => {
                look_at_mail(changing, mail, now, &mut swept)?
            }
            Timer::Mail(_) => {}
            Timer::Key(hash) => look_at_key(changing, hash, now)?,
            Timer::Chunks(mail) => look_at_chunks(changing, mail, now)?,
        }
    }
    if !due.as_slice().is_empty() {
        changing
            .shared
            .set_timers(&mut changing.batch, now, due.as_slice());
    }
    changing.commit()?;
    swept.ended.append(&mut changing.shared.untold.lock());
    // Timers are only ever set by this thread, so that what is read here is what is there.
    let first = reader::first_timer(&changing.shared.store)?;
    swept.more = first.is_some_and(|at| at <= now);
    let first = first.map_or(i64::MAX, Timestamp::as_millis);
    changing
        .shared
        .next_timer
        .store(first, std::sync::atomic::Ordering::Relaxed);
    Ok(swept)
}

/// The timers that are due, the first keys of them, which are to be removed.
fn take_due<S: Store>(
    changing: &mut Changing<'_, S>,
    now: Timestamp,
) -> Result<Vec<Timer>, SpoolError> {
    let (from, to) = keys::starting_with(b"t");
    let Changing { shared, batch, .. } = changing;
    let mut due = Vec::new();
    shared.store.walk(&from, &to, Walk::Up, &mut |key, value| {
        if due.len() >= SWEEP
            || batch.len() >= SWEEP
            || keys::read_due(key).is_some_and(|at| at > now)
        {
            return ControlFlow::Break(());
        }
        batch.push((key.to_vec(), None));
        due.extend(keys::read_timers(key, value));
        ControlFlow::Continue(())
    })?;
    Ok(due)
}

fn look_at_mail<S: Store>(
    changing: &mut Changing<'_, S>,
    mail: MailId,
    now: Timestamp,
    swept: &mut Swept,
) -> Result<(), SpoolError> {
    let (manifest, deliveries, is_damaged) = match reader::whole(&changing.shared.store, mail) {
        Ok(Some(Whole {
            mail,
            deliveries,
            is_damaged,
        })) => (mail.manifest, deliveries, is_damaged),
        Ok(None) => return Ok(()),
        Err(SpoolError::Unreadable(_)) => {
            changing.set_timer(now + UNREADABLE_GRACE, Timer::Mail(mail));
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    let mut last_end = Timestamp::from_millis(0);
    let mut pending = false;
    let mut in_hands = false;
    for (index, delivery) in &deliveries {
        if let Some(at) = delivery.stage.finished_at() {
            last_end = last_end.max(at);
        } else if now < manifest.expires_at {
            pending = true;
        } else if changing.seize(&manifest, *index, delivery) {
            let expired = Stage::Dead {
                at: now,
                reason: DeadReason::Expired,
            };
            let ended = changing.end_seized(delivery.clone(), expired, now);
            last_end = last_end.max(now);
            if let Stage::Dead { reason, .. } = ended.stage {
                swept.ended.push(Ended {
                    mail,
                    recipient: ended.recipient,
                    reason,
                });
            }
        } else {
            in_hands = true;
        }
    }
    let prune_at = last_end + changing.shared.options.retention;
    if in_hands {
        changing.set_timer(now + LEASED_GRACE, Timer::Mail(mail));
    } else if pending {
        changing.set_timer(manifest.expires_at, Timer::Mail(mail));
    } else if prune_at > now {
        changing.set_timer(prune_at, Timer::Mail(mail));
    } else if is_damaged {
        changing.set_timer(now + UNREADABLE_GRACE, Timer::Mail(mail));
    } else {
        // Deliveries that expired just now have only been changed in this batch: they are pruned by
        // the next look.
        if deliveries
            .values()
            .any(|delivery| delivery.stage.finished_at().is_none())
        {
            changing.set_timer(now, Timer::Mail(mail));
            return Ok(());
        }
        remove_mail(changing, &manifest, &deliveries)?;
        swept.pruned += 1;
    }
    Ok(())
}

fn look_at_key<S: Store>(
    changing: &mut Changing<'_, S>,
    hash: [u8; 16],
    now: Timestamp,
) -> Result<(), SpoolError> {
    let key = keys::idempotency(hash);
    let Some(bytes) = changing.shared.store.get(&key)? else {
        return Ok(());
    };
    let Ok(mut record) = codec::decode::<KeyRecord>(&bytes) else {
        changing.totals.quarantined += 1;
        return changing.set_aside(key);
    };
    let finished = match reader::whole(&changing.shared.store, record.mail) {
        Ok(Some(Whole {
            deliveries,
            is_damaged,
            ..
        })) => !is_damaged && deliveries.values().all(|d| d.stage.finished_at().is_some()),
        Ok(None) => true,
        Err(SpoolError::Unreadable(_)) => false,
        Err(error) => return Err(error),
    };
    if finished && record.until <= now {
        changing.batch.push((key, None));
        return Ok(());
    }
    // While its mail is pending a key holds, however old it is.
    let again = record
        .until
        .max(now + changing.shared.options.idempotency_ttl.max(LEASED_GRACE));
    record.until = again;
    changing.batch.push((key, Some(codec::encode(&record))));
    changing.set_timer(again, Timer::Key(hash));
    Ok(())
}

/// Moves pending deliveries of routes that no longer exist.
pub(super) fn reroute<S: Store>(
    changing: &mut Changing<'_, S>,
    unknown: &[Route],
    fallback: &Route,
) -> Result<usize, SpoolError> {
    let mut moved = 0;
    for route in unknown {
        let limit = REROUTE.saturating_sub(moved);
        if limit == 0 {
            break;
        }
        for key in all_keys(
            &changing.shared.store,
            &keys::route_prefix(route.as_str()),
            limit,
        )? {
            let Some(key) = keys::read_queue(&key) else {
                continue;
            };
            let place = key.place;
            let Ok(Some(manifest)) = reader::manifest(&changing.shared.store, place.mail) else {
                continue;
            };
            let delivery = reader::delivery(&changing.shared.store, place.mail, place.index)?;
            let Some(Ok(mut delivery)) = delivery else {
                continue;
            };
            if changing.seize(&manifest, place.index, &delivery) {
                delivery.route = fallback.clone();
                changing.step_seized(&delivery);
                moved += 1;
            }
        }
    }
    Ok(moved)
}

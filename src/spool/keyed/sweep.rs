//! What the clock does to mail: expiry, retention, keys that are forgotten. Runs on the writer's
//! thread in bounded steps, each committed whole or not at all.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::time::Duration;

use super::keys::{self, Timer};
use super::operations;
use super::reader::{self, Whole};
use super::write_transaction::WriteTransaction;
use crate::delivery::{DeadReason, Stage};
use crate::mail::{MailId, Timestamp};
use crate::spool::codec::{self, KeyRecord};
use crate::spool::store::{Store, Walk};
use crate::spool::{EndedDelivery, SpoolError, SweepReport};

/// How many timers one sweep looks at, the last key's aside.
const SWEEP: usize = 64;

/// How many keys one sweep changes, the last mail's aside, so that it is written between two syncs
/// without filling a segment of sled's log.
const SWEEP_KEYS: usize = 2048;

/// How many chunks are removed at a time: sled rewrites the leaves that they leave.
pub(super) const CHUNKS: usize = 512;

/// How long after its expiry a delivery is looked at again that a sender has in its hands.
const LEASED_GRACE: Duration = Duration::from_secs(1);

/// When a mail is looked at again of which something cannot be read. It stays where it is until it
/// is to be sent, and is set aside then; the disk may also read it next time.
const UNREADABLE_GRACE: Duration = Duration::from_secs(3600);

/// Looks at the mails and the idempotency keys whose time has come.
pub(super) fn sweep<S: Store>(
    transaction: &mut WriteTransaction<'_, S>,
    now: Timestamp,
) -> Result<SweepReport, SpoolError> {
    let mut swept = SweepReport::default();
    let mut seen = HashSet::new();
    // All are taken away before any is set: one that is set for now may have the key of one that
    // was due now.
    let mut due = take_due(transaction, now)?.into_iter();
    while transaction.batch.len() <= SWEEP_KEYS
        && let Some(timer) = due.next()
    {
        match timer {
            Timer::Mail(mail) if seen.insert(mail) => {
                look_at_mail(transaction, mail, now, &mut swept)?
            }
            Timer::Mail(_) => {}
            Timer::Key(hash) => look_at_key(transaction, hash, now)?,
            Timer::Chunks(mail) => look_at_chunks(transaction, mail, now)?,
        }
    }
    if !due.as_slice().is_empty() {
        transaction
            .shared
            .set_timers(&mut transaction.batch, now, due.as_slice());
    }
    transaction.commit()?;
    swept.ended.append(&mut transaction.shared.untold.lock());
    // Timers are only ever set by this thread, so that what is read here is what is there.
    let first = reader::first_timer(&transaction.shared.store)?;
    swept.more = first.is_some_and(|at| at <= now);
    let first = first.map_or(i64::MAX, Timestamp::as_millis);
    transaction
        .shared
        .next_timer
        .store(first, std::sync::atomic::Ordering::Relaxed);
    Ok(swept)
}

/// The timers that are due, the first keys of them, which are to be removed.
fn take_due<S: Store>(
    transaction: &mut WriteTransaction<'_, S>,
    now: Timestamp,
) -> Result<Vec<Timer>, SpoolError> {
    let (from, to) = keys::starting_with(b"t");
    let WriteTransaction { shared, batch, .. } = transaction;
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
    transaction: &mut WriteTransaction<'_, S>,
    mail: MailId,
    now: Timestamp,
    swept: &mut SweepReport,
) -> Result<(), SpoolError> {
    let (manifest, deliveries, is_damaged) = match reader::whole(&transaction.shared.store, mail) {
        Ok(Some(Whole {
            mail,
            deliveries,
            is_damaged,
        })) => (mail.manifest, deliveries, is_damaged),
        Ok(None) => return Ok(()),
        Err(SpoolError::Unreadable(_)) => {
            transaction.set_timer(now + UNREADABLE_GRACE, Timer::Mail(mail));
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
        } else if transaction.seize(&manifest, *index, delivery) {
            let expired = Stage::Dead {
                at: now,
                reason: DeadReason::Expired,
            };
            let ended = transaction.end_seized(delivery.clone(), expired, now);
            last_end = last_end.max(now);
            if let Stage::Dead { reason, .. } = ended.stage {
                swept.ended.push(EndedDelivery {
                    mail,
                    recipient: ended.recipient,
                    reason,
                });
            }
        } else {
            in_hands = true;
        }
    }
    let prune_at = last_end + transaction.shared.options.retention;
    if in_hands {
        transaction.set_timer(now + LEASED_GRACE, Timer::Mail(mail));
    } else if pending {
        transaction.set_timer(manifest.expires_at, Timer::Mail(mail));
    } else if prune_at > now {
        transaction.set_timer(prune_at, Timer::Mail(mail));
    } else if is_damaged {
        transaction.set_timer(now + UNREADABLE_GRACE, Timer::Mail(mail));
    } else {
        // Deliveries that expired just now have only been changed in this batch: they are pruned by
        // the next look.
        if deliveries
            .values()
            .any(|delivery| delivery.stage.finished_at().is_none())
        {
            transaction.set_timer(now, Timer::Mail(mail));
            return Ok(());
        }
        operations::remove_mail(transaction, &manifest, &deliveries)?;
        swept.pruned += 1;
    }
    Ok(())
}

fn look_at_key<S: Store>(
    transaction: &mut WriteTransaction<'_, S>,
    hash: [u8; 16],
    now: Timestamp,
) -> Result<(), SpoolError> {
    let key = keys::idempotency(hash);
    let Some(bytes) = transaction.shared.store.get(&key)? else {
        return Ok(());
    };
    let Ok(mut record) = codec::decode::<KeyRecord>(&bytes) else {
        transaction.totals.quarantined += 1;
        return transaction.set_aside(key);
    };
    let finished = match reader::whole(&transaction.shared.store, record.mail) {
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
        transaction.batch.push((key, None));
        return Ok(());
    }
    // While its mail is pending a key holds, however old it is.
    let again = record
        .until
        .max(now + transaction.shared.options.idempotency_ttl.max(LEASED_GRACE));
    record.until = again;
    transaction.batch.push((key, Some(codec::encode(&record))));
    transaction.set_timer(again, Timer::Key(hash));
    Ok(())
}

/// Removes a message's chunks, some now and the rest in further sweeps; none while its mail is
/// there.
fn look_at_chunks<S: Store>(
    transaction: &mut WriteTransaction<'_, S>,
    mail: MailId,
    now: Timestamp,
) -> Result<(), SpoolError> {
    let store = &transaction.shared.store;
    if store.get(&keys::manifest(mail))?.is_some() || store.get(&keys::writing(mail))?.is_some() {
        return Ok(());
    }
    let chunks = reader::keys_between(store, keys::chunks(mail), CHUNKS)?;
    if chunks.len() == CHUNKS {
        transaction.set_timer(now, Timer::Chunks(mail));
    }
    transaction
        .batch
        .extend(chunks.into_iter().map(|key| (key, None)));
    Ok(())
}

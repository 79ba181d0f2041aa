//! What happens to mail by time: expiry, retention, and the deletion of messages and idempotency
//! keys. Runs on the writer's thread in bounded steps, each committed as a whole or not at all.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::time::Duration;

use super::changes::STEP_BYTES;
use super::journal::pruning;
use super::keys::{self, Timer};
use super::operations;
use super::reader::{self, StoredMailState};
use super::stored_mail::StoredMail;
use super::usage::CountedKind;
use super::write_transaction::WriteTransaction;
use crate::delivery::{DeadReason, Delivery, Stage};
use crate::mail::{MailId, Timestamp};
use crate::spool::codec::{self, KeyRecord};
use crate::spool::store::{Direction, Store};
use crate::spool::{EndedDelivery, SpoolError, SweepReport};

/// How many timers one sweep handles, not counting those of the last key. As many as mails can
/// arrive in the meantime, so that deletion keeps up with arrival.
const SWEEP_TIMERS: usize = 1024;

/// How long after its expiry a delivery that a sender holds is looked at again.
const LEASED_GRACE: Duration = Duration::from_secs(1);

/// When a mail is looked at again if part of it cannot be read. It stays until it is due to be
/// sent, and is set aside then; the read may also succeed next time.
const UNREADABLE_GRACE: Duration = Duration::from_secs(3600);

/// Handles the mails and idempotency keys whose timers are due.
pub(super) fn sweep<S: Store>(
    transaction: &mut WriteTransaction<'_, S>,
    now: Timestamp,
) -> Result<SweepReport, SpoolError> {
    let mut swept = SweepReport::default();
    let mut seen = HashSet::new();
    let mut seen_keys = HashSet::new();

    // All due timers are removed before any is set: a new one for the current time may have the
    // same key.
    let mut due = take_due(transaction, now)?.into_iter();
    while !transaction.is_full()
        && let Some(timer) = due.next()
    {
        match timer {
            Timer::Mail(mail) if seen.insert(mail) => {
                sweep_mail(transaction, mail, now, &mut swept)?
            }
            Timer::Mail(_) => {}
            Timer::Key(hash) if seen_keys.insert(hash) => sweep_key(transaction, hash, now)?,
            Timer::Key(_) => {}
            Timer::Chunks(mail) => sweep_chunks(transaction, mail, now)?,
        }
    }

    for timer in due {
        transaction.set_timer(now, timer);
    }
    transaction.commit()?;
    swept
        .ended
        .append(&mut transaction.shared.unreported_ends.lock());

    // Only this thread sets timers, so the value that is read is current.
    let first = reader::first_timer(&transaction.shared.store)?;
    swept.more = first.is_some_and(|at| at <= now) | pruning::prune(transaction, now)?;

    let first = first.map_or(i64::MAX, Timestamp::as_millis);
    transaction
        .shared
        .next_timer
        .store(first, std::sync::atomic::Ordering::Relaxed);
    Ok(swept)
}

/// Reads the timers that are due and removes their keys.
fn take_due<S: Store>(
    transaction: &mut WriteTransaction<'_, S>,
    now: Timestamp,
) -> Result<Vec<Timer>, SpoolError> {
    let (from, to) = keys::starting_with(b"t");
    let WriteTransaction {
        shared, changes, ..
    } = transaction;
    let mut due = Vec::new();

    let mut taken = 0;
    shared
        .store
        .walk(&from, &to, Direction::Up, &mut |key, value| {
            if due.len() >= SWEEP_TIMERS
                || taken >= SWEEP_TIMERS
                || keys::read_due(key).is_some_and(|at| at > now)
            {
                return ControlFlow::Break(());
            }
            taken += 1;
            changes.remove(key.to_vec());
            due.extend(keys::read_timers(key, value));
            ControlFlow::Continue(())
        })?;

    Ok(due)
}

/// The progress in a mail with too many deliveries for one step.
#[derive(Clone, Copy)]
pub(super) struct SweepProgress {
    /// The first delivery that was not looked at.
    from: u16,
    last_end: Timestamp,
    pending: bool,
    /// Whether some delivery was not delivered.
    undelivered: bool,
    in_hands: bool,
    is_damaged: bool,
}

impl Default for SweepProgress {
    fn default() -> Self {
        SweepProgress {
            from: 0,
            last_end: Timestamp::from_millis(0),
            pending: false,
            undelivered: false,
            in_hands: false,
            is_damaged: false,
        }
    }
}

fn sweep_mail<S: Store>(
    transaction: &mut WriteTransaction<'_, S>,
    mail: MailId,
    now: Timestamp,
    swept: &mut SweepReport,
) -> Result<(), SpoolError> {
    let shared = transaction.shared;
    let mut look = shared
        .sweeps_in_progress
        .lock()
        .remove(&mail)
        .unwrap_or_default();
    let (whole, next) = match reader::some_of(&shared.store, mail, look.from, STEP_BYTES) {
        Ok(Some(read)) => read,
        Ok(None) => return Ok(()),
        Err(SpoolError::Unreadable(_)) => {
            transaction.set_timer(now + UNREADABLE_GRACE, Timer::Mail(mail));
            return Ok(());
        }
        Err(error) => return Err(error),
    };

    let manifest = whole.mail.manifest.clone();
    look.is_damaged |= whole.is_damaged;
    for (index, delivery) in &whole.deliveries {
        look.undelivered |= !matches!(delivery.stage, Stage::Delivered { .. });
        if let Some(at) = delivery.stage.finished_at() {
            look.last_end = look.last_end.max(at);
        } else if now < manifest.expires_at {
            look.pending = true;
        } else if transaction.seize(&manifest, *index, delivery) {
            let expired = Stage::Dead {
                at: now,
                reason: DeadReason::Expired,
            };
            let ended = transaction.end_seized(delivery.clone(), expired, now);
            transaction.add_outcome_entry(&manifest, &ended, now);
            look.last_end = look.last_end.max(now);
            if let Stage::Dead { reason, .. } = ended.stage {
                swept.ended.push(EndedDelivery {
                    mail,
                    recipient: ended.recipient,
                    reason,
                });
            }
        } else {
            look.in_hands = true;
        }
    }

    if let Some(next) = next {
        let further = SweepProgress { from: next, ..look };
        shared.sweeps_in_progress.lock().insert(mail, further);
        transaction.set_timer(now, Timer::Mail(mail));
        return Ok(());
    }

    let options = &shared.options;
    let prune_at = look.last_end + options.retention;

    let may_forget = !look.undelivered && !look.is_damaged && !whole.mail.is_forgotten();
    let forget_at = Some(look.last_end + options.keep_bodies).filter(|_| may_forget);

    if look.in_hands {
        transaction.set_timer(now + LEASED_GRACE, Timer::Mail(mail));
    } else if look.pending {
        transaction.set_timer(manifest.expires_at, Timer::Mail(mail));
    } else if prune_at > now {
        let is_forgotten = forget_at.is_some_and(|at| at <= now);
        let next = forget_at.filter(|_| !is_forgotten).unwrap_or(prune_at);
        let next = next.min(prune_at);
        // At its expiry it is looked at in any case.
        if now >= manifest.expires_at || next < manifest.expires_at {
            transaction.set_timer(next, Timer::Mail(mail));
        }
        if is_forgotten {
            operations::forget_body(transaction, whole.mail)?;
        }
    } else if look.is_damaged {
        transaction.set_timer(now + UNREADABLE_GRACE, Timer::Mail(mail));
    } else {
        prune(transaction, whole, look, now, swept)?;
    }

    Ok(())
}

/// Removes a mail whose retention has ended.
fn prune<S: Store>(
    transaction: &mut WriteTransaction<'_, S>,
    seen: StoredMailState,
    look: SweepProgress,
    now: Timestamp,
    swept: &mut SweepReport,
) -> Result<(), SpoolError> {
    let mail = seen.mail.manifest.id;
    // Over several steps, deliveries that were looked at earlier may have changed.
    let seen = if look.from == 0 {
        Some(seen)
    } else {
        reader::whole(&transaction.shared.store, mail)?
    };

    let Some(seen) = seen else { return Ok(()) };
    // Deliveries that expired in this commit are not stored yet; the next step prunes them.
    let is_pending = |delivery: &Delivery| delivery.stage.finished_at().is_none();

    if seen.is_damaged || seen.deliveries.values().any(is_pending) {
        let again = match seen.is_damaged {
            true => now + UNREADABLE_GRACE,
            false => now,
        };
        transaction.set_timer(again, Timer::Mail(mail));
        return Ok(());
    }

    operations::remove_mail(transaction, &seen)?;
    swept.pruned += 1;
    Ok(())
}

fn sweep_key<S: Store>(
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
        transaction.totals.count(CountedKind::Key, -1);
        return transaction.set_aside(key);
    };

    let finished = is_finished(&transaction.shared.store, record.mail)?;
    if finished && record.until <= now {
        transaction.changes.remove(key);
        transaction.totals.count(CountedKind::Key, -1);
        return Ok(());
    }

    // A key is kept as long as its mail has pending deliveries, whatever its age.
    let again = record
        .until
        .max(now + transaction.shared.options.idempotency_ttl.max(LEASED_GRACE));

    record.until = again;
    transaction.changes.put(key, codec::encode(&record));
    transaction.set_timer(again, Timer::Key(hash));
    Ok(())
}

/// Whether all deliveries of a mail have ended, or it is gone. Not if part of it cannot be read.
pub(super) fn is_finished<S: Store>(store: &S, mail: MailId) -> Result<bool, SpoolError> {
    match reader::whole(store, mail) {
        Ok(Some(StoredMailState {
            deliveries,
            is_damaged,
            ..
        })) => Ok(!is_damaged && deliveries.values().all(|d| d.stage.finished_at().is_some())),
        Ok(None) => Ok(true),
        Err(SpoolError::Unreadable(_)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Removes the remaining records of a removed mail, in this and later sweeps. If the mail exists,
/// only the chunks of its message, and only if the message was deleted.
fn sweep_chunks<S: Store>(
    transaction: &mut WriteTransaction<'_, S>,
    mail: MailId,
    now: Timestamp,
) -> Result<(), SpoolError> {
    let store = &transaction.shared.store;
    let is_all = match StoredMail::read(store, mail)? {
        Some(mail) if !mail.is_forgotten() => return Ok(()),
        None if store.get(&keys::writing(mail))?.is_some() => return Ok(()),
        Some(_) => operations::remove_chunks(transaction, mail)?,
        None => operations::remove_rest(transaction, mail)?,
    };
    if !is_all {
        transaction.set_timer(now, Timer::Chunks(mail));
    }
    Ok(())
}

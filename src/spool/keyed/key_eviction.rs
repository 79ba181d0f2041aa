//! Forgets the oldest idempotency keys of a spool with `max_size` when they take more than their
//! share of it: they outlive their mails, and would otherwise fill the spool. Runs on the writer's
//! thread in bounded steps, just before new mail is written.
//!
//! *Invariant:* the key of a mail that is still pending is never forgotten.

use std::ops::ControlFlow;

use super::bounding::{LOOKED_AT, STEPS, Search, VALUE_BYTES};
use super::idempotency::Hash;
use super::keys::{self, Timer};
use super::sweep;
use super::usage::CountedKind;
use super::write_transaction::WriteTransaction;
use super::writer::Writer;
use crate::mail::Timestamp;
use crate::spool::SpoolError;
use crate::spool::codec::{self, KeyRecord};
use crate::spool::store::{Direction, Store};

/// The part of `max_size` that idempotency keys may take.
const SHARE: u64 = 8;

impl<S: Store> Writer<'_, S> {
    /// Forgets the oldest keys while all keys take more than their share of `max` bytes.
    pub(super) fn forget_old_keys(&mut self, max: u64) {
        let share = max / SHARE;
        if self.key_bytes() <= share {
            return;
        }

        // A little more than needed, so that not every new mail requires a step.
        let goal = share - share / 32;
        for _ in 0..STEPS {
            let rests = self.bounding.keys.rests();
            let excess = self.key_bytes().saturating_sub(goal) / VALUE_BYTES;
            if rests || excess == 0 {
                return;
            }
            if let Err(error) = self.forget_some_keys(excess) {
                tracing::error!(%error, "old idempotency keys could not be removed");
                return;
            }
        }
    }

    fn key_bytes(&self) -> u64 {
        self.totals.kept.unwrap_or_default().keys * VALUE_BYTES
    }

    /// One step: forgets up to `excess` keys.
    fn forget_some_keys(&mut self, excess: u64) -> Result<(), SpoolError> {
        let mut search = std::mem::take(&mut self.bounding.keys);
        let forgotten = self.step(|transaction| forget_some(transaction, &mut search, excess));
        self.bounding.keys = search;
        forgotten
    }
}

/// The timers of idempotency keys stand in the order in which they were set, between those of mail.
fn forget_some<S: Store>(
    transaction: &mut WriteTransaction<'_, S>,
    search: &mut Search<Vec<u8>>,
    excess: u64,
) -> Result<(), SpoolError> {
    let (begin, to) = keys::starting_with(b"t");
    let from = match &search.at {
        Some(at) => [at, &[0][..]].concat(),
        None => begin,
    };

    let mut found = Vec::with_capacity(LOOKED_AT);
    let store = &transaction.shared.store;
    store.walk(&from, &to, Direction::Up, &mut |key, value| {
        let hashes = keys::read_timers(key, value).into_iter();
        let hashes: Vec<Hash> = hashes.filter_map(Timer::key_hash).collect();
        found.push((key.to_vec(), hashes));
        match found.len() {
            LOOKED_AT => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        }
    })?;

    let is_last = found.len() < LOOKED_AT;
    let before = search.deleted;
    let mut is_cut_short = false;
    for (key, hashes) in found {
        if transaction.is_full() || search.deleted - before >= excess {
            is_cut_short = true;
            break;
        }
        if let Some(due) = keys::read_due(&key) {
            for hash in hashes {
                search.deleted += u64::from(forget(transaction, hash, due)?);
            }
        }
        search.at = Some(key);
    }
    transaction.commit()?;

    if is_last && !is_cut_short {
        search.end();
    }

    Ok(())
}

/// Forgets a key, unless its mail is pending or it is kept until another time. Returns whether it
/// is forgotten.
fn forget<S: Store>(
    transaction: &mut WriteTransaction<'_, S>,
    hash: Hash,
    due: Timestamp,
) -> Result<bool, SpoolError> {
    let store = &transaction.shared.store;
    let key = keys::idempotency(hash);
    let Some(bytes) = store.get(&key)? else {
        return Ok(false);
    };

    // A record that cannot be read is set aside when it is due.
    let Ok(record) = codec::decode::<KeyRecord>(&bytes) else {
        return Ok(false);
    };
    if record.until != due || !sweep::is_finished(store, record.mail)? {
        return Ok(false);
    }

    transaction.changes.remove(key);
    transaction.changes.remove_timer(due, Timer::Key(hash));
    transaction.totals.count(CountedKind::Key, -1);
    Ok(true)
}

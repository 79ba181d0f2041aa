//! Forgets the oldest idempotency keys of a spool with `max_size` when they take more than their
//! share of it: they outlive their mails, and would otherwise fill the spool. Runs on the writer's
//! thread in bounded steps, just before new mail is written.
//!
//! *Invariant:* the key of a mail that is still pending is never forgotten.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use super::bounding::VALUE_BYTES;
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
/// How many keys of timers one step looks at, and how many steps are made at once.
const LOOKED_AT: usize = 256;
const STEPS: usize = 16;
/// How long to wait before searching again after no key could be forgotten.
const REST: Duration = Duration::from_secs(1);

/// The progress of the search. The timers of idempotency keys stand in the order in which they were
/// set, between those of mail.
#[derive(Default)]
pub(super) struct KeyEviction {
    /// The key of the timer that was looked at last; `None` to begin with the first.
    at: Option<Vec<u8>>,
    forgotten: u64,
    in_vain: Option<Instant>,
}

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
            let rests = self
                .key_eviction
                .in_vain
                .is_some_and(|at| at.elapsed() < REST);
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
        let mut transaction =
            WriteTransaction::beside_others(self.shared, self.totals.clone(), self.syncer);
        let forgotten = forget_some(&mut transaction, &mut self.key_eviction, excess);
        if forgotten.is_err() {
            transaction.abandon();
        }
        self.totals = transaction.totals.clone();
        self.unsynced += transaction.finish(None);
        self.sync_in_time();
        forgotten
    }
}

fn forget_some<S: Store>(
    transaction: &mut WriteTransaction<'_, S>,
    eviction: &mut KeyEviction,
    excess: u64,
) -> Result<(), SpoolError> {
    let (begin, to) = keys::starting_with(b"t");
    let from = match &eviction.at {
        Some(at) => [at, &[0][..]].concat(),
        None => begin,
    };

    let (mut looked_at, mut found) = (0, Vec::new());
    let store = &transaction.shared.store;
    store.walk(&from, &to, Direction::Up, &mut |key, value| {
        let hashes = keys::read_timers(key, value).into_iter();
        let hashes: Vec<Hash> = hashes.filter_map(Timer::key_hash).collect();
        found.push((key.to_vec(), hashes));
        looked_at += 1;
        match looked_at {
            LOOKED_AT => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        }
    })?;

    let before = eviction.forgotten;
    let mut is_cut_short = false;
    for (key, hashes) in found {
        if transaction.is_full() || eviction.forgotten - before >= excess {
            is_cut_short = true;
            break;
        }
        if let Some(due) = keys::read_due(&key) {
            for hash in hashes {
                eviction.forgotten += u64::from(forget(transaction, hash, due)?);
            }
        }
        eviction.at = Some(key);
    }
    transaction.commit()?;

    if looked_at < LOOKED_AT && !is_cut_short {
        eviction.in_vain = (eviction.forgotten == 0).then(Instant::now);
        eviction.at = None;
        eviction.forgotten = 0;
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

//! A spool over any ordered key store: `sled` on disk, a map in memory.
//!
//! * [`keys`] lists all keys. [`state`] is what all threads share; in it, [`queues`] holds the
//!   leases and [`queue_head`] the front of each queue, both in memory only.
//! * [`spool`] implements the trait. A new mail is encoded by its caller ([`encoding`]); mail that
//!   waits is leased by [`claiming`] and [`claim_reads`]; [`reader`] looks up one mail, [`listing`]
//!   and [`statistics`] go through all.
//! * [`writer`] is the one thread that changes anything, one [`group`] of [`command`]s at a time.
//!   [`syncer`] is the thread that syncs, and then gives each caller its [`answer`].
//! * [`recovery`], [`operations`] and [`sweep`] are the changes made by opening, by users and by
//!   the clock, each in a [`write_transaction`] on the writer's thread; a [`transition`] is what is
//!   written when one delivery changes. [`changes`] collects a commit and adds up its size.
//! * [`healing`] reopens a store that could not be written; [`salvage`] rebuilds a spool from what
//!   was saved of a damaged one.
//! * [`journal`] records what happened, in the commits that did it.
//! * [`queue_ids`] and [`backlog`] name and count the queues, [`usage`] counts what is stored, and
//!   [`bounding`] keeps it below `max_size`, for which [`pace`] slows writing down and
//!   [`key_eviction`] forgets idempotency keys; [`idempotency`] hashes keys.

mod answer;
mod backlog;
mod bounding;
mod changes;
mod claim_reads;
mod claiming;
mod command;
mod encoding;
mod feedback;
mod group;
mod healing;
mod idempotency;
pub(super) mod inspect;
pub(super) mod journal;
mod key_eviction;
mod keys;
mod large_mail;
mod listing;
mod operations;
mod pace;
mod queue_head;
mod queue_ids;
mod queues;
mod reader;
mod recovery;
pub(super) mod salvage;
mod spool;
mod state;
mod statistics;
mod stored_mail;
mod suppressions;
mod sweep;
mod syncer;
#[cfg(test)]
mod tests;
#[cfg(feature = "postgres")]
pub(in crate::spool) mod transfer;
mod transition;
mod usage;
mod write_transaction;
mod writer;

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, Semaphore, oneshot, watch};

use self::command::{GroupCommand, WriterCommand};
use self::encoding::Encoded;
use self::idempotency::KeyHash;
use self::journal::JournalState;
pub(super) use self::journal::last_event;
pub(super) use self::keys::{IRREPLACEABLE, TOTALS, is_delivery};
use self::queue_head::MailMemory;
use self::queues::Queues;
use self::state::SpoolState;
use self::syncer::Syncer;
use self::write_transaction::WriteTransaction;
use super::codec::Totals;
use super::store::Store;
use super::{OperationResult, PutResult, SpoolError, SpoolOptions};
use crate::delivery::Route;
use crate::mail::Timestamp;

/// How many kibibytes of mail may wait for the writer.
const WAITING_KIB: usize = 64 * 1024;

pub(super) struct KeyedSpool<S: Store> {
    shared: Arc<SpoolState<S>>,
    commands: Arc<mpsc::Sender<WriterCommand<S>>>,
    /// A permit for each kibibyte of mail that waits for the writer.
    waiting: Semaphore,
    /// The writer's thread and the syncer's.
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl<S: Store> KeyedSpool<S> {
    /// Opens the spool that is in this store. Mail that was in flight is queued again, except
    /// at-most-once mail that may have been sent: that is dead as `in_doubt`.
    pub(super) fn open(store: S, options: SpoolOptions) -> Result<Self, SpoolError> {
        let totals = usage::totals(&store)?;
        let (key_hash, new_secret) = KeyHash::of_spool(&store)?;
        let (journal, first) = JournalState::open(&store, &options)?;
        let next_timer = reader::first_timer(&store)?.map_or(i64::MAX, Timestamp::as_millis);

        let suppresses = suppressions::are_any(&store)?;

        // The state in memory, with no queue known yet.
        let shared = Arc::new(SpoolState {
            budget: MailMemory::new(options.cache_bytes),
            store,
            options,
            key_hash,
            queues: Mutex::new(Queues::new(Vec::new())),
            ids: RwLock::default(),
            backlog: Mutex::default(),
            changed: Notify::new(),
            failure: RwLock::new(None),
            next_timer: AtomicI64::new(next_timer),
            pending: AtomicU64::new(0),
            totals: Mutex::new(Totals::default()),
            unreported_ends: Mutex::default(),
            sweeps_in_progress: Mutex::default(),
            journal,
            suppresses: AtomicBool::new(suppresses),
            written: AtomicU64::new(0),
            kept: watch::channel(0).0,
            stale: AtomicU64::new(0),
            commit_times: Mutex::default(),
            unwritten: Mutex::default(),
            stuck: Mutex::default(),
        });

        // Recovery: queues are named, then mail that was in flight is put back into them.
        let mut recovering = WriteTransaction::new(&shared, totals);
        recovering.changes.append(first);
        if let Some(secret) = new_secret {
            secret.write(&mut recovering);
        }
        recovery::name_queues(&mut recovering)?;

        let routes: Vec<Route> = shared
            .ids
            .read()
            .all()
            .map(|(route, _)| route.clone())
            .collect();
        *shared.queues.lock() = Queues::new(routes.clone());
        recovery::recover(&mut recovering)?;

        // The queues' heads are read now, so that the next due time is known before the first
        // claim. A queue that cannot be read now is read when it is claimed from.
        let unread = shared.queues.lock().begin_refills(&routes);
        claim_reads::refill(&shared, unread);
        let totals = recovering.totals.clone();
        shared.publish(&totals);

        // The two threads.
        let (commands, inbox) = mpsc::channel();
        let syncer = Arc::new(Syncer::default());
        let sync = {
            let (shared, syncer) = (Arc::clone(&shared), Arc::clone(&syncer));
            spawn("postrider-sync", move || syncer.run(&shared))?
        };

        let write = {
            let shared = Arc::clone(&shared);
            let exit = WriterExit(Arc::clone(&shared), syncer);
            spawn("postrider-spool", move || {
                writer::run(&shared, &exit.1, inbox, totals)
            })?
        };

        let waiting = Semaphore::new(WAITING_KIB);
        Ok(KeyedSpool {
            shared,
            commands: Arc::new(commands),
            waiting,
            threads: Mutex::new(vec![write, sync]),
        })
    }

    /// Asks the writer and waits for its answer.
    async fn ask<T, C: Into<WriterCommand<S>>>(
        &self,
        make: impl FnOnce(oneshot::Sender<T>) -> C,
    ) -> Result<T, SpoolError> {
        let (reply, answer) = oneshot::channel();
        self.commands
            .send(make(reply).into())
            .map_err(|_| SpoolError::Closed)?;
        answer.await.map_err(|_| SpoolError::Closed)
    }

    /// Has the writer run `change` in a transaction of its own, and commits it.
    async fn change<T: Send + 'static>(
        &self,
        change: impl FnOnce(&mut WriteTransaction<'_, S>) -> Result<T, SpoolError> + Send + 'static,
    ) -> Result<T, SpoolError> {
        if let Some(failure) = self.shared.failure() {
            return Err(failure);
        }

        self.ask(|reply| {
            WriterCommand::Operate(Box::new(move |transaction| {
                let changed = change(transaction);
                let answer = match changed {
                    Ok(answer) => transaction.commit().map(|()| answer),
                    Err(error) => {
                        transaction.abandon();
                        Err(error)
                    }
                };
                let _ = reply.send(answer);
            }))
        })
        .await?
    }

    /// Has the writer change a mail step by step, with other commands in between. `step` gets the
    /// recipient to begin with.
    async fn change_in_steps(
        &self,
        step: impl Fn(
            &mut WriteTransaction<'_, S>,
            u16,
        ) -> Result<operations::StepResult<OperationResult>, SpoolError>
        + Clone
        + Send
        + 'static,
    ) -> Result<OperationResult, SpoolError> {
        let mut changed = Vec::new();
        let mut from = 0;

        loop {
            let step = step.clone();
            let (result, next) = self
                .change(move |transaction| step(transaction, from))
                .await?;
            match result {
                OperationResult::Done(recipients) => changed.extend(recipients),
                OperationResult::Unknown if changed.is_empty() => return Ok(result),
                _ => {}
            }
            match next {
                Some(next) => from = next,
                None => return Ok(OperationResult::of(changed)),
            }
        }
    }

    /// Reads something, on a thread that may block.
    async fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(&SpoolState<S>) -> Result<T, SpoolError> + Send + 'static,
    ) -> Result<T, SpoolError> {
        if self.shared.failure() == Some(SpoolError::Closed) {
            return Err(SpoolError::Closed);
        }
        let shared = Arc::clone(&self.shared);
        match tokio::task::spawn_blocking(move || look(&shared)).await {
            Ok(found) => found,
            Err(e) => Err(SpoolError::Unreadable(format!(
                "a read was broken off: {e}"
            ))),
        }
    }

    /// Has the writer store one group of mails.
    async fn put_group(&self, mails: Vec<Encoded<S>>) -> Vec<Result<PutResult, SpoolError>> {
        let count = mails.len();
        if count == 0 {
            return Vec::new();
        }
        match self.ask(|reply| GroupCommand::Put(mails, reply)).await {
            Ok(results) => results,
            Err(error) => vec![Err(error); count],
        }
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, SpoolError> {
    std::thread::Builder::new()
        .name(name.into())
        .spawn(run)
        .map_err(|e| SpoolError::Unreadable(format!("no thread can be started for it: {e}")))
}

/// Ends the syncer when the writer ends, even by a panic.
struct WriterExit<S: Store>(Arc<SpoolState<S>>, Arc<Syncer<S>>);

impl<S: Store> Drop for WriterExit<S> {
    fn drop(&mut self) {
        let WriterExit(shared, syncer) = self;
        if std::thread::panicking() {
            shared.fail(SpoolError::Unreadable(
                "the thread that writes has panicked".into(),
            ));
        }
        syncer.end();
    }
}

impl<S: Store> Drop for KeyedSpool<S> {
    fn drop(&mut self) {
        // The writer ends when the last sender is gone; waiting for it here is what frees the
        // directory for the next opener.
        let (commands, _) = mpsc::channel();
        drop(std::mem::replace(&mut self.commands, Arc::new(commands)));
        for thread in std::mem::take(&mut *self.threads.lock()) {
            let _ = thread.join();
        }
    }
}

//! What the callers, the readers and the writer of a spool share.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, watch};

use super::backlog::Backlog;
use super::changes::{self, COMMIT_BYTES};
use super::encoding::Encoded;
use super::healing::UnwrittenOutcomes;
use super::idempotency::KeyHash;
use super::journal::{JournalState, Sealed};
use super::keys::QueuePosition;
use super::queue_head::{Budget, Entry};
use super::queue_ids::QueueIds;
use super::queues::{QueueName, Queues};
use super::sweep::SweepProgress;
use crate::mail::MailId;
use crate::spool::codec::Totals;
use crate::spool::store::{Batch, Store};
use crate::spool::{CommitTimes, EndedDelivery, LeaseKeeper, LeaseToken, SpoolError, SpoolOptions};

pub(super) struct SpoolState<S> {
    pub store: S,
    pub options: SpoolOptions,
    pub key_hash: KeyHash,
    pub queues: Mutex<Queues>,
    pub ids: RwLock<QueueIds>,
    pub backlog: Mutex<Backlog>,
    pub budget: Budget,
    pub changed: Notify,
    pub failure: RwLock<Option<SpoolError>>,
    /// The first timer, in milliseconds; `i64::MAX` for none.
    pub next_timer: AtomicI64,
    pub pending: AtomicU64,
    pub totals: Mutex<Totals>,
    /// What has ended without a user's request, and was not told of yet.
    pub untold: Mutex<Vec<EndedDelivery>>,
    /// How far sweeps have looked at mails that are too long for one.
    pub looks: Mutex<HashMap<MailId, SweepProgress>>,
    pub journal: JournalState,
    /// Whether there may be addresses that are not to get mail.
    pub suppresses: AtomicBool,
    /// How many commits were written, and how many of them are kept.
    pub written: AtomicU64,
    pub kept: watch::Sender<u64>,
    pub stale: AtomicU64,
    pub commit_times: Mutex<CommitTimes>,
    /// What became of deliveries and could not be written.
    pub owed: Mutex<Vec<UnwrittenOutcomes>>,
    /// What was held for a change that could not be written.
    pub stuck: Mutex<Vec<LeaseToken>>,
}

impl<S: Store> SpoolState<S> {
    pub(super) fn failure(&self) -> Option<SpoolError> {
        self.failure.read().clone()
    }

    /// Closes the spool to writing. The first reason stays.
    pub(super) fn fail(&self, error: SpoolError) {
        if error != SpoolError::Closed && self.failure.read().is_none() {
            tracing::error!(%error, "the spool takes no more");
        }
        self.failure.write().get_or_insert(error);
        self.kept.send_modify(|_| ());
    }

    /// Writes a batch, unless something failed before. What fails closes the spool to writing.
    pub(super) fn write(&self, batch: Batch) -> Result<(), SpoolError> {
        debug_assert!(
            changes::weight(&batch) <= COMMIT_BYTES,
            "a commit of {} bytes",
            changes::weight(&batch)
        );

        match self.failure() {
            Some(failure) => Err(failure),
            None if batch.is_empty() => Ok(()),
            None => {
                self.written.fetch_add(1, Ordering::SeqCst);
                self.store
                    .write(batch)
                    .inspect_err(|e| self.fail(e.clone()))
            }
        }
    }

    /// Keeps what was written, as safely as the options say, and tells what happened by it.
    pub(super) fn keep(&self, told: Vec<Arc<Sealed>>) -> Result<(), SpoolError> {
        let written = self.written.load(Ordering::SeqCst);
        let kept = match self.failure() {
            Some(failure) => return Err(failure),
            None if self.options.sync_interval.is_none() => self.store.sync(),
            None => self.store.flush(),
        };
        if kept.is_ok() {
            self.journal.publish(told);
            self.kept.send_modify(|kept| *kept = written.max(*kept));
        }
        kept.inspect_err(|e| self.fail(e.clone()))
    }

    /// Waits until everything that was written by now is kept, or the spool has failed: what was
    /// read before may be told then.
    pub(super) async fn until_kept(&self) {
        let written = self.written.load(Ordering::SeqCst);
        let mut kept = self.kept.subscribe();
        let is_over = |kept: &u64| *kept >= written || self.failure().is_some();
        // The sender lives as long as this does.
        let _ = kept.wait_for(is_over).await;
    }

    pub(super) fn publish(&self, totals: &Totals) {
        self.pending
            .store(totals.pending.iter().sum(), Ordering::Relaxed);
        *self.totals.lock() = totals.clone();
    }

    pub(super) fn count_stale(&self) {
        self.stale.fetch_add(1, Ordering::Relaxed);
    }

    /// New mails, now on disk, come into the windows of their queues.
    pub(super) fn enqueue(&self, mails: Vec<Encoded<S>>) {
        let mut queues = self.queues.lock();
        for mail in mails.iter().filter(|mail| !mail.enters_later) {
            for (index, delivery) in (0u16..).zip(&mail.deliveries) {
                let Some(due) = delivery.stage.due() else {
                    continue;
                };
                let queue = QueueName {
                    route: delivery.route.clone(),
                    priority: mail.manifest.priority,
                };
                let place = QueuePosition {
                    due,
                    mail: mail.manifest.id,
                    index,
                };
                queues.enqueue_new(
                    &queue,
                    place,
                    Entry {
                        fresh: mail.fresh.clone(),
                        ..Entry::of(&mail.manifest)
                    },
                );
            }
        }
    }
}

impl<S: Store> LeaseKeeper for SpoolState<S> {
    fn release(&self, token: LeaseToken) {
        if self.queues.lock().release(&token) {
            self.changed.notify_one();
        }
    }
}

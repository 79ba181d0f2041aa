//! The state that the callers, the readers and the two threads of a spool share.

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
use super::journal::{JournalRecord, JournalState};
use super::keys::QueuePosition;
use super::queue_head::{MailMemory, QueueEntry};
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
    pub budget: MailMemory,
    pub changed: Notify,
    pub failure: RwLock<Option<SpoolError>>,
    /// The time of the first timer, in milliseconds; `i64::MAX` if there is none.
    pub next_timer: AtomicI64,
    pub pending: AtomicU64,
    pub totals: Mutex<Totals>,
    /// Deliveries that ended without a settle (expired, or in doubt), until a sweep reports them.
    pub unreported_ends: Mutex<Vec<EndedDelivery>>,
    /// The progress of sweeps through mails with too many deliveries for one step.
    pub sweeps_in_progress: Mutex<HashMap<MailId, SweepProgress>>,
    pub journal: JournalState,
    /// Whether there may be suppressed addresses. If not, lookups are skipped.
    pub suppresses: AtomicBool,
    /// How many commits were written, and how many of them are synced.
    pub written: AtomicU64,
    pub kept: watch::Sender<u64>,
    pub stale: AtomicU64,
    pub commit_times: Mutex<CommitTimes>,
    /// Outcomes that could not be written yet.
    pub unwritten: Mutex<Vec<UnwrittenOutcomes>>,
    /// Leases that the writer took for a change that could not be written.
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

    /// Writes a batch, unless the spool has failed. A failed write closes the spool to writing.
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

    /// Syncs what was written, as the options say, and publishes the journal's entries about it.
    pub(super) fn keep(&self, entries: Vec<Arc<JournalRecord>>) -> Result<(), SpoolError> {
        let written = self.written.load(Ordering::SeqCst);
        let kept = match self.failure() {
            Some(failure) => return Err(failure),
            None if self.options.sync_interval.is_none() => self.store.sync(),
            None => self.store.flush(),
        };
        if kept.is_ok() {
            self.journal.publish(entries);
            self.kept.send_modify(|kept| *kept = written.max(*kept));
        }
        kept.inspect_err(|e| self.fail(e.clone()))
    }

    /// Waits until everything that was written by now is on disk, or the spool has failed. A caller
    /// is not told what it has read before that.
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

    /// Adds new mails, which are now on disk, to the heads of their queues.
    pub(super) fn enqueue(&self, mails: Vec<Encoded<S>>) {
        let mut queues = self.queues.lock();

        for mail in mails.iter().filter(|mail| !mail.queued_later) {
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
                    QueueEntry {
                        fresh: mail.fresh.clone(),
                        ..QueueEntry::of(&mail.manifest)
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

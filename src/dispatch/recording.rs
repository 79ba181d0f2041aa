//! Records outcomes: the only place where the outcome of an attempt becomes a change in the spool.
//! Once it is on disk, it is reported.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures::FutureExt;

use super::engine::Engine;
use super::stock::ClaimedMail;
use crate::delivery::{
    DeadReason, Delivery, Fault, Outcome, SettleRules, Settlement, Stage, TlsUse,
};
use crate::mail::{MailId, Timestamp};
use crate::spool::{Lease, Manifest, SettleResult, SpoolError};

/// The relay of an attempt, and how the connection to it was secured.
pub(super) struct RelayPath<'a> {
    pub relay: &'a str,
    pub tls: Option<&'a TlsUse>,
}

/// The outcome of a sender's attempt at one delivery.
pub(super) struct AttemptResult {
    pub lease: Lease,
    pub delivery: Delivery,
    pub outcome: Outcome,
    pub fault: Fault,
}

/// A delivery's new state, to be recorded.
struct DeliveryChange {
    lease: Lease,
    delivery: Delivery,
    /// Whether it is the result of an attempt.
    tried: bool,
}

impl Engine {
    /// Records the outcomes of one mail's deliveries, in the order of the calls, and reports them
    /// once they are on disk. Does not wait for that; `done` is dropped when the write has finished
    /// or failed.
    ///
    /// A delivery about which nothing was learned returns to the queue: its lease is dropped.
    pub(super) fn record(
        self: &Arc<Self>,
        path: RelayPath<'_>,
        manifest: &Arc<Manifest>,
        results: Vec<AttemptResult>,
        done: impl Send + 'static,
    ) {
        let chance = self.chance();
        let after_failure = |tries, counted| self.retry.delay(tries, counted, chance);
        let in_doubt = |tries, counted| self.retry.delay_in_doubt(tries, counted, chance);
        let rules = SettleRules {
            now: self.clock.now(),
            relay: path.relay,
            tls: path.tls,
            expires_at: manifest.expires_at,
            guarantee: manifest.guarantee,
            retry_after: &after_failure,
        };

        let mut changes = Vec::with_capacity(results.len());
        for AttemptResult {
            lease,
            delivery,
            outcome,
            fault,
        } in results
        {
            self.metrics.attempt(path.relay, outcome.class());
            let rules = match outcome {
                Outcome::InDoubt(_) => SettleRules {
                    retry_after: &in_doubt,
                    ..rules
                },
                _ => rules,
            };
            if let Settlement::Changed(next) = delivery.settle(&outcome, fault, &rules) {
                changes.push(DeliveryChange {
                    lease,
                    tried: next.tries > delivery.tries,
                    delivery: next,
                });
            }
        }

        self.commit(manifest, changes, done);
    }

    /// Records deliveries that changed without an attempt.
    pub(super) fn record_unsent(
        self: &Arc<Self>,
        manifest: &Arc<Manifest>,
        changed: Vec<(Lease, Delivery)>,
    ) {
        let changes = changed.into_iter().map(|(lease, delivery)| DeliveryChange {
            lease,
            delivery,
            tried: false,
        });
        self.commit(manifest, changes.collect(), ());
    }

    /// Ends claimed mail that expired before a sender started it.
    pub(super) fn end_expired(self: &Arc<Self>, now: Timestamp) {
        let reason = DeadReason::Expired;
        self.end_unbegun(
            self.stocks.take_expired(now),
            Stage::Dead { at: now, reason },
        );
    }

    /// Cancels the deliveries of a mail that were claimed and not started by a sender.
    pub(super) fn end_recalled(self: &Arc<Self>, mail: MailId, now: Timestamp) {
        self.end_unbegun(self.stocks.take_mail(mail), Stage::Cancelled { at: now });
    }

    /// Records this final stage for claimed mail that no sender has started.
    pub(super) fn end_unbegun(self: &Arc<Self>, claimed: Vec<ClaimedMail>, stage: Stage) {
        for mail in claimed {
            let claim = mail.into_claim();
            let ended = claim.deliveries.into_iter().map(|(lease, mut delivery)| {
                delivery.stage = stage;
                (lease, delivery)
            });
            self.record_unsent(&claim.manifest, ended.collect());
        }
    }

    fn commit(
        self: &Arc<Self>,
        manifest: &Arc<Manifest>,
        changes: Vec<DeliveryChange>,
        done: impl Send + 'static,
    ) {
        if changes.is_empty() {
            // All its deliveries returned to the queue unchanged.
            self.waiters.notify(manifest.id);
            return;
        }

        let mut settled = Vec::with_capacity(changes.len());
        let mut recorded = Vec::with_capacity(changes.len());
        for change in changes {
            recorded.push((change.delivery.clone(), change.tried));
            settled.push((change.lease, change.delivery));
        }

        let recording = self.recordings.begin(manifest.id);
        let (engine, manifest, under_way) = (Arc::clone(self), Arc::clone(manifest), self.begin());
        tokio::spawn(async move {
            // However this task ends, callers that wait for the mail are notified then.
            let notifies = engine.waiters.notify_at_end(manifest.id);
            let settling = AssertUnwindSafe(async { engine.spool.settle(settled).await });
            let settled = settling.catch_unwind().await;
            match settled.unwrap_or_else(|_| Err(SpoolError::panicked())) {
                Ok(results) => {
                    engine.spool_recorded();
                    for ((delivery, tried), result) in recorded.iter().zip(results) {
                        if result == SettleResult::Done {
                            engine.announce_recorded(&manifest, delivery, *tried);
                        }
                    }
                }
                Err(error) => {
                    tracing::error!(
                        mail.id = %manifest.id,
                        %error,
                        "an outcome could not be recorded"
                    );
                    engine.spool_failed();
                }
            }

            drop(recording);
            drop(notifies);
            drop(under_way);
            engine.progress.notify_waiters();
            drop(done);
        });
    }
}

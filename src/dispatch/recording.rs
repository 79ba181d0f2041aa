//! Recording what was learned of deliveries: the one place where an outcome becomes a change on
//! disk, and is told once it is there.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures::FutureExt;

use super::engine::Engine;
use super::stock::ClaimedMail;
use crate::delivery::{DeadReason, Delivery, Fault, Outcome, Rules, Settled, Stage, TlsUse};
use crate::mail::{MailId, Timestamp};
use crate::spool::{Lease, Manifest, SettleResult, SpoolError};

/// Over which relay a sender tried, and how its connection was secured.
pub(super) struct Way<'a> {
    pub relay: &'a str,
    pub tls: Option<&'a TlsUse>,
}

/// What a sender learned about one delivery.
pub(super) struct AttemptResult {
    pub lease: Lease,
    pub delivery: Delivery,
    pub outcome: Outcome,
    pub fault: Fault,
}

/// One delivery as it is to be recorded.
struct DeliveryChange {
    lease: Lease,
    delivery: Delivery,
    /// Whether it comes of a try.
    tried: bool,
}

impl Engine {
    /// Records what was learned of one mail's deliveries, and tells everybody once it is on disk.
    /// The order of calls is the order of records; the wait for the disk goes on by itself. A
    /// delivery about which nothing was learned goes back.
    ///
    /// `done` is dropped when the disk has answered.
    pub(super) fn record(
        self: &Arc<Self>,
        way: Way<'_>,
        manifest: &Arc<Manifest>,
        results: Vec<AttemptResult>,
        done: impl Send + 'static,
    ) {
        let chance = self.chance();
        let retry_after = |tries, counted| self.retry.delay(tries, counted, chance);
        let rules = Rules {
            now: self.clock.now(),
            relay: way.relay,
            tls: way.tls,
            expires_at: manifest.expires_at,
            guarantee: manifest.guarantee,
            retry_after: &retry_after,
        };

        let mut changes = Vec::with_capacity(results.len());
        for AttemptResult {
            lease,
            delivery,
            outcome,
            fault,
        } in results
        {
            self.metrics.attempt(way.relay, outcome.class());
            if let Settled::Changed(next) = delivery.settle(&outcome, fault, &rules) {
                changes.push(DeliveryChange {
                    lease,
                    tried: next.tries > delivery.tries,
                    delivery: next,
                });
            }
        }

        self.commit(manifest, changes, done);
    }

    /// Records deliveries as they now are, without a try.
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

    /// Ends what has expired and was claimed, and nobody has begun.
    pub(super) fn end_expired(self: &Arc<Self>, now: Timestamp) {
        let reason = DeadReason::Expired;
        self.end_unbegun(
            self.stocks.take_expired(now),
            Stage::Dead { at: now, reason },
        );
    }

    /// Ends a mail that a user wants back as far as it was claimed and nobody has begun it.
    pub(super) fn end_recalled(self: &Arc<Self>, mail: MailId, now: Timestamp) {
        self.end_unbegun(self.stocks.take_mail(mail), Stage::Cancelled { at: now });
    }

    /// Records this of claimed mail that is not sent.
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
            // All that it had went back, to whoever waits for it.
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
            // However this ends, whoever waits for the mail looks again then.
            let told = engine.waiters.tell_at_end(manifest.id);
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
            drop(told);
            drop(under_way);
            engine.progress.notify_waiters();
            drop(done);
        });
    }
}

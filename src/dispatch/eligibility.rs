//! Decides which deliveries of a claim may be sent to this relay now. The others are ended or
//! deferred, and recorded.

use std::time::Duration;

use super::sender::State;
use super::suppressions::AddressedMail;
use crate::delivery::{DeadReason, Delivery, SendPermission, Stage};
use crate::mail::{Guarantee, Timestamp};
use crate::policy::DomainAdmission;
use crate::spool::Claim;

/// How long at-most-once mail that another relay may have waits for that relay.
const OTHER_RELAY_WAIT: Duration = Duration::from_secs(5 * 60);

impl State {
    /// The deliveries of a claim that are not cancelled, expired or suppressed, may be sent to this
    /// relay, and whose domain does not rest. `None` if there are none.
    pub(super) async fn eligible(&mut self, claim: Claim) -> Option<Claim> {
        let claim = self.still_wanted(claim).await?;
        let claim = self.without_doubtful(claim).await?;
        let is_pipelined = self.begun == Some(claim.manifest.id);

        match is_pipelined {
            true => Some(claim),
            false => self.without_resting(claim),
        }
    }

    /// The claim, unless its mail has expired or was cancelled, which is recorded then.
    async fn still_wanted(&mut self, claim: Claim) -> Option<Claim> {
        let now = self.engine.clock.now();
        let stage = if now >= claim.manifest.expires_at {
            Stage::Dead {
                at: now,
                reason: DeadReason::Expired,
            }
        } else if self.engine.recalls.is_recalled(claim.manifest.id) {
            Stage::Cancelled { at: now }
        } else {
            return self.without_suppressed(claim, now).await;
        };

        self.abandon_pipelined().await;
        let ended = claim.deliveries.into_iter().map(|(lease, mut delivery)| {
            delivery.stage = stage;
            (lease, delivery)
        });

        self.engine.record_unsent(&claim.manifest, ended.collect());
        None
    }

    /// The claim's deliveries that may be sent to this relay. If another relay may already have an
    /// at-most-once mail, the delivery waits for that relay; it ends once that relay would no
    /// longer detect the repetition.
    async fn without_doubtful(&mut self, mut claim: Claim) -> Option<Claim> {
        let now = self.engine.clock.now();
        let may_go = |delivery: &Delivery| delivery.may_send_once(&self.relay, now);
        let is_free = |(_, delivery): &(_, Delivery)| may_go(delivery) == SendPermission::Yes;
        if claim.manifest.guarantee != Guarantee::AtMostOnce || claim.deliveries.iter().all(is_free)
        {
            return Some(claim);
        }

        let (mut admitted, mut others) = (Vec::new(), Vec::new());
        for (lease, mut delivery) in std::mem::take(&mut claim.deliveries) {
            delivery.stage = match delivery.may_send_once(&self.relay, now) {
                SendPermission::Yes => {
                    admitted.push((lease, delivery));
                    continue;
                }
                SendPermission::Elsewhere => {
                    delivery.route = delivery.route.whole();
                    Stage::Pending {
                        due: now + OTHER_RELAY_WAIT,
                    }
                }
                SendPermission::Never => Stage::Dead {
                    at: now,
                    reason: DeadReason::InDoubt,
                },
            };
            others.push((lease, delivery));
        }

        self.abandon_pipelined().await;
        self.engine.record_unsent(&claim.manifest, others);
        claim.deliveries = admitted;
        (!claim.deliveries.is_empty()).then_some(claim)
    }

    /// The claim's deliveries whose recipients are not suppressed; the others are recorded as dead.
    async fn without_suppressed(&mut self, mut claim: Claim, now: Timestamp) -> Option<Claim> {
        if !self.engine.suppresses() {
            return Some(claim);
        }

        let to = claim.deliveries.iter();
        let addressed = AddressedMail {
            list: claim.manifest.list.as_deref(),
            priority: claim.manifest.priority,
            recipients: to.map(|(_, delivery)| delivery.recipient.clone()).collect(),
        };

        let Ok(mut places) = self.engine.suppressed(&[addressed]).await else {
            // The mail may be suppressed, so it is not sent and returns to the queue.
            self.engine.spool_failed();
            self.abandon_pipelined().await;
            return None;
        };

        let places = places.pop().unwrap_or_default();
        if places.is_empty() {
            return Some(claim);
        }

        self.abandon_pipelined().await;
        let mut ended = Vec::with_capacity(places.len());
        for place in places.into_iter().rev() {
            let (lease, mut delivery) = claim.deliveries.remove(usize::from(place));
            delivery.stage = Stage::Dead {
                at: now,
                reason: DeadReason::Suppressed,
            };
            ended.push((lease, delivery));
        }

        self.engine.record_unsent(&claim.manifest, ended);
        (!claim.deliveries.is_empty()).then_some(claim)
    }

    /// The claim's deliveries whose domain does not rest at this relay. The others use the route's
    /// next relay, or wait until the domain is probed.
    fn without_resting(&mut self, mut claim: Claim) -> Option<Claim> {
        if self.memory.all_domains_answer() {
            return Some(claim);
        }
        let (now, mono) = (self.engine.clock.now(), self.engine.clock.monotonic());

        let (mut admitted, mut held) = (Vec::new(), Vec::new());
        for (lease, delivery) in std::mem::take(&mut claim.deliveries) {
            match self
                .memory
                .admits(&delivery.recipient, claim.manifest.id, mono)
            {
                DomainAdmission::Go => admitted.push((lease, delivery)),
                DomainAdmission::HoldUntil(until) => {
                    let until = now + until.saturating_sub(mono);
                    held.push((lease, delivery.while_domain_rests(&self.relay, until)));
                }
            }
        }

        if !held.is_empty() {
            self.engine.record_unsent(&claim.manifest, held);
        }
        claim.deliveries = admitted;
        (!claim.deliveries.is_empty()).then_some(claim)
    }
}

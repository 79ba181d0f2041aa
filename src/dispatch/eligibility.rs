//! Which deliveries of a claim go to this relay now: the others are recorded as what they have
//! become meanwhile, or wait.

use std::time::Duration;

use super::sender::State;
use super::suppressions::AddressedMail;
use crate::delivery::{DeadReason, Delivery, MayGo, Stage};
use crate::mail::{Guarantee, Timestamp};
use crate::policy::Admission;
use crate::spool::Claim;

/// When mail that another relay may have is looked at again.
const ELSEWHERE: Duration = Duration::from_secs(5 * 60);

impl State {
    /// What is left of a claim, if anything is: it is still wanted, may go to this relay, is not
    /// suppressed, and its domain does not rest.
    pub(super) async fn eligible(&mut self, claim: Claim) -> Option<Claim> {
        let claim = self.still_wanted(claim).await?;
        let claim = self.without_those_elsewhere(claim).await?;
        let is_begun = self.begun == Some(claim.manifest.id);

        match is_begun {
            true => Some(claim),
            false => self.without_resting(claim),
        }
    }

    /// The claim, unless it has expired or a user wants it back: then that is recorded instead.
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

        self.take_back_what_was_begun().await;
        let ended = claim.deliveries.into_iter().map(|(lease, mut delivery)| {
            delivery.stage = stage;
            (lease, delivery)
        });

        self.engine.record_unsent(&claim.manifest, ended.collect());
        None
    }

    /// Those of the claim's deliveries that may go to this relay. Of mail that goes once at most
    /// one that another relay may have waits for that one, and ends when it would not know it
    /// again.
    async fn without_those_elsewhere(&mut self, mut claim: Claim) -> Option<Claim> {
        let now = self.engine.clock.now();
        let may_go = |delivery: &Delivery| delivery.may_go_once(&self.relay, now);
        let is_free = |(_, delivery): &(_, Delivery)| may_go(delivery) == MayGo::Yes;
        if claim.manifest.guarantee != Guarantee::AtMostOnce || claim.deliveries.iter().all(is_free)
        {
            return Some(claim);
        }

        let (mut admitted, mut others) = (Vec::new(), Vec::new());
        for (lease, mut delivery) in std::mem::take(&mut claim.deliveries) {
            delivery.stage = match delivery.may_go_once(&self.relay, now) {
                MayGo::Yes => {
                    admitted.push((lease, delivery));
                    continue;
                }
                MayGo::Elsewhere => {
                    delivery.route = delivery.route.whole();
                    Stage::Pending {
                        due: now + ELSEWHERE,
                    }
                }
                MayGo::Never => Stage::Dead {
                    at: now,
                    reason: DeadReason::InDoubt,
                },
            };
            others.push((lease, delivery));
        }

        self.take_back_what_was_begun().await;
        self.engine.record_unsent(&claim.manifest, others);
        claim.deliveries = admitted;
        (!claim.deliveries.is_empty()).then_some(claim)
    }

    /// Those of the claim's deliveries whose recipients are still to get mail; the others are
    /// recorded as dead.
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
            // It is not sent to anybody of whom that is not known: it goes back.
            self.engine.spool_failed();
            self.take_back_what_was_begun().await;
            return None;
        };

        let places = places.pop().unwrap_or_default();
        if places.is_empty() {
            return Some(claim);
        }

        self.take_back_what_was_begun().await;
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

    /// Those of the claim's deliveries whose domain does not rest at this relay. Others take the
    /// route's next relay, or wait until the domain is probed.
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
                Admission::Go => admitted.push((lease, delivery)),
                Admission::HoldUntil(until) => {
                    let until = now + until.saturating_sub(mono);
                    held.push((lease, delivery.held(&self.relay, until)));
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

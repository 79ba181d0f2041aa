//! One relay as the router sees it: free senders, rate limit, circuit breaker, and the turns of the
//! priorities. Decides how much to claim, and calls free senders.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use ractor::ActorRef;
use tokio::time::Instant;

use super::engine::InFlight;
use super::open_queues::OpenQueues;
use super::sender::{self, SenderId};
use super::stock::{ClaimedMail, Stock};
use super::topology::RelayPlan;
use crate::delivery::Route;
use crate::mail::Timestamp;
use crate::policy::{Breaker, BreakerState, Pace, Rate, Shares, Weights};
use crate::spool::ClaimRequest;

/// How many mails are claimed for each sender at a time.
const CLAIM_MAILS: usize = 32;
/// How many mails a probe may try. The relay may fail because of the first ones; the first mail
/// that it accepts shows that it is up.
const PROBE_MAILS: usize = 8;
/// The most bytes of messages in one claim; the first mail may exceed it.
const CLAIM_BYTES: usize = 4 * 1024 * 1024;
/// How many recipients are sent in one transaction: what every server must accept (RFC 5321
/// §4.5.3.1.8).
const RECIPIENTS: usize = 100;

/// A relay's lane.
pub(super) struct Lane {
    pub relay: Arc<str>,
    pub connections: usize,
    pub rate: Option<Rate>,
    /// The routes from which it may claim mail now.
    pub queues: OpenQueues,
    pub breaker: Breaker,
    pub last_failure: Option<String>,
    pub down_since: Option<Timestamp>,
    pace: Pace,
    shares: Shares,
    free: Vec<(SenderId, ActorRef<sender::Msg>)>,
    /// Senders that were called and have not reported back.
    busy: HashSet<SenderId>,
    /// Claimed mail that no sender has started.
    stock: Arc<Stock>,
    /// Whether a [`Lane::recheck`] is scheduled.
    recheck_scheduled: bool,
    /// The sender that is probing the relay.
    probing: Option<SenderId>,
    /// The claim in progress.
    claiming: Option<PendingClaim>,
    /// Whether to plan again when the claim in progress has ended.
    plan_again: bool,
    /// When the router's timer for this lane ends, in monotonic time; one timer is enough.
    alarm: Option<Duration>,
}

/// A claim in progress.
struct PendingClaim {
    /// The routes that are claimed from.
    routes: Vec<Route>,
    /// How many mails the rate limit allowed for it.
    paced: usize,
    /// Whether its mail is for probing the relay.
    probe: bool,
}

/// What a lane does next.
pub(super) enum Plan {
    /// Nothing until the next message.
    Rest,
    /// Nothing for this long.
    RestFor(Duration),
    /// This claim.
    Claim(ClaimRequest),
}

impl Lane {
    pub(super) fn new(plan: &RelayPlan, weights: Weights, stock: Arc<Stock>) -> Self {
        Lane {
            relay: Arc::clone(&plan.name),
            connections: plan.connections,
            rate: plan.rate,
            queues: OpenQueues::default(),
            breaker: Breaker::default(),
            last_failure: None,
            down_since: None,
            pace: Pace::new(plan.rate),
            shares: Shares::new(weights),
            free: Vec::new(),
            busy: HashSet::new(),
            stock,
            recheck_scheduled: false,
            probing: None,
            claiming: None,
            plan_again: false,
            alarm: None,
        }
    }

    /// Applies a new configuration and keeps everything else.
    pub(super) fn reconfigure(&mut self, plan: &RelayPlan, weights: Weights) {
        self.connections = plan.connections;
        self.shares = Shares::new(weights);
        if self.rate != plan.rate {
            self.rate = plan.rate;
            self.pace = Pace::new(plan.rate);
        }
        self.update_stock_rules();
    }

    /// Whether the relay is up, according to its breaker.
    pub(super) fn is_up(&self, monotonic: Duration) -> bool {
        self.breaker.state(monotonic) == BreakerState::Closed
    }

    pub(super) fn busy(&self) -> usize {
        self.busy.len()
    }

    /// Adds a free sender.
    pub(super) fn add_free(&mut self, sender: SenderId, actor: ActorRef<sender::Msg>) {
        self.remove(sender);
        self.free.push((sender, actor));
    }

    /// Removes a sender that has ended.
    pub(super) fn remove(&mut self, sender: SenderId) {
        self.busy.remove(&sender);
        self.free.retain(|(other, _)| *other != sender);
        self.stock.forget_sender(sender);
        if self.probing == Some(sender) {
            self.end_probing();
        }
    }

    /// Retires all senders. New senders do not wait for the mail that the retired ones still send.
    pub(super) fn retire_senders(&mut self, first_sender: SenderId) {
        self.busy.clear();
        self.free.clear();
        self.probing = None;
        self.stock.retire_senders(first_sender);
    }

    /// Returns unused permission to the rate limit, for mails that were not sent.
    pub(super) fn give_back(&mut self, mails: usize) {
        self.pace.give_back(mails);
    }

    /// What to do next. `pending` is the number of pending deliveries of all lanes.
    pub(super) fn plan(&mut self, pending: usize, now: Timestamp, monotonic: Duration) -> Plan {
        let unsent = self.stock.take_unsent();
        self.give_back(unsent);
        if self.claiming.is_some() {
            self.plan_again = true;
            return Plan::Rest;
        }

        if self.queues.is_empty() || pending == 0 {
            return Plan::Rest;
        }

        let state = self.breaker.state(monotonic);
        let (any, critical) = match state {
            BreakerState::Open => {
                let probe_at = self.breaker.probe_at();
                return probe_at.map_or(Plan::Rest, |at| self.rest_until(at, monotonic));
            }
            // Does not wait for busy senders: since the relay went down, they may be waiting for
            // answers that never come.
            BreakerState::HalfOpen if self.probing.is_none() && !self.free.is_empty() => {
                (PROBE_MAILS, 0)
            }
            BreakerState::HalfOpen => return Plan::Rest,
            BreakerState::Closed => {
                let has_become_low = self.stock.has_become_low();
                self.shortage(has_become_low)
            }
        };

        let wanted = (any + critical).min(pending);
        if wanted == 0 {
            return Plan::Rest;
        }

        let routes = self.queues.next_claim(Instant::now());
        if routes.is_empty() {
            // All routes rest after a failure; a timer is set for them.
            return Plan::Rest;
        }

        let allowed = self.pace.take(wanted, monotonic);
        if allowed.mails == 0 {
            return allowed.again_in.map_or(Plan::Rest, |span| {
                self.rest_until(monotonic + span, monotonic)
            });
        }

        // If the rate limit allows only few mails, the turns of all priorities come first: they
        // include critical mail with its weight.
        let turns = self.shares.turns(any.min(allowed.mails));
        let critical_only = allowed.mails - turns.len();

        self.claiming = Some(PendingClaim {
            routes: routes.clone(),
            paced: allowed.mails,
            probe: state == BreakerState::HalfOpen,
        });

        Plan::Claim(ClaimRequest {
            routes,
            turns,
            critical_only,
            max_bytes: CLAIM_BYTES,
            max_recipients: RECIPIENTS,
            now,
        })
    }

    /// How many mails of any priority to claim, and how many critical ones in addition.
    ///
    /// Mail is claimed in advance only as senders use it up, so that it stays in the queue while
    /// they hang. With a rate limit nothing is claimed before a sender is free: otherwise mail that
    /// the limit allowed would accumulate and be sent in a burst.
    fn shortage(&self, has_become_low: bool) -> (usize, usize) {
        let level = self.stock.level();
        let free_for_any = self.free.len().min(level.non_critical_room);
        let kept_for_critical = usize::from(free_for_any < self.free.len());

        let is_low = level.mails <= self.low() && level.bytes < CLAIM_BYTES / 2;
        let any = if self.rate.is_some() {
            if level.mails == 0 {
                free_for_any * CLAIM_MAILS
            } else {
                0
            }
        } else if is_low && (free_for_any > 0 || has_become_low) {
            (self.max_non_critical() * CLAIM_MAILS).saturating_sub(level.mails)
        } else {
            0
        };

        (any, kept_for_critical * CLAIM_MAILS)
    }

    /// The stock is low with this number of mails or fewer.
    fn low(&self) -> usize {
        self.max_non_critical() * CLAIM_MAILS / 2
    }

    /// How many senders may send mail that is not critical: with two or more connections, one is
    /// reserved for critical mail.
    fn max_non_critical(&self) -> usize {
        let kept = usize::from(self.connections >= 2);
        self.connections - kept
    }

    fn rest_until(&mut self, at: Duration, monotonic: Duration) -> Plan {
        if self.alarm.is_some_and(|alarm| alarm <= at) {
            return Plan::Rest;
        }
        self.alarm = Some(at);
        Plan::RestFor(at.saturating_sub(monotonic))
    }

    /// Handles a failed claim. Returns after what times to try again.
    pub(super) fn claim_failed(&mut self) -> Vec<Duration> {
        let Some(claiming) = self.claiming.take() else {
            return Vec::new();
        };
        self.plan_again = false;
        self.give_back(claiming.paced);
        self.queues.failed(claiming.routes, Instant::now())
    }

    /// The lane's timer has ended.
    pub(super) fn alarm_fired(&mut self) {
        self.alarm = None;
    }

    /// Adds the mail of a finished claim to the stock. Returns whether to plan again.
    pub(super) fn stock_up(
        &mut self,
        claimed: Vec<ClaimedMail>,
        monotonic: Duration,
        under_way: &InFlight,
    ) -> bool {
        let Some(claiming) = self.claiming.take() else {
            return false;
        };
        self.give_back(claiming.paced.saturating_sub(claimed.len()));

        let again = std::mem::take(&mut self.plan_again) | self.queues.answered(&claiming.routes);
        if claimed.is_empty() {
            return again;
        }

        if claiming.probe {
            self.probe(claimed, under_way);
            return again;
        }

        if !self.is_up(monotonic) {
            // The relay went down meanwhile: the mail returns to the queue, or takes the next
            // relay.
            self.give_back(claimed.len());
            return true;
        }

        self.stock.put(claimed);
        self.call_senders(monotonic, under_way);
        true
    }

    /// Lets one sender probe the relay with this mail.
    fn probe(&mut self, claimed: Vec<ClaimedMail>, under_way: &InFlight) {
        let count = claimed.len();
        let Some((sender, actor)) = self.free.pop() else {
            self.give_back(count);
            return;
        };
        self.stock
            .change_rules(|rules| rules.probing = Some(sender));
        self.stock.put(claimed);
        self.probing = Some(sender);
        self.call(sender, &actor, under_way);
    }

    /// Calls free senders, at most as many as there is mail for.
    pub(super) fn call_senders(&mut self, monotonic: Duration, under_way: &InFlight) {
        if self.probing.is_some() {
            return;
        }
        if !self.is_up(monotonic) {
            self.clear_stock();
            return;
        }

        for _ in 0..self.stock.senders_needed(self.free.len()) {
            let Some((sender, actor)) = self.free.pop() else {
                return;
            };
            self.call(sender, &actor, under_way);
        }
    }

    fn call(&mut self, sender: SenderId, actor: &ActorRef<sender::Msg>, under_way: &InFlight) {
        self.busy.insert(sender);
        self.stock.note_call(sender);
        if actor.cast(sender::Msg::Work(under_way.clone())).is_err() {
            self.remove(sender);
        }
    }

    /// After what time to check again whether a free sender may take reserved mail; `None` if that
    /// is not needed or already scheduled.
    pub(super) fn recheck_in(&mut self) -> Option<Duration> {
        if self.free.is_empty() || self.recheck_scheduled {
            return None;
        }
        let span = self.stock.recheck_in()?;
        self.recheck_scheduled = true;
        Some(span)
    }

    /// The scheduled check is due.
    pub(super) fn recheck(&mut self) {
        self.recheck_scheduled = false;
    }

    /// Returns all mail that no sender has started to the queue: the relay is down or paused.
    pub(super) fn clear_stock(&mut self) {
        self.stock.clear();
        let unsent = self.stock.take_unsent();
        self.give_back(unsent);
    }

    /// The probe has ended: all senders may send.
    pub(super) fn end_probing(&mut self) {
        self.probing = None;
        self.stock.change_rules(|rules| rules.probing = None);
    }

    fn update_stock_rules(&self) {
        let (max_non_critical, low) = (self.max_non_critical(), self.low());
        self.stock.change_rules(|rules| {
            rules.max_non_critical = max_non_critical;
            rules.low = low;
        });
    }
}

//! One relay as the router sees it: its free senders, its pace, its breaker, and whose turn it is.
//! Decides how much to claim and who gets it; does nothing by itself.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use ractor::ActorRef;

use super::engine::UnderWay;
use super::sender::{self, SenderId};
use super::topology::RelayPlan;
use crate::delivery::Route;
use crate::mail::{Priority, Timestamp};
use crate::policy::{Breaker, BreakerState, Pace, Rate, Shares, Weights};
use crate::spool::{Claim, ClaimRequest};

/// How many mails a sender gets at a time. Within a batch a connection that pipelines needs one
/// round trip a mail.
const BATCH: usize = 32;
/// How many bytes of messages one claim may hold, the first aside.
const CLAIM_BYTES: usize = 4 * 1024 * 1024;
/// How many recipients go together in one transaction: what every server must take (RFC 5321
/// §4.5.3.1.8).
const RECIPIENTS: usize = 100;

/// A relay's lane.
pub(super) struct Lane {
    pub relay: Arc<str>,
    pub connections: usize,
    pub rate: Option<Rate>,
    /// The routes from which it may take mail now.
    pub routes: Vec<Route>,
    pub breaker: Breaker,
    pub last_failure: Option<String>,
    pace: Pace,
    shares: Shares,
    free: Vec<(SenderId, ActorRef<sender::Msg>)>,
    /// Senders at work, and whether at anything but critical mail.
    busy: HashMap<SenderId, Load>,
    /// The sender that finds out whether the relay is up again.
    probing: Option<SenderId>,
    /// The claim that is under way.
    claiming: Option<Claiming>,
    /// How many claims were made: with each the routes begin at the next one, so that none waits
    /// for another to be empty.
    claims: usize,
    /// Something came up while a claim was under way.
    again: bool,
    /// When the router is woken for this lane, in monotonic time; one timer is enough.
    alarm: Option<Duration>,
    /// Nothing is claimed before, because the spool failed to answer.
    rests_until: Option<Duration>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Load {
    Critical,
    Any,
}

/// What a claim under way was made for.
#[derive(Clone, Copy)]
struct Claiming {
    /// Senders that may take anything.
    general: usize,
    /// Mails that the pace allowed.
    paced: usize,
    /// Whether it is for finding out whether the relay is up again.
    probe: bool,
}

/// What a lane wants to do.
pub(super) enum Plan {
    /// Nothing, until something happens.
    Rest,
    /// Nothing, until this long from now.
    RestFor(Duration),
    /// Claim this.
    Claim(ClaimRequest),
}

impl Lane {
    pub(super) fn new(plan: &RelayPlan, weights: Weights) -> Self {
        Lane {
            relay: Arc::clone(&plan.name),
            connections: plan.connections,
            rate: plan.rate,
            routes: Vec::new(),
            breaker: Breaker::default(),
            last_failure: None,
            pace: Pace::new(plan.rate),
            shares: Shares::new(weights),
            free: Vec::new(),
            busy: HashMap::new(),
            probing: None,
            claiming: None,
            claims: 0,
            again: false,
            alarm: None,
            rests_until: None,
        }
    }

    /// Takes on what a new configuration says, and keeps all else.
    pub(super) fn reconfigure(&mut self, plan: &RelayPlan, weights: Weights) {
        self.connections = plan.connections;
        self.shares = Shares::new(weights);
        if self.rate != plan.rate {
            self.rate = plan.rate;
            self.pace = Pace::new(plan.rate);
        }
    }

    /// Whether the relay is up, as far as is known.
    pub(super) fn is_up(&self, monotonic: Duration) -> bool {
        self.breaker.state(monotonic) == BreakerState::Closed
    }

    pub(super) fn busy(&self) -> usize {
        self.busy.len()
    }

    /// A sender is free.
    pub(super) fn add_free(&mut self, sender: SenderId, actor: ActorRef<sender::Msg>) {
        self.remove(sender);
        self.free.push((sender, actor));
    }

    /// A sender is gone.
    pub(super) fn remove(&mut self, sender: SenderId) {
        self.busy.remove(&sender);
        self.free.retain(|(other, _)| *other != sender);
        self.probing = self.probing.filter(|other| *other != sender);
    }

    /// All senders are retired: others come in their place, and do not wait for what these still
    /// have in hand.
    pub(super) fn forget_senders(&mut self) {
        self.busy.clear();
        self.free.clear();
        self.probing = None;
    }

    /// So many mails that the pace allowed were not put to the relay.
    pub(super) fn give_back(&mut self, mails: usize) {
        self.pace.give_back(mails);
    }

    /// What to do now, with so many deliveries pending.
    pub(super) fn plan(&mut self, pending: usize, now: Timestamp, monotonic: Duration) -> Plan {
        if self.claiming.is_some() {
            self.again = true;
            return Plan::Rest;
        }
        if self.free.is_empty() || self.routes.is_empty() || pending == 0 {
            return Plan::Rest;
        }

        if let Some(until) = self.rests_until.filter(|until| *until > monotonic) {
            return self.rest_until(until, monotonic);
        }
        let state = self.breaker.state(monotonic);
        let (general, critical, batch) = match state {
            BreakerState::Open => {
                let probe_at = self.breaker.probe_at();
                return probe_at.map_or(Plan::Rest, |at| self.rest_until(at, monotonic));
            }
            // Whoever was at work when it went down may still be waiting for an answer that does
            // not come.
            BreakerState::HalfOpen if self.probing.is_none() => (1, 0, 1),
            BreakerState::HalfOpen => return Plan::Rest,
            BreakerState::Closed => {
                self.probing = None;
                let general = self.free.len().min(self.room_for_any());
                (general, usize::from(general < self.free.len()), BATCH)
            }
        };

        let wish = ((general + critical) * batch).min(pending);
        let allowed = self.pace.take(wish, monotonic);
        if allowed.mails == 0 {
            return allowed.again_in.map_or(Plan::Rest, |span| {
                self.rest_until(monotonic + span, monotonic)
            });
        }

        // Where the pace allows little, it is for everybody's turns: critical mail has its weight
        // among them.
        let turns = self.shares.turns((general * batch).min(allowed.mails));
        let critical_only = allowed.mails - turns.len();
        let probe = state == BreakerState::HalfOpen;
        self.claiming = Some(Claiming {
            general,
            paced: allowed.mails,
            probe,
        });
        let mut routes = self.routes.clone();
        routes.rotate_left(self.claims % self.routes.len());
        self.claims = self.claims.wrapping_add(1);
        Plan::Claim(ClaimRequest {
            routes,
            turns,
            critical_only,
            max_bytes: CLAIM_BYTES,
            max_recipients: RECIPIENTS,
            now,
        })
    }

    fn rest_until(&mut self, at: Duration, monotonic: Duration) -> Plan {
        if self.alarm.is_some_and(|alarm| alarm <= at) {
            return Plan::Rest;
        }
        self.alarm = Some(at);
        Plan::RestFor(at.saturating_sub(monotonic))
    }

    /// Claims nothing until then.
    pub(super) fn rest(&mut self, until: Duration) {
        self.rests_until = Some(until);
    }

    /// The timer has run out.
    pub(super) fn alarm_rang(&mut self) {
        self.alarm = None;
    }

    /// How many more senders may take mail of any priority: with two or more connections, one is
    /// kept for critical mail.
    fn room_for_any(&self) -> usize {
        let kept = usize::from(self.connections >= 2);
        let taken = self
            .busy
            .values()
            .filter(|load| **load == Load::Any)
            .count();
        self.connections.saturating_sub(kept + taken)
    }

    /// The claim came back: deals it out to the free senders. Returns whether to plan again.
    pub(super) fn deal(&mut self, claims: Vec<Claim>, under_way: &UnderWay) -> bool {
        let Some(claiming) = self.claiming.take() else {
            return false;
        };
        self.give_back(claiming.paced.saturating_sub(claims.len()));

        let got_any = !claims.is_empty();
        let general = claiming.general.min(self.free.len());
        let taker = if general < self.free.len() {
            // Critical mail has senders of its own, and does not stand behind other mail.
            let (critical, any): (Vec<Claim>, Vec<Claim>) =
                claims.into_iter().partition(is_critical);
            let share = (self.free.len() * any.len()).div_ceil((critical.len() + any.len()).max(1));
            let for_any = share.min(general);
            let taker = self.hand_out(critical, self.free.len() - for_any, under_way);
            self.hand_out(any, for_any, under_way).or(taker)
        } else {
            // All go the same way, in the order of their turns: nobody is left behind for the next
            // time.
            self.hand_out(claims, general, under_way)
        };

        if claiming.probe {
            self.probing = taker;
        }
        std::mem::take(&mut self.again) || (got_any && !self.free.is_empty())
    }

    /// Spreads mail evenly over up to `senders` free senders, and returns one that got some. What
    /// finds none goes back when it is dropped.
    fn hand_out(
        &mut self,
        claims: Vec<Claim>,
        senders: usize,
        under_way: &UnderWay,
    ) -> Option<SenderId> {
        let senders = senders.min(self.free.len()).min(claims.len());
        let mut claims = claims.into_iter();
        let mut taker = None;
        for place in 0..senders {
            let Some((id, actor)) = self.free.pop() else {
                break;
            };
            let share = claims.len().div_ceil(senders - place);
            let batch: Vec<Claim> = claims.by_ref().take(share).collect();
            let count = batch.len();
            let load = if batch.iter().all(is_critical) {
                Load::Critical
            } else {
                Load::Any
            };
            self.busy.insert(id, load);
            if actor
                .cast(sender::Msg::Work(batch, under_way.clone()))
                .is_ok()
            {
                taker = Some(id);
            } else {
                self.busy.remove(&id);
                self.give_back(count);
            }
        }
        self.give_back(claims.len());
        taker
    }
}

fn is_critical(claim: &Claim) -> bool {
    claim.manifest.priority == Priority::Critical
}

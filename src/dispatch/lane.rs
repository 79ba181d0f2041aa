//! One relay as the router sees it: its free senders, its pace, its breaker, and whose turn it is. Decides how much to claim
//! and who gets it; does nothing by itself.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use ractor::ActorRef;

use super::core::UnderWay;
use super::sender::{self, SenderId};
use crate::delivery::Route;
use crate::mail::{Priority, Timestamp};
use crate::policy::{Breaker, BreakerState, Pace, Rate, Shares, Weights};
use crate::spool::{Claim, Want};

/// How many mails a sender gets at a time. Within a batch a connection that pipelines needs one round trip a mail.
const BATCH: usize = 32;
/// How many bytes of messages one claim may hold, the first aside.
const CLAIM_BYTES: usize = 4 * 1024 * 1024;
/// How many recipients go together in one transaction: what every server must take (RFC 5321 §4.5.3.1.8).
const RECIPIENTS: usize = 100;

/// A relay's lane.
pub(super) struct Lane {
    pub relay: Arc<str>,
    pub connections: usize,
    pub rate: Option<Rate>,
    pub paused: bool,
    pub breaker: Breaker,
    pub last_failure: Option<String>,
    pace: Pace,
    shares: Shares,
    free: Vec<(SenderId, ActorRef<sender::Msg>)>,
    /// Senders at work, and whether at anything but critical mail.
    busy: HashMap<SenderId, Load>,
    /// The claim that is under way.
    claiming: Option<Claiming>,
    /// Something came up while a claim was under way.
    again: bool,
    /// When a timer runs out, in monotonic time.
    wake_at: Option<Duration>,
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
}

/// What a lane wants to do.
pub(super) enum Plan {
    /// Nothing, until something happens.
    Rest,
    /// Nothing, until this long from now.
    RestFor(Duration),
    /// Claim this, and come back after so long if the pace allowed less than was wished for.
    Claim(Want, Option<Duration>),
}

impl Lane {
    pub(super) fn new(relay: &str, connections: usize, rate: Option<Rate>, weights: Weights) -> Self {
        Lane {
            relay: relay.into(),
            connections,
            rate,
            paused: false,
            breaker: Breaker::default(),
            last_failure: None,
            pace: Pace::new(rate),
            shares: Shares::new(weights),
            free: Vec::new(),
            busy: HashMap::new(),
            claiming: None,
            again: false,
            wake_at: None,
        }
    }

    /// Takes on what a new configuration says, and keeps all else.
    pub(super) fn reconfigure(&mut self, connections: usize, rate: Option<Rate>, weights: Weights) {
        self.connections = connections;
        self.shares = Shares::new(weights);
        if self.rate != rate {
            self.rate = rate;
            self.pace = Pace::new(rate);
        }
    }

    /// Whether a timer must be set for `at`, because none runs out before. However often something falls due, one is enough.
    pub(super) fn sets_timer(&mut self, at: Duration) -> bool {
        let sets = self.wake_at.is_none_or(|earlier| at < earlier);
        if sets {
            self.wake_at = Some(at);
        }
        sets
    }

    /// The timer that was set for `at` has run out.
    pub(super) fn timer_ran_out(&mut self, at: Duration) {
        self.wake_at = self.wake_at.filter(|next| *next != at);
    }

    /// Whether mail may take this relay.
    pub(super) fn is_open(&self, monotonic: Duration) -> bool {
        !self.paused && self.breaker.state(monotonic) == BreakerState::Closed
    }

    pub(super) fn busy(&self) -> usize {
        self.busy.len()
    }

    /// A sender is free.
    pub(super) fn add_free(&mut self, sender: SenderId, actor: ActorRef<sender::Msg>) {
        self.busy.remove(&sender);
        self.free.retain(|(other, _)| *other != sender);
        self.free.push((sender, actor));
    }

    /// A sender is gone.
    pub(super) fn remove(&mut self, sender: SenderId) {
        self.busy.remove(&sender);
        self.free.retain(|(other, _)| *other != sender);
    }

    /// What to do now, over these routes.
    pub(super) fn plan(&mut self, routes: Vec<Route>, now: Timestamp, monotonic: Duration) -> Plan {
        if self.claiming.is_some() {
            self.again = true;
            return Plan::Rest;
        }
        if self.paused || self.free.is_empty() || routes.is_empty() {
            return Plan::Rest;
        }
        let (general, critical, batch) = match self.breaker.state(monotonic) {
            BreakerState::Open => {
                let wait = self.breaker.probe_at().map(|at| at.saturating_sub(monotonic));
                return wait.map_or(Plan::Rest, Plan::RestFor);
            }
            BreakerState::HalfOpen if self.busy.is_empty() => (1, 0, 1),
            BreakerState::HalfOpen => return Plan::Rest,
            BreakerState::Closed => {
                let general = self.free.len().min(self.room_for_any());
                (general, usize::from(general < self.free.len()), BATCH)
            }
        };
        let wish = (general + critical) * batch;
        let allowed = self.pace.take(wish, monotonic);
        if allowed.mails == 0 {
            return allowed.again_in.map_or(Plan::Rest, Plan::RestFor);
        }
        let critical_only = (critical * batch).min(allowed.mails);
        let turns = self.shares.turns((general * batch).min(allowed.mails - critical_only));
        self.claiming = Some(Claiming { general, paced: allowed.mails });
        let want = Want { routes, turns, critical_only, max_bytes: CLAIM_BYTES, max_recipients: RECIPIENTS, now };
        Plan::Claim(want, allowed.again_in)
    }

    /// How many more senders may take mail of any priority: with two or more connections, one is kept for critical mail.
    fn room_for_any(&self) -> usize {
        let kept = usize::from(self.connections >= 2);
        let taken = self.busy.values().filter(|load| **load == Load::Any).count();
        self.connections.saturating_sub(kept + taken)
    }

    /// The claim came back: deals it out to the free senders. Returns whether to plan again.
    pub(super) fn deal(&mut self, claims: Vec<Claim>, under_way: &UnderWay) -> bool {
        let Some(claiming) = self.claiming.take() else { return false };
        self.pace.give_back(claiming.paced.saturating_sub(claims.len()));
        let got_any = !claims.is_empty();
        let (critical, any): (Vec<Claim>, Vec<Claim>) =
            claims.into_iter().partition(|claim| claim.manifest.priority == Priority::Critical);
        let for_any = if any.is_empty() { 0 } else { claiming.general.min(self.free.len()).max(1) };
        // Critical mail goes first, to senders of its own as far as there are any.
        let for_critical = if critical.is_empty() { 0 } else { (self.free.len().saturating_sub(for_any)).max(1) };
        self.hand_out(critical, for_critical, Load::Critical, under_way);
        self.hand_out(any, for_any, Load::Any, under_way);
        std::mem::take(&mut self.again) || (got_any && !self.free.is_empty())
    }

    /// Spreads mail evenly over up to `senders` free senders. What finds none goes back when it is dropped.
    fn hand_out(&mut self, claims: Vec<Claim>, senders: usize, load: Load, under_way: &UnderWay) {
        let senders = senders.min(self.free.len()).min(claims.len());
        let mut claims = claims.into_iter();
        for place in 0..senders {
            let Some((id, actor)) = self.free.pop() else { return };
            let share = claims.len().div_ceil(senders - place);
            let batch: Vec<Claim> = claims.by_ref().take(share).collect();
            self.busy.insert(id, load);
            if actor.cast(sender::Msg::Work(batch, under_way.clone())).is_err() {
                self.busy.remove(&id);
            }
        }
    }
}

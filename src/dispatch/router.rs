//! The router actor: owns one lane a relay. When a lane has room it claims due mail for it, and
//! hands it to senders.
//!
//! A claim may read the disk, so it is made off the actor's turn and comes back as a message; at
//! most one is under way for a lane. A router that is created anew knows nothing and needs nothing:
//! senders say that they are free when it says hello.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};

use super::core::{Core, UnderWay};
use super::lane::{Lane, Plan};
use super::report::RelayStatus;
use super::sender::{self, Report, SenderId};
use crate::delivery::Route;
use crate::observe::EventKind;
use crate::policy::{BreakerState, Rate, Weights};
use crate::spool::{Claim, SpoolError};

/// How long after the spool failed to answer a claim it is asked again.
const AFTER_FAILURE: Duration = Duration::from_secs(1);

pub(super) enum Msg {
    /// Something may be due.
    Wake,
    /// A timer of this lane has run out.
    WakeLane(Arc<str>),
    /// A claim came back.
    Claimed(Arc<str>, Result<Vec<Claim>, SpoolError>, UnderWay),
    /// A sender is free, and says what its last batch taught.
    Free {
        sender: SenderId,
        relay: Arc<str>,
        actor: ActorRef<sender::Msg>,
        report: Report,
    },
    /// A sender has ended.
    Gone { sender: SenderId, relay: Arc<str> },
    /// Stop or go on sending over a relay; answers whether there is such a relay.
    Pause {
        relay: String,
        paused: bool,
        reply: RpcReplyPort<bool>,
    },
    /// The relays, now.
    Relays(RpcReplyPort<Vec<RelayStatus>>),
    /// New relays, routes and weights.
    Configure(Plans),
    /// Panic, for tests of what holds then.
    Crash,
}

/// What lanes there are, and over which routes mail goes.
#[derive(Clone)]
pub(super) struct Plans {
    pub lanes: Vec<LanePlan>,
    pub routes: Vec<Route>,
    /// Routes that there were earlier in this process. Mail that was in a sender's hands, or being
    /// accepted, when they were removed may still come to wait for them.
    pub former_routes: Vec<Route>,
    /// The route that such mail takes.
    pub fallback: Route,
    pub weights: Weights,
    /// The first of the senders that work by these plans. Earlier ones only finish what they have
    /// in hand.
    pub first_sender: SenderId,
}

impl Plans {
    /// Remembers the routes that there were before these.
    pub(super) fn follow(&mut self, before: &Plans) {
        let former = before
            .routes
            .iter()
            .chain(&before.former_routes)
            .filter(|route| !self.routes.contains(route));
        self.former_routes = former.cloned().collect();
    }
}

/// One relay's lane.
#[derive(Clone)]
pub(super) struct LanePlan {
    pub relay: String,
    pub connections: usize,
    pub rate: Option<Rate>,
}

pub(super) struct Args {
    pub core: Arc<Core>,
    pub plans: Plans,
}

pub(super) struct State {
    core: Arc<Core>,
    lanes: Vec<Lane>,
    routes: Vec<Route>,
    former_routes: Vec<Route>,
    fallback: Route,
    first_sender: SenderId,
}

pub(super) struct Router;

impl Actor for Router {
    type Msg = Msg;
    type State = State;
    type Arguments = Args;

    async fn pre_start(&self, _: ActorRef<Msg>, args: Args) -> Result<State, ActorProcessingErr> {
        let Args { core, plans } = args;
        let mut state = State {
            core,
            lanes: Vec::new(),
            routes: Vec::new(),
            former_routes: Vec::new(),
            fallback: Route::over([]),
            first_sender: 0,
        };
        state.configure(plans);
        Ok(state)
    }

    async fn handle(
        &self,
        myself: ActorRef<Msg>,
        msg: Msg,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match msg {
            Msg::Wake => state.fill_all(&myself),
            Msg::WakeLane(relay) => {
                if let Some(lane) = state.lane(&relay) {
                    lane.alarm_rang();
                }
                state.fill_named(&myself, &relay);
            }
            Msg::Claimed(relay, claims, under_way) => {
                state.claimed(&myself, &relay, claims, &under_way)
            }
            Msg::Free {
                sender,
                relay,
                actor,
                report,
            } => state.free(&myself, sender, &relay, actor, report),
            Msg::Gone { sender, relay } => state.gone(&myself, &relay, sender),
            Msg::Pause {
                relay,
                paused,
                reply,
            } => {
                let known = state.pause(&relay, paused);
                let _ = reply.send(known);
                state.fill_all(&myself);
            }
            Msg::Relays(reply) => _ = reply.send(state.relays()),
            Msg::Configure(plans) => {
                state.configure(plans);
                state.fill_all(&myself);
            }
            Msg::Crash => panic!("the router was told to crash"),
        }
        Ok(())
    }
}

impl State {
    fn configure(&mut self, plans: Plans) {
        let mut old = std::mem::take(&mut self.lanes);
        for plan in plans.lanes {
            let known = old
                .iter()
                .position(|lane| *lane.relay == *plan.relay)
                .map(|at| old.swap_remove(at));
            let mut lane = known.unwrap_or_else(|| {
                Lane::new(&plan.relay, plan.connections, plan.rate, plans.weights)
            });
            lane.reconfigure(plan.connections, plan.rate, plans.weights);
            lane.forget_senders();
            self.lanes.push(lane);
        }
        self.routes = plans.routes;
        self.former_routes = plans.former_routes;
        self.fallback = plans.fallback;
        self.first_sender = plans.first_sender;
    }

    fn lane(&mut self, relay: &str) -> Option<&mut Lane> {
        self.lanes.iter_mut().find(|lane| *lane.relay == *relay)
    }

    fn fill_all(&mut self, myself: &ActorRef<Msg>) {
        for at in 0..self.lanes.len() {
            self.fill(myself, at);
        }
    }

    fn fill_named(&mut self, myself: &ActorRef<Msg>, relay: &str) {
        if let Some(at) = self.lanes.iter().position(|lane| *lane.relay == *relay) {
            self.fill(myself, at);
        }
    }

    fn fill(&mut self, myself: &ActorRef<Msg>, at: usize) {
        // Counted first and asked second: a shutdown says so first and counts second, so that one
        // of the two sees the other.
        let under_way = self.core.begin();
        // Should a failure of the spool pass: the scheduler wakes us now and then.
        if !self.core.is_sending() {
            return;
        }
        if self.core.is_paused(&self.lanes[at].relay) {
            return;
        }
        let routes = self.routes_of(at);
        let (now, monotonic) = (self.core.clock.now(), self.core.clock.monotonic());
        let pending = usize::try_from(self.core.spool.pending()).unwrap_or(usize::MAX);
        let lane = &mut self.lanes[at];
        let relay = Arc::clone(&lane.relay);
        match lane.plan(routes, pending, now, monotonic) {
            Plan::Rest => {}
            Plan::RestFor(span) => self.wake_after(myself, relay, span),
            Plan::Claim(want) => {
                let (core, router) = (Arc::clone(&self.core), myself.clone());
                tokio::spawn(async move {
                    // A spool that panics must not leave the lane waiting for its answer.
                    let claims = AssertUnwindSafe(core.spool.claim(want))
                        .catch_unwind()
                        .await;
                    let claims = claims
                        .unwrap_or_else(|_| Err(SpoolError::Unreadable("it has panicked".into())));
                    // If the router is gone the claims are dropped here, and so go back.
                    let _ = router.cast(Msg::Claimed(relay, claims, under_way));
                });
            }
        }
    }

    /// The routes whose mail this lane may take now: those on which every relay before it is down.
    /// Mail of routes that are no more goes as the fallback's does.
    fn routes_of(&self, at: usize) -> Vec<Route> {
        let monotonic = self.core.clock.monotonic();
        let lane = &self.lanes[at];
        let is_first_open = |route: &Route| {
            for relay in route.relays() {
                if *relay == *lane.relay {
                    return true;
                }
                let is_up = self
                    .lanes
                    .iter()
                    .any(|other| *other.relay == *relay && other.is_up(monotonic));
                if is_up && !self.core.is_paused(relay) {
                    return false;
                }
            }
            false
        };
        let mut routes: Vec<Route> = self
            .routes
            .iter()
            .filter(|route| is_first_open(route))
            .cloned()
            .collect();
        if is_first_open(&self.fallback) {
            routes.extend_from_slice(&self.former_routes);
        }
        routes
    }

    fn wake_after(&self, myself: &ActorRef<Msg>, relay: Arc<str>, span: Duration) {
        let (clock, router) = (self.core.clock.clone(), myself.clone());
        tokio::spawn(async move {
            clock.sleep(span).await;
            let _ = router.cast(Msg::WakeLane(relay));
        });
    }

    fn claimed(
        &mut self,
        myself: &ActorRef<Msg>,
        relay: &Arc<str>,
        claims: Result<Vec<Claim>, SpoolError>,
        under_way: &UnderWay,
    ) {
        let claims = claims.unwrap_or_else(|error| {
            tracing::error!(%relay, %error, "no mail can be claimed");
            self.wake_after(myself, Arc::clone(relay), AFTER_FAILURE);
            Vec::new()
        });
        let Some(lane) = self.lane(relay) else { return };
        if lane.deal(claims, under_way) {
            self.fill_named(myself, relay);
        }
    }

    fn free(
        &mut self,
        myself: &ActorRef<Msg>,
        sender: SenderId,
        relay: &Arc<str>,
        actor: ActorRef<sender::Msg>,
        report: Report,
    ) {
        if sender < self.first_sender {
            // It is retired: it gets no more, and what it learned is of a relay as it was
            // configured before.
            return;
        }
        let (now, monotonic) = (self.core.clock.now(), self.core.clock.monotonic());
        let chance = self.core.chance();
        let events = self.core.events.clone();
        let Some(lane) = self.lane(relay) else { return };
        lane.add_free(sender, actor);
        lane.give_back(report.unsent);
        let mut turned = false;
        if report.answered && lane.breaker.succeeded() {
            turned = true;
            tracing::info!(%relay, "the relay is up again");
            events.tell(now, None, None, Some(relay), EventKind::RelayUp);
        }
        if let Some(reason) = report.failed {
            if lane.breaker.failed(monotonic, chance) {
                turned = true;
                tracing::warn!(%relay, reason, "the relay is down; its mail waits or takes the next relay");
                events.tell(
                    now,
                    None,
                    None,
                    Some(relay),
                    EventKind::RelayDown {
                        reason: reason.clone(),
                    },
                );
            }
            lane.last_failure = Some(reason);
        }
        if turned {
            // Which lane may take a route's mail has changed.
            self.fill_all(myself);
        } else {
            self.fill_named(myself, relay);
        }
    }

    fn gone(&mut self, myself: &ActorRef<Msg>, relay: &str, sender: SenderId) {
        if let Some(lane) = self.lane(relay) {
            lane.remove(sender);
            // What it was given and did not take up may wait for another.
            self.fill_named(myself, relay);
        }
    }

    fn pause(&mut self, relay: &str, paused: bool) -> bool {
        let known = self.lane(relay).is_some();
        if known {
            self.core.pause(relay, paused);
        }
        known
    }

    fn relays(&self) -> Vec<RelayStatus> {
        let monotonic = self.core.clock.monotonic();
        let status = |lane: &Lane| {
            let breaker = lane.breaker.state(monotonic);
            let state = match breaker {
                _ if self.core.is_paused(&lane.relay) => "paused",
                BreakerState::Closed => "up",
                _ => "down",
            };
            RelayStatus {
                name: lane.relay.to_string(),
                state: state.to_owned(),
                breaker: breaker.as_str().to_owned(),
                connections: lane.connections,
                busy: lane.busy(),
                rate: lane.rate.map(|rate| rate.to_string()),
                backlog: 0,
                last_failure: lane.last_failure.clone(),
            }
        };
        self.lanes.iter().map(status).collect()
    }
}

//! The router actor: owns one lane per relay. When a lane needs mail, the router claims due mail
//! for it and calls the lane's senders.
//!
//! A claim may read the disk, so it is made outside the actor's turn and comes back as a message;
//! at most one is under way per lane. A restarted router needs no state: the supervisor introduces
//! it to the senders (`sender::Msg::Hello`), and they report which of them are free.

use std::collections::{HashMap, HashSet};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};

use super::engine::{Engine, InFlight};
use super::lane::{Lane, Plan};
use super::report::{RelayKind, RelayState, RelayStatus, RestingStatus};
use super::sender::{self, SenderId, TurnReport};
use super::stock::ClaimedMail;
use super::topology::Topology;
use crate::delivery::{Event, EventKind, Route, Stage};
use crate::mail::Timestamp;
use crate::policy::BreakerState;
use crate::spool::SpoolError;

pub(super) enum Msg {
    /// Something may be due.
    Wake,
    /// The timer of this lane has ended.
    WakeLane(Arc<str>),
    /// Claim mail for this lane, if it needs any.
    Fill(Arc<str>),
    /// An idle sender of this lane may now take mail that is reserved for another.
    Recheck(Arc<str>),
    /// The result of a claim.
    Claimed(Arc<str>, Result<Vec<ClaimedMail>, SpoolError>, InFlight),
    /// A sender is free; with the report of its last turn.
    Free {
        sender: SenderId,
        relay: Arc<str>,
        actor: ActorRef<sender::Msg>,
        report: TurnReport,
    },
    /// A sender has ended.
    Gone { sender: SenderId, relay: Arc<str> },
    /// Pause or resume a relay; answers whether there is such a relay.
    Pause {
        relay: String,
        paused: bool,
        reply: RpcReplyPort<bool>,
    },
    /// Answers with the status of all relays.
    Relays(RpcReplyPort<Vec<RelayStatus>>),
    /// New relays, routes and weights, and the id of the first sender that works with them.
    Configure(Arc<Topology>, SenderId),
    /// Panics, for tests.
    #[cfg(any(test, feature = "testing"))]
    Crash,
}

pub(super) struct Args {
    pub engine: Arc<Engine>,
    pub topology: Arc<Topology>,
    pub first_sender: SenderId,
}

pub(super) struct State {
    engine: Arc<Engine>,
    topology: Arc<Topology>,
    first_sender: SenderId,
    /// Indexed as the relays of the topology.
    lanes: Vec<Lane>,
    /// Which lanes may take a route's mail now.
    takers: HashMap<Route, Vec<usize>>,
    /// The routes of waiting mail that were reported because there is no such route here.
    unknown: HashSet<Route>,
}

pub(super) struct Router;

impl Actor for Router {
    type Msg = Msg;
    type State = State;
    type Arguments = Args;

    async fn pre_start(&self, _: ActorRef<Msg>, args: Args) -> Result<State, ActorProcessingErr> {
        let Args {
            engine,
            topology,
            first_sender,
        } = args;

        let mut state = State {
            engine,
            topology: Arc::clone(&topology),
            first_sender,
            lanes: Vec::new(),
            takers: HashMap::new(),
            unknown: HashSet::new(),
        };

        state.configure(topology, first_sender);
        Ok(state)
    }

    async fn handle(
        &self,
        myself: ActorRef<Msg>,
        msg: Msg,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match msg {
            Msg::Wake => state.fill_due(&myself),
            Msg::WakeLane(relay) => {
                if let Some(lane) = state.lane(&relay) {
                    lane.alarm_fired();
                }
                state.fill_named(&myself, &relay);
            }
            Msg::Fill(relay) => state.fill_named(&myself, &relay),
            Msg::Recheck(relay) => {
                if let Some(lane) = state.lane(&relay) {
                    lane.recheck();
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
            Msg::Configure(topology, first_sender) => {
                state.configure(topology, first_sender);
                state.fill_all(&myself);
            }
            #[cfg(any(test, feature = "testing"))]
            Msg::Crash => panic!("crashed by a test"),
        }

        Ok(())
    }
}

impl State {
    fn configure(&mut self, topology: Arc<Topology>, first_sender: SenderId) {
        let known = std::mem::take(&mut self.lanes).into_iter();
        let mut known: HashMap<Arc<str>, Lane> =
            known.map(|lane| (Arc::clone(&lane.relay), lane)).collect();
        for plan in &topology.relays {
            let lane = known.remove(&plan.name);
            let mut lane = lane.unwrap_or_else(|| {
                let stock = self.engine.stocks.of(&plan.name);
                Lane::new(plan, topology.weights, stock)
            });
            lane.reconfigure(plan, topology.weights);
            lane.retire_senders(first_sender);
            self.lanes.push(lane);
        }

        // The remaining lanes belong to relays that were removed.
        known.values_mut().for_each(Lane::clear_stock);
        self.topology = topology;
        self.first_sender = first_sender;
        self.open_routes();
    }

    fn lane(&mut self, relay: &str) -> Option<&mut Lane> {
        let at = self.topology.position(relay)?;
        self.lanes.get_mut(at)
    }

    /// Determines the routes from which each lane may claim mail: those on which every earlier
    /// relay is down or paused. Mail of routes that were removed is treated like mail of the
    /// fallback route. Must be called whenever a relay goes up or down, is paused or resumed.
    fn open_routes(&mut self) {
        let monotonic = self.engine.clock.monotonic();
        let is_open = |lane: &Lane| lane.is_up(monotonic) && !self.engine.is_paused(&lane.relay);
        let open: Vec<bool> = self.lanes.iter().map(is_open).collect();

        // The lanes that may claim a route's mail, by route.
        let takers_of = |route: &Route| self.topology.takers(route, &open);
        let known = self.topology.routes.iter();
        let mut takers: HashMap<Route, Vec<usize>> = known
            .map(|route| (route.clone(), takers_of(route)))
            .collect();
        let fallback = takers_of(&self.topology.fallback);
        for route in &self.topology.former_routes {
            takers.insert(route.clone(), fallback.clone());
        }

        // The routes, by lane.
        let mut routes = vec![Vec::new(); self.lanes.len()];
        let all = self
            .topology
            .routes
            .iter()
            .chain(&self.topology.former_routes);
        for route in all {
            takers[route]
                .iter()
                .for_each(|at| routes[*at].push(route.clone()));
        }

        self.takers = takers;
        for (lane, routes) in self.lanes.iter_mut().zip(routes) {
            lane.queues.open(routes);
        }
    }

    fn fill_all(&mut self, myself: &ActorRef<Msg>) {
        for at in 0..self.lanes.len() {
            self.fill(myself, at);
        }
    }

    /// Fills the lanes for which something may be due.
    fn fill_due(&mut self, myself: &ActorRef<Msg>) {
        let Some(routes) = self.engine.spool.due_routes(self.engine.clock.now()) else {
            return self.fill_all(myself);
        };
        // Another node of the spool may have such a route, and a start of this one would move it.
        let unknown = routes
            .iter()
            .filter(|route| !self.takers.contains_key(route));
        for route in unknown {
            if self.unknown.insert(route.clone()) {
                tracing::warn!(
                    route = route.as_str(),
                    "mail waits for a route that is not in this node's configuration"
                );
            }
        }

        let takers = routes.iter().filter_map(|route| self.takers.get(route));
        let mut lanes: Vec<usize> = takers.flatten().copied().collect();
        lanes.sort_unstable();
        lanes.dedup();
        for at in lanes {
            self.fill(myself, at);
        }
    }

    fn fill_named(&mut self, myself: &ActorRef<Msg>, relay: &str) {
        if let Some(at) = self.topology.position(relay) {
            self.fill(myself, at);
        }
    }

    fn fill(&mut self, myself: &ActorRef<Msg>, at: usize) {
        // Counted as in flight before the check for a shutdown. A shutdown does these in the
        // opposite order, so that one of them always notices the other.
        let under_way = self.engine.begin();

        // When the spool works again, the scheduler wakes the router.
        if !self.engine.is_sending() {
            return;
        }
        if self.engine.is_paused(&self.lanes[at].relay) {
            return;
        }

        let (now, monotonic) = (self.engine.clock.now(), self.engine.clock.monotonic());
        let pending = usize::try_from(self.engine.spool.pending()).unwrap_or(usize::MAX);

        let lane = &mut self.lanes[at];
        let relay = Arc::clone(&lane.relay);
        lane.call_senders(monotonic, &under_way);
        if let Some(span) = lane.recheck_in() {
            let (relay, router) = (Arc::clone(&relay), myself.clone());
            tokio::spawn(async move {
                tokio::time::sleep(span).await;
                let _ = router.cast(Msg::Recheck(relay));
            });
        }

        match lane.plan(pending, now, monotonic) {
            Plan::Rest => {}
            Plan::RestFor(span) => self.wake_after(myself, relay, span),
            Plan::Claim(request) => {
                let (engine, router) = (Arc::clone(&self.engine), myself.clone());
                tokio::spawn(async move {
                    // If the spool panics, the lane must get an answer all the same.
                    let claims = AssertUnwindSafe(engine.spool.claim(request))
                        .catch_unwind()
                        .await;
                    let claims = claims.unwrap_or_else(|_| Err(SpoolError::panicked()));
                    let claims = claims.map(|claims| {
                        let claimed = |claim| ClaimedMail::new(claim, &engine.waiters);
                        let claims = claims
                            .into_iter()
                            .flat_map(|claim| engine.split_list_claim(claim));
                        claims.map(claimed).collect()
                    });
                    // If the router has ended, the claims are dropped here, which releases their
                    // leases.
                    let _ = router.cast(Msg::Claimed(relay, claims, under_way));
                });
            }
        }
    }

    fn wake_after(&self, myself: &ActorRef<Msg>, relay: Arc<str>, span: Duration) {
        let (clock, router) = (self.engine.clock.clone(), myself.clone());
        tokio::spawn(async move {
            clock.sleep(span).await;
            let _ = router.cast(Msg::WakeLane(relay));
        });
    }

    fn claimed(
        &mut self,
        myself: &ActorRef<Msg>,
        relay: &Arc<str>,
        claims: Result<Vec<ClaimedMail>, SpoolError>,
        under_way: &InFlight,
    ) {
        let mut claims = match claims {
            Ok(claims) => claims,
            Err(error) => return self.claim_failed(myself, relay, &error),
        };

        let monotonic = self.engine.clock.monotonic();
        // A claim that comes too late is dropped, which returns its mail to the queue.
        if !self.engine.is_sending() || self.engine.is_paused(relay) {
            claims.clear();
        }

        let (recalled, claims): (Vec<_>, Vec<_>) = claims
            .into_iter()
            .partition(|claimed| self.engine.recalls.is_recalled(claimed.manifest.id));

        let at = self.engine.clock.now();
        self.engine.end_unbegun(recalled, Stage::Cancelled { at });
        let Some(lane) = self.lane(relay) else { return };
        if lane.stock_up(claims, monotonic, under_way) {
            self.fill_named(myself, relay);
        }
    }

    /// Sets timers for the lane to try again. There is only one claim at a time, and the next one
    /// waits for such a timer, so timers do not accumulate.
    fn claim_failed(&mut self, myself: &ActorRef<Msg>, relay: &Arc<str>, error: &SpoolError) {
        tracing::error!(%relay, %error, "cannot claim mail");
        let Some(lane) = self.lane(relay) else { return };
        for span in lane.claim_failed() {
            let (relay, router) = (Arc::clone(relay), myself.clone());
            tokio::spawn(async move {
                tokio::time::sleep(span).await;
                let _ = router.cast(Msg::Fill(relay));
            });
        }
    }

    fn free(
        &mut self,
        myself: &ActorRef<Msg>,
        sender: SenderId,
        relay: &Arc<str>,
        actor: ActorRef<sender::Msg>,
        report: TurnReport,
    ) {
        if sender < self.first_sender {
            // A retired sender gets no more mail, and its report is about the old configuration.
            return;
        }

        let (now, monotonic) = (self.engine.clock.now(), self.engine.clock.monotonic());
        let chance = self.engine.chance();
        let engine = Arc::clone(&self.engine);
        let Some(lane) = self.lane(relay) else { return };

        lane.add_free(sender, actor);
        lane.give_back(report.unsent);

        let mut went_up_or_down = false;
        if report.answered && lane.breaker.succeeded() {
            went_up_or_down = true;
            lane.end_probing();
            lane.down_since = None;
            engine.set_up(relay);
            tracing::info!(%relay, "the relay is up again");
            engine.note(Event::new(now, EventKind::RelayUp).of_relay(relay));
        }

        if let Some(reason) = report.failed {
            // All mail of the stock returns to its position in the queue, as the failed mail does.
            lane.clear_stock();
            if lane.breaker.failed(monotonic, chance) {
                went_up_or_down = true;
                lane.down_since = Some(now);
                tracing::warn!(
                    %relay,
                    reason,
                    "the relay is down; its mail waits or takes the next relay"
                );
                let kind = EventKind::RelayDown {
                    reason: reason.clone(),
                };
                engine.note(Event::new(now, kind).of_relay(relay));
            }
            if lane.down_since.is_some() {
                engine.set_down(relay, &reason);
            }
            lane.last_failure = Some(reason);
        }

        if went_up_or_down {
            // Other lanes may claim a route's mail now.
            self.open_routes();
            self.fill_all(myself);
        } else {
            self.fill_named(myself, relay);
        }
    }

    fn gone(&mut self, myself: &ActorRef<Msg>, relay: &str, sender: SenderId) {
        if let Some(lane) = self.lane(relay) {
            lane.remove(sender);
            // Another sender must be called for the mail that this one was called for.
            self.fill_named(myself, relay);
        }
    }

    fn pause(&mut self, relay: &str, paused: bool) -> bool {
        let known = self.lane(relay).is_some();
        if known {
            self.engine.pause(relay, paused);
            if paused && let Some(lane) = self.lane(relay) {
                lane.clear_stock();
            }
            self.open_routes();
        }
        known
    }

    fn relays(&self) -> Vec<RelayStatus> {
        let monotonic = self.engine.clock.monotonic();
        let topology = self.engine.topology();
        let status = |lane: &Lane| {
            let breaker = lane.breaker.state(monotonic);
            let state = match breaker {
                _ if self.engine.is_paused(&lane.relay) => RelayState::Paused,
                BreakerState::Closed => RelayState::Up,
                _ => RelayState::Down,
            };

            let memory = self.engine.memory(&lane.relay);
            let now = self.engine.clock.monotonic();
            let ago = |since: Duration| {
                let at = self.engine.clock.now().as_millis();
                let span = now.saturating_sub(since).as_millis();
                Timestamp::from_millis(at - i64::try_from(span).unwrap_or(0))
            };

            let (mails, recipients) = memory.known_limits(now);
            let resting = memory.resting().into_iter().map(|rest| RestingStatus {
                since: Some(ago(rest.since)),
                domain: rest.domain,
                reason: rest.reason,
            });

            RelayStatus {
                name: lane.relay.to_string(),
                kind: topology
                    .relay(&lane.relay)
                    .map_or_else(RelayKind::default, |plan| plan.kind),
                state,
                breaker,
                connections: lane.connections,
                busy: lane.busy(),
                rate: lane.rate.map(|rate| rate.to_string()),
                backlog: 0,
                last_failure: lane.last_failure.clone(),
                since: lane.down_since.filter(|_| breaker != BreakerState::Closed),
                resting_domains: resting.collect(),
                messages_per_session: mails,
                recipients_per_transaction: recipients.map(|count| count as usize),
                recent: None,
            }
        };

        self.lanes.iter().map(status).collect()
    }
}

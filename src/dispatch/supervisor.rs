//! The supervisor actor: starts the router, the senders and the scheduler, and restarts them when
//! they end.
//!
//! No state is lost with a child: its leases are released, and what it knew is in the spool or is
//! sent to its successor. If children end too often, the dispatcher ends; the mail is safe in the
//! spool.

use std::collections::{HashMap, VecDeque};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use ractor::{
    Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef, RpcReplyPort, SupervisionEvent,
};
use tokio::runtime::Handle;
use tokio::time::Instant;

use super::engine::Engine;
use super::life::LifeStage;
use super::router::{self, Router};
use super::scheduler::{self, Scheduler};
use super::sender::{self, Sender, SenderId};
use super::topology::{RelayPlan, Topology};
use crate::spool::SpoolError;

/// How many children may end within [`BUDGET_WINDOW`] before the dispatcher ends.
const RESTART_BUDGET: usize = 20;
const BUDGET_WINDOW: Duration = Duration::from_secs(60);
/// How long to wait before the first restart; doubled with each further one, up to the maximum.
const FIRST_BACK_OFF: Duration = Duration::from_millis(10);
const LONGEST_BACK_OFF: Duration = Duration::from_secs(2);
/// How long a sender may take to close its connection before it is killed.
const SENDER_STOPS_WITHIN: Duration = Duration::from_secs(3);

pub(super) enum Msg {
    /// For the current router.
    ToRouter(router::Msg),
    /// Start a child again.
    Respawn(Child),
    /// Apply new relays, routes and weights.
    Configure(Arc<Topology>, RpcReplyPort<()>),
    /// Finish mail in flight within this time, and stop. Answers whether all was finished.
    Shutdown(Duration, Option<RpcReplyPort<bool>>),
    /// Mail in flight is finished, or the time is up.
    Finish(bool, Option<RpcReplyPort<bool>>),
    /// Make a child panic, for tests.
    #[cfg(any(test, feature = "testing"))]
    Crash(Child),
}

/// A kind of child.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Child {
    Router,
    Scheduler,
    /// One of this relay's senders.
    Sender(Arc<str>),
}

impl Child {
    fn name(&self) -> &'static str {
        match self {
            Child::Router => "router",
            Child::Scheduler => "scheduler",
            Child::Sender(_) => "sender",
        }
    }
}

pub(super) struct Args {
    pub engine: Arc<Engine>,
    pub topology: Arc<Topology>,
}

pub(super) struct State {
    engine: Arc<Engine>,
    topology: Arc<Topology>,
    router: ActorRef<router::Msg>,
    scheduler: ActorRef<scheduler::Msg>,
    senders: HashMap<ActorId, SenderEntry>,
    last_sender: SenderId,
    /// The first sender of the current topology. Earlier ones only finish the mail that they hold.
    first_sender: SenderId,
    ends: VecDeque<Instant>,
    stopping: bool,
}

struct SenderEntry {
    id: SenderId,
    relay: Arc<str>,
    actor: ActorRef<sender::Msg>,
    /// Whether it was told to stop, and is not replaced.
    retired: bool,
}

pub(super) struct Supervisor;

impl Actor for Supervisor {
    type Msg = Msg;
    type State = State;
    type Arguments = Args;

    async fn pre_start(
        &self,
        myself: ActorRef<Msg>,
        args: Args,
    ) -> Result<State, ActorProcessingErr> {
        let Args { engine, topology } = args;
        let router = spawn_router(&engine, &topology, 0, &myself).await?;
        let scheduler = spawn_scheduler(&engine, &router, &myself).await?;
        let mut state = State {
            engine,
            topology,
            router,
            scheduler,
            senders: HashMap::new(),
            last_sender: 0,
            first_sender: 0,
            ends: VecDeque::new(),
            stopping: false,
        };

        state.spawn_senders(&myself).await?;
        Ok(state)
    }

    async fn handle(
        &self,
        myself: ActorRef<Msg>,
        msg: Msg,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match msg {
            Msg::ToRouter(msg) => _ = state.router.cast(msg),
            Msg::Respawn(child) => state.respawn(&myself, child).await?,
            Msg::Configure(topology, reply) => {
                state.configure(&myself, topology).await?;
                let _ = reply.send(());
            }
            Msg::Shutdown(within, reply) => state.shut_down(&myself, within, reply),
            Msg::Finish(finished, reply) => state.finish(&myself, finished, reply).await,
            #[cfg(any(test, feature = "testing"))]
            Msg::Crash(child) => state.crash(&child),
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<Msg>,
        event: SupervisionEvent,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorFailed(cell, error) => {
                state.child_ended(&myself, &cell, &error.to_string()).await
            }
            SupervisionEvent::ActorTerminated(cell, _, reason) => {
                state
                    .child_ended(&myself, &cell, reason.as_deref().unwrap_or("it stopped"))
                    .await
            }
            _ => Ok(()),
        }
    }
}

async fn spawn_router(
    engine: &Arc<Engine>,
    topology: &Arc<Topology>,
    first_sender: SenderId,
    myself: &ActorRef<Msg>,
) -> Result<ActorRef<router::Msg>, ActorProcessingErr> {
    let args = router::Args {
        engine: Arc::clone(engine),
        topology: Arc::clone(topology),
        first_sender,
    };
    Ok(Router::spawn_linked(None, Router, args, myself.get_cell())
        .await?
        .0)
}

async fn spawn_scheduler(
    engine: &Arc<Engine>,
    router: &ActorRef<router::Msg>,
    myself: &ActorRef<Msg>,
) -> Result<ActorRef<scheduler::Msg>, ActorProcessingErr> {
    let args = scheduler::Args {
        engine: Arc::clone(engine),
        router: router.clone(),
    };
    Ok(
        Scheduler::spawn_linked(None, Scheduler, args, myself.get_cell())
            .await?
            .0,
    )
}

/// Closes the spool, and then sets how the engine ended: callers that wait for that may open the
/// spool again.
async fn end(engine: &Engine, end: LifeStage) {
    // If the spool panics, callers that wait for the end must be notified all the same.
    let closing = AssertUnwindSafe(engine.spool.close()).catch_unwind();
    let closed = closing
        .await
        .unwrap_or_else(|_| Err(SpoolError::panicked()));
    if let Err(error) = &closed {
        tracing::error!(%error, "cannot close the spool");
    }
    engine.life.end(match (end, closed) {
        (LifeStage::Stopped, Err(error)) => LifeStage::Failed(error.to_string()),
        (end, _) => end,
    });
}

/// If the supervisor is stopped by its own supervisor, the dispatcher ends.
impl Drop for State {
    fn drop(&mut self) {
        if self.stopping {
            return;
        }

        let engine = Arc::clone(&self.engine);
        let ending = async move {
            let reason =
                "its supervisor was stopped from outside; accepted mail is safe in the spool";
            end(&engine, LifeStage::Failed(reason.into())).await;
        };

        // Without a runtime, no caller can be waiting.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(ending);
        }
    }
}

impl State {
    async fn spawn_senders(&mut self, myself: &ActorRef<Msg>) -> Result<(), ActorProcessingErr> {
        let topology = Arc::clone(&self.topology);
        for plan in &topology.relays {
            for _ in 0..plan.connections {
                self.spawn_sender(myself, plan).await?;
            }
        }
        Ok(())
    }

    async fn spawn_sender(
        &mut self,
        myself: &ActorRef<Msg>,
        plan: &RelayPlan,
    ) -> Result<(), ActorProcessingErr> {
        self.last_sender += 1;
        let id = self.last_sender;
        let args = sender::Args {
            id,
            relay: Arc::clone(&plan.name),
            transport: Arc::clone(&plan.transport),
            idle_timeout: plan.idle_timeout,
            engine: Arc::clone(&self.engine),
            memory: self.engine.memory(&plan.name),
            router: self.router.clone(),
        };

        let actor = Sender::spawn_linked(None, Sender, args, myself.get_cell())
            .await?
            .0;

        let relay = Arc::clone(&plan.name);
        self.senders.insert(
            actor.get_id(),
            SenderEntry {
                id,
                relay,
                actor,
                retired: false,
            },
        );

        Ok(())
    }

    /// Handles the end of a child: it is restarted after a delay, unless children ended too often
    /// or this was intended.
    async fn child_ended(
        &mut self,
        myself: &ActorRef<Msg>,
        cell: &ActorCell,
        why: &str,
    ) -> Result<(), ActorProcessingErr> {
        let child = if cell.get_id() == self.router.get_id() {
            Child::Router
        } else if cell.get_id() == self.scheduler.get_id() {
            Child::Scheduler
        } else if let Some(gone) = self.senders.remove(&cell.get_id()) {
            let _ = self.router.cast(router::Msg::Gone {
                sender: gone.id,
                relay: Arc::clone(&gone.relay),
            });
            if gone.retired {
                return Ok(());
            }
            Child::Sender(gone.relay)
        } else {
            return Ok(());
        };

        if self.stopping {
            return Ok(());
        }

        let now = Instant::now();
        self.ends.push_back(now);
        while self
            .ends
            .front()
            .is_some_and(|end| now.duration_since(*end) > BUDGET_WINDOW)
        {
            self.ends.pop_front();
        }

        if self.ends.len() > RESTART_BUDGET {
            let reason = format!(
                "its actors ended {} times within {} s, last the {} ({why}); accepted mail is \
                safe in the spool",
                self.ends.len(),
                BUDGET_WINDOW.as_secs(),
                child.name(),
            );
            tracing::error!(reason, "the dispatcher stops");
            self.stop_children(false).await;
            end(&self.engine, LifeStage::Failed(reason.clone())).await;
            return Err(reason.into());
        }

        let doublings = u32::try_from(self.ends.len() - 1)
            .unwrap_or(u32::MAX)
            .min(16);
        let back_off = FIRST_BACK_OFF
            .saturating_mul(1 << doublings)
            .min(LONGEST_BACK_OFF);
        tracing::error!(
            actor = child.name(),
            why,
            ?back_off,
            "an actor has ended and is restarted"
        );

        myself.send_after(back_off, move || Msg::Respawn(child));
        Ok(())
    }

    async fn respawn(
        &mut self,
        myself: &ActorRef<Msg>,
        child: Child,
    ) -> Result<(), ActorProcessingErr> {
        if self.stopping {
            return Ok(());
        }
        let name = child.name();

        match child {
            Child::Router => {
                self.router =
                    spawn_router(&self.engine, &self.topology, self.first_sender, myself).await?;
                let _ = self
                    .scheduler
                    .cast(scheduler::Msg::Router(self.router.clone()));
                for sender in self.senders.values() {
                    let _ = sender.actor.cast(sender::Msg::Hello(self.router.clone()));
                }
            }
            Child::Scheduler => {
                self.scheduler = spawn_scheduler(&self.engine, &self.router, myself).await?
            }
            Child::Sender(relay) => {
                let topology = Arc::clone(&self.topology);
                let at_work = self
                    .senders
                    .values()
                    .filter(|s| s.relay == relay && !s.retired)
                    .count();
                let plan = topology.relay(&relay);
                let Some(plan) = plan.filter(|plan| at_work < plan.connections) else {
                    return Ok(());
                };
                self.spawn_sender(myself, plan).await?;
            }
        }

        self.engine.metrics.restarted(name);
        Ok(())
    }

    /// Applies new relays and routes. Old senders finish the mail that they hold; new ones replace
    /// them.
    async fn configure(
        &mut self,
        myself: &ActorRef<Msg>,
        topology: Arc<Topology>,
    ) -> Result<(), ActorProcessingErr> {
        self.topology = topology;
        self.first_sender = self.last_sender + 1;
        let _ = self.router.cast(router::Msg::Configure(
            Arc::clone(&self.topology),
            self.first_sender,
        ));

        for sender in self.senders.values_mut() {
            sender.retired = true;
            sender.actor.stop(Some("its relay was reconfigured".into()));
        }

        self.spawn_senders(myself).await
    }

    fn shut_down(
        &mut self,
        myself: &ActorRef<Msg>,
        within: Duration,
        reply: Option<RpcReplyPort<bool>>,
    ) {
        // In the second half of the time senders only finish the mail that they are sending, so
        // that nothing is interrupted needlessly.
        let until = Instant::now().checked_add(within / 2);
        self.engine.life.drain(until);

        let (engine, supervisor) = (Arc::clone(&self.engine), myself.clone());
        tokio::spawn(async move {
            let finished = tokio::time::timeout(within, engine.wait_until_idle())
                .await
                .is_ok();
            let _ = supervisor.cast(Msg::Finish(finished, reply));
        });
    }

    async fn finish(
        &mut self,
        myself: &ActorRef<Msg>,
        finished: bool,
        reply: Option<RpcReplyPort<bool>>,
    ) {
        self.stop_children(finished).await;
        end(&self.engine, LifeStage::Stopped).await;
        if let Some(reply) = reply {
            let _ = reply.send(finished);
        }
        myself.stop(None);
    }

    /// Stops all children. Idle senders close their connections. A sender in the middle of a
    /// transaction is killed; its mail is sent again after the next start, possibly for the second
    /// time.
    async fn stop_children(&mut self, at_rest: bool) {
        self.stopping = true;
        self.scheduler.stop(None);
        self.router.stop(None);
        let ends = self.senders.values().map(|sender| {
            let actor = sender.actor.clone();
            async move {
                if !at_rest
                    || actor
                        .stop_and_wait(None, Some(SENDER_STOPS_WITHIN))
                        .await
                        .is_err()
                {
                    let _ = actor.kill_and_wait(Some(SENDER_STOPS_WITHIN)).await;
                }
            }
        });

        futures::future::join_all(ends).await;
        self.engine.stocks.clear();
    }

    #[cfg(any(test, feature = "testing"))]
    fn crash(&self, child: &Child) {
        let _ = match child {
            Child::Router => self.router.cast(router::Msg::Crash).is_ok(),
            Child::Scheduler => self.scheduler.cast(scheduler::Msg::Crash).is_ok(),
            Child::Sender(relay) => {
                let one = self.senders.values().find(|sender| sender.relay == *relay);
                one.is_some_and(|sender| sender.actor.cast(sender::Msg::Crash).is_ok())
            }
        };
    }
}

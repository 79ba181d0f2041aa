//! The supervisor actor: spawns the router, the senders and the scheduler, and creates anew what
//! has ended.
//!
//! A child that ends takes nothing with it: leases go back by themselves, and what a child knew is
//! either in the spool or is told to it again. Children that end too often end the dispatcher, with
//! the mail safe in the spool.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use ractor::{
    Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef, RpcReplyPort, SupervisionEvent,
};
use tokio::runtime::Handle;
use tokio::time::Instant;

use super::core::{Core, Life};
use super::router::{self, Router};
use super::scheduler::{self, Scheduler};
use super::sender::{self, Sender, SenderId};
use crate::transport::Transport;

/// So many children may end within [`BUDGET_WINDOW`] before the dispatcher gives up.
const BUDGET: usize = 20;
const BUDGET_WINDOW: Duration = Duration::from_secs(60);
/// How long the first child that ends waits to be created anew; doubled with each further one, up
/// to the longest.
const FIRST_BACK_OFF: Duration = Duration::from_millis(10);
const LONGEST_BACK_OFF: Duration = Duration::from_secs(2);
/// How long a sender may take to close its connection, or to be cut off.
const FAREWELL: Duration = Duration::from_secs(3);

pub(super) enum Msg {
    /// For the router, whichever it is now.
    ToRouter(router::Msg),
    /// Create a child anew.
    Respawn(Child),
    /// New relays, routes and weights.
    Configure(Crew, RpcReplyPort<()>),
    /// Finish what is in flight within this time, and stop. Answers whether all was finished.
    Shutdown(Duration, Option<RpcReplyPort<bool>>),
    /// What was in flight is finished, or its time is up.
    Finish(bool, Option<RpcReplyPort<bool>>),
    /// Have a child panic, for tests of what holds then.
    Crash(Child),
}

/// Which child.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Child {
    Router,
    Scheduler,
    /// One of the relay's senders.
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

/// Who is to be at work.
#[derive(Clone)]
pub(super) struct Crew {
    pub plans: router::Plans,
    pub relays: Vec<RelayCrew>,
}

/// The senders of one relay.
#[derive(Clone)]
pub(super) struct RelayCrew {
    pub relay: Arc<str>,
    pub transport: Arc<dyn Transport>,
    pub connections: usize,
    pub idle_timeout: Duration,
}

pub(super) struct Args {
    pub core: Arc<Core>,
    pub crew: Crew,
}

pub(super) struct State {
    core: Arc<Core>,
    crew: Crew,
    router: ActorRef<router::Msg>,
    scheduler: ActorRef<scheduler::Msg>,
    senders: HashMap<ActorId, Employed>,
    last_sender: SenderId,
    ends: VecDeque<Instant>,
    stopping: bool,
}

struct Employed {
    id: SenderId,
    relay: Arc<str>,
    actor: ActorRef<sender::Msg>,
    /// It was told to stop, and nobody follows it.
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
        let Args { core, crew } = args;
        let router = spawn_router(&core, &crew, &myself).await?;
        let scheduler = spawn_scheduler(&core, &router, &myself).await?;
        let mut state = State {
            core,
            crew,
            router,
            scheduler,
            senders: HashMap::new(),
            last_sender: 0,
            ends: VecDeque::new(),
            stopping: false,
        };
        state.employ_all(&myself).await?;
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
            Msg::Configure(crew, reply) => {
                state.configure(&myself, crew).await?;
                let _ = reply.send(());
            }
            Msg::Shutdown(within, reply) => state.shut_down(&myself, within, reply),
            Msg::Finish(finished, reply) => state.finish(&myself, finished, reply).await,
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
                state.ended(&myself, &cell, &error.to_string()).await
            }
            SupervisionEvent::ActorTerminated(cell, _, reason) => {
                state
                    .ended(&myself, &cell, reason.as_deref().unwrap_or("it stopped"))
                    .await
            }
            _ => Ok(()),
        }
    }
}

async fn spawn_router(
    core: &Arc<Core>,
    crew: &Crew,
    myself: &ActorRef<Msg>,
) -> Result<ActorRef<router::Msg>, ActorProcessingErr> {
    let args = router::Args {
        core: Arc::clone(core),
        plans: crew.plans.clone(),
    };
    Ok(Router::spawn_linked(None, Router, args, myself.get_cell())
        .await?
        .0)
}

async fn spawn_scheduler(
    core: &Arc<Core>,
    router: &ActorRef<router::Msg>,
    myself: &ActorRef<Msg>,
) -> Result<ActorRef<scheduler::Msg>, ActorProcessingErr> {
    let args = scheduler::Args {
        core: Arc::clone(core),
        router: router.clone(),
    };
    Ok(
        Scheduler::spawn_linked(None, Scheduler, args, myself.get_cell())
            .await?
            .0,
    )
}

/// Closes the spool, and then says that the engine's life has ended: who hears it can open the
/// spool again.
async fn end(core: &Core, end: Life) {
    let closed = core.spool.close().await;
    if let Err(error) = &closed {
        tracing::error!(%error, "the spool could not be closed well");
    }
    core.end(match (end, closed) {
        (Life::Stopped, Err(error)) => Life::Failed(error.to_string()),
        (end, _) => end,
    });
}

/// A supervisor that is ended from outside, by the one above it, ends the dispatcher.
impl Drop for State {
    fn drop(&mut self) {
        if self.stopping {
            return;
        }
        let core = Arc::clone(&self.core);
        let ending = async move {
            let reason =
                "its supervisor was stopped from outside; accepted mail is safe in the spool";
            end(&core, Life::Failed(reason.into())).await;
        };
        // Without a runtime there is nobody left to be told.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(ending);
        }
    }
}

impl State {
    async fn employ_all(&mut self, myself: &ActorRef<Msg>) -> Result<(), ActorProcessingErr> {
        for crew in self.crew.relays.clone() {
            for _ in 0..crew.connections {
                self.employ(myself, &crew).await?;
            }
        }
        Ok(())
    }

    async fn employ(
        &mut self,
        myself: &ActorRef<Msg>,
        crew: &RelayCrew,
    ) -> Result<(), ActorProcessingErr> {
        self.last_sender += 1;
        let id = self.last_sender;
        let args = sender::Args {
            id,
            relay: Arc::clone(&crew.relay),
            transport: Arc::clone(&crew.transport),
            idle_timeout: crew.idle_timeout,
            core: Arc::clone(&self.core),
            router: self.router.clone(),
        };
        let actor = Sender::spawn_linked(None, Sender, args, myself.get_cell())
            .await?
            .0;
        let relay = Arc::clone(&crew.relay);
        self.senders.insert(
            actor.get_id(),
            Employed {
                id,
                relay,
                actor,
                retired: false,
            },
        );
        Ok(())
    }

    /// A child has ended: it is created anew after a while, unless that happened too often or was
    /// meant.
    async fn ended(
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
        if self.ends.len() > BUDGET {
            let reason = format!(
                "its actors ended {} times within {} s, last the {} ({why}); accepted mail is safe in the spool",
                self.ends.len(),
                BUDGET_WINDOW.as_secs(),
                child.name(),
            );
            tracing::error!(reason, "the dispatcher stops");
            self.dismiss(false).await;
            end(&self.core, Life::Failed(reason.clone())).await;
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
            "an actor has ended and is created anew"
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
                self.router = spawn_router(&self.core, &self.crew, myself).await?;
                let _ = self
                    .scheduler
                    .cast(scheduler::Msg::Router(self.router.clone()));
                for sender in self.senders.values() {
                    let _ = sender.actor.cast(sender::Msg::Hello(self.router.clone()));
                }
            }
            Child::Scheduler => {
                self.scheduler = spawn_scheduler(&self.core, &self.router, myself).await?
            }
            Child::Sender(relay) => {
                let crew = self
                    .crew
                    .relays
                    .iter()
                    .find(|crew| crew.relay == relay)
                    .cloned();
                let at_work = self
                    .senders
                    .values()
                    .filter(|s| s.relay == relay && !s.retired)
                    .count();
                let Some(crew) = crew.filter(|crew| at_work < crew.connections) else {
                    return Ok(());
                };
                self.employ(myself, &crew).await?;
            }
        }
        self.core.metrics.restarted(name);
        Ok(())
    }

    /// Takes on new relays and routes. Old senders finish what they hold; new ones take over.
    async fn configure(
        &mut self,
        myself: &ActorRef<Msg>,
        mut crew: Crew,
    ) -> Result<(), ActorProcessingErr> {
        crew.plans.follow(&self.crew.plans);
        crew.plans.first_sender = self.last_sender + 1;
        self.crew = crew;
        let _ = self
            .router
            .cast(router::Msg::Configure(self.crew.plans.clone()));
        for sender in self.senders.values_mut() {
            sender.retired = true;
            sender
                .actor
                .stop(Some("its relay is configured anew".into()));
        }
        self.employ_all(myself).await
    }

    fn shut_down(
        &mut self,
        myself: &ActorRef<Msg>,
        within: Duration,
        reply: Option<RpcReplyPort<bool>>,
    ) {
        let _ = self.core.life.send_if_modified(|life| {
            let running = *life == Life::Running;
            if running {
                // The rest of the time is for what they are at by then: nothing is cut off in the
                // middle needlessly.
                *life = Life::Draining(Instant::now().checked_add(within / 2));
            }
            running
        });
        let (core, supervisor) = (Arc::clone(&self.core), myself.clone());
        tokio::spawn(async move {
            let finished = tokio::time::timeout(within, core.rests()).await.is_ok();
            let _ = supervisor.cast(Msg::Finish(finished, reply));
        });
    }

    async fn finish(
        &mut self,
        myself: &ActorRef<Msg>,
        finished: bool,
        reply: Option<RpcReplyPort<bool>>,
    ) {
        self.dismiss(finished).await;
        end(&self.core, Life::Stopped).await;
        if let Some(reply) = reply {
            let _ = reply.send(finished);
        }
        myself.stop(None);
    }

    /// Ends all children. Senders that have nothing in hand close their connections; one in the
    /// middle of a transaction is cut off, and its mail is sent again after the next start, which
    /// may be the second time.
    async fn dismiss(&mut self, at_rest: bool) {
        self.stopping = true;
        self.scheduler.stop(None);
        self.router.stop(None);
        let farewells = self.senders.values().map(|sender| {
            let actor = sender.actor.clone();
            async move {
                if !at_rest || actor.stop_and_wait(None, Some(FAREWELL)).await.is_err() {
                    let _ = actor.kill_and_wait(Some(FAREWELL)).await;
                }
            }
        });
        futures::future::join_all(farewells).await;
    }

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

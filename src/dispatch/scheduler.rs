//! The scheduler actor: sleeps until mail is due, or the spool notifies it of a change, and wakes
//! the router. It also starts sweeps of the spool: expired mail is ended, and mail is deleted after
//! its retention time.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures::FutureExt;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::task::AbortHandle;

use super::cluster::AppliedOrders;
use super::engine::Engine;
use super::router;
use crate::delivery::EventKind;
use crate::mail::Timestamp;
use crate::observe::DeliveryResult;
use crate::spool::SpoolError;

pub(super) enum Msg {
    /// There is a new router: wake it now, and use it from now on.
    Router(ActorRef<router::Msg>),
    /// Mail is due, or something has changed.
    Tick,
    /// A sweep has finished.
    Swept,
    /// Panics, for tests.
    #[cfg(any(test, feature = "testing"))]
    Crash,
}

pub(super) struct Args {
    pub engine: Arc<Engine>,
    pub router: ActorRef<router::Msg>,
}

pub(super) struct State {
    engine: Arc<Engine>,
    router: ActorRef<router::Msg>,
    /// The task that waits for the next tick.
    waiting: AbortHandle,
    /// Whether a sweep is running.
    sweeping: bool,
    /// The cluster's orders that were applied here.
    applied_orders: AppliedOrders,
}

pub(super) struct Scheduler;

impl Actor for Scheduler {
    type Msg = Msg;
    type State = State;
    type Arguments = Args;

    async fn pre_start(
        &self,
        myself: ActorRef<Msg>,
        args: Args,
    ) -> Result<State, ActorProcessingErr> {
        let Args { engine, router } = args;
        // The first tick comes at once: after a restart, mail may be due.
        let waiting = wait(&engine, Timestamp::from_millis(0), myself);
        Ok(State {
            engine,
            router,
            waiting,
            sweeping: false,
            applied_orders: AppliedOrders::default(),
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<Msg>,
        msg: Msg,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match msg {
            Msg::Router(router) => {
                state.router = router;
                state.tick(myself);
            }
            Msg::Tick => state.tick(myself),
            Msg::Swept => {
                state.sweeping = false;
                state.tick(myself);
            }
            #[cfg(any(test, feature = "testing"))]
            Msg::Crash => panic!("crashed by a test"),
        }

        Ok(())
    }
}

/// Ends the waiting task with the scheduler: it holds the spool, which could not be opened again
/// otherwise.
impl Drop for State {
    fn drop(&mut self) {
        self.waiting.abort();
    }
}

impl State {
    fn tick(&mut self, myself: ActorRef<Msg>) {
        self.applied_orders.apply(&self.engine, &self.router);
        // If the router has ended, the supervisor sends `Msg::Router` with the new one.
        let _ = self.router.cast(router::Msg::Wake);

        let now = self.engine.clock.now();
        if !self.sweeping && self.engine.spool.is_sweep_due(now) {
            self.sweeping = true;
            let (engine, scheduler) = (Arc::clone(&self.engine), myself.clone());
            tokio::spawn(async move {
                sweep(&engine).await;
                let _ = scheduler.cast(Msg::Swept);
            });
        }

        self.waiting.abort();
        let next = self.engine.spool.next_due(now).unwrap_or(Timestamp::MAX);
        self.waiting = wait(&self.engine, next, myself);
    }
}

/// Sends one tick: at `next`, or as soon as the spool has changed.
fn wait(engine: &Arc<Engine>, next: Timestamp, scheduler: ActorRef<Msg>) -> AbortHandle {
    let engine = Arc::clone(engine);
    let task = tokio::spawn(async move {
        tokio::select! {
            () = engine.spool.changed().notified() => {}
            () = engine.clock.sleep_until(next) => {}
        }
        if scheduler.cast(Msg::Tick).is_err() {
            // This scheduler has ended; the notification is passed on to the next one.
            engine.spool.changed().notify_one();
        }
    });
    task.abort_handle()
}

async fn sweep(engine: &Arc<Engine>) {
    let now = engine.clock.now();
    // A node that may do nothing may not trust its clock either.
    if engine.spool.failure().is_none() {
        engine.end_expired(now);
    }

    loop {
        // Sweeps must continue after a panic, so it is treated as an error.
        let swept = AssertUnwindSafe(engine.spool.sweep(now))
            .catch_unwind()
            .await;
        match swept.unwrap_or_else(|_| Err(SpoolError::panicked())) {
            Ok(swept) => {
                for ended in &swept.ended {
                    let zero = std::time::Duration::ZERO;
                    engine
                        .metrics
                        .delivery("", DeliveryResult::Dead, zero, zero);
                    let kind = EventKind::Dead {
                        reason: ended.reason,
                    };
                    engine.announce((ended.mail, ""), &ended.recipient, None, &kind);
                }
                if !swept.ended.is_empty() {
                    engine.progress.notify_waiters();
                }
                if !swept.more {
                    return;
                }
            }
            Err(error) => {
                tracing::error!(%error, "cannot sweep the spool");
                // The next tick tries again, but not at once: a broken disk would keep a core busy.
                tokio::time::sleep(std::time::Duration::from_secs(1)).await;
                return;
            }
        }
    }
}

//! Operating a running dispatcher: its settings are reloaded, it is drained, it is stopped.

use std::sync::Arc;
use std::time::Duration;

#[cfg(any(test, feature = "testing"))]
use super::supervisor::Child;
use super::topology::Topology;
use super::{Dispatcher, Error, Inner, supervisor};
use crate::delivery::State;
use crate::policy::{RouteRule, Weights};
use crate::transport::Relay;

/// How a shutdown goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drain {
    within: Duration,
}

impl Drain {
    /// Finishes what is in flight, for at most `span`; the rest stays in the spool. In the first
    /// half of it senders begin the mail that they have already; in the second half each only
    /// finishes the mail that it is sending, so that no transaction is cut off needlessly.
    pub fn within(span: Duration) -> Self {
        Drain { within: span }
    }
}

/// The settings that can be changed while a dispatcher runs.
#[derive(Clone, Debug)]
pub struct Reload {
    /// All relays.
    pub relays: Vec<Relay>,
    /// All routes; the first that matches is taken.
    pub routes: Vec<RouteRule>,
    /// The priorities' weights.
    pub weights: Weights,
}

impl Inner {
    fn stopped_error(&self) -> Error {
        let gone = || Error::Stopped("its actors are gone".into());
        self.engine.admits().err().unwrap_or_else(gone)
    }

    /// Relays and routes that take effect together.
    pub(super) async fn configure(&self, topology: Topology) -> Result<(), Error> {
        let topology = Arc::new(topology);
        let (reply, done) = ractor::concurrency::oneshot();
        let configure = supervisor::Msg::Configure(Arc::clone(&topology), reply.into());
        let asked = self.supervisor.cast(configure);
        asked.map_err(|_| self.stopped_error())?;

        self.engine.replace_topology(topology);
        done.await.map_err(|_| self.stopped_error())
    }
}

impl Dispatcher {
    /// Replaces relays, routes and weights without losing a connection in flight. All or nothing.
    ///
    /// # Errors
    /// [`Error::Configuration`] or [`Error::Relay`]: everything is as it was.
    pub async fn reload(&self, new: Reload) -> Result<(), Error> {
        let engine = &self.inner.engine;
        let mut topology = Topology::new(&new.relays, &new.routes, new.weights)?;

        // One reload at a time, or a part of each of two could take effect.
        let _one = self.inner.reloading.lock().await;
        topology.follow(&engine.topology());
        if let Some(cluster) = engine.spool.cluster() {
            topology = topology.shared(cluster.orders().borrow().share);
        }
        self.inner.configure(topology).await?;
        engine.reroute();
        Ok(())
    }

    /// Waits until nothing is due, nothing is being sent, and all that was sent is recorded; or
    /// until the dispatcher has stopped. For tests.
    pub async fn wait_idle(&self) {
        let engine = &self.inner.engine;
        let mut over = std::pin::pin!(engine.life.is_over());
        loop {
            let progress = engine.progress.notified();
            engine.rests().await;
            let stats = engine.spool.stats(engine.clock.now()).await;
            let is_empty = stats.is_ok_and(|stats| {
                [State::Queued, State::Sending]
                    .iter()
                    .all(|state| stats.counts.in_state(*state) == 0)
            });
            if is_empty && engine.is_at_rest() {
                return;
            }

            tokio::select! {
                () = progress => {}
                _ = &mut over => return,
            }
        }
    }

    /// Stops accepting, finishes what is in flight within the time given, syncs, and stops the
    /// actors. Returns whether everything in flight was finished.
    ///
    /// # Errors
    /// [`Error::Stopped`] where it had failed before.
    pub async fn shutdown(&self, drain: Drain) -> Result<bool, Error> {
        let (reply, done) = ractor::concurrency::oneshot();
        let asked = self
            .inner
            .supervisor
            .cast(supervisor::Msg::Shutdown(drain.within, Some(reply.into())));
        asked.map_err(|_| self.stopped_error())?;
        done.await.map_err(|_| self.stopped_error())
    }

    /// Waits until the dispatcher has stopped, and says why: `Ok` after [`Dispatcher::shutdown`],
    /// an error when an actor failed more often than the restart budget allows.
    ///
    /// # Errors
    /// [`Error::Stopped`].
    pub async fn stopped(&self) -> Result<(), Error> {
        self.inner.engine.life.is_over().await
    }

    /// Makes an actor panic: `router`, `scheduler`, or the name of a relay for one of its senders.
    /// For tests.
    #[cfg(any(test, feature = "testing"))]
    pub fn crash(&self, actor: &str) {
        let child = match actor {
            "router" => Child::Router,
            "scheduler" => Child::Scheduler,
            relay => Child::Sender(relay.into()),
        };
        let _ = self.inner.supervisor.cast(supervisor::Msg::Crash(child));
    }

    pub(super) fn stopped_error(&self) -> Error {
        self.inner.stopped_error()
    }
}

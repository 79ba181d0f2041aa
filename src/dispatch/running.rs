//! Operating a running dispatcher: reloading its settings, draining and stopping it.

use std::sync::Arc;
use std::time::Duration;

#[cfg(any(test, feature = "testing"))]
use super::supervisor::Child;
use super::topology::Topology;
use super::{Dispatcher, Error, Inner, supervisor};
use crate::delivery::State;
use crate::policy::{RouteRule, Weights};
use crate::transport::Relay;

/// How to shut down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drain {
    within: Duration,
}

impl Drain {
    /// Finishes mail in flight, for at most `span`; the rest stays in the spool. In the first half
    /// of the time senders still start mail that they hold; in the second half they only finish the
    /// mail that they are sending, so that no transaction is interrupted needlessly.
    pub fn within(span: Duration) -> Self {
        Drain { within: span }
    }
}

/// The settings that can be changed while a dispatcher runs.
#[derive(Clone, Debug)]
pub struct Reload {
    /// All relays.
    pub relays: Vec<Relay>,
    /// All routes; the first that matches is used.
    pub routes: Vec<RouteRule>,
    /// The weights of the priorities.
    pub weights: Weights,
}

impl Inner {
    fn stopped_error(&self) -> Error {
        let gone = || Error::Stopped("its actors are gone".into());
        self.engine.admits().err().unwrap_or_else(gone)
    }

    /// Applies new relays, routes and weights at once.
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
    /// Replaces relays, routes and weights without interrupting transactions. If it fails, nothing
    /// is changed.
    ///
    /// # Errors
    /// [`Error::Configuration`] or [`Error::Relay`]; nothing is changed then.
    pub async fn reload(&self, new: Reload) -> Result<(), Error> {
        let engine = &self.inner.engine;
        let mut topology = Topology::new(&new.relays, &new.routes, new.weights)?;

        // One reload at a time: otherwise each of two might apply only a part.
        let _one = self.inner.reloading.lock().await;
        topology.remember_former_routes(&engine.topology());
        if let Some(cluster) = engine.spool.cluster() {
            topology = topology.shared(cluster.orders().borrow().share);
        }
        self.inner.configure(topology).await?;
        engine.reroute();
        Ok(())
    }

    /// Waits until nothing is due or being sent, and all outcomes are recorded; or until the
    /// dispatcher has stopped. For tests.
    pub async fn wait_idle(&self) {
        let engine = &self.inner.engine;
        let mut over = std::pin::pin!(engine.life.wait_for_end());
        loop {
            let progress = engine.progress.notified();
            engine.wait_until_idle().await;
            let stats = engine.spool.stats(engine.clock.now()).await;
            let is_empty = stats.is_ok_and(|stats| {
                [State::Queued, State::Sending]
                    .iter()
                    .all(|state| stats.counts.in_state(*state) == 0)
            });
            if is_empty && engine.is_idle() {
                return;
            }

            tokio::select! {
                () = progress => {}
                _ = &mut over => return,
            }
        }
    }

    /// Stops accepting mail, finishes mail in flight within the given time, syncs the spool, and
    /// stops the actors. Returns whether everything in flight was finished.
    ///
    /// # Errors
    /// [`Error::Stopped`] if it failed before.
    pub async fn shutdown(&self, drain: Drain) -> Result<bool, Error> {
        let (reply, done) = ractor::concurrency::oneshot();
        let asked = self
            .inner
            .supervisor
            .cast(supervisor::Msg::Shutdown(drain.within, Some(reply.into())));
        asked.map_err(|_| self.stopped_error())?;
        done.await.map_err(|_| self.stopped_error())
    }

    /// Waits until the dispatcher has stopped: `Ok` after [`Dispatcher::shutdown`], an error if
    /// actors failed more often than the restart budget allows.
    ///
    /// # Errors
    /// [`Error::Stopped`].
    pub async fn stopped(&self) -> Result<(), Error> {
        self.inner.engine.life.wait_for_end().await
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

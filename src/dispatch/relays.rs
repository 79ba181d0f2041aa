//! The relays as users see them: their status, and pausing them.

use std::collections::HashMap;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::time::Duration;

use ractor::RpcReplyPort;

use super::{Dispatcher, Error, RelayStatus, router, supervisor};
use crate::delivery::{EventKind, Route};
use crate::spool::SpoolStats;

/// How long to wait for an actor's answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// The relays; see [`Dispatcher::relays`]. Awaiting it is the same as [`Relays::list`].
#[derive(Clone, Copy)]
pub struct Relays<'a> {
    postrider: &'a Dispatcher,
}

impl Relays<'_> {
    /// The status of all relays. If the spool cannot count their backlog, it is 0;
    /// [`Dispatcher::stats`] returns the error.
    ///
    /// # Errors
    /// [`Error::Stopped`].
    pub async fn list(&self) -> Result<Vec<RelayStatus>, Error> {
        let relays = self.postrider.ask_router(router::Msg::Relays).await?;
        let engine = &self.postrider.inner.engine;
        let stats = engine.spool.stats(engine.clock.now()).await;
        let mut relays = with_backlog(relays, &stats.unwrap_or_default());

        // The status must be available even if the journal cannot be read.
        let recent = self.postrider.recent_deliveries().await;
        let mut recent = recent.unwrap_or_default();
        for relay in &mut relays {
            relay.recent = recent.remove(&relay.name);
        }
        Ok(relays)
    }

    pub(super) fn dispatcher(&self) -> &Dispatcher {
        self.postrider
    }

    /// Checks that there is a relay with this name, without counting its backlog.
    pub(super) async fn check(&self, name: &str) -> Result<(), Error> {
        let relays = self.postrider.ask_router(router::Msg::Relays).await?;
        let found = relays.iter().find(|relay| relay.name == name);
        found
            .map(|_| ())
            .ok_or_else(|| Error::UnknownRelay(name.to_owned()))
    }

    /// The status of the relay with this name.
    ///
    /// # Errors
    /// [`Error::UnknownRelay`], or [`Error::Stopped`].
    pub async fn get(&self, name: &str) -> Result<RelayStatus, Error> {
        let relays = self.list().await?;
        let found = relays.into_iter().find(|relay| relay.name == name);
        found.ok_or_else(|| Error::UnknownRelay(name.to_owned()))
    }

    /// Stops sending over a relay, also after restarts; its mail uses the route's next relay, or
    /// waits.
    ///
    /// # Errors
    /// [`Error::UnknownRelay`] or [`Error::Stopped`]; [`Error::Spool`] if the relay is paused now,
    /// but the pause could not be stored for the next start.
    pub async fn pause(&self, name: &str) -> Result<(), Error> {
        let kind = EventKind::RelayPaused { reason: None };
        self.set_paused(name, true, kind).await
    }

    /// The same as [`Relays::pause`], with a reason for the journal and the audit trail.
    ///
    /// # Errors
    /// The same as [`Relays::pause`].
    pub async fn pause_because(&self, name: &str, reason: &str) -> Result<(), Error> {
        let reason = Some(reason.to_owned());
        self.set_paused(name, true, EventKind::RelayPaused { reason })
            .await
    }

    /// Resumes sending over a relay.
    ///
    /// # Errors
    /// The same as [`Relays::pause`].
    pub async fn resume(&self, name: &str) -> Result<(), Error> {
        self.set_paused(name, false, EventKind::RelayResumed).await
    }

    async fn set_paused(&self, name: &str, paused: bool, kind: EventKind) -> Result<(), Error> {
        let relay = name.to_owned();
        let ask = |reply| router::Msg::Pause {
            relay,
            paused,
            reply,
        };

        if self.postrider.ask_router(ask).await? {
            self.postrider
                .note(kind, |event| event.of_relay(name))
                .await;
            // Applied here at once; other nodes, and the next start, read it from the spool.
            let spool = &self.postrider.inner.engine.spool;
            Ok(spool.set_paused(name, paused).await?)
        } else {
            Err(Error::UnknownRelay(name.to_owned()))
        }
    }
}

impl<'a> IntoFuture for Relays<'a> {
    type Output = Result<Vec<RelayStatus>, Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send + 'a>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move { self.list().await })
    }
}

impl Dispatcher {
    /// The relays: awaited, the status of all; the methods do more.
    pub fn relays(&self) -> Relays<'_> {
        Relays { postrider: self }
    }

    /// The same as [`Relays::pause`].
    ///
    /// # Errors
    /// [`Error::UnknownRelay`], or [`Error::Stopped`].
    pub async fn pause(&self, relay: &str) -> Result<(), Error> {
        self.relays().pause(relay).await
    }

    /// The same as [`Relays::resume`].
    ///
    /// # Errors
    /// The same as [`Dispatcher::pause`].
    pub async fn resume(&self, relay: &str) -> Result<(), Error> {
        self.relays().resume(relay).await
    }

    pub(super) async fn ask_router<T: Send + 'static>(
        &self,
        make: impl FnOnce(RpcReplyPort<T>) -> router::Msg,
    ) -> Result<T, Error> {
        let (reply, answer) = ractor::concurrency::oneshot();
        let question = supervisor::Msg::ToRouter(make(reply.into()));
        let asked = self.inner.supervisor.cast(question);
        asked.map_err(|_| self.stopped_error())?;

        match tokio::time::timeout(ANSWER_WITHIN, answer).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => {
                let reborn = || Error::Stopped("the router is being restarted; try again".into());
                Err(self.inner.engine.admits().err().unwrap_or_else(reborn))
            }
            Err(_) => Err(Error::Stopped("the router does not answer".into())),
        }
    }
}

/// The relays, with the number of pending deliveries for each.
pub(super) fn with_backlog(mut relays: Vec<RelayStatus>, spool: &SpoolStats) -> Vec<RelayStatus> {
    let backlog = backlog_by_relay(&spool.backlog);
    for relay in &mut relays {
        relay.backlog = backlog.get(&relay.name).copied().unwrap_or(0);
    }
    relays
}

/// The number of pending deliveries for each relay: those whose route begins with it.
pub(super) fn backlog_by_relay(routes: &[(Route, u64)]) -> HashMap<String, u64> {
    let mut backlog = HashMap::new();
    for (route, count) in routes {
        if let Some(first) = route.relays().next() {
            *backlog.entry(first.to_owned()).or_insert(0) += count;
        }
    }
    backlog
}

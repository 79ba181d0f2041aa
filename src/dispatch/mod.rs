//! The engine: [`Dispatcher`] is the handle that applications and doors hold; behind it, a
//! supervisor actor keeps a router, senders and a scheduler alive.
//!
//! One mail's way through here: `accept` makes it durable; the `scheduler` notices and wakes the
//! `router`, which claims it for a `lane` and hands it to a `sender`; the sender's outcome is
//! recorded and told by `core`.

mod accept;
mod builder;
mod clock;
mod core;
mod direct;
mod error;
mod lane;
mod lettre;
mod report;
mod router;
mod scheduler;
mod sender;
mod supervisor;

pub use builder::{Builder, OnSpoolFailure};
pub use clock::Clock;
pub use error::Error;
pub use report::{
    DeliveryStatus, Health, MailStatus, Receipt, RelayStatus, SentNow, Stats, StatusPage,
};

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use ractor::{ActorRef, RpcReplyPort};

use self::accept::Accept;
use self::core::{Core, Life};
use self::supervisor::Child;
use crate::delivery::{Route, State};
use crate::mail::{Mail, MailId, Priority};
use crate::observe::{EventKind, EventStream, Gauges, RelayGauges};
use crate::policy::{RouteRule, Weights};
use crate::spool::{OperationResult, Query, SpoolStats};
use crate::transport::Relay;

/// How long the actors may take to answer a question.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// How long the end of the last handle gives what is in flight.
const LAST_WORDS: Duration = Duration::from_secs(10);
/// How long a cancellation waits for a sender that has the mail.
const CANCEL_WITHIN: Duration = Duration::from_secs(30);

/// How a shutdown goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drain {
    within: Duration,
}

impl Drain {
    /// Finishes what is in flight, for at most `span`; the rest stays in the spool. In the first
    /// half of it senders go on with the mail that they have, in the second each only ends the one
    /// that it is at: nothing is cut off in the middle needlessly.
    pub fn within(span: Duration) -> Self {
        Drain { within: span }
    }
}

/// What a running dispatcher can be given anew.
#[derive(Clone, Debug)]
pub struct Reload {
    /// All relays.
    pub relays: Vec<Relay>,
    /// All routes, the first that matches being taken.
    pub routes: Vec<RouteRule>,
    /// The priorities' weights.
    pub weights: Weights,
}

/// The mail dispatcher: hand it a mail and go on. Cheap to clone; when the last clone is dropped
/// the actors stop, and what was accepted stays in the spool.
#[derive(Clone)]
pub struct Dispatcher {
    inner: Arc<Inner>,
    /// Which door it serves, for metrics.
    door: &'static str,
}

struct Inner {
    core: Arc<Core>,
    accept: Accept,
    supervisor: ActorRef<supervisor::Msg>,
    direct: direct::Direct,
    /// One reload at a time, or two could each put a part of theirs in force.
    reloading: tokio::sync::Mutex<()>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        let _ = self
            .supervisor
            .cast(supervisor::Msg::Shutdown(LAST_WORDS, None));
    }
}

impl Dispatcher {
    /// Starts configuring a dispatcher.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// The same dispatcher; what is handed in through this handle is counted under `door`.
    pub fn for_door(&self, door: &'static str) -> Dispatcher {
        Dispatcher {
            door,
            ..self.clone()
        }
    }

    /// Accepts a mail: when this returns, it is as durable as the receipt says. Waits for room
    /// while the queue is full, for at most `accept_timeout`.
    ///
    /// # Errors
    /// [`Error::Full`], [`Error::Mail`], [`Error::KeyReused`], [`Error::NoRoute`], [`Error::Spool`]
    /// or [`Error::Stopped`]; nothing was accepted then.
    pub async fn submit(&self, mail: Mail) -> Result<Receipt, Error> {
        self.inner
            .accept
            .wait_for_room(&self.inner.core, mail.envelope().recipients().len())
            .await?;
        self.try_submit(mail).await
    }

    /// As [`Dispatcher::submit`], without waiting for room.
    ///
    /// # Errors
    /// As [`Dispatcher::submit`].
    pub async fn try_submit(&self, mail: Mail) -> Result<Receipt, Error> {
        let answer = self.submit_many(vec![mail]).await.pop();
        answer.unwrap_or_else(|| Err(Error::Stopped("it gave no answer".into())))
    }

    /// Accepts many mails together, with one sync for each half a mebibyte of them: each is
    /// accepted or not for itself, and has its own result, in order. Does not wait for room.
    pub async fn submit_many(&self, mails: Vec<Mail>) -> Vec<Result<Receipt, Error>> {
        let Inner {
            core,
            accept,
            direct,
            ..
        } = &*self.inner;
        let copies = if direct.is_chosen() {
            mails.clone()
        } else {
            Vec::new()
        };
        let was_refusing = direct.is_chosen() && core.spool.refusal().is_some();
        let mut results = accept.accept(core, mails, self.door).await;
        for (result, mail) in results.iter_mut().zip(copies) {
            if let Err(Error::Spool(failure)) = result
                && direct::may_replace_the_spool(core, &mail, was_refusing).await
            {
                tracing::warn!(mail.id = %mail.id(), error = %failure, "the spool takes nothing; sending at once instead");
                *result = direct.submit(core, mail).await;
            }
        }
        results
    }

    /// Sends past the queue: one synchronous attempt at each relay of the route that is not paused,
    /// in turn, until one answers. Nothing is kept.
    ///
    /// # Errors
    /// [`Error::Mail`], [`Error::NoRoute`] or [`Error::Stopped`]. What the relay said is in the
    /// result, not here.
    pub async fn send_now(&self, mail: Mail) -> Result<SentNow, Error> {
        self.inner.core.admits()?;
        self.inner.accept.check_size(&mail)?;
        self.inner.direct.send(&self.inner.core, &mail).await
    }

    /// All that is known of a mail.
    ///
    /// # Errors
    /// [`Error::UnknownMail`], or [`Error::Spool`].
    pub async fn status(&self, id: MailId) -> Result<MailStatus, Error> {
        let record = self
            .inner
            .core
            .spool
            .get(id)
            .await?
            .ok_or(Error::UnknownMail(id))?;
        Ok(MailStatus::of(record, self.inner.core.clock.now()))
    }

    /// A mail's frozen message.
    ///
    /// # Errors
    /// As [`Dispatcher::status`].
    pub async fn raw(&self, id: MailId) -> Result<Bytes, Error> {
        self.inner
            .core
            .spool
            .body(id)
            .await?
            .ok_or(Error::UnknownMail(id))
    }

    /// Waits until a mail's every delivery has ended.
    ///
    /// # Errors
    /// As [`Dispatcher::status`]; [`Error::Stopped`] when the dispatcher stops before.
    pub async fn wait(&self, id: MailId) -> Result<MailStatus, Error> {
        let waiting = self.inner.core.wait_for(id);
        let mut life = self.inner.core.life.subscribe();
        loop {
            let ended = waiting.notify.notified();
            let mut ended = std::pin::pin!(ended);
            ended.as_mut().enable();
            let status = self.status(id).await?;
            if status.state.is_final() {
                return Ok(status);
            }
            tokio::select! {
                () = ended => {}
                _ = life.wait_for(|life| matches!(life, Life::Stopped | Life::Failed(_))) => {
                    self.inner.core.admits()?;
                }
            }
        }
    }

    /// Waits until nothing is due, nothing is being sent, and all that was sent is recorded. For
    /// tests.
    pub async fn wait_idle(&self) {
        let core = &self.inner.core;
        loop {
            let settled = core.settled.notified();
            if core.is_at_rest()
                && let Ok(stats) = core.spool.stats(core.clock.now()).await
                && [State::Queued, State::Sending]
                    .iter()
                    .all(|state| stats.counts[*state as usize] == [0; 3])
                && core.is_at_rest()
            {
                return;
            }
            let _ = tokio::time::timeout(Duration::from_millis(10), settled).await;
        }
    }

    /// One page of mails.
    ///
    /// # Errors
    /// [`Error::BadCursor`], or [`Error::Spool`].
    pub async fn list(&self, query: Query) -> Result<StatusPage, Error> {
        let now = self.inner.core.clock.now();
        let page = self.inner.core.spool.list(query, now).await?;
        let mails = page
            .mails
            .into_iter()
            .map(|record| MailStatus::of(record, now))
            .collect();
        Ok(StatusPage {
            mails,
            next: page.next,
        })
    }

    /// Withdraws what has not ended and is not being sent. Where a sender has the mail and has not
    /// begun it, it is taken back from there.
    ///
    /// # Errors
    /// [`Error::TooLate`], or as [`Dispatcher::status`].
    pub async fn cancel(&self, id: MailId) -> Result<MailStatus, Error> {
        let core = &self.inner.core;
        let _withdrawal = core.withdraw(id);
        let deadline = tokio::time::Instant::now() + CANCEL_WITHIN;
        loop {
            let settled = core.settled.notified();
            let now = core.clock.now();
            match core.spool.cancel(id, now).await? {
                OperationResult::Unknown => return Err(Error::UnknownMail(id)),
                OperationResult::TooLate => {}
                OperationResult::Done(recipients) => {
                    for recipient in &recipients {
                        core.announce(now, id, recipient, None, EventKind::Cancelled);
                    }
                    core.settled.notify_waiters();
                }
            }
            let status = self.status(id).await?;
            let sending = status
                .deliveries
                .iter()
                .any(|delivery| delivery.state == State::Sending);
            if !sending || tokio::time::Instant::now() >= deadline {
                let cancelled = status
                    .deliveries
                    .iter()
                    .any(|delivery| delivery.state == State::Cancelled);
                let state = status.state.as_str();
                return if cancelled {
                    Ok(status)
                } else {
                    Err(Error::TooLate { id, state })
                };
            }
            let _ = tokio::time::timeout(Duration::from_millis(50), settled).await;
        }
    }

    /// Queues dead deliveries again, or cancelled ones where none is dead, with a full count of
    /// attempts and a new lifetime; makes deferred ones due at once.
    ///
    /// # Errors
    /// As [`Dispatcher::cancel`].
    pub async fn retry(&self, id: MailId) -> Result<MailStatus, Error> {
        let core = &self.inner.core;
        match core
            .spool
            .retry(id, core.clock.now(), core.retry.expire_after)
            .await?
        {
            OperationResult::Unknown => Err(Error::UnknownMail(id)),
            OperationResult::TooLate => Err(Error::TooLate {
                id,
                state: self.status(id).await?.state.as_str(),
            }),
            OperationResult::Done(_) => self.status(id).await,
        }
    }

    /// Retries every mail with a dead delivery that `filter` admits (its state and cursor are not
    /// looked at). Returns how many; with `dry_run` it only counts.
    ///
    /// # Errors
    /// [`Error::Spool`].
    pub async fn retry_dead(&self, filter: Query, dry_run: bool) -> Result<u64, Error> {
        let core = &self.inner.core;
        let mut count = 0;
        for (id, _) in self.all_dead(filter).await? {
            let done = dry_run
                || matches!(
                    core.spool
                        .retry(id, core.clock.now(), core.retry.expire_after)
                        .await?,
                    OperationResult::Done(_)
                );
            count += u64::from(done);
        }
        Ok(count)
    }

    /// Deletes every finished mail with a dead delivery that `filter` admits, likewise.
    ///
    /// # Errors
    /// [`Error::Spool`].
    pub async fn purge_dead(&self, filter: Query, dry_run: bool) -> Result<u64, Error> {
        let mut count = 0;
        for (id, finished) in self.all_dead(filter).await? {
            let done = finished
                && (dry_run
                    || matches!(
                        self.inner.core.spool.purge(id).await?,
                        OperationResult::Done(_)
                    ));
            count += u64::from(done);
        }
        Ok(count)
    }

    /// Every mail with a dead delivery that `filter` admits, and whether all its deliveries have
    /// ended.
    async fn all_dead(&self, filter: Query) -> Result<Vec<(MailId, bool)>, Error> {
        let mut query = Query {
            state: Some(State::Dead),
            limit: 1000,
            cursor: None,
            ..filter
        };
        let mut ids = Vec::new();
        loop {
            let page = self
                .inner
                .core
                .spool
                .list(query.clone(), self.inner.core.clock.now())
                .await?;
            ids.extend(
                page.mails
                    .iter()
                    .map(|record| (record.manifest.id, record.finished_at().is_some())),
            );
            match page.next {
                Some(next) => query.cursor = Some(next),
                None => return Ok(ids),
            }
        }
    }

    /// What happens from now on, as a stream. A reader that is too slow is told how much it missed.
    pub fn events(&self) -> EventStream {
        self.inner.core.events.subscribe(None)
    }

    /// As [`Dispatcher::events`], beginning after the event of that number as far as it is still
    /// known.
    pub fn events_after(&self, seq: u64) -> EventStream {
        self.inner.core.events.subscribe(Some(seq))
    }

    /// The engine's numbers.
    ///
    /// # Errors
    /// [`Error::Spool`], or [`Error::Stopped`].
    pub async fn stats(&self) -> Result<Stats, Error> {
        let core = &self.inner.core;
        let now = core.clock.now();
        let spool = core.spool.stats(now).await?;
        let by_state = |state: State| {
            (
                state.as_str().to_owned(),
                spool.counts[state as usize].iter().sum(),
            )
        };
        let pending = |priority: Priority| {
            let states = State::ALL.iter().filter(|state| !state.is_final());
            let count = states
                .map(|state| spool.counts[*state as usize][priority.index()])
                .sum();
            (priority.as_str().to_owned(), count)
        };
        let relays = with_backlog(self.ask_router(router::Msg::Relays).await?, &spool);
        let totals = &core.metrics.totals;
        Ok(Stats {
            deliveries: State::ALL.into_iter().map(by_state).collect(),
            pending_by_priority: Priority::ALL.into_iter().map(pending).collect(),
            pending: core.spool.pending(),
            max_pending: self.inner.accept.max_pending,
            oldest_queued_seconds: spool.oldest_due.map(|due| now.since(due).as_secs_f64()),
            accepted: totals.accepted.load(Ordering::Relaxed),
            delivered: totals.delivered.load(Ordering::Relaxed),
            dead: totals.dead.load(Ordering::Relaxed),
            deferred: totals.deferred.load(Ordering::Relaxed),
            delivered_per_second: core
                .metrics
                .totals
                .recent
                .per_second(core.clock.monotonic()),
            quarantined: spool.quarantined,
            spool_bytes: spool.bytes,
            relays,
        })
    }

    /// Deliveries that a relay has taken since start.
    pub fn delivered(&self) -> u64 {
        self.inner
            .core
            .metrics
            .totals
            .delivered
            .load(Ordering::Relaxed)
    }

    /// The relays, now. Where the spool cannot be counted their backlog is 0; [`Dispatcher::stats`]
    /// says why.
    ///
    /// # Errors
    /// [`Error::Stopped`].
    pub async fn relays(&self) -> Result<Vec<RelayStatus>, Error> {
        let relays = self.ask_router(router::Msg::Relays).await?;
        let core = &self.inner.core;
        Ok(with_backlog(
            relays,
            &core.spool.stats(core.clock.now()).await.unwrap_or_default(),
        ))
    }

    async fn ask_router<T: Send + 'static>(
        &self,
        make: impl FnOnce(RpcReplyPort<T>) -> router::Msg,
    ) -> Result<T, Error> {
        let (reply, answer) = ractor::concurrency::oneshot();
        let asked = self
            .inner
            .supervisor
            .cast(supervisor::Msg::ToRouter(make(reply.into())));
        asked.map_err(|_| self.stopped_error())?;
        match tokio::time::timeout(ANSWER_WITHIN, answer).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => {
                let reborn =
                    || Error::Stopped("the router is being created anew; ask again".into());
                Err(self.inner.core.admits().err().unwrap_or_else(reborn))
            }
            Err(_) => Err(Error::Stopped("the router does not answer".into())),
        }
    }

    fn stopped_error(&self) -> Error {
        self.inner
            .core
            .admits()
            .err()
            .unwrap_or_else(|| Error::Stopped("its actors are gone".into()))
    }

    /// Stops sending over a relay; its mail takes the route's next one, or waits.
    ///
    /// # Errors
    /// [`Error::UnknownRelay`], or [`Error::Stopped`].
    pub async fn pause(&self, relay: &str) -> Result<(), Error> {
        self.set_paused(relay, true).await
    }

    /// Goes on sending over a relay.
    ///
    /// # Errors
    /// As [`Dispatcher::pause`].
    pub async fn resume(&self, relay: &str) -> Result<(), Error> {
        self.set_paused(relay, false).await
    }

    async fn set_paused(&self, relay: &str, paused: bool) -> Result<(), Error> {
        let name = relay.to_owned();
        let known = self
            .ask_router(|reply| router::Msg::Pause {
                relay: name,
                paused,
                reply,
            })
            .await?;
        if known {
            Ok(())
        } else {
            Err(Error::UnknownRelay(relay.to_owned()))
        }
    }

    /// Replaces relays, routes and weights without losing a connection in flight. All or nothing.
    ///
    /// # Errors
    /// [`Error::Configuration`] or [`Error::Relay`]: everything is as it was.
    pub async fn reload(&self, new: Reload) -> Result<(), Error> {
        let network = builder::network(&new.relays, &new.routes, new.weights)?;
        let _one = self.inner.reloading.lock().await;
        let (reply, done) = ractor::concurrency::oneshot();
        let asked = self
            .inner
            .supervisor
            .cast(supervisor::Msg::Configure(network.crew, reply.into()));
        asked.map_err(|_| self.stopped_error())?;
        *self.inner.core.routes.write() = network.routes;
        self.inner.direct.replace(network.transports);
        done.await.map_err(|_| self.stopped_error())?;
        builder::reroute(&self.inner.core, network.known, network.fallback);
        Ok(())
    }

    /// Whether mail is accepted now, and if not, why.
    pub fn health(&self) -> Health {
        let core = &self.inner.core;
        let reason = core.admits().err().map(|error| error.to_string());
        let reason = reason.or_else(|| core.spool.refusal().map(|refusal| refusal.to_string()));
        let reason = reason.or_else(|| {
            self.inner
                .accept
                .check_room(core, 1)
                .err()
                .map(|error| error.to_string())
        });
        Health {
            ready: reason.is_none(),
            reason,
        }
    }

    /// All numbers in Prometheus' text format (OpenMetrics 1.0).
    ///
    /// # Errors
    /// As [`Dispatcher::stats`].
    pub async fn metrics(&self) -> Result<String, Error> {
        let core = &self.inner.core;
        let now = core.clock.now();
        let spool = core.spool.stats(now).await?;
        let depth = State::ALL.into_iter().flat_map(|state| {
            let counts = spool.counts[state as usize];
            Priority::ALL
                .into_iter()
                .map(move |priority| (state.as_str(), priority, counts[priority.index()]))
        });
        let relays = self
            .ask_router(router::Msg::Relays)
            .await?
            .into_iter()
            .map(|relay| RelayGauges {
                busy: relay.busy,
                idle: relay.connections.saturating_sub(relay.busy),
                breaker: match relay.breaker.as_str() {
                    "open" => "open",
                    "half_open" => "half_open",
                    _ => "closed",
                },
                name: relay.name,
            });
        Ok(core.metrics.encode(Gauges {
            depth: depth.collect(),
            oldest_queued_seconds: spool
                .oldest_due
                .map_or(0.0, |due| now.since(due).as_secs_f64()),
            spool_bytes: spool.bytes,
            stale_settles: spool.stale_settles,
            quarantined: spool.quarantined,
            sync_times: core.spool.drain_sync_times(),
            relays: relays.collect(),
        }))
    }

    /// The largest message that is accepted, in bytes.
    pub fn max_message_size(&self) -> usize {
        self.inner.accept.max_message_size
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
        let mut life = self.inner.core.life.subscribe();
        match life
            .wait_for(|life| matches!(life, Life::Stopped | Life::Failed(_)))
            .await
            .as_deref()
        {
            Ok(Life::Failed(reason)) => Err(Error::Stopped(reason.clone())),
            _ => Ok(()),
        }
    }

    /// Has an actor panic: `router`, `scheduler`, or the name of a relay for one of its senders.
    /// For tests of what holds then.
    #[doc(hidden)]
    pub fn crash(&self, actor: &str) {
        let child = match actor {
            "router" => Child::Router,
            "scheduler" => Child::Scheduler,
            relay => Child::Sender(relay.into()),
        };
        let _ = self.inner.supervisor.cast(supervisor::Msg::Crash(child));
    }
}

/// The relays, and how much of what is pending waits for each.
fn with_backlog(mut relays: Vec<RelayStatus>, spool: &SpoolStats) -> Vec<RelayStatus> {
    for relay in &mut relays {
        let first = |route: &Route| route.relays().next() == Some(relay.name.as_str());
        relay.backlog = spool
            .backlog
            .iter()
            .filter(|(route, _)| first(route))
            .map(|(_, count)| count)
            .sum();
    }
    relays
}

//! The engine: [`Dispatcher`] is the handle that applications and doors hold; behind it, a supervisor actor keeps a router,
//! senders and a scheduler alive.

mod builder;
mod clock;
mod error;
mod report;

pub use builder::{Builder, OnSpoolFailure};
pub use clock::Clock;
pub use error::Error;
pub use report::{DeliveryStatus, Health, MailStatus, Receipt, RelayStatus, SentNow, Stats, StatusPage};

use std::time::Duration;

use bytes::Bytes;

use crate::mail::{Mail, MailId};
use crate::observe::EventStream;
use crate::policy::{RouteRule, Weights};
use crate::spool::Query;
use crate::transport::Relay;

/// How a shutdown goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drain {
    within: Duration,
}

impl Drain {
    /// Finishes what is in flight, for at most `span`; the rest stays in the spool.
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

/// The mail dispatcher: hand it a mail and go on. Cheap to clone; when the last clone is dropped the actors stop, and what
/// was accepted stays in the spool.
#[derive(Clone)]
pub struct Dispatcher {
    /// Which door it serves, for metrics.
    door: &'static str,
}

impl Dispatcher {
    /// Starts configuring a dispatcher.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// The same dispatcher; what is handed in through this handle is counted under `door`.
    pub fn for_door(&self, door: &'static str) -> Dispatcher {
        Dispatcher { door, ..self.clone() }
    }

    /// Accepts a mail: when this returns, it is as durable as the receipt says. Waits for room while the queue is full,
    /// for at most `accept_timeout`.
    ///
    /// # Errors
    /// [`Error::Full`], [`Error::Mail`], [`Error::KeyReused`], [`Error::NoRoute`], [`Error::Spool`] or [`Error::Stopped`];
    /// nothing was accepted then.
    pub async fn submit(&self, mail: Mail) -> Result<Receipt, Error> {
        let _ = (mail, self.door);
        unimplemented!()
    }

    /// As [`Dispatcher::submit`], without waiting for room.
    ///
    /// # Errors
    /// As [`Dispatcher::submit`].
    pub async fn try_submit(&self, mail: Mail) -> Result<Receipt, Error> {
        let _ = mail;
        unimplemented!()
    }

    /// Accepts many mails as one group, with one sync. Each has its own result, in order. Does not wait for room.
    pub async fn submit_many(&self, mails: Vec<Mail>) -> Vec<Result<Receipt, Error>> {
        let _ = mails;
        unimplemented!()
    }

    /// Sends past the queue: one synchronous attempt at each relay of the route in turn until one answers. Nothing is kept.
    ///
    /// # Errors
    /// [`Error::Mail`], [`Error::NoRoute`] or [`Error::Stopped`]. What the relay said is in the result, not here.
    pub async fn send_now(&self, mail: Mail) -> Result<SentNow, Error> {
        let _ = mail;
        unimplemented!()
    }

    /// All that is known of a mail.
    ///
    /// # Errors
    /// [`Error::UnknownMail`], or [`Error::Spool`].
    pub async fn status(&self, id: MailId) -> Result<MailStatus, Error> {
        let _ = id;
        unimplemented!()
    }

    /// A mail's frozen message.
    ///
    /// # Errors
    /// As [`Dispatcher::status`].
    pub async fn raw(&self, id: MailId) -> Result<Bytes, Error> {
        let _ = id;
        unimplemented!()
    }

    /// Waits until a mail's every delivery has ended.
    ///
    /// # Errors
    /// As [`Dispatcher::status`]; [`Error::Stopped`] when the dispatcher stops before.
    pub async fn wait(&self, id: MailId) -> Result<MailStatus, Error> {
        let _ = id;
        unimplemented!()
    }

    /// Waits until nothing is due, nothing is being sent, and all that was sent is recorded. For tests.
    pub async fn wait_idle(&self) {
        unimplemented!()
    }

    /// One page of mails.
    ///
    /// # Errors
    /// [`Error::BadCursor`], or [`Error::Spool`].
    pub async fn list(&self, query: Query) -> Result<StatusPage, Error> {
        let _ = query;
        unimplemented!()
    }

    /// Withdraws what is not being sent and has not ended.
    ///
    /// # Errors
    /// [`Error::TooLate`], or as [`Dispatcher::status`].
    pub async fn cancel(&self, id: MailId) -> Result<MailStatus, Error> {
        let _ = id;
        unimplemented!()
    }

    /// Queues dead deliveries again, with a full count of attempts and a new lifetime; makes deferred ones due at once.
    ///
    /// # Errors
    /// As [`Dispatcher::cancel`].
    pub async fn retry(&self, id: MailId) -> Result<MailStatus, Error> {
        let _ = id;
        unimplemented!()
    }

    /// Retries every mail with a dead delivery that `filter` admits (its state and cursor are not looked at). Returns how
    /// many; with `dry_run` it only counts.
    ///
    /// # Errors
    /// [`Error::Spool`].
    pub async fn retry_dead(&self, filter: Query, dry_run: bool) -> Result<u64, Error> {
        let _ = (filter, dry_run);
        unimplemented!()
    }

    /// Deletes every finished mail with a dead delivery that `filter` admits, likewise.
    ///
    /// # Errors
    /// [`Error::Spool`].
    pub async fn purge_dead(&self, filter: Query, dry_run: bool) -> Result<u64, Error> {
        let _ = (filter, dry_run);
        unimplemented!()
    }

    /// What happens from now on, as a stream. A reader that is too slow is told how much it missed.
    pub fn events(&self) -> EventStream {
        unimplemented!()
    }

    /// As [`Dispatcher::events`], beginning after the event of that number as far as it is still known.
    pub fn events_after(&self, seq: u64) -> EventStream {
        let _ = seq;
        unimplemented!()
    }

    /// The engine's numbers.
    ///
    /// # Errors
    /// [`Error::Spool`], or [`Error::Stopped`].
    pub async fn stats(&self) -> Result<Stats, Error> {
        unimplemented!()
    }

    /// The relays, now.
    ///
    /// # Errors
    /// [`Error::Stopped`].
    pub async fn relays(&self) -> Result<Vec<RelayStatus>, Error> {
        unimplemented!()
    }

    /// Stops sending over a relay; its mail takes the route's next one, or waits.
    ///
    /// # Errors
    /// [`Error::UnknownRelay`], or [`Error::Stopped`].
    pub async fn pause(&self, relay: &str) -> Result<(), Error> {
        let _ = relay;
        unimplemented!()
    }

    /// Goes on sending over a relay.
    ///
    /// # Errors
    /// As [`Dispatcher::pause`].
    pub async fn resume(&self, relay: &str) -> Result<(), Error> {
        let _ = relay;
        unimplemented!()
    }

    /// Replaces relays, routes and weights without losing a connection in flight. All or nothing.
    ///
    /// # Errors
    /// [`Error::Configuration`] or [`Error::Relay`]: everything is as it was.
    pub async fn reload(&self, new: Reload) -> Result<(), Error> {
        let _ = new;
        unimplemented!()
    }

    /// Whether mail is accepted now, and if not, why.
    pub fn health(&self) -> Health {
        unimplemented!()
    }

    /// All numbers in Prometheus' text format (OpenMetrics 1.0).
    ///
    /// # Errors
    /// As [`Dispatcher::stats`].
    pub async fn metrics(&self) -> Result<String, Error> {
        unimplemented!()
    }

    /// The largest message that is accepted, in bytes.
    pub fn max_message_size(&self) -> usize {
        unimplemented!()
    }

    /// Stops accepting, finishes what is in flight within the time given, syncs, and stops the actors. Returns whether
    /// everything in flight was finished.
    ///
    /// # Errors
    /// [`Error::Spool`] where the last sync failed.
    pub async fn shutdown(&self, drain: Drain) -> Result<bool, Error> {
        let _ = drain.within;
        unimplemented!()
    }

    /// Waits until the dispatcher has stopped, and says why: `Ok` after [`Dispatcher::shutdown`], an error when an actor
    /// failed more often than the restart budget allows.
    ///
    /// # Errors
    /// [`Error::Stopped`].
    pub async fn stopped(&self) -> Result<(), Error> {
        unimplemented!()
    }
}

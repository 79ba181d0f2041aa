//! What a dispatcher is made from.

use std::path::PathBuf;
use std::time::Duration;

use super::{Clock, Dispatcher, Error};
use crate::mail::{days, seconds};
use crate::policy::{Match, RetryPolicy, RouteRule, Weights};
use crate::transport::Relay;

/// What to do with a new mail while the spool cannot take it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnSpoolFailure {
    /// Refuse it with a clear error.
    #[default]
    Reject,
    /// Send it at once, synchronously; the receipt says so.
    Direct,
}

/// Where mail is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Keep {
    #[default]
    InMemory,
    OnDisk(PathBuf),
}

/// Configures a [`Dispatcher`]. Everything but a relay has a default.
#[derive(Clone, Debug)]
pub struct Builder {
    pub(crate) relays: Vec<Relay>,
    pub(crate) routes: Vec<RouteRule>,
    pub(crate) keep: Keep,
    pub(crate) sync_interval: Option<Duration>,
    pub(crate) retention: Duration,
    pub(crate) idempotency_ttl: Duration,
    pub(crate) max_pending: u64,
    pub(crate) max_message_size: usize,
    pub(crate) accept_timeout: Duration,
    pub(crate) on_spool_failure: OnSpoolFailure,
    pub(crate) retry: RetryPolicy,
    pub(crate) weights: Weights,
    pub(crate) clock: Clock,
}

impl Default for Builder {
    fn default() -> Self {
        Builder {
            relays: Vec::new(),
            routes: Vec::new(),
            keep: Keep::InMemory,
            sync_interval: None,
            retention: days(7),
            idempotency_ttl: days(7),
            max_pending: 1_000_000,
            max_message_size: 25 * 1024 * 1024,
            accept_timeout: seconds(5),
            on_spool_failure: OnSpoolFailure::Reject,
            retry: RetryPolicy::default(),
            weights: Weights::default(),
            clock: Clock::system(),
        }
    }
}

impl Builder {
    /// Adds a relay. Without a route, mail takes all relays in the order they were added.
    pub fn relay(mut self, relay: Relay) -> Self {
        self.relays.push(relay);
        self
    }

    /// Adds a route: mail like `matching` takes these relays, by name, the first one first. The first route that matches is
    /// taken.
    pub fn route<S: Into<String>>(mut self, matching: Match, relays: impl IntoIterator<Item = S>) -> Self {
        self.routes.push(RouteRule { matching, relays: relays.into_iter().map(Into::into).collect() });
        self
    }

    /// Keeps mail in a sled spool in this directory, which is made if need be.
    pub fn spool(mut self, path: impl Into<PathBuf>) -> Self {
        self.keep = Keep::OnDisk(path.into());
        self
    }

    /// Keeps mail in memory only: for tests. Receipts say so.
    pub fn spool_in_memory(mut self) -> Self {
        self.keep = Keep::InMemory;
        self
    }

    /// Syncs the spool every `span` instead of before each receipt. Receipts say so: `Written`, not `Synced`.
    pub fn sync_every(mut self, span: Duration) -> Self {
        self.sync_interval = Some(span);
        self
    }

    /// How long finished mail is kept; 7 days unless said.
    pub fn retention(mut self, span: Duration) -> Self {
        self.retention = span;
        self
    }

    /// How long an idempotency key is remembered; 7 days unless said.
    pub fn idempotency_ttl(mut self, span: Duration) -> Self {
        self.idempotency_ttl = span;
        self
    }

    /// How many deliveries may be pending; a million unless said.
    pub fn max_pending(mut self, deliveries: u64) -> Self {
        self.max_pending = deliveries;
        self
    }

    /// The largest message that is accepted, in bytes; 25 MiB unless said.
    pub fn max_message_size(mut self, bytes: usize) -> Self {
        self.max_message_size = bytes;
        self
    }

    /// How long `submit` waits for room; 5 s unless said.
    pub fn accept_timeout(mut self, span: Duration) -> Self {
        self.accept_timeout = span;
        self
    }

    /// What to do with a new mail while the spool cannot take it.
    pub fn on_spool_failure(mut self, choice: OnSpoolFailure) -> Self {
        self.on_spool_failure = choice;
        self
    }

    /// When deferred deliveries are tried again.
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.retry = policy;
        self
    }

    /// The priorities' weights.
    pub fn weights(mut self, weights: Weights) -> Self {
        self.weights = weights;
        self
    }

    /// Where "now" comes from; a fake one in tests.
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Opens the spool and starts the actors. What the spool still holds is sent.
    ///
    /// # Errors
    /// [`Error::Configuration`] or [`Error::Relay`] for what cannot be used, [`Error::Spool`] where it cannot be opened.
    pub async fn start(self) -> Result<Dispatcher, Error> {
        unimplemented!()
    }

    /// As [`Builder::start`], under the caller's own supervisor, which is told when the dispatcher ends.
    ///
    /// # Errors
    /// As [`Builder::start`].
    pub async fn start_linked(self, supervisor: ractor::ActorCell) -> Result<Dispatcher, Error> {
        let _ = supervisor;
        unimplemented!()
    }
}

//! Configures and starts a dispatcher.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorCell};
use tokio::time::Instant;

use super::accept::Accept;
use super::cluster;
use super::direct::Direct;
use super::engine::Engine;
use super::supervisor::{Args, Supervisor};
use super::topology::Topology;
use super::{Clock, Dispatcher, Error, Inner};
use crate::mail::{days, seconds};
use crate::policy::{Match, RetryPolicy, RouteRule, Weights};
use crate::spool::{self, JournalOptions, Spool, SpoolError, SpoolOptions};
use crate::transport::Relay;

/// How long a start waits for a spool that is in use. A process or dispatcher that is about to end
/// will release it; dropping the last handle cannot wait for that.
const SPOOL_RELEASED_WITHIN: Duration = seconds(2);

/// What to do with new mail while the spool cannot accept any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnSpoolFailure {
    /// Refuse it with an error.
    #[default]
    Reject,
    /// Send it at once, synchronously; the receipt says so.
    Direct,
}

/// Where mail is stored.
#[derive(Clone, Default)]
pub(crate) enum SpoolKind {
    #[default]
    InMemory,
    OnDisk(PathBuf),
    #[cfg(feature = "postgres")]
    Postgres(spool::postgres::PostgresSpool),
    Custom(Arc<dyn Spool>),
}

impl fmt::Debug for SpoolKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SpoolKind::InMemory => f.write_str("InMemory"),
            SpoolKind::OnDisk(path) => f.debug_tuple("OnDisk").field(path).finish(),
            #[cfg(feature = "postgres")]
            SpoolKind::Postgres(database) => database.fmt(f),
            SpoolKind::Custom(_) => f.write_str("Custom"),
        }
    }
}

/// Configures a [`Dispatcher`]. Everything except relays has a default.
#[derive(Clone, Debug)]
pub struct Builder {
    pub(crate) relays: Vec<Relay>,
    pub(crate) routes: Vec<RouteRule>,
    pub(crate) keep: SpoolKind,
    pub(crate) sync_interval: Option<Duration>,
    pub(crate) retention: Duration,
    pub(crate) keep_bodies: Duration,
    pub(crate) max_size: Option<u64>,
    pub(crate) idempotency_ttl: Duration,
    pub(crate) journal: JournalOptions,
    pub(crate) max_pending: u64,
    pub(crate) critical_reserve: Option<u64>,
    pub(crate) max_message_size: usize,
    pub(crate) domain: Option<String>,
    pub(crate) accept_timeout: Duration,
    pub(crate) on_spool_failure: OnSpoolFailure,
    pub(crate) retry: RetryPolicy,
    pub(crate) weights: Weights,
    pub(crate) clock: Clock,
    pub(crate) suppress_bounces_for: Duration,
    pub(crate) unsubscribing: Option<super::Unsubscribing>,
    pub(crate) returns: Option<super::Returns>,
    #[cfg(feature = "templates")]
    pub(crate) templates: crate::content::Templates,
}

impl Default for Builder {
    fn default() -> Self {
        Builder {
            relays: Vec::new(),
            routes: Vec::new(),
            keep: SpoolKind::InMemory,
            sync_interval: None,
            retention: days(7),
            keep_bodies: days(1),
            max_size: None,
            idempotency_ttl: days(7),
            journal: JournalOptions::default(),
            max_pending: 1_000_000,
            critical_reserve: None,
            max_message_size: 25 * 1024 * 1024,
            domain: None,
            accept_timeout: seconds(5),
            on_spool_failure: OnSpoolFailure::Reject,
            retry: RetryPolicy::default(),
            weights: Weights::default(),
            clock: Clock::system(),
            suppress_bounces_for: days(90),
            unsubscribing: None,
            returns: None,
            #[cfg(feature = "templates")]
            templates: crate::content::Templates::default(),
        }
    }
}

impl Builder {
    /// Adds a relay. Without routes, mail uses all relays in the order in which they were added.
    pub fn relay(mut self, relay: Relay) -> Self {
        self.relays.push(relay);
        self
    }

    /// Adds a route: mail that matches uses these relays, by name, in order of preference. The
    /// first route that matches is used.
    pub fn route<S: Into<String>>(
        mut self,
        matching: Match,
        relays: impl IntoIterator<Item = S>,
    ) -> Self {
        self.routes.push(RouteRule {
            matching,
            relays: relays.into_iter().map(Into::into).collect(),
        });
        self
    }

    /// Stores mail in a sled spool in this directory, which is created if necessary.
    pub fn spool(mut self, path: impl Into<PathBuf>) -> Self {
        self.keep = SpoolKind::OnDisk(path.into());
        self
    }

    /// Stores mail in memory only, for tests. Receipts say so.
    pub fn spool_in_memory(mut self) -> Self {
        self.keep = SpoolKind::InMemory;
        self
    }

    /// Stores mail in a PostgreSQL database, which several dispatchers may share.
    #[cfg(feature = "postgres")]
    pub fn spool_postgres(mut self, database: spool::postgres::PostgresSpool) -> Self {
        self.keep = SpoolKind::Postgres(database);
        self
    }

    /// Stores mail in a custom spool, which has options of its own: those of this builder for
    /// retention, idempotency keys and syncing do not apply. It is closed when the dispatcher
    /// stops.
    pub fn spool_custom(mut self, spool: Arc<dyn Spool>) -> Self {
        self.keep = SpoolKind::Custom(spool);
        self
    }

    /// Syncs the spool every `span` instead of before each receipt. Receipts then say `Written`,
    /// not `Synced`.
    pub fn sync_every(mut self, span: Duration) -> Self {
        self.sync_interval = Some(span);
        self
    }

    /// How long finished mail is kept; 7 days by default.
    pub fn retention(mut self, span: Duration) -> Self {
        self.retention = span;
        self
    }

    /// How long the message of a mail is kept that was delivered to every recipient, if that is
    /// shorter than the retention; 1 day by default.
    pub fn keep_bodies(mut self, span: Duration) -> Self {
        self.keep_bodies = span;
        self
    }

    /// The most bytes of mail that the spool stores, and about the most that its files occupy;
    /// unlimited by default. Above it, the oldest finished mail is deleted early; if none is left,
    /// new mail is refused with [`Error::SpoolFull`]. The files also contain removed records until
    /// they are cleaned, and about 80 MiB of overhead: the fuller they are, the less finished mail
    /// is kept, down to a half, and to a quarter if they are larger than this.
    pub fn max_size(mut self, bytes: u64) -> Self {
        self.max_size = Some(bytes);
        self
    }

    /// How long an idempotency key is remembered; 7 days by default. If all keys take more than an
    /// eighth of [`max_size`](Self::max_size), the oldest ones of finished mail are forgotten
    /// early.
    pub fn idempotency_ttl(mut self, span: Duration) -> Self {
        self.idempotency_ttl = span;
        self
    }

    /// How long events are kept, and how many bytes of them; 7 days and 1 GiB by default.
    pub fn journal(mut self, keep: Duration, max_size: u64) -> Self {
        self.journal = JournalOptions { keep, max_size };
        self
    }

    /// How many deliveries may be pending; a million by default.
    pub fn max_pending(mut self, deliveries: u64) -> Self {
        self.max_pending = deliveries;
        self
    }

    /// How many more deliveries of critical mail may be pending; a twentieth of `max_pending` by
    /// default.
    pub fn critical_reserve(mut self, deliveries: u64) -> Self {
        self.critical_reserve = Some(deliveries);
        self
    }

    /// The largest message that is accepted, in bytes; 25 MiB by default.
    pub fn max_message_size(mut self, bytes: usize) -> Self {
        self.max_message_size = bytes;
        self
    }

    /// The domain for addresses without one, such as `root`, in the header section of a submitted
    /// message; by default that of the return path.
    pub fn domain(mut self, domain: impl Into<String>) -> Self {
        self.domain = Some(domain.into());
        self
    }

    /// How long `submit` waits for room in the queue; 5 s by default.
    pub fn accept_timeout(mut self, span: Duration) -> Self {
        self.accept_timeout = span;
        self
    }

    /// What to do with new mail while the spool cannot accept any.
    pub fn on_spool_failure(mut self, choice: OnSpoolFailure) -> Self {
        self.on_spool_failure = choice;
        self
    }

    /// When deferred deliveries are tried again.
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.retry = policy;
        self
    }

    /// The weights of the priorities.
    pub fn weights(mut self, weights: Weights) -> Self {
        self.weights = weights;
        self
    }

    /// The clock; a fake one in tests.
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// How long an address that bounced permanently is suppressed; 90 days by default.
    pub fn suppress_bounces_for(mut self, span: Duration) -> Self {
        self.suppress_bounces_for = span;
        self
    }

    /// The domain for bounces, in which each delivery gets its own return path. Without it, bounces
    /// go to the return path of the mail, and are not noticed.
    pub fn returns(mut self, returns: super::Returns) -> Self {
        self.returns = Some(returns);
        self
    }

    /// How recipients can unsubscribe from lists. Without it, mail of a list has no link for that.
    pub fn unsubscribing(mut self, unsubscribing: super::Unsubscribing) -> Self {
        self.unsubscribing = Some(unsubscribing);
        self
    }

    /// The templates; see [`Dispatcher::templates`].
    #[cfg(feature = "templates")]
    pub fn templates(mut self, templates: crate::content::Templates) -> Self {
        self.templates = templates;
        self
    }

    /// Opens the spool and starts the actors. Mail that is already in the spool is sent.
    ///
    /// # Errors
    /// [`Error::Configuration`] or [`Error::Relay`] for an invalid configuration, [`Error::Spool`]
    /// if the spool cannot be opened.
    pub async fn start(self) -> Result<Dispatcher, Error> {
        self.start_under(None).await
    }

    /// Starts as [`Builder::start`] does, linked to the caller's own supervisor, which is notified
    /// when the dispatcher ends.
    ///
    /// # Errors
    /// The same as [`Builder::start`].
    pub async fn start_linked(self, supervisor: ActorCell) -> Result<Dispatcher, Error> {
        self.start_under(Some(supervisor)).await
    }

    async fn start_under(self, above: Option<ActorCell>) -> Result<Dispatcher, Error> {
        if self.max_pending == 0 {
            return Err(Error::Configuration(
                "max_pending is 0, so no mail could be accepted".into(),
            ));
        }

        let topology = Topology::new(&self.relays, &self.routes, self.weights)?;
        let spool = self.open_spool().await?;
        let topology = match spool.cluster() {
            Some(cluster) => topology.shared(cluster.orders().borrow().share),
            None => topology,
        };

        let topology = Arc::new(topology);
        let mut engine = Engine::new(spool, self.clock, self.retry, Arc::clone(&topology));
        engine.unsubscribing = self.unsubscribing;
        engine.returns = self.returns;
        engine.suppress_bounces_for = self.suppress_bounces_for;
        #[cfg(feature = "templates")]
        {
            engine.templates = self.templates;
        }

        engine.compare_clock().await;
        for relay in engine.spool.paused().await? {
            tracing::warn!(relay, "the relay is paused, as it was before the start");
            engine.pause(&relay, true);
        }

        let engine = Arc::new(engine);
        engine.reroute();

        let args = Args {
            engine: Arc::clone(&engine),
            topology,
        };

        let spawned = match above {
            Some(above) => Supervisor::spawn_linked(None, Supervisor, args, above).await,
            None => Supervisor::spawn(None, Supervisor, args).await,
        };

        let supervisor = spawned
            .map_err(|e| Error::Stopped(format!("its actors cannot be started: {e}")))?
            .0;

        let inner = Inner {
            engine,
            accept: Accept {
                max_pending: self.max_pending,
                // A twentieth, at least one.
                critical_reserve: self
                    .critical_reserve
                    .unwrap_or(self.max_pending.div_ceil(20)),
                max_message_size: self.max_message_size,
                accept_timeout: self.accept_timeout,
            },
            supervisor,
            direct: Direct::new(self.on_spool_failure),
            series: Arc::default(),
            jobs: super::jobs::JobTable::default(),
            domain: self.domain,
            host: lettre::transport::smtp::extension::ClientId::default().to_string(),
            reloading: tokio::sync::Mutex::default(),
        };

        let inner = Arc::new(inner);
        cluster::follow_share(&inner);
        Ok(Dispatcher {
            inner,
            door: "embedded",
            submitter: crate::mail::Submitter::Local,
            from: None,
            is_part: false,
        })
    }

    async fn open_spool(&self) -> Result<Arc<dyn Spool>, Error> {
        let options = SpoolOptions {
            retention: self.retention,
            keep_bodies: self.keep_bodies,
            max_size: self.max_size,
            idempotency_ttl: self.idempotency_ttl,
            sync_interval: self.sync_interval,
            journal: self.journal,
            ..SpoolOptions::default()
        };

        #[cfg(feature = "postgres")]
        if let SpoolKind::Postgres(database) = &self.keep {
            return Ok(database.open(options).await?);
        }

        let broken_off = |e| SpoolError::Unreadable(format!("opening was aborted: {e}"));
        let deadline = Instant::now() + SPOOL_RELEASED_WITHIN;
        loop {
            let (keep, options) = (self.keep.clone(), options.clone());
            let opened = tokio::task::spawn_blocking(move || match keep {
                SpoolKind::InMemory => Ok(spool::memory::open(options)),
                SpoolKind::OnDisk(path) => spool::sled::open(&path, options),
                SpoolKind::Custom(spool) => Ok(spool),
                #[cfg(feature = "postgres")]
                SpoolKind::Postgres(_) => Err(SpoolError::Closed),
            });
            match opened.await.map_err(broken_off)? {
                Err(SpoolError::Locked(_)) if Instant::now() < deadline => {
                    // The release of a lock cannot be awaited.
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                opened => return Ok(opened?),
            }
        }
    }
}

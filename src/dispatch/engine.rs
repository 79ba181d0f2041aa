//! What the handle and all actors share: the spool, the clock, the topology, the policies, and
//! those who wait for something. Each job done with them has a file of its own: `life`,
//! `recording`, `announcements`, `recalls`, `waiters`.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use futures::FutureExt;
use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::accounts::Accounts;
use super::acts::RefusedLogins;
use super::life::Life;
use super::lists::Unsubscribing;
use super::recalls::Recalls;
use super::recordings::Recordings;
use super::relay_memory::RelayMemory;
use super::returns::Returns;
use super::spool_backoff::SpoolBackoff;
use super::stock::Stocks;
use super::suppressions::Leaving;
use super::topology::Topology;
use super::waiters::Waiters;
use super::{Clock, Error};
use crate::delivery::{Event, Route};
use crate::observe::Metrics;
use crate::policy::RetryPolicy;
use crate::spool::{Spool, SpoolError};

/// How long to wait after an error before mail of former routes is moved again: at first, and at
/// most.
const FIRST_REST: Duration = Duration::from_secs(1);
const LONGEST_REST: Duration = Duration::from_secs(60);

/// Work that a shutdown waits for, until this is dropped.
pub(super) type InFlight = TaskTrackerToken;

pub(super) struct Engine {
    pub spool: Arc<dyn Spool>,
    pub clock: Clock,
    pub metrics: Metrics,
    pub retry: RetryPolicy,
    /// Where recipients leave lists.
    pub unsubscribing: Option<Unsubscribing>,
    /// The domain that bounces come back to.
    pub returns: Option<Returns>,
    /// How long an address that bounced gets no mail.
    pub suppress_bounces_for: Duration,
    pub leaving: Leaving,
    pub life: Life,
    pub recalls: Arc<Recalls>,
    /// What each token and user may submit.
    pub accounts: Accounts,
    pub waiters: Arc<Waiters>,
    pub recordings: Arc<Recordings>,
    pub spool_backoff: SpoolBackoff,
    /// Mail that was claimed and that no sender has begun, by relay.
    pub stocks: Stocks,
    /// Notified when deliveries were recorded, ended or withdrawn: callers that wait for room in
    /// the queue, or for a mail to end, look again.
    pub progress: Notify,
    /// Deliveries that are being accepted, so that many at once do not overfill the queue.
    pub accepting: AtomicU64,
    /// The templates that mail is made from.
    #[cfg(feature = "templates")]
    pub templates: crate::content::Templates,
    pub refused_logins: RefusedLogins,
    /// The current relays and routes.
    topology: RwLock<Arc<Topology>>,
    /// The relays that a user has paused.
    paused: RwLock<HashSet<String>>,
    /// The relays that are down, and what they last said or did.
    down: RwLock<HashMap<Arc<str>, String>>,
    /// What the senders have learned about each relay.
    memories: Mutex<HashMap<Arc<str>, Arc<RelayMemory>>>,
    /// Claims that are being made, mail in senders' hands, and outcomes on their way to the disk.
    /// Counted here and not by an actor, because actors end.
    in_flight: TaskTracker,
    /// The task that moves mail whose routes no longer exist.
    rerouting: Mutex<Option<AbortHandle>>,
}

impl Engine {
    pub(super) fn new(
        spool: Arc<dyn Spool>,
        clock: Clock,
        retry: RetryPolicy,
        topology: Arc<Topology>,
    ) -> Self {
        let in_flight = TaskTracker::new();
        // A closed tracker still counts, and reports whenever nothing is in flight.
        in_flight.close();

        Engine {
            spool,
            clock,
            metrics: Metrics::new(),
            retry,
            unsubscribing: None,
            returns: None,
            suppress_bounces_for: crate::mail::days(90),
            leaving: Leaving::default(),
            life: Life::new(),
            recalls: Arc::default(),
            accounts: Accounts::default(),
            waiters: Arc::default(),
            recordings: Arc::default(),
            spool_backoff: SpoolBackoff::default(),
            stocks: Stocks::default(),
            progress: Notify::new(),
            accepting: AtomicU64::new(0),
            #[cfg(feature = "templates")]
            templates: crate::content::Templates::default(),
            refused_logins: RefusedLogins::default(),
            topology: RwLock::new(topology),
            paused: RwLock::default(),
            down: RwLock::default(),
            memories: Mutex::default(),
            in_flight,
            rerouting: Mutex::default(),
        }
    }

    /// Adds what happened to a relay to the journal, without waiting for it.
    pub(super) fn note(self: &Arc<Self>, event: Event) {
        let engine = Arc::clone(self);
        tokio::spawn(async move {
            if let Some(journal) = engine.spool.journal()
                && let Err(error) = journal.note(vec![event]).await
            {
                tracing::warn!(%error, "what happened could not be noted in the journal");
            }
        });
    }

    /// What was learned about this relay, shared by all of its senders.
    pub(super) fn memory(&self, relay: &Arc<str>) -> Arc<RelayMemory> {
        let mut memories = self.memories.lock();
        Arc::clone(memories.entry(Arc::clone(relay)).or_default())
    }

    /// Whether mail may be submitted.
    pub(super) fn admits(&self) -> Result<(), Error> {
        self.life.admits()
    }

    /// Whether mail is given to senders: not after a shutdown was requested, nor while nothing can
    /// be recorded.
    pub(super) fn is_sending(&self) -> bool {
        self.life.is_running() && self.can_record()
    }

    /// Whether a sender may begin a mail that it has: also for a while after a shutdown was
    /// requested, but not while its relay is paused, nor while outcomes cannot be recorded.
    pub(super) fn may_begin(&self, relay: &str) -> bool {
        self.life.has_time() && !self.is_paused(relay) && self.can_record()
    }

    fn can_record(&self) -> bool {
        self.spool_backoff.is_over() && self.spool.failure().is_none()
    }

    pub(super) fn is_paused(&self, relay: &str) -> bool {
        self.paused.read().contains(relay)
    }

    pub(super) fn paused(&self) -> BTreeSet<String> {
        self.paused.read().iter().cloned().collect()
    }

    pub(super) fn pause(&self, relay: &str, paused: bool) {
        let mut all = self.paused.write();
        if paused {
            all.insert(relay.to_owned());
        } else {
            all.remove(relay);
        }
    }

    /// The relay is down, for this reason.
    pub(super) fn is_down(&self, relay: &Arc<str>, reason: &str) {
        let mut down = self.down.write();
        down.insert(Arc::clone(relay), reason.to_owned());
    }

    /// The relay is up again.
    pub(super) fn is_up(&self, relay: &str) {
        self.down.write().remove(relay);
    }

    /// The relays of each route of which none can be sent over, and why.
    pub(super) fn stuck(&self) -> Vec<String> {
        let (down, topology) = (self.down.read(), self.topology());
        if down.is_empty() {
            return Vec::new();
        }

        let is_open = |relay: &str| !down.contains_key(relay) && !self.is_paused(relay);
        let routes = topology.routes.iter().map(Route::whole);
        let stuck = routes.filter(|route| !route.relays().any(is_open));
        let relays: BTreeSet<String> = stuck
            .flat_map(|route| route.relays().map(str::to_owned).collect::<Vec<_>>())
            .collect();
        let why = relays.iter().filter_map(|relay| {
            let reason = down.get(relay.as_str())?;
            Some(format!("nothing goes over the relay {relay}: {reason}"))
        });

        why.collect()
    }

    /// The current relays and routes.
    pub(super) fn topology(&self) -> Arc<Topology> {
        Arc::clone(&self.topology.read())
    }

    pub(super) fn replace_topology(&self, topology: Arc<Topology>) {
        *self.topology.write() = topology;
    }

    /// Draws a number evenly from 0 to 1.
    pub(super) fn chance(&self) -> f64 {
        rand::random()
    }

    /// Counts work as in flight until the returned token is dropped.
    pub(super) fn begin(&self) -> InFlight {
        self.in_flight.token()
    }

    /// Whether no mail is in a sender's hands or on its way there, and every outcome is on disk.
    pub(super) fn is_at_rest(&self) -> bool {
        self.in_flight.is_empty()
    }

    /// Waits until nothing is in flight.
    pub(super) async fn rests(&self) {
        self.in_flight.wait().await;
    }

    /// Moves mail that waits for routes that no longer exist, in small steps beside all other work.
    /// A task of an earlier configuration is stopped: its routes may be the ones that are gone.
    pub(super) fn reroute(self: &Arc<Self>) {
        let mut rerouting = self.rerouting.lock();
        if let Some(before) = rerouting.take() {
            before.abort();
        }

        let (engine, topology) = (Arc::clone(self), self.topology());
        let task = tokio::spawn(async move {
            let (known, fallback) = (topology.routes.clone(), topology.fallback.clone());
            let mut rest = FIRST_REST;
            loop {
                let rerouted =
                    AssertUnwindSafe(engine.spool.reroute(known.clone(), fallback.clone()));
                let rerouted = rerouted.catch_unwind().await;
                match rerouted.unwrap_or_else(|_| Err(SpoolError::panicked())) {
                    Ok(0) => return,
                    Ok(moved) => tracing::warn!(
                        moved,
                        to = fallback.as_str(),
                        "mail waited for relays that do not exist any more"
                    ),
                    Err(error) => {
                        tracing::error!(
                            %error,
                            ?rest,
                            "mail that waits for relays that do not exist any more could not be \
                             moved; tried again"
                        );
                        if error == SpoolError::Closed {
                            return;
                        }
                        tokio::time::sleep(rest).await;
                        rest = (rest * 2).min(LONGEST_REST);
                    }
                }
            }
        });
        *rerouting = Some(task.abort_handle());
    }
}

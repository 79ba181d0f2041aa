//! What the handle and all actors share: the spool, the clock, the topology, the policies, and who
//! is to be told of what. What is done with them stands in a file for each job: `life`,
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
use super::spool_rest::SpoolRest;
use super::stock::Stocks;
use super::suppressions::Leaving;
use super::topology::Topology;
use super::waiters::Waiters;
use super::{Clock, Error};
use crate::delivery::{Event, Route};
use crate::observe::Metrics;
use crate::policy::RetryPolicy;
use crate::spool::{Spool, SpoolError};

/// How long after an error mail of former routes is moved on: at first, and at most.
const FIRST_REST: Duration = Duration::from_secs(1);
const LONGEST_REST: Duration = Duration::from_secs(60);

/// Something is under way that a shutdown waits for, until this is dropped.
pub(super) type InFlight = TaskTrackerToken;

pub(super) struct Engine {
    pub spool: Arc<dyn Spool>,
    pub clock: Clock,
    pub metrics: Metrics,
    pub retry: RetryPolicy,
    /// Where recipients leave lists.
    pub unsubscribing: Option<Unsubscribing>,
    /// Where mail comes back to.
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
    pub spool_rest: SpoolRest,
    /// What was claimed and nobody has begun, by relay.
    pub stocks: Stocks,
    /// Notified when deliveries were recorded, ended or withdrawn: what waits for room in the queue
    /// or for its end looks again.
    pub progress: Notify,
    /// Deliveries that are being accepted, so that many at once do not overfill the queue.
    pub accepting: AtomicU64,
    /// What mail is made from.
    #[cfg(feature = "templates")]
    pub templates: crate::content::Templates,
    pub refused_logins: RefusedLogins,
    /// The relays and routes of now.
    topology: RwLock<Arc<Topology>>,
    /// The relays that a user has paused.
    paused: RwLock<HashSet<String>>,
    /// The relays that are down, and what they last said or did.
    down: RwLock<HashMap<Arc<str>, String>>,
    /// What each relay has taught its senders.
    memories: Mutex<HashMap<Arc<str>, Arc<RelayMemory>>>,
    /// Claims that are being made, mail in senders' hands, and outcomes on their way to the disk.
    /// Counted here and not by an actor, because actors end.
    in_flight: TaskTracker,
    /// The task that moves mail whose routes are no more.
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
        // It goes on counting: closed, it only tells whenever nothing is in flight.
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
            spool_rest: SpoolRest::default(),
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

    /// Has the journal tell what happened to a relay, and goes on.
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

    /// What this relay has taught its senders, shared by all of them.
    pub(super) fn memory(&self, relay: &Arc<str>) -> Arc<RelayMemory> {
        let mut memories = self.memories.lock();
        Arc::clone(memories.entry(Arc::clone(relay)).or_default())
    }

    /// Whether mail may be submitted.
    pub(super) fn admits(&self) -> Result<(), Error> {
        self.life.admits()
    }

    /// Whether mail is handed to senders: not once a shutdown was asked for, nor while nothing can
    /// be recorded.
    pub(super) fn is_sending(&self) -> bool {
        self.life.is_running() && self.can_record()
    }

    /// Whether a sender may begin a mail that it has. For a while it may after a shutdown was asked
    /// for; not while its relay is paused, nor while what becomes of it could not be recorded.
    pub(super) fn may_begin(&self, relay: &str) -> bool {
        self.life.has_time() && !self.is_paused(relay) && self.can_record()
    }

    fn can_record(&self) -> bool {
        self.spool_rest.is_over() && self.spool.failure().is_none()
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

    /// The relays and routes of now.
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

    /// Counts something as under way until what is returned is dropped.
    pub(super) fn begin(&self) -> InFlight {
        self.in_flight.token()
    }

    /// Whether no mail is in a sender's hands or on its way there, and all that was learned is on
    /// disk.
    pub(super) fn is_at_rest(&self) -> bool {
        self.in_flight.is_empty()
    }

    /// Waits until it is at rest.
    pub(super) async fn rests(&self) {
        self.in_flight.wait().await;
    }

    /// Moves mail that waits for routes that are no more, in small steps beside all other work.
    /// What an earlier configuration had moved ends here: its routes may be those that are no more.
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

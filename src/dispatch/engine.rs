//! The state that the handle and all actors share: spool, clock, topology and policies. The work
//! done with it is in files of its own: `life`, `recording`, `announcements`, `recalls`, `waiters`.

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
use super::suppressions::UnsubscribeLocks;
use super::topology::Topology;
use super::waiters::Waiters;
use super::{Clock, Error};
use crate::delivery::{Event, Route};
use crate::observe::Metrics;
use crate::policy::RetryPolicy;
use crate::spool::{Spool, SpoolError};

/// How long to wait after an error before rerouting mail is tried again: at first, and at most.
const FIRST_REST: Duration = Duration::from_secs(1);
const LONGEST_REST: Duration = Duration::from_secs(60);

/// How far the clock may be behind the spool's last event without a warning.
const CLOCK_MAY_LAG: Duration = Duration::from_secs(5 * 60);

/// Work that a shutdown waits for; ends when it is dropped.
pub(super) type InFlight = TaskTrackerToken;

pub(super) struct Engine {
    pub spool: Arc<dyn Spool>,
    pub clock: Clock,
    pub metrics: Metrics,
    pub retry: RetryPolicy,
    /// How recipients unsubscribe from lists.
    pub unsubscribing: Option<Unsubscribing>,
    /// The domain for bounces.
    pub returns: Option<Returns>,
    /// How long an address that bounced is suppressed.
    pub suppress_bounces_for: Duration,
    pub unsubscribe_locks: UnsubscribeLocks,
    pub life: Life,
    pub recalls: Arc<Recalls>,
    /// The quotas of tokens and users.
    pub accounts: Accounts,
    pub waiters: Arc<Waiters>,
    pub recordings: Arc<Recordings>,
    pub spool_backoff: SpoolBackoff,
    /// Mail that was claimed and that no sender has started, by relay.
    pub stocks: Stocks,
    /// Notified when deliveries were recorded, ended or cancelled: callers that wait for room in
    /// the queue, or for a mail to be finished, check again.
    pub progress: Notify,
    /// The deliveries that are being accepted; counted so that concurrent submissions do not
    /// overfill the queue.
    pub accepting: AtomicU64,
    /// The templates for composing mail.
    #[cfg(feature = "templates")]
    pub templates: crate::content::Templates,
    pub refused_logins: RefusedLogins,
    /// The current relays and routes.
    topology: RwLock<Arc<Topology>>,
    /// The relays that a user has paused.
    paused: RwLock<HashSet<String>>,
    /// The relays that are down, and their last errors.
    down: RwLock<HashMap<Arc<str>, String>>,
    /// What the senders have learned about each relay.
    memories: Mutex<HashMap<Arc<str>, Arc<RelayMemory>>>,
    /// Claims in progress, mail that senders hold, and outcomes that are being written. Counted
    /// here rather than in an actor, because actors may crash.
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
            unsubscribe_locks: UnsubscribeLocks::default(),
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

    /// Adds an event about a relay to the journal, without waiting for it.
    pub(super) fn note(self: &Arc<Self>, event: Event) {
        let engine = Arc::clone(self);
        tokio::spawn(async move {
            if let Some(journal) = engine.spool.journal()
                && let Err(error) = journal.note(vec![event]).await
            {
                tracing::warn!(%error, "cannot record an event in the journal");
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

    /// Whether mail is given to senders: not after a shutdown was requested, nor while outcomes
    /// cannot be recorded.
    pub(super) fn is_sending(&self) -> bool {
        self.life.is_running() && self.can_record()
    }

    /// Whether a sender may start a mail that it holds. Also true for some time after a shutdown
    /// was requested, but not while its relay is paused or outcomes cannot be recorded.
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

    /// Records that the relay is down, and why.
    pub(super) fn set_down(&self, relay: &Arc<str>, reason: &str) {
        let mut down = self.down.write();
        down.insert(Arc::clone(relay), reason.to_owned());
    }

    /// Records that the relay is up again.
    pub(super) fn set_up(&self, relay: &str) {
        self.down.write().remove(relay);
    }

    /// The relays of each route of which no relay can be used, and why.
    pub(super) fn unusable_relays(&self) -> Vec<String> {
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
            Some(format!(
                "no mail can be sent over the relay {relay}: {reason}"
            ))
        });

        why.collect()
    }

    /// Says where the clock is behind what this spool has seen already, as after a start before the
    /// time was known.
    pub(super) async fn compare_clock(&self) {
        let Some(journal) = self.spool.journal() else {
            return;
        };
        let last = *journal.last().borrow();
        // Nothing depends on it.
        let Ok(page) = journal.after(last.saturating_sub(1), 1).await else {
            return;
        };
        let Some(event) = page.events.last() else {
            return;
        };
        let behind = event.at.since(self.clock.now());
        if behind >= CLOCK_MAY_LAG {
            tracing::warn!(
                last_event = %event.at,
                behind = %humantime::format_duration(behind),
                "the clock is behind the last event of the spool: mail that waits for a time waits \
                 that much longer, until the clock is set or the mail is retried"
            );
        }
    }

    /// The current relays and routes.
    pub(super) fn topology(&self) -> Arc<Topology> {
        Arc::clone(&self.topology.read())
    }

    pub(super) fn replace_topology(&self, topology: Arc<Topology>) {
        *self.topology.write() = topology;
    }

    /// A random number from 0 to 1, evenly distributed.
    pub(super) fn chance(&self) -> f64 {
        rand::random()
    }

    /// Counts work as in flight until the returned token is dropped.
    pub(super) fn begin(&self) -> InFlight {
        self.in_flight.token()
    }

    /// Whether no mail is being claimed or sent, and every outcome is on disk.
    pub(super) fn is_idle(&self) -> bool {
        self.in_flight.is_empty()
    }

    /// Waits until nothing is in flight.
    pub(super) async fn wait_until_idle(&self) {
        self.in_flight.wait().await;
    }

    /// Moves mail of routes that no longer exist to the default route, in small steps. Stops the
    /// task of an earlier configuration, whose routes may be gone.
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
                        "moved mail of routes that no longer exist"
                    ),
                    Err(error) => {
                        tracing::error!(
                            %error,
                            ?rest,
                            "cannot move mail of routes that no longer exist; will be \
                             tried again"
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

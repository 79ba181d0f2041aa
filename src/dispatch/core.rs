//! What the handle and all actors share: the spool, the clock, the policies, and the one place
//! where an outcome is recorded and told.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::{Clock, Error};
use crate::delivery::{Attempt, Delivery, Outcome, Rules, Settled, Stage};
use crate::mail::{MailId, Timestamp};
use crate::observe::{DeliveryResult, EventKind, Events, Metrics, log};
use crate::policy::{RetryPolicy, Routes};
use crate::spool::{Lease, Manifest, SettleResult, Spool};

/// Whether the engine runs, and how it ended if it does not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Life {
    Running,
    /// A shutdown was asked for: nothing more is accepted, and senders begin nothing more after
    /// this moment, if there is one.
    Draining(Option<Instant>),
    /// It ended as asked.
    Stopped,
    /// It ended by itself.
    Failed(String),
}

pub(super) struct Core {
    pub spool: Arc<dyn Spool>,
    pub clock: Clock,
    pub events: Events,
    pub metrics: Metrics,
    pub retry: RetryPolicy,
    pub routes: RwLock<Routes>,
    pub life: watch::Sender<Life>,
    /// The relays that a user has paused.
    paused: RwLock<HashSet<String>>,
    /// The task that moves mail whose routes are no more.
    pub rerouting: Mutex<Option<AbortHandle>>,
    /// Notified when a settle was recorded.
    pub settled: Notify,
    /// Claims that are being made, batches in senders' hands, and outcomes on their way to the
    /// disk.
    under_way: AtomicUsize,
    waiters: Mutex<HashMap<MailId, Arc<Notify>>>,
    /// Mails that a user wants back while a sender has them.
    withdrawn: Mutex<HashMap<MailId, usize>>,
    any_withdrawn: AtomicBool,
    /// Deliveries that are being accepted, so that many at once do not overfill the queue.
    pub accepting: AtomicU64,
    /// Mails that are being accepted, and since when. A sender may have one before its receipt is
    /// out: whoever tells of it first tells first that it was accepted.
    unannounced: Mutex<HashMap<MailId, Unannounced>>,
}

/// A mail that is being accepted, perhaps by several who hand it in at once.
struct Unannounced {
    at: Timestamp,
    holders: usize,
    told: bool,
}

/// What a sender learned about one delivery.
pub(super) struct Learned {
    pub lease: Lease,
    pub delivery: Delivery,
    pub outcome: Outcome,
}

impl Core {
    pub(super) fn new(
        spool: Arc<dyn Spool>,
        clock: Clock,
        retry: RetryPolicy,
        routes: Routes,
    ) -> Self {
        Core {
            spool,
            clock,
            events: Events::new(),
            metrics: Metrics::new(),
            retry,
            routes: RwLock::new(routes),
            life: watch::channel(Life::Running).0,
            paused: RwLock::default(),
            rerouting: Mutex::default(),
            settled: Notify::new(),
            under_way: AtomicUsize::new(0),
            waiters: Mutex::default(),
            withdrawn: Mutex::default(),
            any_withdrawn: AtomicBool::new(false),
            accepting: AtomicU64::new(0),
            unannounced: Mutex::default(),
        }
    }

    /// Whether mail may be handed in.
    pub(super) fn admits(&self) -> Result<(), Error> {
        match &*self.life.borrow() {
            Life::Running => Ok(()),
            Life::Draining(_) => Err(Error::Stopped("it is shutting down".into())),
            Life::Stopped => Err(Error::Stopped("it was shut down".into())),
            Life::Failed(reason) => Err(Error::Stopped(reason.clone())),
        }
    }

    /// Whether mail is handed to senders: not once a shutdown was asked for, nor while nothing can
    /// be recorded.
    pub(super) fn is_sending(&self) -> bool {
        *self.life.borrow() == Life::Running && self.spool.failure().is_none()
    }

    /// Whether a sender may begin a mail that it has. For a while it may after a shutdown was asked
    /// for; not while its relay is paused, nor while what becomes of it could not be recorded.
    pub(super) fn may_begin(&self, relay: &str) -> bool {
        let has_time = match *self.life.borrow() {
            Life::Running => true,
            Life::Draining(until) => until.is_none_or(|until| Instant::now() < until),
            Life::Stopped | Life::Failed(_) => false,
        };
        has_time && !self.is_paused(relay) && self.spool.failure().is_none()
    }

    pub(super) fn is_paused(&self, relay: &str) -> bool {
        self.paused.read().contains(relay)
    }

    pub(super) fn pause(&self, relay: &str, paused: bool) {
        let mut all = self.paused.write();
        if paused {
            all.insert(relay.to_owned());
        } else {
            all.remove(relay);
        }
    }

    /// Ends the engine's life; the first end is the one that counts.
    pub(super) fn end(&self, end: Life) {
        self.life.send_if_modified(|life| {
            let alive = matches!(life, Life::Running | Life::Draining(_));
            if alive {
                *life = end;
            }
            alive
        });
    }

    /// Draws a number evenly from 0 to 1.
    pub(super) fn chance(&self) -> f64 {
        rand::random()
    }

    /// Records what was learned of one mail's deliveries, and tells everybody once it is on disk.
    /// The order of calls is the order of records; the wait for the disk goes on by itself. What
    /// was learned nothing about goes back.
    ///
    /// `done` is dropped when the disk has answered.
    pub(super) fn record(
        self: &Arc<Self>,
        relay: &str,
        manifest: &Arc<Manifest>,
        learned: Vec<Learned>,
        done: impl Send + 'static,
    ) {
        let now = self.clock.now();
        let chance = self.chance();
        let retry_after = |tries, counted| self.retry.delay(tries, counted, chance);
        let rules = Rules {
            now,
            relay,
            expires_at: manifest.expires_at,
            guarantee: manifest.guarantee,
            retry_after: &retry_after,
        };
        let mut settled = Vec::with_capacity(learned.len());
        let mut told = Vec::with_capacity(learned.len());
        for Learned {
            lease,
            delivery,
            outcome,
        } in learned
        {
            self.metrics.attempt(relay, outcome.class());
            if let Settled::Changed(next) = delivery.settle(&outcome, &rules) {
                told.push((next.clone(), next.tries > delivery.tries));
                settled.push((lease, next));
            }
        }
        self.commit(manifest, settled, told, done);
    }

    /// Records deliveries as they now are, without a try.
    pub(super) fn record_unsent(
        self: &Arc<Self>,
        manifest: &Arc<Manifest>,
        changed: Vec<(Lease, Delivery)>,
    ) {
        let told = changed
            .iter()
            .map(|(_, delivery)| (delivery.clone(), false))
            .collect();
        self.commit(manifest, changed, told, ());
    }

    fn commit(
        self: &Arc<Self>,
        manifest: &Arc<Manifest>,
        settled: Vec<(Lease, Delivery)>,
        told: Vec<(Delivery, bool)>,
        done: impl Send + 'static,
    ) {
        if settled.is_empty() {
            return;
        }
        let (core, manifest, under_way) = (Arc::clone(self), Arc::clone(manifest), self.begin());
        tokio::spawn(async move {
            match core.spool.settle(settled).await {
                Ok(recorded) => {
                    for ((delivery, tried), recorded) in told.iter().zip(recorded) {
                        if recorded == SettleResult::Done {
                            core.tell(&manifest, delivery, *tried);
                        }
                    }
                }
                Err(error) => {
                    tracing::error!(mail.id = %manifest.id, %error, "an outcome could not be recorded")
                }
            }
            drop(under_way);
            core.settled.notify_waiters();
            drop(done);
        });
    }

    /// Counts something as under way until the guard is dropped.
    pub(super) fn begin(self: &Arc<Self>) -> UnderWay {
        self.under_way.fetch_add(1, Ordering::SeqCst);
        UnderWay(Arc::clone(self))
    }

    /// Whether no mail is in a sender's hands or on its way there, and all that was learned is on
    /// disk.
    pub(super) fn is_at_rest(&self) -> bool {
        self.under_way.load(Ordering::SeqCst) == 0
    }

    /// Waits until it is at rest.
    pub(super) async fn rests(&self) {
        loop {
            let settled = self.settled.notified();
            if self.is_at_rest() {
                return;
            }
            let _ = tokio::time::timeout(Duration::from_millis(100), settled).await;
        }
    }

    /// Notes that a mail is being accepted.
    pub(super) fn begin_accepting(&self, mail: MailId, at: Timestamp) {
        let mut unannounced = self.unannounced.lock();
        unannounced
            .entry(mail)
            .or_insert(Unannounced {
                at,
                holders: 0,
                told: false,
            })
            .holders += 1;
    }

    /// Tells that a mail was accepted at this time, unless that was told.
    pub(super) fn announce_accepted(&self, mail: MailId, accepted_at: Timestamp) {
        let mut unannounced = self.unannounced.lock();
        // One that was accepted before was told then, and is handed in again.
        if let Some(entry) = unannounced
            .get_mut(&mail)
            .filter(|entry| entry.at <= accepted_at && !entry.told)
        {
            entry.told = true;
            self.events
                .tell(accepted_at, Some(mail), None, None, EventKind::Accepted);
        }
    }

    /// The mail was accepted, or it was not; once for each
    /// [`begin_accepting`](Self::begin_accepting).
    pub(super) fn end_accepting(&self, mail: MailId) {
        let mut unannounced = self.unannounced.lock();
        if let Some(entry) = unannounced.get_mut(&mail) {
            entry.holders -= 1;
            if entry.holders == 0 {
                unannounced.remove(&mail);
            }
        }
    }

    fn tell(&self, manifest: &Manifest, delivery: &Delivery, tried: bool) {
        self.announce_accepted(manifest.id, manifest.accepted_at);
        let now = self.clock.now();
        let attempt = delivery.attempts.last().filter(|_| tried);
        let relay = attempt.map(|attempt| attempt.relay.as_str());
        let (kind, result) = match delivery.stage {
            Stage::Delivered { .. } => (EventKind::Delivered, Some(DeliveryResult::Delivered)),
            Stage::Dead { reason, .. } => (EventKind::Dead { reason }, Some(DeliveryResult::Dead)),
            Stage::Cancelled { .. } => (EventKind::Cancelled, None),
            // It waits as it did before: nothing has come of it.
            Stage::Pending { .. } | Stage::Committing { .. } if !tried => return,
            Stage::Pending { due } | Stage::Committing { due } => (
                EventKind::Deferred {
                    next_attempt_at: due,
                },
                Some(DeliveryResult::Deferred),
            ),
        };
        if let Some(result) = result {
            let since_accept = now.since(manifest.accepted_at);
            self.metrics.delivery(
                relay.unwrap_or_default(),
                result,
                since_accept,
                self.clock.monotonic(),
            );
        }
        if let Some(attempt) = attempt {
            let kind = EventKind::Attempted {
                attempt: attempt.clone(),
            };
            self.events.tell(
                now,
                Some(manifest.id),
                Some(&delivery.recipient),
                relay,
                kind,
            );
        }
        self.announce(now, manifest.id, &delivery.recipient, attempt, kind);
    }

    /// Tells of a step of one delivery: log, event, and those who wait for the mail.
    pub(super) fn announce(
        &self,
        now: Timestamp,
        mail: MailId,
        recipient: &crate::mail::Address,
        attempt: Option<&Attempt>,
        kind: EventKind,
    ) {
        log(mail, recipient, attempt, &kind);
        let ends = matches!(
            kind,
            EventKind::Delivered | EventKind::Dead { .. } | EventKind::Cancelled
        );
        let relay = attempt.map(|attempt| attempt.relay.as_str());
        self.events
            .tell(now, Some(mail), Some(recipient), relay, kind);
        if ends && let Some(waiter) = self.waiters.lock().get(&mail) {
            waiter.notify_waiters();
        }
    }

    /// Notified when a delivery of this mail ends. Hold the guard while waiting.
    pub(super) fn wait_for(self: &Arc<Self>, mail: MailId) -> Waiting {
        let notify = Arc::clone(self.waiters.lock().entry(mail).or_default());
        Waiting {
            core: Arc::clone(self),
            mail,
            notify,
        }
    }

    /// Notes that a user wants a mail back that a sender has; until the guard is dropped.
    pub(super) fn withdraw(self: &Arc<Self>, mail: MailId) -> Withdrawal {
        *self.withdrawn.lock().entry(mail).or_default() += 1;
        self.any_withdrawn.store(true, Ordering::Release);
        Withdrawal {
            core: Arc::clone(self),
            mail,
        }
    }

    /// Whether a user wants this mail back. Costs next to nothing while nobody wants anything.
    pub(super) fn is_withdrawn(&self, mail: MailId) -> bool {
        self.any_withdrawn.load(Ordering::Acquire) && self.withdrawn.lock().contains_key(&mail)
    }
}

/// Something is under way that a shutdown waits for. It is counted here and not by an actor,
/// because actors end.
pub(super) struct UnderWay(Arc<Core>);

impl Clone for UnderWay {
    fn clone(&self) -> Self {
        self.0.begin()
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        if self.0.under_way.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.settled.notify_waiters();
        }
    }
}

/// Somebody waits for a mail.
pub(super) struct Waiting {
    core: Arc<Core>,
    mail: MailId,
    pub notify: Arc<Notify>,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut waiters = self.core.waiters.lock();
        // This guard and the table hold it; anybody else who waits holds it too.
        if Arc::strong_count(&self.notify) <= 2 {
            waiters.remove(&self.mail);
        }
    }
}

/// Somebody wants a mail back.
pub(super) struct Withdrawal {
    core: Arc<Core>,
    mail: MailId,
}

impl Drop for Withdrawal {
    fn drop(&mut self) {
        let mut withdrawn = self.core.withdrawn.lock();
        if let Some(count) = withdrawn.get_mut(&self.mail) {
            *count -= 1;
            if *count == 0 {
                withdrawn.remove(&self.mail);
            }
        }
        self.core
            .any_withdrawn
            .store(!withdrawn.is_empty(), Ordering::Release);
    }
}

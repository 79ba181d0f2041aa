//! Counters, gauges and histograms for Prometheus; each dispatcher has a registry of its own.
//!
//! Names and labels are part of the public contract. Gauges are set from the engine's state when
//! the metrics are requested; counters count events as they happen.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::metrics::{MetricType, TypedMetric};
use prometheus_client::registry::{Metric, Registry};

use super::labels::{
    AcceptedLabels, ActLabels, AttemptLabels, BreakerLabels, ConnectionLabels, ConnectionState,
    DeliveryLabels, DepthLabels, FeedbackLabels, KeyConflictLabels, QuotaLabels, ReaderLabels,
    RefusalLabels, RelayLabels, RestartLabels,
};
#[cfg(feature = "notify")]
use super::labels::{WebhookLabels, WebhookMessageLabels};
use crate::delivery::{AttemptClass, State};
use crate::mail::{Priority, Submitter};
use crate::policy::BreakerState;

/// The metrics of one dispatcher.
pub struct Metrics {
    registry: Registry,
    accepted: Family<AcceptedLabels, Counter>,
    deliveries: Family<DeliveryLabels, Counter>,
    attempts: Family<AttemptLabels, Counter>,
    queue_depth: Family<DepthLabels, Gauge>,
    oldest_queued: Gauge<f64, AtomicU64>,
    accept_seconds: Histogram,
    delivery_latency: Histogram,
    commits: CommitHistogram,
    spool_bytes: Gauge,
    relay_connections: Family<ConnectionLabels, Gauge>,
    relay_breaker: Family<BreakerLabels, Gauge>,
    relay_paused: Family<RelayLabels, Gauge>,
    max_pending: Gauge,
    stale_settles: CounterGauge,
    held_back: Gauge<f64, AtomicU64>,
    quarantined: CounterGauge,
    restarts: Family<RestartLabels, Counter>,
    turned_away: Family<RefusalLabels, Counter>,
    acts: Family<ActLabels, Counter>,
    #[cfg(feature = "notify")]
    webhook_messages: Family<WebhookMessageLabels, Counter>,
    #[cfg(feature = "notify")]
    webhook_off: Family<WebhookLabels, Gauge>,
    feedback: Family<FeedbackLabels, Counter>,
    journal_bytes: Gauge,
    journal_missed: Family<ReaderLabels, CounterGauge>,
    quota_refusals: Family<QuotaLabels, Counter>,
    key_conflicts: Family<KeyConflictLabels, Counter>,
    /// Totals since start, without labels.
    pub(crate) totals: CountsSinceStart,
}

/// Totals since start.
#[derive(Default)]
pub(crate) struct CountsSinceStart {
    pub accepted: AtomicU64,
    pub delivered: AtomicU64,
    pub dead: AtomicU64,
    pub deferred: AtomicU64,
    pub recent: Recent,
}

/// Deliveries in each of the last sixty seconds.
#[derive(Default)]
pub(crate) struct Recent(Mutex<VecDeque<(u64, u64)>>);

impl Recent {
    fn count(&self, now: Duration) {
        let mut seconds = self.0.lock();
        match seconds.back_mut() {
            Some((second, count)) if *second == now.as_secs() => *count += 1,
            _ => seconds.push_back((now.as_secs(), 1)),
        }
        while seconds
            .front()
            .is_some_and(|(second, _)| second + 60 < now.as_secs())
        {
            seconds.pop_front();
        }
    }

    /// Deliveries per second over the last minute, or since the first one in it.
    pub(crate) fn per_second(&self, now: Duration) -> f64 {
        let seconds = self.0.lock();
        let recent = seconds
            .iter()
            .filter(|(second, _)| second + 60 >= now.as_secs());
        let (mut total, mut first) = (0u64, now.as_secs());
        for (second, count) in recent {
            total += count;
            first = first.min(*second);
        }
        total as f64 / (now.as_secs() - first + 1) as f64
    }
}

/// The outcome of a delivery, as a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum DeliveryResult {
    Delivered,
    Deferred,
    Dead,
}

impl DeliveryResult {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            DeliveryResult::Delivered => "delivered",
            DeliveryResult::Deferred => "deferred",
            DeliveryResult::Dead => "dead",
        }
    }
}

/// The gauges' values, which the dispatcher gathers when the metrics are requested.
pub(crate) struct Gauges {
    pub depth: Vec<(State, Priority, u64)>,
    pub oldest_queued_seconds: f64,
    pub spool_bytes: u64,
    pub stale_settles: u64,
    pub held_back_seconds: f64,
    pub quarantined: u64,
    /// The histogram of commit times: upper bounds in seconds with their counts; the last is
    /// unbounded.
    pub commit_buckets: Vec<(f64, u64)>,
    /// The sum of all commit times in seconds.
    pub commit_seconds: f64,
    pub journal_bytes: u64,
    pub max_pending: u64,
    /// Missed events by named reader.
    pub journal_missed: Vec<(String, u64)>,
    pub relays: Vec<RelayGauges>,
}

/// The gauges' values of one relay.
pub(crate) struct RelayGauges {
    pub name: String,
    pub busy: usize,
    /// Open connections that no mail is sent over.
    pub idle: usize,
    pub breaker: BreakerState,
    pub is_paused: bool,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("postrider");
        let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "The version that is running", build);
        let to = &mut registry;

        Metrics {
            accepted: made(
                to,
                "mails_accepted",
                "Accepted mails, by listener and priority",
            ),
            deliveries: made(
                to,
                "deliveries",
                "Outcomes of deliveries, by relay and result",
            ),
            attempts: made(to, "attempts", "Attempts, by relay and class of outcome"),
            queue_depth: made(
                to,
                "queue_depth",
                "Deliveries in the spool, by state and priority",
            ),
            oldest_queued: made(
                to,
                "oldest_queued_seconds",
                "How long the longest-waiting due delivery has been due",
            ),
            accept_seconds: registered(
                to,
                "accept_seconds",
                "Time from a mail's submission to its receipt",
                Histogram::new(exponential_buckets(0.000_1, 2.0, 18)),
            ),
            delivery_latency: registered(
                to,
                "delivery_latency_seconds",
                "Time from a mail's receipt to its delivery",
                Histogram::new(exponential_buckets(0.001, 2.0, 24)),
            ),
            commits: made(
                to,
                "spool_sync_seconds",
                "Time of one commit of the spool, including its sync",
            ),
            spool_bytes: made(to, "spool_bytes", "Bytes of the spool on disk"),
            relay_connections: made(
                to,
                "relay_connections",
                "Open connections to a relay, busy or idle",
            ),
            relay_breaker: made(to, "relay_breaker", "1 for the state of a relay's breaker"),
            relay_paused: made(to, "relay_paused", "1 while the relay is paused"),
            max_pending: made(to, "max_pending", "The most deliveries that may be pending"),
            stale_settles: made(
                to,
                "stale_settles",
                "Settles refused because their lease was not current",
            ),
            held_back: made(
                to,
                "spool_held_back_seconds",
                "How long an old transaction has kept the database from removing dead rows",
            ),
            quarantined: made(
                to,
                "quarantined",
                "Records set aside because they could not be read",
            ),
            restarts: made(to, "actor_restarts", "Actors restarted after they ended"),
            quota_refusals: made(
                to,
                "quota_refusals",
                "Mails refused to a token or user, by what it had used up",
            ),
            key_conflicts: made(
                to,
                "key_conflicts",
                "Mails refused because their idempotency key was used for other content",
            ),
            turned_away: made(to, "refusals", "Refused clients, by listener and reason"),
            acts: made(to, "acts", "Operations by users and programs"),
            feedback: made(to, "feedback", "Feedback about mail, by source and result"),
            journal_bytes: made(to, "journal_bytes", "Bytes of the journal"),
            journal_missed: made(
                to,
                "journal_missed_events",
                "Events deleted before this reader had read them, since the spool was opened",
            ),
            #[cfg(feature = "notify")]
            webhook_messages: made(
                to,
                "webhook_messages",
                "Messages to webhooks, by webhook and result",
            ),
            #[cfg(feature = "notify")]
            webhook_off: made(to, "webhook_off", "1 for a webhook that is switched off"),
            totals: CountsSinceStart::default(),
            registry,
        }
    }

    pub(crate) fn accepted(&self, door: &'static str, priority: Priority, took: Duration) {
        self.totals.accepted.fetch_add(1, Ordering::Relaxed);
        self.accept_seconds.observe(took.as_secs_f64());
        let labels = AcceptedLabels { door, priority };
        self.accepted.get_or_create(&labels).inc();
    }

    pub(crate) fn turned_away(&self, door: &'static str, reason: &'static str) {
        let labels = RefusalLabels { door, reason };
        self.turned_away.get_or_create(&labels).inc();
    }

    pub(crate) fn quota_refusal(&self, who: &Submitter, limit: &str) {
        let (who, limit) = (who.to_string(), limit.to_owned());
        let labels = QuotaLabels { who, limit };
        self.quota_refusals.get_or_create(&labels).inc();
    }

    pub(crate) fn key_conflicts(&self, who: &Submitter, count: usize) {
        let who = who.to_string();
        let conflicts = self.key_conflicts.get_or_create(&KeyConflictLabels { who });
        conflicts.inc_by(count as u64);
    }

    pub(crate) fn attempt(&self, relay: &str, class: AttemptClass) {
        let relay = relay.to_owned();
        let labels = AttemptLabels { relay, class };
        self.attempts.get_or_create(&labels).inc();
    }

    pub(crate) fn delivery(
        &self,
        relay: &str,
        result: DeliveryResult,
        since_accept: Duration,
        now: Duration,
    ) {
        let total = match result {
            DeliveryResult::Delivered => &self.totals.delivered,
            DeliveryResult::Deferred => &self.totals.deferred,
            DeliveryResult::Dead => &self.totals.dead,
        };
        total.fetch_add(1, Ordering::Relaxed);
        if result == DeliveryResult::Delivered {
            self.delivery_latency.observe(since_accept.as_secs_f64());
            self.totals.recent.count(now);
        }

        let relay = relay.to_owned();
        let labels = DeliveryLabels { relay, result };
        self.deliveries.get_or_create(&labels).inc();
    }

    pub(crate) fn restarted(&self, actor: &'static str) {
        self.restarts.get_or_create(&RestartLabels { actor }).inc();
    }

    #[cfg(feature = "notify")]
    pub(crate) fn noticed(&self, webhook: &str, result: &str) {
        let (webhook, result) = (webhook.to_owned(), result.to_owned());
        let labels = WebhookMessageLabels { webhook, result };
        self.webhook_messages.get_or_create(&labels).inc();
    }

    #[cfg(feature = "notify")]
    pub(crate) fn webhook_is_off(&self, webhook: &str, is_off: bool) {
        let webhook = webhook.to_owned();
        let shown = self.webhook_off.get_or_create(&WebhookLabels { webhook });
        shown.set(i64::from(is_off));
    }

    /// Counts feedback: a report, or a provider's event.
    pub(crate) fn fed_back(&self, by: &str, result: &str) {
        let (by, result) = (by.to_owned(), result.to_owned());
        let labels = FeedbackLabels { by, result };
        self.feedback.get_or_create(&labels).inc();
    }

    pub(crate) fn acted(&self, act: &str) {
        let act = act.to_owned();
        self.acts.get_or_create(&ActLabels { act }).inc();
    }

    /// All metrics as OpenMetrics 1.0 text.
    pub(crate) fn encode(&self, gauges: Gauges) -> String {
        for (state, priority, count) in gauges.depth {
            let labels = DepthLabels { state, priority };
            self.queue_depth.get_or_create(&labels).set(signed(count));
        }

        self.oldest_queued.set(gauges.oldest_queued_seconds);
        self.spool_bytes.set(signed(gauges.spool_bytes));
        self.held_back.set(gauges.held_back_seconds);
        self.stale_settles.0.set(signed(gauges.stale_settles));
        self.quarantined.0.set(signed(gauges.quarantined));
        *self.commits.0.lock() = Commits {
            buckets: gauges.commit_buckets,
            sum: gauges.commit_seconds,
        };
        self.journal_bytes.set(signed(gauges.journal_bytes));
        self.max_pending.set(signed(gauges.max_pending));

        self.journal_missed.clear();
        for (reader, missed) in gauges.journal_missed {
            let shown = self.journal_missed.get_or_create(&ReaderLabels { reader });
            shown.0.set(signed(missed));
        }

        self.relay_connections.clear();
        self.relay_breaker.clear();
        self.relay_paused.clear();
        for relay in gauges.relays {
            self.show(relay);
        }

        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }

    fn show(&self, gauges: RelayGauges) {
        let relay = gauges.name;
        let connections = [
            (ConnectionState::Busy, gauges.busy),
            (ConnectionState::Idle, gauges.idle),
        ];

        for (state, count) in connections {
            let relay = relay.clone();
            let labels = ConnectionLabels { relay, state };
            let shown = self.relay_connections.get_or_create(&labels);
            shown.set(signed(count as u64));
        }
        for state in BreakerState::ALL {
            let relay = relay.clone();
            let labels = BreakerLabels { relay, state };
            let shown = self.relay_breaker.get_or_create(&labels);
            shown.set(i64::from(state == gauges.breaker));
        }

        let paused = self.relay_paused.get_or_create(&RelayLabels { relay });
        paused.set(i64::from(gauges.is_paused));
    }
}

/// Creates and registers a metric that begins at zero.
fn made<M: Metric + Clone + Default>(to: &mut Registry, name: &str, help: &str) -> M {
    registered(to, name, help, M::default())
}

/// Registers a metric and returns it.
fn registered<M: Metric + Clone>(to: &mut Registry, name: &str, help: &str, metric: M) -> M {
    to.register(name, help, metric.clone());
    metric
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// A gauge that is exposed as a counter: the number is counted elsewhere, and never decreases.
#[derive(Clone, Debug, Default)]
struct CounterGauge(Gauge);

impl TypedMetric for CounterGauge {
    const TYPE: MetricType = MetricType::Counter;
}

impl EncodeMetric for CounterGauge {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
        let count = u64::try_from(self.0.get()).unwrap_or(0);
        encoder.encode_counter::<NoLabelSet, _, u64>(&count, None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Counter
    }
}

/// A histogram that is counted elsewhere.
#[derive(Clone, Debug, Default)]
struct CommitHistogram(Arc<Mutex<Commits>>);

#[derive(Clone, Debug, Default)]
struct Commits {
    buckets: Vec<(f64, u64)>,
    sum: f64,
}

impl TypedMetric for CommitHistogram {
    const TYPE: MetricType = MetricType::Histogram;
}

impl EncodeMetric for CommitHistogram {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
        let Commits { buckets, sum } = &*self.0.lock();
        let count = buckets.iter().map(|(_, count)| count).sum();
        encoder.encode_histogram::<NoLabelSet>(*sum, count, buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

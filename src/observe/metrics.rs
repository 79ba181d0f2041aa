//! Counters and histograms for Prometheus, one registry a dispatcher.
//!
//! Names and labels are part of the public contract. Gauges that mirror the engine's state are set
//! when the numbers are asked for; counters count as things happen.

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
use prometheus_client::registry::Registry;

use crate::delivery::AttemptClass;
use crate::mail::{Priority, Submitter};
use crate::policy::BreakerState;

type Labels = Vec<(&'static str, String)>;

/// The numbers that graphs are made from.
pub struct Metrics {
    registry: Registry,
    accepted: Family<Labels, Counter>,
    deliveries: Family<Labels, Counter>,
    attempts: Family<Labels, Counter>,
    queue_depth: Family<Labels, Gauge>,
    oldest_queued: Gauge<f64, AtomicU64>,
    accept_seconds: Histogram,
    delivery_latency: Histogram,
    commits: CommitHistogram,
    spool_bytes: Gauge,
    relay_connections: Family<Labels, Gauge>,
    relay_breaker: Family<Labels, Gauge>,
    relay_paused: Family<Labels, Gauge>,
    max_pending: Gauge,
    stale_settles: Gauge,
    held_back: Gauge<f64, AtomicU64>,
    quarantined: Gauge,
    restarts: Family<Labels, Counter>,
    turned_away: Family<Labels, Counter>,
    acts: Family<Labels, Counter>,
    #[cfg(feature = "notify")]
    webhook_messages: Family<Labels, Counter>,
    #[cfg(feature = "notify")]
    webhook_off: Family<Labels, Gauge>,
    feedback: Family<Labels, Counter>,
    journal_bytes: Gauge,
    journal_missed: Family<Labels, CounterGauge>,
    quota_refusals: Family<Labels, Counter>,
    key_conflicts: Family<Labels, Counter>,
    /// Totals since start, for those who want a number without labels.
    pub(crate) totals: Totals,
}

/// Totals since start.
#[derive(Default)]
pub(crate) struct Totals {
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

    /// Deliveries each second, over the last minute or since the first one in it.
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

/// The result of a delivery's step, as a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DeliveryResult {
    Delivered,
    Deferred,
    Dead,
}

/// What gauges show, gathered by the dispatcher when the numbers are asked for.
pub(crate) struct Gauges<'a> {
    pub depth: Vec<(&'a str, Priority, u64)>,
    pub oldest_queued_seconds: f64,
    pub spool_bytes: u64,
    pub stale_settles: u64,
    pub held_back_seconds: f64,
    pub quarantined: u64,
    /// How many commits took how long: upper bounds in seconds, the last without one.
    pub commit_buckets: Vec<(f64, u64)>,
    /// All commits together.
    pub commit_seconds: f64,
    pub journal_bytes: u64,
    pub max_pending: u64,
    /// By named reader.
    pub journal_missed: Vec<(String, u64)>,
    pub relays: Vec<RelayGauges>,
}

/// What gauges show of one relay.
pub(crate) struct RelayGauges {
    pub name: String,
    pub busy: usize,
    /// Open, and nobody sends over it.
    pub idle: usize,
    pub breaker: BreakerState,
    pub is_paused: bool,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let accepted = Family::<Labels, Counter>::default();
        let deliveries = Family::<Labels, Counter>::default();
        let attempts = Family::<Labels, Counter>::default();
        let queue_depth = Family::<Labels, Gauge>::default();
        let oldest_queued = Gauge::<f64, AtomicU64>::default();
        let accept_seconds = Histogram::new(exponential_buckets(0.000_1, 2.0, 18));
        let delivery_latency = Histogram::new(exponential_buckets(0.001, 2.0, 24));
        let commits = CommitHistogram::default();
        let spool_bytes = Gauge::default();
        let relay_connections = Family::<Labels, Gauge>::default();
        let relay_breaker = Family::<Labels, Gauge>::default();
        let relay_paused = Family::<Labels, Gauge>::default();
        let max_pending = Gauge::default();
        let stale_settles = Gauge::default();
        let held_back = Gauge::<f64, AtomicU64>::default();
        let quarantined = Gauge::default();
        let restarts = Family::<Labels, Counter>::default();
        let acts = Family::<Labels, Counter>::default();
        let feedback = Family::<Labels, Counter>::default();
        let journal_bytes = Gauge::default();
        let journal_missed = Family::<Labels, CounterGauge>::default();
        let quota_refusals = Family::<Labels, Counter>::default();
        let key_conflicts = Family::<Labels, Counter>::default();

        let mut registry = Registry::with_prefix("postrider");
        registry.register(
            "mails_accepted",
            "Mails made durable, by door and priority",
            accepted.clone(),
        );

        registry.register(
            "deliveries",
            "Steps of deliveries, by relay and result",
            deliveries.clone(),
        );

        registry.register(
            "attempts",
            "Tries, by relay and what they came to",
            attempts.clone(),
        );

        registry.register(
            "queue_depth",
            "Deliveries kept, by state and priority",
            queue_depth.clone(),
        );

        registry.register(
            "oldest_queued_seconds",
            "For how long the longest-waiting due delivery has been due",
            oldest_queued.clone(),
        );

        registry.register(
            "accept_seconds",
            "From handing a mail in to its receipt",
            accept_seconds.clone(),
        );

        registry.register(
            "delivery_latency_seconds",
            "From accept to delivered",
            delivery_latency.clone(),
        );

        registry.register(
            "spool_sync_seconds",
            "One commit of the spool, its sync included",
            commits.clone(),
        );

        registry.register(
            "spool_bytes",
            "Bytes of the spool on disk",
            spool_bytes.clone(),
        );

        registry.register(
            "relay_connections",
            "Connections to a relay: those that are sent over, and those that are open and idle",
            relay_connections.clone(),
        );

        registry.register(
            "relay_breaker",
            "1 for the state that a relay's breaker is in",
            relay_breaker.clone(),
        );

        registry.register(
            "relay_paused",
            "1 while somebody has paused the relay",
            relay_paused.clone(),
        );

        registry.register(
            "max_pending",
            "How many deliveries may be pending",
            max_pending.clone(),
        );

        registry.register(
            "build",
            "Which version this is",
            Info::new([("version", env!("CARGO_PKG_VERSION"))]),
        );

        registry.register(
            "stale_settles",
            "Settles refused because their lease was not current",
            CounterGauge(stale_settles.clone()),
        );

        registry.register(
            "spool_held_back_seconds",
            "For how long an old transaction has kept the database from removing dead rows",
            held_back.clone(),
        );

        registry.register(
            "quarantined",
            "Records set aside because they could not be read",
            CounterGauge(quarantined.clone()),
        );

        registry.register(
            "actor_restarts",
            "Actors created anew after they ended",
            restarts.clone(),
        );

        registry.register(
            "quota_refusals",
            "Mails refused to a token or user, by what it had used up",
            quota_refusals.clone(),
        );

        registry.register(
            "key_conflicts",
            "Mails refused because their idempotency key was used for other content",
            key_conflicts.clone(),
        );

        let turned_away = Family::<Labels, Counter>::default();
        registry.register(
            "refusals",
            "Clients that were not let in, by door and reason",
            turned_away.clone(),
        );

        registry.register("acts", "What people and programs did", acts.clone());
        registry.register(
            "feedback",
            "What came back for mail, by who said it and what it was",
            feedback.clone(),
        );

        registry.register(
            "journal_bytes",
            "Bytes of what is kept of what happened",
            journal_bytes.clone(),
        );

        registry.register(
            "journal_missed_events",
            "Events that were gone before this reader read them, since the spool was opened",
            journal_missed.clone(),
        );

        #[cfg(feature = "notify")]
        let webhook_messages = Family::<Labels, Counter>::default();
        #[cfg(feature = "notify")]
        let webhook_off = Family::<Labels, Gauge>::default();

        #[cfg(feature = "notify")]
        {
            registry.register(
                "webhook_messages",
                "Messages to webhooks, by webhook and what came of sending them",
                webhook_messages.clone(),
            );
            registry.register(
                "webhook_off",
                "1 for a webhook that is switched off",
                webhook_off.clone(),
            );
        }

        Metrics {
            registry,
            #[cfg(feature = "notify")]
            webhook_messages,
            #[cfg(feature = "notify")]
            webhook_off,
            turned_away,
            accepted,
            deliveries,
            attempts,
            queue_depth,
            oldest_queued,
            accept_seconds,
            delivery_latency,
            commits,
            spool_bytes,
            relay_connections,
            relay_breaker,
            relay_paused,
            max_pending,
            stale_settles,
            held_back,
            quarantined,
            restarts,
            acts,
            feedback,
            journal_bytes,
            journal_missed,
            quota_refusals,
            key_conflicts,
            totals: Totals::default(),
        }
    }

    pub(crate) fn accepted(&self, door: &'static str, priority: Priority, took: Duration) {
        self.totals.accepted.fetch_add(1, Ordering::Relaxed);
        self.accept_seconds.observe(took.as_secs_f64());
        let labels = vec![
            ("door", door.to_owned()),
            ("priority", priority.as_str().to_owned()),
        ];
        self.accepted.get_or_create(&labels).inc();
    }

    pub(crate) fn turned_away(&self, door: &'static str, reason: &'static str) {
        let labels = vec![("door", door.to_owned()), ("reason", reason.to_owned())];
        self.turned_away.get_or_create(&labels).inc();
    }

    pub(crate) fn quota_refusal(&self, who: &Submitter, limit: &str) {
        let labels = vec![("who", who.to_string()), ("limit", limit.to_owned())];
        self.quota_refusals.get_or_create(&labels).inc();
    }

    pub(crate) fn key_conflicts(&self, who: &Submitter, count: usize) {
        let labels = vec![("who", who.to_string())];
        self.key_conflicts
            .get_or_create(&labels)
            .inc_by(count as u64);
    }

    pub(crate) fn attempt(&self, relay: &str, class: AttemptClass) {
        let labels = vec![
            ("relay", relay.to_owned()),
            ("class", class.as_str().to_owned()),
        ];
        self.attempts.get_or_create(&labels).inc();
    }

    pub(crate) fn delivery(
        &self,
        relay: &str,
        result: DeliveryResult,
        since_accept: Duration,
        now: Duration,
    ) {
        let (total, label) = match result {
            DeliveryResult::Delivered => (&self.totals.delivered, "delivered"),
            DeliveryResult::Deferred => (&self.totals.deferred, "deferred"),
            DeliveryResult::Dead => (&self.totals.dead, "dead"),
        };
        total.fetch_add(1, Ordering::Relaxed);
        if result == DeliveryResult::Delivered {
            self.delivery_latency.observe(since_accept.as_secs_f64());
            self.totals.recent.count(now);
        }
        let labels = vec![("relay", relay.to_owned()), ("result", label.to_owned())];
        self.deliveries.get_or_create(&labels).inc();
    }

    pub(crate) fn restarted(&self, actor: &'static str) {
        self.restarts
            .get_or_create(&vec![("actor", actor.to_owned())])
            .inc();
    }

    #[cfg(feature = "notify")]
    pub(crate) fn noticed(&self, webhook: &str, result: &str) {
        let labels = vec![
            ("webhook", webhook.to_owned()),
            ("result", result.to_owned()),
        ];
        self.webhook_messages.get_or_create(&labels).inc();
    }

    #[cfg(feature = "notify")]
    pub(crate) fn webhook_is_off(&self, webhook: &str, is_off: bool) {
        let labels = vec![("webhook", webhook.to_owned())];
        self.webhook_off
            .get_or_create(&labels)
            .set(i64::from(is_off));
    }

    /// Something came back, or came of a provider: what it was, and who said it.
    pub(crate) fn fed_back(&self, by: &str, result: &str) {
        let labels = vec![("by", by.to_owned()), ("result", result.to_owned())];
        self.feedback.get_or_create(&labels).inc();
    }

    pub(crate) fn acted(&self, act: &str) {
        let labels = vec![("act", act.to_owned())];
        self.acts.get_or_create(&labels).inc();
    }

    /// All numbers in OpenMetrics 1.0 text.
    pub(crate) fn encode(&self, gauges: Gauges<'_>) -> String {
        for (state, priority, count) in &gauges.depth {
            let labels = vec![
                ("state", (*state).to_owned()),
                ("priority", priority.as_str().to_owned()),
            ];
            self.queue_depth.get_or_create(&labels).set(signed(*count));
        }

        self.oldest_queued.set(gauges.oldest_queued_seconds);
        self.spool_bytes.set(signed(gauges.spool_bytes));
        self.held_back.set(gauges.held_back_seconds);
        self.stale_settles.set(signed(gauges.stale_settles));
        self.quarantined.set(signed(gauges.quarantined));
        *self.commits.0.lock() = Commits {
            buckets: gauges.commit_buckets,
            sum: gauges.commit_seconds,
        };
        self.journal_bytes.set(signed(gauges.journal_bytes));
        self.max_pending.set(signed(gauges.max_pending));
        self.journal_missed.clear();

        for (reader, missed) in &gauges.journal_missed {
            let labels = vec![("reader", reader.clone())];
            self.journal_missed
                .get_or_create(&labels)
                .0
                .set(signed(*missed));
        }

        self.relay_connections.clear();
        self.relay_breaker.clear();
        self.relay_paused.clear();
        for relay in &gauges.relays {
            let labels =
                |name, value: &str| vec![("relay", relay.name.clone()), (name, value.to_owned())];
            self.relay_connections
                .get_or_create(&labels("state", "busy"))
                .set(signed(relay.busy as u64));
            self.relay_connections
                .get_or_create(&labels("state", "idle"))
                .set(signed(relay.idle as u64));
            let paused = vec![("relay", relay.name.clone())];
            let paused = self.relay_paused.get_or_create(&paused);
            paused.set(i64::from(relay.is_paused));
            for state in BreakerState::ALL {
                let is = i64::from(state == relay.breaker);
                self.relay_breaker
                    .get_or_create(&labels("state", state.as_str()))
                    .set(is);
            }
        }

        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// A gauge that is told as a counter: the number itself is counted elsewhere, and only ever grows.
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

/// A histogram that is counted elsewhere: buckets by upper bound, and the sum in seconds.
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

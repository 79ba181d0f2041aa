//! Statistics and metrics of the engine, and its health.

use std::sync::atomic::Ordering;

use super::{Dispatcher, Error, Health, RelayState, Stats, relays, router};
use crate::delivery::State;
use crate::mail::Priority;
use crate::observe::{Gauges, RelayGauges};

impl Dispatcher {
    /// The statistics of the engine.
    ///
    /// # Errors
    /// [`Error::Spool`], or [`Error::Stopped`].
    pub async fn stats(&self) -> Result<Stats, Error> {
        let engine = &self.inner.engine;
        let now = engine.clock.now();
        let spool = engine.spool.stats(now).await?;
        let by_state = |state: State| (state.as_str().to_owned(), spool.counts.in_state(state));
        let pending = |priority: Priority| {
            (
                priority.as_str().to_owned(),
                spool.counts.pending_of(priority),
            )
        };

        let relays = relays::with_backlog(self.ask_router(router::Msg::Relays).await?, &spool);
        let totals = &engine.metrics.totals;
        Ok(Stats {
            deliveries: State::ALL.into_iter().map(by_state).collect(),
            pending_by_priority: Priority::ALL.into_iter().map(pending).collect(),
            pending: engine.spool.pending(),
            max_pending: self.inner.accept.max_pending,
            oldest_queued_seconds: spool.oldest_due.map(|due| now.since(due).as_secs_f64()),
            accepted: totals.accepted.load(Ordering::Relaxed),
            delivered: totals.delivered.load(Ordering::Relaxed),
            dead: totals.dead.load(Ordering::Relaxed),
            deferred: totals.deferred.load(Ordering::Relaxed),
            delivered_per_second: engine
                .metrics
                .totals
                .recent
                .per_second(engine.clock.monotonic()),
            quarantined: spool.quarantined,
            spool_bytes: spool.bytes,
            relays,
        })
    }

    /// The number of deliveries that a relay accepted since the start.
    pub fn delivered(&self) -> u64 {
        self.inner
            .engine
            .metrics
            .totals
            .delivered
            .load(Ordering::Relaxed)
    }

    /// Whether mail is accepted now, and why not.
    pub fn health(&self) -> Health {
        let engine = &self.inner.engine;
        let reason = engine.admits().err().map(|error| error.to_string());
        let reason = reason.or_else(|| engine.spool.refusal().map(|refusal| refusal.to_string()));
        let reason = reason.or_else(|| {
            self.inner
                .accept
                .check_room_for(engine, 1, Priority::Default)
                .err()
                .map(|error| error.to_string())
        });

        let full = || engine.spool.check_space(1).err();
        let reason = reason.or_else(|| full().map(|full| full.to_string()));
        Health {
            ready: reason.is_none(),
            reason,
            warnings: engine
                .unusable_relays()
                .into_iter()
                .chain(self.cluster_warnings())
                .collect(),
        }
    }

    /// All metrics in Prometheus' text format (OpenMetrics 1.0).
    ///
    /// # Errors
    /// The same as [`Dispatcher::stats`].
    pub async fn metrics(&self) -> Result<String, Error> {
        let engine = &self.inner.engine;
        let now = engine.clock.now();
        let spool = engine.spool.stats(now).await?;
        let open = |relay: &str| engine.memory(&relay.into()).open_connections();
        let relays = self
            .ask_router(router::Msg::Relays)
            .await?
            .into_iter()
            .map(|relay| RelayGauges {
                busy: relay.busy,
                idle: open(&relay.name).saturating_sub(relay.busy),
                breaker: relay.breaker,
                is_paused: relay.state == RelayState::Paused,
                name: relay.name,
            });

        let readers = match engine.spool.journal() {
            Some(journal) => journal.readers().await?,
            None => Vec::new(),
        };

        let missed = readers
            .into_iter()
            .map(|reader| (reader.name, reader.missed));
        let commits = engine.spool.commit_times();
        Ok(engine.metrics.encode(Gauges {
            depth: spool.counts.all().collect(),
            oldest_queued_seconds: spool
                .oldest_due
                .map_or(0.0, |due| now.since(due).as_secs_f64()),
            spool_bytes: spool.bytes,
            stale_settles: spool.stale_settles,
            held_back_seconds: spool.held_back.map_or(0.0, |held| held.as_secs_f64()),
            quarantined: spool.quarantined,
            commit_buckets: commits.buckets(),
            commit_seconds: commits.seconds(),
            relays: relays.collect(),
            journal_bytes: spool.journal_bytes,
            max_pending: self.inner.accept.max_pending,
            journal_missed: missed.collect(),
        }))
    }

    /// The largest message that is accepted, in bytes.
    pub fn max_message_size(&self) -> usize {
        self.inner.accept.max_message_size
    }
}

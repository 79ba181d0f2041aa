//! Time series: how much mail was accepted, delivered, deferred and dead, how much waited, and how
//! long it took, in total and for each relay. A named reader of the journal (`recorder`) counts,
//! `buckets` stores; this module answers queries.

mod buckets;
mod recent;
mod recorder;
mod tally;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, watch};

use self::buckets::{Bucket, BucketCounts, RelayNumbers, Resolution};
pub use self::recent::RecentDeliveries;
use self::recorder::{LOOK_EVERY, NAME};
use self::tally::Tally;
use super::{Dispatcher, Error};
use crate::mail::Timestamp;

/// The most points in one answer.
const MOST_POINTS: i64 = 10_000;
/// About how many points there are if the query has no step.
const DEFAULT_POINTS: i64 = 360;
/// The steps to choose from in that case, in seconds.
const DEFAULT_STEPS: [i64; 9] = [10, 30, 60, 300, 600, 1800, 3600, 21_600, 86_400];
/// How many stored steps are read at once.
const BATCH: usize = 512;
/// How long a query waits until the latest events are counted.
const COUNTING_TIMEOUT: Duration = Duration::from_secs(2);

/// A query for time series.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SeriesQuery {
    /// Start of the period; an hour before `to` by default.
    pub from: Option<Timestamp>,
    /// End of the period, exclusive; now by default.
    pub to: Option<Timestamp>,
    /// The distance between points. It is increased if the stored resolution is lower: 10-second
    /// steps are kept for a day, 10-minute steps for 90 days.
    pub step: Option<Duration>,
    /// Only this relay.
    pub relay: Option<String>,
}

/// Time series with equal steps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct Series {
    /// When the first step begins.
    pub from: Timestamp,
    /// The end of the period.
    pub to: Timestamp,
    /// The length of a step, in seconds.
    pub step: u64,
    /// The relay; absent for the total.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub relay: Option<String>,
    /// A point for each step, even if nothing happened in it.
    pub points: Vec<SeriesPoint>,
}

/// One step of a time series.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct SeriesPoint {
    /// When the step begins.
    pub at: Timestamp,
    /// Mails that were accepted; null for a single relay, because their relay is not known at that
    /// time.
    pub accepted: Option<u64>,
    /// Deliveries that a relay accepted.
    pub delivered: u64,
    /// Deliveries that were deferred.
    pub deferred: u64,
    /// Deliveries that failed for good.
    pub dead: u64,
    /// Deliveries that were pending at the end of the step; for a relay, those whose route begins
    /// with it. Null if it is unknown.
    pub backlog: Option<u64>,
    /// The median time from acceptance to delivery, in seconds; null if nothing was delivered.
    pub p50: Option<f64>,
    /// The 99th percentile of that time.
    pub p99: Option<f64>,
}

/// The progress of counting, and queries that wait for it.
pub(super) struct SeriesProgress {
    has_begun: AtomicBool,
    counted: watch::Sender<u64>,
    requested: Notify,
}

impl Default for SeriesProgress {
    fn default() -> Self {
        SeriesProgress {
            has_begun: AtomicBool::new(false),
            counted: watch::channel(0).0,
            requested: Notify::new(),
        }
    }
}

impl SeriesProgress {
    fn set_counted(&self, counted: u64) {
        self.counted.send_replace(counted);
    }

    /// Waits until a query needs the latest counts.
    async fn requested(&self) {
        self.requested.notified().await;
    }

    /// Waits until events are counted up to this one, for a limited time.
    async fn wait_for(&self, last: u64) {
        let mut counted = self.counted.subscribe();
        let reached = counted.wait_for(|counted| *counted >= last);
        self.requested.notify_one();
        let _ = tokio::time::timeout(COUNTING_TIMEOUT, reached).await;
    }
}

/// The steps of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Grid {
    grain: Resolution,
    from: i64,
    to: i64,
    step: i64,
}

impl Grid {
    fn of(query: &SeriesQuery, now: Timestamp) -> Self {
        let oldest = now.as_millis() - Resolution::Coarse.kept();
        let to = query
            .to
            .map_or(now, |to| to.min(now))
            .as_millis()
            .max(oldest);
        let from = query.from.map_or(to - 3_600_000, Timestamp::as_millis);
        let from = from.clamp(oldest, to);
        let asked = query
            .step
            .map(|step| i64::try_from(step.as_millis()).unwrap_or(i64::MAX));
        let usual = DEFAULT_STEPS
            .into_iter()
            .map(|seconds| seconds * 1000)
            .find(|step| (to - from) / step <= DEFAULT_POINTS);
        let step = asked.or(usual).unwrap_or(i64::MAX);
        let step = step.clamp((to - from) / MOST_POINTS, Resolution::Coarse.kept());

        let coarse = Resolution::Coarse.millis();
        let is_fine = from >= now.as_millis() - Resolution::Fine.kept() && step % coarse != 0;
        let grain = if is_fine {
            Resolution::Fine
        } else {
            Resolution::Coarse
        };

        let whole =
            |count: i64| count.div_euclid(grain.millis()) + i64::from(count % grain.millis() != 0);
        let step = whole(step).max(1) * grain.millis();
        Grid {
            grain,
            from: from.div_euclid(step) * step,
            to,
            step,
        }
    }

    fn points(self) -> usize {
        let points = (self.to - self.from + self.step - 1) / self.step;
        usize::try_from(points).unwrap_or(0)
    }

    /// The index of the point for a time; `None` if it is before the first.
    fn position(self, at: Timestamp) -> Option<usize> {
        usize::try_from((at.as_millis() - self.from).div_euclid(self.step)).ok()
    }
}

impl Dispatcher {
    /// Starts counting, with all events that are still in the journal. Called by the HTTP listener
    /// and by [`Dispatcher::series`].
    pub fn keep_series(&self) {
        let progress = &self.inner.series;
        if progress.has_begun.swap(true, Ordering::Relaxed) {
            return;
        }
        let engine = Arc::downgrade(&self.inner.engine);
        let counting = recorder::run(engine, self.journal(), Arc::clone(progress));
        tokio::spawn(counting);
    }

    /// How much mail was accepted, delivered, deferred and dead, how much waited, and how long it
    /// took, in steps of time.
    ///
    /// # Errors
    /// [`Error::UnknownRelay`], or [`Error::Spool`].
    pub async fn series(&self, query: SeriesQuery) -> Result<Series, Error> {
        self.keep_series();

        let journal = self.journal();
        // If another node counts, what it has stored is used. If none does yet, this node will.
        if !journal.is_held_elsewhere(NAME).await? {
            self.inner.series.wait_for(journal.last()?).await;
        }

        let reader = self.journal().reader(NAME, Some(0)).await?;
        let mut number = None;
        if let Some(name) = &query.relay {
            let (from, to) = RelayNumbers::keys();
            let relays = RelayNumbers::read(&reader.kept(from, to, usize::MAX).await?);
            number = relays.number(name);
            if number.is_none() {
                self.relays().check(name).await?;
            }
        }

        let grid = Grid::of(&query, self.inner.engine.clock.now());
        let mut tallies = vec![Tally::default(); grid.points()];
        let mut before = None;

        // The backlog at the start is in an earlier step.
        let look_every = i64::try_from(LOOK_EVERY.as_millis()).unwrap_or(i64::MAX);
        let first = grid.from - 2 * look_every.max(grid.grain.millis());
        let mut from = Bucket::of(grid.grain, Timestamp::from_millis(first)).key();
        let to = Bucket::of(
            grid.grain,
            Timestamp::from_millis(grid.to + grid.grain.millis() - 1),
        );

        loop {
            let kept = reader.kept(from, to.key(), BATCH).await?;
            for (key, value) in &kept {
                let Some(place) = Bucket::read(grid.grain, key) else {
                    continue;
                };
                let step = BucketCounts::decode(value);
                let tally = match &query.relay {
                    None => Some(&step.all),
                    Some(_) => number.and_then(|number| step.relay(number)),
                };
                let Some(tally) = tally else { continue };
                match grid.position(place.begins()) {
                    Some(at) if at < tallies.len() => tallies[at].add(tally),
                    Some(_) => {}
                    None => before = tally.backlog.or(before),
                }
            }
            match kept.last() {
                Some((key, _)) if kept.len() >= BATCH => from = [&key[..], &[0]].concat(),
                _ => break,
            }
        }

        let mut points = Vec::with_capacity(tallies.len());
        for (at, tally) in (grid.from..)
            .step_by(grid.step.unsigned_abs() as usize)
            .zip(tallies)
        {
            before = tally.backlog.or(before);
            points.push(SeriesPoint {
                at: Timestamp::from_millis(at),
                accepted: query.relay.is_none().then_some(tally.accepted),
                delivered: tally.delivered,
                deferred: tally.deferred,
                dead: tally.dead,
                backlog: before,
                p50: tally.quantile(0.5),
                p99: tally.quantile(0.99),
            });
        }

        Ok(Series {
            from: Timestamp::from_millis(grid.from),
            to: Timestamp::from_millis(grid.to),
            step: grid.step.unsigned_abs() / 1000,
            relay: query.relay,
            points,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::{days, hours, minutes, seconds};

    /// A midnight, in milliseconds.
    const NOW: i64 = 1_700_006_400_000;

    fn ago(span: Duration) -> Option<Timestamp> {
        let span = i64::try_from(span.as_millis()).unwrap_or(0);
        Some(Timestamp::from_millis(NOW - span))
    }

    fn grid(from: Option<Timestamp>, step: Option<Duration>) -> (i64, usize) {
        let query = SeriesQuery {
            from,
            step,
            ..SeriesQuery::default()
        };
        let grid = Grid::of(&query, Timestamp::from_millis(NOW));
        (grid.step / 1000, grid.points())
    }

    #[test]
    fn steps_are_as_asked_or_as_fine_as_they_are_kept() {
        assert_eq!(grid(None, None), (10, 360));
        assert_eq!(grid(ago(hours(24)), None), (300, 288));
        assert_eq!(grid(ago(hours(1)), Some(seconds(1))), (10, 360));
        assert_eq!(grid(ago(hours(1)), Some(seconds(25))), (30, 120));
        assert_eq!(grid(ago(hours(1)), Some(minutes(15))), (900, 4));
        assert_eq!(grid(ago(days(2)), Some(seconds(10))), (600, 288));
        assert_eq!(grid(ago(days(80)), Some(seconds(10))), (1200, 5760));
        assert_eq!(grid(ago(days(90)), None), (21_600, 360));
        assert_eq!(grid(ago(Duration::ZERO), None).1, 0);
        assert_eq!(grid(ago(days(9000)), Some(Duration::MAX)).1, 2);
    }
}

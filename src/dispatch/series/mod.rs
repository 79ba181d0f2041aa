//! The series: how much was accepted, delivered, deferred and dead, how much waited, and how long
//! it took, in steps of time, of all together and for each relay. A named reader of the journal
//! counts (`recorder`) what `buckets` keeps; here it is asked for.

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

/// The most points of one answer.
const MOST_POINTS: i64 = 10_000;
/// How many points there are about, where nobody says how far they are from each other.
const DEFAULT_POINTS: i64 = 360;
/// The distances that are chosen from then, in seconds.
const DEFAULT_STEPS: [i64; 9] = [10, 30, 60, 300, 600, 1800, 3600, 21_600, 86_400];
/// How many steps are read at a time.
const BATCH: usize = 512;
/// How long somebody who asks waits for what happened last to be counted.
const COUNTING_TIMEOUT: Duration = Duration::from_secs(2);

/// What is asked of the series.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SeriesQuery {
    /// From this time on; an hour before `to` unless said.
    pub from: Option<Timestamp>,
    /// Before this time; now unless said.
    pub to: Option<Timestamp>,
    /// How far its points are apart. Made longer where it is not kept so fine: 10 seconds are kept
    /// for a day, 10 minutes for 90 days.
    pub step: Option<Duration>,
    /// Only of this relay.
    pub relay: Option<String>,
}

/// What happened in each step of time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct Series {
    /// When the first step begins.
    pub from: Timestamp,
    /// Before when they end.
    pub to: Timestamp,
    /// How long each is, in seconds.
    pub step: u64,
    /// Of which relay; absent where it is all.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub relay: Option<String>,
    /// One for each step, also where nothing happened.
    pub points: Vec<SeriesPoint>,
}

/// What happened in one step of time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct SeriesPoint {
    /// When the step begins.
    pub at: Timestamp,
    /// Mails that were accepted; null for one relay, since which will take them shows later.
    pub accepted: Option<u64>,
    /// Deliveries that a relay took.
    pub delivered: u64,
    /// Deliveries that were put off.
    pub deferred: u64,
    /// Deliveries that failed for good.
    pub dead: u64,
    /// Deliveries that waited at the end of it; for a relay, those whose route begins with it. Null
    /// where that is not known.
    pub backlog: Option<u64>,
    /// The seconds from accept to delivered that half of them did not exceed; null where none was
    /// delivered.
    pub p50: Option<f64>,
    /// Those that 99 of 100 did not exceed.
    pub p99: Option<f64>,
}

/// How far the series are counted, and who waits for that.
pub(super) struct SeriesProgress {
    has_begun: AtomicBool,
    counted: watch::Sender<u64>,
    wanted: Notify,
}

impl Default for SeriesProgress {
    fn default() -> Self {
        SeriesProgress {
            has_begun: AtomicBool::new(false),
            counted: watch::channel(0).0,
            wanted: Notify::new(),
        }
    }
}

impl SeriesProgress {
    fn is_at(&self, counted: u64) {
        self.counted.send_replace(counted);
    }

    /// Waits until somebody asks.
    async fn wanted(&self) {
        self.wanted.notified().await;
    }

    /// Waits until it is counted up to this event, for a while.
    async fn reaches(&self, last: u64) {
        let mut counted = self.counted.subscribe();
        let reached = counted.wait_for(|counted| *counted >= last);
        self.wanted.notify_one();
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

    /// Which point a time belongs to; `None` before all of them.
    fn position(self, at: Timestamp) -> Option<usize> {
        usize::try_from((at.as_millis() - self.from).div_euclid(self.step)).ok()
    }
}

impl Dispatcher {
    /// Has the series counted from now on, and with them all that the journal still knows. An HTTP
    /// door does it, and whoever asks for [`Dispatcher::series`].
    pub fn keep_series(&self) {
        let progress = &self.inner.series;
        if progress.has_begun.swap(true, Ordering::Relaxed) {
            return;
        }
        let engine = Arc::downgrade(&self.inner.engine);
        let counting = recorder::run(engine, self.journal(), Arc::clone(progress));
        tokio::spawn(counting);
    }

    /// How much was accepted, delivered, deferred and dead, how much waited, and how long it took,
    /// in steps of time.
    ///
    /// # Errors
    /// [`Error::UnknownRelay`], or [`Error::Spool`].
    pub async fn series(&self, query: SeriesQuery) -> Result<Series, Error> {
        self.keep_series();

        let journal = self.journal();
        // Where another node counts, what it has written is read; where none does
        // yet, this one will.
        if !journal.is_held_elsewhere(NAME).await? {
            self.inner.series.reaches(journal.last()?).await;
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

        // Further back stands what waited at the beginning.
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

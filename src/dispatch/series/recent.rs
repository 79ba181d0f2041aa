//! What became of each relay's mail lately: the last steps of the series, added up.

use std::collections::HashMap;
use std::sync::atomic::Ordering;

use serde::{Deserialize, Serialize};

use super::buckets::{Bucket, BucketCounts, RelayNumbers, Resolution};
use super::recorder::NAME;
use super::tally::Tally;
use crate::dispatch::{Dispatcher, Error};
use crate::mail::Timestamp;

/// How far back it goes, in milliseconds.
const RECENT_SPAN: i64 = 600_000;
/// Over how long a rate is told, in milliseconds, besides the step that has begun.
const RATE_SPAN: i64 = 60_000;

/// What became of a relay's mail in the last ten minutes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct RecentDeliveries {
    /// Deliveries that it took.
    pub delivered: u64,
    /// Deliveries that were put off.
    pub deferred: u64,
    /// Deliveries that failed for good.
    pub dead: u64,
    /// Deliveries that it takes each second, over the last minute.
    pub per_second: f64,
    /// The seconds from accept to delivered that half of them did not exceed; null where none was
    /// delivered.
    pub p50: Option<f64>,
    /// Those that 99 of 100 did not exceed.
    pub p99: Option<f64>,
}

impl Dispatcher {
    /// What became lately of the mail of those relays that had any; nothing where the series are
    /// not kept.
    pub(in crate::dispatch) async fn recent_deliveries(
        &self,
    ) -> Result<HashMap<String, RecentDeliveries>, Error> {
        if !self.inner.series.has_begun.load(Ordering::Relaxed) {
            return Ok(HashMap::new());
        }

        let now = self.inner.engine.clock.now().as_millis();
        let place = |at: i64| Bucket::of(Resolution::Fine, Timestamp::from_millis(at));
        let reader = self.journal().reader(NAME, Some(0)).await?;
        let (from, to) = RelayNumbers::keys();
        let relays = RelayNumbers::read(&reader.kept(from, to, usize::MAX).await?);

        let steps = (
            place(now - RECENT_SPAN).key(),
            place(now + RECENT_SPAN).key(),
        );
        let kept = reader.kept(steps.0, steps.1, usize::MAX).await?;
        let rate_from = place(now - RATE_SPAN).begins().as_millis();
        let mut tallies: HashMap<u8, (Tally, u64)> = HashMap::new();
        for (key, value) in &kept {
            let Some(place) = Bucket::read(Resolution::Fine, key) else {
                continue;
            };
            let is_of_rate = place.begins().as_millis() >= rate_from;
            for (number, tally) in BucketCounts::decode(value).into_relays() {
                let (sum, delivered) = tallies.entry(number).or_default();
                sum.add(&tally);
                *delivered += if is_of_rate { tally.delivered } else { 0 };
            }
        }

        let seconds = ((now - rate_from) as f64 / 1000.0).max(1.0);
        let recent = relays.iter().filter_map(|(name, number)| {
            let (sum, delivered) = tallies.get(&number)?;
            let recent = RecentDeliveries {
                delivered: sum.delivered,
                deferred: sum.deferred,
                dead: sum.dead,
                per_second: *delivered as f64 / seconds,
                p50: sum.quantile(0.5),
                p99: sum.quantile(0.99),
            };
            Some((name.to_owned(), recent))
        });
        Ok(recent.collect())
    }
}

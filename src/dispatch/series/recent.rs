//! The recent deliveries of each relay: the sum of the last steps of its series.

use std::collections::HashMap;
use std::sync::atomic::Ordering;

use serde::{Deserialize, Serialize};

use super::buckets::{Bucket, BucketCounts, RelayNumbers, Resolution};
use super::recorder::NAME;
use super::tally::Tally;
use crate::dispatch::{Dispatcher, Error};
use crate::mail::Timestamp;

/// The period, in milliseconds.
const RECENT_SPAN: i64 = 600_000;
/// The period for the rate, in milliseconds, in addition to the current step.
const RATE_SPAN: i64 = 60_000;

/// A relay's deliveries in the last ten minutes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct RecentDeliveries {
    /// Deliveries that it accepted.
    pub delivered: u64,
    /// Deliveries that were deferred.
    pub deferred: u64,
    /// Deliveries that failed for good.
    pub dead: u64,
    /// Deliveries that it accepted per second, in the last minute.
    pub per_second: f64,
    /// The median time from acceptance to delivery, in seconds; null if nothing was delivered.
    pub p50: Option<f64>,
    /// The 99th percentile of that time.
    pub p99: Option<f64>,
}

impl Dispatcher {
    /// The recent deliveries of the relays that had any; empty if the series are not counted.
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

//! The counts of one step of time: numbers that can be added up, and a histogram of latencies for
//! quantiles.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How many classes of the histogram there are for each doubling of the latency: quantiles are
/// accurate to about a tenth.
const CLASSES_PER_OCTAVE: f64 = 4.0;
/// The upper limit of the first class.
const SHORTEST_LATENCY: f64 = 0.001;

/// The counts of one relay, or of all, in one step of time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Tally {
    pub accepted: u64,
    pub delivered: u64,
    pub deferred: u64,
    pub dead: u64,
    /// The backlog when it was last recorded.
    pub backlog: Option<u64>,
    /// The number of latencies in each class, sorted by class.
    latencies: Vec<(u8, u32)>,
}

impl Tally {
    /// Counts the latency of a delivery.
    pub fn took(&mut self, latency: Duration) {
        self.add_latencies(class(latency), 1);
    }

    /// Adds the counts of a later step.
    pub fn add(&mut self, later: &Tally) {
        self.accepted += later.accepted;
        self.delivered += later.delivered;
        self.deferred += later.deferred;
        self.dead += later.dead;
        self.backlog = later.backlog.or(self.backlog);
        for (class, count) in &later.latencies {
            self.add_latencies(*class, *count);
        }
    }

    /// The latency that this share of deliveries did not exceed, in seconds.
    pub fn quantile(&self, share: f64) -> Option<f64> {
        let total: u64 = self
            .latencies
            .iter()
            .map(|(_, count)| u64::from(*count))
            .sum();
        let wanted = (total as f64 * share).ceil().max(1.0) as u64;

        let mut seen = 0;
        for (class, count) in &self.latencies {
            seen += u64::from(*count);
            if seen >= wanted {
                return Some(middle(*class));
            }
        }

        None
    }

    fn add_latencies(&mut self, class: u8, count: u32) {
        match self
            .latencies
            .binary_search_by_key(&class, |(class, _)| *class)
        {
            Ok(at) => self.latencies[at].1 = self.latencies[at].1.saturating_add(count),
            Err(at) => self.latencies.insert(at, (class, count)),
        }
    }
}

fn class(latency: Duration) -> u8 {
    let octaves = (latency.as_secs_f64() / SHORTEST_LATENCY).max(1.0).log2();
    // The last class starts beyond any lifetime of a mail.
    (octaves * CLASSES_PER_OCTAVE).min(f64::from(u8::MAX)) as u8
}

/// The geometric mean of a class, in seconds.
fn middle(class: u8) -> f64 {
    SHORTEST_LATENCY * ((f64::from(class) + 0.5) / CLASSES_PER_OCTAVE).exp2()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_quantile_is_exact_to_a_tenth_and_added_tallies_are_as_one() {
        let mut whole = Tally::default();
        let mut parts = [Tally::default(), Tally::default()];
        for millis in 1..=10_000u64 {
            whole.took(Duration::from_millis(millis));
            parts[millis as usize % 2].took(Duration::from_millis(millis));
        }

        let [mut sum, second] = parts;
        sum.add(&second);
        assert_eq!(sum, whole);
        for (share, expected) in [(0.5, 5.0), (0.99, 9.9), (0.0, 0.001), (1.0, 10.0)] {
            let told = whole.quantile(share).unwrap();
            assert!((told / expected - 1.0).abs() < 0.1, "{share}: {told}");
        }

        assert_eq!(Tally::default().quantile(0.5), None);
    }

    #[test]
    fn the_shortest_and_the_longest_have_a_class() {
        for latency in [Duration::ZERO, Duration::MAX] {
            let mut tally = Tally::default();
            tally.took(latency);
            assert!(tally.quantile(0.99).is_some());
        }
    }

    #[test]
    fn what_waited_last_is_what_waits() {
        let of = |backlog| Tally {
            backlog,
            ..Tally::default()
        };
        let mut sum = of(Some(3));
        sum.add(&of(None));
        assert_eq!(sum.backlog, Some(3));
        sum.add(&of(Some(0)));
        assert_eq!(sum.backlog, Some(0));
    }
}

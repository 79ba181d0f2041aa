//! How long commits take, as a histogram of fixed size that counts every commit.

use std::time::Duration;

/// The upper bound of the first bucket. Each of the others has twice the bound of the one before.
const FIRST_BOUND: Duration = Duration::from_micros(50);
/// How many buckets have a bound: the last of them 6.5 s.
const BOUNDED_BUCKETS: usize = 18;

/// How long the commits of a spool took since it was opened, the sync of each included.
#[derive(Clone, Copy, Debug, Default)]
pub struct CommitTimes {
    counts: [u64; BOUNDED_BUCKETS + 1],
    sum: Duration,
}

impl CommitTimes {
    /// Counts a commit.
    pub fn add(&mut self, took: Duration) {
        let mut bound = FIRST_BOUND;
        let mut bucket = 0;
        while bucket < BOUNDED_BUCKETS && took > bound {
            bound *= 2;
            bucket += 1;
        }
        self.counts[bucket] += 1;
        self.sum += took;
    }

    /// The upper bound of each bucket in seconds, and how many commits are in it and in no bucket
    /// before it. The last has no bound.
    pub fn buckets(&self) -> Vec<(f64, u64)> {
        let bounds = (0..BOUNDED_BUCKETS as i32).map(|n| FIRST_BOUND.as_secs_f64() * 2f64.powi(n));
        bounds.chain([f64::INFINITY]).zip(self.counts).collect()
    }

    /// All of them together, in seconds.
    pub fn seconds(&self) -> f64 {
        self.sum.as_secs_f64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_commit_is_in_the_first_bucket_that_is_wide_enough() {
        let mut times = CommitTimes::default();
        for micros in [0, 50, 51, 100, 10_000_000] {
            times.add(Duration::from_micros(micros));
        }

        let filled: Vec<_> = times
            .buckets()
            .into_iter()
            .filter(|(_, n)| *n > 0)
            .collect();
        assert_eq!(filled, [(0.000_05, 2), (0.000_1, 2), (f64::INFINITY, 1)]);
        assert!((times.seconds() - 10.000_201).abs() < 1e-9);
    }

    #[test]
    fn none_is_left_out_however_many_there_are() {
        let mut times = CommitTimes::default();
        (0..10_000).for_each(|_| times.add(Duration::from_millis(1)));
        let counted: u64 = times.buckets().iter().map(|(_, count)| count).sum();
        assert_eq!(counted, 10_000);
    }
}

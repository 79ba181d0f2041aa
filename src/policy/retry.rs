//! When a deferred delivery is tried again.

use std::time::Duration;

use crate::mail::{days, seconds};

/// Whether chance shortens the delays, so that what failed together is not tried together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Jitter {
    /// Each delay is drawn evenly between half the schedule's and the whole: never so early that a
    /// server that asks for time_limit is asked again at once.
    #[default]
    Full,
    /// Each delay is exactly the schedule's.
    None,
}

/// When a deferred delivery is tried again, and when it is given up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// The delays before the second, third … try; the last one repeats.
    pub schedule: Vec<Duration>,
    /// How many tries count before it is dead as `exhausted`; without a number, only its expiry
    /// ends it. Tries in which the relay, not the mail, failed do not count.
    pub max_attempts: Option<u32>,
    /// How long after accept a mail expires that names no time of its own.
    pub expire_after: Duration,
    /// Whether the delays are spread.
    pub jitter: Jitter,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        RetryPolicy {
            schedule: [60, 120, 240, 480, 900, 1800, 3600].map(seconds).to_vec(),
            max_attempts: None,
            expire_after: days(2),
            jitter: Jitter::Full,
        }
    }
}

impl RetryPolicy {
    /// How long to wait after `tries` tries, of which `counted` count; `None` when no more are
    /// allowed. `chance` is drawn evenly from 0 to 1.
    pub fn delay(&self, tries: u32, counted: u32, chance: f64) -> Option<Duration> {
        if self.max_attempts.is_some_and(|most| counted >= most) {
            return None;
        }
        let step = (tries.max(1) as usize - 1).min(self.schedule.len().saturating_sub(1));
        let full = self.schedule.get(step).copied().unwrap_or(seconds(60));
        match self.jitter {
            Jitter::None => Some(full),
            Jitter::Full => Some(full.mul_f64(0.5 + chance.clamp(0.0, 1.0) / 2.0)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schedule_is_walked_and_its_last_delay_repeats() {
        let policy = RetryPolicy {
            jitter: Jitter::None,
            max_attempts: Some(10),
            ..RetryPolicy::default()
        };

        let delays: Vec<u64> = (1..=9)
            .map(|n| policy.delay(n, n, 0.5).expect("more").as_secs())
            .collect();
        assert_eq!(delays, [60, 120, 240, 480, 900, 1800, 3600, 3600, 3600]);
        assert_eq!(policy.delay(10, 10, 0.5), None);
        assert!(
            policy.delay(50, 9, 0.5).is_some(),
            "tries that do not count do not use up attempts"
        );
    }

    #[test]
    fn jitter_keeps_at_least_half_of_each_delay() {
        let policy = RetryPolicy::default();
        assert_eq!(policy.delay(2, 2, 0.0), Some(seconds(60)));
        assert_eq!(policy.delay(2, 2, 1.0), Some(seconds(120)));
        assert_eq!(policy.delay(2, 2, 0.5), Some(seconds(90)));
    }

    #[test]
    fn without_a_number_attempts_have_no_bound() {
        assert!(
            RetryPolicy::default()
                .delay(u32::MAX, u32::MAX, 1.0)
                .is_some()
        );
    }
}

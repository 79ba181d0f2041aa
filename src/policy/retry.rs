//! When a deferred delivery is tried again.

use std::time::Duration;

use crate::mail::{days, hours, seconds};

/// The longest that a delay becomes after an outcome that stayed unknown.
const LONGEST_IN_DOUBT: Duration = hours(6);

/// Whether delays are shortened at random, so that mails that failed together are not retried
/// together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Jitter {
    /// Each delay is drawn evenly between half the scheduled delay and all of it: a server that
    /// asked for time is never asked again at once.
    #[default]
    Full,
    /// Each delay is exactly the scheduled one.
    None,
}

/// When a deferred delivery is tried again, and when it is given up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// The delays before the second, third … attempt; the last one repeats, or is doubled each time
    /// while the outcome stays unknown.
    pub schedule: Vec<Duration>,
    /// How many attempts are made before a delivery is dead as `exhausted`; `None` to try until it
    /// expires. Attempts that failed because of the relay, not the mail, do not count.
    pub max_attempts: Option<u32>,
    /// How long after acceptance a mail expires that has no expiry of its own.
    pub expire_after: Duration,
    /// Whether the delays are randomized.
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
    /// How long to wait after `tries` attempts, of which `counted` count; `None` if no more are
    /// allowed. `chance` is a random number from 0 to 1.
    pub fn delay(&self, tries: u32, counted: u32, chance: f64) -> Option<Duration> {
        self.spread(self.step(tries).0, counted, chance)
    }

    /// The same if the outcome of the last attempt stayed unknown, so that the next one may be one
    /// more copy for the recipient: each delay beyond the schedule is twice as long as the one
    /// before, up to six hours.
    pub fn delay_in_doubt(&self, tries: u32, counted: u32, chance: f64) -> Option<Duration> {
        let (full, beyond) = self.step(tries);
        let doubled = full.saturating_mul(2_u32.saturating_pow(beyond));
        self.spread(doubled.min(LONGEST_IN_DOUBT.max(full)), counted, chance)
    }

    /// The scheduled delay after so many attempts, and how many of them are beyond the schedule.
    fn step(&self, tries: u32) -> (Duration, u32) {
        let last = u32::try_from(self.schedule.len().saturating_sub(1)).unwrap_or(u32::MAX);
        let passed = tries.max(1) - 1;
        let step = passed.min(last);
        let delay = self.schedule.get(step as usize).copied();
        (delay.unwrap_or(seconds(60)), passed - step)
    }

    fn spread(&self, full: Duration, counted: u32, chance: f64) -> Option<Duration> {
        if self.max_attempts.is_some_and(|most| counted >= most) {
            return None;
        }
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
    fn in_doubt_the_last_delay_is_doubled_instead() {
        let policy = RetryPolicy {
            jitter: Jitter::None,
            ..RetryPolicy::default()
        };
        let delay = |tries| policy.delay_in_doubt(tries, tries, 0.5).expect("more");
        assert_eq!((delay(1), delay(7)), (seconds(60), seconds(3600)));
        assert_eq!((delay(8), delay(9)), (hours(2), hours(4)));
        assert_eq!((delay(10), delay(u32::MAX)), (hours(6), hours(6)));

        let daily = RetryPolicy {
            schedule: vec![days(1)],
            max_attempts: Some(3),
            ..policy
        };
        assert_eq!(daily.delay_in_doubt(2, 2, 0.5), Some(days(1)));
        assert_eq!(daily.delay_in_doubt(3, 3, 0.5), None);
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

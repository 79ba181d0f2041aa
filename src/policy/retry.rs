//! When a deferred delivery is tried again.

use std::time::Duration;

use crate::mail::{days, seconds};

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
    /// The delays before the second, third … attempt; the last one repeats.
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

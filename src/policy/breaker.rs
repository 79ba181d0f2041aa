//! A relay's circuit breaker: after failures in a row the relay is not used for a while, then it is
//! probed with one connection.
//!
//! Times are monotonic, so that setting the wall clock neither keeps a relay out of use nor causes
//! a burst of probes.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::mail::{minutes, seconds};

/// How many failures in a row open the breaker.
const THRESHOLD: u32 = 3;
/// How long the breaker stays open the first time; doubled after each failed probe.
pub(super) const FIRST_REST: Duration = seconds(1);
/// The longest time between probes.
const LONGEST_REST: Duration = minutes(1);

/// What the breaker permits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum BreakerState {
    /// The relay is up; all connections are permitted.
    Closed,
    /// The relay is down; none is permitted.
    Open,
    /// The relay may be up again; one connection is permitted, as a probe.
    HalfOpen,
}

impl BreakerState {
    /// All states.
    pub const ALL: [BreakerState; 3] = [
        BreakerState::Closed,
        BreakerState::Open,
        BreakerState::HalfOpen,
    ];

    /// Its name in JSON and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            BreakerState::Closed => "closed",
            BreakerState::Open => "open",
            BreakerState::HalfOpen => "half_open",
        }
    }
}

impl PartialEq<&str> for BreakerState {
    fn eq(&self, name: &&str) -> bool {
        self.as_str() == *name
    }
}

impl fmt::Display for BreakerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Counts a relay's failures in a row.
#[derive(Clone, Debug, Default)]
pub struct Breaker {
    failures: u32,
    rests: u32,
    open_until: Option<Duration>,
}

impl Breaker {
    /// The state at this time.
    pub fn state(&self, now: Duration) -> BreakerState {
        match self.open_until {
            None => BreakerState::Closed,
            Some(until) if now < until => BreakerState::Open,
            Some(_) => BreakerState::HalfOpen,
        }
    }

    /// When the next probe is permitted; `None` while the breaker is closed.
    pub fn probe_at(&self) -> Option<Duration> {
        self.open_until
    }

    /// Records that the relay answered. Returns whether this closed the breaker.
    pub fn succeeded(&mut self) -> bool {
        let was_open = self.open_until.is_some();
        *self = Breaker::default();
        was_open
    }

    /// Records a failure of the relay. `chance` is a random number from 0 to 1, which spreads the
    /// probes of many relays over time. Returns whether this opened a closed breaker.
    pub fn failed(&mut self, now: Duration, chance: f64) -> bool {
        self.failures = self.failures.saturating_add(1);
        let state = self.state(now);
        if self.failures < THRESHOLD || state == BreakerState::Open {
            return false;
        }
        let rest = FIRST_REST
            .saturating_mul(1 << self.rests.min(10))
            .min(LONGEST_REST);
        self.rests = self.rests.saturating_add(1);
        self.open_until = Some(now + rest.mul_f64(0.5 + chance.clamp(0.0, 1.0) / 2.0));
        state == BreakerState::Closed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: u64) -> Duration {
        seconds(second)
    }

    #[test]
    fn opens_after_failures_in_a_row_only() {
        let mut breaker = Breaker::default();
        assert!(!breaker.failed(at(0), 1.0));
        assert!(!breaker.failed(at(0), 1.0));
        assert!(!breaker.succeeded());
        assert!(!breaker.failed(at(0), 1.0));
        assert!(!breaker.failed(at(0), 1.0));
        assert_eq!(breaker.state(at(0)), BreakerState::Closed);
        assert!(breaker.failed(at(0), 1.0));
        assert_eq!(breaker.state(at(0)), BreakerState::Open);
    }

    #[test]
    fn rests_longer_after_each_probe_that_fails_up_to_a_minute() {
        let mut breaker = Breaker::default();
        (0..3).for_each(|_| _ = breaker.failed(at(0), 1.0));
        assert_eq!(breaker.probe_at(), Some(at(1)));
        assert_eq!(breaker.state(at(1)), BreakerState::HalfOpen);
        assert!(!breaker.failed(at(1), 1.0), "it was not closed");
        assert_eq!(breaker.probe_at(), Some(at(3)));
        for _ in 0..20 {
            let probe = breaker.probe_at().expect("open");
            breaker.failed(probe, 1.0);
        }

        let before = breaker.probe_at().expect("open");
        breaker.failed(before, 1.0);
        assert_eq!(breaker.probe_at().expect("open") - before, minutes(1));
        assert!(breaker.succeeded());
        assert_eq!(breaker.state(at(0)), BreakerState::Closed);
    }

    #[test]
    fn failures_of_transactions_that_were_under_way_do_not_lengthen_the_rest() {
        let mut breaker = Breaker::default();
        (0..30).for_each(|_| _ = breaker.failed(at(0), 1.0));
        assert_eq!(breaker.probe_at(), Some(at(1)));
    }
}

//! The engine's clock: it runs with monotonic time, and is slewed toward the wall clock. Used by
//! the dispatcher's clock.
//!
//! *Invariants:* it never goes backwards. Setting the wall clock neither delays nor expires mail
//! while the process runs, except after a jump of at least [`JUMP_THRESHOLD`].

use std::time::Duration;

use crate::mail::{Timestamp, minutes};

/// A wall clock that is ahead by this much was not merely corrected: the machine was suspended, or
/// had no time when it started. The time has really passed, so the clock follows at once.
const JUMP_THRESHOLD: Duration = minutes(5);

/// It approaches the wall clock by at most this fraction of the time that passes.
const SLEW_DIVISOR: i128 = 10;

/// The state of the clock.
#[derive(Clone, Debug)]
pub struct SlewedClock {
    /// Nanoseconds since the Unix epoch.
    at: i128,
    /// The monotonic time at which `at` was computed.
    monotonic: Duration,
}

impl SlewedClock {
    /// A clock that starts at this wall-clock time.
    pub fn new(wall: Timestamp, monotonic: Duration) -> Self {
        SlewedClock {
            at: nanoseconds(wall),
            monotonic,
        }
    }

    /// The current time.
    pub fn now(&mut self, wall: Timestamp, monotonic: Duration) -> Timestamp {
        let elapsed = monotonic.saturating_sub(self.monotonic).as_nanos() as i128;
        let steady = self.at + elapsed;
        let off = nanoseconds(wall) - steady;
        let step = match off >= JUMP_THRESHOLD.as_nanos() as i128 {
            true => off,
            false => off.clamp(-elapsed / SLEW_DIVISOR, elapsed / SLEW_DIVISOR),
        };

        self.at = steady + step;
        self.monotonic = self.monotonic.max(monotonic);
        Timestamp::from_millis(i64::try_from(self.at / 1_000_000).unwrap_or(i64::MAX))
    }
}

fn nanoseconds(at: Timestamp) -> i128 {
    i128::from(at.as_millis()) * 1_000_000
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::mail::{days, hours, seconds};

    const START: i64 = 1_700_000_000_000;

    /// The time after `passed`, with the wall clock off by so many seconds.
    fn after(clock: &mut SlewedClock, passed: Duration, off: i64) -> i64 {
        let passed_ms = i64::try_from(passed.as_millis()).expect("short");
        let wall = Timestamp::from_millis(START + passed_ms + off * 1000);
        clock.now(wall, passed).as_millis() - START
    }

    fn clock() -> SlewedClock {
        SlewedClock::new(Timestamp::from_millis(START), Duration::ZERO)
    }

    #[test]
    fn it_goes_as_a_clock_that_nobody_sets() {
        let mut clock = clock();
        for at in [1, 5, 60, 86_400] {
            assert_eq!(after(&mut clock, seconds(at), 0), at as i64 * 1000);
        }
    }

    #[test]
    fn a_wall_clock_that_is_set_back_a_day_delays_by_no_more_than_a_tenth() {
        let mut clock = clock();
        assert_eq!(after(&mut clock, seconds(10), 0), 10_000);
        let back = -86_400;
        assert_eq!(after(&mut clock, seconds(10), back), 10_000);
        assert_eq!(after(&mut clock, seconds(70), back), 64_000);
        // It reaches the wall clock, and then runs with it.
        let later = days(20);
        for day in 1..=20 {
            after(&mut clock, days(day), back);
        }
        let passed = i64::try_from(later.as_millis()).expect("short");
        assert_eq!(after(&mut clock, later, back), passed + back * 1000);
    }

    #[test]
    fn a_jump_of_seconds_forward_hurries_by_no_more_than_a_tenth() {
        let mut clock = clock();
        assert_eq!(after(&mut clock, seconds(1), 299), 1100);
        assert_eq!(after(&mut clock, seconds(61), 299), 67_100);
        assert_eq!(after(&mut clock, hours(2), 299), 7_200_000 + 299_000);
    }

    #[test]
    fn a_machine_that_slept_is_followed_at_once() {
        let mut clock = clock();
        assert_eq!(
            after(&mut clock, seconds(1), 8 * 3600),
            1000 + 8 * 3_600_000
        );
    }

    #[test]
    fn many_looks_come_as_far_as_one() {
        let mut often = clock();
        (0..100_000).for_each(|n| _ = after(&mut often, Duration::from_micros(n * 100), -100));
        let far = after(&mut often, seconds(10), -100);
        assert!((8_999..=9_001).contains(&far), "{far}");
    }

    proptest! {
        #[test]
        fn it_never_goes_back_whatever_the_wall_clock_says(
            steps in proptest::collection::vec((0u64..100_000, -200_000i64..200_000), 1..100),
        ) {
            let mut clock = clock();
            let (mut passed, mut last) = (Duration::ZERO, i64::MIN);
            for (step, off) in steps {
                passed += Duration::from_millis(step);
                let now = after(&mut clock, passed, off);
                prop_assert!(now >= last);
                last = now;
            }
        }
    }
}

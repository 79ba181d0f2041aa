//! Limits the log lines about refused clients: each line names its peer, and only some lines are
//! written in a second, however many clients there are.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// How many lines a listener writes in a second.
const LINES_PER_SECOND: u32 = 50;

/// What a listener has logged recently.
#[derive(Debug)]
pub(super) struct LogThrottle(Mutex<ThrottleState>);

#[derive(Debug)]
struct ThrottleState {
    since: Instant,
    lines: u32,
    left_out: u64,
}

impl LogThrottle {
    pub fn new() -> Self {
        LogThrottle(Mutex::new(ThrottleState {
            since: Instant::now(),
            lines: 0,
            left_out: 0,
        }))
    }

    /// Whether a line may be written at `now`, and how many were left out since the last one.
    pub fn admit_line(&self, now: Instant) -> Option<u64> {
        let mut said = self.0.lock();
        if now.saturating_duration_since(said.since) >= Duration::from_secs(1) {
            (said.since, said.lines) = (now, 0);
        }
        if said.lines == LINES_PER_SECOND {
            said.left_out += 1;
            return None;
        }
        said.lines += 1;
        Some(std::mem::take(&mut said.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_them_is_counted_and_not_written() {
        let log_throttle = LogThrottle::new();
        let begun = Instant::now();
        let written = (0..1000).filter(|_| log_throttle.admit_line(begun).is_some());
        assert_eq!(written.count(), LINES_PER_SECOND as usize);
        let later = begun + Duration::from_secs(2);
        assert_eq!(
            log_throttle.admit_line(later),
            Some(1000 - u64::from(LINES_PER_SECOND))
        );
        assert_eq!(log_throttle.admit_line(later), Some(0));
    }
}

//! Lines of the log about those who are turned away: each names its peer, and however many come,
//! only some are written in a second.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// How many lines a door writes in a second.
const A_SECOND: u32 = 50;

/// What a door has said of late.
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

    /// Whether one more may be written at `now`, and how many were left out since the last one.
    pub fn another(&self, now: Instant) -> Option<u64> {
        let mut said = self.0.lock();
        if now.saturating_duration_since(said.since) >= Duration::from_secs(1) {
            (said.since, said.lines) = (now, 0);
        }
        if said.lines == A_SECOND {
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
        let complaints = LogThrottle::new();
        let begun = Instant::now();
        let written = (0..1000).filter(|_| complaints.another(begun).is_some());
        assert_eq!(written.count(), A_SECOND as usize);
        let later = begun + Duration::from_secs(2);
        assert_eq!(complaints.another(later), Some(1000 - u64::from(A_SECOND)));
        assert_eq!(complaints.another(later), Some(0));
    }
}

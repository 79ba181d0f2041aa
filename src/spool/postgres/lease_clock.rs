//! A clock for leases: it keeps running while the machine sleeps, as the server's does, and cannot
//! be set, on systems that have such a clock.

use std::time::Duration;

/// A moment by that clock.
#[cfg(target_os = "linux")]
#[derive(Clone, Copy)]
pub(super) struct LeaseInstant(Duration);

#[cfg(target_os = "linux")]
impl LeaseInstant {
    pub(super) fn now() -> Self {
        let up = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        LeaseInstant(Duration::new(
            u64::try_from(up.tv_sec).unwrap_or(0),
            u32::try_from(up.tv_nsec).unwrap_or(0),
        ))
    }

    pub(super) fn elapsed(self) -> Duration {
        LeaseInstant::now().0.saturating_sub(self.0)
    }
}

/// By two clocks: one may stand still while the machine sleeps, and the other may be set.
#[cfg(not(target_os = "linux"))]
#[derive(Clone, Copy)]
pub(super) struct LeaseInstant(std::time::Instant, std::time::SystemTime);

#[cfg(not(target_os = "linux"))]
impl LeaseInstant {
    pub(super) fn now() -> Self {
        LeaseInstant(std::time::Instant::now(), std::time::SystemTime::now())
    }

    pub(super) fn elapsed(self) -> Duration {
        self.0.elapsed().max(self.1.elapsed().unwrap_or_default())
    }
}

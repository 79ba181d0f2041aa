//! A clock for leases that cannot be set, and that continues while the machine sleeps, as the
//! database's clock does. Uses the system's clock of that kind if it has one.

use std::time::Duration;

/// A moment of that clock.
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

/// A moment by two clocks: one may stop while the machine sleeps, the other may be set. The longer
/// elapsed time counts.
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

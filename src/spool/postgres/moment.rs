//! A clock for leases: it goes on while the machine sleeps, as the server's does, and nobody sets
//! it where the system has such a one.

use std::time::Duration;

/// A moment by that clock.
#[cfg(target_os = "linux")]
#[derive(Clone, Copy)]
pub(super) struct Moment(Duration);

#[cfg(target_os = "linux")]
impl Moment {
    pub(super) fn now() -> Self {
        let up = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        Moment(Duration::new(
            u64::try_from(up.tv_sec).unwrap_or(0),
            u32::try_from(up.tv_nsec).unwrap_or(0),
        ))
    }

    pub(super) fn elapsed(self) -> Duration {
        Moment::now().0.saturating_sub(self.0)
    }
}

/// By two clocks: one may stand still while the machine sleeps, and the other may be set.
#[cfg(not(target_os = "linux"))]
#[derive(Clone, Copy)]
pub(super) struct Moment(std::time::Instant, std::time::SystemTime);

#[cfg(not(target_os = "linux"))]
impl Moment {
    pub(super) fn now() -> Self {
        Moment(std::time::Instant::now(), std::time::SystemTime::now())
    }

    pub(super) fn elapsed(self) -> Duration {
        self.0.elapsed().max(self.1.elapsed().unwrap_or_default())
    }
}

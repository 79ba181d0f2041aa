//! The engine's clock, and a fake one for tests.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::mail::{Timestamp, When};
use crate::policy::SlewedClock;

/// The longest time that a wait sleeps before it looks at the clock again, so that a suspended
/// machine delays nothing by more.
const LONGEST_NAP: Duration = Duration::from_secs(5);
/// A deviation of the wall clock that is ignored.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(1);

/// A clock: the system's, or one that a test moves. Clones are the same clock.
#[derive(Clone, Debug)]
pub struct Clock(Kind);

#[derive(Clone, Debug)]
enum Kind {
    System {
        started: Instant,
        clock: Arc<Mutex<SlewedClock>>,
    },
    Fake {
        started: Timestamp,
        now: Arc<watch::Sender<Timestamp>>,
    },
}

impl Clock {
    /// The system's clock. It starts with the wall clock and runs with monotonic time. If the wall
    /// clock is set, it follows slowly, by a tenth of the time that passes, so that no mail is
    /// delayed or expires because of that; if it is set forward by five minutes or more, as after a
    /// suspend, it follows at once.
    pub fn system() -> Self {
        let clock = SlewedClock::new(Timestamp::now(), Duration::ZERO);
        Clock(Kind::System {
            started: Instant::now(),
            clock: Arc::new(Mutex::new(clock)),
        })
    }

    /// A clock that stands still at the current time until [`Clock::advance`] moves it.
    pub fn fake() -> Self {
        Clock::fake_at(Timestamp::now())
    }

    /// A clock that stands still at this time until [`Clock::advance`] moves it.
    pub fn fake_at(started: Timestamp) -> Self {
        Clock(Kind::Fake {
            started,
            now: Arc::new(watch::channel(started).0),
        })
    }

    /// The current time.
    pub fn now(&self) -> Timestamp {
        match &self.0 {
            Kind::System { started, clock } => {
                let mut clock = clock.lock();
                clock.now(Timestamp::now(), started.elapsed())
            }
            Kind::Fake { now, .. } => *now.borrow(),
        }
    }

    /// The wall clock's time, for signatures: receivers compare it with their own clocks.
    pub fn wall(&self) -> Timestamp {
        match &self.0 {
            Kind::System { .. } => Timestamp::now(),
            Kind::Fake { now, .. } => *now.borrow(),
        }
    }

    /// The engine's time for a point in time that a mail names, which is accepted at `now`: clients
    /// mean the wall clock, which may differ from the engine's.
    pub(super) fn resolve(&self, when: When, now: Timestamp) -> Timestamp {
        let (When::At(at), Kind::System { .. }) = (when, &self.0) else {
            return when.resolve(now);
        };
        let wall = Timestamp::now();
        let is_set = now.since(wall).max(wall.since(now)) > CLOCK_TOLERANCE;
        match is_set {
            true => Timestamp::from_millis(at.as_millis() + now.as_millis() - wall.as_millis()),
            false => at,
        }
    }

    /// Monotonic time since the start, for rates and breakers.
    pub fn monotonic(&self) -> Duration {
        match &self.0 {
            Kind::System { started, .. } => started.elapsed(),
            Kind::Fake { started, now } => now.borrow().since(*started),
        }
    }

    /// Moves a fake clock forward. Everything that becomes due by then is done.
    ///
    /// # Panics
    /// If this is the system's clock.
    pub fn advance(&self, span: Duration) {
        match &self.0 {
            Kind::System { .. } => panic!("the system's clock cannot be moved"),
            Kind::Fake { now, .. } => now.send_modify(|now| *now = *now + span),
        }
    }

    /// Waits until `at`. May return early: the caller must check the time again.
    pub fn sleep_until(&self, at: Timestamp) -> impl Future<Output = ()> + Send + 'static {
        let clock = self.clone();
        async move {
            match &clock.0 {
                Kind::System { .. } => {
                    tokio::time::sleep(at.since(clock.now()).min(LONGEST_NAP)).await
                }
                Kind::Fake { now, .. } => {
                    let _ = now.subscribe().wait_for(|now| *now >= at).await;
                }
            }
        }
    }

    /// Waits for `span`.
    pub fn sleep(&self, span: Duration) -> impl Future<Output = ()> + Send + 'static {
        let clock = self.clone();
        // Counted from this call rather than from the first poll: a fake clock may be moved in
        // between.
        let end = self.now() + span;
        async move {
            match &clock.0 {
                Kind::System { .. } => tokio::time::sleep(span).await,
                Kind::Fake { .. } => clock.sleep_until(end).await,
            }
        }
    }
}

impl Default for Clock {
    fn default() -> Self {
        Clock::system()
    }
}

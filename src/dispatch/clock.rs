//! Where "now" comes from.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::mail::{Timestamp, When};
use crate::policy::SlewedClock;

/// The longest that a wait goes without looking at the time again, so that a machine that slept
/// delays nothing by more.
const LONGEST_NAP: Duration = Duration::from_secs(5);
/// What the wall clock may be off without anything being counted from it.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(1);

/// Where "now" comes from: the system, or a test that moves it by hand. Clones show the same time.
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
    /// The system's clock: that of the wall where it began, and from then on as monotonic time
    /// goes. Where the wall clock is set it follows slowly, by a tenth of the time that passes, so
    /// that nothing waits longer or expires for it; where it is set forward by five minutes or
    /// more, as after a sleep, at once.
    pub fn system() -> Self {
        let clock = SlewedClock::new(Timestamp::now(), Duration::ZERO);
        Clock(Kind::System {
            started: Instant::now(),
            clock: Arc::new(Mutex::new(clock)),
        })
    }

    /// A clock that stands still at the present until [`Clock::advance`] moves it.
    pub fn fake() -> Self {
        Clock::fake_at(Timestamp::now())
    }

    /// A clock that stands still at this moment until [`Clock::advance`] moves it.
    pub fn fake_at(started: Timestamp) -> Self {
        Clock(Kind::Fake {
            started,
            now: Arc::new(watch::channel(started).0),
        })
    }

    /// The present.
    pub fn now(&self) -> Timestamp {
        match &self.0 {
            Kind::System { started, clock } => {
                let mut clock = clock.lock();
                clock.now(Timestamp::now(), started.elapsed())
            }
            Kind::Fake { now, .. } => *now.borrow(),
        }
    }

    /// The time that is meant, for a mail that is accepted `now`: what the wall clock will be then
    /// was asked for.
    pub(super) fn meant(&self, when: When, now: Timestamp) -> Timestamp {
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

    /// Time that never goes back, since some origin: for paces and breakers.
    pub fn monotonic(&self) -> Duration {
        match &self.0 {
            Kind::System { started, .. } => started.elapsed(),
            Kind::Fake { started, now } => now.borrow().since(*started),
        }
    }

    /// Moves a fake clock on. Everything that falls due by then does.
    ///
    /// # Panics
    /// On the system's clock.
    pub fn advance(&self, span: Duration) {
        match &self.0 {
            Kind::System { .. } => panic!("the system's clock cannot be moved"),
            Kind::Fake { now, .. } => now.send_modify(|now| *now = *now + span),
        }
    }

    /// Waits until `at`. May return early: the caller looks again.
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
        // Counted from this call, not from when somebody first waits for it: a fake clock may be
        // moved in between.
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

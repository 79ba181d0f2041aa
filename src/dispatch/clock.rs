//! Where "now" comes from.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::mail::Timestamp;

/// The longest that a wait goes without looking at the wall clock again, so that a clock that jumps
/// delays nothing by more.
const LONGEST_NAP: Duration = Duration::from_secs(5);

/// Where "now" comes from: the system, or a test that moves it by hand. Clones show the same time.
#[derive(Clone, Debug)]
pub struct Clock(Kind);

#[derive(Clone, Debug)]
enum Kind {
    System {
        started: Instant,
    },
    Fake {
        started: Timestamp,
        now: Arc<watch::Sender<Timestamp>>,
    },
}

impl Clock {
    /// The system's clock.
    pub fn system() -> Self {
        Clock(Kind::System {
            started: Instant::now(),
        })
    }

    /// A clock that stands still at the present until [`Clock::advance`] moves it.
    pub fn fake() -> Self {
        let started = Timestamp::now();
        Clock(Kind::Fake {
            started,
            now: Arc::new(watch::channel(started).0),
        })
    }

    /// The present.
    pub fn now(&self) -> Timestamp {
        match &self.0 {
            Kind::System { .. } => Timestamp::now(),
            Kind::Fake { now, .. } => *now.borrow(),
        }
    }

    /// Time that never goes back, since some origin: for paces and breakers.
    pub fn monotonic(&self) -> Duration {
        match &self.0 {
            Kind::System { started } => started.elapsed(),
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

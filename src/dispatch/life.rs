//! Whether the engine is running, and if not, how it ended. Set by the supervisor, read by
//! everything else.

use tokio::sync::watch;
use tokio::time::Instant;

use super::Error;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum LifeStage {
    Running,
    /// A shutdown was requested: no mail is accepted, and senders start none after this time, if
    /// there is one.
    Draining(Option<Instant>),
    /// It was shut down.
    Stopped,
    /// It ended because of an error.
    Failed(String),
}

impl LifeStage {
    fn is_over(&self) -> bool {
        matches!(self, LifeStage::Stopped | LifeStage::Failed(_))
    }
}

/// The stage of the engine, from its start to its end.
pub(super) struct Life(watch::Sender<LifeStage>);

impl Life {
    pub(super) fn new() -> Self {
        Life(watch::channel(LifeStage::Running).0)
    }

    /// Whether mail may be submitted.
    pub(super) fn admits(&self) -> Result<(), Error> {
        match &*self.0.borrow() {
            LifeStage::Running => Ok(()),
            LifeStage::Draining(_) => Err(Error::Stopped("it is shutting down".into())),
            LifeStage::Stopped => Err(Error::Stopped("it was shut down".into())),
            LifeStage::Failed(reason) => Err(Error::Stopped(reason.clone())),
        }
    }

    pub(super) fn is_running(&self) -> bool {
        *self.0.borrow() == LifeStage::Running
    }

    /// Whether senders may still start a mail.
    pub(super) fn has_time(&self) -> bool {
        match *self.0.borrow() {
            LifeStage::Running => true,
            LifeStage::Draining(until) => until.is_none_or(|until| Instant::now() < until),
            LifeStage::Stopped | LifeStage::Failed(_) => false,
        }
    }

    /// Starts a shutdown: senders may start mail until this time.
    pub(super) fn drain(&self, until: Option<Instant>) {
        self.0.send_if_modified(|stage| {
            let running = *stage == LifeStage::Running;
            if running {
                *stage = LifeStage::Draining(until);
            }
            running
        });
    }

    /// Sets how the engine ended; only the first call has an effect.
    pub(super) fn end(&self, end: LifeStage) {
        self.0.send_if_modified(|stage| {
            let alive = !stage.is_over();
            if alive {
                *stage = end;
            }
            alive
        });
    }

    /// Waits until no more mail is accepted: a shutdown was requested, or the engine has ended.
    pub(super) async fn wait_for_close(&self) {
        let mut life = self.0.subscribe();
        // This cannot fail, because `self` keeps the sender.
        let _ = life.wait_for(|stage| *stage != LifeStage::Running).await;
    }

    /// Waits until the engine has ended; returns an error if it failed.
    pub(super) async fn wait_for_end(&self) -> Result<(), Error> {
        let mut life = self.0.subscribe();
        let end = life.wait_for(LifeStage::is_over).await;
        match end.as_deref() {
            Ok(LifeStage::Failed(reason)) => Err(Error::Stopped(reason.clone())),
            _ => Ok(()),
        }
    }
}

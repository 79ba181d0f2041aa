//! Whether the engine is running, and how it ended if it is not. The supervisor sets it; everybody
//! else reads it.

use tokio::sync::watch;
use tokio::time::Instant;

use super::Error;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum LifeStage {
    Running,
    /// A shutdown was requested: no more mail is accepted, and senders begin none after this
    /// moment, if there is one.
    Draining(Option<Instant>),
    /// It ended because a shutdown was requested.
    Stopped,
    /// It ended because of an error.
    Failed(String),
}

impl LifeStage {
    fn is_over(&self) -> bool {
        matches!(self, LifeStage::Stopped | LifeStage::Failed(_))
    }
}

/// The engine's life, from its start to its one end.
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

    /// Whether there is still time to begin a mail.
    pub(super) fn has_time(&self) -> bool {
        match *self.0.borrow() {
            LifeStage::Running => true,
            LifeStage::Draining(until) => until.is_none_or(|until| Instant::now() < until),
            LifeStage::Stopped | LifeStage::Failed(_) => false,
        }
    }

    /// Begins a shutdown: senders may begin mail until then.
    pub(super) fn drain(&self, until: Option<Instant>) {
        self.0.send_if_modified(|stage| {
            let running = *stage == LifeStage::Running;
            if running {
                *stage = LifeStage::Draining(until);
            }
            running
        });
    }

    /// Ends it; the first end is the one that counts.
    pub(super) fn end(&self, end: LifeStage) {
        self.0.send_if_modified(|stage| {
            let alive = !stage.is_over();
            if alive {
                *stage = end;
            }
            alive
        });
    }

    /// Waits until mail is no longer accepted: a shutdown was requested, or the engine has ended.
    pub(super) async fn closes(&self) {
        let mut life = self.0.subscribe();
        // The sender lives as long as we do.
        let _ = life.wait_for(|stage| *stage != LifeStage::Running).await;
    }

    /// Waits until it is over, and says how it ended.
    pub(super) async fn is_over(&self) -> Result<(), Error> {
        let mut life = self.0.subscribe();
        let end = life.wait_for(LifeStage::is_over).await;
        match end.as_deref() {
            Ok(LifeStage::Failed(reason)) => Err(Error::Stopped(reason.clone())),
            _ => Ok(()),
        }
    }
}

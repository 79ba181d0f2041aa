//! The doors of the running service: which ones are open, and how they are closed together.

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::Failure;
use crate::config::Settings;
use crate::dispatch::Dispatcher;

/// The doors that are open.
pub(super) struct Doors {
    close: watch::Sender<bool>,
    open: JoinSet<Result<(), Failure>>,
}

impl Doors {
    /// Opens the doors that are configured.
    pub(super) async fn open(dispatcher: &Dispatcher, settings: &Settings) -> Result<Self, Failure> {
        let _ = (dispatcher, settings);
        Ok(Doors { close: watch::channel(false).0, open: JoinSet::new() })
    }

    /// Gives them what changed: who may come in.
    pub(super) fn reload(&self, settings: &Settings) -> Result<(), Failure> {
        let _ = settings;
        Ok(())
    }

    /// Waits until a door fails, and says why. For ever, while all is well.
    pub(super) async fn failed(&mut self) -> Failure {
        loop {
            match self.open.join_next().await {
                Some(Ok(Ok(()))) => {}
                Some(Ok(Err(failure))) => return failure,
                Some(Err(e)) => return Failure::Failed(format!("a door was broken off: {e}")),
                None => std::future::pending().await,
            }
        }
    }

    /// Closes them: nobody new comes in, and who is inside may finish until `deadline`.
    pub(super) async fn close(mut self, deadline: Instant) {
        let _ = self.close.send(true);
        while let Ok(Some(_)) = timeout_at(deadline, self.open.join_next()).await {}
    }
}

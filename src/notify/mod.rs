//! NOTICES: what is told to the outside of what happened. Each webhook is a reader of the journal
//! with a name of its own, so that a crash loses none, and a task of its own, so that none waits for
//! another.
//!
//! ```text
//! journal ─▶ filter ─▶ message ─▶ endpoint ─▶ caller (signed POST)
//!                                    └ held: what failed, kept beside the reader's place
//! ```
//!
//! *Invariants made here:* what is told is told at least once, under one id however often; where an
//! endpoint's reader is, what failed, and how the endpoint is are written in one commit; no endpoint
//! costs more memory than a stated bound; nothing is told to an address that was not looked at.

mod caller;
mod endpoint;
mod filter;
mod held;
mod message;
mod secrets;
mod webhook;

pub use filter::{EVENTS, Filter};
pub use webhook::{
    LastAnswer, Redeliver, Tested, Webhook, WebhookError, WebhookState, WebhookStatus,
};

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::JoinHandle;

use self::endpoint::{Desk, Order};
use crate::dispatch::{Dispatcher, Error};

/// What the names of the webhooks' readers begin with.
const READERS: &str = "webhook:";
/// How long somebody who orders something waits until it is noted.
const OBEYS_WITHIN: Duration = Duration::from_secs(2);

/// What cannot be done with a webhook.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum NoticeError {
    /// There is none of that name.
    #[error("there is no webhook named `{}`", .0.escape_debug())]
    UnknownWebhook(String),
    /// The message's event is none of this journal, or was kept long enough.
    #[error("the journal has no message `{}`", .0.escape_debug())]
    UnknownMessage(String),
    /// Another of the nodes that share the spool looks after it.
    #[error("another node looks after the webhook `{}`; ask that one", .0.escape_debug())]
    Elsewhere(String),
    /// The journal cannot be read or written.
    #[error(transparent)]
    Dispatcher(#[from] Error),
}

/// What is told to the outside while this, or a clone of it, lives.
#[derive(Clone)]
pub struct Notices {
    inner: Arc<Inner>,
}

struct Inner {
    postrider: Dispatcher,
    running: Mutex<Vec<Running>>,
}

struct Running {
    desk: Arc<Desk>,
    task: JoinHandle<()>,
}

impl std::fmt::Debug for Notices {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let running = self.inner.running.lock();
        f.debug_list()
            .entries(running.iter().map(|one| one.desk.name()))
            .finish()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        for running in self.running.get_mut() {
            running.task.abort();
        }
    }
}

impl Notices {
    /// Notices of what this dispatcher does; none yet.
    pub fn of(postrider: &Dispatcher) -> Self {
        Notices {
            inner: Arc::new(Inner {
                postrider: postrider.for_door("notices"),
                running: Mutex::default(),
            }),
        }
    }

    /// The webhooks from now on, instead of those there were. One that keeps its name goes on where
    /// it was; of one that is new, what happens from now on is told. Where the spool is this
    /// dispatcher's own, what is known of one that is gone is forgotten.
    ///
    /// # Errors
    /// One of them cannot be used: all is as it was.
    pub async fn set_webhooks(&self, webhooks: Vec<Webhook>) -> Result<(), WebhookError> {
        let mut desks = Vec::new();
        for webhook in webhooks {
            desks.push(Arc::new(Desk::new(webhook)?));
        }
        let before = std::mem::take(&mut *self.inner.running.lock());
        stop(before, Duration::from_secs(1)).await;
        self.forget_others(&desks).await;
        // What happens from now on is told, whenever the tasks come to it.
        let journal = self.inner.postrider.journal();
        for desk in &desks {
            let name = format!("{READERS}{}", desk.name());
            if let Err(error) = journal.reader(&name, None).await {
                tracing::warn!(webhook = desk.name(), %error, "a webhook has no place in the journal yet");
            }
        }
        let run = |desk: Arc<Desk>| {
            let work = endpoint::run(self.inner.postrider.clone(), Arc::clone(&desk));
            Running {
                desk,
                task: tokio::spawn(work),
            }
        };
        *self.inner.running.lock() = desks.into_iter().map(run).collect();
        Ok(())
    }

    /// How each webhook is, in the order of the configuration.
    pub fn webhooks(&self) -> Vec<WebhookStatus> {
        let last = self.inner.postrider.journal().last().unwrap_or_default();
        let running = self.inner.running.lock();
        running.iter().map(|one| one.desk.status(last)).collect()
    }

    /// How the webhook of this name is.
    pub fn webhook(&self, name: &str) -> Option<WebhookStatus> {
        let last = self.inner.postrider.journal().last().unwrap_or_default();
        Some(self.desk(name)?.status(last))
    }

    /// Sends a webhook a message of the type `test`, whether it is switched off or not, and says what
    /// was answered. `None` where there is none of that name.
    pub async fn test(&self, name: &str) -> Option<Tested> {
        let desk = self.desk(name)?;
        Some(desk.test(&self.inner.postrider).await)
    }

    /// Has a webhook told again: see [`Redeliver`]. One that was switched off is switched on.
    ///
    /// # Errors
    /// [`NoticeError`].
    pub async fn redeliver(
        &self,
        name: &str,
        what: Redeliver,
    ) -> Result<WebhookStatus, NoticeError> {
        let postrider = &self.inner.postrider;
        let unknown = || NoticeError::UnknownWebhook(name.to_owned());
        let desk = self.desk(name).ok_or_else(unknown)?;
        if desk.is_elsewhere() {
            return Err(NoticeError::Elsewhere(name.to_owned()));
        }
        let order = match &what {
            Redeliver::Message(id) => {
                let gone = NoticeError::UnknownMessage(id.clone());
                Order::of(what, &postrider.journal()).await?.ok_or(gone)?
            }
            _ => match Order::of(what, &postrider.journal()).await? {
                Some(order) => order,
                None => Order::Retry,
            },
        };
        desk.order(order);
        let obeyed = async {
            while !desk.has_obeyed() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let _ = tokio::time::timeout(OBEYS_WITHIN, obeyed).await;
        Ok(desk.status(postrider.journal().last()?))
    }

    /// Ends what goes on, within this time: what was not told is told after the next start.
    pub async fn close(&self, within: Duration) {
        let running = std::mem::take(&mut *self.inner.running.lock());
        stop(running, within).await;
    }

    fn desk(&self, name: &str) -> Option<Arc<Desk>> {
        let running = self.inner.running.lock();
        let found = running.iter().find(|one| one.desk.name() == name)?;
        Some(Arc::clone(&found.desk))
    }

    /// Forgets the readers of webhooks that are no more, which would hold the journal back. Not where
    /// others share the spool: they may have them.
    async fn forget_others(&self, desks: &[Arc<Desk>]) {
        let journal = self.inner.postrider.journal();
        if self.inner.postrider.shares_its_spool() {
            return;
        }
        let Ok(readers) = journal.readers().await else {
            return;
        };
        for reader in readers {
            let Some(name) = reader.name.strip_prefix(READERS) else {
                continue;
            };
            if desks.iter().any(|desk| desk.name() == name) {
                continue;
            }
            match journal.forget(&reader.name).await {
                Ok(()) => tracing::info!(webhook = name, "a webhook is no more, and forgotten"),
                Err(error) => {
                    tracing::warn!(webhook = name, %error, "a webhook that is no more could not be forgotten")
                }
            }
        }
    }
}

/// Ends tasks, at once those that have not ended within this time.
async fn stop(running: Vec<Running>, within: Duration) {
    let deadline = tokio::time::Instant::now() + within;
    for one in &running {
        one.desk.close();
    }
    for mut one in running {
        if tokio::time::timeout_at(deadline, &mut one.task)
            .await
            .is_err()
        {
            one.task.abort();
            let _ = one.task.await;
        }
    }
}

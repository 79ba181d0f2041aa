//! NOTIFICATIONS: messages to the outside about events, and mail that is sent at set times. Each
//! webhook and each alert is a reader of the journal with a name of its own, so that a crash loses
//! none, and a task of its own, so that none waits for another; each schedule keeps its place
//! likewise.
//!
//! ```text
//! journal ─▶ filter ─▶ message ─▶ endpoint ─▶ caller (signed POST)
//!                 │                  └ held: what failed, kept beside the reader's place
//!                 └──▶ digest ──▶ alert ───▶ a mail
//! clock ───▶ schedule ────────────────────▶ a mail
//! ```
//!
//! *Invariants made here:* what is told is told at least once, under one id however often; where a
//! reader is, and what it keeps, are written in one commit; a mail is submitted under a key that
//! makes it one; none of them costs more memory than a stated bound; nothing is told to an address
//! that was not looked at.

mod alert;
mod caller;
mod digest;
mod endpoint;
mod endpoint_run;
mod filter;
mod held_messages;
mod message;
mod orders;
mod schedule;
mod schedule_task;
mod secrets;
mod task;
mod webhook;

pub use alert::{Alert, AtMost};
pub use filter::{EVENTS, Filter};
pub use schedule::{Compose, Missed, Schedule, ScheduleStatus};
pub use webhook::{
    LastAnswer, Redeliver, Tested, Webhook, WebhookError, WebhookState, WebhookStatus,
};

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use self::alert::AlertTask;
use self::endpoint::EndpointHandle;
use self::schedule_task::ScheduleTask;
use crate::dispatch::{Dispatcher, Error};

/// How long a task may take to end before another takes its place.
const END_TIMEOUT: Duration = Duration::from_secs(1);

/// What cannot be done with a webhook.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum NoticeError {
    /// There is none of that name.
    #[error("there is no webhook named `{}`", .0.escape_debug())]
    UnknownWebhook(String),
    /// The message's event is none of this journal, or was kept long enough.
    #[error("the journal has no message `{}`", .0.escape_debug())]
    UnknownMessage(String),
    /// The journal cannot be read or written.
    #[error(transparent)]
    Dispatcher(#[from] Error),
}

/// A task that reads the journal under a name that outlives restarts.
trait NamedTask: Send + Sync + 'static {
    /// What the names of these readers begin with.
    const READERS: &'static str;

    fn name(&self) -> &str;

    /// Tells the task to end.
    fn closing(&self) -> &watch::Sender<bool>;

    /// Works until it is told to end, or the spool is closed.
    fn run(postrider: Dispatcher, this: Arc<Self>) -> impl Future<Output = ()> + Send;

    fn reader(&self) -> String {
        format!("{}{}", Self::READERS, self.name())
    }
}

/// The tasks that run now.
struct TaskTable<T>(Mutex<Vec<(Arc<T>, JoinHandle<()>)>>);

impl<T> Default for TaskTable<T> {
    fn default() -> Self {
        TaskTable(Mutex::default())
    }
}

impl<T> Drop for TaskTable<T> {
    fn drop(&mut self) {
        for (_, task) in self.0.get_mut() {
            task.abort();
        }
    }
}

impl<T: NamedTask> TaskTable<T> {
    fn all(&self) -> Vec<Arc<T>> {
        self.0
            .lock()
            .iter()
            .map(|(one, _)| Arc::clone(one))
            .collect()
    }

    fn find(&self, name: &str) -> Option<Arc<T>> {
        self.all().into_iter().find(|one| one.name() == name)
    }

    /// Runs these tasks from now on, and none of the others.
    async fn replace(&self, postrider: &Dispatcher, new: Vec<T>) {
        self.close(END_TIMEOUT).await;
        self.forget_others(postrider, &new).await;
        let mut running = Vec::new();

        for one in new {
            // What happens from now on is told, whenever the task comes to it.
            let name = one.reader();
            if let Err(error) = postrider.journal().reader(&name, None).await {
                tracing::warn!(reader = name, %error, "it has no place in the journal yet");
            }
            let one = Arc::new(one);
            let task = T::run(postrider.clone(), Arc::clone(&one));
            running.push((one, tokio::spawn(task)));
        }
        *self.0.lock() = running;
    }

    /// Ends all tasks, at once those that have not ended within this time.
    async fn close(&self, within: Duration) {
        let running = std::mem::take(&mut *self.0.lock());
        let deadline = tokio::time::Instant::now() + within;
        for (one, _) in &running {
            one.closing().send_replace(true);
        }
        for (_, mut task) in running {
            if tokio::time::timeout_at(deadline, &mut task).await.is_err() {
                task.abort();
                let _ = task.await;
            }
        }
    }

    /// Forgets the readers of those that are no more, which would hold the journal back. Not where
    /// others share the spool: they may have them.
    async fn forget_others(&self, postrider: &Dispatcher, stay: &[T]) {
        if postrider.shares_its_spool() {
            return;
        }

        let journal = postrider.journal();
        for reader in journal.readers().await.unwrap_or_default() {
            let Some(name) = reader.name.strip_prefix(T::READERS) else {
                continue;
            };
            if stay.iter().any(|one| one.name() == name) {
                continue;
            }
            let reader = &reader.name;
            match journal.forget(reader).await {
                Ok(()) => {
                    tracing::info!(reader, "it is not configured any more, and was forgotten")
                }
                Err(error) => {
                    tracing::warn!(
                        reader,
                        %error,
                        "it is not configured any more, and could not be forgotten"
                    );
                }
            }
        }
    }
}

/// Sends notifications while this, or a clone of it, exists.
#[derive(Clone)]
pub struct Notices {
    inner: Arc<Inner>,
}

struct Inner {
    postrider: Dispatcher,
    webhooks: TaskTable<EndpointHandle>,
    alerts: TaskTable<AlertTask>,
    schedules: TaskTable<ScheduleTask>,
}

impl std::fmt::Debug for Notices {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names = |all: Vec<String>| all.join(", ");
        let webhooks = self.inner.webhooks.all();
        let alerts = self.inner.alerts.all();

        let schedules = self.inner.schedules.all();
        f.debug_struct("Notices")
            .field(
                "webhooks",
                &names(webhooks.iter().map(|one| one.reader()).collect()),
            )
            .field(
                "alerts",
                &names(alerts.iter().map(|one| one.reader()).collect()),
            )
            .field(
                "schedules",
                &names(schedules.iter().map(|one| one.reader()).collect()),
            )
            .finish()
    }
}

impl Notices {
    /// Notices of what this dispatcher does; none yet.
    pub fn of(postrider: &Dispatcher) -> Self {
        Notices {
            inner: Arc::new(Inner {
                postrider: postrider.for_door("notices"),
                webhooks: TaskTable::default(),
                alerts: TaskTable::default(),
                schedules: TaskTable::default(),
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
        let desks: Result<Vec<EndpointHandle>, _> =
            webhooks.into_iter().map(EndpointHandle::new).collect();
        let Inner {
            postrider,
            webhooks,
            ..
        } = &*self.inner;
        webhooks.replace(postrider, desks?).await;
        Ok(())
    }

    /// The alerts from now on, likewise.
    ///
    /// # Errors
    /// [`Error::Configuration`]: one of them cannot be used, and all is as it was.
    pub async fn set_alerts(&self, alerts: Vec<Alert>) -> Result<(), Error> {
        let posts: Result<Vec<AlertTask>, _> = alerts.into_iter().map(AlertTask::new).collect();
        let posts = posts.map_err(|reason| Error::Configuration(format!("an alert: {reason}")))?;
        self.inner
            .alerts
            .replace(&self.inner.postrider, posts)
            .await;
        Ok(())
    }

    /// The schedules from now on, likewise. What one that keeps its name and its times has missed
    /// meanwhile is sent once or left out, as it says.
    ///
    /// # Errors
    /// As [`Notices::set_alerts`].
    pub async fn set_schedules(&self, schedules: Vec<Schedule>) -> Result<(), Error> {
        let all: Result<Vec<ScheduleTask>, _> =
            schedules.into_iter().map(ScheduleTask::new).collect();
        let all = all.map_err(|(key, reason)| {
            Error::Configuration(format!("a schedule: {key}: {reason}"))
        })?;
        self.inner
            .schedules
            .replace(&self.inner.postrider, all)
            .await;
        Ok(())
    }

    /// How each webhook is, in the order of the configuration.
    pub async fn webhooks(&self) -> Vec<WebhookStatus> {
        let journal = self.inner.postrider.journal();
        let desks = self.inner.webhooks.all();
        let all = desks.iter().map(|desk| desk.status(&journal));
        futures::future::join_all(all).await
    }

    /// The status of the webhook of this name.
    pub async fn webhook(&self, name: &str) -> Option<WebhookStatus> {
        let desk = self.inner.webhooks.find(name)?;
        Some(desk.status(&self.inner.postrider.journal()).await)
    }

    /// When each schedule sends next, and what it sent last.
    pub fn schedules(&self) -> Vec<ScheduleStatus> {
        let now = self.inner.postrider.clock().now();
        let all = self.inner.schedules.all();
        all.iter().map(|calendar| calendar.status(now)).collect()
    }

    /// Sends a webhook a message of the type `test`, whether it is switched off or not, and says
    /// what was answered. `None` where there is none of that name.
    pub async fn test(&self, name: &str) -> Option<Tested> {
        let desk = self.inner.webhooks.find(name)?;
        Some(desk.test(&self.inner.postrider).await)
    }

    /// Has a webhook told again, whichever node looks after it: see [`Redeliver`]. One that was
    /// switched off is switched on. What was asked is kept, so that no crash loses it.
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
        let desk = self.inner.webhooks.find(name).ok_or_else(unknown)?;

        let is_there = desk.redeliver(&what, postrider).await?;
        if let (false, Redeliver::Message(id)) = (is_there, what) {
            return Err(NoticeError::UnknownMessage(id));
        }
        Ok(desk.status(&postrider.journal()).await)
    }

    /// Ends what goes on, within this time: what was not told is told after the next start.
    pub async fn close(&self, within: Duration) {
        let Inner {
            webhooks,
            alerts,
            schedules,
            ..
        } = &*self.inner;
        tokio::join!(
            webhooks.close(within),
            alerts.close(within),
            schedules.close(within)
        );
    }
}

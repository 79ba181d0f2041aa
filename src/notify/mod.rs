//! Notifications: webhooks and alerts, which report events, and schedules, which send mail at set
//! times. `config` makes a [`Notices`] of its sections, and `cli` keeps it while the service runs.
//! Each webhook, alert and schedule is a task of its own, so that none waits for another, and a
//! named reader of the journal, so that a crash loses nothing.
//!
//! ```text
//! journal ─▶ filter ─▶ message ─▶ endpoint ─▶ caller (signed POST)
//!                 │                  └ held messages: those that failed, stored with the position
//!                 └──▶ digest ──▶ alert ───▶ a mail
//! clock ───▶ schedule ────────────────────▶ a mail
//! ```
//!
//! *Invariants:* every message is sent at least once, and always under the same id; a reader's
//! position and its own records are written in one commit; a mail is submitted with an idempotency
//! key, so that it is sent once; the memory of each task is bounded; nothing is sent to an address
//! that was not checked.

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

/// How long a task may take to end before it is replaced by another.
const END_TIMEOUT: Duration = Duration::from_secs(1);

/// Why a webhook cannot be tested or told to send messages again.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum NoticeError {
    /// There is no webhook of this name.
    #[error("there is no webhook named `{}`", .0.escape_debug())]
    UnknownWebhook(String),
    /// The message's event is not in this journal, or is no longer kept.
    #[error("the journal has no message `{}`", .0.escape_debug())]
    UnknownMessage(String),
    /// The journal cannot be read or written.
    #[error(transparent)]
    Dispatcher(#[from] Error),
}

/// A task that reads the journal under a name, so that it goes on after a restart where it was.
trait NamedTask: Send + Sync + 'static {
    /// The prefix of these readers' names.
    const READERS: &'static str;

    fn name(&self) -> &str;

    /// The switch that makes the task end.
    fn closing(&self) -> &watch::Sender<bool>;

    /// Runs until it is to end, or the spool is closed.
    fn run(postrider: Dispatcher, this: Arc<Self>) -> impl Future<Output = ()> + Send;

    fn reader(&self) -> String {
        format!("{}{}", Self::READERS, self.name())
    }
}

/// The tasks that are running.
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

    /// Ends all running tasks and runs these instead.
    async fn replace(&self, postrider: &Dispatcher, new: Vec<T>) {
        self.close(END_TIMEOUT).await;
        self.forget_others(postrider, &new).await;
        let mut running = Vec::new();

        for one in new {
            // A new reader begins here and now, even if its task starts later.
            let name = one.reader();
            if let Err(error) = postrider.journal().reader(&name, None).await {
                tracing::warn!(reader = name, %error, "it has no position in the journal yet");
            }
            let one = Arc::new(one);
            let task = T::run(postrider.clone(), Arc::clone(&one));
            running.push((one, tokio::spawn(task)));
        }
        *self.0.lock() = running;
    }

    /// Ends all tasks; those that have not ended within this time are aborted.
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

    /// Deletes the readers of tasks that are gone: the journal would keep events for them. Where
    /// nodes share the spool another node may still have them, so nothing is deleted.
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
                    tracing::info!(reader, "it is not configured any more, and was deleted")
                }
                Err(error) => {
                    tracing::warn!(
                        reader,
                        %error,
                        "it is not configured any more, and could not be deleted"
                    );
                }
            }
        }
    }
}

/// Sends notifications while this value, or a clone of it, exists.
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
    /// Notifications about this dispatcher's events; none until they are set.
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

    /// Replaces all webhooks. One that keeps its name goes on where it was; a new one reports
    /// events from now on. If no other node shares the spool, the stored state of webhooks that are
    /// gone is deleted.
    ///
    /// # Errors
    /// If one of them cannot be used; then nothing is changed.
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

    /// Replaces all alerts, likewise.
    ///
    /// # Errors
    /// [`Error::Configuration`] if one of them cannot be used; then nothing is changed.
    pub async fn set_alerts(&self, alerts: Vec<Alert>) -> Result<(), Error> {
        let posts: Result<Vec<AlertTask>, _> = alerts.into_iter().map(AlertTask::new).collect();
        let posts = posts.map_err(|reason| Error::Configuration(format!("an alert: {reason}")))?;
        self.inner
            .alerts
            .replace(&self.inner.postrider, posts)
            .await;
        Ok(())
    }

    /// Replaces all schedules, likewise. Times that a schedule with the same name and times has
    /// missed meanwhile are handled as its [`Missed`] says.
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

    /// The status of each webhook, in the order of the configuration.
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

    /// The status of each schedule: when it sends next, and what it sent last.
    pub fn schedules(&self) -> Vec<ScheduleStatus> {
        let now = self.inner.postrider.clock().now();
        let all = self.inner.schedules.all();
        all.iter().map(|calendar| calendar.status(now)).collect()
    }

    /// Sends a webhook a message of the type `test`, even if it is switched off. Returns the
    /// answer; `None` if there is no webhook of this name.
    pub async fn test(&self, name: &str) -> Option<Tested> {
        let desk = self.inner.webhooks.find(name)?;
        Some(desk.test(&self.inner.postrider).await)
    }

    /// Sends messages to a webhook again, whichever node serves it: see [`Redeliver`]. If it was
    /// switched off, it is switched on. The request is stored, so that a crash does not lose it.
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

    /// Ends all tasks within this time. Messages that were not sent are sent after the next start.
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

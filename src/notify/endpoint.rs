//! A webhook's endpoint as the rest of the program sees it: its status, a test call, and orders
//! from an operator. `Notices` calls it; the task in `endpoint_run` serves it.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use super::caller::{CallResult, WebhookClient};
use super::held_messages::{EndpointState, HeldMessages};
use super::message::WebhookMessage;
use super::orders::Order;
use super::webhook::{LastAnswer, Tested, Webhook, WebhookError, WebhookState, WebhookStatus};
use super::{NamedTask, Redeliver, endpoint_run};
use crate::dispatch::{Dispatcher, Error, JournalHandle};
use crate::mail::Timestamp;

/// How long a caller waits for its order to be carried out.
const ORDER_TIMEOUT: Duration = Duration::from_secs(2);

/// A handle to an endpoint's task.
pub(super) struct EndpointHandle {
    pub webhook: Webhook,
    pub caller: WebhookClient,
    pub shown: Mutex<EndpointSnapshot>,
    /// Notified of each order that was given on this node.
    pub ordered: Notify,
    /// Notified when this node has carried out orders.
    pub obeyed: Notify,
    pub closing: watch::Sender<bool>,
}

#[derive(Default)]
pub(super) struct EndpointSnapshot {
    pub is_elsewhere: bool,
    pub state: EndpointState,
    pub waiting: u64,
    pub given_up: u64,
    pub next_due: Option<Timestamp>,
    /// The last event that was handled; `None` until the journal is open.
    pub seen: Option<u64>,
    pub last: Option<LastAnswer>,
    pub delivered: u64,
    pub failed: u64,
}

impl EndpointSnapshot {
    pub(super) fn take(&mut self, held: &HeldMessages, seen: u64) {
        (self.waiting, self.given_up) = held.counts();
        self.state = held.state.clone();
        self.next_due = held.next_due();
        self.seen = Some(seen);
    }
}

impl EndpointHandle {
    pub(super) fn new(webhook: Webhook) -> Result<Self, WebhookError> {
        if let Some(mistake) = webhook.mistakes().into_iter().next() {
            return Err(mistake);
        }
        Ok(EndpointHandle {
            caller: WebhookClient::new(&webhook)?,
            webhook,
            shown: Mutex::default(),
            ordered: Notify::new(),
            obeyed: Notify::new(),
            closing: watch::Sender::new(false),
        })
    }

    /// Stores an order to send messages again, and waits up to [`ORDER_TIMEOUT`] until the node
    /// that serves the endpoint has carried it out. Returns whether the message that is asked for
    /// exists.
    pub(super) async fn redeliver(
        &self,
        what: &Redeliver,
        postrider: &Dispatcher,
    ) -> Result<bool, Error> {
        let journal = &postrider.journal();
        let Some(order) = Order::of(what, journal).await? else {
            return Ok(false);
        };
        let reader = self.reader();
        order.give(journal, &reader).await?;
        self.ordered.notify_one();

        let is_shared = postrider.shares_its_spool();
        let obeyed = order.until_obeyed(journal, &reader, &self.obeyed, is_shared);
        match tokio::time::timeout(ORDER_TIMEOUT, obeyed).await {
            Ok(obeyed) => obeyed?,
            Err(_) => tracing::debug!(reader, "an order is not carried out yet"),
        }
        Ok(true)
    }

    pub(super) async fn test(&self, postrider: &Dispatcher) -> Tested {
        let clock = postrider.clock();
        let now = clock.now();
        let message = WebhookMessage::test(self.name(), now);
        let answer = self.caller.call(&message, clock.wall()).await;
        let last = answered(&message, now, &answer);
        self.shown.lock().last = Some(last.clone());
        Tested {
            delivered: answer.is_taken(),
            answer: last,
        }
    }

    /// Its status; if another node serves it, as that node has stored it.
    pub(super) async fn status(&self, journal: &JournalHandle) -> WebhookStatus {
        if self.shown.lock().is_elsewhere {
            match self.noted(journal).await {
                Ok((held, seen)) => self.shown.lock().take(&held, seen),
                Err(error) => tracing::debug!(webhook = self.name(), %error,
                    "the state of a webhook that another node serves cannot be read"),
            }
        }

        let last = journal.last().unwrap_or_default();
        let shown = self.shown.lock();
        let stored = &shown.state;
        let state = match () {
            () if stored.off.is_some() => WebhookState::Off,
            () if stored.failures > 0 => WebhookState::Failing,
            () => WebhookState::Active,
        };

        let unseen = shown.seen.map_or(0, |seen| last.saturating_sub(seen));
        let (off_since, reason) = stored.off.clone().unzip();
        WebhookStatus {
            name: self.webhook.name.clone(),
            url: self.webhook.shown_url(),
            events: self.webhook.filter.events.clone(),
            tags: self.webhook.filter.tags.clone(),
            state,
            reason,
            off_since,
            failing_since: stored.failing_since,
            backlog: shown.waiting + unseen,
            waiting: shown.waiting,
            given_up: shown.given_up,
            next_attempt_at: shown.next_due.filter(|_| state != WebhookState::Off),
            last: shown.last.clone(),
            delivered: shown.delivered,
            failed: shown.failed,
        }
    }

    /// The state that the node that serves it has stored, and its position.
    async fn noted(&self, journal: &JournalHandle) -> Result<(HeldMessages, u64), Error> {
        let reader = journal.reader(&self.reader(), None).await?;
        Ok((HeldMessages::read(&reader).await?, reader.done()))
    }
}

pub(super) fn answered(message: &WebhookMessage, at: Timestamp, answer: &CallResult) -> LastAnswer {
    LastAnswer {
        at,
        id: message.id.clone(),
        status: answer.status,
        error: answer.error.clone(),
        took_ms: u64::try_from(answer.took.as_millis()).unwrap_or(u64::MAX),
    }
}

impl NamedTask for EndpointHandle {
    const READERS: &'static str = "webhook:";

    fn name(&self) -> &str {
        &self.webhook.name
    }

    fn closing(&self) -> &watch::Sender<bool> {
        &self.closing
    }

    fn run(postrider: Dispatcher, this: Arc<Self>) -> impl Future<Output = ()> + Send {
        endpoint_run::run(postrider, this)
    }
}

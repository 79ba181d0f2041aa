//! The task of an endpoint: it reads the journal under the webhook's name, sends messages about the
//! wanted events, sends failed messages again, and stores its position.
//!
//! *Invariant:* the commit that moves the reader's position also stores the messages before it that
//! failed. So each wanted event was taken by the endpoint, or is held, or is read again.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::stream::{self, StreamExt};
use tokio::time::Instant;

use super::NamedTask;
use super::caller::CallResult;
use super::endpoint::{EndpointHandle, answered};
use super::held_messages::{EndpointState, HeldMessage, HeldMessages};
use super::message::{WebhookMessage, attempt_of};
use super::orders::Order;
use super::task::{Closing, run_turns};
use super::webhook::LastAnswer;
use crate::delivery::{Attempt, Event, EventKind};
use crate::dispatch::{Dispatcher, Error, JournalHandle, JournalReader, NoticeResult, Turn};
use crate::mail::Timestamp;
use crate::spool::ReaderChange;

/// How many messages are sent before the position is stored. After a crash at most these are sent
/// again.
const CHUNK_MESSAGES: usize = 16;
/// After this many failures in a row, one message at a time is tried, and no new events are read.
const FAILING_AFTER: u32 = 5;
/// How long the position may stay unstored while no event is wanted.
const SAVE_INTERVAL: Duration = Duration::from_secs(5);
/// How often it looks for orders that were given on another node.
const ORDER_POLL_INTERVAL: Duration = Duration::from_millis(500);

/// Runs until it is to end, or the spool is closed.
pub(super) async fn run(postrider: Dispatcher, endpoint: Arc<EndpointHandle>) {
    let name = endpoint.reader();
    let shows = |is_elsewhere| endpoint.shown.lock().is_elsewhere = is_elsewhere;
    let closing = endpoint.closing.subscribe();

    run_turns(
        postrider.turn(&name),
        &name,
        closing,
        shows,
        |turn, closing| {
            let (postrider, endpoint, name) =
                (postrider.clone(), Arc::clone(&endpoint), name.clone());
            async move {
                let mut work = EndpointRun::open(&postrider, &endpoint, &name).await?;
                work.go_on(turn, closing).await
            }
            .boxed()
        },
    )
    .await;
}

/// Waits until there may be an order: one from this node is noticed at once, one from another after
/// [`ORDER_POLL_INTERVAL`].
async fn is_ordered(postrider: &Dispatcher, endpoint: &EndpointHandle) {
    let (journal, reader) = (postrider.journal(), endpoint.reader());
    let elsewhere = async {
        if !postrider.shares_its_spool() {
            return std::future::pending().await;
        }
        loop {
            tokio::time::sleep(ORDER_POLL_INTERVAL).await;
            let given = Order::given(&journal, &reader).await;
            if given.is_ok_and(|given| !given.is_empty()) {
                return;
            }
        }
    };

    tokio::select! {
        () = endpoint.ordered.notified() => {}
        () = elsewhere => {}
    }
}

struct EndpointRun<'a> {
    postrider: &'a Dispatcher,
    endpoint: &'a EndpointHandle,
    journal: JournalHandle,
    /// The journal's name, in messages' ids.
    journal_name: String,
    reader: JournalReader,
    held: HeldMessages,
    /// Events that were read and not handled yet, and the number of the last one.
    page: VecDeque<Arc<Event>>,
    page_end: u64,
    /// The event that was handled last.
    before: Option<Arc<Event>>,
    /// Everything up to this event was taken, is held, or was not wanted.
    seen: u64,
    noted_at: Instant,
    /// When it looks for orders again.
    looks_at: Instant,
    /// Results that the handle does not show yet: it shows them together with the state that
    /// follows from them.
    news: CallResults,
}

/// The results of calls.
#[derive(Default)]
struct CallResults {
    last: Option<LastAnswer>,
    delivered: u64,
    failed: u64,
}

impl<'a> EndpointRun<'a> {
    async fn open(
        postrider: &'a Dispatcher,
        endpoint: &'a EndpointHandle,
        name: &str,
    ) -> Result<Self, Error> {
        let journal = postrider.journal();
        let reader = journal.reader(name, None).await?;
        let held = HeldMessages::read(&reader).await?;

        let seen = reader.done();
        Ok(EndpointRun {
            postrider,
            endpoint,
            journal_name: journal.name(),
            journal,
            reader,
            held,
            page: VecDeque::new(),
            page_end: seen,
            before: None,
            seen,
            noted_at: Instant::now(),
            looks_at: Instant::now(),
            news: CallResults::default(),
        })
    }

    async fn go_on(&mut self, turn: &mut Turn, closing: &mut Closing) -> Result<(), Error> {
        let clock = self.postrider.clock().clone();
        loop {
            if self.looks_at <= Instant::now() {
                self.obey().await?;
            }
            self.show();
            if *closing.borrow() || !turn.is_mine() {
                return self.note(Vec::new()).await;
            }
            let now = clock.now();
            let state = &self.held.state;
            let is_off = state.off.is_some();
            let rests = state.rests_until.filter(|until| *until > now);
            if !is_off && rests.is_none() {
                let most = match state.failures {
                    ..FAILING_AFTER => CHUNK_MESSAGES,
                    _ => 1,
                };
                let due = self.held.due(now, most);
                if !due.is_empty() {
                    self.send(due, self.seen).await?;
                    continue;
                }
            }

            let reads = !is_off
                && rests.is_none()
                && state.failures < FAILING_AFTER
                && self.held.has_room();
            if reads && !self.page.is_empty() {
                let (messages, seen) = self.look().await;
                if messages.is_empty() {
                    self.seen = seen;
                } else {
                    self.send(messages, seen).await?;
                }
                continue;
            }
            if self.seen > self.reader.done() && self.noted_at.elapsed() >= SAVE_INTERVAL {
                self.note(Vec::new()).await?;
            }
            let until = match rests {
                _ if is_off => None,
                Some(until) => Some(until),
                None => self.held.next_due(),
            };
            let waits = async {
                match until {
                    Some(until) => clock.sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            let is_unnoted = self.seen > self.reader.done();
            tokio::select! {
                page = self.reader.next(), if reads => {
                    let page = page?;
                    if page.missed > 0 {
                        tracing::error!(webhook = self.endpoint.name(), missed = page.missed,
                            "events were deleted before a webhook had read them");
                    }
                    self.page_end = page.last;
                    self.page.extend(page.events);
                    if self.page.is_empty() {
                        self.seen = page.last;
                    }
                }
                () = waits => {}
                () = tokio::time::sleep(SAVE_INTERVAL), if is_unnoted => {}
                () = is_ordered(self.postrider, self.endpoint) => self.looks_at = Instant::now(),
                () = turn.changed() => {}
                _ = closing.changed() => {}
            }
        }
    }

    /// The next messages from the events that were read, and the number of the last event among
    /// them.
    async fn look(&mut self) -> (Vec<HeldMessage>, u64) {
        let now = self.postrider.clock().now();
        let (mut wanted, mut seen) = (Vec::new(), self.seen);
        while let Some(event) = self.page.pop_front() {
            seen = event.seq;
            if self.endpoint.webhook.filter.admits(&event) {
                let before = self.before.take();
                let tried = before.as_deref();
                let tried = tried.and_then(|before| attempt_of(before, &event)).cloned();
                let tried = match tried {
                    None => self.last_attempt(&event).await,
                    tried => tried,
                };
                wanted.push(HeldMessage {
                    message: WebhookMessage::about(&event, tried.as_ref(), &self.journal_name),
                    tries: 0,
                    first: now,
                    due: None,
                });
            }
            // An attempt is followed by its outcome, and both are handled together.
            let is_try = matches!(event.kind, EventKind::Attempted { .. });
            self.before = Some(event);
            if wanted.len() >= CHUNK_MESSAGES && !is_try {
                break;
            }
        }

        if self.page.is_empty() {
            seen = self.page_end;
        }
        (wanted, seen)
    }

    /// The last attempt of a delivery that died without a new one, for example because it expired.
    async fn last_attempt(&self, event: &Event) -> Option<Attempt> {
        let (EventKind::Dead { .. }, Some(mail)) = (&event.kind, event.mail) else {
            return None;
        };
        let status = self.postrider.status(mail).await.ok()?;
        let of_it = |delivery: &&crate::dispatch::DeliveryStatus| {
            Some(&delivery.recipient) == event.recipient.as_ref()
        };
        let delivery = status.deliveries.iter().find(of_it)?;
        delivery.attempts.last().cloned()
    }

    /// Sends these messages, and records the answers and that all events up to `seen` are handled.
    async fn send(&mut self, messages: Vec<HeldMessage>, seen: u64) -> Result<(), Error> {
        let (endpoint, clock) = (self.endpoint, self.postrider.clock());
        let call = |held: HeldMessage| async move {
            let at = clock.now();
            let answer = endpoint.caller.call(&held.message, clock.wall()).await;
            (held, at, answer)
        };

        let calls = stream::iter(messages).map(call);
        let answers: Vec<_> = calls
            .buffer_unordered(endpoint.webhook.connections)
            .collect()
            .await;

        let before = self.held.state.clone();
        let mut changes = Vec::new();
        for (held, at, answer) in answers {
            self.judge(held, at, &answer, &mut changes);
        }
        changes.extend(self.held.tidy());
        if self.held.state != before {
            changes.push(self.held.state.change());
        }

        if let (None, Some((_, reason))) = (&before.off, &self.held.state.off) {
            tracing::error!(
                webhook = endpoint.name(),
                reason,
                "a webhook is switched off"
            );
            // Before the state is stored: a crash in between announces it twice, and never not at
            // all.
            self.postrider
                .note_webhook_off(endpoint.name(), reason)
                .await;
        }

        self.seen = seen;
        self.note(changes).await
    }

    /// What an answer means for its message and for the endpoint.
    fn judge(
        &mut self,
        mut held: HeldMessage,
        at: Timestamp,
        answer: &CallResult,
        changes: &mut Vec<ReaderChange>,
    ) {
        let webhook = &self.endpoint.webhook;
        let now = self.postrider.clock().now();
        let (name, seq) = (self.endpoint.name(), held.message.seq);
        let state = &mut self.held.state;
        self.news.last = Some(answered(&held.message, at, answer));
        match answer.is_taken() {
            true => self.news.delivered += 1,
            false => self.news.failed += 1,
        }

        if answer.is_taken() {
            self.postrider.count_notice(name, NoticeResult::Delivered);
            if state.failures > 0 {
                tracing::info!(webhook = name, "a webhook accepts messages again");
            }
            let was_down = state.failures >= FAILING_AFTER;
            *state = EndpointState::default();
            if self.held.messages.remove(&seq).is_some() {
                changes.push((HeldMessage::key(seq), None));
            }
            // Messages that waited for the endpoint are due again.
            let waiting = self.held.messages.values_mut();
            for held in waiting.filter(|held| was_down && held.due.is_some()) {
                held.due = Some(now);
            }
            return;
        }

        let reason = answer.error.clone().unwrap_or_default();
        self.postrider.count_notice(name, NoticeResult::Failed);
        match state.failures {
            0 => tracing::warn!(
                webhook = name,
                id = held.message.id,
                reason,
                "a webhook failed; its message is sent again"
            ),
            _ => tracing::debug!(
                webhook = name,
                id = held.message.id,
                reason,
                "a webhook failed"
            ),
        }

        state.failures += 1;
        let since = *state.failing_since.get_or_insert(at);
        held.tries += 1;

        let step = (held.tries as usize).min(webhook.retry.len()) - 1;
        let delay = webhook.retry[step].max(answer.retry_after.unwrap_or_default());
        held.due = Some(now + delay);
        if answer.is_too_much() {
            state.rests_until = Some(now + answer.retry_after.unwrap_or(delay));
        }

        if answer.is_gone() {
            state.off = Some((now, "it answered 410 Gone".to_owned()));
        } else if now.since(since) >= webhook.give_up_after {
            let span = humantime::format_duration(webhook.give_up_after);
            state.off = Some((now, format!("it has accepted nothing for {span}: {reason}")));
        } else if now.since(held.first) >= webhook.give_up_after {
            held.due = None;
            self.postrider.count_notice(name, NoticeResult::GivenUp);
            tracing::error!(
                webhook = name,
                id = held.message.id,
                reason,
                "a message of a webhook is given up"
            );
        }

        changes.push(held.change());
        self.held.messages.insert(seq, held);
    }

    /// Carries out the orders that were given meanwhile.
    async fn obey(&mut self) -> Result<(), Error> {
        let orders = Order::given(&self.journal, &self.endpoint.reader()).await?;
        self.looks_at = Instant::now() + ORDER_POLL_INTERVAL;
        if orders.is_empty() {
            return Ok(());
        }

        let now = self.postrider.clock().now();
        let mut changes: Vec<ReaderChange> = orders.iter().map(|order| order.done()).collect();
        let mut back = None;
        for order in orders {
            match order {
                Order::Retry => {
                    for held in self.held.messages.values_mut() {
                        (held.due, held.first) = (Some(now), now);
                    }
                }
                Order::Back(to) => back = Some(back.unwrap_or(to).min(to)),
                Order::Again(seq) => {
                    let Some(message) = WebhookMessage::again(&self.journal, seq).await? else {
                        continue;
                    };
                    let held = HeldMessage {
                        message,
                        tries: 0,
                        first: now,
                        due: Some(now),
                    };
                    changes.push(held.change());
                    self.held.messages.insert(seq, held);
                }
            }
        }

        self.held.state = EndpointState::default();
        changes.push(self.held.state.change());
        // The caller looks at the status as soon as it is notified.
        self.show();
        let back = back.filter(|back| *back < self.seen);
        self.seen = back.unwrap_or(self.seen);
        self.note(changes).await?;
        self.endpoint.obeyed.notify_waiters();

        if back.is_some() {
            self.page.clear();
            self.before = None;
            self.reader = self.journal.reader(&self.endpoint.reader(), None).await?;
        }
        Ok(())
    }

    /// Stores its position together with these changes.
    async fn note(&mut self, changes: Vec<ReaderChange>) -> Result<(), Error> {
        if changes.is_empty() && self.seen == self.reader.done() {
            return Ok(());
        }
        self.noted_at = Instant::now();
        self.reader.advance_with(self.seen, changes).await
    }

    /// Updates what the handle shows.
    fn show(&mut self) {
        self.postrider
            .show_webhook(self.endpoint.name(), self.held.state.off.is_some());
        let news = std::mem::take(&mut self.news);
        let mut shown = self.endpoint.shown.lock();
        shown.take(&self.held, self.seen);
        shown.delivered += news.delivered;
        shown.failed += news.failed;
        shown.last = news.last.or(shown.last.take());
    }
}

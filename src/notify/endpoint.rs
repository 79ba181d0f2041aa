//! The task of one endpoint: it reads the journal under its own name, tells what is wanted, sends
//! again what failed, and notes how far it is.
//!
//! *Invariant:* the reader's place moves in the commit that keeps what failed before it, so that
//! every wanted event was taken, or is held, or is read again.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::stream::{self, StreamExt};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::attending::{Closing, attend};
use super::caller::{CallResult, Caller};
use super::held::{EndpointState, HeldMessage, HeldMessages};
use super::message::{Message, attempt_of};
use super::orders::Order;
use super::webhook::{LastAnswer, Tested, Webhook, WebhookError, WebhookState, WebhookStatus};
use super::{Attended, Redeliver};
use crate::delivery::{Attempt, Event, EventKind};
use crate::dispatch::{Dispatcher, Error, JournalHandle, JournalReader, NoticeResult, Turn};
use crate::mail::Timestamp;
use crate::spool::ReaderChange;

/// How many messages are sent before it is noted how far that is. After a crash those are sent
/// again.
const CHUNK: usize = 16;
/// After so many failures in a row one message at a time is tried, and nothing new is read.
const FAILING: u32 = 5;
/// How long it may stay unnoted that nothing of what was read was wanted.
const NOTE_EVERY: Duration = Duration::from_secs(5);
/// How often it looks for what it was ordered, where that may have been given on another node.
const LOOK_FOR_ORDERS: Duration = Duration::from_millis(500);
/// How long somebody who orders something waits until it is noted.
const OBEYS_WITHIN: Duration = Duration::from_secs(2);

/// What others see of an endpoint, and how they reach it.
pub(super) struct EndpointHandle {
    webhook: Webhook,
    caller: Caller,
    shown: Mutex<EndpointSnapshot>,
    /// Tells of an order that was given here.
    ordered: Notify,
    /// Tells that orders were obeyed here.
    obeyed: Notify,
    closing: watch::Sender<bool>,
}

#[derive(Default)]
struct EndpointSnapshot {
    is_elsewhere: bool,
    standing: EndpointState,
    waiting: u64,
    given_up: u64,
    next_due: Option<Timestamp>,
    /// The last event that was looked at; none before the journal was opened.
    seen: Option<u64>,
    last: Option<LastAnswer>,
    delivered: u64,
    failed: u64,
}

impl EndpointSnapshot {
    fn take(&mut self, shelf: &HeldMessages, seen: u64) {
        (self.waiting, self.given_up) = shelf.counts();
        self.standing = shelf.standing.clone();
        self.next_due = shelf.next_due();
        self.seen = Some(seen);
    }
}

impl EndpointHandle {
    pub(super) fn new(webhook: Webhook) -> Result<Self, WebhookError> {
        if let Some(mistake) = webhook.mistakes().into_iter().next() {
            return Err(mistake);
        }
        Ok(EndpointHandle {
            caller: Caller::new(&webhook)?,
            webhook,
            shown: Mutex::default(),
            ordered: Notify::new(),
            obeyed: Notify::new(),
            closing: watch::Sender::new(false),
        })
    }

    /// Has it told again, whichever node calls it, and waits a while until that is noted. Returns
    /// whether there is anything like what is asked for.
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
        match tokio::time::timeout(OBEYS_WITHIN, obeyed).await {
            Ok(obeyed) => obeyed?,
            Err(_) => tracing::debug!(reader, "an order is not obeyed yet"),
        }
        Ok(true)
    }

    pub(super) async fn test(&self, postrider: &Dispatcher) -> Tested {
        let now = postrider.clock().now();
        let message = Message::test(self.name(), now);
        let answer = self.caller.call(&message, now).await;
        let last = answered(&message, now, &answer);
        self.shown.lock().last = Some(last.clone());
        Tested {
            delivered: answer.is_taken(),
            answer: last,
        }
    }

    /// How it is; of one that another node looks after, as that has noted it.
    pub(super) async fn status(&self, journal: &JournalHandle) -> WebhookStatus {
        if self.shown.lock().is_elsewhere {
            match self.noted(journal).await {
                Ok((shelf, seen)) => self.shown.lock().take(&shelf, seen),
                Err(error) => tracing::debug!(webhook = self.name(), %error,
                    "what another node has noted of a webhook cannot be read"),
            }
        }

        let last = journal.last().unwrap_or_default();
        let shown = self.shown.lock();
        let standing = &shown.standing;
        let state = match () {
            () if standing.off.is_some() => WebhookState::Off,
            () if standing.failures > 0 => WebhookState::Failing,
            () => WebhookState::Active,
        };

        let unseen = shown.seen.map_or(0, |seen| last.saturating_sub(seen));
        let (off_since, reason) = standing.off.clone().unzip();
        WebhookStatus {
            name: self.webhook.name.clone(),
            url: self.webhook.shown_url(),
            events: self.webhook.filter.events.clone(),
            tags: self.webhook.filter.tags.clone(),
            state,
            reason,
            off_since,
            failing_since: standing.failing_since,
            backlog: shown.waiting + unseen,
            waiting: shown.waiting,
            given_up: shown.given_up,
            next_attempt_at: shown.next_due.filter(|_| state != WebhookState::Off),
            last: shown.last.clone(),
            delivered: shown.delivered,
            failed: shown.failed,
        }
    }

    /// What whoever looks after it has noted, and how far that is.
    async fn noted(&self, journal: &JournalHandle) -> Result<(HeldMessages, u64), Error> {
        let reader = journal.reader(&self.reader(), None).await?;
        Ok((HeldMessages::read(&reader).await?, reader.done()))
    }
}

fn answered(message: &Message, at: Timestamp, answer: &CallResult) -> LastAnswer {
    LastAnswer {
        at,
        id: message.id.clone(),
        status: answer.status,
        error: answer.error.clone(),
        took_ms: u64::try_from(answer.took.as_millis()).unwrap_or(u64::MAX),
    }
}

impl Attended for EndpointHandle {
    const READERS: &'static str = "webhook:";

    fn name(&self) -> &str {
        &self.webhook.name
    }

    fn closing(&self) -> &watch::Sender<bool> {
        &self.closing
    }

    fn attend(postrider: Dispatcher, this: Arc<Self>) -> impl Future<Output = ()> + Send {
        run(postrider, this)
    }
}

/// Works until the desk is closed or the spool is.
async fn run(postrider: Dispatcher, desk: Arc<EndpointHandle>) {
    let name = desk.reader();
    let shows = |is_elsewhere| desk.shown.lock().is_elsewhere = is_elsewhere;
    let closing = desk.closing.subscribe();
    attend(
        postrider.turn(&name),
        &name,
        closing,
        shows,
        |turn, closing| {
            let (postrider, desk, name) = (postrider.clone(), Arc::clone(&desk), name.clone());
            async move {
                let mut work = Work::open(&postrider, &desk, &name).await?;
                work.go_on(turn, closing).await
            }
            .boxed()
        },
    )
    .await;
}

/// Waits until something may be ordered: of this node at once, of another after a while.
async fn is_ordered(postrider: &Dispatcher, desk: &EndpointHandle) {
    let (journal, reader) = (postrider.journal(), desk.reader());
    let elsewhere = async {
        if !postrider.shares_its_spool() {
            return std::future::pending().await;
        }
        loop {
            tokio::time::sleep(LOOK_FOR_ORDERS).await;
            let given = Order::given(&journal, &reader).await;
            if given.is_ok_and(|given| !given.is_empty()) {
                return;
            }
        }
    };
    tokio::select! {
        () = desk.ordered.notified() => {}
        () = elsewhere => {}
    }
}

struct Work<'a> {
    postrider: &'a Dispatcher,
    desk: &'a EndpointHandle,
    journal: JournalHandle,
    /// The journal's name, in messages' ids.
    journal_name: String,
    reader: JournalReader,
    shelf: HeldMessages,
    /// What was read and is not looked at yet, and the number that it ends with.
    page: VecDeque<Arc<Event>>,
    page_end: u64,
    /// The event before.
    before: Option<Arc<Event>>,
    /// Everything up to this event was taken, is held, or was not wanted.
    seen: u64,
    noted_at: Instant,
    /// When it looks again for what it was ordered.
    looks_at: Instant,
    /// What is not shown yet: others see it together with what follows from it.
    news: CallResults,
}

/// What came of calls.
#[derive(Default)]
struct CallResults {
    last: Option<LastAnswer>,
    delivered: u64,
    failed: u64,
}

impl<'a> Work<'a> {
    async fn open(
        postrider: &'a Dispatcher,
        desk: &'a EndpointHandle,
        name: &str,
    ) -> Result<Self, Error> {
        let journal = postrider.journal();
        let reader = journal.reader(name, None).await?;
        let shelf = HeldMessages::read(&reader).await?;

        let seen = reader.done();
        Ok(Work {
            postrider,
            desk,
            journal_name: journal.name(),
            journal,
            reader,
            shelf,
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
            let standing = &self.shelf.standing;
            let is_off = standing.off.is_some();
            let rests = standing.rests_until.filter(|until| *until > now);
            if !is_off && rests.is_none() {
                let most = match standing.failures {
                    ..FAILING => CHUNK,
                    _ => 1,
                };
                let due = self.shelf.due(now, most);
                if !due.is_empty() {
                    self.tell(due, self.seen).await?;
                    continue;
                }
            }

            let reads =
                !is_off && rests.is_none() && standing.failures < FAILING && self.shelf.has_room();
            if reads && !self.page.is_empty() {
                let (messages, seen) = self.look().await;
                if messages.is_empty() {
                    self.seen = seen;
                } else {
                    self.tell(messages, seen).await?;
                }
                continue;
            }
            if self.seen > self.reader.done() && self.noted_at.elapsed() >= NOTE_EVERY {
                self.note(Vec::new()).await?;
            }
            let until = match rests {
                _ if is_off => None,
                Some(until) => Some(until),
                None => self.shelf.next_due(),
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
                        tracing::error!(webhook = self.desk.name(), missed = page.missed,
                            "events were deleted before a webhook had read them");
                    }
                    self.page_end = page.last;
                    self.page.extend(page.events);
                    if self.page.is_empty() {
                        self.seen = page.last;
                    }
                }
                () = waits => {}
                () = tokio::time::sleep(NOTE_EVERY), if is_unnoted => {}
                () = is_ordered(self.postrider, self.desk) => self.looks_at = Instant::now(),
                () = turn.changed() => {}
                _ = closing.changed() => {}
            }
        }
    }

    /// The next messages of what was read, and the event that they end with.
    async fn look(&mut self) -> (Vec<HeldMessage>, u64) {
        let now = self.postrider.clock().now();
        let (mut wanted, mut seen) = (Vec::new(), self.seen);
        while let Some(event) = self.page.pop_front() {
            seen = event.seq;
            if self.desk.webhook.filter.admits(&event) {
                let before = self.before.take();
                let tried = before.as_deref();
                let tried = tried.and_then(|before| attempt_of(before, &event)).cloned();
                let tried = match tried {
                    None => self.last_attempt(&event).await,
                    tried => tried,
                };
                wanted.push(HeldMessage {
                    message: Message::about(&event, tried.as_ref(), &self.journal_name),
                    tries: 0,
                    first: now,
                    due: None,
                });
            }
            // What came of a try is told with the try, and begins no new reading.
            let is_try = matches!(event.kind, EventKind::Attempted { .. });
            self.before = Some(event);
            if wanted.len() >= CHUNK && !is_try {
                break;
            }
        }

        if self.page.is_empty() {
            seen = self.page_end;
        }
        (wanted, seen)
    }

    /// The last try of a delivery that died without one, such as one that expired while it waited.
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

    /// Tells these, and notes what came of it, and that everything up to `seen` is done with.
    async fn tell(&mut self, messages: Vec<HeldMessage>, seen: u64) -> Result<(), Error> {
        let (desk, clock) = (self.desk, self.postrider.clock());
        let call = |held: HeldMessage| async move {
            let at = clock.now();
            let answer = desk.caller.call(&held.message, at).await;
            (held, at, answer)
        };

        let calls = stream::iter(messages).map(call);
        let answers: Vec<_> = calls
            .buffer_unordered(desk.webhook.connections)
            .collect()
            .await;

        let before = self.shelf.standing.clone();
        let mut changes = Vec::new();
        for (held, at, answer) in answers {
            self.judge(held, at, &answer, &mut changes);
        }
        changes.extend(self.shelf.tidy());
        if self.shelf.standing != before {
            changes.push(self.shelf.standing.change());
        }

        if let (None, Some((_, reason))) = (&before.off, &self.shelf.standing.off) {
            tracing::error!(webhook = desk.name(), reason, "a webhook is switched off");
            // Before it is noted: better told twice than not.
            self.postrider.note_webhook_off(desk.name(), reason).await;
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
        let webhook = &self.desk.webhook;
        let now = self.postrider.clock().now();
        let (name, seq) = (self.desk.name(), held.message.seq);
        let standing = &mut self.shelf.standing;
        self.news.last = Some(answered(&held.message, at, answer));
        match answer.is_taken() {
            true => self.news.delivered += 1,
            false => self.news.failed += 1,
        }

        if answer.is_taken() {
            self.postrider.count_notice(name, NoticeResult::Delivered);
            if standing.failures > 0 {
                tracing::info!(webhook = name, "a webhook takes messages again");
            }
            let was_down = standing.failures >= FAILING;
            *standing = EndpointState::default();
            if self.shelf.held.remove(&seq).is_some() {
                changes.push((HeldMessage::key(seq), None));
            }
            // What waited for it to come back waits no longer.
            let waiting = self.shelf.held.values_mut();
            for held in waiting.filter(|held| was_down && held.due.is_some()) {
                held.due = Some(now);
            }
            return;
        }

        let reason = answer.error.clone().unwrap_or_default();
        self.postrider.count_notice(name, NoticeResult::Failed);
        match standing.failures {
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

        standing.failures += 1;
        let since = *standing.failing_since.get_or_insert(at);
        held.tries += 1;

        let step = (held.tries as usize).min(webhook.retry.len()) - 1;
        let delay = webhook.retry[step].max(answer.retry_after.unwrap_or_default());
        held.due = Some(now + delay);
        if answer.is_too_much() {
            standing.rests_until = Some(now + answer.retry_after.unwrap_or(delay));
        }

        if answer.is_gone() {
            standing.off = Some((now, "it answered 410 Gone".to_owned()));
        } else if now.since(since) >= webhook.give_up_after {
            let span = humantime::format_duration(webhook.give_up_after);
            standing.off = Some((now, format!("it has taken nothing for {span}: {reason}")));
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
        self.shelf.held.insert(seq, held);
    }

    /// Does what was ordered meanwhile.
    async fn obey(&mut self) -> Result<(), Error> {
        let orders = Order::given(&self.journal, &self.desk.reader()).await?;
        self.looks_at = Instant::now() + LOOK_FOR_ORDERS;
        if orders.is_empty() {
            return Ok(());
        }

        let now = self.postrider.clock().now();
        let mut changes: Vec<ReaderChange> = orders.iter().map(|order| order.done()).collect();
        let mut back = None;
        for order in orders {
            match order {
                Order::Retry => {
                    for held in self.shelf.held.values_mut() {
                        (held.due, held.first) = (Some(now), now);
                    }
                }
                Order::Back(to) => back = Some(back.unwrap_or(to).min(to)),
                Order::Again(seq) => {
                    let Some(message) = Message::again(&self.journal, seq).await? else {
                        continue;
                    };
                    let held = HeldMessage {
                        message,
                        tries: 0,
                        first: now,
                        due: Some(now),
                    };
                    changes.push(held.change());
                    self.shelf.held.insert(seq, held);
                }
            }
        }

        self.shelf.standing = EndpointState::default();
        changes.push(self.shelf.standing.change());
        // Whoever ordered it looks once it is noted.
        self.show();
        let back = back.filter(|back| *back < self.seen);
        self.seen = back.unwrap_or(self.seen);
        self.note(changes).await?;
        self.desk.obeyed.notify_waiters();

        if back.is_some() {
            self.page.clear();
            self.before = None;
            self.reader = self.journal.reader(&self.desk.reader(), None).await?;
        }
        Ok(())
    }

    /// Notes how far it is, with what changed.
    async fn note(&mut self, changes: Vec<ReaderChange>) -> Result<(), Error> {
        if changes.is_empty() && self.seen == self.reader.done() {
            return Ok(());
        }
        self.noted_at = Instant::now();
        self.reader.advance_with(self.seen, changes).await
    }

    /// Shows others how it is.
    fn show(&mut self) {
        self.postrider
            .show_webhook(self.desk.name(), self.shelf.standing.off.is_some());
        let news = std::mem::take(&mut self.news);
        let mut shown = self.desk.shown.lock();
        shown.take(&self.shelf, self.seen);
        shown.delivered += news.delivered;
        shown.failed += news.failed;
        shown.last = news.last.or(shown.last.take());
    }
}

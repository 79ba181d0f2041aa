//! Alerts: a task that counts events into a digest and reports it by mail, at most as often as its
//! configuration says.
//!
//! *Invariants:* the digest is written in the commit that moves the reader's position, so that each
//! event is counted once; the mail is stored before it is submitted, with an idempotency key of its
//! own, so that it is sent once whatever crashes; no alert reports the mail of alerts.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::Instant;

use super::digest::Digest;
use super::message::attempt_of;
use super::task::{Closing, run_turns};
use super::{EVENTS, Filter, NamedTask};
use crate::delivery::{Event, EventKind, State};
use crate::dispatch::{Dispatcher, Error, JournalReader, Turn};
use crate::mail::{Address, Mail, MailId, Priority, Timestamp, minutes, parse_span};
use crate::spool::ReaderChange;

/// The tag of mail that an alert sends; no alert reports events of such mail.
const TAG: &str = "postrider-alert";

/// An alert is sent when there was no event for [`QUIET_TIME`], or [`LONGEST_GATHERING`] after its
/// first event.
const QUIET_TIME: Duration = Duration::from_secs(2);
const LONGEST_GATHERING: Duration = Duration::from_secs(30);
/// How often it is checked whether the previous alert was delivered to anybody.
const CHECK_INTERVAL: Duration = Duration::from_secs(30);
/// How often the counts are written, at most.
const SAVE_INTERVAL: Duration = Duration::from_secs(5);
/// After how long an alert that was not accepted is submitted again.
const RETRY_AFTER: Duration = Duration::from_secs(10);
/// The key of the reader's record with the digest.
const RECORD_KEY: &[u8] = b"book";
/// The longest name.
const LONGEST_NAME: usize = 150;

/// Reports events by mail, several in one digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alert {
    /// Its name; its position in the journal is kept under it.
    pub name: String,
    /// The recipients.
    pub to: Vec<String>,
    /// The sender of the mail; `postrider@` and this machine's name when absent.
    pub from: Option<String>,
    /// Which events it reports.
    pub filter: Filter,
    /// The most mails per time.
    pub at_most: AtMost,
}

/// A number of mails in a span of time: `1/10m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AtMost {
    /// The number of mails.
    pub count: usize,
    /// The span of time.
    pub span: Duration,
}

impl std::str::FromStr for AtMost {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = "is not a number of mails and a span of time such as 1/10m";
        let (count, span) = text.split_once('/').ok_or(wrong)?;
        let count: usize = count.trim().parse().map_err(|_| wrong)?;
        let span = span.trim();
        let span = match span {
            "s" | "m" | "h" | "d" => parse_span(&format!("1{span}")),
            _ => parse_span(span),
        };

        let span = span.map_err(|_| wrong)?;
        match (1..=1000).contains(&count) && !span.is_zero() {
            true => Ok(AtMost { count, span }),
            false => Err(wrong),
        }
    }
}

impl fmt::Display for AtMost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}/{}",
            self.count,
            humantime::format_duration(self.span)
        )
    }
}

impl Alert {
    /// An alert for dead letters, relays that are down and webhooks that are switched off, at most
    /// once in ten minutes.
    pub fn new(to: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let to: Vec<String> = to.into_iter().map(Into::into).collect();
        Alert {
            name: to.join(","),
            to,
            from: None,
            filter: Filter {
                events: Alert::usual_events(),
                tags: Vec::new(),
            },
            at_most: AtMost {
                count: 1,
                span: minutes(10),
            },
        }
    }

    /// The events of an alert whose configuration names none.
    pub fn usual_events() -> Vec<String> {
        ["dead", "relay_down", "webhook_off"]
            .map(str::to_owned)
            .to_vec()
    }

    /// Why it cannot be used: each mistake with the key of its setting.
    pub fn mistakes(&self) -> Vec<(&'static str, String)> {
        let mut mistakes = Vec::new();
        if self.to.is_empty() {
            mistakes.push(("to", "is missing; name at least one recipient".to_owned()));
        }
        if self.name.is_empty() || self.name.len() > LONGEST_NAME || self.name.contains('\0') {
            let reason = format!("must be 1 to {LONGEST_NAME} bytes");
            mistakes.push(("name", reason));
        }

        for event in &self.filter.events {
            if !EVENTS.contains(&event.as_str()) {
                let (event, known) = (event.escape_debug(), EVENTS.join(", "));
                mistakes.push(("events", format!("`{event}` is not one of {known}")));
            }
        }

        if self.filter.events.is_empty() {
            let reason = "is empty, so that nothing would be reported";
            mistakes.push(("events", reason.to_owned()));
        }

        for (key, addresses) in [("to", &self.to[..]), ("from", self.from.as_slice())] {
            for address in addresses {
                let mail = Mail::builder().from(address).to(address).text("x").build();
                if let Err(error) = mail {
                    mistakes.push((key, error.reason().to_owned()));
                }
            }
        }

        mistakes
    }

    /// Whether it reports an event.
    fn admits(&self, event: &Event) -> bool {
        self.filter.admits(event) && !event.tags.iter().any(|tag| tag == TAG)
    }
}

/// An alert's record in the spool.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct AlertRecord {
    /// The events since the last mail.
    digest: Option<Digest>,
    /// When the last mails were sent.
    sent: Vec<Timestamp>,
    /// The last mail.
    before: Option<MailId>,
    /// If the digest is being sent: the mail's idempotency key, and the time at which it was fixed.
    sending: Option<(String, Timestamp)>,
}

impl AlertRecord {
    fn change(&self) -> ReaderChange {
        (RECORD_KEY.to_vec(), serde_json::to_vec(self).ok())
    }
}

/// The task of an alert.
pub(super) struct AlertTask {
    alert: Alert,
    closing: watch::Sender<bool>,
}

impl AlertTask {
    pub(super) fn new(alert: Alert) -> Result<Self, String> {
        match alert.mistakes().into_iter().next() {
            Some((key, reason)) => Err(format!("{key}: {reason}")),
            None => Ok(AlertTask {
                alert,
                closing: watch::Sender::new(false),
            }),
        }
    }
}

impl NamedTask for AlertTask {
    const READERS: &'static str = "alert:";

    fn name(&self) -> &str {
        &self.alert.name
    }

    fn closing(&self) -> &watch::Sender<bool> {
        &self.closing
    }

    fn run(postrider: Dispatcher, this: Arc<Self>) -> impl Future<Output = ()> + Send {
        run(postrider, this)
    }
}

/// Runs until it is to end, or the spool is closed.
async fn run(postrider: Dispatcher, task: Arc<AlertTask>) {
    let name = task.reader();
    let closing = task.closing.subscribe();

    run_turns(
        postrider.turn(&name),
        &name,
        closing,
        |_| {},
        |turn, closing| {
            let (postrider, task, name) = (postrider.clone(), Arc::clone(&task), name.clone());
            async move {
                let mut work = AlertRun::open(&postrider, &task.alert, &name).await?;
                work.go_on(turn, closing).await
            }
            .boxed()
        },
    )
    .await;
}

struct AlertRun<'a> {
    postrider: &'a Dispatcher,
    alert: &'a Alert,
    name: &'a str,
    reader: JournalReader,
    record: AlertRecord,
    /// The event that was read last.
    before: Option<Arc<Event>>,
    /// Everything up to this event is counted.
    seen: u64,
    /// When the first and the last event of this digest were read.
    gathered: Option<(Timestamp, Timestamp)>,
    /// When it is checked next whether the last mail was delivered to anybody.
    looks_at: Timestamp,
    noted_at: Instant,
    /// When this digest was begun, on the monotonic clock.
    digest_began: Instant,
}

impl<'a> AlertRun<'a> {
    async fn open(
        postrider: &'a Dispatcher,
        alert: &'a Alert,
        name: &'a str,
    ) -> Result<Self, Error> {
        let reader = postrider.journal().reader(name, None).await?;
        let to = [RECORD_KEY, &[0]].concat();
        let kept = reader.kept(RECORD_KEY.to_vec(), to, 1).await?;
        let record = kept.first().map(|(_, bytes)| serde_json::from_slice(bytes));
        let record: AlertRecord = record.and_then(Result::ok).unwrap_or_default();

        let now = postrider.clock().now();
        Ok(AlertRun {
            postrider,
            alert,
            name,
            seen: reader.done(),
            reader,
            gathered: record.digest.as_ref().map(|_| (now, now)),
            record,
            before: None,
            looks_at: now,
            noted_at: Instant::now(),
            digest_began: Instant::now(),
        })
    }

    async fn go_on(&mut self, turn: &mut Turn, closing: &mut Closing) -> Result<(), Error> {
        let clock = self.postrider.clock().clone();
        loop {
            if self.record.sending.is_some() {
                self.send().await?;
                continue;
            }
            if *closing.borrow() || !turn.is_mine() {
                return self.note().await;
            }
            let due = self.due();
            // Events that are in the journal already belong to this digest, however late it is.
            let is_behind = self.seen < self.postrider.journal().last()?
                && self.digest_began.elapsed() < LONGEST_GATHERING;
            if due.is_some_and(|due| due <= clock.now()) && !is_behind {
                self.begin().await?;
                continue;
            }
            let waits = async {
                match due.filter(|_| !is_behind) {
                    Some(due) => clock.sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            let is_unnoted = self.seen > self.reader.done();
            if is_unnoted && self.noted_at.elapsed() >= SAVE_INTERVAL {
                self.note().await?;
            }
            tokio::select! {
                page = self.reader.next() => {
                    let page = page?;
                    for event in page.events {
                        self.count(event);
                    }
                    self.seen = page.last;
                }
                () = waits => {}
                () = tokio::time::sleep(SAVE_INTERVAL), if is_unnoted => {}
                () = turn.changed() => {}
                _ = closing.changed() => {}
            }
        }
    }

    fn count(&mut self, event: Arc<Event>) {
        if self.alert.admits(&event) {
            if self.record.digest.is_none() {
                self.digest_began = Instant::now();
            }
            let now = self.postrider.clock().now();
            let tried = self
                .before
                .as_deref()
                .and_then(|before| attempt_of(before, &event));
            let digest = self
                .record
                .digest
                .get_or_insert_with(|| Digest::new(event.at));
            digest.add(&event, tried);
            self.gathered = Some((self.gathered.map_or(now, |(first, _)| first), now));
        }

        let is_try = matches!(event.kind, EventKind::Attempted { .. });
        self.before = is_try.then_some(event);
    }

    /// When the digest is to be sent.
    fn due(&self) -> Option<Timestamp> {
        let (first, last) = self.gathered?;
        let gathered = (last + QUIET_TIME).min(first + LONGEST_GATHERING);
        let AtMost { count, span } = self.alert.at_most;
        let sent = &self.record.sent;
        let earlier = sent.len().checked_sub(count).map(|at| sent[at] + span);
        Some(gathered.max(self.looks_at).max(earlier.unwrap_or(gathered)))
    }

    /// Fixes the mail to be sent. If the last mail was not delivered to anybody yet, the digest
    /// goes on instead: both are reported together.
    async fn begin(&mut self) -> Result<(), Error> {
        let now = self.postrider.clock().now();
        if let Some(before) = self.record.before
            && self.is_under_way(before).await
        {
            self.looks_at = now + CHECK_INTERVAL;
            return Ok(());
        }
        let journal = self.postrider.journal().name();
        let key = format!("{}:{journal}:{}", self.name, self.seen);
        self.record.sending = Some((key, now));
        self.note().await
    }

    async fn is_under_way(&self, mail: MailId) -> bool {
        let Ok(status) = self.postrider.status(mail).await else {
            return false;
        };
        let mut states = status.deliveries.iter().map(|delivery| delivery.state);
        states.all(|state| state != State::Delivered) && !status.state.is_final()
    }

    /// Submits the digest, and begins a new one.
    async fn send(&mut self) -> Result<(), Error> {
        let (Some((key, at)), Some(digest)) = (self.record.sending.clone(), &self.record.digest)
        else {
            self.record.sending = None;
            return Ok(());
        };

        match self.submit(digest, key).await {
            Ok(mail) => self.record.before = mail,
            Err(error @ Error::Spool(_)) | Err(error @ Error::Stopped(_)) => return Err(error),
            Err(error) => {
                tracing::error!(alert = self.alert.name, %error, "an alert is not accepted now");
                tokio::time::sleep(RETRY_AFTER).await;
                return Err(error);
            }
        }

        self.record.sent.push(at);
        let surplus = self
            .record
            .sent
            .len()
            .saturating_sub(self.alert.at_most.count);

        self.record.sent.drain(..surplus);
        (self.record.sending, self.record.digest, self.gathered) = (None, None, None);
        self.note().await
    }

    async fn submit(&self, digest: &Digest, key: String) -> Result<Option<MailId>, Error> {
        let intake = self.postrider.intake();
        let host = intake.domain.or(intake.host).unwrap_or("localhost");
        let usual = format!("postrider@{host}");
        let usual = match Address::parse(&usual) {
            Ok(_) => usual,
            Err(_) => "postrider@localhost".to_owned(),
        };

        let mut mail = Mail::builder()
            .from(self.alert.from.clone().unwrap_or(usual))
            .subject(digest.subject(host))
            .text(digest.text(host))
            .header("Auto-Submitted", "auto-generated")
            .priority(Priority::Critical)
            .idempotency_key(key)
            .tag(TAG);

        for to in &self.alert.to {
            mail = mail.to(to);
        }
        match self
            .postrider
            .submit(mail.build().map_err(Error::Mail)?)
            .await
        {
            Ok(receipt) => Ok(Some(receipt.id)),
            // It was submitted before a crash, with other content.
            Err(Error::KeyReused(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes the digest together with the reader's position.
    async fn note(&mut self) -> Result<(), Error> {
        self.noted_at = Instant::now();
        let change = self.record.change();
        self.reader.advance_with(self.seen, vec![change]).await
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::mail::{hours, seconds};

    #[test]
    fn how_often_is_read_and_nonsense_is_not() {
        let read = |text: &str| text.parse::<AtMost>().map(|most| (most.count, most.span));
        assert_eq!(read("1/10m"), Ok((1, minutes(10))));
        assert_eq!(read("3/h"), Ok((3, hours(1))));
        assert_eq!(read("20/90s"), Ok((20, seconds(90))));
        for bad in ["", "1", "1/", "0/1h", "1/0s", "x/1h", "-1/1h", "1/soon"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}

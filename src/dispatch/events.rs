//! The events as a stream: new ones, or from any number that is still in the journal. Readers share
//! the latest events in memory; older ones are read page by page.

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::stream::{self, BoxStream};
use futures::{FutureExt, Stream};
use tokio::sync::watch;

use super::Dispatcher;
use super::engine::Engine;
use super::recordings::Recordings;
use crate::delivery::Event;
use crate::mail::MailId;
use crate::spool::{JournalPage, Spool, SpoolError};

/// How many events are read at once, which is the most that a slow reader holds.
const PAGE_EVENTS: usize = 64;
/// How long to wait after the journal could not be read.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// An item of an event stream. Missed events are an item of their own.
#[derive(Clone, Debug, PartialEq)]
#[expect(
    clippy::large_enum_variant,
    reason = "nearly all are events, and readers take them apart at once"
)]
pub enum EventItem {
    /// An event.
    Event(Event),
    /// This many events before the next one are no longer in the journal.
    Lagged(u64),
}

/// A stream of [`EventItem`]s; see [`Dispatcher::events`].
pub struct EventStream(BoxStream<'static, EventItem>);

impl Stream for EventStream {
    type Item = EventItem;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<EventItem>> {
        self.0.as_mut().poll_next(cx)
    }
}

/// A reader that follows the journal. It does not keep the spool open.
struct Follower {
    spool: Weak<dyn Spool>,
    /// Events are published only after log, metrics and status reflect them.
    recordings: Arc<Recordings>,
    last: watch::Receiver<u64>,
    at: u64,
    /// If set, only events of this mail.
    mail: Option<MailId>,
    /// Whether the past events of the mail are still to be read.
    reads_past: bool,
    waiting: VecDeque<PendingItem>,
}

/// An item that the reader has not taken yet; events are shared among all readers.
enum PendingItem {
    Event(Arc<Event>),
    Lagged(u64),
}

impl Follower {
    async fn next(mut self) -> Option<(EventItem, Self)> {
        loop {
            if let Some(waiting) = self.waiting.pop_front() {
                let item = match waiting {
                    PendingItem::Event(event) => EventItem::Event(Event::clone(&event)),
                    PendingItem::Lagged(missed) => EventItem::Lagged(missed),
                };
                self.until_recorded(&item).await;
                return Some((item, self));
            }
            let read = AssertUnwindSafe(self.read()).catch_unwind().await;
            match read.unwrap_or_else(|_| Err(SpoolError::panicked())) {
                Ok(()) if !self.waiting.is_empty() => {}
                Ok(()) => {
                    let at = self.at;
                    self.last.wait_for(|last| *last > at).await.ok()?;
                }
                Err(SpoolError::Closed) => return None,
                Err(error) => {
                    tracing::error!(%error, "the journal cannot be read now");
                    tokio::time::sleep(RETRY_AFTER).await;
                }
            }
        }
    }

    /// Waits until the log and the metrics reflect this event. Does not wait while outcomes cannot
    /// be recorded.
    async fn until_recorded(&self, item: &EventItem) {
        if let EventItem::Event(Event {
            mail: Some(mail), ..
        }) = item
            && let Some(spool) = self.spool.upgrade()
            && spool.failure().is_none()
        {
            drop(spool);
            self.recordings.wait_for(*mail).await;
        }
    }

    async fn read(&mut self) -> Result<(), SpoolError> {
        let spool = self.spool.upgrade().ok_or(SpoolError::Closed)?;
        let journal = spool.journal().ok_or(SpoolError::Closed)?;
        let page = match self.mail.filter(|_| self.reads_past) {
            Some(mail) => journal.of_mail(mail, self.at).await?,
            None => journal.after(self.at, PAGE_EVENTS).await?,
        };
        self.reads_past = false;
        self.take(page);
        Ok(())
    }

    fn take(&mut self, page: JournalPage) {
        self.at = page.last;
        if page.missed > 0 {
            self.waiting.push_back(PendingItem::Lagged(page.missed));
        }
        let events = page.events.into_iter();
        let wanted = events.filter(|event| self.mail.is_none() || event.mail == self.mail);
        self.waiting.extend(wanted.map(PendingItem::Event));
    }
}

fn follow(engine: &Engine, mail: Option<MailId>, after: Option<u64>) -> EventStream {
    let Some(journal) = engine.spool.journal() else {
        return EventStream(Box::pin(stream::pending()));
    };

    let last = journal.last();
    let now = *last.borrow();
    // A number that was never used belongs to another journal: the reader gets everything.
    let at = match after {
        Some(after) if after > now => 0,
        Some(after) => after,
        None => now,
    };

    let follower = Follower {
        spool: Arc::downgrade(&engine.spool),
        recordings: Arc::clone(&engine.recordings),
        last,
        at,
        mail,
        reads_past: mail.is_some() && at < now,
        waiting: VecDeque::new(),
    };

    EventStream(Box::pin(stream::unfold(follower, Follower::next)))
}

impl Dispatcher {
    /// New events, as a stream. A slow reader gets older events from the spool; events that are no
    /// longer in the journal are reported as missed.
    pub fn events(&self) -> EventStream {
        follow(&self.inner.engine, None, None)
    }

    /// The same as [`Dispatcher::events`], starting after the event with this number, as far back
    /// as the journal goes; 0 is before all events. Numbers survive restarts.
    pub fn events_after(&self, seq: u64) -> EventStream {
        follow(&self.inner.engine, None, Some(seq))
    }

    /// The same as [`Dispatcher::events`] or [`Dispatcher::events_after`], for one mail. Past
    /// events are found from its record, however old it is.
    pub fn events_of(&self, mail: MailId, after: Option<u64>) -> EventStream {
        follow(&self.inner.engine, Some(mail), after)
    }
}

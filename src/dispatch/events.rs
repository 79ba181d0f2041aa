//! What happened, as a stream: from now on, or from any number that the journal still has.
//! Followers share what is in memory; what is older is read page by page.

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

/// How many events are asked for at a time: what a reader that is slow holds.
const PAGE_EVENTS: usize = 64;
/// How long a journal that cannot be read is left alone.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// What a reader of events gets. Lag is an item of its own, never silent.
#[derive(Clone, Debug, PartialEq)]
#[expect(
    clippy::large_enum_variant,
    reason = "nearly all are events, and readers take them apart at once"
)]
pub enum EventItem {
    /// Something happened.
    Event(Event),
    /// So many events before the next one are gone: the journal did not keep them that long.
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
    /// Log, metrics and a mail's status tell what happened before an event does.
    recordings: Arc<Recordings>,
    last: watch::Receiver<u64>,
    at: u64,
    /// Only what happens to this mail.
    mail: Option<MailId>,
    /// Whether what is known of the mail is yet to be asked for.
    asks: bool,
    waiting: VecDeque<PendingItem>,
}

/// What a reader has yet to take: events are shared with everybody who follows.
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

    /// Waits until the log and the metrics tell this, too. What cannot be recorded now is not
    /// waited for.
    async fn until_recorded(&self, item: &EventItem) {
        if let EventItem::Event(Event {
            mail: Some(mail), ..
        }) = item
            && let Some(spool) = self.spool.upgrade()
            && spool.failure().is_none()
        {
            drop(spool);
            self.recordings.finished(*mail).await;
        }
    }

    async fn read(&mut self) -> Result<(), SpoolError> {
        let spool = self.spool.upgrade().ok_or(SpoolError::Closed)?;
        let journal = spool.journal().ok_or(SpoolError::Closed)?;
        let page = match self.mail.filter(|_| self.asks) {
            Some(mail) => journal.of_mail(mail, self.at).await?,
            None => journal.after(self.at, PAGE_EVENTS).await?,
        };
        self.asks = false;
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
    // A number that was never given says nothing: what is known is told.
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
        asks: mail.is_some() && at < now,
        waiting: VecDeque::new(),
    };

    EventStream(Box::pin(stream::unfold(follower, Follower::next)))
}

impl Dispatcher {
    /// What happens from now on, as a stream. A reader that is slow reads from the spool what it
    /// missed; only what the journal does not keep any more is gone, and that is told.
    pub fn events(&self) -> EventStream {
        follow(&self.inner.engine, None, None)
    }

    /// As [`Dispatcher::events`], beginning after the event of that number as far as the journal
    /// goes back; 0 is before all of them. Numbers hold over restarts.
    pub fn events_after(&self, seq: u64) -> EventStream {
        follow(&self.inner.engine, None, Some(seq))
    }

    /// As [`Dispatcher::events`] and [`Dispatcher::events_after`], of one mail. What happened to it
    /// is found by its record, however long ago it was.
    pub fn events_of(&self, mail: MailId, after: Option<u64>) -> EventStream {
        follow(&self.inner.engine, Some(mail), after)
    }
}

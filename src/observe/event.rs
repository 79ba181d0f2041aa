//! What happened, as it happens.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::Stream;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;
use tokio_stream::wrappers::BroadcastStream;
use tokio_stream::wrappers::errors::BroadcastStreamRecvError;

use crate::delivery::{Attempt, DeadReason};
use crate::mail::{Address, MailId, Timestamp};

/// How many events a reader may be behind before it misses some, and how many can be asked for
/// again.
const KEPT: usize = 8192;

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct Event {
    /// Counts events of this process from 1, without gaps.
    pub seq: u64,
    /// When.
    pub at: Timestamp,
    /// The mail it is about.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub mail: Option<MailId>,
    /// The recipient it is about.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub recipient: Option<Address>,
    /// The relay it is about.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub relay: Option<String>,
    /// What.
    #[serde(flatten)]
    pub kind: EventKind,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum EventKind {
    /// A mail was made durable.
    Accepted,
    /// A delivery was tried.
    Attempted {
        /// How it went.
        attempt: Attempt,
    },
    /// A delivery will be tried again.
    Deferred {
        /// When.
        next_attempt_at: Timestamp,
    },
    /// A relay took it.
    Delivered,
    /// A delivery failed for good.
    Dead {
        /// Why.
        reason: DeadReason,
    },
    /// A user withdrew it.
    Cancelled,
    /// A relay that was down answered again.
    RelayUp,
    /// A relay does not answer; mail waits or takes the route's next one.
    RelayDown {
        /// What it did last.
        reason: String,
    },
}

impl EventKind {
    /// Its name in JSON and in Server-Sent Events.
    pub fn as_str(&self) -> &'static str {
        match self {
            EventKind::Accepted => "accepted",
            EventKind::Attempted { .. } => "attempted",
            EventKind::Deferred { .. } => "deferred",
            EventKind::Delivered => "delivered",
            EventKind::Dead { .. } => "dead",
            EventKind::Cancelled => "cancelled",
            EventKind::RelayUp => "relay_up",
            EventKind::RelayDown { .. } => "relay_down",
        }
    }
}

/// What a reader of events gets. Lag is an item of its own, never silent.
#[derive(Clone, Debug, PartialEq)]
pub enum EventItem {
    /// Something happened.
    Event(Event),
    /// The reader was too slow, and so many events are gone.
    Lagged(u64),
}

/// Where events come from. Cheap when nobody listens.
#[derive(Clone)]
pub(crate) struct Events {
    history: Arc<Mutex<History>>,
    sender: broadcast::Sender<Event>,
}

#[derive(Default)]
struct History {
    last: u64,
    kept: VecDeque<Event>,
}

impl Events {
    pub(crate) fn new() -> Self {
        Events {
            history: Arc::default(),
            sender: broadcast::channel(KEPT).0,
        }
    }

    /// Tells everybody.
    pub(crate) fn tell(
        &self,
        at: Timestamp,
        mail: Option<MailId>,
        recipient: Option<&Address>,
        relay: Option<&str>,
        kind: EventKind,
    ) {
        let mut history = self.history.lock();
        history.last += 1;
        let event = Event {
            seq: history.last,
            at,
            mail,
            recipient: recipient.cloned(),
            relay: relay.map(str::to_owned),
            kind,
        };
        if history.kept.len() >= KEPT {
            history.kept.pop_front();
        }
        history.kept.push_back(event.clone());
        // Sent under the lock, so that what a reader gets is in order and neither misses nor
        // repeats what it was replayed.
        let _ = self.sender.send(event);
    }

    /// Everything from now on; or, with `after`, everything since the event of that number, as far
    /// as it is still known.
    pub(crate) fn subscribe(&self, after: Option<u64>) -> EventStream {
        let history = self.history.lock();
        let live = BroadcastStream::new(self.sender.subscribe());
        let mut replay = VecDeque::new();
        if let Some(after) = after {
            // A number from another run of the process says nothing about this one: replay all that
            // is known.
            let after = if after > history.last { 0 } else { after };
            let missed = history
                .kept
                .front()
                .map_or(0, |first| (first.seq - 1).saturating_sub(after));
            if missed > 0 {
                replay.push_back(EventItem::Lagged(missed));
            }
            replay.extend(
                history
                    .kept
                    .iter()
                    .filter(|e| e.seq > after)
                    .cloned()
                    .map(EventItem::Event),
            );
        }
        EventStream { replay, live }
    }
}

/// A stream of [`EventItem`]s; see [`Dispatcher::events`](crate::Dispatcher::events).
pub struct EventStream {
    replay: VecDeque<EventItem>,
    live: BroadcastStream<Event>,
}

impl Stream for EventStream {
    type Item = EventItem;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<EventItem>> {
        if let Some(item) = self.replay.pop_front() {
            return Poll::Ready(Some(item));
        }
        Pin::new(&mut self.live).poll_next(cx).map(|item| {
            item.map(|event| match event {
                Ok(event) => EventItem::Event(event),
                Err(BroadcastStreamRecvError::Lagged(n)) => EventItem::Lagged(n),
            })
        })
    }
}

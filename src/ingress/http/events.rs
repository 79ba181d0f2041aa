//! Events as they happen: Server-Sent Events (WHATWG HTML §9.2).
//!
//! The id of an event is `JOURNAL-SEQ`: the name of the spool's journal, and the event's number in
//! it. It stays valid over restarts. A client that returns to another spool is told that it missed
//! events, and does not silently get the wrong ones.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::{RawQuery, State};
use axum::http::HeaderMap;
use axum::http::request::Parts;
use axum::response::sse::{Event as Frame, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::stream::BoxStream;
use futures::{Stream, StreamExt, stream};
use serde::Serialize;
use tokio::time::{Instant, timeout_at};
use utoipa::ToSchema;

use super::SharedDoor;
use super::access::{Caller, access_lost};
use super::params::Params;
use super::problem::{Kind, Problem};
use super::server::stopped;
use crate::mail::{MailId, Submitter, Timestamp, parse_span};
use crate::{EventItem, EventStream};

/// How often a comment is sent on a silent stream.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

const SECOND: Duration = Duration::from_secs(1);

/// How soon a client should reconnect.
const RECONNECT_AFTER: Duration = Duration::from_secs(2);

/// Where a stream begins, by `Last-Event-ID` or `since`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StartPosition {
    /// Not given: from now on.
    Now,
    /// After this event.
    After(u64),
    /// After an event of another journal, which is not known here.
    Elsewhere,
    /// Events from this time on.
    Since(Timestamp),
}

impl StartPosition {
    fn of(headers: &HeaderMap, journal: &str) -> Self {
        let Some(given) = headers.get("last-event-id") else {
            return StartPosition::Now;
        };
        let given = given.to_str().unwrap_or_default().trim();
        if given.is_empty() {
            return StartPosition::Now;
        }
        StartPosition::of_id(given, journal).unwrap_or(StartPosition::Elsewhere)
    }

    /// Parses an event's id, or its number alone.
    fn of_id(given: &str, journal: &str) -> Option<Self> {
        if let Ok(number) = given.parse() {
            return Some(StartPosition::After(number));
        }
        let (of, number) = given.split_once('-')?;
        let number = number.parse().ok()?;
        let is_ours = of == journal;
        is_ours.then_some(StartPosition::After(number))
    }

    /// Parses `since`: an event's id or number, a span until now, or a time.
    fn since(given: &str, journal: &str, now: Timestamp) -> Result<Self, String> {
        if let Some(resume) = StartPosition::of_id(given, journal) {
            return Ok(resume);
        }
        if let Ok(span) = parse_span(given) {
            return Ok(StartPosition::Since(now.before(span)));
        }
        given.parse().map(StartPosition::Since).map_err(|_| {
            "is an event's number or id, a time such as 2026-01-31T12:00:00Z, or a span such as 1h"
                .to_owned()
        })
    }
}

/// Some events are gone.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct MissedEvents {
    /// How many, of all mails. Null if they were in another journal, so that the number is unknown,
    /// and for the scope `send`.
    count: Option<u64>,
}

/// Some events were left out, because there were more than the client has asked for.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct SkippedEvents {
    /// How many.
    count: u64,
}

/// Follows the events: `accepted`, `attempted`, `deferred`, `delivered`, `dead`, `cancelled`,
/// `retried`, `purged`, `relay_up`, `relay_down`; and what users do: `relay_paused`,
/// `relay_resumed`, `reloaded`, `started`, `stopped`, `login_refused`, and `act` for operations on
/// mail. With the scope `send`, the events of one's own mail.
///
/// The data of each event is one `Event` as JSON. A client that sends `Last-Event-ID`, as browsers
/// do by themselves, gets all events since then, also after a restart; an event `missed` counts
/// those that the journal no longer keeps. Comments keep a silent stream alive. The stream ends
/// when its session has ended, or when its token was removed or has another scope.
#[utoipa::path(
    get, path = "/v1/events", tag = "events",
    params(
        ("mail" = Option<MailId>, Query, description = "Only what happens to this mail"),
        ("at_most" = Option<u32>, Query, description = "At most so many events a second; how many \
            more there were is told by an event `skipped`; for who watches, and does not keep \
            account", minimum = 1),
        ("since" = Option<String>, Query, description = "Begin after this event, by its number or \
            id (0 is the oldest that is kept); or with what happened since this time, or within \
            this span until now, such as 1h"),
        ("Last-Event-ID" = Option<String>, Header,
            description = "Go on after this event; it counts before `since`"),
    ),
    responses((
        status = 200, description = "A stream of Server-Sent Events", body = String,
        content_type = "text/event-stream",
    )),
)]
pub(super) async fn events(
    State(door): State<SharedDoor>,
    Extension(visitor): Extension<Caller>,
    RawQuery(query): RawQuery,
    request: Parts,
) -> Result<Response, Problem> {
    let mut params = Params::of(query.as_deref());
    let mail: Option<MailId> = params.parsed("mail");
    let now = door.dispatcher.clock().now();
    let since = params.with("since", |given| {
        StartPosition::since(given, &door.journal, now)
    });

    let at_most: Option<u32> = params.parsed("at_most");
    if at_most == Some(0) {
        params.refuse("/at_most", "is not at least 1");
    }
    params.finish()?;

    let owner = visitor.sees_only();
    if let (Some(owner), Some(mail)) = (&owner, mail) {
        door.own(owner, mail).await?;
    }

    let place = Arc::clone(&door.followers).try_acquire_owned();
    let place = place.map_err(|_| {
        let detail = "as many follow what happens as may; come back later";
        Problem::new(Kind::TooMany, detail)
    })?;

    let resume = match StartPosition::of(&request.headers, &door.journal) {
        StartPosition::Now => since.unwrap_or(StartPosition::Now),
        resume => resume,
    };

    let (missed, after) = match resume {
        StartPosition::Now => (None, door.dispatcher.journal().last()?),
        StartPosition::After(seq) => (None, seq),
        StartPosition::Elsewhere => (Some(missed(None)), 0),
        StartPosition::Since(at) => (None, door.dispatcher.journal().since(at).await?),
    };

    let events = match mail {
        Some(mail) => door.dispatcher.events_of(mail, Some(after)),
        None => door.dispatcher.events_after(after),
    };

    // With the id, a client whose stream breaks before the first event knows where to continue.
    let hello = Frame::default()
        .id(format!("{}-{after}", door.journal))
        .retry(RECONNECT_AFTER)
        .comment("postrider");
    let frames = stream::iter([Some(hello), missed].into_iter().flatten())
        .chain(thinned(
            frames(events, mail, owner, door.journal.clone()),
            at_most,
        ))
        .map(move |frame| {
            // Held until the stream ends.
            let _ = &place;
            Ok::<_, Infallible>(frame)
        })
        .take_until(stopped(door.shutdown.clone()))
        .take_until(access_lost(door, visitor, request));

    Ok(Sse::new(frames)
        .keep_alive(KeepAlive::new().interval(KEEP_ALIVE).text("alive"))
        .into_response())
}

/// The events of one mail, of one submitter's mail, or of all mail; always with those for missed
/// events.
fn frames(
    events: EventStream,
    mail: Option<MailId>,
    owner: Option<Submitter>,
    journal: String,
) -> impl Stream<Item = Frame> {
    events.filter_map(move |item| {
        let frame = match item {
            // How much happens to others' mail is not disclosed.
            EventItem::Lagged(count) => Some(missed(Some(count).filter(|_| owner.is_none()))),
            EventItem::Event(event) if owner.is_some() && event.submitter != owner => None,
            EventItem::Event(event) if mail.is_some() && event.mail != mail => None,
            EventItem::Event(event) => {
                let frame = Frame::default()
                    .id(format!("{journal}-{}", event.seq))
                    .event(event.kind.as_str());
                frame.json_data(&event).ok()
            }
        };
        std::future::ready(frame)
    })
}

/// Passes at most so many frames a second, and at the end of each second the number of frames that
/// were left out.
fn thinned(
    frames: impl Stream<Item = Frame> + Send + 'static,
    at_most: Option<u32>,
) -> BoxStream<'static, Frame> {
    let Some(at_most) = at_most else {
        return frames.boxed();
    };
    let limited = RateLimitedStream {
        frames: frames.boxed(),
        at_most,
        sent: 0,
        skipped: 0,
        until: Instant::now() + SECOND,
    };
    stream::unfold(limited, RateLimitedStream::next).boxed()
}

/// A stream with a limited rate.
struct RateLimitedStream {
    frames: BoxStream<'static, Frame>,
    at_most: u32,
    /// How many frames were passed in this second, and how many were left out.
    sent: u32,
    skipped: u64,
    /// The end of this second.
    until: Instant,
}

impl RateLimitedStream {
    async fn next(mut self) -> Option<(Frame, Self)> {
        loop {
            let more = match self.skipped {
                0 => Ok(self.frames.next().await),
                _ => timeout_at(self.until, self.frames.next()).await,
            };
            if Instant::now() >= self.until {
                self.until = Instant::now() + SECOND;
                self.sent = 0;
            }
            let Ok(frame) = more else {
                let count = std::mem::take(&mut self.skipped);
                let frame = Frame::default().event("skipped");
                let frame = frame.json_data(SkippedEvents { count }).unwrap_or_default();
                return Some((frame, self));
            };
            let frame = frame?;
            if self.sent < self.at_most {
                self.sent += 1;
                return Some((frame, self));
            }
            self.skipped += 1;
        }
    }
}

fn missed(count: Option<u64>) -> Frame {
    let frame = Frame::default().event("missed");
    frame.json_data(MissedEvents { count }).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_id_of_another_journal_is_not_taken_for_one_of_this() {
        let resume = |id: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("last-event-id", id.parse().unwrap());
            StartPosition::of(&headers, "abc")
        };

        assert_eq!(resume("abc-17"), StartPosition::After(17));
        assert_eq!(resume(""), StartPosition::Now);
        assert_eq!(resume("17"), StartPosition::After(17));
        for elsewhere in ["abd-17", "abc-", "abc-x", "abc17", "-17"] {
            assert_eq!(resume(elsewhere), StartPosition::Elsewhere, "{elsewhere}");
        }
        assert_eq!(
            StartPosition::of(&HeaderMap::new(), "abc"),
            StartPosition::Now
        );
    }

    #[test]
    fn since_is_a_number_a_time_or_a_span() {
        let now = Timestamp::from_millis(7_200_000);
        let since = |given: &str| StartPosition::since(given, "abc", now);
        assert_eq!(since("0"), Ok(StartPosition::After(0)));
        assert_eq!(since("abc-9"), Ok(StartPosition::After(9)));
        let hour = Timestamp::from_millis(3_600_000);
        assert_eq!(since("1h"), Ok(StartPosition::Since(hour)));
        assert_eq!(
            since("1970-01-01T01:00:00Z"),
            Ok(StartPosition::Since(hour))
        );
        assert!(since("yesterday").is_err());
    }
}

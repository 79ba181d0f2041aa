//! What happens, as it happens: Server-Sent Events (WHATWG HTML §9.2).
//!
//! An event's id is `RUN-SEQ`: the sequence number that the dispatcher counts, after the name of
//! this run of the service. Numbers begin anew with each run, so a client that comes back after a
//! restart is told that it missed something, and not silently given the wrong events.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::{RawQuery, State};
use axum::http::HeaderMap;
use axum::response::sse::{Event as Frame, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::{Stream, StreamExt, stream};
use serde::Serialize;
use utoipa::ToSchema;

use super::Shared;
use super::params::Params;
use super::problem::Problem;
use super::server::stopped;
use crate::mail::MailId;
use crate::observe::{EventItem, EventStream};

/// How often a silent stream says that it is alive.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// How soon a client should come back when its stream broke.
const COME_BACK: Duration = Duration::from_secs(2);

/// Where a client left off, by its `Last-Event-ID`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Resume {
    /// It did not say: from now on.
    Now,
    /// After this event of this run.
    After(u64),
    /// In another run, of which nothing is known any more.
    Elsewhere,
}

impl Resume {
    fn of(headers: &HeaderMap, run: &str) -> Self {
        let Some(given) = headers.get("last-event-id") else {
            return Resume::Now;
        };
        let given = given.to_str().unwrap_or_default().trim();
        if given.is_empty() {
            return Resume::Now;
        }
        let seq = given
            .strip_prefix(run)
            .and_then(|rest| rest.strip_prefix('-'));
        seq.and_then(|seq| seq.parse().ok())
            .map_or(Resume::Elsewhere, Resume::After)
    }
}

/// Some events are gone.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Missed {
    /// How many, of all mails; null where a restart lies between, so that nobody knows.
    count: Option<u64>,
}

/// Follows what happens: `accepted`, `attempted`, `deferred`, `delivered`, `dead`, `cancelled`,
/// `relay_up`, `relay_down`.
///
/// Each event's data is one `Event` as JSON. A client that sends `Last-Event-ID`, as browsers do by
/// themselves, gets what happened since; what is not known any more is said by an event `missed`.
/// Silence is filled with comments.
#[utoipa::path(
    get, path = "/v1/events", tag = "events",
    params(
        ("mail" = Option<MailId>, Query, description = "Only what happens to this mail"),
        ("Last-Event-ID" = Option<String>, Header, description = "Go on after this event"),
    ),
    responses((
        status = 200, description = "A stream of Server-Sent Events", body = String, content_type = "text/event-stream",
    )),
)]
pub(super) async fn events(
    State(door): State<Shared>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let mut params = Params::of(query.as_deref());
    let mail: Option<MailId> = params.parsed("mail");
    params.finish()?;

    let (missed, events) = match Resume::of(&headers, &door.run) {
        Resume::Now => (None, door.dispatcher.events()),
        Resume::After(seq) => (None, door.dispatcher.events_after(seq)),
        Resume::Elsewhere => (Some(missed(None)), door.dispatcher.events_after(0)),
    };
    let hello = Frame::default().retry(COME_BACK).comment("postrider");
    let frames = stream::iter([Some(hello), missed].into_iter().flatten())
        .chain(frames(events, mail, door.run.clone()))
        .map(Ok::<_, Infallible>)
        .take_until(stopped(door.shutdown.clone()));
    Ok(Sse::new(frames)
        .keep_alive(KeepAlive::new().interval(KEEP_ALIVE).text("alive"))
        .into_response())
}

/// The events of one mail, or all; and always what was missed.
fn frames(events: EventStream, mail: Option<MailId>, run: String) -> impl Stream<Item = Frame> {
    events.filter_map(move |item| {
        let frame = match item {
            EventItem::Lagged(count) => Some(missed(Some(count))),
            EventItem::Event(event) if mail.is_some() && event.mail != mail => None,
            EventItem::Event(event) => {
                let frame = Frame::default()
                    .id(format!("{run}-{}", event.seq))
                    .event(event.kind.as_str());
                frame.json_data(&event).ok()
            }
        };
        std::future::ready(frame)
    })
}

fn missed(count: Option<u64>) -> Frame {
    let frame = Frame::default().event("missed");
    frame.json_data(Missed { count }).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_id_of_another_run_is_not_taken_for_one_of_this() {
        let resume = |id: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("last-event-id", id.parse().unwrap());
            Resume::of(&headers, "abc")
        };
        assert_eq!(resume("abc-17"), Resume::After(17));
        assert_eq!(resume(""), Resume::Now);
        for elsewhere in ["abd-17", "17", "abc-", "abc-x", "abc17", "-17"] {
            assert_eq!(resume(elsewhere), Resume::Elsewhere, "{elsewhere}");
        }
        assert_eq!(Resume::of(&HeaderMap::new(), "abc"), Resume::Now);
    }
}

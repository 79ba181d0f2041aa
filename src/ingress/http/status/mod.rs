//! The status of a mail for an end user: pending, sent, or failed. The token in the mail's receipt
//! gives access to it, from any web page; `status.js` shows it there.
//!
//! *Invariants:* the answer contains no recipient, relay, text or reason; an invalid token and one
//! of a deleted mail get the same answer; pages of other origins can read these answers and no
//! others.

mod token;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::sse::{Event as Frame, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::{StreamExt, stream};
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use tokio::sync::Semaphore;
use utoipa::ToSchema;

use super::SharedDoor;
use super::problem::{Kind, Problem};
use super::records::segment;
use super::server::stopped;
use crate::delivery::State as Stage;
use crate::dispatch::{DeliveryStatus, Dispatcher, Error, EventStream, MailStatus};
use crate::mail::{MailId, Timestamp};

/// The shortest accepted secret, in bytes.
pub const MIN_STATUS_SECRET: usize = 16;

/// The custom element that shows a status in other sites' pages.
const SCRIPT: &str = include_str!("status.js");

/// How often a comment is sent on a silent stream.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// How soon a browser should reconnect.
const RECONNECT_AFTER: Duration = Duration::from_secs(3);

/// The settings of the status URLs.
#[derive(Clone, Debug)]
pub struct StatusSettings {
    /// The secret of the URLs; at least [`MIN_STATUS_SECRET`] characters. After a change, URLs that
    /// were given out are invalid.
    pub secret: SecretString,
    /// The base of the URLs, under which end users reach the listener; its own address when absent.
    pub base_url: Option<String>,
}

/// Creates the URLs of mails for end users, and resolves them.
#[derive(Clone)]
pub struct StatusPages {
    cipher: Arc<token::TokenCipher>,
    base: Arc<str>,
    /// How many more clients may watch a mail.
    watchers: Arc<Semaphore>,
}

impl std::fmt::Debug for StatusPages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("StatusPages").field(&self.base).finish()
    }
}

impl StatusPages {
    /// `None` if the secret cannot be used. `own_url` is the listener's own address; at most
    /// `watchers` clients watch a mail at once.
    pub(super) fn new(settings: &StatusSettings, own_url: &str, watchers: usize) -> Option<Self> {
        let base = settings.base_url.as_deref().unwrap_or(own_url);
        Some(StatusPages {
            cipher: Arc::new(token::TokenCipher::new(settings.secret.expose_secret())?),
            base: base.trim_end_matches('/').into(),
            watchers: Arc::new(Semaphore::new(watchers)),
        })
    }

    /// The URL of a mail's status.
    pub fn url(&self, id: MailId) -> Option<String> {
        let token = self.cipher.token(id)?;
        Some(format!("{}/status/{token}", self.base))
    }
}

/// The progress of a mail, for an end user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Progress {
    /// It is not sent yet.
    Pending,
    /// It was sent to everybody.
    Sent,
    /// It will not be sent, or not to everybody.
    Failed,
}

/// The status of a mail, for an end user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(super) struct PublicStatus {
    /// The progress.
    status: Progress,
    /// When it was accepted.
    created_at: Timestamp,
    /// When it was sent; null before.
    sent_at: Option<Timestamp>,
    /// How often sending was retried, the next scheduled retry included.
    retry_count: u32,
}

impl PublicStatus {
    fn of(mail: &MailStatus) -> Self {
        let deliveries = mail.deliveries.iter();
        let is_pending = deliveries.clone().any(|one| one.finished_at.is_none());
        let all_sent = deliveries.clone().all(|one| one.state == Stage::Delivered);
        let status = match (is_pending, all_sent) {
            (true, _) => Progress::Pending,
            (false, true) => Progress::Sent,
            (false, false) => Progress::Failed,
        };

        PublicStatus {
            status,
            created_at: mail.created_at,
            sent_at: mail.finished_at.filter(|_| status == Progress::Sent),
            retry_count: deliveries.map(retries).max().unwrap_or(0),
        }
    }

    /// The id of this status in a stream; it changes when the status does.
    fn name(&self) -> String {
        let status = match self.status {
            Progress::Pending => "pending",
            Progress::Sent => "sent",
            Progress::Failed => "failed",
        };
        format!("{status}-{}", self.retry_count)
    }

    fn frame(&self) -> Frame {
        let frame = Frame::default().id(self.name());
        frame.json_data(self).unwrap_or_default()
    }
}

/// How often a delivery was retried: all attempts but the first, and the next one if it is
/// scheduled.
fn retries(delivery: &DeliveryStatus) -> u32 {
    let listed = u32::try_from(delivery.attempts.len()).unwrap_or(u32::MAX);
    let tries = listed.max(delivery.attempts_counted);
    match delivery.state {
        Stage::Deferred | Stage::Queued | Stage::Sending | Stage::Scheduled => tries,
        _ => tries.saturating_sub(1),
    }
}

/// The mail that the token in a path names.
pub(super) struct StatusToken(MailId);

impl FromRequestParts<SharedDoor> for StatusToken {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, door: &SharedDoor) -> Result<Self, Problem> {
        // A query that a page adds to avoid caches is ignored.
        let token = segment(parts, door).await.map_err(|_| unknown())?;
        let pages = door.status.as_ref().ok_or_else(unknown)?;
        pages
            .cipher
            .mail(&token)
            .map(StatusToken)
            .ok_or_else(unknown)
    }
}

fn unknown() -> Problem {
    Problem::new(Kind::NotFound, "there is no such status, or not any more")
}

async fn look(dispatcher: &Dispatcher, id: MailId) -> Result<PublicStatus, Problem> {
    match dispatcher.status(id).await {
        Ok(mail) => Ok(PublicStatus::of(&mail)),
        Err(Error::UnknownMail(_)) => Err(unknown()),
        // The reason for a failure is not disclosed.
        Err(_) => Err(Problem::new(
            Kind::Unavailable,
            "the status cannot be read now",
        )),
    }
}

/// The status of a mail, for the end user who waits for it. The token of a receipt's `status_url`
/// gives access; no other is needed. Any web page may ask.
#[utoipa::path(
    get, path = "/status/{token}", tag = "status", operation_id = "public_status",
    params(("token" = String, Path, description = "The token, as `status_url` has it")),
    responses((status = 200, description = "Its progress", body = PublicStatus)),
)]
pub(super) async fn status(
    State(door): State<SharedDoor>,
    StatusToken(id): StatusToken,
) -> Result<Json<PublicStatus>, Problem> {
    Ok(Json(look(&door.dispatcher, id).await?))
}

/// The status as a stream of Server-Sent Events: now, and after each change. It ends when the mail
/// has ended; 204 tells a browser not to reconnect.
#[utoipa::path(
    get, path = "/status/{token}/events", tag = "status", operation_id = "public_status_events",
    params(
        ("token" = String, Path, description = "The token, as `status_url` has it"),
        ("Last-Event-ID" = Option<String>, Header, description = "What was seen last"),
    ),
    responses(
        (status = 200, description = "Each event's data is a `PublicStatus`", body = String,
            content_type = "text/event-stream"),
        (status = 204, description = "Nothing has changed, and nothing will"),
    ),
)]
pub(super) async fn events(
    State(door): State<SharedDoor>,
    StatusToken(id): StatusToken,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let pages = door.status.as_ref().ok_or_else(unknown)?;
    let place = pages.watchers.clone().try_acquire_owned();
    let place = place.map_err(|_| Problem::new(Kind::Unavailable, "too many watch; ask again"))?;

    // Subscribing before reading ensures that no change is missed in between.
    let happened = door.dispatcher.events_of(id, None);
    let now = look(&door.dispatcher, id).await?;

    let seen = headers.get("last-event-id");
    let seen = seen.is_some_and(|seen| seen.as_bytes() == now.name().as_bytes());
    if seen && now.status != Progress::Pending {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }

    let watch = MailWatch {
        happened,
        dispatcher: door.dispatcher.clone(),
        id,
        sent: None,
        next: Some(now),
    };

    let hello = Frame::default().retry(RECONNECT_AFTER).comment("postrider");
    let changes = stream::unfold(watch, MailWatch::next).map(|status| status.frame());
    let frames = stream::iter([hello])
        .chain(changes)
        .map(move |frame| {
            let _held_until_the_stream_ends = &place;
            Ok::<_, Infallible>(frame)
        })
        .take_until(stopped(door.shutdown.clone()));

    Ok(Sse::new(frames)
        .keep_alive(KeepAlive::new().interval(KEEP_ALIVE).text("alive"))
        .into_response())
}

/// A client that watches the status of one mail.
struct MailWatch {
    happened: EventStream,
    dispatcher: Dispatcher,
    id: MailId,
    /// The status that was sent last.
    sent: Option<PublicStatus>,
    /// The status to send next.
    next: Option<PublicStatus>,
}

impl MailWatch {
    /// Waits for the next change of the status. Ends when all deliveries have ended, or when the
    /// status cannot be read.
    async fn next(mut self) -> Option<(PublicStatus, Self)> {
        let status = loop {
            if let Some(status) = self.next.take() {
                break status;
            }
            if self
                .sent
                .is_some_and(|sent| sent.status != Progress::Pending)
            {
                return None;
            }
            self.happened.next().await?;
            let status = look(&self.dispatcher, self.id).await.ok()?;
            self.next = Some(status).filter(|status| self.sent != Some(*status));
        };

        self.sent = Some(status);
        Some((status, self))
    }
}

/// The custom element that shows a status in a page: `<postrider-status src="…">`.
#[utoipa::path(
    get, path = "/status.js", tag = "status", operation_id = "public_status_script",
    responses(
        (status = 200, description = "A module of JavaScript", body = String,
            content_type = "text/javascript"),
        (status = 404, description = "`[status]` is off"),
    ),
)]
pub(super) async fn script(State(door): State<SharedDoor>) -> Result<Response, Problem> {
    door.status.as_ref().ok_or_else(unknown)?;
    let headers = [
        (header::CONTENT_TYPE, "text/javascript; charset=utf-8"),
        (header::CACHE_CONTROL, "public, max-age=300"),
    ];
    Ok((headers, SCRIPT).into_response())
}

/// Whether every web page may read the answers of this path.
pub(super) fn is_for_end_users(path: &str) -> bool {
    path == "/status.js" || path.starts_with("/status/")
}

/// Adds the CORS header fields for pages of every origin, and answers preflight requests.
pub(super) async fn for_every_page(request: Request, next: Next) -> Response {
    let mut response = match *request.method() {
        Method::OPTIONS => StatusCode::NO_CONTENT.into_response(),
        _ => next.run(request).await,
    };

    for (name, value) in [
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
        (header::ACCESS_CONTROL_ALLOW_METHODS, "GET"),
        (
            header::ACCESS_CONTROL_ALLOW_HEADERS,
            "cache-control, last-event-id",
        ),
        (header::REFERRER_POLICY, "no-referrer"),
        (
            HeaderName::from_static("cross-origin-resource-policy"),
            "cross-origin",
        ),
    ] {
        let value = HeaderValue::from_static(value);
        response.headers_mut().insert(name, value);
    }

    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_script_stays_small() {
        assert!(SCRIPT.len() < 3000, "{} bytes", SCRIPT.len());
    }
}

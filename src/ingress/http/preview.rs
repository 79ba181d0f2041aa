//! A mail in the form that a browser shows: parsed, its HTML alone, and one of its parts.
//!
//! *Invariants:* no content of a mail can run a script, load anything or affect the page: its HTML
//! is cleaned and has a URL of its own with a policy that permits nothing, and parts are
//! attachments whatever their type; the service fetches nothing for a preview.

pub(super) mod html;

use axum::Json;
use axum::extract::{FromRequestParts, Path, RawQuery, State};
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use tokio::sync::OwnedSemaphorePermit;
use utoipa::ToSchema;

use super::SharedDoor;
use super::params::Params;
use super::problem::{Kind, Problem};
use super::records::PathId;
use crate::mail::{Address, MailId, Part, Reading};

/// The policy for a mail's HTML: it may show images that are in the mail.
const POLICY: &str = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; \
     form-action 'none'; base-uri 'none'; frame-ancestors 'self'";

/// The policy if the user wants to see images from elsewhere.
const POLICY_WITH_IMAGES: &str = "sandbox; default-src 'none'; style-src 'unsafe-inline'; \
     img-src data: https: http:; form-action 'none'; base-uri 'none'; frame-ancestors 'self'";

/// Media types that a part keeps; others are sent as bytes. A browser runs none of these.
const SAFE_TYPES: [&str; 7] = [
    "application/pdf",
    "image/gif",
    "image/jpeg",
    "image/png",
    "image/webp",
    "message/rfc822",
    "text/plain",
];

/// Characters that are not `attr-char` (RFC 8187 §3.2.1).
const ESCAPED_CHARACTERS: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_');

/// A mail, parsed.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Preview {
    /// The mail.
    pub id: MailId,
    /// The recipients, by the envelope.
    pub recipients: Vec<Address>,
    #[serde(flatten)]
    pub reading: Reading,
}

/// A part of a mail, by its number.
pub(super) struct PartPath {
    mail: MailId,
    n: usize,
}

impl FromRequestParts<SharedDoor> for PartPath {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, door: &SharedDoor) -> Result<Self, Problem> {
        Params::of(parts.uri.query()).finish()?;
        let named = Path::<(String, String)>::from_request_parts(parts, door).await;
        let Path((id, n)) =
            named.map_err(|_| Problem::new(Kind::NotFound, "the path is not UTF-8"))?;
        let mail = id.parse().map_err(|error: crate::mail::MailIdError| {
            Problem::new(Kind::NotFound, error.to_string())
        })?;
        let n = n.parse().map_err(|_| no_part())?;
        Ok(PartPath { mail, n })
    }
}

fn no_part() -> Problem {
    Problem::new(Kind::NotFound, "the mail has no such part")
}

fn unread() -> Problem {
    Problem::new(Kind::Internal, "the message could not be read")
}

impl super::Door {
    /// Parses a mail's message, on a blocking thread if it is large.
    pub(super) async fn parsed_message<T: Send + 'static>(
        &self,
        id: MailId,
        take: impl FnOnce(&[u8]) -> T + Send + 'static,
    ) -> Result<T, Problem> {
        let (message, reader) = self.message(id).await?;
        let taking = tokio::task::spawn_blocking(move || {
            let taken = take(&message);
            drop((message, reader));
            taken
        });
        taking.await.map_err(|_| unread())
    }

    /// A mail's message, and a permit for parsing it: while it is parsed, a message takes several
    /// times its size.
    pub(super) async fn message(
        &self,
        id: MailId,
    ) -> Result<(Bytes, OwnedSemaphorePermit), Problem> {
        let reader = self.readers.clone().acquire_owned().await;
        let reader = reader.map_err(|_| unread())?;
        Ok((self.dispatcher.raw(id).await?, reader))
    }
}

/// A mail, parsed: its header, text and parts, and the codes and links in it. With the scope
/// `send`, of one's own mail.
#[utoipa::path(
    get, path = "/v1/mails/{id}/preview", tag = "mails",
    params(("id" = MailId, Path, description = "The mail")),
    responses(
        (status = 200, description = "The mail's text, headers and parts", body = Preview),
        (
            status = 410, description = "The mail was delivered, and its message is not kept any \
                more",
            body = Problem, content_type = "application/problem+json",
        ),
    ),
)]
pub(super) async fn preview(
    State(door): State<SharedDoor>,
    PathId(id): PathId,
) -> Result<Json<Preview>, Problem> {
    let status = door.dispatcher.status(id).await?;
    let reading = door.parsed_message(id, Reading::of).await?;
    let recipients = status.deliveries.into_iter();
    Ok(Json(Preview {
        id,
        recipients: recipients
            .map(|delivery| delivery.recipient)
            .take(1000)
            .collect(),
        reading,
    }))
}

/// A mail's HTML, to be shown in a frame: cleaned, with the images of the mail, and with a policy
/// that permits no scripts and no loading. With the scope `send`, of one's own mail.
#[utoipa::path(
    get, path = "/v1/mails/{id}/html", tag = "mails",
    params(
        ("id" = MailId, Path, description = "The mail"),
        ("images" = Option<html::Images>, Query, description = "`remote`: the browser that shows \
            it may load images from elsewhere; `none` when absent"),
        ("theme" = Option<html::Theme>, Query, description = "The colours; `light` when absent"),
    ),
    responses(
        (status = 200, description = "The HTML", body = String, content_type = "text/html"),
        (
            status = 410, description = "The mail was delivered, and its message is not kept any \
                more",
            body = Problem, content_type = "application/problem+json",
        ),
    ),
)]
pub(super) async fn html(
    State(door): State<SharedDoor>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let mut params = Params::of(query.as_deref());
    let images = params.parsed("images").unwrap_or_default();
    let theme = params.parsed("theme").unwrap_or_default();
    params.finish()?;

    let id = id.parse().map_err(|error: crate::mail::MailIdError| {
        Problem::new(Kind::NotFound, error.to_string())
    })?;
    let taken = door.parsed_message(id, move |message| {
        let (html, shown) = Reading::html(message)?;
        Some(html::cleaned(&html, &shown, images, theme))
    });

    let html = taken.await?;
    let html = html.ok_or_else(|| Problem::new(Kind::NotFound, "the mail has no HTML"))?;
    let policy = match images {
        html::Images::None => POLICY,
        html::Images::Remote => POLICY_WITH_IMAGES,
    };

    let mut response = html.into_response();
    restrict(&mut response, "text/html; charset=utf-8", policy);
    Ok(response)
}

/// One part of a mail, decoded, as an attachment. With the scope `send`, of one's own mail.
#[utoipa::path(
    get, path = "/v1/mails/{id}/parts/{n}", tag = "mails",
    params(
        ("id" = MailId, Path, description = "The mail"),
        ("n" = u32, Path, description = "The part's number, as the preview has it"),
    ),
    responses(
        (
            status = 200, description = "The part", body = String,
            content_type = "application/octet-stream"
        ),
        (
            status = 410, description = "The mail was delivered, and its message is not kept any \
                more",
            body = Problem, content_type = "application/problem+json",
        ),
    ),
)]
pub(super) async fn part(
    State(door): State<SharedDoor>,
    PartPath { mail, n }: PartPath,
) -> Result<Response, Problem> {
    let taken = door.parsed_message(mail, move |message| Reading::part(message, n));
    let Part { info, content } = taken.await?.ok_or_else(no_part)?;
    let kind = SAFE_TYPES.iter().find(|kind| **kind == info.content_type);

    let mut response = content.into_response();
    restrict(
        &mut response,
        kind.unwrap_or(&"application/octet-stream"),
        "default-src 'none'; sandbox",
    );

    let name = info.filename.filter(|name| !name.is_empty());
    let name = name.unwrap_or_else(|| format!("{mail}-{n}"));
    let plain: String = name
        .chars()
        .map(|c| match c {
            c if c.is_ascii_alphanumeric() || ".-_ ".contains(c) => c,
            _ => '_',
        })
        .collect();

    let encoded = utf8_percent_encode(&name, ESCAPED_CHARACTERS);
    let disposition = format!("attachment; filename=\"{plain}\"; filename*=UTF-8''{encoded}");
    if let Ok(disposition) = HeaderValue::from_str(&disposition) {
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_DISPOSITION, disposition);
    }

    Ok(response)
}

/// Adds the header fields that restrict what a browser does with a stranger's content.
fn restrict(response: &mut Response, kind: &'static str, policy: &'static str) {
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, policy),
        (header::REFERRER_POLICY, "no-referrer"),
        (
            HeaderName::from_static("cross-origin-resource-policy"),
            "same-origin",
        ),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
}

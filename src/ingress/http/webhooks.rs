//! The webhooks: their status, test messages, and messages that are sent again.

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::access::Caller;
use super::params::Params;
use super::problem::{Kind, Problem};
use super::records::segment;
use super::series::time;
use super::suppressions::read;
use super::{Door, SharedDoor};
use crate::mail::Timestamp;
use crate::{NoticeError, Notices, Redeliver, Tested, WebhookStatus};

/// The largest request to send messages again, in bytes.
const MAX_REQUEST: usize = 4096;

/// All webhooks.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct WebhookList {
    /// Each webhook, now, in the order of the configuration.
    webhooks: Vec<WebhookStatus>,
}

/// Which messages a webhook should receive again; all that failed, if nothing is given.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object with since or id")]
pub(super) struct RedeliverRequest {
    /// All events since this time, or within this span until now, such as `2h`.
    #[schema(example = "2h")]
    since: Option<String>,
    /// The message of this id.
    #[schema(example = "msg_0a1b2c3d_4711")]
    id: Option<String>,
}

impl From<NoticeError> for Problem {
    fn from(error: NoticeError) -> Self {
        let detail = error.to_string();
        match error {
            NoticeError::UnknownWebhook(_) | NoticeError::UnknownMessage(_) => {
                Problem::new(Kind::NotFound, detail)
            }
            NoticeError::Dispatcher(error) => error.into(),
        }
    }
}

impl Door {
    async fn webhook(&self, name: &str) -> Result<&Notices, Problem> {
        let unknown = || NoticeError::UnknownWebhook(name.to_owned());
        self.notices.webhook(name).await.ok_or_else(unknown)?;
        Ok(&self.notices)
    }
}

/// The webhooks, with the number of events that wait for each and its last answer.
#[utoipa::path(
    get, path = "/v1/webhooks", tag = "events",
    responses((status = 200, description = "Each webhook", body = WebhookList)),
)]
pub(super) async fn list(State(door): State<SharedDoor>) -> Json<WebhookList> {
    Json(WebhookList {
        webhooks: door.notices.webhooks().await,
    })
}

/// Sends a test message to a webhook, even if it is switched off, and returns the answer.
#[utoipa::path(
    post, path = "/v1/webhooks/{name}/test", tag = "events",
    params(("name" = String, Path, description = "The webhook")),
    responses((status = 200, description = "What it answered", body = Tested)),
)]
pub(super) async fn test(
    State(door): State<SharedDoor>,
    Extension(visitor): Extension<Caller>,
    request: Request,
) -> Result<Json<Tested>, Problem> {
    let (mut parts, _) = request.into_parts();
    Params::of(parts.uri.query()).finish()?;
    let name = segment(&mut parts, &door).await?;
    let notices = door.webhook(&name).await?;
    let acting = visitor.acts_on(&door.dispatcher);
    acting.note_webhook_act("webhook_test", &name).await;
    let unknown = || NoticeError::UnknownWebhook(name.clone());
    Ok(Json(notices.test(&name).await.ok_or_else(unknown)?))
}

/// Sends messages to a webhook again, and switches it on if it is off: all that failed, or with
/// `since` all events since then, or with `id` that message.
#[utoipa::path(
    post, path = "/v1/webhooks/{name}/redeliver", tag = "events",
    params(
        ("name" = String, Path, description = "The webhook"),
        ("since" = Option<String>, Query, description = "Everything that happened since this time, \
            or within this span until now, such as 2h; may stand in the body instead"),
        ("id" = Option<String>, Query,
            description = "The message of this id; may stand in the body instead"),
    ),
    request_body(content = inline(Option<RedeliverRequest>), content_type = "application/json"),
    responses((status = 202, description = "The webhook", body = WebhookStatus)),
)]
pub(super) async fn redeliver(
    State(door): State<SharedDoor>,
    Extension(visitor): Extension<Caller>,
    request: Request,
) -> Result<(StatusCode, Json<WebhookStatus>), Problem> {
    let (mut parts, body) = request.into_parts();
    let name = segment(&mut parts, &door).await?;
    let held = door.collect_json(body, MAX_REQUEST).await?;
    let asked: RedeliverRequest = match held.bytes.trim_ascii() {
        b"" => RedeliverRequest::default(),
        json => read(json)?,
    };

    let now = door.dispatcher.clock().now();
    let mut params = Params::of(parts.uri.query());
    let since = params.with("since", |given| time(given, now));
    let id = params.one("id");

    params.finish()?;
    let since = match asked.since {
        Some(given) => {
            Some(time(&given, now).map_err(|detail| Problem::invalid_field("/since", detail))?)
        }
        None => since,
    };

    if since.is_some_and(|since| since > now) {
        return Err(Problem::invalid_field(
            "/since",
            "is a time that is still to come",
        ));
    }

    let notices = door.webhook(&name).await?;
    let what = wanted(since, asked.id.or(id))?;
    let acting = visitor.acts_on(&door.dispatcher);
    acting.note_webhook_act("redeliver", &name).await;

    let status = notices.redeliver(&name, what).await?;
    Ok((StatusCode::ACCEPTED, Json(status)))
}

fn wanted(since: Option<Timestamp>, id: Option<String>) -> Result<Redeliver, Problem> {
    match (since, id) {
        (None, None) => Ok(Redeliver::Failed),
        (Some(since), None) => Ok(Redeliver::Since(since)),
        (None, Some(id)) => Ok(Redeliver::Message(id)),
        (Some(_), Some(_)) => Err(Problem::invalid_field(
            "/id",
            "give either `since` or `id`, not both",
        )),
    }
}

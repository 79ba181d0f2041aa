//! Accepts mail: one, as JSON or as a finished message, or a batch. It answers only after the
//! dispatcher has made the mail durable.

use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::access::Caller;
use super::body::{HeldBody, MediaType, ReservedMemory};
use super::fields::BoundedList;
use super::outline::{self, RequestKind};
use super::params::{self, MessageOptions, Params};
use super::problem::{FieldError, Kind, Problem, malformed, misshapen};
use super::reading::MAX_EXPLAINED;
use super::request::{ComposeContext, MailRequest, TemplateRequest};
use super::{Door, SharedDoor};
use crate::Templates;
use crate::delivery::MailState;
use crate::dispatch::{Dispatcher, Receipt};
use crate::mail::{Address, Mail, MailId, Timestamp, When};
use crate::spool::Durability;

/// The most mails in one batch.
const MAX_BATCH: usize = 500;

/// The most bytes that templates may render for one batch.
const MAX_MADE: usize = 64 * 1024 * 1024;

/// Bodies above this size are parsed on a blocking thread, because composing them would delay other
/// requests.
const LARGE_BODY: usize = 256 * 1024;

/// The room in the largest JSON for everything besides the message.
const JSON_MARGIN: usize = 1024 * 1024;

/// The largest accepted JSON of a mail: the largest message in base64, and some more.
pub(super) fn max_json(dispatcher: &Dispatcher) -> usize {
    dispatcher.max_message_size() / 3 * 4 + JSON_MARGIN
}

/// A mail was accepted.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Accepted {
    /// The mail's id; that of the earlier mail if the idempotency key was used before.
    id: MailId,
    /// Its state; absent if an earlier mail is not kept any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    state: Option<MailState>,
    /// Whether the idempotency key was used before, so that nothing new was accepted.
    duplicate: bool,
    /// The durability that is promised.
    durability: Durability,
    /// The suppressed recipients; their deliveries are dead as `suppressed`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    suppressed: Vec<Address>,
    /// A URL where an end user can see the status of the mail, without a token; absent without
    /// `[status]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    status_url: Option<String>,
}

/// Many mails at once.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = BatchRequest)]
pub(super) struct BatchDocument {
    /// The mails, each as `POST /v1/mails` takes it; at most 500.
    #[schema(max_items = 500)]
    #[expect(dead_code, reason = "only describes what `Batch` reads")]
    mails: Vec<MailRequest>,
    /// A template for all mails that have neither text nor HTML; each may add data of its own.
    #[expect(dead_code, reason = "only describes what `Batch` reads")]
    template: Option<TemplateRequest>,
}

/// A batch whose mails are not parsed yet, so that a mistake in one does not affect the others.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a batch as an object")]
struct BatchRequest<'a> {
    #[serde(borrow)]
    mails: BoundedList<&'a RawValue, MAX_BATCH>,
    template: Option<TemplateRequest>,
}

/// The results of a batch.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct BatchResult {
    /// One for each mail, in order.
    results: Vec<BatchItem>,
}

/// The result of one mail of a batch.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub(super) enum BatchItem {
    /// It was accepted.
    Accepted(Accepted),
    /// It was refused.
    Refused(Problem),
}

/// Submits a mail.
///
/// The answer is sent only after the mail is durable. The mail is JSON, or a finished message with
/// `Content-Type: message/rfc822`, whose envelope and options are then in the query.
#[utoipa::path(
    post, path = "/v1/mails", tag = "mails",
    params(
        ("Idempotency-Key" = Option<String>, Header,
            description = "Two mails with one key are one mail"),
        MessageOptions,
    ),
    request_body(content(
        (MailRequest = "application/json", example = json!({
            "from": "Shop <shop@example.com>", "to": "ada@example.org", "subject": "Your code",
            "text": "123456",
            "priority": "critical", "expires_in": "5m",
        })),
        (String = "message/rfc822"),
    )),
    responses((
        status = 202, description = "Accepted", body = Accepted,
        headers(("Location" = String, description = "The mail's record; absent where none is \
            kept")),
    )),
)]
pub(super) async fn submit(
    State(door): State<SharedDoor>,
    Extension(visitor): Extension<Caller>,
    request: Request,
) -> Result<Response, Problem> {
    let dispatcher = door.dispatcher.on_behalf_of(visitor.submitter());
    let (parts, body) = request.into_parts();
    let key = idempotency_key(&parts.headers)?;
    let (mail, room) = match MediaType::of(&parts.headers)? {
        MediaType::Json => {
            Params::of(parts.uri.query()).finish()?;
            let held = door.collect_json(body, door.max_json()).await?;
            let has_template = has_template(&held.bytes);
            let templates = dispatcher.templates().clone();
            let read = move |json: &Bytes| {
                let context = ComposeContext {
                    templates: &templates,
                    shared: None,
                };
                MailRequest::read(json, key.as_deref(), context)
            };
            door.off_task(held, has_template, read).await?
        }
        MediaType::Message => {
            let held = door
                .collect(body, door.dispatcher.max_message_size())
                .await?;
            let uri = parts.uri;
            let reader = dispatcher.clone();
            let read = move |message: &Bytes| {
                params::message(
                    uri.query(),
                    key.as_deref(),
                    message.clone(),
                    reader.intake(),
                )
            };
            door.off_task(held, false, read).await?
        }
    };

    let state = first_state(&mail);
    let submitted = run_to_end(room, async move { dispatcher.submit(mail).await });
    let receipt = submitted.await??;
    let accepted = door.accepted(receipt, state).await;
    let location = format!("/v1/mails/{}", accepted.id);
    let is_kept = accepted.durability != Durability::Direct;

    let mut response = (StatusCode::ACCEPTED, Json(accepted)).into_response();
    if is_kept && let Ok(location) = location.parse() {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

/// Submits up to 500 mails at once.
///
/// All valid mails are made durable together. Each has its own result, in order: the answer of
/// `POST /v1/mails`, or a problem. Each mail has its own `idempotency_key`.
#[utoipa::path(
    post, path = "/v1/mails/batch", tag = "mails",
    request_body(content = BatchDocument, content_type = "application/json"),
    responses((status = 202, description = "What became of each", body = BatchResult)),
)]
pub(super) async fn submit_batch(
    State(door): State<SharedDoor>,
    Extension(visitor): Extension<Caller>,
    request: Request,
) -> Result<Response, Problem> {
    let dispatcher = door.dispatcher.on_behalf_of(visitor.submitter());
    let (parts, body) = request.into_parts();
    Params::of(parts.uri.query()).finish()?;
    if parts.headers.contains_key("idempotency-key") {
        let detail = "is one key for many mails; give each mail its own `idempotency_key`";
        return Err(Problem::invalid_field("/idempotency_key", detail));
    }

    if MediaType::of(&parts.headers)? != MediaType::Json {
        return Err(Problem::new(
            Kind::MediaType,
            "a batch is taken as application/json only",
        ));
    }

    let results = door.take_batch(dispatcher, body).await?;
    Ok((StatusCode::ACCEPTED, Json(BatchResult { results })).into_response())
}

impl Door {
    /// Parses a body here, or on a blocking thread if it is large. Also returns the memory that the
    /// body has reserved.
    pub(super) async fn off_task<T, F>(
        &self,
        held: HeldBody,
        is_heavy: bool,
        read: F,
    ) -> Result<(T, ReservedMemory), Problem>
    where
        T: Send + 'static,
        F: FnOnce(&Bytes) -> Result<T, Problem> + Send + 'static,
    {
        if !is_heavy && held.bytes.len() <= LARGE_BODY {
            return Ok((read(&held.bytes)?, held.room));
        }

        let closed = |_| Problem::new(Kind::Internal, "the request could not be read");
        let reader = self.readers.clone().acquire_owned().await.map_err(closed)?;
        // The thread continues if the client has disconnected, so it keeps the memory reserved.
        let reading = tokio::task::spawn_blocking(move || {
            let done = read(&held.bytes);
            drop((held.bytes, reader));
            done.map(|done| (done, held.room))
        });

        reading.await.unwrap_or_else(|_| {
            Err(Problem::new(
                Kind::Internal,
                "the request could not be read",
            ))
        })
    }

    fn max_json(&self) -> usize {
        max_json(&self.dispatcher)
    }

    async fn take_batch(
        &self,
        dispatcher: Dispatcher,
        body: Body,
    ) -> Result<Vec<BatchItem>, Problem> {
        let held = self.collect_json(body, self.max_json()).await?;
        let templates = dispatcher.templates().clone();
        let read = move |json: &Bytes| read_batch(json, &templates);
        let has_template = has_template(&held.bytes);
        let (read, room) = self.off_task(held, has_template, read).await?;

        let mut mails = Vec::with_capacity(read.len());
        let mut places = Vec::with_capacity(read.len());
        for mail in read {
            places.push(mail.map(|mail| {
                let state = first_state(&mail);
                mails.push(mail);
                state
            }));
        }

        let submitted = run_to_end(room, async move { dispatcher.submit_many(mails).await });
        let mut receipts = submitted.await?.into_iter();
        let mut results = Vec::with_capacity(places.len());
        for (place, state) in places.into_iter().enumerate() {
            let base = format!("/mails/{place}");
            results.push(match state {
                Err(problem) => BatchItem::Refused(problem.below(&base)),
                Ok(state) => match receipts.next() {
                    Some(Ok(receipt)) => BatchItem::Accepted(self.accepted(receipt, state).await),
                    Some(Err(error)) => BatchItem::Refused(Problem::from(error).below(&base)),
                    None => BatchItem::Refused(Problem::new(
                        Kind::Internal,
                        "no answer came for this mail",
                    )),
                },
            });
        }

        Ok(results)
    }

    /// The answer for a receipt; `state` is that of a new mail.
    async fn accepted(&self, receipt: Receipt, state: MailState) -> Accepted {
        let state = match receipt {
            Receipt {
                durability: Durability::Direct,
                ..
            } => Some(MailState::Delivered),
            Receipt {
                duplicate: false,
                ref suppressed,
                ..
            } if suppressed.is_empty() => Some(state),
            Receipt { id, .. } => self
                .dispatcher
                .status(id)
                .await
                .ok()
                .map(|status| status.state),
        };

        let pages = self.status.as_ref();
        let is_kept = receipt.durability != Durability::Direct;
        Accepted {
            status_url: pages
                .filter(|_| is_kept)
                .and_then(|pages| pages.url(receipt.id)),
            id: receipt.id,
            state,
            duplicate: receipt.duplicate,
            durability: receipt.durability,
            suppressed: receipt.suppressed,
        }
    }
}

/// The state of a new mail.
fn first_state(mail: &Mail) -> MailState {
    let waits = match mail.options().send {
        None => false,
        Some(When::In(span)) => span > Duration::ZERO,
        Some(When::At(at)) => at > Timestamp::now(),
    };
    if waits {
        MailState::Scheduled
    } else {
        MailState::Queued
    }
}

fn read_batch(json: &[u8], templates: &Templates) -> Result<Vec<Result<Mail, Problem>>, Problem> {
    if json.len() > outline::SMALL_REQUEST {
        outline::count(json, RequestKind::Batch)?;
    }
    let batch: BatchRequest<'_> = match serde_json::from_slice(json) {
        Ok(batch) => batch,
        Err(error) if !error.is_data() => return Err(malformed(&error)),
        Err(error) => {
            let mut json = serde_json::Deserializer::from_slice(json);
            return Err(Problem::invalid(vec![
                match serde_path_to_error::deserialize::<_, BatchRequest<'_>>(&mut json) {
                    Err(error) => misshapen(error),
                    Ok(_) => FieldError {
                        pointer: String::new(),
                        detail: error.to_string(),
                    },
                },
            ]));
        }
    };

    let mut time_limit = MAX_EXPLAINED;
    let context = ComposeContext {
        templates,
        shared: batch.template.as_ref(),
    };

    let mut made = 0;
    let mails = batch.mails.0.into_iter();
    let read = |mail: &RawValue| {
        // Templates may render much for a small batch.
        if made > MAX_MADE {
            let detail =
                "the mails before it became too large together: submit it with fewer others";
            return Err(Problem::new(Kind::TooLarge, detail));
        }
        let mail = MailRequest::read_within(mail.get().as_bytes(), None, context, &mut time_limit)?;
        if mail.template().is_some() {
            made += mail.message().len();
        }
        Ok(mail)
    };

    Ok(mails.map(read).collect())
}

/// Whether a request may name a template, which is more work than its size suggests.
fn has_template(json: &[u8]) -> bool {
    memchr::memmem::find(json, b"\"template\"").is_some()
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(key) = headers.get("idempotency-key") else {
        return Ok(None);
    };
    match std::str::from_utf8(key.as_bytes()) {
        Ok(key) => Ok(Some(key.to_owned())),
        Err(_) => Err(Problem::invalid_field(
            "/idempotency_key",
            "the header Idempotency-Key is not UTF-8",
        )),
    }
}

/// Finishes `work` even if the client has disconnected or timed out, and keeps the memory reserved
/// until then.
async fn run_to_end<T, F>(room: ReservedMemory, work: F) -> Result<T, Problem>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let done = tokio::spawn(async move {
        let done = work.await;
        drop(room);
        done
    });
    done.await
        .map_err(|_| Problem::new(Kind::Internal, "the mail could not be submitted"))
}

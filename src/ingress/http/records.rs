//! The records of mails, and operations on them.

use axum::extract::{FromRequest, FromRequestParts, Path, RawQuery, Request, State};
use axum::http::header;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde::Serialize;
use utoipa::ToSchema;

use super::access::{self, Caller};
use super::params::{self, DryRun, Filters, ListParams, Params};
use super::problem::{Kind, Problem};
use super::{Door, SharedDoor};
use crate::dispatch::{Counted, Error, Failures, GroupBy, MailStatus, StatusPage};
use crate::mail::{MailId, Submitter};
use crate::spool::Query;

/// The most bytes that are read of a body that is not allowed.
const FILTER_BODY_BYTES: usize = 64 * 1024;

/// The mail that a path names.
pub(super) struct PathId(pub MailId);

impl FromRequestParts<SharedDoor> for PathId {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, door: &SharedDoor) -> Result<Self, Problem> {
        let mut params = Params::of(parts.uri.query());
        let cursor = params.one("cursor");
        params.finish()?;

        let named = segment(parts, door).await?;
        // A caller that sees only its own mail can name only that.
        let owner = parts.extensions.get::<Caller>().and_then(Caller::sees_only);
        let owner = owner.as_ref();
        Ok(PathId(match cursor {
            Some(cursor) => door.dispatcher.find_from(cursor, &named, owner).await?,
            None => door.dispatcher.find(&named, owner).await?,
        }))
    }
}

/// The dead letters that a query selects. Filters in the body are refused: they would be ignored,
/// so that all dead letters would be selected.
pub(super) struct DeadLetterQuery {
    filter: Query,
    dry_run: bool,
}

impl FromRequest<SharedDoor> for DeadLetterQuery {
    type Rejection = Problem;
    async fn from_request(request: Request, door: &SharedDoor) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        let held = door.collect_json(body, FILTER_BODY_BYTES).await?;
        if !matches!(held.bytes.trim_ascii(), b"" | b"{}") {
            let detail = "filters and dry_run stand in the query; leave the body empty";
            return Err(Problem::invalid_field("", detail));
        }
        let (filter, dry_run) = params::dead(parts.uri.query())?;
        Ok(DeadLetterQuery { filter, dry_run })
    }
}

/// The variable segment of a path.
pub(super) async fn segment(parts: &mut Parts, door: &SharedDoor) -> Result<String, Problem> {
    let named = Path::<String>::from_request_parts(parts, door).await;
    named
        .map(|Path(named)| named)
        .map_err(|_| Problem::new(Kind::NotFound, "the path is not UTF-8"))
}

/// How many mails were changed.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Count)]
pub(super) struct BulkCount {
    /// How many mails.
    count: u64,
    /// Whether they were only counted.
    dry_run: bool,
}

impl BulkCount {
    /// Nothing was changed, and so many were counted.
    pub fn only(count: u64) -> Self {
        BulkCount {
            count,
            dry_run: true,
        }
    }
}

/// How many mails were deleted.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Purged {
    /// How many mails.
    count: u64,
    /// How many of their recipients had received them; the records of these deliveries are deleted
    /// as well. Absent if none had.
    #[serde(skip_serializing_if = "Option::is_none")]
    delivered: Option<u64>,
    /// Whether they were only counted.
    dry_run: bool,
}

impl Door {
    /// Checks that a caller may see the mail that a path names. For another's mail the answer is
    /// the same as for one that does not exist. Names other than ids are searched among the
    /// caller's own mail.
    pub(super) async fn check_own(&self, visitor: &Caller, path: &str) -> Result<(), Problem> {
        let (Some(owner), Some((named, _))) = (visitor.sees_only(), access::mail_of(path)) else {
            return Ok(());
        };
        let named = percent_encoding::percent_decode_str(named).decode_utf8_lossy();
        match named.parse() {
            Ok(id) => self.own(&owner, id).await,
            Err(_) => Ok(()),
        }
    }

    /// Checks that this mail belongs to this submitter.
    pub(super) async fn own(&self, owner: &Submitter, id: MailId) -> Result<(), Problem> {
        let status = self.dispatcher.status(id).await?;
        if status.submitter.as_ref() == Some(owner) {
            return Ok(());
        }
        Err(Error::UnknownMail(id).into())
    }
}

/// Lists mails, the newest first; with a pending state, by due time. With the scope `send`, one's
/// own.
///
/// A query by id, key, Message-ID or time uses an index. Any other query searches a part of all
/// mail for one page, as many mails as `looked_at` says: so a page may contain few mails or none,
/// and still have a `next`.
#[utoipa::path(
    get, path = "/v1/mails", tag = "mails",
    params(ListParams, Filters),
    responses((
        status = 200, description = "A page; `next` is the cursor of the one after it",
        body = StatusPage
    )),
)]
pub(super) async fn list(
    State(door): State<SharedDoor>,
    Extension(visitor): Extension<Caller>,
    RawQuery(query): RawQuery,
) -> Result<Json<StatusPage>, Problem> {
    let query = Query {
        submitter: visitor.sees_only(),
        ..params::list(query.as_deref(), &door.dispatcher)?
    };
    Ok(Json(door.dispatcher.list(query).await?))
}

/// Counts mails, by state. With the scope `send`, one's own.
///
/// One call searches a part of all mail, the newest first. If there is more, `next` is the cursor
/// for the next call, and the counts must be added up.
#[utoipa::path(
    get, path = "/v1/mails/count", tag = "mails",
    params(
        ("q" = Option<String>, Query, description = "A search, as `GET /v1/mails` takes it"),
        ("state" = Option<crate::State>, Query,
            description = "At least one delivery is in this state"),
        ("cursor" = Option<String>, Query,
            description = "Continue where an earlier answer ended: its `next`"),
        Filters,
    ),
    responses((status = 200, description = "How many", body = Counted)),
)]
pub(super) async fn count(
    State(door): State<SharedDoor>,
    Extension(visitor): Extension<Caller>,
    RawQuery(query): RawQuery,
) -> Result<Json<Counted>, Problem> {
    let query = Query {
        submitter: visitor.sees_only(),
        ..params::count(query.as_deref(), &door.dispatcher)?
    };
    Ok(Json(door.dispatcher.count_some(query).await?))
}

/// Groups dead or deferred deliveries by the server's answer, or by the recipients' domain.
#[utoipa::path(
    get, path = "/v1/failures", tag = "mails",
    params(
        ("by" = Option<GroupBy>, Query, description = "`error` when absent"),
        ("q" = Option<String>, Query,
            description = "A search, as `GET /v1/mails` takes it; its state is not looked at"),
        ("state" = Option<crate::State>, Query, description = "Not looked at"),
        Filters,
    ),
    responses((status = 200, description = "The groups, the largest first", body = Failures)),
)]
pub(super) async fn failures(
    State(door): State<SharedDoor>,
    RawQuery(query): RawQuery,
) -> Result<Json<Failures>, Problem> {
    let (by, query) = params::failures(query.as_deref(), &door.dispatcher)?;
    Ok(Json(door.dispatcher.failures(by, query).await?))
}

/// The record of a mail, and why it waits. It is named by its id, the first characters of it (at
/// least four), its idempotency key, its Message-ID, or its sender. If the name matches several
/// mails, the answer is 409 and lists some. With the scope `send`, of one's own mail; for another's
/// the answer is 404.
///
/// A sender, and a key or a Message-ID that is in no index, is searched among all mail, a part of
/// it in each call. If there is more, the answer is 409 with `next`, the `cursor` for the next
/// call, and `mails`, those that matched so far.
#[utoipa::path(
    get, path = "/v1/mails/{id}", tag = "mails",
    params(
        ("id" = String, Path, description = "The mail: its id, or another name of it"),
        ("cursor" = Option<String>, Query,
            description = "Continue the search from here: the `next` of an earlier answer"),
    ),
    responses(
        (status = 200, description = "The record", body = MailStatus),
        (
            status = 409, description = "It fits several mails, or not all were looked at",
            body = Problem, content_type = "application/problem+json",
        ),
    ),
)]
pub(super) async fn record(
    State(door): State<SharedDoor>,
    PathId(id): PathId,
) -> Result<Json<MailStatus>, Problem> {
    Ok(Json(door.dispatcher.status(id).await?))
}

/// A mail's message, byte for byte as it is sent. With the scope `send`, of one's own mail.
#[utoipa::path(
    get, path = "/v1/mails/{id}/raw", tag = "mails",
    params(
        ("id" = String, Path, description = "The mail: its id, or another name of it"),
        ("cursor" = Option<String>, Query,
            description = "Continue the search from here: the `next` of an earlier answer"),
    ),
    responses(
        (status = 200, description = "The message", body = String, content_type = "message/rfc822"),
        (
            status = 409, description = "It fits several mails, or not all were looked at",
            body = Problem, content_type = "application/problem+json",
        ),
        (
            status = 410, description = "The mail was delivered, and its message is not kept any \
                more",
            body = Problem, content_type = "application/problem+json",
        ),
    ),
)]
pub(super) async fn raw(
    State(door): State<SharedDoor>,
    PathId(id): PathId,
) -> Result<Response, Problem> {
    let (message, _reader) = door.message(id).await?;
    // A stranger's content must never run in a browser under this origin.
    let headers = [
        (header::CONTENT_TYPE, "message/rfc822".to_owned()),
        (
            header::CONTENT_DISPOSITION,
            format!("attachment; filename=\"{id}.eml\""),
        ),
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; sandbox".to_owned(),
        ),
    ];

    Ok((headers, message).into_response())
}

/// Cancels a mail: all deliveries that have not ended and are not being sent. With the scope
/// `send`, one's own mail.
#[utoipa::path(
    post, path = "/v1/mails/{id}/cancel", tag = "mails",
    params(
        ("id" = String, Path, description = "The mail: its id, or another name of it"),
        ("cursor" = Option<String>, Query,
            description = "Continue the search from here: the `next` of an earlier answer"),
    ),
    responses(
        (status = 200, description = "The record", body = MailStatus),
        (
            status = 409, description = "Too late; or it fits several mails, or not all were \
                looked at",
            body = Problem, content_type = "application/problem+json",
        ),
    ),
)]
pub(super) async fn cancel(
    State(door): State<SharedDoor>,
    Extension(visitor): Extension<Caller>,
    PathId(id): PathId,
) -> Result<Json<MailStatus>, Problem> {
    Ok(Json(visitor.acts_on(&door.dispatcher).cancel(id).await?))
}

/// Queues a mail's dead deliveries again, or the cancelled ones if none is dead, with a new count
/// of attempts; makes deferred ones due at once.
#[utoipa::path(
    post, path = "/v1/mails/{id}/retry", tag = "mails",
    params(
        ("id" = String, Path, description = "The mail: its id, or another name of it"),
        ("cursor" = Option<String>, Query,
            description = "Continue the search from here: the `next` of an earlier answer"),
    ),
    responses(
        (status = 200, description = "The record", body = MailStatus),
        (
            status = 409, description = "Nothing to retry; or it fits several mails, or not all \
                were looked at",
            body = Problem, content_type = "application/problem+json",
        ),
    ),
)]
pub(super) async fn retry(
    State(door): State<SharedDoor>,
    Extension(visitor): Extension<Caller>,
    PathId(id): PathId,
) -> Result<Json<MailStatus>, Problem> {
    Ok(Json(visitor.acts_on(&door.dispatcher).retry(id).await?))
}

/// Retries every mail with a dead delivery that the filters match.
#[utoipa::path(
    post, path = "/v1/dead/retry", tag = "dead letters",
    params(Filters, DryRun),
    responses((status = 200, description = "How many", body = BulkCount)),
)]
pub(super) async fn retry_dead(
    State(door): State<SharedDoor>,
    Extension(visitor): Extension<Caller>,
    DeadLetterQuery { filter, dry_run }: DeadLetterQuery,
) -> Result<Json<BulkCount>, Problem> {
    Ok(Json(BulkCount {
        count: visitor
            .acts_on(&door.dispatcher)
            .retry_dead(filter, dry_run)
            .await?,
        dry_run,
    }))
}

/// Deletes every ended mail with a dead delivery that the filters match, with the records of
/// recipients who received it; the answer says how many those were.
#[utoipa::path(
    delete, path = "/v1/dead", tag = "dead letters",
    params(Filters, DryRun),
    responses((status = 200, description = "How many", body = Purged)),
)]
pub(super) async fn purge_dead(
    State(door): State<SharedDoor>,
    Extension(visitor): Extension<Caller>,
    DeadLetterQuery { filter, dry_run }: DeadLetterQuery,
) -> Result<Json<Purged>, Problem> {
    let dispatcher = visitor.acts_on(&door.dispatcher);
    let purged = dispatcher.dead_letters().purge_all(filter, dry_run).await?;
    Ok(Json(Purged {
        count: purged.mails,
        delivered: (purged.delivered > 0).then_some(purged.delivered),
        dry_run,
    }))
}

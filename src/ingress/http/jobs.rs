//! Operations on all mail that a search finds: the request, a preview that only counts, and the
//! jobs that do the work.

use axum::extract::{FromRequest, FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::SharedDoor;
use super::access::Caller;
use super::body::MediaType;
use super::params::Params;
use super::problem::{FieldError, Kind, Problem};
use super::records::{BulkCount, segment};
use crate::dispatch::{Act, JobRequest, JobStatus};

/// The largest request in bytes.
const MAX_REQUEST: usize = 64 * 1024;

/// Which mails an operation changes, and how fast.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct BulkRequest {
    /// A search, as in `GET /v1/mails`. Either it or `all` is needed.
    q: Option<String>,
    /// Selects all mail.
    all: bool,
    /// Only count the mails.
    dry_run: bool,
    /// The most mails to change.
    #[schema(minimum = 1)]
    limit: Option<u64>,
    /// The most mails to change in a minute.
    #[schema(minimum = 1)]
    per_minute: Option<u32>,
}

impl FromRequest<SharedDoor> for BulkRequest {
    type Rejection = Problem;
    async fn from_request(request: Request, door: &SharedDoor) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        Params::of(parts.uri.query()).finish()?;
        if MediaType::of(&parts.headers)? != MediaType::Json {
            return Err(Problem::new(
                Kind::MediaType,
                "Content-Type must be application/json",
            ));
        }

        let held = door.collect_json(body, MAX_REQUEST).await?;
        held.json::<Self>()?.checked()
    }
}

impl BulkRequest {
    fn checked(self) -> Result<Self, Problem> {
        let mut errors = Vec::new();
        let mut refuse = |field: &str, detail: &str| {
            errors.push(FieldError {
                pointer: format!("/{field}"),
                detail: detail.to_owned(),
            });
        };

        if self.search().is_empty() && !self.all {
            refuse(
                "q",
                "is missing; give a search, or `\"all\": true` to mean all mail",
            );
        }

        if !self.search().is_empty() && self.all {
            refuse("all", "give either `q` or `all`, not both");
        }
        if self.limit == Some(0) {
            refuse("limit", "is not at least 1");
        }
        if self.per_minute == Some(0) {
            refuse("per_minute", "is not at least 1");
        }

        if errors.is_empty() {
            Ok(self)
        } else {
            Err(Problem::invalid(errors))
        }
    }

    fn search(&self) -> &str {
        self.q.as_deref().unwrap_or_default().trim()
    }

    /// Counts the mails, or begins a job.
    async fn perform(
        self,
        door: &SharedDoor,
        act: Act,
        visitor: &Caller,
    ) -> Result<Response, Problem> {
        let found = door.dispatcher.search(self.search());
        let query = found.map_err(|error| Problem::invalid_field("/q", error.to_string()))?;

        let dispatcher = visitor.acts_on(&door.dispatcher);
        let jobs = dispatcher.jobs();
        if self.dry_run {
            let count = jobs.count(act, query).await?;
            let count = count.min(self.limit.unwrap_or(u64::MAX));
            return Ok(Json(BulkCount::only(count)).into_response());
        }

        let job = jobs.start(JobRequest {
            act,
            query,
            limit: self.limit,
            per_minute: self.per_minute,
            search: self.search().to_owned(),
        })?;

        let location = [(header::LOCATION, format!("/v1/jobs/{}", job.id))];
        Ok((StatusCode::ACCEPTED, location, Json(job)).into_response())
    }
}

/// The job that a path names.
pub(super) struct JobId(Uuid);

impl FromRequestParts<SharedDoor> for JobId {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, door: &SharedDoor) -> Result<Self, Problem> {
        Params::of(parts.uri.query()).finish()?;
        let named = segment(parts, door).await?;
        named.parse().map(JobId).map_err(|_| no_job())
    }
}

fn no_job() -> Problem {
    Problem::new(
        Kind::NotFound,
        "there is no such job; jobs are remembered as long as the service runs, the last 200 of \
         them",
    )
}

/// The jobs.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct JobList {
    /// Each job, the newest first.
    jobs: Vec<JobStatus>,
}

/// Cancels all mail that a search finds, as a job.
#[utoipa::path(
    post, path = "/v1/mails/cancel", tag = "mails", operation_id = "cancel_many",
    request_body = BulkRequest,
    responses(
        (
            status = 202, description = "The job", body = JobStatus,
            headers(("Location" = String, description = "Where to look at it")),
        ),
        (status = 200, description = "With `dry_run`: how many mails", body = BulkCount),
    ),
)]
pub(super) async fn cancel(
    State(door): State<SharedDoor>,
    Extension(visitor): Extension<Caller>,
    request: BulkRequest,
) -> Result<Response, Problem> {
    request.perform(&door, Act::Cancel, &visitor).await
}

/// Queues all dead, cancelled or deferred mail again that a search finds, as a job.
#[utoipa::path(
    post, path = "/v1/mails/retry", tag = "mails", operation_id = "retry_many",
    request_body = BulkRequest,
    responses(
        (
            status = 202, description = "The job", body = JobStatus,
            headers(("Location" = String, description = "Where to look at it")),
        ),
        (status = 200, description = "With `dry_run`: how many mails", body = BulkCount),
    ),
)]
pub(super) async fn retry(
    State(door): State<SharedDoor>,
    Extension(visitor): Extension<Caller>,
    request: BulkRequest,
) -> Result<Response, Problem> {
    request.perform(&door, Act::Retry, &visitor).await
}

/// Deletes all ended mail that a search finds, as a job.
#[utoipa::path(
    delete, path = "/v1/mails", tag = "mails", operation_id = "purge_many",
    request_body = BulkRequest,
    responses(
        (
            status = 202, description = "The job", body = JobStatus,
            headers(("Location" = String, description = "Where to look at it")),
        ),
        (status = 200, description = "With `dry_run`: how many mails", body = BulkCount),
    ),
)]
pub(super) async fn purge(
    State(door): State<SharedDoor>,
    Extension(visitor): Extension<Caller>,
    request: BulkRequest,
) -> Result<Response, Problem> {
    request.perform(&door, Act::Purge, &visitor).await
}

/// The jobs of this run of the service.
#[utoipa::path(
    get, path = "/v1/jobs", tag = "mails",
    responses((status = 200, description = "Each job", body = JobList)),
)]
pub(super) async fn jobs(State(door): State<SharedDoor>) -> Json<JobList> {
    Json(JobList {
        jobs: door.dispatcher.jobs().list(),
    })
}

/// The progress of a job.
#[utoipa::path(
    get, path = "/v1/jobs/{id}", tag = "mails",
    params(("id" = String, Path, description = "The job", format = "uuid")),
    responses((status = 200, description = "The job", body = JobStatus)),
)]
pub(super) async fn job(
    State(door): State<SharedDoor>,
    JobId(id): JobId,
) -> Result<Json<JobStatus>, Problem> {
    door.dispatcher.jobs().get(id).map(Json).ok_or_else(no_job)
}

/// Stops a job. Mails that it has changed stay changed.
#[utoipa::path(
    delete, path = "/v1/jobs/{id}", tag = "mails",
    params(("id" = String, Path, description = "The job", format = "uuid")),
    responses((status = 200, description = "The job", body = JobStatus)),
)]
pub(super) async fn stop(
    State(door): State<SharedDoor>,
    JobId(id): JobId,
) -> Result<Json<JobStatus>, Problem> {
    door.dispatcher.jobs().stop(id).map(Json).ok_or_else(no_job)
}

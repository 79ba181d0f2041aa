//! Suppressed addresses: lists, adds, removes, imports and exports them (CSV).

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Extension, RawQuery, Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::stream;
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;
use utoipa::{IntoParams, ToSchema};

use super::SharedDoor;
use super::access::Caller;
use super::body::MediaType;
use super::body_stream::{self, BodyReader};
use super::params::Params;
use super::problem::{FieldError, Kind, Problem, malformed, misshapen};
use super::progress::WorkDone;
use super::suppression_file::{COLUMNS, WrongLine, check, lines, written};
use crate::dispatch::{Dispatcher, Error};
use crate::mail::{Address, Timestamp};
use crate::{Suppression, SuppressionPage, SuppressionQuery, SuppressionReason};

/// The largest request for one entry.
const MAX_ENTRY: usize = 64 * 1024;
/// The largest file.
const MAX_FILE: usize = 128 * 1024 * 1024;
/// How many entries are written together.
const STEP_ENTRIES: usize = 5000;
/// The most wrong lines of a file that are listed.
const MAX_TOLD: usize = 100;

/// Which entries. An absent filter matches all.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "only describes what `query` reads")]
pub(super) struct SuppressionFilter {
    /// Of this address.
    address: Option<String>,
    /// For this reason.
    reason: Option<SuppressionReason>,
    /// Of this list.
    #[param(min_length = 1, max_length = 100)]
    list: Option<String>,
}

/// How many entries.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "only describes what `query` reads")]
pub(super) struct Paging {
    /// The most entries in the page; 50 when absent.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u16>,
    /// The `next` of the page before.
    cursor: Option<String>,
}

/// A new entry.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "an entry as an object")]
pub(super) struct NewSuppression {
    /// The suppressed address.
    address: Address,
    /// Why; `manual` when absent.
    reason: Option<SuppressionReason>,
    /// The mailing list; all mail when absent.
    #[schema(min_length = 1, max_length = 100, pattern = "^[A-Za-z0-9._-]+$")]
    list: Option<String>,
    /// The end; when absent, after `suppression.bounces_for` for a bounce, and never for others.
    #[schema(value_type = Option<String>, format = DateTime)]
    until: Option<Timestamp>,
    /// A note.
    #[schema(max_length = 500)]
    note: Option<String>,
}

/// The entries to remove, if they are named in the body.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields, expecting = "an object")]
struct Removal {
    address: Option<Address>,
    reason: Option<SuppressionReason>,
    list: Option<String>,
}

/// How many entries were removed.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Removed {
    count: usize,
}

/// The result of an import.
#[derive(Debug, Default, Serialize, ToSchema)]
pub(super) struct Imported {
    /// How many entries were added.
    imported: usize,
    /// How many lines had a mistake.
    refused: usize,
    /// The mistakes in the first 100 of them.
    errors: Vec<WrongLine>,
}

/// The suppressed addresses, sorted.
#[utoipa::path(
    get, path = "/v1/suppressions", tag = "suppressions", params(SuppressionFilter, Paging),
    responses((status = 200, description = "A page; `next` is the cursor of the one after it",
        body = SuppressionPage)),
)]
pub(super) async fn list(
    State(door): State<SharedDoor>,
    RawQuery(raw): RawQuery,
) -> Result<Json<SuppressionPage>, Problem> {
    let query = query(raw.as_deref(), true)?;
    Ok(Json(door.dispatcher.suppressions().list(query).await?))
}

/// Adds an entry; replaces one with the same address, list and reason.
#[utoipa::path(
    post, path = "/v1/suppressions", tag = "suppressions",
    request_body(content = NewSuppression, content_type = "application/json"),
    responses((status = 201, description = "The entry", body = Suppression)),
)]
pub(super) async fn add(
    State(door): State<SharedDoor>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<(StatusCode, Json<Suppression>), Problem> {
    let new: NewSuppression = json(&door, request).await?;
    check(new.list.as_deref(), new.note.as_deref())
        .map_err(|(field, detail)| Problem::invalid_field(format!("/{field}"), detail))?;
    let dispatcher = caller.acts_on(&door.dispatcher);
    let suppressions = dispatcher.suppressions();

    let reason = new.reason.unwrap_or(SuppressionReason::Manual);
    let made = suppressions.entry(new.address, reason);
    let entry = Suppression {
        list: new.list,
        until: new.until.or(made.until),
        note: new.note,
        ..made
    };

    suppressions.add(vec![entry.clone()]).await?;
    Ok((StatusCode::CREATED, Json(entry)))
}

/// Removes the entries of an address, of a reason, or of a list. One of the three is needed.
#[utoipa::path(
    delete, path = "/v1/suppressions", tag = "suppressions", params(SuppressionFilter),
    responses((status = 200, description = "How many", body = Removed)),
)]
pub(super) async fn remove(
    State(door): State<SharedDoor>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Json<Removed>, Problem> {
    let mut query = query(request.uri().query(), false)?;
    let (_, body) = request.into_parts();
    let held = door.collect_json(body, MAX_ENTRY).await?;
    if !held.bytes.trim_ascii().is_empty() {
        let Removal {
            address,
            reason,
            list,
        } = read(&held.bytes)?;
        query.address = query.address.or(address);
        query.reason = query.reason.or(reason);
        query.list = query.list.or(list);
    }

    if query == SuppressionQuery::default() {
        let detail = "is needed, or `reason` or `list`: all entries at once are not taken off";
        return Err(Problem::invalid_field("/address", detail));
    }

    let dispatcher = caller.acts_on(&door.dispatcher);
    let count = dispatcher.suppressions().remove(query).await?;
    Ok(Json(Removed { count }))
}

/// Adds the entries of a CSV file.
///
/// The first line may name the columns: `address`, `reason`, `list`, `since`, `until`, `note`, in
/// any order. Without it, each line is an address, optionally followed by a reason. Entries are
/// added while the file arrives, however long that takes. If it is broken off, entries before that
/// may have been added; importing the same file again is safe.
#[utoipa::path(
    post, path = "/v1/suppressions/import", tag = "suppressions",
    request_body(content = String, content_type = "text/csv"),
    responses((status = 200, description = "The result", body = Imported)),
)]
pub(super) async fn import(
    State(door): State<SharedDoor>,
    Extension(caller): Extension<Caller>,
    Extension(progress): Extension<WorkDone>,
    request: Request,
) -> Result<Json<Imported>, Problem> {
    let (parts, body) = request.into_parts();
    Params::of(parts.uri.query()).finish()?;
    let kind = parts.headers.get(header::CONTENT_TYPE);
    let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let essence = kind.split(';').next().unwrap_or_default().trim();
    if !["text/csv", "text/plain", "application/csv"].contains(&essence) {
        let detail = "a file of entries is taken as text/csv";
        return Err(Problem::new(Kind::MediaType, detail));
    }

    let place = Arc::clone(&door.files).try_acquire_owned();
    let place = place.map_err(|_| {
        let detail = "as many files come in as may; come back later";
        Problem::new(Kind::TooMany, detail)
    })?;

    let (pieces, file) = body_stream::channel();
    let dispatcher = caller.acts_on(&door.dispatcher);
    let engine = Handle::current();
    let taken = tokio::task::spawn_blocking(move || {
        let _place = place;
        let mut imported = Imported::default();
        let read = take_file(&engine, &dispatcher, file, &mut imported, &progress);
        (imported, read)
    });
    // A body that is broken off also ends the parsing.
    let passed = door.pass_on(body, MAX_FILE, pieces).await;
    let lost = |_| Problem::new(Kind::Internal, "the file could not be read");
    let (imported, read) = taken.await.map_err(lost)?;

    match passed.and(read) {
        Ok(()) => Ok(Json(imported)),
        Err(problem) => {
            let count = imported.imported;
            Err(problem.and(&format!("entries before that were added: {count}")))
        }
    }
}

/// All entries as CSV, in the form that `import` accepts.
#[utoipa::path(
    get, path = "/v1/suppressions/export", tag = "suppressions", params(SuppressionFilter),
    responses((status = 200, description = "Every entry", body = String,
        content_type = "text/csv")),
)]
pub(super) async fn export(
    State(door): State<SharedDoor>,
    RawQuery(raw): RawQuery,
) -> Result<Response, Problem> {
    let query = SuppressionQuery {
        limit: 1000,
        ..query(raw.as_deref(), false)?
    };

    let dispatcher = door.dispatcher.clone();
    let first = written([COLUMNS.map(str::to_owned)]);
    let pages = stream::try_unfold(Some((query, first)), move |rest| {
        let dispatcher = dispatcher.clone();
        async move {
            let Some((query, before)) = rest else {
                return Ok::<_, Error>(None);
            };
            next_page(&dispatcher, query, before).await.map(Some)
        }
    });

    let name = "attachment; filename=\"suppressions.csv\"";
    let headers = [
        (header::CONTENT_TYPE, "text/csv; charset=utf-8"),
        (header::CONTENT_DISPOSITION, name),
    ];

    Ok((headers, Body::from_stream(pages)).into_response())
}

type RemainingPages = Option<(SuppressionQuery, Vec<u8>)>;

async fn next_page(
    dispatcher: &Dispatcher,
    query: SuppressionQuery,
    before: Vec<u8>,
) -> Result<(Bytes, RemainingPages), Error> {
    let page = dispatcher.suppressions().list(query.clone()).await?;
    let time = |time: Option<Timestamp>| time.map(|time| time.to_string()).unwrap_or_default();
    let entries = page.suppressions.into_iter().map(|entry| {
        [
            entry.address.to_string(),
            entry.reason.to_string(),
            entry.list.unwrap_or_default(),
            time(Some(entry.since)),
            time(entry.until),
            entry.note.unwrap_or_default(),
        ]
    });

    let mut text = before;
    text.extend(written(entries));
    let rest = page.next.map(|next| {
        let query = SuppressionQuery {
            cursor: Some(next),
            ..query
        };
        (query, Vec::new())
    });

    Ok((text.into(), rest))
}

fn take_file(
    engine: &Handle,
    dispatcher: &Dispatcher,
    file: BodyReader,
    imported: &mut Imported,
    progress: &WorkDone,
) -> Result<(), Problem> {
    let suppressions = dispatcher.suppressions();
    let mut entries = Vec::new();
    for line in lines(file) {
        let line = line.map_err(|error| {
            Problem::new(Kind::Malformed, format!("the file is not CSV: {error}"))
        })?;
        match line {
            Ok(line) => {
                let made = suppressions.entry(line.address, line.reason);
                entries.push(Suppression {
                    list: line.list,
                    since: line.since.unwrap_or(made.since),
                    until: line.until.or(made.until),
                    note: line.note,
                    ..made
                });
            }
            Err(wrong) => {
                imported.refused += 1;
                if imported.errors.len() < MAX_TOLD {
                    imported.errors.push(wrong);
                }
            }
        }
        if entries.len() == STEP_ENTRIES {
            engine.block_on(suppressions.add(std::mem::take(&mut entries)))?;
            imported.imported += STEP_ENTRIES;
            progress.made();
        }
    }

    let rest = entries.len();
    engine.block_on(suppressions.add(entries))?;
    imported.imported += rest;
    Ok(())
}

fn query(raw: Option<&str>, with_page: bool) -> Result<SuppressionQuery, Problem> {
    let mut params = Params::of(raw);
    let address = params.with("address", Address::read);
    let reason = params.parsed("reason");
    let list = params.with("list", |list| match check(Some(list), None) {
        Ok(()) => Ok(list.to_owned()),
        Err((_, detail)) => Err(detail),
    });

    let mut query = SuppressionQuery {
        address,
        reason,
        list,
        ..SuppressionQuery::default()
    };

    if with_page {
        query.limit = params.parsed("limit").unwrap_or(50);
        if !(1..=1000).contains(&query.limit) {
            params.refuse("/limit", "is not a number from 1 to 1000");
        }
        query.cursor = params.one("cursor");
    }

    params.finish()?;
    Ok(query)
}

async fn json<T: for<'de> Deserialize<'de>>(
    door: &SharedDoor,
    request: Request,
) -> Result<T, Problem> {
    let (parts, body) = request.into_parts();
    Params::of(parts.uri.query()).finish()?;
    if MediaType::of(&parts.headers)? != MediaType::Json {
        let detail = "an entry is taken as application/json";
        return Err(Problem::new(Kind::MediaType, detail));
    }
    let held = door.collect_json(body, MAX_ENTRY).await?;
    read(&held.bytes)
}

pub(super) fn read<T: for<'de> Deserialize<'de>>(json: &[u8]) -> Result<T, Problem> {
    let mut reader = serde_json::Deserializer::from_slice(json);
    let read = serde_path_to_error::deserialize(&mut reader);
    read.map_err(|error: serde_path_to_error::Error<serde_json::Error>| {
        match error.inner().is_data() {
            true => {
                let error: FieldError = misshapen(error);
                let pointer = missing(&error.detail).unwrap_or(error.pointer);
                Problem::invalid_field(pointer, error.detail)
            }
            false => malformed(error.inner()),
        }
    })
}

/// The pointer to a missing field, which serde names only in its message.
fn missing(detail: &str) -> Option<String> {
    let name = detail.strip_prefix("missing field `")?.split('`').next()?;
    Some(format!("/{name}"))
}

//! Streams all mails that a search finds, as rows of a table or as one record a line. They are read
//! from the spool page by page, as fast as the client takes them, so that memory stays constant.

use axum::body::Body;
use axum::extract::{RawQuery, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::{StreamExt, stream};
use serde::Deserialize;
use utoipa::ToSchema;

use super::SharedDoor;
use super::params::{self, Filters};
use super::problem::Problem;
use crate::dispatch::{Dispatcher, Error, MailStatus};
use crate::mail::Timestamp;
use crate::spool::Query;

/// How many mails are read at a time.
const STEP_MAILS: usize = 500;

/// The columns: one row for each recipient.
const COLUMNS: [&str; 19] = [
    "id",
    "state",
    "created_at",
    "finished_at",
    "from",
    "subject",
    "message_id",
    "priority",
    "tags",
    "idempotency_key",
    "size",
    "recipient",
    "recipient_state",
    "reason",
    "relay",
    "attempts",
    "code",
    "enhanced",
    "text",
];

/// The format of an export.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Format {
    /// A table with one row for each recipient (RFC 4180).
    #[default]
    Csv,
    /// One record a line, as `GET /v1/mails/{id}` returns it.
    Ndjson,
}

impl std::str::FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "csv" => Ok(Format::Csv),
            "ndjson" => Ok(Format::Ndjson),
            _ => Err("is neither `csv` nor `ndjson`".to_owned()),
        }
    }
}

/// Exports all mails that match, as a stream.
///
/// If it fails midway, the connection is broken off, so that a part is not taken for the whole.
#[utoipa::path(
    get, path = "/v1/mails/export", tag = "mails",
    params(
        ("q" = Option<String>, Query, description = "A search, as `GET /v1/mails` takes it"),
        ("state" = Option<crate::State>, Query,
            description = "At least one delivery is in this state"),
        ("format" = Option<Format>, Query, description = "`csv` when absent"),
        Filters,
    ),
    responses((
        status = 200, description = "A table with a head, one row a recipient; or one record a \
                                     line",
        content((String = "text/csv"), (String = "application/x-ndjson")),
    )),
)]
pub(super) async fn export(
    State(door): State<SharedDoor>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let (query, format) = params::export(query.as_deref(), &door.dispatcher)?;
    let (kind, name, head) = match format {
        Format::Csv => (
            "text/csv; charset=utf-8",
            "mails.csv",
            table(|rows| rows.write_record(COLUMNS)),
        ),
        Format::Ndjson => ("application/x-ndjson", "mails.ndjson", Vec::new()),
    };

    let headers = [
        (header::CONTENT_TYPE, kind.to_owned()),
        (
            header::CONTENT_DISPOSITION,
            format!("attachment; filename=\"{name}\""),
        ),
    ];
    let query = Query {
        limit: STEP_MAILS,
        ..query
    };

    // The first page is read before the response begins, so that an error can still become a
    // problem document.
    let first = next(&door.dispatcher, query.clone(), format).await?;
    let head = Bytes::from(head);
    let (page, rest) = first;
    let begun = stream::iter([head, page].map(Ok));

    let state = rest.map(|query| (door.dispatcher.clone(), query));
    let others = stream::try_unfold(state, move |state| async move {
        let Some((dispatcher, query)) = state else {
            return Ok::<_, Error>(None);
        };
        let (page, rest) = next(&dispatcher, query, format).await?;
        Ok(Some((page, rest.map(|query| (dispatcher, query)))))
    });

    let body = Body::from_stream(begun.chain(others));
    Ok((headers, body).into_response())
}

/// One page, and where the next one begins.
async fn next(
    dispatcher: &Dispatcher,
    query: Query,
    format: Format,
) -> Result<(Bytes, Option<Query>), Error> {
    let page = dispatcher.list(query.clone()).await?;
    let out = match format {
        Format::Csv => table(|rows| page.mails.iter().try_for_each(|mail| write(mail, rows))),
        Format::Ndjson => {
            let mut out = Vec::new();
            for mail in &page.mails {
                serde_json::to_writer(&mut out, mail).unwrap_or_default();
                out.push(b'\n');
            }
            out
        }
    };

    let rest = page.next.map(|cursor| Query {
        cursor: Some(cursor),
        ..query
    });

    Ok((Bytes::from(out), rest))
}

type Rows = csv::Writer<Vec<u8>>;

/// Rows of a table. Writing to memory cannot fail.
fn table(fill: impl FnOnce(&mut Rows) -> csv::Result<()>) -> Vec<u8> {
    let terminator = csv::Terminator::CRLF;
    let mut rows = csv::WriterBuilder::new()
        .terminator(terminator)
        .from_writer(Vec::new());
    fill(&mut rows).unwrap_or_default();
    rows.into_inner().unwrap_or_default()
}

/// One row for each of a mail's recipients.
fn write(mail: &MailStatus, rows: &mut Rows) -> csv::Result<()> {
    let time = |at: Option<Timestamp>| at.map(|at| at.to_string()).unwrap_or_default();
    for delivery in &mail.deliveries {
        let last = delivery.attempts.last().map(|attempt| {
            let code = attempt.code.map(|code| code.to_string());
            let said = (attempt.enhanced.clone(), attempt.text.as_str());
            (attempt.relay.as_str(), code.unwrap_or_default(), said)
        });
        let (relay, code, (enhanced, text)) = last.unwrap_or_default();
        rows.write_record([
            mail.id.to_string(),
            mail.state.as_str().to_owned(),
            time(Some(mail.created_at)),
            time(mail.finished_at),
            cell(mail.return_path.as_ref().map_or("", |path| path.as_str())),
            cell(&mail.subject),
            cell(&mail.message_id),
            mail.priority.as_str().to_owned(),
            cell(&mail.tags.join(" ")),
            cell(mail.idempotency_key.as_deref().unwrap_or_default()),
            mail.size.to_string(),
            cell(delivery.recipient.as_str()),
            delivery.state.as_str().to_owned(),
            delivery
                .reason
                .map(|reason| reason.to_string())
                .unwrap_or_default(),
            cell(relay),
            delivery.attempts.len().to_string(),
            code,
            enhanced.unwrap_or_default(),
            cell(text),
        ])?;
    }

    Ok(())
}

/// Text from outside, marked so that no spreadsheet evaluates it as a formula.
fn cell(text: &str) -> String {
    match text.starts_with(['=', '+', '-', '@', '\t', '\r']) {
        true => format!("'{text}"),
        false => text.to_owned(),
    }
}

//! A report in the form of a message, as `postrider bounce` and a mail server's pipe submit it.

use axum::Json;
use axum::extract::{Extension, Request, State};
use axum::http::StatusCode;
use utoipa::IntoParams;

use super::Taken;
use crate::dispatch::ReportError;
use crate::ingress::http::SharedDoor;
use crate::ingress::http::access::Caller;
use crate::ingress::http::body::MediaType;
use crate::ingress::http::params::Params;
use crate::ingress::http::problem::{Kind, Problem};
use crate::mail::Address;

/// The recipient of a report.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "only describes what is read below")]
pub(in crate::ingress::http) struct Arrival {
    /// The address to which the report was sent, if known; may be repeated.
    to: Option<Vec<String>>,
}

/// Accepts a delivery report (RFC 3464), a bounce in free text, or a complaint (RFC 5965).
///
/// Its mail is found by the return path's token, in the report's own address or in the returned
/// mail, else by the returned mail's Message-ID.
#[utoipa::path(
    post, path = "/v1/feedback/report", tag = "feedback", params(Arrival),
    request_body(content = String, content_type = "message/rfc822"),
    responses(
        (status = 202, description = "The result", body = Taken),
        (status = 422, description = "It is not a report, or is about no mail that is kept here"),
    ),
)]
pub(in crate::ingress::http) async fn take(
    State(door): State<SharedDoor>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<(StatusCode, Json<Taken>), Problem> {
    let (parts, body) = request.into_parts();
    let mut params = Params::of(parts.uri.query());
    let mut to = Vec::new();
    for (at, address) in params.every("to").iter().enumerate() {
        match Address::read(address) {
            Ok(address) => to.push(address),
            Err(detail) => params.refuse(format!("/to/{at}"), detail),
        }
    }

    params.finish()?;
    if MediaType::of(&parts.headers)? != MediaType::Message {
        let detail = "a report is taken as message/rfc822";
        return Err(Problem::new(Kind::MediaType, detail));
    }

    let held = door
        .collect(body, door.dispatcher.max_message_size())
        .await?;

    let dispatcher = caller.acts_on(&door.dispatcher);
    let feedback = dispatcher.feedback();
    let taken = feedback.take_report(held.bytes, &to, true).await;
    let receipts = taken.map_err(|error| match error {
        ReportError::Engine(error) => error.into(),
        error => Problem::new(Kind::Invalid, error.to_string()),
    })?;

    Ok((StatusCode::ACCEPTED, Json(Taken::of(receipts))))
}

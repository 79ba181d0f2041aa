//! Time series: how much mail was accepted, delivered, deferred and dead, how much waited, and how
//! long it took. The page's plots show them.

use axum::Json;
use axum::extract::{RawQuery, State};

use super::SharedDoor;
use super::params::Params;
use super::problem::Problem;
use crate::dispatch::{Series, SeriesQuery};
use crate::mail::{Timestamp, parse_span};

/// The time series of all relays together, or of one.
///
/// Steps of 10 seconds are kept for a day, steps of 10 minutes for 90 days; `step` in the answer
/// says which are returned. Each step has a point, even if nothing happened.
#[utoipa::path(
    get, path = "/v1/series", tag = "service",
    params(
        ("from" = Option<String>, Query, description = "From this time on, or from so long before \
            now, such as 6h; an hour before `to` unless said"),
        ("to" = Option<String>, Query, description = "Before this time, likewise; now when absent"),
        ("step" = Option<String>, Query, description = "How far the points are apart, such as 10s \
            or 1h; made longer where it is not kept so fine, or would be more than 10,000 points"),
        ("relay" = Option<String>, Query, description = "Only of this relay"),
    ),
    responses(
        (status = 200, description = "A point for each step", body = Series),
        (status = 404, description = "There is no relay of that name"),
    ),
)]
pub(super) async fn series(
    State(door): State<SharedDoor>,
    RawQuery(query): RawQuery,
) -> Result<Json<Series>, Problem> {
    let now = door.dispatcher.clock().now();
    let mut params = Params::of(query.as_deref());
    let wanted = SeriesQuery {
        from: params.with("from", |given| time(given, now)),
        to: params.with("to", |given| time(given, now)),
        step: params.with("step", parse_span),
        relay: params.one("relay"),
    };

    if wanted.step.is_some_and(|step| step.is_zero()) {
        params.refuse("/step", "is zero");
    }
    if let (Some(from), Some(to)) = (wanted.from, wanted.to)
        && from > to
    {
        params.refuse("/from", "is after `to`");
    }

    params.finish()?;
    Ok(Json(door.dispatcher.series(wanted).await?))
}

/// A time, or a span before now.
pub(super) fn time(given: &str, now: Timestamp) -> Result<Timestamp, String> {
    if let Ok(at) = given.parse() {
        return Ok(at);
    }
    let span = parse_span(given)
        .map_err(|_| "is a time such as 2026-01-31T12:00:00Z, or a span such as 6h".to_owned())?;
    Ok(now.before(span))
}

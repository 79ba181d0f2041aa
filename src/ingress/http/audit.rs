//! The audit trail: who did what, when, and to how many.

use axum::Json;
use axum::extract::{RawQuery, State};

use super::SharedDoor;
use super::params::{self, Params};
use super::problem::Problem;
use crate::dispatch::{AuditPage, AuditQuery};
use crate::mail::{MailId, Timestamp};

/// Who did what, from where, when, and to how many mails; the newest first.
///
/// Lists `cancel`, `retry`, `purge`, `pause`, `resume`, `reload`, `start`, `stop` and
/// `login_refused`, as long as the journal keeps them.
#[utoipa::path(
    get, path = "/v1/audit", tag = "events",
    params(
        ("who" = Option<String>, Query,
            description = "Who did it: `token:NAME`, `user:NAME`, `local`, or the name alone"),
        ("act" = Option<String>, Query, description = "What was done"),
        ("mail" = Option<MailId>, Query, description = "To this mail"),
        ("relay" = Option<String>, Query, description = "To this relay"),
        ("since" = Option<Timestamp>, Query, description = "At this time or later"),
        ("until" = Option<Timestamp>, Query, description = "Before this time"),
        ("limit" = Option<usize>, Query,
            description = "The most entries in one page; 50 when absent",
            minimum = 1, maximum = 1000),
        ("cursor" = Option<String>, Query, description = "Where the last page ended: its `next`"),
    ),
    responses((status = 200, description = "One page", body = AuditPage)),
)]
pub(super) async fn audit(
    State(door): State<SharedDoor>,
    RawQuery(query): RawQuery,
) -> Result<Json<AuditPage>, Problem> {
    let mut params = Params::of(query.as_deref());
    let wanted = AuditQuery {
        who: params.one("who"),
        act: params.one("act"),
        mail: params.parsed("mail"),
        relay: params.one("relay"),
        since: params.parsed("since"),
        until: params.parsed("until"),
        before: params.parsed("cursor"),
        limit: params::limit(&mut params),
    };

    params.finish()?;
    Ok(Json(door.dispatcher.audit(wanted).await?))
}

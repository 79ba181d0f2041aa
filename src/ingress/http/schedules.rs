//! The schedules: when each sends its mail next, and what it sent last.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::SharedDoor;
use super::request::{ComposeContext, MailRequest};
use crate::mail::Mail;
use crate::{ScheduleStatus, Templates};

/// All schedules.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ScheduleList {
    /// Each schedule, now, in the order of the configuration.
    schedules: Vec<ScheduleStatus>,
}

/// The schedules, with the next time and the last.
#[utoipa::path(
    get, path = "/v1/schedules", tag = "service",
    responses((status = 200, description = "Each schedule", body = ScheduleList)),
)]
pub(super) async fn list(State(door): State<SharedDoor>) -> Json<ScheduleList> {
    Json(ScheduleList {
        schedules: door.notices.schedules(),
    })
}

/// Creates a mail from a schedule's request, which has the form of `POST /v1/mails`, under this
/// idempotency key.
///
/// # Errors
/// The first wrong field, such as `.to[0]`, and the reason.
pub fn read_scheduled(
    mail: &Map<String, Value>,
    key: &str,
    templates: &Templates,
) -> Result<Mail, (String, String)> {
    let json = serde_json::to_vec(mail).map_err(|error| (String::new(), error.to_string()))?;
    let context = ComposeContext {
        templates,
        shared: None,
    };

    MailRequest::read(&json, Some(key), context).map_err(|problem| {
        let field = problem.pointers().next().unwrap_or_default();
        let mut path = String::new();
        for part in field.split('/').skip(1) {
            match part.parse::<usize>() {
                Ok(index) => path.push_str(&format!("[{index}]")),
                Err(_) => {
                    path.push_str(&format!(".{}", part.replace("~1", "/").replace("~0", "~")))
                }
            }
        }
        (path, problem.sentence())
    })
}

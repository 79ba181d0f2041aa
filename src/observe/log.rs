//! The log lines that people and alerts rely on: INFO delivered, WARN will retry, ERROR gave up.

use crate::delivery::{Attempt, EventKind, Logged};
use crate::mail::{Address, MailId};

/// Logs one fact about a delivery; `attempt` is the try that led to it.
pub(crate) fn log(mail: MailId, recipient: &Address, attempt: Option<&Attempt>, kind: &EventKind) {
    let recipient = Logged(recipient.as_str());
    let relay = attempt.map_or("", |a| a.relay.as_str());
    let code = attempt.and_then(|a| a.code);

    let text = attempt.map_or("", |a| a.text.as_str());
    match kind {
        EventKind::Delivered => {
            tracing::info!(mail.id = %mail, %recipient, relay, code, text, "delivered");
        }
        EventKind::Deferred { next_attempt_at } => {
            let phase = attempt.map(|a| a.phase.as_str());
            tracing::warn!(
                mail.id = %mail,
                %recipient,
                relay,
                phase,
                code,
                text,
                %next_attempt_at,
                "deferred, will retry"
            );
        }
        EventKind::Dead { reason } => {
            let phase = attempt.map(|a| a.phase.as_str());
            tracing::error!(
                mail.id = %mail,
                %recipient,
                relay,
                phase,
                code,
                text,
                %reason,
                "gave up"
            );
        }
        EventKind::Cancelled => tracing::info!(mail.id = %mail, %recipient, "cancelled"),
        _ => {}
    }
}

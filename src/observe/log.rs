//! The log lines that people and alerts rely on: INFO delivered, WARN will retry, ERROR gave up. A
//! recipient whom a server or a list of ours refused is a WARN: nothing is wrong with the service.

use crate::delivery::{Attempt, DeadReason, EventKind, Logged, printable};
use crate::mail::{Address, MailId};

/// Logs one fact about a delivery; `attempt` is the try that led to it.
pub(crate) fn log(
    (mail, subject): (MailId, &str),
    recipient: &Address,
    attempt: Option<&Attempt>,
    kind: &EventKind,
) {
    let recipient = Logged(recipient.as_str());
    let subject = (!subject.is_empty()).then(|| printable(subject));
    let subject = subject.as_deref();
    let relay = attempt.map_or("", |a| a.relay.as_str());
    let code = attempt.and_then(|a| a.code);
    let enhanced = attempt.and_then(|a| a.enhanced.as_deref());
    let phase = attempt.map(|a| a.phase.as_str());
    let text = attempt.map_or("", |a| a.text.as_str());

    match kind {
        EventKind::Delivered => {
            tracing::info!(
                mail.id = %mail, %recipient, subject, relay, code, enhanced, text, "delivered"
            );
        }
        EventKind::Deferred { next_attempt_at } => {
            tracing::warn!(
                mail.id = %mail,
                %recipient,
                relay,
                phase,
                code,
                enhanced,
                text,
                %next_attempt_at,
                "deferred, will retry"
            );
        }
        EventKind::Dead {
            reason: reason @ (DeadReason::Rejected | DeadReason::Suppressed),
        } => {
            tracing::warn!(
                mail.id = %mail,
                %recipient,
                subject,
                relay,
                phase,
                code,
                enhanced,
                text,
                %reason,
                "gave up"
            );
        }
        EventKind::Dead { reason } => {
            tracing::error!(
                mail.id = %mail,
                %recipient,
                subject,
                relay,
                phase,
                code,
                enhanced,
                text,
                %reason,
                "gave up"
            );
        }
        EventKind::Cancelled => tracing::info!(mail.id = %mail, %recipient, "cancelled"),
        _ => {}
    }
}

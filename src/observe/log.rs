//! The log lines that people and alerts rely on: INFO delivered, WARN will retry, ERROR gave up. A
//! recipient that a server or the suppression list refused is a WARN, since nothing is wrong with
//! the service.

use crate::delivery::{Attempt, DeadReason, EventKind, LogValue, printable};
use crate::mail::{Address, MailId};

/// Logs an event of a delivery; `attempt` is the attempt that caused it.
pub(crate) fn log(
    (mail, subject): (MailId, &str),
    recipient: &Address,
    attempt: Option<&Attempt>,
    kind: &EventKind,
) {
    let recipient = LogValue(recipient.as_str());
    // Formatted only if the line is written.
    let subject = || (!subject.is_empty()).then(|| printable(subject));
    let relay = attempt.map_or("", |a| a.relay.as_str());
    let code = attempt.and_then(|a| a.code);
    let enhanced = attempt.and_then(|a| a.enhanced.as_deref());
    let phase = attempt.map(|a| a.phase.as_str());
    let text = attempt.map_or("", |a| a.text.as_str());

    macro_rules! gave_up {
        ($level:ident, $reason:ident) => {
            tracing::$level!(
                mail.id = %mail,
                %recipient,
                subject = subject(),
                relay,
                phase,
                code,
                enhanced,
                text,
                reason = %$reason,
                "gave up"
            )
        };
    }

    match kind {
        EventKind::Delivered => {
            tracing::info!(
                mail.id = %mail,
                %recipient,
                subject = subject(),
                relay,
                code,
                enhanced,
                text,
                "delivered"
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
        EventKind::Dead { reason } => match reason {
            DeadReason::Rejected | DeadReason::Suppressed => gave_up!(warn, reason),
            _ => gave_up!(error, reason),
        },
        EventKind::Cancelled => tracing::info!(mail.id = %mail, %recipient, "cancelled"),
        _ => {}
    }
}

//! Reports what happened to a mail, once it is on disk: to the log, the metrics, and callers that
//! wait for the mail. The journal has published it already.

use super::engine::Engine;
use crate::delivery::{Attempt, Delivery, EventKind, Stage};
use crate::mail::{Address, MailId};
use crate::observe::{DeliveryResult, log};
use crate::spool::Manifest;

impl Engine {
    /// Reports a delivery as it was recorded; `tried` says whether it was attempted.
    pub(super) fn announce_recorded(&self, manifest: &Manifest, delivery: &Delivery, tried: bool) {
        let now = self.clock.now();
        let attempt = delivery.attempts.last().filter(|_| tried);
        let relay = attempt.map(|attempt| attempt.relay.as_str());
        let (kind, result) = match delivery.stage {
            Stage::Delivered { .. } => (EventKind::Delivered, Some(DeliveryResult::Delivered)),
            Stage::Dead { reason, .. } => (EventKind::Dead { reason }, Some(DeliveryResult::Dead)),
            Stage::Cancelled { .. } => (EventKind::Cancelled, None),
            // Its state is the same as before, so there is nothing to report.
            Stage::Pending { .. } | Stage::Committing { .. } if !tried => return,
            Stage::Pending { due } | Stage::Committing { due } => (
                EventKind::Deferred {
                    next_attempt_at: due,
                },
                Some(DeliveryResult::Deferred),
            ),
        };

        if let Some(result) = result {
            let since_accept = now.since(manifest.accepted_at);
            self.metrics.delivery(
                relay.unwrap_or_default(),
                result,
                since_accept,
                self.clock.monotonic(),
            );
        }

        let mail = (manifest.id, manifest.subject.as_str());
        self.announce(mail, &delivery.recipient, attempt, &kind);
    }

    /// Reports a step of one delivery to the log and to callers that wait for the mail. `mail` is
    /// its id, and its subject if it is known.
    pub(super) fn announce(
        &self,
        mail: (MailId, &str),
        recipient: &Address,
        attempt: Option<&Attempt>,
        kind: &EventKind,
    ) {
        log(mail, recipient, attempt, kind);
        self.waiters.notify(mail.0);
    }
}

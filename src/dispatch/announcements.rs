//! Telling what happened to a mail: log, event, metric, and those who wait for it. That it was
//! accepted is told before all else, whoever comes first.

use std::collections::HashMap;

use parking_lot::Mutex;

use super::engine::Engine;
use crate::delivery::{Attempt, Delivery, Stage};
use crate::mail::{Address, MailId, Timestamp};
use crate::observe::{DeliveryResult, EventKind, log};
use crate::spool::Manifest;

/// Mails that are being accepted. A sender may have one before its receipt is out: whoever tells of
/// it first tells first that it was accepted.
#[derive(Default)]
pub(super) struct Announcements(Mutex<HashMap<MailId, Unannounced>>);

/// A mail that is being accepted, perhaps by several who hand it in at once.
struct Unannounced {
    /// Since when.
    at: Timestamp,
    holders: usize,
    told: bool,
}

impl Announcements {
    /// Notes that a mail is being accepted.
    pub(super) fn begin_accepting(&self, mail: MailId, at: Timestamp) {
        let mut unannounced = self.0.lock();
        let entry = unannounced.entry(mail).or_insert(Unannounced {
            at,
            holders: 0,
            told: false,
        });
        entry.holders += 1;
    }

    /// The mail was accepted, or it was not; once for each
    /// [`begin_accepting`](Self::begin_accepting).
    pub(super) fn end_accepting(&self, mail: MailId) {
        let mut unannounced = self.0.lock();
        if let Some(entry) = unannounced.get_mut(&mail) {
            entry.holders -= 1;
            if entry.holders == 0 {
                unannounced.remove(&mail);
            }
        }
    }
}

impl Engine {
    /// Tells that a mail was accepted at this time, unless that was told.
    pub(super) fn announce_accepted(&self, mail: MailId, accepted_at: Timestamp) {
        let mut unannounced = self.announcements.0.lock();
        // One that was accepted before was told then, and is handed in again.
        if let Some(entry) = unannounced
            .get_mut(&mail)
            .filter(|entry| entry.at <= accepted_at && !entry.told)
        {
            entry.told = true;
            self.events
                .tell(accepted_at, Some(mail), None, None, EventKind::Accepted);
        }
    }

    /// Tells of a delivery as it was recorded; `tried` says whether that was a try.
    pub(super) fn announce_recorded(&self, manifest: &Manifest, delivery: &Delivery, tried: bool) {
        self.announce_accepted(manifest.id, manifest.accepted_at);
        let now = self.clock.now();
        let attempt = delivery.attempts.last().filter(|_| tried);
        let relay = attempt.map(|attempt| attempt.relay.as_str());
        let (kind, result) = match delivery.stage {
            Stage::Delivered { .. } => (EventKind::Delivered, Some(DeliveryResult::Delivered)),
            Stage::Dead { reason, .. } => (EventKind::Dead { reason }, Some(DeliveryResult::Dead)),
            Stage::Cancelled { .. } => (EventKind::Cancelled, None),
            // It waits as it did before: nothing has come of it.
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
        if let Some(attempt) = attempt {
            let kind = EventKind::Attempted {
                attempt: attempt.clone(),
            };
            self.events.tell(
                now,
                Some(manifest.id),
                Some(&delivery.recipient),
                relay,
                kind,
            );
        }
        self.announce(now, manifest.id, &delivery.recipient, attempt, kind);
    }

    /// Tells of a step of one delivery: log, event, and those who wait for the mail.
    pub(super) fn announce(
        &self,
        now: Timestamp,
        mail: MailId,
        recipient: &Address,
        attempt: Option<&Attempt>,
        kind: EventKind,
    ) {
        log(mail, recipient, attempt, &kind);
        let relay = attempt.map(|attempt| attempt.relay.as_str());
        self.events
            .tell(now, Some(mail), Some(recipient), relay, kind);
        self.waiters.notify(mail);
    }
}

//! The contents of a spool, in parts, while they are copied into a spool of another kind. Neither
//! spool may be open in a service.
//!
//! *Invariant:* what was told is there, or the copy fails and leaves nothing that a service would
//! open.

use bytes::Bytes;
use serde::Serialize;

use super::{Manifest, Suppression};
use crate::delivery::{Delivery, Feedback};
use crate::mail::Timestamp;

/// The bytes that are on their way at a time, about.
pub(super) const STEP_BYTES: usize = 8 * 1024 * 1024;

/// Something that a spool keeps.
pub(super) enum SpoolPart {
    Mail(Box<MailPart>),
    Suppression(Suppression),
    /// A relay over which nothing is sent.
    Paused(String),
    /// How many deliveries of an account were accepted on the last day.
    Accepted {
        account: u64,
        day: i64,
        accepted: u64,
    },
    /// What the journal is named by.
    Journal(u32),
    /// Entries of the journal, as the newest version writes them.
    JournalRecord {
        first: u64,
        events: u32,
        at: Timestamp,
        has_acts: bool,
        entries: Vec<u8>,
    },
    /// How far a named reader of it is.
    Reader {
        name: String,
        at: u64,
    },
    /// What a reader keeps.
    Kept {
        reader: String,
        key: Vec<u8>,
        value: Vec<u8>,
    },
}

/// The next part, or that there are no more; or why not.
pub(super) type NextPart = Result<Option<SpoolPart>, super::SpoolError>;

/// A mail, whole.
pub(super) struct MailPart {
    pub manifest: Manifest,
    /// All of them, in the envelope's order.
    pub deliveries: Vec<Delivery>,
    /// The message, where it is still kept.
    pub body: Option<Bytes>,
    /// Until when its idempotency key holds, where it does.
    pub key_until: Option<Timestamp>,
    /// What came back for it: for which delivery, under which name.
    pub feedback: Vec<(u16, [u8; 16], Feedback)>,
}

impl SpoolPart {
    /// About how much it weighs.
    pub(super) fn weight(&self) -> usize {
        match self {
            SpoolPart::Mail(mail) => {
                let body = mail.body.as_ref().map_or(0, Bytes::len);
                body + 512 + 256 * (mail.deliveries.len() + mail.feedback.len())
            }
            SpoolPart::JournalRecord { entries, .. } => entries.len() + 64,
            SpoolPart::Kept { key, value, .. } => key.len() + value.len() + 64,
            _ => 256,
        }
    }
}

/// What a copy took over.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CopyReport {
    /// Mails.
    pub mails: u64,
    /// Their deliveries.
    pub deliveries: u64,
    /// Of these, those that are pending.
    pub pending: u64,
    /// Entries of who is not to get mail.
    pub suppressions: u64,
    /// Events of the journal.
    pub events: u64,
    /// What was left behind, one sentence each.
    pub left: Vec<String>,
}

impl CopyReport {
    /// A part was taken over.
    pub(super) fn count(&mut self, part: &SpoolPart) {
        match part {
            SpoolPart::Mail(mail) => {
                self.mails += 1;
                self.deliveries += mail.deliveries.len() as u64;
                let pending = mail
                    .deliveries
                    .iter()
                    .filter(|one| one.stage.due().is_some());
                self.pending += pending.count() as u64;
            }
            SpoolPart::Suppression(_) => self.suppressions += 1,
            SpoolPart::JournalRecord { events, .. } => self.events += u64::from(*events),
            _ => {}
        }
    }
}

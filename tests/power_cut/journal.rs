//! What the load was about to do and what it was told is done, written down in a file beside the
//! spool: so each moment of the trace says what the spool owes.
//!
//! One line each: `will ID STATE` before a change is asked for, `did ID STATE` when it was
//! acknowledged, `note WORD` when the load begins something else. A state is what [`describe`] says
//! of a mail's deliveries, `gone` for a mail that is deleted.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::Path;

use bytes::Bytes;
use postrider::delivery::{DeadReason, Delivery, Stage};
use postrider::mail::MailId;

pub const GONE: &str = "gone";

/// A mail's deliveries in one word. That a final dot may have been sent and that this is in doubt
/// are the same to it, because opening the spool makes the one of the other.
pub fn describe(deliveries: &[Delivery]) -> String {
    let mut word = String::new();
    for delivery in deliveries {
        let tries = delivery.tries;
        let written = match delivery.stage {
            Stage::Pending { due } => write!(word, "pending:{}:{tries},", due.as_millis()),
            Stage::Committing { .. }
            | Stage::Dead {
                reason: DeadReason::InDoubt,
                ..
            } => {
                write!(word, "doubt:{tries},")
            }
            Stage::Delivered { at } => write!(word, "delivered:{}:{tries},", at.as_millis()),
            Stage::Dead { at, reason } => write!(word, "{reason}:{}:{tries},", at.as_millis()),
            Stage::Cancelled { at } => write!(word, "cancelled:{}:{tries},", at.as_millis()),
        };
        written.unwrap();
    }

    word
}

/// The body that belongs to a mail's name: any of its bytes that is lost or comes from elsewhere is
/// noticed.
pub fn body_of(id: MailId, len: usize) -> Bytes {
    let mut state = u64::from_be_bytes(*id.as_bytes().last_chunk().unwrap()) | 1;
    let mut body = Vec::with_capacity(len + 8);
    while body.len() < len {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        body.extend_from_slice(&(state ^ state >> 29).to_le_bytes());
    }
    body.truncate(len);
    body.into()
}

pub fn key_of(id: MailId) -> String {
    format!("key of {id}")
}

/// The journal as the load writes it: each entry is one write, so that it is one event of the
/// trace.
pub struct Journal(File);

impl Journal {
    pub fn open(path: &Path) -> Self {
        Journal(
            OpenOptions::new()
                .create(true)
                .append(true)
                .open(path)
                .unwrap(),
        )
    }

    pub fn will(&mut self, changes: &[(MailId, String)]) {
        self.write(
            changes
                .iter()
                .map(|(id, state)| format!("will {id} {state}\n"))
                .collect(),
        );
    }

    pub fn did(&mut self, changes: &[(MailId, String)]) {
        self.write(
            changes
                .iter()
                .map(|(id, state)| format!("did {id} {state}\n"))
                .collect(),
        );
    }

    pub fn note(&mut self, what: &str) {
        self.write(format!("note {what}\n"));
    }

    fn write(&mut self, lines: String) {
        if !lines.is_empty() {
            self.0.write_all(lines.as_bytes()).unwrap();
        }
    }
}

/// What the spool owes at one moment: for each mail the state that was acknowledged last, if any,
/// and those that were asked for since.
#[derive(Clone, Default)]
pub struct Debt {
    pub mails: BTreeMap<MailId, OwedStates>,
    /// What the load was doing.
    pub during: String,
}

#[derive(Clone, Default)]
pub struct OwedStates {
    acknowledged: Option<String>,
    asked: Vec<String>,
}

impl Debt {
    pub fn add(&mut self, lines: &str) {
        for line in lines.lines() {
            let mut words = line.split(' ');
            let (verb, word) = (words.next().unwrap(), words.next().unwrap());
            if verb == "note" {
                self.during = word.to_owned();
                continue;
            }
            let owed = self.mails.entry(word.parse().unwrap()).or_default();
            let state = words.next().unwrap().to_owned();
            match verb {
                "will" => owed.asked.push(state),
                "did" => {
                    *owed = OwedStates {
                        acknowledged: Some(state),
                        asked: Vec::new(),
                    }
                }
                other => panic!("the journal says {other}"),
            }
        }
    }
}

impl OwedStates {
    /// Whether the mail may be in this state.
    pub fn admits(&self, state: &str) -> bool {
        self.states().any(|owed| owed == state)
    }

    /// What was acknowledged last and what was asked for since.
    pub fn states(&self) -> impl Iterator<Item = &str> {
        self.acknowledged
            .iter()
            .chain(&self.asked)
            .map(String::as_str)
    }

    pub fn may_be_absent(&self) -> bool {
        self.acknowledged.is_none() || self.admits(GONE)
    }

    pub fn is_acknowledged(&self) -> bool {
        self.acknowledged.is_some()
    }
}

impl std::fmt::Display for OwedStates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let acknowledged = self.acknowledged.as_deref().unwrap_or("nothing");
        write!(f, "`{acknowledged}`, or one of {:?}", self.asked)
    }
}

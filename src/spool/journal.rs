//! The journal: the durable record of what happened, in order. Each commit of a spool contains its
//! own entries, so that neither is stored without the other. Streams of events, webhooks, the audit
//! trail and the time series read it.
//!
//! *Invariants:* nothing is read here before it is as safe as a receipt; a number is never given
//! twice; what is gone is counted, never silent.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;

use super::SpoolError;
use crate::delivery::Event;
use crate::mail::{MailId, Timestamp, days};

/// How long the journal is kept, and how large it grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JournalOptions {
    /// How long what happened is kept.
    pub keep: Duration,
    /// The most bytes of it; the oldest goes first. What a named reader has not read yet is kept
    /// beyond either bound, up to twice as much.
    pub max_size: u64,
}

impl Default for JournalOptions {
    fn default() -> Self {
        JournalOptions {
            keep: days(7),
            max_size: 1024 * 1024 * 1024,
        }
    }
}

/// What a reader gets of the journal at a time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct JournalPage {
    /// How many events before these are gone, and were not read.
    pub missed: u64,
    /// The next events, in order.
    pub events: Vec<Arc<Event>>,
    /// Where to read on.
    pub last: u64,
}

/// A value that a named reader keeps in the spool, under a name of its own; `None` removes it.
pub type ReaderChange = (Vec<u8>, Option<Vec<u8>>);

/// How far a named reader is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReaderStatus {
    /// Its name.
    pub name: String,
    /// The last event that it has done with.
    pub at: u64,
    /// How many events were gone before it read them, since the spool was opened.
    pub missed: u64,
}

/// The journal of a spool. Every method may be called from any task.
#[async_trait]
pub trait Journal: Send + Sync {
    /// Tells this journal from every other, for as long as it lives: its numbers mean nothing in
    /// another one.
    fn id(&self) -> u32;

    /// The number of the last event that may be told, and each that follows.
    fn last(&self) -> watch::Receiver<u64>;

    /// Writes what happened besides changes of mail, in the next commit. Their numbers are given
    /// there.
    async fn note(&self, events: Vec<Event>) -> Result<(), SpoolError>;

    /// The events after this number, about `most` of them or a bounded number of bytes. Empty where
    /// there are none yet.
    async fn after(&self, number: u64, most: usize) -> Result<JournalPage, SpoolError>;

    /// The number after which everything happened at this time or later, as far as it is known.
    async fn since(&self, at: Timestamp) -> Result<u64, SpoolError>;

    /// What happened to one mail after this number, as far as it is kept; and where to read on.
    async fn of_mail(&self, mail: MailId, after: u64) -> Result<JournalPage, SpoolError>;

    /// What people and programs did, the newest first: at most so many before this number.
    async fn acts(&self, before: u64, most: usize) -> Result<Vec<Arc<Event>>, SpoolError>;

    /// How far the reader of this name is; one that was not known begins after `otherwise`.
    async fn reader(&self, name: &str, otherwise: u64) -> Result<u64, SpoolError>;

    /// Notes that a reader has done with everything up to this number, and changes what it keeps,
    /// in one commit.
    async fn advance(
        &self,
        name: &str,
        to: u64,
        changes: Vec<ReaderChange>,
    ) -> Result<(), SpoolError>;

    /// Changes what a reader keeps, whoever reads it, and not how far it is: so others leave it
    /// what it is to find.
    async fn leave(&self, name: &str, changes: Vec<ReaderChange>) -> Result<(), SpoolError>;

    /// What a reader keeps under names from `from` (included) to `to` (excluded), at most so many.
    async fn kept(
        &self,
        name: &str,
        from: Vec<u8>,
        to: Vec<u8>,
        most: usize,
    ) -> Result<Vec<(Vec<u8>, Vec<u8>)>, SpoolError>;

    /// Has a named reader be read here, and by no other node that shares this spool, for as long as
    /// this one lives. Returns whether it is; where another has it, it may be ours when that one is
    /// gone. Whoever advances a reader that is another's gets [`SpoolError::StaleLease`].
    async fn hold(&self, name: &str) -> Result<bool, SpoolError> {
        let _ = name;
        Ok(true)
    }

    /// Whether a named reader is read here, as far as this is known without asking.
    fn holds(&self, name: &str) -> bool {
        let _ = name;
        true
    }

    /// Whether another node that shares this spool, and lives, reads for a named reader.
    async fn is_held_elsewhere(&self, name: &str) -> Result<bool, SpoolError> {
        let _ = name;
        Ok(false)
    }

    /// Forgets how far a reader is: it holds nothing back any more.
    async fn forget(&self, name: &str) -> Result<(), SpoolError>;

    /// The named readers.
    async fn readers(&self) -> Result<Vec<ReaderStatus>, SpoolError>;
}

//! Which mails to list.

use std::fmt;
use std::sync::Arc;

use crate::delivery::State;
use crate::mail::{Address, MailId, Priority, Submitter, Timestamp};

use super::Record;

/// Which mails to list. What is absent asks nothing. The newest come first; with a state that is
/// pending, and no range of ids, those that are due first.
///
/// A page does not search all mail: where few mails match, or they have thousands of recipients, it
/// holds fewer than asked for, or none, and says where to go on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query {
    /// At least one delivery is in this state.
    pub state: Option<State>,
    /// One of its recipients.
    pub recipient: Option<Address>,
    /// One of its tags.
    pub tag: Option<String>,
    /// Its priority.
    pub priority: Option<Priority>,
    /// Who submitted it.
    pub submitter: Option<Submitter>,
    /// Its idempotency key, as it was given.
    pub key: Option<String>,
    /// Its Message-ID, with or without its angle brackets.
    pub message_id: Option<String>,
    /// Accepted at this time or later.
    pub since: Option<Timestamp>,
    /// Accepted before this time.
    pub until: Option<Timestamp>,
    /// Its id is one of these, the first and the last included.
    pub ids: Option<(MailId, MailId)>,
    /// What else is asked of it.
    pub only: Option<RecordFilter>,
    /// The most mails in one page; 50 where it is zero, never more than 1000.
    pub limit: usize,
    /// Where the last page ended.
    pub cursor: Option<String>,
}

/// After so many deliveries a page ends, however many mails were asked for: mail may have thousands
/// of recipients, and a page is held in memory.
pub(crate) const DELIVERIES_PER_PAGE: usize = 10_000;

impl Query {
    /// How many mails one page holds.
    pub fn page_size(&self) -> usize {
        if self.limit == 0 {
            50
        } else {
            self.limit.min(1000)
        }
    }

    /// The same, of no ids but those from `first` to `last`.
    pub(crate) fn within(self, first: MailId, last: MailId) -> Self {
        let ids = match self.ids {
            Some((least, most)) => (least.max(first), most.min(last)),
            None => (first, last),
        };
        Query {
            ids: Some(ids),
            ..self
        }
    }

    /// Whether a mail is asked for, apart from its state.
    pub(crate) fn admits(&self, record: &Record) -> bool {
        let manifest = &record.manifest;
        self.ids
            .is_none_or(|(first, last)| (first..=last).contains(&manifest.id))
            && self
                .recipient
                .as_ref()
                .is_none_or(|wanted| record.deliveries.iter().any(|d| d.recipient == *wanted))
            && self
                .tag
                .as_ref()
                .is_none_or(|wanted| manifest.tags.contains(wanted))
            && self
                .priority
                .is_none_or(|wanted| manifest.priority == wanted)
            && self
                .submitter
                .as_ref()
                .is_none_or(|wanted| manifest.owner().as_ref() == Some(wanted))
            && self
                .key
                .as_deref()
                .is_none_or(|wanted| manifest.given_key() == Some(wanted))
            && self.message_id.as_ref().is_none_or(|wanted| {
                let bare = |id: &str| id.trim_matches(['<', '>']).to_owned();
                bare(&manifest.message_id) == bare(wanted)
            })
            && self.since.is_none_or(|since| manifest.accepted_at >= since)
            && self.until.is_none_or(|until| manifest.accepted_at < until)
            && self.only.as_ref().is_none_or(|only| (only.0)(record))
    }
}

/// A condition that no index knows. Equal to its clones alone.
#[derive(Clone)]
pub struct RecordFilter(Arc<dyn Fn(&Record) -> bool + Send + Sync>);

impl RecordFilter {
    /// Only mails for which `holds` says so.
    pub fn when(holds: impl Fn(&Record) -> bool + Send + Sync + 'static) -> Self {
        RecordFilter(Arc::new(holds))
    }
}

impl fmt::Debug for RecordFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RecordFilter")
    }
}

impl PartialEq for RecordFilter {
    fn eq(&self, other: &RecordFilter) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for RecordFilter {}

/// One page of mails.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// The mails; possibly none although there are more, when many had to be looked at.
    pub mails: Vec<Record>,
    /// Where the next page starts; `None` on the last one.
    pub next: Option<String>,
    /// How many mails were read for it, or seen in an index.
    pub looked_at: u64,
}

//! The audit trail, read from the journal: who did what, from where, when, and to how many mails.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Dispatcher, Error};
use crate::delivery::{Event, EventKind};
use crate::mail::{MailId, Timestamp};

/// How many operations are read at once, and how many are read for one page.
const BATCH: usize = 256;
const MOST_LOOKED_AT: usize = 16 * BATCH;

/// How far the clock may have been set back; later entries may have times that are earlier by this.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(24 * 60 * 60);

/// A query of the audit trail; the newest operations come first. An absent field matches
/// everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditQuery {
    /// Who did it: `token:NAME`, `user:NAME`, `local`, or only the name.
    pub who: Option<String>,
    /// The operation, such as `cancel`.
    pub act: Option<String>,
    /// Operations on this mail.
    pub mail: Option<MailId>,
    /// Operations on this relay.
    pub relay: Option<String>,
    /// Operations at or after this time.
    pub since: Option<Timestamp>,
    /// Operations before this time.
    pub until: Option<Timestamp>,
    /// Operations before the one with this number, to continue after the last page.
    pub before: Option<u64>,
    /// The most operations in one page; 50 if it is zero, at most 1000.
    pub limit: usize,
}

/// One operation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct AuditEntry {
    /// Its number in the journal.
    pub seq: u64,
    /// When it was done.
    pub at: Timestamp,
    /// Who did it: `token:NAME`, `user:NAME`, or `local` for the program or the machine itself. For
    /// a refused login, the claimed name.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub who: Option<String>,
    /// The network address from which it was done.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub from: Option<String>,
    /// The operation: `cancel`, `retry`, `purge`, `pause`, `resume`, `reload`, `start`, `stop`,
    /// `login_refused`, `suppress`, `unsuppress`.
    pub act: String,
    /// The number of mails or addresses.
    pub count: u64,
    /// The mail, if it was only one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub mail: Option<MailId>,
    /// The relay.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub relay: Option<String>,
    /// The search that selected the mails, if they were not named.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub filter: Option<String>,
    /// The reason, if one was given.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reason: Option<String>,
    /// Why it failed, if it did.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error: Option<String>,
    /// The version that was started.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub version: Option<String>,
}

/// One page of the audit trail.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct AuditPage {
    /// The operations, the newest first. A page may be empty although there are more, because the
    /// number of entries that are read for a page is limited.
    pub entries: Vec<AuditEntry>,
    /// Where the next page starts; absent on the last page.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub next: Option<String>,
}

impl AuditQuery {
    fn admits(&self, entry: &AuditEntry) -> bool {
        let is = |wanted: &Option<String>, found: Option<&str>| {
            wanted.as_deref().is_none_or(|wanted| found == Some(wanted))
        };
        let name = entry.who.as_deref().and_then(|who| who.split_once(':'));
        (is(&self.who, entry.who.as_deref()) || is(&self.who, name.map(|(_, name)| name)))
            && is(&self.act, Some(&entry.act))
            && is(&self.relay, entry.relay.as_deref())
            && self.mail.is_none_or(|mail| entry.mail == Some(mail))
            && self.since.is_none_or(|since| entry.at >= since)
            && self.until.is_none_or(|until| entry.at < until)
    }

    fn page_size(&self) -> usize {
        match self.limit {
            0 => 50,
            limit => limit.min(1000),
        }
    }
}

impl AuditEntry {
    fn of(event: &Event) -> Option<Self> {
        let act = event.kind.act()?.to_owned();
        let mut entry = AuditEntry {
            seq: event.seq,
            at: event.at,
            who: event.who.as_ref().map(ToString::to_string),
            from: event.from.clone(),
            act,
            count: 1,
            mail: event.mail,
            relay: event.relay.clone(),
            filter: None,
            reason: None,
            error: None,
            version: None,
        };

        match &event.kind {
            EventKind::Act { count, filter, .. } => {
                entry.count = *count;
                entry.filter.clone_from(filter);
            }
            EventKind::LoginRefused { count } => entry.count = *count,
            EventKind::RelayPaused { reason } => entry.reason.clone_from(reason),
            EventKind::Reloaded { error } => entry.error.clone_from(error),
            EventKind::Started { version } => entry.version = Some(version.clone()),
            _ => {}
        }

        Some(entry)
    }
}

impl Dispatcher {
    /// Returns a page of the audit trail, the newest operations first.
    ///
    /// # Errors
    /// [`Error::Spool`].
    pub async fn audit(&self, query: AuditQuery) -> Result<AuditPage, Error> {
        let journal = self.journal();
        let mut page = AuditPage::default();
        let mut before = query.before;
        for _ in 0..MOST_LOOKED_AT / BATCH {
            let acts: Vec<Arc<Event>> = journal.acts(before, BATCH).await?;
            for event in &acts {
                before = Some(event.seq);
                // The clock may have been set back, so events may be out of order by the tolerance.
                if query
                    .since
                    .is_some_and(|since| event.at + CLOCK_TOLERANCE < since)
                {
                    return Ok(page);
                }
                let entry = AuditEntry::of(event).filter(|entry| query.admits(entry));
                page.entries.extend(entry);
                if page.entries.len() >= query.page_size() {
                    page.next = before.map(|before| before.to_string());
                    return Ok(page);
                }
            }
            if acts.len() < BATCH {
                return Ok(page);
            }
        }

        page.next = before.map(|before| before.to_string());
        Ok(page)
    }
}

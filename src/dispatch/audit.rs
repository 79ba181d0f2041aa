//! The audit trail: who did what, from where, when, and to how many; read from the journal.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Dispatcher, Error};
use crate::delivery::{Event, EventKind};
use crate::mail::{MailId, Timestamp};

/// How many acts are read at a time, and how many are looked at for one page.
const BATCH: usize = 256;
const MOST_LOOKED_AT: usize = 16 * BATCH;

/// How much later than a clock says something may have happened.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(24 * 60 * 60);

/// A query of the audit trail; the newest acts come first. An absent field filters nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditQuery {
    /// Who did it: `token:NAME`, `user:NAME`, `local`, or the name alone.
    pub who: Option<String>,
    /// What, such as `cancel`.
    pub act: Option<String>,
    /// What was done to this mail.
    pub mail: Option<MailId>,
    /// What was done to this relay.
    pub relay: Option<String>,
    /// At this time or later.
    pub since: Option<Timestamp>,
    /// Before this time.
    pub until: Option<Timestamp>,
    /// Before the act of this number: where the last page ended.
    pub before: Option<u64>,
    /// The most acts in one page; 50 where it is zero, never more than 1000.
    pub limit: usize,
}

/// One act.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct AuditEntry {
    /// Its number in the journal.
    pub seq: u64,
    /// When.
    pub at: Timestamp,
    /// Who: `token:NAME`, `user:NAME`, or `local` for the program or the machine itself. Of a login
    /// that was refused, who it claimed to be.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub who: Option<String>,
    /// From which address.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub from: Option<String>,
    /// What: `cancel`, `retry`, `purge`, `pause`, `resume`, `reload`, `start`, `stop`,
    /// `login_refused`, `suppress`, `unsuppress`.
    pub act: String,
    /// To how many.
    pub count: u64,
    /// To which mail, where it was one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub mail: Option<MailId>,
    /// To which relay.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub relay: Option<String>,
    /// To which mails, where they were not named.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub filter: Option<String>,
    /// Why, where whoever did it said so.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reason: Option<String>,
    /// Why it did not succeed, where it did not.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error: Option<String>,
    /// The version that started.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub version: Option<String>,
}

/// One page of the audit trail.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct AuditPage {
    /// The acts, the newest first. A page may be empty although there is more, if many other
    /// entries had to be read.
    pub entries: Vec<AuditEntry>,
    /// Where the next page starts; absent on the last one.
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
    /// Who did what, when, and to how many: a page of the audit trail, the newest first.
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
                // Clocks may have been set back, but not by that much.
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

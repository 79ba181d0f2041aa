//! The suppression list: addresses that get no mail, added by users and because of feedback.
//! Checked when a mail is accepted, and again before it is sent.

use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

use tokio::sync::MutexGuard;

use super::engine::Engine;
use super::lists::Unsubscription;
use super::{Dispatcher, Error};
use crate::delivery::{DeadReason, Event, EventKind};
use crate::mail::{Address, MailId, Priority};
use crate::observe::DeliveryResult;
use crate::spool::{
    SpoolError, Suppression, SuppressionPage, SuppressionQuery, SuppressionReason, Suppressions,
};

/// The operations' names in the audit trail.
pub(super) const SUPPRESS: &str = "suppress";
const UNSUPPRESS: &str = "unsuppress";

/// The suppression list; see [`Dispatcher::suppressions`].
#[derive(Clone, Copy)]
pub struct SuppressionHandle<'a> {
    postrider: &'a Dispatcher,
}

/// How many addresses can unsubscribe at the same time.
const LOCKS: usize = 64;

/// Serializes unsubscribing for each address.
pub(super) struct UnsubscribeLocks {
    locks: [tokio::sync::Mutex<()>; LOCKS],
    hashing: RandomState,
}

impl Default for UnsubscribeLocks {
    fn default() -> Self {
        UnsubscribeLocks {
            locks: std::array::from_fn(|_| tokio::sync::Mutex::default()),
            hashing: RandomState::new(),
        }
    }
}

impl UnsubscribeLocks {
    async fn lock(&self, address: &Address) -> MutexGuard<'_, ()> {
        let hash = self.hashing.hash_one(address) as usize;
        self.locks[hash % LOCKS].lock().await
    }
}

/// The parts of a mail that matter for suppression.
pub(super) struct AddressedMail<'a> {
    pub list: Option<&'a str>,
    pub priority: Priority,
    pub recipients: Vec<Address>,
}

impl SuppressionHandle<'_> {
    /// A new entry. An entry for a bounce expires after `suppress_bounces_for`, others do not
    /// expire.
    pub fn entry(&self, address: Address, reason: SuppressionReason) -> Suppression {
        let engine = &self.postrider.inner.engine;
        let since = engine.clock.now();
        let is_bounce = reason == SuppressionReason::Bounce;
        Suppression {
            address,
            reason,
            list: None,
            since,
            until: is_bounce.then(|| since + engine.suppress_bounces_for),
            note: None,
        }
    }

    /// Adds entries; an entry with the same address, list and reason is replaced. Recorded in the
    /// audit trail.
    ///
    /// # Errors
    /// [`Error::Spool`]; [`Error::Configuration`] if the spool has no suppression list.
    pub async fn add(&self, entries: Vec<Suppression>) -> Result<(), Error> {
        let kept = self.store()?;
        if entries.is_empty() {
            return Ok(());
        }
        let (count, which) = (entries.len() as u64, describe_entries(&entries));
        kept.add(entries).await?;
        self.postrider.note_many(SUPPRESS, count, which).await;
        Ok(())
    }

    /// Removes the entries of a query, whose limit and cursor are ignored. Returns how many.
    /// Recorded in the audit trail.
    ///
    /// # Errors
    /// The same as [`SuppressionHandle::add`].
    pub async fn remove(&self, query: SuppressionQuery) -> Result<usize, Error> {
        let kept = self.store()?;
        let asked = [
            query.address.as_ref().map(|one| format!("address={one}")),
            query.reason.map(|reason| format!("reason={reason}")),
            query.list.as_ref().map(|list| format!("list={list}")),
        ];
        let asked: Vec<String> = asked.into_iter().flatten().collect();
        let mut query = SuppressionQuery {
            limit: usize::MAX,
            cursor: None,
            ..query
        };

        let mut count = 0;
        loop {
            let page = kept.page(query.clone()).await?;
            count += kept.remove(page.suppressions).await?;
            query.cursor = page.next;
            if query.cursor.is_none() {
                let which = asked.join(" ");
                let done = count as u64;
                self.postrider.note_many(UNSUPPRESS, done, which).await;
                return Ok(count);
            }
        }
    }

    /// One page of entries, sorted by address, without expired ones.
    ///
    /// # Errors
    /// [`Error::BadCursor`], or the same as [`SuppressionHandle::add`].
    pub async fn list(&self, query: SuppressionQuery) -> Result<SuppressionPage, Error> {
        let now = self.postrider.inner.engine.clock.now();
        let mut page = self.store()?.page(query).await?;
        page.suppressions.retain(|entry| entry.is_in_force(now));
        Ok(page)
    }

    fn store(&self) -> Result<&dyn Suppressions, Error> {
        let kept = self.postrider.inner.engine.spool.suppressions();
        let missing = || "this spool has no suppression list".to_owned();
        kept.ok_or_else(|| Error::Configuration(missing()))
    }
}

impl Dispatcher {
    /// The suppression list: addresses that bounced, whose owners complained or unsubscribed, or
    /// that a user added. Deliveries to them are dead as `suppressed`.
    pub fn suppressions(&self) -> SuppressionHandle<'_> {
        SuppressionHandle { postrider: self }
    }
}

impl Dispatcher {
    /// Decodes the token of an unsubscribe link; `None` if it was not made here.
    pub fn read_unsubscribe(&self, token: &str) -> Option<Unsubscription> {
        self.inner.engine.unsubscribing.as_ref()?.read(token)
    }

    /// Unsubscribes the recipient of a token from its list: they get no more mail of that list, but
    /// all other mail.
    ///
    /// # Errors
    /// The same as [`SuppressionHandle::add`].
    pub async fn unsubscribe(&self, token: &str) -> Result<Option<Unsubscription>, Error> {
        let Some(said) = self.read_unsubscribe(token) else {
            return Ok(None);
        };
        self.unsubscribe_address(&said).await?;
        Ok(Some(said))
    }

    /// Unsubscribes an address from a list; returns whether it was not unsubscribed before.
    pub(super) async fn unsubscribe_address(&self, said: &Unsubscription) -> Result<bool, Error> {
        let Unsubscription { address, list, .. } = said;
        let suppressions = self.suppressions();
        let entry = suppressions.entry(address.clone(), SuppressionReason::Unsubscribe);
        let entry = Suppression {
            list: Some(list.clone()),
            ..entry
        };

        // Two clicks are one operation, even at the same moment.
        let engine = &self.inner.engine;
        let _lock = engine.unsubscribe_locks.lock(address).await;
        let known = suppressions.store()?.of(vec![address.clone()]).await?;
        let is_it = |one: &Suppression| {
            (one.reason, &one.list) == (entry.reason, &entry.list) && one.is_in_force(entry.since)
        };
        if known.iter().flatten().any(is_it) {
            return Ok(false);
        }

        // Before the entry: if that fails, the caller gets an error and unsubscribes again.
        let event = self.unsubscribe_event(said).await?;
        if let Some(journal) = engine.spool.journal() {
            journal.note(vec![event]).await?;
        }
        suppressions.add(vec![entry]).await?;
        Ok(true)
    }

    /// The journal's event for unsubscribing.
    async fn unsubscribe_event(&self, said: &Unsubscription) -> Result<Event, Error> {
        let engine = &self.inner.engine;
        let now = engine.clock.now();
        let kind = EventKind::Unsubscribed {
            list: Some(said.list.clone()),
        };

        // The link may be used after the record of the mail was deleted.
        let event = match engine.spool.get(said.mail).await? {
            Some(record) => record.manifest.event(now, kind),
            None => Event {
                mail: Some(said.mail),
                ..Event::new(now, kind)
            },
        };
        Ok(Event {
            recipient: Some(said.address.clone()),
            ..event
        })
    }
}

/// The entries as they are named in the audit trail.
pub(super) fn describe_entries(entries: &[Suppression]) -> String {
    let [entry] = entries else {
        return format!("{} entries", entries.len());
    };
    let list = entry.list.as_deref();
    let list = list.map(|list| format!(" list={list}"));
    let list = list.unwrap_or_default();
    format!("address={} reason={}{list}", entry.address, entry.reason)
}

impl Engine {
    /// Whether the suppression list has any entries.
    pub(super) fn suppresses(&self) -> bool {
        let kept = self.spool.suppressions();
        kept.is_some_and(|kept| !kept.is_empty())
    }

    /// The indexes of the suppressed recipients of each of these mails.
    pub(super) async fn suppressed(
        &self,
        mails: &[AddressedMail<'_>],
    ) -> Result<Vec<Vec<u16>>, SpoolError> {
        let Some(kept) = self.spool.suppressions().filter(|kept| !kept.is_empty()) else {
            return Ok(vec![Vec::new(); mails.len()]);
        };
        let recipients = mails
            .iter()
            .flat_map(|mail| mail.recipients.iter().cloned());
        let found = kept
            .of(recipients.collect())
            .await
            .inspect_err(|error| tracing::error!(%error, "cannot read the suppression list"));
        let mut found = found?.into_iter();

        let now = self.clock.now();
        let of_one = |mail: &AddressedMail<'_>| {
            let mut places = Vec::new();
            for place in 0..mail.recipients.len() {
                let entries = found.next().unwrap_or_default();
                let stops = |one: &Suppression| one.stops(mail.list, mail.priority, now);
                if entries.iter().any(stops) {
                    places.extend(u16::try_from(place).ok());
                }
            }
            places
        };

        Ok(mails.iter().map(of_one).collect())
    }

    /// Reports deliveries that were dead when their mail was accepted.
    pub(super) fn announce_suppressed(&self, mail: MailId, recipients: &[Address]) {
        let reason = DeadReason::Suppressed;
        for recipient in recipients {
            let zero = Duration::ZERO;
            self.metrics.delivery("", DeliveryResult::Dead, zero, zero);
            self.announce((mail, ""), recipient, None, &EventKind::Dead { reason });
        }
    }
}

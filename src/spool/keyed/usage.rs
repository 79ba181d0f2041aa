//! How much a spool stores, counted as it changes: the bytes of its mail, for `max_size`; and the
//! number of records that nothing else refers to, so that a salvage can report how many are
//! missing.

use std::ops::ControlFlow;

use super::keys;
use super::stored_mail::StoredMail;
use crate::mail::{MailId, Timestamp};
use crate::spool::codec::{self, AcceptDelays, Totals, Usage};
use crate::spool::store::{Direction, Store};
use crate::spool::{Manifest, SpoolError};

/// About the bytes of a mail without its message: its record, timers and journal entries.
const MAIL_BYTES: u64 = 1024;
/// About the bytes of each of its deliveries.
const DELIVERY_BYTES: u64 = 512;

/// About the fewest bytes that a mail takes.
pub(super) const LEAST_BYTES: u64 = MAIL_BYTES + DELIVERY_BYTES;

/// About the bytes of a mail, with its message unless that was deleted.
pub(super) fn weight(manifest: &Manifest, is_forgotten: bool) -> u64 {
    let message = if is_forgotten { 0 } else { manifest.size };
    MAIL_BYTES + DELIVERY_BYTES * u64::from(manifest.recipients) + message
}

/// A kind of records whose number is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CountedKind {
    Key,
    Suppression,
    Reader,
}

impl CountedKind {
    /// The kind of the record under this key, if it is counted.
    pub(super) fn of(key: &[u8]) -> Option<Self> {
        match key {
            [b'k', ..] => Some(CountedKind::Key),
            [b'y', ..] => Some(CountedKind::Suppression),
            [b'J', b'r' | b'v', ..] => Some(CountedKind::Reader),
            _ => None,
        }
    }
}

impl Totals {
    /// The usage, to be changed.
    pub(super) fn kept(&mut self) -> &mut Usage {
        self.kept.get_or_insert_default()
    }

    pub(super) fn add_mail(&mut self, manifest: &Manifest) {
        self.kept().bytes += weight(manifest, false);
        self.drift.get_or_insert_default().widen(manifest);
    }

    pub(super) fn remove_mail(&mut self, manifest: &Manifest, is_forgotten: bool) {
        let bytes = &mut self.kept().bytes;
        *bytes = bytes.saturating_sub(weight(manifest, is_forgotten));
    }

    /// Subtracts the message of a mail, which is deleted.
    pub(super) fn forget_message(&mut self, manifest: &Manifest) {
        let bytes = &mut self.kept().bytes;
        *bytes = bytes.saturating_sub(manifest.size);
    }

    /// Adds `by` to the number of records of this kind.
    pub(super) fn count(&mut self, kind: CountedKind, by: i64) {
        let kept = self.kept();
        let count = match kind {
            CountedKind::Key => &mut kept.keys,
            CountedKind::Suppression => &mut kept.suppressions,
            CountedKind::Reader => &mut kept.readers,
        };
        *count = count.saturating_add_signed(by);
    }
}

impl AcceptDelays {
    fn widen(&mut self, manifest: &Manifest) {
        let made_at = manifest.id.made_at().as_millis();
        let after = manifest.accepted_at.as_millis().saturating_sub(made_at);
        self.least = self.least.min(after);
        self.most = self.most.max(after);
    }

    /// The range of the ids of mail that was accepted from `since` (included) to `until`
    /// (excluded).
    pub(super) fn ids(
        self,
        since: Option<Timestamp>,
        until: Option<Timestamp>,
    ) -> (MailId, MailId) {
        let moved =
            |at: Timestamp, by: i64| Timestamp::from_millis(at.as_millis().saturating_sub(by));
        let first = since.map(|since| MailId::first_made_at(moved(since, self.most)));
        let last = until.map(|until| MailId::last_made_at(moved(until, self.least)));
        (
            first.unwrap_or(MailId::from_bytes([0; 16])),
            last.unwrap_or(MailId::from_bytes([u8::MAX; 16])),
        )
    }
}

/// The totals of a store. Numbers that an older version did not count are counted now.
pub(super) fn totals<S: Store>(store: &S) -> Result<Totals, SpoolError> {
    let mut totals = match store.get(keys::TOTALS)? {
        Some(bytes) => codec::decode(&bytes)?,
        None => Totals::default(),
    };
    if totals.kept.is_none() || totals.drift.is_none() {
        let (kept, drift) = count(store)?;
        totals.kept = Some(kept);
        totals.drift = Some(drift);
    }
    Ok(totals)
}

/// Counts what a store contains, and by how much the times in its ids differ from the times of
/// acceptance.
pub(super) fn count<S: Store>(store: &S) -> Result<(Usage, AcceptDelays), SpoolError> {
    let mut totals = Totals::default();
    let mut drift = AcceptDelays::default();
    let (from, to) = keys::starting_with(b"m");
    store.walk(&from, &to, Direction::Up, &mut |_, value| {
        if let Ok(mail) = StoredMail::from_bytes(value.to_vec()) {
            totals.kept().bytes += weight(&mail.manifest, mail.is_forgotten());
            drift.widen(&mail.manifest);
        }
        ControlFlow::Continue(())
    })?;

    for prefix in [&b"k"[..], keys::SUPPRESSION, b"J"] {
        let (from, to) = keys::starting_with(prefix);
        store.walk(&from, &to, Direction::Up, &mut |key, _| {
            if let Some(kind) = CountedKind::of(key) {
                totals.count(kind, 1);
            }
            ControlFlow::Continue(())
        })?;
    }

    Ok((*totals.kept(), drift))
}

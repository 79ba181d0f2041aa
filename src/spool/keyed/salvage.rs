//! Rebuilds a store from the records that were saved from a damaged one: derives what can be
//! derived, reports what is missing, and queues no mail that may have been sent. Called by
//! `sled/salvage.rs`, while nobody else has the store open.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use super::backlog::{self, Account};
use super::idempotency::KeyHash;
pub(crate) use super::journal::JournalEnd;
use super::journal::verification::{self, JournalContinuation};
use super::keys::{self, QueuePosition, Timer};
use super::reader;
use super::stored_mail::StoredMail;
use super::transition::count_finished;
use super::usage::{self, CountedKind};
use crate::delivery::{DeadReason, Delivery, Stage};
use crate::mail::{MailId, Timestamp};
use crate::spool::codec::{self, KeyRecord, Totals, Usage};
use crate::spool::store::{Batch, Direction, Store};
use crate::spool::{SpoolError, SpoolOptions};

/// The bytes that are written in one step.
const STEP_BYTES: usize = 256 * 1024;

/// About how many bytes a batch writes.
pub(crate) fn weight(batch: &Batch) -> usize {
    let weigh = |value: &Option<Vec<u8>>| value.as_ref().map_or(0, Vec::len);
    batch
        .iter()
        .map(|(key, value)| key.len() + weigh(value))
        .sum()
}

/// The result of a salvage.
#[derive(Default)]
pub(crate) struct SalvageReport {
    /// Mails that are complete.
    pub mails: u64,
    /// What is missing, one sentence each.
    pub missing: Vec<String>,
}

/// Whether the record under this key is saved; the others are derived.
pub(crate) fn is_saved(key: &[u8]) -> bool {
    !matches!(
        key.first(),
        None | Some(0 | b't' | b'c' | b'n' | b'x' | b'a' | b'w')
    )
}

/// What is known about the last commit, besides the saved records.
#[derive(Default)]
pub(crate) struct LastCommit {
    /// The totals, if those of the last commit were found.
    pub totals: Option<Vec<u8>>,
    /// The end of the journal; `None` if the journal was copied completely.
    pub journal: Option<JournalEnd>,
    /// Whether nothing of the last commit was found.
    pub is_end_missing: bool,
}

/// Brings a store into order that contains the saved records, and syncs it. `is_outdated` says
/// whether a newer value was written under a delivery's key than the one that was found.
pub(crate) fn put_in_order<S: Store>(
    store: &S,
    now: Timestamp,
    last_commit: LastCommit,
    is_outdated: &dyn Fn(&[u8]) -> bool,
) -> Result<SalvageReport, SpoolError> {
    let mut order = StoreRebuild {
        store,
        now,
        is_outdated,
        before: last_commit
            .totals
            .and_then(|bytes| codec::decode(&bytes).ok()),
        batch: Batch::new(),
        named: BTreeSet::new(),
        totals: Totals::default(),
        accounts: BTreeMap::new(),
        timers: Vec::new(),
        ordered: SalvageReport::default(),
    };

    let mails = order.ids(b"m")?;
    let mut queued = order.queued()?;
    for id in &mails {
        order.mail(*id, &mut queued)?;
    }

    // The positions that remain belong to mails whose records are lost.
    for (place, keys) in queued {
        if !mails.contains(&place.mail) {
            order.named.insert(place.mail);
            order.miss(format!("mail {}: its record is missing", place.mail));
        }
        for key in keys {
            order.remove(key)?;
        }
    }

    order.remove_strays(&mails)?;
    order.idempotency_keys(&mails)?;
    order.totals.quarantined += reader::all_keys(store, b"z", usize::MAX)?.len() as u64;
    order.count()?;
    if last_commit.is_end_missing {
        order.miss("what was written last is missing, whatever it was".into());
    }
    if let Some(end) = last_commit.journal {
        order.report_vanished(&mails)?;
        order.journal(end)?;
    }

    order.finish()
}

type QueueKeys = BTreeMap<QueuePosition, Vec<Vec<u8>>>;

struct StoreRebuild<'a, S> {
    store: &'a S,
    now: Timestamp,
    is_outdated: &'a dyn Fn(&[u8]) -> bool,
    /// The totals as they were found, if they were.
    before: Option<Totals>,
    batch: Batch,
    /// The missing mails that the report names.
    named: BTreeSet<MailId>,
    totals: Totals,
    /// How many pending deliveries each token and user has submitted, and how many of today's
    /// exist.
    accounts: BTreeMap<u64, Account>,
    timers: Vec<Timer>,
    ordered: SalvageReport,
}

impl<S: Store> StoreRebuild<'_, S> {
    /// The mails whose ids are in keys of this kind.
    fn ids(&self, kind: &[u8]) -> Result<BTreeSet<MailId>, SpoolError> {
        let (from, to) = keys::starting_with(kind);
        let mut ids = BTreeSet::new();
        self.store.walk(&from, &to, Direction::Up, &mut |key, _| {
            ids.extend(keys::mail_of(key));
            ControlFlow::Continue(())
        })?;
        Ok(ids)
    }

    /// Every position in a queue, with the keys that contain it.
    fn queued(&self) -> Result<QueueKeys, SpoolError> {
        let mut queued = QueueKeys::new();
        for kind in [b"u", b"q"] {
            for key in reader::all_keys(self.store, kind, usize::MAX)? {
                let old = keys::read_old_queue(&key).map(|read| read.place);
                let place = old.or_else(|| keys::read_queue(&key).map(|read| read.place));
                if let Some(place) = place {
                    queued.entry(place).or_default().push(key);
                }
            }
        }
        Ok(queued)
    }

    fn mail(&mut self, id: MailId, queued: &mut QueueKeys) -> Result<(), SpoolError> {
        let (mail, deliveries) = match reader::whole(self.store, id) {
            Ok(Some(whole)) => (whole.mail, whole.deliveries),
            Ok(None) => return Ok(()),
            Err(error) => {
                self.miss(format!("mail {id}: {error}"));
                return Ok(());
            }
        };

        let manifest = &mail.manifest;
        let mut is_whole = deliveries.len() == usize::from(manifest.recipients);
        if !is_whole {
            self.miss(format!(
                "mail {id}: {} of its {} deliveries are there",
                deliveries.len(),
                manifest.recipients
            ));
        }

        let body = reader::body(self.store, &mail)?.whole();
        if let Err(error) = &body
            && !mail.is_forgotten()
        {
            is_whole = false;
            self.miss(format!("mail {id}: {error}"));
        }

        if manifest.accepted_at.day() == self.now.day() {
            let account = self.accounts.entry(manifest.account()).or_default();
            account.accepted += u64::from(manifest.recipients);
        }

        let changed = self.changed(id)?;
        for (index, delivery) in deliveries {
            let is_as_put = !changed.contains(&index);
            self.delivery(&mail, index, delivery, is_as_put, body.is_ok(), queued)?;
        }

        self.ordered.mails += u64::from(is_whole);
        self.timers.push(Timer::Mail(id));
        self.step(false)
    }

    /// The deliveries of a mail that have a record of their own.
    fn changed(&self, id: MailId) -> Result<BTreeSet<u16>, SpoolError> {
        let keys = reader::keys_between(self.store, keys::deliveries(id), usize::MAX)?;
        Ok(keys.iter().map(|key| keys::index_of(key)).collect())
    }

    fn delivery(
        &mut self,
        mail: &StoredMail,
        index: u16,
        mut delivery: Delivery,
        is_as_put: bool,
        has_body: bool,
        queued: &mut QueueKeys,
    ) -> Result<(), SpoolError> {
        let manifest = &mail.manifest;
        let id = manifest.id;
        if let Some(due) = delivery.stage.due() {
            let place = QueuePosition {
                due,
                mail: id,
                index,
            };

            if self.is_unqueued(id, index)? {
                return Ok(());
            }

            let is_queued =
                queued.contains_key(&place) && !(self.is_outdated)(&keys::delivery(id, index));
            let sentence = |what: &str| {
                format!(
                    "mail {id}: {what}, so that it is a dead letter for {}",
                    delivery.recipient.as_str()
                )
            };

            if is_queued && has_body {
                queued.remove(&place);
                self.totals.pending[manifest.priority.index()] += 1;
                self.accounts.entry(manifest.account()).or_default().pending += 1;
                if matches!(delivery.stage, Stage::Committing { .. }) {
                    self.batch.push((keys::marked(id, index), Some(Vec::new())));
                }
                return Ok(());
            }

            // It is in no queue, so it must not be sent: it becomes a dead letter.
            let reason = if has_body || mail.is_forgotten() {
                self.miss(sentence(if is_as_put {
                    "it may have been sent and what became of it is missing"
                } else {
                    "it may have been sent since, and what became of it is missing"
                }));
                DeadReason::InDoubt
            } else {
                DeadReason::Quarantined
            };
            delivery.stage = Stage::Dead {
                at: self.now,
                reason,
            };
            let record = codec::encode(&delivery);
            self.batch.push((keys::delivery(id, index), Some(record)));
        }

        count_finished(&mut self.totals, &delivery.stage, manifest.priority, 1);
        if let Some(key) = keys::finished(&delivery.stage, id, index) {
            self.batch.push((key, Some(Vec::new())));
        }
        Ok(())
    }

    /// Removes and reports deliveries and chunks whose mail is lost.
    fn remove_strays(&mut self, mails: &BTreeSet<MailId>) -> Result<(), SpoolError> {
        let mut strays: BTreeMap<MailId, Vec<String>> = BTreeMap::new();
        let mut keys = Vec::new();
        for kind in [b"d", b"b"] {
            let (from, to) = keys::starting_with(kind);
            self.store
                .walk(&from, &to, Direction::Up, &mut |key, value| {
                    let id = keys::mail_of(key).filter(|id| !mails.contains(id));
                    if let Some(id) = id {
                        let recipients = strays.entry(id).or_default();
                        if let (b"d", Ok(delivery)) = (kind, codec::decode::<Delivery>(value)) {
                            recipients.push(delivery.recipient.as_str().to_owned());
                        }
                        keys.push(key.to_vec());
                    }
                    ControlFlow::Continue(())
                })?;
        }

        for (id, recipients) in strays {
            self.named.insert(id);
            self.miss(match recipients.as_slice() {
                [] => format!("mail {id}: its record is missing"),
                some => format!("mail {id}, to {}: its record is missing", some.join(", ")),
            });
        }

        for key in keys {
            self.remove(key)?;
        }
        Ok(())
    }

    /// Removes idempotency keys that are past their time and whose mail is gone. Adds missing keys
    /// of mails that exist.
    fn idempotency_keys(&mut self, mails: &BTreeSet<MailId>) -> Result<(), SpoolError> {
        let (key_hash, new_secret) = KeyHash::of_spool(self.store)?;
        if let Some(secret) = &new_secret {
            self.batch
                .push((keys::SECRET.to_vec(), Some(codec::encode(secret))));
        }

        let mut found = BTreeMap::new();
        let (from, to) = keys::starting_with(b"k");
        self.store
            .walk(&from, &to, Direction::Up, &mut |key, value| {
                found.insert(key.to_vec(), codec::decode::<KeyRecord>(value));
                ControlFlow::Continue(())
            })?;

        let before = self.before.as_ref().and_then(|totals| totals.kept);
        let are_missing = before.is_none_or(|kept| kept.keys > found.len() as u64);
        let are_worthless = new_secret.is_some() && !found.is_empty();
        if are_worthless {
            self.miss(
                "the secret of the idempotency keys is missing: mail that is no longer kept would \
                 be accepted again under the key that it had"
                    .into(),
            );
        }

        for (key, record) in &found {
            let is_over = match record {
                Ok(record) => record.until <= self.now && !mails.contains(&record.mail),
                Err(_) => false,
            };
            if is_over || are_worthless {
                self.remove(key.clone())?;
            } else if let Some(hash) = key.get(1..).and_then(|hash| hash.try_into().ok()) {
                self.totals.count(CountedKind::Key, 1);
                self.timers.push(Timer::Key(hash));
                self.step(false)?;
            }
        }

        if !are_missing && !are_worthless {
            return Ok(());
        }
        for id in mails {
            let Ok(Some(manifest)) = reader::manifest(self.store, *id) else {
                continue;
            };
            let Some(hash) = key_hash.of(&manifest) else {
                continue;
            };
            let old = key_hash.old(&manifest).map(keys::idempotency);
            let key = keys::idempotency(hash);
            let is_known = |key: &Vec<u8>| found.contains_key(key) && !are_worthless;
            if is_known(&key) || old.as_ref().is_some_and(is_known) {
                continue;
            }
            let record = KeyRecord {
                mail: *id,
                fingerprint: manifest.fingerprint,
                until: manifest.accepted_at + SpoolOptions::default().idempotency_ttl,
            };
            self.batch.push((key, Some(codec::encode(&record))));
            self.totals.count(CountedKind::Key, 1);
            self.timers.push(Timer::Key(hash));
            self.step(false)?;
        }

        Ok(())
    }

    /// Counts the other records, and compares all numbers with the totals.
    fn count(&mut self) -> Result<(), SpoolError> {
        let (counted, drift) = usage::count(self.store)?;
        self.totals.drift = Some(drift);
        let keys = self.totals.kept().keys;
        *self.totals.kept() = Usage { keys, ..counted };
        let Some(before) = self.before.take() else {
            return Ok(());
        };

        let deliveries = |totals: &Totals| {
            let finished = totals.finished.iter().flatten();
            totals.pending.iter().chain(finished).sum::<u64>()
        };

        let (was, is) = (deliveries(&before), deliveries(&self.totals));
        if was > is {
            self.miss(format!("of {was} deliveries {} are missing", was - is));
        }

        let Some(kept) = before.kept else {
            return Ok(());
        };
        for (was, is, what) in [
            (
                kept.keys,
                keys,
                "idempotency keys are missing: mail that is no longer kept would be accepted again \
                 under them",
            ),
            (
                kept.suppressions,
                counted.suppressions,
                "entries are missing that say who is not to get mail",
            ),
            (
                kept.readers,
                counted.readers,
                "values are missing that readers of the journal keep",
            ),
        ] {
            if was > is {
                self.miss(format!("{} of {was} {what}", was - is));
            }
        }

        Ok(())
    }

    /// Reports mails of which no record is left, but which are pending by the journal.
    fn report_vanished(&mut self, mails: &BTreeSet<MailId>) -> Result<(), SpoolError> {
        let is_unnamed = |id: &MailId| !mails.contains(id) && !self.named.contains(id);
        for (id, mail) in verification::waiting(self.store, &is_unnamed)? {
            let accepted = mail.accepted_at.map(|at| format!("accepted at {at}"));
            let message_id = mail.message_id.map(|id| format!("Message-ID {id}"));
            let known: Vec<String> = accepted.into_iter().chain(message_id).collect();
            self.miss(format!(
                "mail {id}: nothing of it is left, and the journal says that it waits ({})",
                known.join(", ")
            ));
        }
        Ok(())
    }

    /// Continues the journal, and reports what is missing in it.
    fn journal(&mut self, end: JournalEnd) -> Result<(), SpoolError> {
        let lost = self.ordered.missing.len() as u64;
        let JournalContinuation { gaps, batch } =
            verification::resume_numbering(self.store, end, self.now, lost)?;
        for (from, to) in gaps {
            self.miss(format!(
                "of the journal, {} events: {from} to {to}",
                to - from + 1
            ));
        }
        self.batch.extend(batch);
        self.step(false)
    }

    /// Whether this delivery has yet to be queued, which happens when the spool is opened.
    fn is_unqueued(&self, id: MailId, index: u16) -> Result<bool, SpoolError> {
        let next = self.store.get(&keys::unqueued(id))?;
        let next = next.map(|next| next.try_into().map_or(0, u16::from_be_bytes));
        Ok(next.is_some_and(|next| index >= next))
    }

    fn remove(&mut self, key: Vec<u8>) -> Result<(), SpoolError> {
        self.batch.push((key, None));
        self.step(false)
    }

    fn miss(&mut self, what: String) {
        if !self.ordered.missing.contains(&what) {
            self.ordered.missing.push(what);
        }
    }

    fn step(&mut self, is_last: bool) -> Result<(), SpoolError> {
        if self.timers.len() >= 64 || (is_last && !self.timers.is_empty()) {
            let (key, value) = keys::timers(self.now, &std::mem::take(&mut self.timers));
            self.batch.push((key, Some(value)));
        }
        if is_last || weight(&self.batch) >= STEP_BYTES {
            self.store.write(std::mem::take(&mut self.batch))?;
            self.store.sync()?;
        }
        Ok(())
    }

    /// Counts what each token and user has pending. The number accepted today is the
    /// stored one, or the number of today's mails that exist if that is larger.
    fn accounts(&mut self) -> Result<(), SpoolError> {
        let mut found = BTreeMap::new();
        backlog::accounts(self.store, &mut |name, account| {
            found.insert(name, account);
        })?;

        let today = self.now.day();
        let mut counted = std::mem::take(&mut self.accounts);
        counted.remove(&0);
        for name in found.keys() {
            counted.entry(*name).or_default();
        }

        for (name, mut account) in counted {
            match found.get(&name) {
                Some(was) if was.day == today => {
                    account.accepted = was.accepted.max(account.accepted)
                }
                Some(was) if account.accepted == 0 => {
                    (account.day, account.accepted) = (was.day, was.accepted);
                }
                _ => {}
            }
            if account.day == 0 {
                account.day = today;
            }
            self.batch
                .push((keys::account(name), Some(account.to_bytes())));
            self.step(false)?;
        }

        Ok(())
    }

    fn finish(mut self) -> Result<SalvageReport, SpoolError> {
        self.accounts()?;
        let totals = codec::encode(&self.totals);
        self.batch.push((keys::TOTALS.to_vec(), Some(totals)));
        self.step(true)?;
        Ok(self.ordered)
    }
}

//! Exports the parts of a keyed spool that nobody has open, to copy it into a spool of another
//! kind, and imports the parts of such a copy. Records that follow from others (timers, totals,
//! accounts) are derived, as after a salvage.

use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;

use bytes::Bytes;

use super::backlog::{self, Account};
use super::feedback;
use super::idempotency::KeyHash;
use super::inspect::{self, WholeMail};
use super::journal;
use super::journal::entry::{self, JournalEntry, PendingEntries, RecordEntries, RecordHead};
use super::keys::{self, QueuePosition};
use super::queue_head::QueueEntry;
use super::queue_ids::QueueIds;
use super::reader;
use super::salvage::{LastCommit, put_in_order};
use super::stored_mail::{self, CHUNK_BYTES};
use super::suppressions;
use crate::delivery::Event;
use crate::mail::{MailId, Timestamp};
use crate::spool::SpoolError;
use crate::spool::codec::{self, KeyRecord};
use crate::spool::store::{Batch, Direction, Store};
use crate::spool::transfer::{MailPart, SpoolPart};

/// The bytes that are written in one step.
const STEP_BYTES: usize = 256 * 1024;
/// The most bytes of a record of the journal; a longer one is written as several.
const RECORD_BYTES: usize = 3800;

type PartVisitor<'a> = &'a mut dyn FnMut(SpoolPart) -> Result<(), SpoolError>;

/// Calls `each` with all parts of a store. Fails if the store is inconsistent.
pub(in crate::spool) fn export<S: Store>(
    store: &S,
    each: PartVisitor<'_>,
) -> Result<(), SpoolError> {
    let problems = inspect::walk(store, &mut |_| Ok(()))?;
    if let Some(first) = problems.first() {
        return Err(SpoolError::Unreadable(format!(
            "{first}, and {} more problems; nothing was copied: `postrider spool verify` tells \
             all, `postrider spool salvage` saves what is whole",
            problems.len() - 1
        )));
    }

    let until = key_records(store)?;
    inspect::walk(store, &mut |seen: WholeMail<'_>| {
        let feedback = feedback::of_mail(store, seen.manifest.id)?;
        each(SpoolPart::Mail(Box::new(MailPart {
            manifest: seen.manifest.clone(),
            deliveries: seen.deliveries.to_vec(),
            body: seen.body.map(Bytes::copy_from_slice),
            key_until: until.get(&seen.manifest.id).copied(),
            feedback,
        })))
    })?;

    let mut accounts = Vec::new();
    backlog::accounts(store, &mut |name, account| accounts.push((name, account)))?;
    for (account, Account { day, accepted, .. }) in accounts {
        each(SpoolPart::Accepted {
            account,
            day,
            accepted,
        })?;
    }

    for (key, value) in pairs(store, keys::SUPPRESSION)? {
        if let Some(entry) = suppressions::read(&key, &value) {
            each(SpoolPart::Suppression(entry))?;
        }
    }

    for relay in reader::paused(store)? {
        each(SpoolPart::Paused(relay))?;
    }

    export_journal(store, each)
}

/// The times until which idempotency keys are kept, by mail.
fn key_records<S: Store>(store: &S) -> Result<HashMap<MailId, Timestamp>, SpoolError> {
    let mut until = HashMap::new();
    let (from, to) = keys::starting_with(b"k");
    store.walk(&from, &to, Direction::Up, &mut |_, value| {
        if let Ok(record) = codec::decode::<KeyRecord>(value) {
            until.insert(record.mail, record.until);
        }
        ControlFlow::Continue(())
    })?;
    Ok(until)
}

/// A key and its value.
type KeyValue = (Vec<u8>, Vec<u8>);

fn pairs<S: Store>(store: &S, prefix: &[u8]) -> Result<Vec<KeyValue>, SpoolError> {
    let mut pairs = Vec::new();
    let (from, to) = keys::starting_with(prefix);
    store.walk(&from, &to, Direction::Up, &mut |key, value| {
        pairs.push((key.to_vec(), value.to_vec()));
        ControlFlow::Continue(())
    })?;
    Ok(pairs)
}

fn export_journal<S: Store>(store: &S, each: PartVisitor<'_>) -> Result<(), SpoolError> {
    let id = store.get(keys::JOURNAL_ID)?;
    if let Some(id) = id.and_then(|id| <[u8; 4]>::try_from(id).ok()) {
        each(SpoolPart::Journal(u32::from_be_bytes(id)))?;
    }

    let mut outcome = Ok(());
    let (from, to) = keys::starting_with(keys::JOURNAL);
    store.walk(&from, &to, Direction::Up, &mut |key, record| {
        let Some(first) = keys::read_journal(key) else {
            return ControlFlow::Continue(());
        };
        outcome = parts_of_record(first, record)
            .and_then(|parts| parts.into_iter().try_for_each(&mut *each));
        match outcome {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    })?;

    outcome?;
    for (key, value) in pairs(store, keys::READER)? {
        let name = std::str::from_utf8(&key[keys::READER.len()..]);
        let place = codec::decode::<journal::ReaderCursor>(&value);
        if let (Ok(name), Ok(place)) = (name, place) {
            let name = name.to_owned();
            each(SpoolPart::Reader { name, at: place.at })?;
        }
    }

    for (key, value) in pairs(store, keys::KEPT)? {
        if let Some((reader, key)) = keys::read_kept(&key) {
            each(SpoolPart::Kept { reader, key, value })?;
        }
    }

    Ok(())
}

/// The parts of a journal record, in the current format.
fn parts_of_record(first: u64, record: &[u8]) -> Result<Vec<SpoolPart>, SpoolError> {
    let (head, entries) = codec::decode_first::<RecordHead>(record)?;
    // From version 2 on, entries contain the submitter.
    if record.first() != Some(&1) {
        let record = RecordEntries {
            at: head.at,
            events: head.events,
            has_acts: head.has_acts,
            entries: entries.to_vec(),
        };
        return Ok(vec![part((first, record))]);
    }

    let reencoded = reencoded(first, &entry::events(first, record)?);
    Ok(reencoded.into_iter().map(part).collect())
}

fn part((first, record): (u64, RecordEntries)) -> SpoolPart {
    SpoolPart::JournalRecord {
        first,
        events: record.events,
        at: record.at,
        has_acts: record.has_acts,
        entries: record.entries,
    }
}

/// Writes events into records of bounded size; returns each with the number of its first event.
fn reencoded(first: u64, events: &[Event]) -> Vec<(u64, RecordEntries)> {
    let mut entries = PendingEntries::default();
    for event in events {
        entries.push(JournalEntry::of(event));
    }

    let mut next = first;
    let numbered = entries.into_parts().into_iter().map(|record| {
        let first = next;
        next += u64::from(record.events);
        (first, record)
    });
    numbered.collect()
}

/// Imports parts into an empty store.
pub(in crate::spool) struct StoreImport<'a, S> {
    store: &'a S,
    hash: KeyHash,
    ids: QueueIds,
    batch: Batch,
    /// About the bytes that the current step writes.
    weight: usize,
    accepted: BTreeMap<u64, (i64, u64)>,
    /// The bytes of the journal's records so far.
    written: u64,
}

impl<'a, S: Store> StoreImport<'a, S> {
    pub(in crate::spool) fn into(store: &'a S) -> Result<Self, SpoolError> {
        let (hash, secret) = KeyHash::of_spool(store)?;
        let mut batch = Batch::new();
        if let Some(secret) = secret {
            batch.push((keys::SECRET.to_vec(), Some(codec::encode(&secret))));
        }

        Ok(StoreImport {
            store,
            hash,
            ids: QueueIds::default(),
            batch,
            weight: 0,
            accepted: BTreeMap::new(),
            written: 0,
        })
    }

    pub(in crate::spool) fn take(&mut self, part: SpoolPart) -> Result<(), SpoolError> {
        match part {
            SpoolPart::Mail(mail) => self.mail(*mail)?,
            SpoolPart::Suppression(entry) => {
                let (key, value) = suppressions::record(&entry);
                self.put(key, value)?;
            }
            SpoolPart::Paused(relay) => self.put(keys::paused(&relay), Vec::new())?,
            SpoolPart::Accepted {
                account,
                day,
                accepted,
            } => _ = self.accepted.insert(account, (day, accepted)),
            SpoolPart::Journal(id) => {
                self.put(keys::JOURNAL_ID.to_vec(), id.to_be_bytes().to_vec())?;
            }
            SpoolPart::JournalRecord {
                first,
                events,
                at,
                has_acts,
                entries,
            } => {
                let record = RecordEntries {
                    at,
                    events,
                    has_acts,
                    entries,
                };
                let (head, record) = self.encoded(&record);
                if record.len() <= RECORD_BYTES {
                    return self.record(first, &head, record);
                }

                for (first, record) in reencoded(first, &entry::events(first, &record)?) {
                    let (head, record) = self.encoded(&record);
                    self.record(first, &head, record)?;
                }
            }
            SpoolPart::Reader { name, at } => {
                let place = codec::encode(&journal::ReaderCursor { at });
                self.put(keys::reader(&name), place)?;
            }
            SpoolPart::Kept { reader, key, value } => self.put(keys::kept(&reader, &key), value)?,
        }

        Ok(())
    }

    /// Encodes entries as the next record of the journal.
    fn encoded(&self, record: &RecordEntries) -> (RecordHead, Vec<u8>) {
        let head = RecordHead {
            skipped: 0,
            before: self.written,
            events: record.events,
            at: record.at,
            has_acts: record.has_acts,
            is_early: false,
        };
        let record = entry::record(&head, &record.entries);
        (head, record)
    }

    fn record(&mut self, first: u64, head: &RecordHead, record: Vec<u8>) -> Result<(), SpoolError> {
        self.written += record.len() as u64;
        if head.has_acts {
            self.put(keys::acts(first), Vec::new())?;
        }
        self.put(keys::journal(first), record)
    }

    fn mail(&mut self, mail: MailPart) -> Result<(), SpoolError> {
        let MailPart {
            manifest,
            deliveries,
            body,
            key_until,
            feedback,
        } = mail;
        let id = manifest.id;
        for (index, name, feedback) in feedback {
            self.put(keys::feedback(id, index, &name), codec::encode(&feedback))?;
        }

        let bytes = body.as_deref().unwrap_or_default();
        if !stored_mail::is_small(bytes.len()) {
            for (number, chunk) in (0u32..).zip(bytes.chunks(CHUNK_BYTES)) {
                self.put(keys::chunk(id, number), chunk.to_vec())?;
            }
        }

        for (index, delivery) in (0u16..).zip(stored_mail::beside_the_record(&deliveries)) {
            self.put(keys::delivery(id, index), codec::encode(delivery))?;
        }

        for (index, delivery) in (0u16..).zip(&deliveries) {
            let Some(due) = delivery.stage.due() else {
                continue;
            };
            let queue = match self.ids.id(&delivery.route) {
                Some(queue) => queue,
                None => {
                    let queue = self.ids.next(0);
                    self.ids.insert(delivery.route.clone(), queue);
                    let name = delivery.route.as_str().as_bytes().to_vec();
                    self.put(keys::route(queue), name)?;
                    queue
                }
            };

            let place = QueuePosition {
                due,
                mail: id,
                index,
            };
            let key = keys::queue(queue, manifest.priority, &place);
            self.put(key, QueueEntry::of_delivery(&manifest, delivery).to_bytes())?;
        }

        if let (Some(until), Some(hash)) = (key_until, self.hash.of(&manifest)) {
            let record = KeyRecord {
                mail: id,
                fingerprint: manifest.fingerprint,
                until,
            };
            self.put(keys::idempotency(hash), codec::encode(&record))?;
        }

        let record = match body {
            Some(body) => stored_mail::record(&manifest, &deliveries, &body),
            None => stored_mail::forgotten_record(&manifest, &deliveries),
        };

        self.put(keys::manifest(id), record)
    }

    fn put(&mut self, key: Vec<u8>, value: Vec<u8>) -> Result<(), SpoolError> {
        self.weight += key.len() + value.len();
        self.batch.push((key, Some(value)));
        if self.weight >= STEP_BYTES {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), SpoolError> {
        self.weight = 0;
        self.store.write(std::mem::take(&mut self.batch))?;
        self.store.sync()
    }

    /// Derives the other records. Fails if the result is inconsistent.
    pub(in crate::spool) fn finish(mut self, now: Timestamp) -> Result<(), SpoolError> {
        self.flush()?;
        let ordered = put_in_order(self.store, now, LastCommit::default(), &|_| false)?;
        if let Some(missing) = ordered.missing.first() {
            return Err(SpoolError::Unreadable(format!(
                "what was copied is not whole: {missing}"
            )));
        }

        for (name, (day, accepted)) in std::mem::take(&mut self.accepted) {
            let key = keys::account(name);
            let known = self.store.get(&key)?;
            let known = known.and_then(|bytes| Account::from_bytes(&bytes));
            let account = Account {
                day,
                accepted,
                ..known.unwrap_or_default()
            };
            self.put(key, account.to_bytes())?;
        }

        self.flush()
    }
}

//! Checks whether a journal is complete, when a spool is verified or salvaged.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use super::entry::{self, JournalEntry, PendingEntries, RecordHead};
use super::{ReaderCursor, SKIPPED_NUMBERS, follows};
use crate::delivery::{Event, EventKind};
use crate::mail::{Address, MailId, Submitter, Timestamp};
use crate::spool::SpoolError;
use crate::spool::codec;
use crate::spool::keyed::keys;
use crate::spool::store::{Batch, Direction, Store};

/// A range of consecutive events: the first and the last number.
pub(in crate::spool::keyed) type EventRange = (u64, u64);

/// What a walk through a journal found.
#[derive(Default)]
pub(in crate::spool::keyed) struct JournalFindings {
    /// How many events can be read.
    pub events: u64,
    /// The ranges that are missing.
    pub gaps: Vec<EventRange>,
    /// Other problems, one sentence each.
    pub problems: Vec<String>,
    /// The last number that was used.
    last: u64,
    /// The bytes of all records that were ever written.
    written: u64,
    /// Whether some events may have been published before they were on disk.
    is_early: bool,
}

/// Reads a whole journal. Deleted events and gaps that were reported before are not reported.
pub(in crate::spool::keyed) fn walk<S: Store>(store: &S) -> Result<JournalFindings, SpoolError> {
    let mut found = JournalFindings::default();
    let (from, to) = keys::starting_with(keys::JOURNAL);
    let mut is_first = true;
    store.walk(&from, &to, Direction::Up, &mut |key, value| {
        let Some(first) = keys::read_journal(key) else {
            found
                .problems
                .push("the journal holds a key that cannot be read".into());
            return ControlFlow::Continue(());
        };
        let read = entry::head(value).and_then(|head| Ok((head, entry::events(first, value)?)));
        let (head, events) = match read {
            Ok(read) => read,
            Err(error) => {
                found
                    .problems
                    .push(format!("event {first} of the journal: {error}"));
                return ControlFlow::Continue(());
            }
        };
        let before = follows(first, &head);
        if first <= found.last {
            found
                .problems
                .push(format!("event {first} of the journal is there twice"));
        } else if before > found.last && !is_first {
            found.gaps.push((found.last + 1, before));
        }
        is_first = false;
        found.events += events.len() as u64;
        found.last = found.last.max(first + u64::from(head.events) - 1);
        found.written = found.written.max(head.before + value.len() as u64);
        found.is_early |= head.is_early;
        ControlFlow::Continue(())
    })?;

    let known = known_gaps(store)?;
    found.gaps.retain(|gap| !known.contains(gap));
    Ok(found)
}

/// Gaps that were found and reported before.
fn known_gaps<S: Store>(store: &S) -> Result<Vec<EventRange>, SpoolError> {
    let mut gaps = Vec::new();
    let (from, to) = keys::starting_with(keys::LOST);
    store.walk(&from, &to, Direction::Up, &mut |key, value| {
        let last = value.try_into().ok().map(u64::from_be_bytes);
        gaps.extend(keys::read_lost(key).zip(last));
        ControlFlow::Continue(())
    })?;
    Ok(gaps)
}

/// What the journal records about a mail.
#[derive(Default)]
pub(in crate::spool::keyed) struct JournaledMail {
    /// When it was accepted, if that entry is still there.
    pub accepted_at: Option<Timestamp>,
    pub message_id: Option<String>,
    /// The recipients that entries name, and whether the delivery to each has ended.
    has_ended: BTreeMap<Address, bool>,
}

impl JournaledMail {
    /// Whether a delivery of the mail may still be pending, going by the entries.
    fn is_waiting(&self) -> bool {
        let mut ended = self.has_ended.values();
        self.has_ended.is_empty() || ended.any(|has_ended| !has_ended)
    }
}

/// The mails that have pending deliveries, going by the journal, among those that `is_asked`
/// selects. Entries from before an earlier salvage are ignored: that salvage reported them.
pub(in crate::spool::keyed) fn waiting<S: Store>(
    store: &S,
    is_asked: &dyn Fn(&MailId) -> bool,
) -> Result<BTreeMap<MailId, JournaledMail>, SpoolError> {
    let mut mails: BTreeMap<MailId, JournaledMail> = BTreeMap::new();
    let (from, to) = keys::starting_with(keys::JOURNAL);
    store.walk(&from, &to, Direction::Up, &mut |key, value| {
        // A record that cannot be read is reported as a gap.
        let first = keys::read_journal(key).unwrap_or_default();
        for event in entry::events(first, value).unwrap_or_default() {
            apply(event, is_asked, &mut mails);
        }
        ControlFlow::Continue(())
    })?;

    mails.retain(|_, mail| mail.is_waiting());
    Ok(mails)
}

fn apply(
    event: Event,
    is_asked: &dyn Fn(&MailId) -> bool,
    mails: &mut BTreeMap<MailId, JournaledMail>,
) {
    if matches!(&event.kind, EventKind::Act { act, .. } if act == SALVAGE) {
        mails.clear();
        return;
    }
    let Some(id) = event.mail.filter(is_asked) else {
        return;
    };
    let has_ended = match event.kind {
        EventKind::Accepted => {
            let mail = mails.entry(id).or_default();
            mail.accepted_at = Some(event.at);
            mail.message_id = event.message_id;
            return;
        }
        EventKind::Purged => {
            mails.remove(&id);
            return;
        }
        EventKind::Deferred { .. } | EventKind::Retried => false,
        EventKind::Delivered | EventKind::Dead { .. } | EventKind::Cancelled => true,
        _ => return,
    };

    let mail = mails.entry(id).or_default();
    mail.message_id = mail.message_id.take().or(event.message_id);
    if let Some(recipient) = event.recipient {
        mail.has_ended.insert(recipient, has_ended);
    }
}

/// What is known about the end of a journal, from outside its records.
#[derive(Clone, Copy, Default)]
pub(crate) struct JournalEnd {
    /// The number of the last published event.
    pub last: u64,
    /// Whether later events may have been published.
    pub may_be_more: bool,
}

/// How the journal of a salvaged store continues: with an entry for the salvage, under a number
/// that was never used; and the ranges that are missing.
pub(in crate::spool::keyed) struct JournalContinuation {
    pub gaps: Vec<EventRange>,
    pub batch: Batch,
}

/// Continues the journal that was found. `lost` is the number of other missing records.
pub(in crate::spool::keyed) fn resume_numbering<S: Store>(
    store: &S,
    end: JournalEnd,
    now: Timestamp,
    lost: u64,
) -> Result<JournalContinuation, SpoolError> {
    let found = walk(store)?;
    let mut gaps = found.gaps;
    let last = end.last.max(furthest_reader(store)?).max(found.last);
    if last > found.last {
        gaps.push((found.last + 1, last));
    }

    let skipped = if end.may_be_more || found.is_early {
        SKIPPED_NUMBERS
    } else {
        0
    };

    let first = last + 1 + skipped;
    let mut batch = Batch::new();
    for part in salvaged(now, lost).into_parts() {
        let head = RecordHead {
            skipped,
            before: found.written,
            events: part.events,
            at: part.at,
            has_acts: part.has_acts,
            is_early: false,
        };
        batch.push((
            keys::journal(first),
            Some(entry::record(&head, &part.entries)),
        ));
        batch.push((keys::acts(first), Some(Vec::new())));
    }

    for (from, to) in &gaps {
        batch.push((keys::lost(*from), Some(to.to_be_bytes().to_vec())));
    }
    Ok(JournalContinuation { gaps, batch })
}

/// The name of a salvage in the journal.
const SALVAGE: &str = "salvage";

/// The journal entry of a salvage.
fn salvaged(now: Timestamp, lost: u64) -> PendingEntries {
    let mut event = Event::new(
        now,
        EventKind::Act {
            act: SALVAGE.to_owned(),
            count: lost,
            filter: None,
        },
    );
    event.who = Some(Submitter::Local);
    let mut entries = PendingEntries::default();
    entries.push(JournalEntry::of(&event));
    entries
}

/// The highest position of a reader: the events up to it existed.
fn furthest_reader<S: Store>(store: &S) -> Result<u64, SpoolError> {
    let mut furthest = 0;
    let (from, to) = keys::starting_with(keys::READER);
    store.walk(&from, &to, Direction::Up, &mut |_, value| {
        if let Ok(ReaderCursor { at }) = codec::decode::<ReaderCursor>(value) {
            furthest = at.max(furthest);
        }
        ControlFlow::Continue(())
    })?;
    Ok(furthest)
}

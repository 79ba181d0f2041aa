//! Reads the journal: the latest events from memory, older ones from the store.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use memchr::memmem::Finder;

use super::entry::{self, RecordHead};
use super::follows;
use crate::delivery::Event;
use crate::mail::{MailId, Timestamp};
use crate::spool::keyed::{SpoolState, keys, reader};
use crate::spool::store::{Direction, Store};
use crate::spool::{JournalPage, SpoolError};

/// The most bytes that are read from the store for one page.
const PAGE_BYTES: usize = 256 * 1024;
/// The most bytes of the journal that are searched for one mail's events; in a longer range only
/// the times in the mail's record are searched.
const MOST_LOOKED_THROUGH: u64 = 32 * 1024 * 1024;
/// The most bytes that are read in all for one mail's events.
const MOST_READ: usize = 256 * 1024 * 1024;
/// How long after its id was made a mail may have been accepted, by another clock.
const CLOCK_LEEWAY: Duration = Duration::from_secs(3600);
/// How long before and after a time in a mail's record its entry is searched.
const ENTRY_WINDOW: Duration = Duration::from_secs(30);

/// The first record that can be read, with the number of its first event.
pub(super) fn first_record<S: Store>(store: &S) -> Result<Option<(u64, RecordHead)>, SpoolError> {
    record_from(store, 0)
}

/// The first record from this number on that can be read.
fn record_from<S: Store>(store: &S, number: u64) -> Result<Option<(u64, RecordHead)>, SpoolError> {
    let mut found = None;
    let (_, to) = keys::starting_with(keys::JOURNAL);
    store.walk(
        &keys::journal(number),
        &to,
        Direction::Up,
        &mut |key, value| {
            if let (Some(first), Ok(head)) = (keys::read_journal(key), entry::head(value)) {
                found = Some((first, head));
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        },
    )?;
    Ok(found)
}

/// The key of the record that contains this number, or of the next record.
fn start<S: Store>(store: &S, number: u64) -> Result<Vec<u8>, SpoolError> {
    let mut start = keys::journal(number);
    let (from, _) = keys::starting_with(keys::JOURNAL);
    let to = keys::journal(number.saturating_add(1));
    store.walk(&from, &to, Direction::Down, &mut |key, value| {
        let first = keys::read_journal(key);
        if let (Some(first), Ok(head)) = (first, entry::head(value))
            && first + u64::from(head.events) > number
        {
            start = key.to_vec();
        }
        ControlFlow::Break(())
    })?;

    Ok(start)
}

/// A page while it is read.
struct PageBuilder {
    page: JournalPage,
    /// Whether the following events belong to the next page.
    is_over: bool,
}

impl PageBuilder {
    fn after(number: u64) -> Self {
        let page = JournalPage {
            last: number,
            ..JournalPage::default()
        };
        PageBuilder {
            page,
            is_over: false,
        }
    }

    /// Adds a record to the page, unless events are missing before it: then the page ends.
    fn take(
        &mut self,
        first: u64,
        head: &RecordHead,
        events: impl FnOnce() -> Option<Vec<Arc<Event>>>,
    ) {
        let after = self.page.last;
        let follows = follows(first, head);
        let missing = follows.saturating_sub(after);
        if missing > 0 && !self.page.events.is_empty() {
            self.is_over = true;
            return;
        }
        let Some(events) = events() else { return };
        self.page.missed += missing;
        let new = events.into_iter().filter(|event| event.seq > after);
        self.page.events.extend(new);
        self.page.last = first + u64::from(head.events) - 1;
    }
}

/// The events after `number`, from the store.
pub(in crate::spool::keyed) fn after<S: Store>(
    shared: &SpoolState<S>,
    number: u64,
    most: usize,
) -> Result<JournalPage, SpoolError> {
    let last_event = *shared.journal.last.borrow();
    let mut reading = PageBuilder::after(number);
    if number >= last_event {
        return Ok(reading.page);
    }

    let store = &shared.store;
    let from = start(store, number + 1)?;
    let (_, to) = keys::starting_with(keys::JOURNAL);

    let mut bytes = 0;
    store.walk(&from, &to, Direction::Up, &mut |key, value| {
        let Some(first) = keys::read_journal(key) else {
            return ControlFlow::Continue(());
        };
        if first > last_event || reading.page.events.len() >= most || bytes >= PAGE_BYTES {
            reading.is_over = true;
            return ControlFlow::Break(());
        }
        bytes += value.len();
        if let Ok(head) = entry::head(value) {
            reading.take(first, &head, || {
                let events = shared.journal.record_cache.events(first, value)?;
                Some(events.to_vec())
            });
        }
        if reading.is_over {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    })?;

    // No record that can be read follows.
    if reading.page.events.is_empty() && !reading.is_over && reading.page.last < last_event {
        reading.page.missed += last_event - reading.page.last;
        reading.page.last = last_event;
    }

    Ok(reading.page)
}

/// The events after `number`; `None` if some of them are not in memory.
pub(in crate::spool::keyed) fn recent<S>(
    shared: &SpoolState<S>,
    number: u64,
    most: usize,
) -> Option<JournalPage> {
    let recent = shared.journal.recent.lock();
    let front = recent.records.front()?;
    if front.follows() > number {
        return None;
    }

    let from = recent
        .records
        .partition_point(|record| record.last() <= number);
    let mut wanted = Vec::new();

    let mut events = 0;
    for record in recent.records.range(from..) {
        if events >= most {
            break;
        }
        events += record.head.events as usize;
        wanted.push(Arc::clone(record));
    }
    drop(recent);

    let mut reading = PageBuilder::after(number);
    for record in wanted {
        reading.take(record.first, &record.head, || {
            Some(record.events().to_vec())
        });
        if reading.is_over {
            break;
        }
    }

    Some(reading.page)
}

/// The number after which all events are from this time or later.
pub(in crate::spool::keyed) fn since<S: Store>(
    shared: &SpoolState<S>,
    at: Timestamp,
) -> Result<u64, SpoolError> {
    let store = &shared.store;
    let last_event = *shared.journal.last.borrow();
    let Some((first, head)) = first_record(store)? else {
        return Ok(last_event);
    };

    if head.at >= at {
        return Ok(follows(first, &head));
    }

    // `low` is in a record from before that time, `high` is not.
    let (mut low, mut high) = (first, last_event + 1);
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        match record_from(store, middle)? {
            Some((found, head)) if found < high && head.at < at => low = found,
            _ => high = middle,
        }
    }

    let page = after(shared, low.saturating_sub(1), 1)?;
    let earlier = page.events.iter().rev().find(|event| event.at < at);
    Ok(earlier.map_or(page.last, |event| event.seq))
}

/// The events of one mail after `number`. Fast however old they are: the mail's record contains the
/// times of its events, and the range between them is searched only if it is short.
pub(in crate::spool::keyed) fn of_mail<S: Store>(
    shared: &SpoolState<S>,
    mail: MailId,
    number: u64,
) -> Result<JournalPage, SpoolError> {
    let last_event = *shared.journal.last.borrow();
    let mut page = JournalPage {
        last: last_event.max(number),
        ..JournalPage::default()
    };

    let finder = Finder::new(mail.as_bytes());
    let mut left = MOST_READ;
    for (from, to) in stretches(shared, mail)? {
        let begin = start(&shared.store, from.max(number) + 1)?;
        let end = keys::journal(to.saturating_add(1));
        shared
            .store
            .walk(&begin, &end, Direction::Up, &mut |key, value| {
                let Some(first) = keys::read_journal(key).filter(|_| left > 0) else {
                    return ControlFlow::Break(());
                };
                left = left.saturating_sub(value.len());
                if first > last_event {
                    return ControlFlow::Break(());
                }
                if finder.find(value).is_some() {
                    let seen = page.events.last().map_or(number, |event| event.seq);
                    let events = entry::events(first, value).unwrap_or_default();
                    let of_it = events
                        .into_iter()
                        .filter(|event| event.seq > seen && event.mail == Some(mail));
                    page.events.extend(of_it.map(Arc::new));
                }
                ControlFlow::Continue(())
            })?;
    }

    Ok(page)
}

/// The ranges of numbers that may contain events of a mail.
fn stretches<S: Store>(
    shared: &SpoolState<S>,
    mail: MailId,
) -> Result<Vec<(u64, u64)>, SpoolError> {
    let last_event = *shared.journal.last.borrow();
    let record = match reader::record(shared, mail) {
        Ok(record) => record,
        Err(SpoolError::Unreadable(_)) => None,
        Err(error) => return Err(error),
    };

    let Some(record) = record else {
        // The mail is deleted; its id contains the time at which it was made.
        let from = since(shared, mail.made_at().before(CLOCK_LEEWAY))?;
        return Ok(vec![(from, last_event)]);
    };

    let from = since(shared, record.manifest.accepted_at.before(ENTRY_WINDOW))?;
    let until = match record.finished_at() {
        Some(at) => since(shared, at + ENTRY_WINDOW)?,
        None => last_event,
    };

    if weight(shared, from, until)? <= MOST_LOOKED_THROUGH {
        return Ok(vec![(from, until)]);
    }

    let mut times = vec![record.manifest.accepted_at];
    for delivery in &record.deliveries {
        times.extend(delivery.attempts.iter().map(|attempt| attempt.at));
        times.extend(delivery.stage.finished_at());
    }

    times.sort_unstable();
    let mut stretches: Vec<(u64, u64)> = Vec::new();
    for at in times {
        let from = since(shared, at.before(ENTRY_WINDOW))?;
        let to = since(shared, at + ENTRY_WINDOW)?;
        match stretches.last_mut() {
            Some((_, end)) if *end >= from => *end = to.max(*end),
            _ => stretches.push((from, to)),
        }
    }

    Ok(stretches)
}

/// About how many bytes of records lie between two numbers.
fn weight<S: Store>(shared: &SpoolState<S>, from: u64, until: u64) -> Result<u64, SpoolError> {
    let start = record_from(&shared.store, from)?;
    let end = record_from(&shared.store, until.saturating_add(1))?;
    let start = start.map_or(u64::MAX, |(_, head)| head.before);
    let end = end.map_or_else(|| shared.journal.written(), |(_, head)| head.before);
    Ok(end.saturating_sub(start))
}

/// The acts of users and programs, the newest first.
pub(in crate::spool::keyed) fn acts<S: Store>(
    shared: &SpoolState<S>,
    before: u64,
    most: usize,
) -> Result<Vec<Arc<Event>>, SpoolError> {
    let last_event = *shared.journal.last.borrow();
    let (from, _) = keys::starting_with(keys::ACTS);

    let mut acts = Vec::new();
    let mut to = keys::acts(before.min(last_event.saturating_add(1)));
    while acts.len() < most {
        let mut found = None;
        shared
            .store
            .walk(&from, &to, Direction::Down, &mut |key, _| {
                found = keys::read_acts(key);
                ControlFlow::Break(())
            })?;
        let Some(first) = found else { break };
        to = keys::acts(first);
        let Some(record) = shared.store.get(&keys::journal(first))? else {
            continue;
        };
        let events = entry::events(first, &record).unwrap_or_default();
        let of_it = events.into_iter().rev().filter(|event| {
            event.kind.act().is_some() && event.seq < before && event.seq <= last_event
        });
        acts.extend(of_it.map(Arc::new));
    }

    acts.truncate(most);
    Ok(acts)
}

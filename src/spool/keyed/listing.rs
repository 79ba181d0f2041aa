//! Lists mail in pages. A page costs a bounded amount of work, however much mail there is: it ends
//! early where a filter admits few, and its cursor says where the next one continues.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::time::Duration;

use super::SpoolState;
use super::keys::{self, QueueKey, QueuePosition};
use super::reader;
use crate::delivery::State;
use crate::mail::{MailId, Timestamp};
use crate::spool::query::DELIVERIES_PER_PAGE;
use crate::spool::store::{Direction, Store};
use crate::spool::{Page, Query, Record, SpoolError};

/// The most keys and deliveries that one page reads. With a filter that admits few, pages are short
/// rather than slow.
const MOST_LOOKED_AT: usize = 100_000;

/// The work of reading a mail, in keys.
const MAIL_READ_COST: usize = 10;

/// Returns one page of the mails that `query` selects. For a pending state it walks the queues, for
/// dead and cancelled the index of that state, otherwise all mails, newest first. A time or id
/// range limits which keys are walked.
///
/// # Errors
/// [`SpoolError::BadCursor`] if the cursor is not from a page of such a query, or the store's
/// error.
pub(super) fn list<S: Store>(
    shared: &SpoolState<S>,
    query: &Query,
    now: Timestamp,
) -> Result<Page, SpoolError> {
    let index = Index::of(query);
    let Some((mut from, to)) = range(shared, query, index)? else {
        return Ok(Page::default());
    };

    let mut page = PageWalk::new(shared, query, now, index);
    loop {
        shared
            .store
            .walk(&from, &to, index.direction(), &mut |key, _| page.visit(key))?;

        match page.skip_to.take() {
            Some(next) => from = next,
            None => return page.finish(),
        }
    }
}

/// The keys from which a query finds its mails.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Index {
    /// One key for each mail.
    Mails,
    /// One key for each pending delivery, by queue and due time.
    Queues,
    /// One key for each dead delivery.
    Dead,
    /// One key for each cancelled delivery.
    Cancelled,
}

impl Index {
    fn of(query: &Query) -> Self {
        match query.state {
            Some(State::Dead) => Index::Dead,
            Some(State::Cancelled) => Index::Cancelled,
            Some(State::Delivered) | None => Index::Mails,
            Some(_) if query.ids.is_some() => Index::Mails,
            Some(_) => Index::Queues,
        }
    }

    fn prefix(self) -> &'static [u8] {
        match self {
            Index::Mails => b"m",
            Index::Queues => b"u",
            Index::Dead => b"xd",
            Index::Cancelled => b"xc",
        }
    }

    /// Mails are listed newest first, queues in the order in which they are sent.
    fn direction(self) -> Direction {
        match self {
            Index::Queues => Direction::Up,
            Index::Mails | Index::Dead | Index::Cancelled => Direction::Down,
        }
    }
}

/// The first key of a range, and its end (excluded).
type KeyRange = (Vec<u8>, Vec<u8>);

/// The range of keys to walk; `None` if no mail can match.
fn range<S>(
    shared: &SpoolState<S>,
    query: &Query,
    index: Index,
) -> Result<Option<KeyRange>, SpoolError> {
    let prefix = index.prefix();
    let (mut from, mut to) = if index == Index::Queues {
        keys::starting_with(prefix)
    } else {
        let Some((first, last)) = ids(shared, query) else {
            return Ok(None);
        };
        let key = |id: MailId| [prefix, id.as_bytes()].concat();
        (key(first), keys::starting_with(&key(last)).1)
    };

    if let Some(cursor) = &query.cursor {
        let at = unhex(cursor).filter(|key| key.starts_with(prefix));
        let at = at.ok_or(SpoolError::BadCursor)?;
        match index.direction() {
            Direction::Up => from = [&at[..], &[0]].concat(),
            Direction::Down => to = to.min(at),
        }
    }

    Ok(Some((from, to)))
}

/// A page while it is filled. [`PageWalk::visit`] is called with each key of the walk.
struct PageWalk<'a, S> {
    shared: &'a SpoolState<S>,
    query: &'a Query,
    now: Timestamp,
    index: Index,
    dues: Dues,

    page: Page,
    /// How many deliveries the mails of the page have.
    deliveries: usize,
    /// How much was read, in keys and deliveries; see [`MOST_LOOKED_AT`].
    work: usize,
    /// The last key that was visited, and its mail: the next page continues after it.
    last: Option<(Vec<u8>, MailId)>,
    /// The mails that were read. One with several recipients has several keys, and is read once.
    seen: HashSet<MailId>,
    /// The walk ended because the page is full.
    is_full: bool,
    /// The walk ended to continue at this key: all keys before it are due at another time.
    skip_to: Option<Vec<u8>>,
    /// A mail could not be read because the store failed.
    failure: Option<SpoolError>,
}

impl<'a, S: Store> PageWalk<'a, S> {
    fn new(shared: &'a SpoolState<S>, query: &'a Query, now: Timestamp, index: Index) -> Self {
        PageWalk {
            shared,
            query,
            now,
            index,
            dues: Dues::of(query.state, now),
            page: Page::default(),
            deliveries: 0,
            work: 0,
            last: None,
            seen: HashSet::new(),
            is_full: false,
            skip_to: None,
            failure: None,
        }
    }

    /// Adds the mail of this key to the page, if the query selects it. Breaks when the page is
    /// full, and when the walk should continue at `skip_to`.
    fn visit(&mut self, key: &[u8]) -> ControlFlow<()> {
        let mail = self.mail_of(key);
        if self.skip_to.is_some() {
            return ControlFlow::Break(());
        }
        let Some(mail) = mail else {
            return ControlFlow::Continue(());
        };
        if self.must_end_before(mail) {
            self.is_full = true;
            return ControlFlow::Break(());
        }

        self.last = Some((key.to_vec(), mail));
        self.work += 1;
        if self.seen.insert(mail) {
            self.page.looked_at += 1;
            self.read(mail, key);
        }
        ControlFlow::Continue(())
    }

    /// The mail that a key names. Sets `skip_to` at a place in a queue that is due at another time
    /// than the query asks for.
    fn mail_of(&mut self, key: &[u8]) -> Option<MailId> {
        match self.index {
            Index::Mails => keys::mail_of(key),
            // Their prefix is one byte longer than that of `m`.
            Index::Dead | Index::Cancelled => keys::mail_of(&key[1..]),
            Index::Queues => {
                let found = keys::read_queue(key)?;
                self.skip_to = self.dues.after(&found);
                Some(found.place.mail)
            }
        }
    }

    /// Whether the page is full and may end before a key of this mail. In an index it ends between
    /// two mails. In the queues it may end anywhere, since a mail is listed at its first place
    /// only.
    fn must_end_before(&self, mail: MailId) -> bool {
        let is_full = self.page.mails.len() >= self.query.page_size()
            || self.deliveries >= DELIVERIES_PER_PAGE
            || self.work >= MOST_LOOKED_AT;
        let is_same = self.last.as_ref().is_some_and(|(_, last)| *last == mail);
        is_full && (self.index == Index::Queues || !is_same)
    }

    /// Reads a mail's record and adds it.
    fn read(&mut self, mail: MailId, key: &[u8]) {
        match reader::record(self.shared, mail) {
            Ok(Some(record)) => self.add(record, key),
            // It was deleted meanwhile, or its manifest cannot be read: the list goes on without
            // it.
            Ok(None) | Err(SpoolError::Unreadable(_)) => {}
            Err(error) => self.failure = Some(error),
        }
    }

    /// Adds a record that was found at this key, if the query selects it.
    fn add(&mut self, record: Record, key: &[u8]) {
        self.work += MAIL_READ_COST + record.deliveries.len();

        let is_in_state = self
            .query
            .state
            .is_none_or(|state| record.states(self.now).any(|one| one == state));
        let is_first =
            self.index != Index::Queues || is_first_place(self.shared, &record, &self.dues, key);
        if is_in_state && is_first && self.query.admits(&record) {
            self.deliveries += record.deliveries.len();
            self.page.mails.push(record);
        }
    }

    /// The page, with the cursor of the next one if there may be more.
    fn finish(mut self) -> Result<Page, SpoolError> {
        if let Some(failure) = self.failure {
            return Err(failure);
        }
        if self.is_full {
            self.page.next = self.last.map(|(key, _)| hex(&key));
        }
        Ok(self.page)
    }
}

/// The first and the last id that the query's time and id ranges allow; `None` if there is none.
fn ids<S>(shared: &SpoolState<S>, query: &Query) -> Option<(MailId, MailId)> {
    let drift = shared.totals.lock().drift.unwrap_or_default();
    let (mut first, mut last) = drift.ids(query.since, query.until);
    if let Some((least, most)) = query.ids {
        first = first.max(least);
        last = last.min(most);
    }
    (first <= last).then_some((first, last))
}

/// When the deliveries of a state are due. A queue is sorted by due time, so that deliveries that
/// are due at another time are skipped in one step, however many they are.
struct Dues {
    /// Not before this time.
    from: Option<Timestamp>,
    /// Not after this time.
    until: Option<Timestamp>,
}

impl Dues {
    fn of(state: Option<State>, now: Timestamp) -> Self {
        let (from, until) = match state {
            Some(State::Queued) => (None, Some(now)),
            Some(State::Scheduled | State::Deferred) => {
                (Some(now + Duration::from_millis(1)), None)
            }
            _ => (None, None),
        };
        Dues { from, until }
    }

    fn contain(&self, due: Timestamp) -> bool {
        self.from.is_none_or(|from| from <= due) && self.until.is_none_or(|until| due <= until)
    }

    /// The key at which to continue after a place that is due at another time; `None` for a place
    /// whose due time matches.
    fn after(&self, found: &QueueKey) -> Option<Vec<u8>> {
        let QueueKey {
            id,
            priority,
            place,
        } = found;
        match self.from {
            _ if self.contain(place.due) => None,
            Some(from) if place.due < from => {
                let first = QueuePosition {
                    due: from,
                    mail: MailId::from_bytes([0; 16]),
                    index: 0,
                };
                Some(keys::queue(*id, *priority, &first))
            }
            _ => Some(keys::starting_with(&keys::queue_prefix(*id, *priority)).1),
        }
    }
}

/// Whether `key` is the first of the mail's places in the queues, among those that are walked: a
/// mail with several pending deliveries has several, and is listed at the first.
fn is_first_place<S>(shared: &SpoolState<S>, record: &Record, dues: &Dues, key: &[u8]) -> bool {
    let manifest = &record.manifest;
    let ids = shared.ids.read();
    let places = (0u16..)
        .zip(&record.deliveries)
        .filter_map(|(index, delivery)| {
            let place = QueuePosition {
                due: delivery.stage.due().filter(|due| dues.contain(*due))?,
                mail: manifest.id,
                index,
            };
            Some(keys::queue(
                ids.id(&delivery.route)?,
                manifest.priority,
                &place,
            ))
        });

    places.min().is_none_or(|first| first.as_slice() >= key)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.is_ascii() || !text.len().is_multiple_of(2) {
        return None;
    }
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok())
        .collect()
}

//! Lists mail, page by page.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::time::Duration;

use super::SpoolState;
use super::keys::{self, QueueKey, QueuePosition};
use super::reader::record;
use crate::delivery::State;
use crate::mail::{MailId, Timestamp};
use crate::spool::query::DELIVERIES_PER_PAGE;
use crate::spool::store::{Direction, Store};
use crate::spool::{Page, Query, Record, SpoolError};

/// The most keys and deliveries that one page looks at. A filter that admits few gives short pages
/// rather than a long wait.
const MOST_LOOKED_AT: usize = 100_000;

/// How much more work it is to read a mail than to see its key.
const MAIL_READ_COST: usize = 10;

/// One page. By a pending state it walks the queues, by dead or cancelled their index, otherwise
/// all mails, newest first; of these no more than the ids and times that are asked for.
pub(super) fn list<S: Store>(
    shared: &SpoolState<S>,
    query: &Query,
    now: Timestamp,
) -> Result<Page, SpoolError> {
    let (prefix, way): (&[u8], Direction) = match query.state {
        Some(State::Dead) => (b"xd", Direction::Down),
        Some(State::Cancelled) => (b"xc", Direction::Down),
        Some(State::Delivered) | None => (b"m", Direction::Down),
        Some(_) if query.ids.is_some() => (b"m", Direction::Down),
        Some(_) => (b"u", Direction::Up),
    };

    let (mut from, mut to) = match prefix {
        b"u" => keys::starting_with(prefix),
        _ => match ids(shared, query) {
            Some((first, last)) => {
                let key = |id: MailId| [prefix, id.as_bytes()].concat();
                (key(first), keys::starting_with(&key(last)).1)
            }
            None => return Ok(Page::default()),
        },
    };
    if let Some(cursor) = &query.cursor {
        let at = unhex(cursor).filter(|key| key.starts_with(prefix));
        let at = at.ok_or(SpoolError::BadCursor)?;
        match way {
            Direction::Up => from = [&at[..], &[0]].concat(),
            Direction::Down => to = to.min(at),
        }
    }

    let mut page = Page::default();
    let mut last: Option<(Vec<u8>, MailId)> = None;

    // A mail with several recipients stands in an index several times, and is read once.
    let mut seen = HashSet::new();
    let (mut work, mut deliveries) = (0, 0);
    let mut broken = Ok(());

    let dues = Dues::of(query.state, now);
    let mut full = false;
    loop {
        let mut elsewhere = None;
        shared.store.walk(&from, &to, way, &mut |key, _| {
            let mail = match prefix {
                b"m" => keys::mail_of(key),
                b"u" => {
                    let read = keys::read_queue(key);
                    elsewhere = read.as_ref().and_then(|read| dues.after(read));
                    read.map(|read| read.place.mail)
                }
                _ => keys::mail_of(&key[1..]),
            };
            if elsewhere.is_some() {
                return ControlFlow::Break(());
            }
            let Some(mail) = mail else {
                return ControlFlow::Continue(());
            };
            // In an index of one delivery a key, a page ends between two mails. Not so in the
            // queues: there a mail is told at its first place, whatever page the others are on.
            let is_same = last.as_ref().is_some_and(|(_, last)| *last == mail);
            let may_end = prefix == b"u" || !is_same;
            let is_full =
                page.mails.len() >= query.page_size() || deliveries >= DELIVERIES_PER_PAGE;
            if may_end && (is_full || work >= MOST_LOOKED_AT) {
                full = true;
                return ControlFlow::Break(());
            }
            last = Some((key.to_vec(), mail));
            work += 1;
            if !seen.insert(mail) {
                return ControlFlow::Continue(());
            }
            page.looked_at += 1;
            match record(shared, mail) {
                Ok(Some(record)) => {
                    work += MAIL_READ_COST + record.deliveries.len();
                    let in_state = query
                        .state
                        .is_none_or(|state| record.states(now).any(|s| s == state));
                    let first = prefix != b"u" || is_first_place(shared, &record, &dues, key);
                    if in_state && first && query.admits(&record) {
                        deliveries += record.deliveries.len();
                        page.mails.push(record);
                    }
                }
                Ok(None) => {}
                // A manifest that cannot be read hides one mail, not the list.
                Err(SpoolError::Unreadable(_)) => {}
                Err(error) => broken = Err(error),
            }
            ControlFlow::Continue(())
        })?;

        match elsewhere {
            Some(place) => from = place,
            None => break,
        }
    }

    broken?;
    if full {
        page.next = last.map(|(key, _)| hex(&key));
    }
    Ok(page)
}

/// The range in which the ids lie of what is asked for; `None` where there is none.
fn ids<S>(shared: &SpoolState<S>, query: &Query) -> Option<(MailId, MailId)> {
    let drift = shared.totals.lock().drift.unwrap_or_default();
    let (mut first, mut last) = drift.ids(query.since, query.until);
    if let Some((least, most)) = query.ids {
        first = first.max(least);
        last = last.min(most);
    }
    (first <= last).then_some((first, last))
}

/// When the deliveries of a state are due. Each queue is sorted by that, so that what is due at
/// another time is passed over at once, however much it is.
struct Dues {
    /// From this time on.
    from: Option<Timestamp>,
    /// Until then.
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

    /// Where to go on after a place that is due at another time; `None` at any other place.
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

/// A mail with several pending deliveries stands in the queues several times: it is listed at the
/// first of those that are walked.
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

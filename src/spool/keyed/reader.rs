//! Looks things up. Runs off the async threads, beside the writer.

use std::collections::{BTreeMap, HashSet};
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use super::keys::{self, Place, QueueId, Slot};
use super::queue_head::{Entry, REFILL};
use super::queues::QueueName;
use super::stored_mail::{CHUNK, StoredMail};
use super::{SpoolState, feedback};
use crate::delivery::{Delivery, Route, Stage, State};
use crate::mail::{MailId, Priority, Timestamp};
use crate::spool::codec;
use crate::spool::store::{Store, Walk};
use crate::spool::{Claim, Lease, Manifest, Page, Query, Record, SpoolError, SpoolStats};

/// The most keys and deliveries that one page looks at. A filter that admits few gives short pages
/// rather than a long wait.
const LOOKED_AT: usize = 100_000;

/// How much more work it is to read a mail than to see its key.
const MAIL_WORK: usize = 10;

/// About what the change of a delivery writes besides its record.
const CHANGE_BYTES: usize = 256;

pub(super) fn manifest<S: Store>(store: &S, id: MailId) -> Result<Option<Manifest>, SpoolError> {
    Ok(StoredMail::read(store, id)?.map(|mail| mail.manifest))
}

/// A mail and what became of it.
pub(super) struct MailState {
    pub mail: StoredMail,
    /// The deliveries that can be read, by their index: as they were put, or as they are since they
    /// changed.
    pub deliveries: BTreeMap<u16, Delivery>,
    /// Whether there are others, which cannot be read.
    pub is_damaged: bool,
}

pub(super) fn whole<S: Store>(store: &S, id: MailId) -> Result<Option<MailState>, SpoolError> {
    Ok(some_of(store, id, 0, usize::MAX)?.map(|(whole, _)| whole))
}

/// A mail and its deliveries from one on, about as many as take so many bytes when they are written
/// again; and which comes next.
pub(super) fn some_of<S: Store>(
    store: &S,
    id: MailId,
    first: u16,
    most: usize,
) -> Result<Option<(MailState, Option<u16>)>, SpoolError> {
    let (_, to) = keys::deliveries(id);
    let mut changed = Vec::new();
    let (mut bytes, mut next) = (0_usize, None);
    store.walk(
        &keys::delivery(id, first),
        &to,
        Walk::Up,
        &mut |key, value| {
            if bytes >= most {
                next = Some(keys::index_of(key));
                return ControlFlow::Break(());
            }
            bytes = bytes.saturating_add(value.len() + CHANGE_BYTES);
            changed.push((keys::index_of(key), codec::decode(value)));
            ControlFlow::Continue(())
        },
    )?;

    // Read after them: of a mail that is removed meanwhile nothing is there, rather than how it
    // once was.
    let Some(mail) = StoredMail::read(store, id)? else {
        return Ok(None);
    };
    let mut deliveries: BTreeMap<u16, Delivery> = mail
        .all_as_put()
        .filter(|(index, _)| *index >= first && next.is_none_or(|next| *index < next))
        .collect();

    let mut is_damaged = false;
    for (index, delivery) in changed {
        match delivery {
            Ok(delivery) => {
                deliveries.insert(index, delivery);
            }
            Err(_) => {
                deliveries.remove(&index);
                is_damaged = true;
            }
        }
    }

    let whole = MailState {
        mail,
        deliveries,
        is_damaged,
    };

    Ok(Some((whole, next)))
}

/// A delivery, and whether it can be read.
pub(super) type Found = Option<Result<Delivery, SpoolError>>;

/// A delivery as it is since it changed; as it was put, if it did not.
pub(super) fn delivery<S: Store>(store: &S, mail: MailId, index: u16) -> Result<Found, SpoolError> {
    if let Some(changed) = changed_delivery(store, mail, index)? {
        return Ok(Some(changed));
    }
    match store
        .get(&keys::manifest(mail))?
        .map(StoredMail::from_bytes)
    {
        Some(Ok(mail)) => Ok(mail.as_put(index).cloned().map(Ok)),
        Some(Err(error)) => Ok(Some(Err(error))),
        None => Ok(None),
    }
}

fn changed_delivery<S: Store>(store: &S, mail: MailId, index: u16) -> Result<Found, SpoolError> {
    Ok(store
        .get(&keys::delivery(mail, index))?
        .map(|bytes| codec::decode(&bytes)))
}

pub(super) fn record<S: Store>(
    shared: &SpoolState<S>,
    id: MailId,
) -> Result<Option<Record>, SpoolError> {
    let Some(MailState {
        mail, deliveries, ..
    }) = whole(&shared.store, id)?
    else {
        return Ok(None);
    };

    let feedback = feedback::of_mail(&shared.store, id)?;
    let queues = shared.queues.lock();
    let leased = deliveries
        .keys()
        .map(|index| queues.is_leased(&(id, *index)))
        .collect();

    Ok(Some(Record {
        manifest: mail.manifest,
        deliveries: deliveries.into_values().collect(),
        leased,
        feedback: feedback
            .into_iter()
            .map(|(index, _, feedback)| (index, feedback))
            .collect(),
    }))
}

/// A mail's message, and whether it is whole.
pub(super) fn body<S: Store>(
    store: &S,
    mail: &StoredMail,
) -> Result<Result<Bytes, SpoolError>, SpoolError> {
    let manifest = &mail.manifest;
    if mail.is_forgotten() {
        return Ok(Err(SpoolError::Forgotten(manifest.id)));
    }

    let size = usize::try_from(manifest.size).unwrap_or(usize::MAX);
    if mail.body().len() == size {
        return Ok(Ok(mail.body().clone()));
    }

    let mut body = BytesMut::with_capacity(size.min(64 * 1024 * 1024));
    for number in 0..u32::try_from(size.div_ceil(CHUNK)).unwrap_or(u32::MAX) {
        match store.get(&keys::chunk(manifest.id, number))? {
            Some(chunk) => body.extend_from_slice(&chunk),
            None => break,
        }
    }

    if body.len() == size {
        Ok(Ok(body.freeze()))
    } else {
        let reason = format!(
            "the message of mail {} has {} of its {size} bytes",
            manifest.id,
            body.len()
        );
        Ok(Err(SpoolError::Unreadable(reason)))
    }
}

/// The routes that have queues, with the short names of these.
pub(super) fn routes<S: Store>(store: &S) -> Result<Vec<(QueueId, Route)>, SpoolError> {
    let mut routes = Vec::new();
    let (from, to) = keys::starting_with(b"r");
    store.walk(&from, &to, Walk::Up, &mut |key, value| {
        let route = std::str::from_utf8(value).map(|text| Route::from(text.to_owned()));
        if let (Some(id), Ok(route)) = (keys::read_route(key), route) {
            routes.push((id, route));
        }
        ControlFlow::Continue(())
    })?;
    Ok(routes)
}

pub(super) fn first_timer<S: Store>(store: &S) -> Result<Option<Timestamp>, SpoolError> {
    let (from, to) = keys::starting_with(b"t");
    let mut first = None;
    store.walk(&from, &to, Walk::Up, &mut |key, _| {
        first = keys::read_due(key);
        if first.is_some() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    })?;
    Ok(first)
}

/// Reads. sled may panic where a page is damaged; what else is kept has nothing to do with that.
pub(super) fn guarded<T>(
    read: impl FnOnce() -> Result<T, SpoolError>,
    what: impl FnOnce() -> String,
) -> Result<T, SpoolError> {
    catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(|_| Err(SpoolError::Unreadable(what())))
}

/// Reads the next places of queues into their windows. A queue that cannot be read is left alone
/// for a while, and stops no other; returns how long.
pub(super) fn refill<S: Store>(
    shared: &SpoolState<S>,
    refills: Vec<(QueueName, Option<Place>)>,
) -> Vec<Duration> {
    let mut rests = Vec::new();
    for (queue, after) in refills {
        // Left in the middle, the queue would count as being read for ever.
        let what = || format!("the queue of {}", queue.route.as_str());
        let read = guarded(|| read_places(shared, &queue, after), what);
        let mut queues = shared.queues.lock();
        match read {
            Ok(read) => {
                let all = read.len() < REFILL;
                queues.end_refill(&queue, Some((read, all)));
            }
            Err(error) => {
                let rest = queues.end_refill(&queue, None).unwrap_or_default();
                let route = queue.route.as_str();
                tracing::error!(route, %error, ?rest, "a queue cannot be read now; its mail waits");
                rests.push(rest);
            }
        }
    }

    rests
}

fn read_places<S: Store>(
    shared: &SpoolState<S>,
    queue: &QueueName,
    after: Option<Place>,
) -> Result<Vec<(Place, Entry)>, SpoolError> {
    let Some(id) = shared.ids.read().id(&queue.route) else {
        return Ok(Vec::new());
    };
    let (start, end) = keys::starting_with(&keys::queue_prefix(id, queue.priority));
    let from = after.map_or(start, |place| {
        [&keys::queue(id, queue.priority, &place)[..], &[0]].concat()
    });

    let mut read = Vec::with_capacity(REFILL);
    shared
        .store
        .walk(&from, &end, Walk::Up, &mut |key, value| {
            if let (Some(key), Some(entry)) = (keys::read_queue(key), Entry::from_bytes(value)) {
                read.push((key.place, entry));
            }
            if read.len() < REFILL {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        })?;

    Ok(read)
}

/// Places whose mail cannot be sent, and why it matters: something cannot be read, or it may have
/// been sent already.
pub(super) struct BrokenPlaces {
    pub queue: QueueName,
    pub leases: Vec<(Lease, Place)>,
    pub in_doubt: bool,
}

/// What is read of a mail that is to be sent.
struct Parts {
    kept: StoredMail,
    body: Bytes,
    /// The deliveries that were asked for, in order.
    deliveries: Vec<Found>,
}

/// Reads what a claim needs of a mail; within, whether it can be understood.
fn parts<S: Store>(
    store: &S,
    mail: MailId,
    leases: &[(Lease, Place)],
) -> Result<Result<Parts, SpoolError>, SpoolError> {
    let Some(record) = store.get(&keys::manifest(mail))? else {
        return Ok(Err(SpoolError::Unreadable(format!(
            "mail {mail} has no manifest"
        ))));
    };

    let kept = match StoredMail::from_bytes(record) {
        Ok(kept) => kept,
        Err(error) => return Ok(Err(error)),
    };

    let mut deliveries = Vec::with_capacity(leases.len());
    for (_, place) in leases {
        let changed = changed_delivery(store, mail, place.index)?;
        deliveries.push(changed.or_else(|| kept.as_put(place.index).cloned().map(Ok)));
    }

    Ok(body(store, &kept)?.map(|body| Parts {
        kept,
        body,
        deliveries,
    }))
}

/// Reads what was leased. What is no longer as its queue said is let go; what cannot be sent comes
/// back as broken, and last the leases of what the disk did not give.
pub(super) fn claims<S: Store>(
    shared: &SpoolState<S>,
    leased: Vec<(QueueName, Vec<(Lease, Place)>)>,
) -> (Vec<Claim>, Vec<BrokenPlaces>, Vec<Lease>) {
    let mut claims = Vec::with_capacity(leased.len());
    let mut broken = Vec::new();
    let mut unread = Vec::new();
    for (queue, leases) in leased {
        let Some(mail) = leases.first().map(|(_, place)| place.mail) else {
            continue;
        };
        let read = guarded(
            || parts(&shared.store, mail, &leases),
            || format!("mail {mail}"),
        );
        let Parts {
            kept,
            body,
            deliveries: found,
        } = match read {
            Ok(Ok(parts)) => parts,
            Ok(Err(error)) => {
                tracing::error!(mail.id = %mail, %error, "set aside, because it cannot be read");
                broken.push(BrokenPlaces {
                    queue,
                    leases,
                    in_doubt: false,
                });
                continue;
            }
            Err(error) => {
                tracing::error!(mail.id = %mail, %error, "cannot be read now; tried again in a minute");
                let mut queues = shared.queues.lock();
                for (lease, _) in leases {
                    queues.set_idle(&lease.token());
                    unread.push(lease);
                }
                continue;
            }
        };
        let mut deliveries = Vec::with_capacity(leases.len());
        for ((lease, place), found) in leases.into_iter().zip(found) {
            match found {
                Some(Ok(delivery)) if delivery.stage == (Stage::Pending { due: place.due }) => {
                    deliveries.push((lease, delivery));
                }
                Some(Ok(Delivery {
                    stage: Stage::Committing { .. },
                    ..
                })) => {
                    broken.push(BrokenPlaces {
                        queue: queue.clone(),
                        leases: vec![(lease, place)],
                        in_doubt: true,
                    });
                }
                // It was changed after its queue was read: the queue on disk no longer holds it.
                Some(Ok(_)) => shared.queues.lock().end(&lease.spend()),
                None if !shared.is_queued(&queue, &place) => {
                    shared.queues.lock().end(&lease.spend())
                }
                _ => broken.push(BrokenPlaces {
                    queue: queue.clone(),
                    leases: vec![(lease, place)],
                    in_doubt: false,
                }),
            }
        }
        if !deliveries.is_empty() {
            claims.push(Claim {
                manifest: Arc::new(kept.manifest),
                body,
                deliveries,
            });
        }
    }

    (claims, broken, unread)
}

impl<S: Store> SpoolState<S> {
    fn is_queued(&self, queue: &QueueName, place: &Place) -> bool {
        let id = self.ids.read().id(&queue.route);
        id.is_some_and(|id| {
            let key = keys::queue(id, queue.priority, place);
            matches!(self.store.get(&key), Ok(Some(_)))
        })
    }
}

/// One page. By a pending state it walks the queues, by dead or cancelled their index, otherwise
/// all mails, newest first.
pub(super) fn list<S: Store>(
    shared: &SpoolState<S>,
    query: &Query,
    now: Timestamp,
) -> Result<Page, SpoolError> {
    let (prefix, way): (&[u8], Walk) = match query.state {
        Some(State::Dead) => (b"xd", Walk::Down),
        Some(State::Cancelled) => (b"xc", Walk::Down),
        Some(State::Delivered) | None => (b"m", Walk::Down),
        Some(_) => (b"u", Walk::Up),
    };

    let (mut from, mut to) = keys::starting_with(prefix);
    if let Some(cursor) = &query.cursor {
        let at = unhex(cursor).filter(|key| key.starts_with(prefix));
        let at = at.ok_or(SpoolError::BadCursor)?;
        match way {
            Walk::Up => from = [&at[..], &[0]].concat(),
            Walk::Down => to = at,
        }
    }

    let mut page = Page::default();
    let mut last: Option<(Vec<u8>, MailId)> = None;

    // A mail with several recipients stands in an index several times, and is read once.
    let mut seen = HashSet::new();
    let mut work = 0;
    let mut broken = Ok(());

    let mut full = false;
    shared.store.walk(&from, &to, way, &mut |key, _| {
        let mail = match prefix {
            b"m" => keys::mail_of(key),
            b"u" => keys::read_queue(key).map(|read| read.place.mail),
            _ => keys::mail_of(&key[1..]),
        };
        let Some(mail) = mail else {
            return ControlFlow::Continue(());
        };
        // In an index of one delivery a key, a page ends between two mails. Not so in the queues:
        // there a mail is told at its first place, whatever page the others are on.
        let is_same = last.as_ref().is_some_and(|(_, last)| *last == mail);
        let may_end = prefix == b"u" || !is_same;
        if may_end && (page.mails.len() >= query.page_size() || work >= LOOKED_AT) {
            full = true;
            return ControlFlow::Break(());
        }
        last = Some((key.to_vec(), mail));
        work += 1;
        if !seen.insert(mail) {
            return ControlFlow::Continue(());
        }
        match record(shared, mail) {
            Ok(Some(record)) => {
                work += MAIL_WORK + record.deliveries.len();
                let in_state = query
                    .state
                    .is_none_or(|state| record.states(now).any(|s| s == state));
                let first = prefix != b"u" || is_first_place(shared, &record, key);
                if in_state && first && query.admits(&record) {
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

    broken?;
    if full {
        page.next = last.map(|(key, _)| hex(&key));
    }
    Ok(page)
}

/// A mail with several pending deliveries stands in the queues several times: it is listed at the
/// first.
fn is_first_place<S>(shared: &SpoolState<S>, record: &Record, key: &[u8]) -> bool {
    let manifest = &record.manifest;
    let ids = shared.ids.read();
    let places = (0u16..)
        .zip(&record.deliveries)
        .filter_map(|(index, delivery)| {
            let place = Place {
                due: delivery.stage.due()?,
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

/// Counts. What waits is counted as it comes and goes; what a sender has is taken out of it.
pub(super) fn stats<S: Store>(shared: &SpoolState<S>) -> Result<SpoolStats, SpoolError> {
    let mut stats = SpoolStats {
        bytes: shared.store.bytes(),
        ..SpoolStats::default()
    };

    stats.stale_settles = shared.stale.load(std::sync::atomic::Ordering::Relaxed);
    let totals = shared.totals.lock().clone();
    stats.quarantined = totals.quarantined;
    for (kind, state) in [State::Delivered, State::Dead, State::Cancelled]
        .into_iter()
        .enumerate()
    {
        stats.counts[state as usize] = totals.finished[kind];
    }

    let leased: Vec<(QueueName, Place, bool)> = shared
        .queues
        .lock()
        .leases()
        .map(|leased| (leased.queue.clone(), leased.place, leased.entry.tried))
        .collect();

    let mut waiting = Vec::new();
    {
        let ids = shared.ids.read();
        let backlog = shared.backlog.lock();
        let counts = &mut stats.counts;
        for ((id, priority), count) in backlog.all().filter(|(_, count)| count.pending > 0) {
            let at = priority.index();
            let tried_later = count.tried.saturating_sub(count.ripe_tried);
            let later = count.pending.saturating_sub(count.ripe);
            counts[State::Queued as usize][at] += count.ripe;
            counts[State::Deferred as usize][at] += tried_later;
            counts[State::Scheduled as usize][at] += later.saturating_sub(tried_later);
            waiting.push((id, priority));
        }
        for (queue, place, tried) in &leased {
            let Some(id) = ids.id(&queue.route) else {
                continue;
            };
            let at = queue.priority.index();
            let state = match backlog.of(&(id, queue.priority)).is_ripe(place) {
                true => State::Queued,
                false if *tried => State::Deferred,
                false => State::Scheduled,
            };
            let waits = &mut counts[state as usize][at];
            *waits = waits.saturating_sub(1);
            counts[State::Sending as usize][at] += 1;
        }
    }

    stats.backlog = self::backlog(shared);
    let slots: HashSet<Slot> = leased.iter().map(|(_, place, _)| place.slot()).collect();
    for (id, priority) in waiting {
        // What cannot be read now leaves the numbers as they are known.
        let first = first_waiting(shared, id, priority, &slots).unwrap_or_else(|error| {
            tracing::debug!(%error, "since when the oldest waits is not known now");
            None
        });
        stats.oldest_due = match (stats.oldest_due, first) {
            (Some(oldest), Some(first)) => Some(oldest.min(first)),
            (oldest, first) => oldest.or(first),
        };
    }

    Ok(stats)
}

/// How many deliveries are pending on each route.
pub(super) fn backlog<S: Store>(shared: &SpoolState<S>) -> Vec<(Route, u64)> {
    let ids = shared.ids.read();
    let mut by_route: BTreeMap<Route, u64> = BTreeMap::new();
    for ((id, _), count) in shared.backlog.lock().all() {
        if count.pending > 0
            && let Some(route) = ids.route(id)
        {
            *by_route.entry(route.clone()).or_default() += count.pending;
        }
    }
    by_route.into_iter().collect()
}

/// When the first delivery of a queue is due that no sender has.
fn first_waiting<S: Store>(
    shared: &SpoolState<S>,
    id: QueueId,
    priority: Priority,
    leased: &HashSet<Slot>,
) -> Result<Option<Timestamp>, SpoolError> {
    let (from, to) = keys::starting_with(&keys::queue_prefix(id, priority));
    let mut first = None;
    shared.store.walk(&from, &to, Walk::Up, &mut |key, _| {
        first = keys::read_queue(key)
            .map(|read| read.place)
            .filter(|place| !leased.contains(&place.slot()))
            .map(|place| place.due);
        if first.is_some() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    })?;

    Ok(first)
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

pub(super) fn all_keys<S: Store>(
    store: &S,
    prefix: &[u8],
    limit: usize,
) -> Result<Vec<Vec<u8>>, SpoolError> {
    keys_between(store, keys::starting_with(prefix), limit)
}

pub(super) fn keys_between<S: Store>(
    store: &S,
    (from, to): (Vec<u8>, Vec<u8>),
    limit: usize,
) -> Result<Vec<Vec<u8>>, SpoolError> {
    let mut found = Vec::new();
    store.walk(&from, &to, Walk::Up, &mut |key, _| {
        found.push(key.to_vec());
        if found.len() < limit {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        }
    })?;
    Ok(found)
}

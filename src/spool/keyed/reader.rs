//! Looks up one mail, with helpers that all readers use. Runs on blocking threads, concurrently
//! with the writer.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::{Bytes, BytesMut};

use super::keys::{self, QueueId};
use super::stored_mail::{CHUNK_BYTES, StoredMail};
use super::{SpoolState, feedback};
use crate::delivery::{Delivery, Route};
use crate::mail::{MailId, Timestamp};
use crate::spool::codec;
use crate::spool::store::{Direction, Store};
use crate::spool::{Manifest, Record, SpoolError};

/// About the bytes that the change of a delivery writes besides its record.
const CHANGE_BYTES: usize = 256;

pub(super) fn manifest<S: Store>(store: &S, id: MailId) -> Result<Option<Manifest>, SpoolError> {
    Ok(StoredMail::read(store, id)?.map(|mail| mail.manifest))
}

/// A mail and the current state of its deliveries.
pub(super) struct StoredMailState {
    pub mail: StoredMail,
    /// The deliveries that can be read, by their index.
    pub deliveries: BTreeMap<u16, Delivery>,
    /// Whether some deliveries cannot be read.
    pub is_damaged: bool,
}

pub(super) fn whole<S: Store>(
    store: &S,
    id: MailId,
) -> Result<Option<StoredMailState>, SpoolError> {
    Ok(some_of(store, id, 0, usize::MAX)?.map(|(whole, _)| whole))
}

/// A mail and some of its deliveries: from one index on, about as many as `bytes` when they are
/// written again. Also returns the index of the next one.
pub(super) fn some_of<S: Store>(
    store: &S,
    id: MailId,
    first: u16,
    most: usize,
) -> Result<Option<(StoredMailState, Option<u16>)>, SpoolError> {
    let (_, to) = keys::deliveries(id);
    let mut changed = Vec::new();
    let (mut bytes, mut next) = (0_usize, None);
    store.walk(
        &keys::delivery(id, first),
        &to,
        Direction::Up,
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

    // The mail is read after its deliveries: of a mail that is being removed nothing is returned,
    // instead of an old state.
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

    let whole = StoredMailState {
        mail,
        deliveries,
        is_damaged,
    };

    Ok(Some((whole, next)))
}

/// A delivery, or why it cannot be read; `None` if it does not exist.
pub(super) type StoredDelivery = Option<Result<Delivery, SpoolError>>;

/// A delivery's current state: its own record, or else the one in its mail's record.
pub(super) fn delivery<S: Store>(
    store: &S,
    mail: MailId,
    index: u16,
) -> Result<StoredDelivery, SpoolError> {
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

pub(super) fn changed_delivery<S: Store>(
    store: &S,
    mail: MailId,
    index: u16,
) -> Result<StoredDelivery, SpoolError> {
    Ok(store
        .get(&keys::delivery(mail, index))?
        .map(|bytes| codec::decode(&bytes)))
}

pub(super) fn record<S: Store>(
    shared: &SpoolState<S>,
    id: MailId,
) -> Result<Option<Record>, SpoolError> {
    let Some(StoredMailState {
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

/// The message of a mail, as far as it could be read.
pub(super) struct FoundBody {
    mail: MailId,
    size: usize,
    /// `None` if the message was deleted after its retention.
    bytes: Option<Bytes>,
}

impl FoundBody {
    /// The message.
    ///
    /// # Errors
    /// [`SpoolError::Forgotten`] if it was deleted; [`SpoolError::Unreadable`] if a part of it is
    /// missing.
    pub(super) fn whole(self) -> Result<Bytes, SpoolError> {
        let FoundBody { mail, size, bytes } = self;
        let bytes = bytes.ok_or(SpoolError::Forgotten(mail))?;
        if bytes.len() == size {
            return Ok(bytes);
        }
        let found = bytes.len();
        let reason = format!("the message of mail {mail} has {found} of its {size} bytes");
        Err(SpoolError::Unreadable(reason))
    }
}

pub(super) fn body<S: Store>(store: &S, mail: &StoredMail) -> Result<FoundBody, SpoolError> {
    let manifest = &mail.manifest;
    let size = usize::try_from(manifest.size).unwrap_or(usize::MAX);
    let bytes = if mail.is_forgotten() {
        None
    } else if mail.body().len() == size {
        Some(mail.body().clone())
    } else {
        Some(chunks(store, manifest.id, size)?)
    };

    Ok(FoundBody {
        mail: manifest.id,
        size,
        bytes,
    })
}

/// The chunks of a message of this size, up to the first that is missing.
fn chunks<S: Store>(store: &S, mail: MailId, size: usize) -> Result<Bytes, SpoolError> {
    let mut body = BytesMut::with_capacity(size.min(64 * 1024 * 1024));
    for number in 0..u32::try_from(size.div_ceil(CHUNK_BYTES)).unwrap_or(u32::MAX) {
        match store.get(&keys::chunk(mail, number))? {
            Some(chunk) => body.extend_from_slice(&chunk),
            None => break,
        }
    }
    Ok(body.freeze())
}

/// The routes that have queues, with the short number of each.
pub(super) fn routes<S: Store>(store: &S) -> Result<Vec<(QueueId, Route)>, SpoolError> {
    let mut routes = Vec::new();
    let (from, to) = keys::starting_with(b"r");
    store.walk(&from, &to, Direction::Up, &mut |key, value| {
        let route = std::str::from_utf8(value).map(|text| Route::from(text.to_owned()));
        if let (Some(id), Ok(route)) = (keys::read_route(key), route) {
            routes.push((id, route));
        }
        ControlFlow::Continue(())
    })?;
    Ok(routes)
}

pub(super) fn first_timer<S: Store>(store: &S) -> Result<Option<Timestamp>, SpoolError> {
    first_of(store, b"t", keys::read_due)
}

/// What is read of the first key of this kind of which anything is.
pub(super) fn first_of<S: Store, T>(
    store: &S,
    prefix: &[u8],
    read: impl Fn(&[u8]) -> Option<T>,
) -> Result<Option<T>, SpoolError> {
    let (from, to) = keys::starting_with(prefix);
    first_between(store, &from, &to, read)
}

/// Applies `read` to the keys from `from` (included) to `to` (excluded) and returns the first
/// result.
pub(super) fn first_between<S: Store, T>(
    store: &S,
    from: &[u8],
    to: &[u8],
    read: impl Fn(&[u8]) -> Option<T>,
) -> Result<Option<T>, SpoolError> {
    let mut first = None;
    store.walk(from, to, Direction::Up, &mut |key, _| {
        first = read(key);
        if first.is_some() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    })?;
    Ok(first)
}

/// Runs a read. sled may panic at a damaged page; the panic becomes an error, because other records
/// are not affected.
pub(super) fn guarded<T, E: From<SpoolError>>(
    read: impl FnOnce() -> Result<T, E>,
    what: impl FnOnce() -> String,
) -> Result<T, E> {
    catch_unwind(AssertUnwindSafe(read))
        .unwrap_or_else(|_| Err(SpoolError::Unreadable(what()).into()))
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
    store.walk(&from, &to, Direction::Up, &mut |key, _| {
        found.push(key.to_vec());
        if found.len() < limit {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        }
    })?;
    Ok(found)
}

/// The relays that are paused.
pub(super) fn paused<S: Store>(store: &S) -> Result<BTreeSet<String>, SpoolError> {
    let (from, to) = keys::starting_with(keys::PAUSED);
    let mut paused = BTreeSet::new();
    store.walk(&from, &to, Direction::Up, &mut |key, _| {
        let relay = String::from_utf8_lossy(&key[keys::PAUSED.len()..]);
        paused.insert(relay.into_owned());
        ControlFlow::Continue(())
    })?;
    Ok(paused)
}

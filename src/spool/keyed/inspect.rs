//! Walks a whole store and says what does not agree.

use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;

use bytes::Bytes;

use super::keys::{self, Place};
use super::reader::{self, Whole};
use super::stored_mail::StoredMail;
use crate::delivery::Delivery;
use crate::mail::MailId;
use crate::spool::codec::{self, Totals};
use crate::spool::store::{Store, Walk};
use crate::spool::{Manifest, SpoolError};

/// The most problems that are told one by one.
const TOLD: usize = 1000;

/// A whole mail.
pub(crate) struct Seen<'a> {
    pub manifest: &'a Manifest,
    pub deliveries: &'a [Delivery],
    pub body: &'a [u8],
}

/// Shows every mail that is whole, and returns what is wrong with the rest and with the queues.
pub(crate) fn walk<S: Store>(
    store: &S,
    show: &mut dyn FnMut(Seen<'_>) -> Result<(), SpoolError>,
) -> Result<Vec<String>, SpoolError> {
    let mut problems = Vec::new();
    let mut tell = |problem: String| {
        if problems.len() < TOLD {
            problems.push(problem);
        }
    };
    let mut mails = Vec::new();
    let (from, to) = keys::starting_with(b"m");
    store.walk(&from, &to, Walk::Up, &mut |key, value| {
        match StoredMail::from_bytes(value.to_vec()).map(|mail| mail.manifest.id) {
            Ok(id) if keys::manifest(id) == key => mails.push(id),
            Ok(id) => tell(format!("the record of mail {id} stands under another key")),
            Err(error) => tell(format!("the record of a mail cannot be read: {error}")),
        }
        ControlFlow::Continue(())
    })?;
    // Places that ought to be in a queue; those found there are taken out.
    let mut awaited: HashMap<Vec<u8>, ()> = HashMap::new();
    let mut totals = Totals::default();
    let mut unread = HashSet::new();
    for id in mails {
        let (
            Whole {
                mail,
                deliveries: found,
                ..
            },
            body,
        ) = match whole_with_body(store, id) {
            Ok(Some(read)) => read,
            Ok(None) => continue,
            Err(error) => {
                tell(format!("mail {id} cannot be read: {error}"));
                unread.insert(id);
                continue;
            }
        };
        let manifest = mail.manifest;
        if found.len() != usize::from(manifest.recipients) {
            tell(format!(
                "mail {id} has {} of its {} deliveries",
                found.len(),
                manifest.recipients
            ));
        }
        for (index, delivery) in &found {
            if let Some(due) = delivery.stage.due() {
                let place = Place {
                    due,
                    mail: id,
                    index: *index,
                };
                awaited.insert(keys::queue(&delivery.route, manifest.priority, &place), ());
                totals.pending[manifest.priority.index()] += 1;
            }
        }
        let deliveries: Vec<Delivery> = found.into_values().collect();
        match body {
            Ok(body) => show(Seen {
                manifest: &manifest,
                deliveries: &deliveries,
                body: &body,
            })?,
            Err(error) => tell(error.to_string()),
        }
    }
    let (from, to) = keys::starting_with(b"q");
    store.walk(&from, &to, Walk::Up, &mut |key, _| {
        let read = keys::read_queue(key);
        let is_known = read
            .as_ref()
            .is_some_and(|read| unread.contains(&read.place.mail));
        if awaited.remove(key).is_none() && !is_known {
            tell(match read {
                Some(read) => format!(
                    "a queue holds a delivery of mail {} that is not pending",
                    read.place.mail
                ),
                None => "a queue holds a key that cannot be read".into(),
            });
        }
        ControlFlow::Continue(())
    })?;
    for key in awaited.keys().filter_map(|key| keys::read_queue(key)) {
        tell(format!(
            "a pending delivery of mail {} is in no queue",
            key.place.mail
        ));
    }
    let kept = store
        .get(keys::TOTALS)?
        .map(|bytes| codec::decode::<Totals>(&bytes))
        .transpose()?
        .unwrap_or_default();
    if kept.pending != totals.pending && unread.is_empty() {
        tell(format!(
            "{:?} deliveries are pending by priority, and the totals say {:?}",
            totals.pending, kept.pending
        ));
    }
    Ok(problems)
}

/// A mail with its message, or with why that is not whole.
type Read = (Whole, Result<Bytes, SpoolError>);

/// Reads all of a mail.
fn whole_with_body<S: Store>(store: &S, id: MailId) -> Result<Option<Read>, SpoolError> {
    let read = || {
        let Some(whole) = reader::whole(store, id)? else {
            return Ok(None);
        };
        let body = reader::body(store, &whole.mail)?;
        Ok(Some((whole, body)))
    };
    reader::guarded(read, || "a page of the database is damaged".into())
}

/// How many records were set aside.
pub(crate) fn quarantined<S: Store>(store: &S) -> Result<u64, SpoolError> {
    let (from, to) = keys::starting_with(b"z");
    let mut count = 0;
    store.walk(&from, &to, Walk::Up, &mut |_, _| {
        count += 1;
        ControlFlow::Continue(())
    })?;
    Ok(count)
}

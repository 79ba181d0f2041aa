//! Walks a whole store and reports what is inconsistent.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::ControlFlow;

use bytes::Bytes;

use super::backlog;
use super::journal::verification;
use super::keys::{self, QueueId, QueuePosition};
use super::reader::{self, StoredMailState};
use super::stored_mail::StoredMail;
use super::usage;
use crate::delivery::{Delivery, Route};
use crate::mail::{MailId, Priority};
use crate::spool::codec::{self, Totals};
use crate::spool::store::{Direction, Store};
use crate::spool::{Manifest, SpoolError};

/// The most problems that are listed one by one.
const MOST_PROBLEMS: usize = 1000;

/// A mail that could be read completely.
pub(crate) struct WholeMail<'a> {
    pub manifest: &'a Manifest,
    pub deliveries: &'a [Delivery],
    /// The message, unless it was deleted.
    pub body: Option<&'a [u8]>,
}

/// Calls `each` with every mail that can be read completely. Returns the problems of the others and
/// of the queues.
pub(crate) fn walk<S: Store>(
    store: &S,
    show: &mut dyn FnMut(WholeMail<'_>) -> Result<(), SpoolError>,
) -> Result<Vec<String>, SpoolError> {
    let mut problems = Vec::new();
    let mut report = |problem: String| {
        if problems.len() < MOST_PROBLEMS {
            problems.push(problem);
        }
    };

    let mut mails = Vec::new();
    let (from, to) = keys::starting_with(b"m");
    store.walk(&from, &to, Direction::Up, &mut |key, value| {
        match StoredMail::from_bytes(value.to_vec()).map(|mail| mail.manifest.id) {
            Ok(id) if keys::manifest(id) == key => mails.push(id),
            Ok(id) => report(format!("the record of mail {id} stands under another key")),
            Err(error) => report(format!("the record of a mail cannot be read: {error}")),
        }
        ControlFlow::Continue(())
    })?;

    let routes: HashMap<QueueId, Route> = reader::routes(store)?.into_iter().collect();
    // Positions that must be in a queue; each one that is found is removed.
    let mut awaited: HashSet<(Route, Priority, QueuePosition)> = HashSet::new();

    // Mails with recipients that are not queued yet.
    let unqueued: HashSet<MailId> = reader::all_keys(store, b"e", usize::MAX)?
        .iter()
        .filter_map(|key| keys::mail_of(key))
        .collect();
    let mut totals = Totals::default();
    let mut accounts: BTreeMap<u64, u64> = BTreeMap::new();

    let mut unread = HashSet::new();
    for id in mails {
        let (
            StoredMailState {
                mail,
                deliveries: found,
                ..
            },
            body,
        ) = match whole_with_body(store, id) {
            Ok(Some(read)) => read,
            Ok(None) => continue,
            Err(error) => {
                report(format!("mail {id} cannot be read: {error}"));
                unread.insert(id);
                continue;
            }
        };

        let manifest = mail.manifest;
        if found.len() != usize::from(manifest.recipients) {
            report(format!(
                "mail {id} has {} of its {} deliveries",
                found.len(),
                manifest.recipients
            ));
        }

        for (index, delivery) in &found {
            if let Some(due) = delivery.stage.due() {
                let place = QueuePosition {
                    due,
                    mail: id,
                    index: *index,
                };
                if !unqueued.contains(&id) {
                    awaited.insert((delivery.route.clone(), manifest.priority, place));
                }
                totals.pending[manifest.priority.index()] += 1;
                *accounts.entry(manifest.account()).or_default() += 1;
            }
        }

        let deliveries: Vec<Delivery> = found.into_values().collect();
        match body {
            Ok(body) => show(WholeMail {
                manifest: &manifest,
                deliveries: &deliveries,
                body: Some(&body),
            })?,
            Err(SpoolError::Forgotten(_)) => show(WholeMail {
                manifest: &manifest,
                deliveries: &deliveries,
                body: None,
            })?,
            Err(error) => report(error.to_string()),
        }
    }

    for kind in [b"q", b"u"] {
        let (from, to) = keys::starting_with(kind);
        store.walk(&from, &to, Direction::Up, &mut |key, _| {
            let read = keys::read_queue(key)
                .and_then(|read| {
                    let route = routes.get(&read.id)?.clone();
                    Some((route, read.priority, read.place))
                })
                .or_else(|| {
                    keys::read_old_queue(key).map(|read| (read.route, read.priority, read.place))
                });

            match read {
                Some(queued) if awaited.remove(&queued) => {}
                Some((_, _, place))
                    if unread.contains(&place.mail) || unqueued.contains(&place.mail) => {}
                Some((_, _, place)) => report(format!(
                    "a queue holds a delivery of mail {} that is not pending",
                    place.mail
                )),
                None => report("a queue holds a key that cannot be read".into()),
            }
            ControlFlow::Continue(())
        })?;
    }

    for (_, _, place) in awaited {
        report(format!(
            "a pending delivery of mail {} is in no queue",
            place.mail
        ));
    }

    let kept = store
        .get(keys::TOTALS)?
        .map(|bytes| codec::decode::<Totals>(&bytes))
        .transpose()?
        .unwrap_or_default();

    if kept.pending != totals.pending && unread.is_empty() && unqueued.is_empty() {
        report(format!(
            "{:?} deliveries are pending by priority, and the totals say {:?}",
            totals.pending, kept.pending
        ));
    }

    if let Some(counted) = kept
        .kept
        .filter(|_| unread.is_empty() && kept.quarantined == 0)
    {
        let (there, _) = usage::count(store)?;
        if there != counted {
            report(format!(
                "what is kept is {there:?}, and the totals say {counted:?}"
            ));
        }
    }

    accounts.remove(&0);
    let mut counted = BTreeMap::new();
    backlog::accounts(store, &mut |name, account| {
        if account.pending > 0 {
            counted.insert(name, account.pending);
        }
    })?;

    if counted != accounts && unread.is_empty() && unqueued.is_empty() {
        report("what each token and user has pending is not what was counted".into());
    }
    Ok(problems)
}

/// A mail with its message, or with the reason why the message cannot be read.
type Read = (StoredMailState, Result<Bytes, SpoolError>);

/// Reads all of a mail.
fn whole_with_body<S: Store>(store: &S, id: MailId) -> Result<Option<Read>, SpoolError> {
    let read = || {
        let Some(whole) = reader::whole(store, id)? else {
            return Ok(None);
        };
        let body = reader::body(store, &whole.mail)?.whole();
        Ok(Some((whole, body)))
    };
    reader::guarded(read, || "a page of the database is damaged".into())
}

/// How many events the journal contains, and its problems.
pub(crate) fn journal<S: Store>(store: &S) -> Result<(u64, Vec<String>), SpoolError> {
    let mut found = verification::walk(store)?;
    let gaps = found.gaps.iter();
    let gaps = gaps.map(|(from, to)| format!("of the journal, events {from} to {to} are missing"));
    found.problems.extend(gaps);
    found.problems.truncate(MOST_PROBLEMS);
    Ok((found.events, found.problems))
}

/// How many records were set aside.
pub(crate) fn quarantined<S: Store>(store: &S) -> Result<u64, SpoolError> {
    let (from, to) = keys::starting_with(b"z");
    let mut count = 0;
    store.walk(&from, &to, Direction::Up, &mut |_, _| {
        count += 1;
        ControlFlow::Continue(())
    })?;
    Ok(count)
}

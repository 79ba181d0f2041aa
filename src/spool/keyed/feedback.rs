//! Stores the reports that came back for mail, under the keys `f` mail, index, name of the report.
//! So a report that comes twice has one key, and all reports of a mail lie together, beside its
//! other records.

use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;
use std::sync::atomic::Ordering;

use async_trait::async_trait;

use super::journal::entry::JournalEntry;
use super::usage::CountedKind;
use super::write_transaction::WriteTransaction;
use super::{KeyedSpool, keys, reader, suppressions};
use crate::delivery::{Feedback, KEPT_FEEDBACK};
use crate::mail::MailId;
use crate::spool::codec::{self, Versioned};
use crate::spool::store::{Direction, Store};
use crate::spool::{FeedbackResult, FeedbackStore, NewFeedback, SpoolError};

/// How many reports are written in one commit.
const STEP_ENTRIES: usize = 64;

impl Versioned for Feedback {}

/// All reports about a mail, each with the index of its delivery and its name; the oldest first.
pub(super) fn of_mail<S: Store>(
    store: &S,
    mail: MailId,
) -> Result<Vec<(u16, [u8; 16], Feedback)>, SpoolError> {
    let (from, to) = keys::feedback_of(mail);
    let mut found = Vec::new();
    store.walk(&from, &to, Direction::Up, &mut |key, value| {
        let read = codec::decode::<Feedback>(value).ok();
        let name = key.last_chunk().copied();
        if let (Some(index), Some(name), Some(read)) = (keys::feedback_index(key), name, read) {
            found.push((index, name, read));
        }
        ControlFlow::Continue(())
    })?;
    found.sort_by_key(|(index, _, feedback)| (*index, feedback.at));
    Ok(found)
}

/// How many reports about one delivery are stored.
fn count<S: Store>(store: &S, mail: MailId, index: u16) -> Result<usize, SpoolError> {
    let (from, to) = keys::starting_with(&keys::feedback(mail, index, &[]));
    let mut count = 0;
    store.walk(&from, &to, Direction::Up, &mut |_, _| {
        count += 1;
        ControlFlow::Continue(())
    })?;
    Ok(count)
}

/// Stores reports in one commit.
fn keep<S: Store>(
    transaction: &mut WriteTransaction<'_, S>,
    new: Vec<NewFeedback>,
) -> Result<Vec<FeedbackResult>, SpoolError> {
    let mut results = Vec::with_capacity(new.len());
    // Reports that this commit adds are not in the store yet.
    let mut added: HashMap<(MailId, u16), Vec<[u8; 16]>> = HashMap::new();
    let mut suppressed = HashSet::new();
    for one in new {
        let store = &transaction.shared.store;
        let delivery = reader::delivery(store, one.mail, one.index)?;
        let manifest = match reader::manifest(store, one.mail) {
            Ok(manifest) => manifest,
            Err(SpoolError::Unreadable(_)) => None,
            Err(error) => return Err(error),
        };
        let (Some(Ok(delivery)), Some(manifest)) = (delivery, manifest) else {
            results.push(FeedbackResult::Unknown);
            continue;
        };

        let key = keys::feedback(one.mail, one.index, &one.id);
        let before = count(store, one.mail, one.index)?;
        let is_known = store.get(&key)?.is_some();
        let beside = added.entry((one.mail, one.index)).or_default();
        if is_known || beside.contains(&one.id) || before + beside.len() >= KEPT_FEEDBACK {
            results.push(FeedbackResult::Known);
            continue;
        }
        beside.push(one.id);

        transaction.changes.put(key, codec::encode(&one.feedback));
        let happened =
            JournalEntry::fed_back(&manifest, &delivery.recipient, &one.feedback, one.permanent);
        if let Some(happened) = happened {
            transaction.changes.add_entry(happened);
        }
        if let Some(suppression) = one.suppression {
            let (key, value) = suppressions::record(&suppression);
            let is_first = suppressed.insert(key.clone());
            if is_first && transaction.shared.store.get(&key)?.is_none() {
                transaction.totals.count(CountedKind::Suppression, 1);
            }
            transaction.changes.put(key, value);
            transaction.shared.suppresses.store(true, Ordering::Release);
        }
        results.push(FeedbackResult::Kept);
    }

    Ok(results)
}

#[async_trait]
impl<S: Store> FeedbackStore for KeyedSpool<S> {
    async fn keep(&self, new: Vec<NewFeedback>) -> Result<Vec<FeedbackResult>, SpoolError> {
        let mut results = Vec::with_capacity(new.len());
        let mut rest = new.into_iter();
        loop {
            let some: Vec<NewFeedback> = rest.by_ref().take(STEP_ENTRIES).collect();
            if some.is_empty() {
                return Ok(results);
            }
            let kept = self.change(move |transaction| keep(transaction, some));
            results.extend(kept.await?);
        }
    }
}

//! Stores the addresses that get no mail, under the keys `y` address, 0, list, 0, reason. The
//! address is in lower case. All entries of one address lie together, so that a lookup reads few
//! keys.

use std::ops::ControlFlow;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use super::changes::STEP_BYTES;
use super::keys;
use super::{KeyedSpool, SpoolState};
use crate::mail::{Address, Timestamp};
use crate::spool::codec::{self, Versioned};
use crate::spool::store::{Batch, Direction, Store};
use crate::spool::{
    SpoolError, Suppression, SuppressionPage, SuppressionQuery, SuppressionReason, Suppressions,
};

/// The most keys that are read for one page.
const MOST_LOOKED_AT: usize = 50_000;
/// The most entries of one page.
const MAX_PAGE: usize = 1000;
/// About what an entry costs besides its key and its value.
const ENTRY_BYTES: usize = 64;

/// The value that is stored under a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct StoredEntry {
    since: Timestamp,
    until: Option<Timestamp>,
    note: Option<String>,
}

impl Versioned for StoredEntry {}

/// Whether there are any entries.
pub(super) fn are_any<S: Store>(store: &S) -> Result<bool, SpoolError> {
    let (from, to) = keys::starting_with(keys::SUPPRESSION);
    let mut any = false;
    store.walk(&from, &to, Direction::Up, &mut |_, _| {
        any = true;
        ControlFlow::Break(())
    })?;
    Ok(any)
}

fn of_address(address: &Address) -> Vec<u8> {
    let mut key = keys::SUPPRESSION.to_vec();
    key.extend(address.as_str().to_lowercase().into_bytes());
    key.push(0);
    key
}

fn key(entry: &Suppression) -> Vec<u8> {
    let mut key = of_address(&entry.address);
    key.extend(entry.list.as_deref().unwrap_or_default().as_bytes());
    key.push(0);
    key.push(entry.reason as u8);
    key
}

/// The entry of a key and its value; `None` if they are not valid.
pub(super) fn read(key: &[u8], value: &[u8]) -> Option<Suppression> {
    let mut parts = key
        .strip_prefix(keys::SUPPRESSION)?
        .splitn(3, |byte| *byte == 0);
    let address = Address::parse(std::str::from_utf8(parts.next()?).ok()?).ok()?;
    let list = std::str::from_utf8(parts.next()?).ok()?;
    let reason = *parts.next()?.first()?;
    let StoredEntry { since, until, note } = codec::decode(value).ok()?;

    Some(Suppression {
        address,
        reason: *SuppressionReason::ALL.get(usize::from(reason))?,
        list: (!list.is_empty()).then(|| list.to_owned()),
        since,
        until,
        note,
    })
}

/// The key and the value of an entry.
pub(super) fn record(entry: &Suppression) -> (Vec<u8>, Vec<u8>) {
    let Suppression {
        since, until, note, ..
    } = entry.clone();
    (
        key(entry),
        codec::encode(&StoredEntry { since, until, note }),
    )
}

fn of<S: Store>(shared: &SpoolState<S>, address: &Address) -> Result<Vec<Suppression>, SpoolError> {
    let (from, to) = keys::starting_with(&of_address(address));
    let mut found = Vec::new();
    shared
        .store
        .walk(&from, &to, Direction::Up, &mut |key, value| {
            found.extend(read(key, value));
            ControlFlow::Continue(())
        })?;
    Ok(found)
}

fn page<S: Store>(
    shared: &SpoolState<S>,
    query: &SuppressionQuery,
) -> Result<SuppressionPage, SpoolError> {
    let prefix = match &query.address {
        Some(address) => of_address(address),
        None => keys::SUPPRESSION.to_vec(),
    };

    let (mut from, to) = keys::starting_with(&prefix);
    if let Some(cursor) = &query.cursor {
        let after = BASE64_URL_SAFE_NO_PAD.decode(cursor).ok();
        let after = after.filter(|after| *after >= from && *after < to);
        from = after.ok_or(SpoolError::BadCursor)?;
        // The key that follows.
        from.push(0);
    }

    let limit = query.limit.clamp(1, MAX_PAGE);
    let mut page = SuppressionPage::default();
    let (mut looked_at, mut last, mut more) = (0, Vec::new(), false);
    shared
        .store
        .walk(&from, &to, Direction::Up, &mut |key, value| {
            if page.suppressions.len() == limit || looked_at == MOST_LOOKED_AT {
                more = true;
                return ControlFlow::Break(());
            }
            looked_at += 1;
            last = key.to_vec();
            let entry = read(key, value).filter(|entry| query.admits(entry));
            page.suppressions.extend(entry);
            ControlFlow::Continue(())
        })?;

    page.next = more.then(|| BASE64_URL_SAFE_NO_PAD.encode(last));
    Ok(page)
}

impl<S: Store> KeyedSpool<S> {
    /// Writes the changes in groups that each fit into one commit.
    async fn write_suppressions(&self, changes: Batch) -> Result<(), SpoolError> {
        let (mut batch, mut weight) = (Batch::new(), 0);
        for (key, value) in changes {
            weight += key.len() + value.as_ref().map_or(0, Vec::len) + ENTRY_BYTES;
            batch.push((key, value));
            if weight >= STEP_BYTES {
                weight = 0;
                self.note_with(Vec::new(), std::mem::take(&mut batch))
                    .await?;
            }
        }

        if batch.is_empty() {
            return Ok(());
        }
        self.note_with(Vec::new(), batch).await
    }
}

#[async_trait]
impl<S: Store> Suppressions for KeyedSpool<S> {
    fn is_empty(&self) -> bool {
        !self.shared.suppresses.load(Ordering::Acquire)
    }

    async fn of(&self, addresses: Vec<Address>) -> Result<Vec<Vec<Suppression>>, SpoolError> {
        self.look(move |shared| {
            addresses
                .iter()
                .map(|address| of(shared, address))
                .collect()
        })
        .await
    }

    async fn add(&self, entries: Vec<Suppression>) -> Result<(), SpoolError> {
        let mut changes = Batch::with_capacity(entries.len());
        for entry in entries {
            let (key, value) = record(&entry);
            changes.push((key, Some(value)));
        }
        self.shared.suppresses.store(true, Ordering::Release);
        self.write_suppressions(changes).await
    }

    async fn remove(&self, entries: Vec<Suppression>) -> Result<usize, SpoolError> {
        let known = self
            .look(move |shared| {
                let mut known = Batch::new();
                for entry in &entries {
                    let key = key(entry);
                    if shared.store.get(&key)?.is_some() {
                        known.push((key, None));
                    }
                }
                Ok(known)
            })
            .await?;
        let count = known.len();

        self.write_suppressions(known).await?;
        Ok(count)
    }

    async fn page(&self, query: SuppressionQuery) -> Result<SuppressionPage, SpoolError> {
        self.look(move |shared| page(shared, &query)).await
    }
}

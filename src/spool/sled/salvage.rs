//! `postrider spool salvage`: writes what is whole in a damaged spool to a new one. The damaged
//! spool is only read.

use std::collections::HashMap;
use std::path::Path;

use serde::Serialize;

use super::inspect::require;
use super::open::{Purpose, lock, open_store, unopenable};
use super::outcomes::NewestCommits;
use super::watermark::SpoolPhase;
use super::{pages, spare, watermark};
use crate::mail::Timestamp;
use crate::spool::SpoolError;
use crate::spool::keyed::salvage::{JournalEnd, LastCommit, is_saved, put_in_order};
use crate::spool::keyed::{TOTALS, is_delivery};
use crate::spool::store::{Batch, Store};

/// How many bytes are written in one step.
const STEP_BYTES: usize = 256 * 1024;

/// The result of a salvage.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SalvageResult {
    /// Mails that are whole.
    pub mails: u64,
    /// The number of damaged ranges in the files.
    pub damaged: u64,
    /// What is missing, one sentence each.
    pub missing: Vec<String>,
}

/// Writes every whole record of the spool `from` to a new spool `to`, and returns what is missing.
/// A delivery that may have been sent and must not be sent twice is a dead letter in the new spool.
///
/// # Errors
/// [`SpoolError::Locked`] while `from` is in use; also if `to` is not empty, or a file cannot be
/// read or written.
pub fn salvage(from: &Path, to: &Path) -> Result<SalvageResult, SpoolError> {
    require(from)?;
    let is_new = match std::fs::read_dir(to) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    };

    if !is_new {
        return Err(unopenable(to, "it is not empty; name a new directory"));
    }
    let alone = lock(from)?;
    let unread = |error| unopenable(from, error);
    let mut found = pages::salvage(from).map_err(unread)?;
    // Without this file the salvage can tell less, but saves as much.
    let known = NewestCommits::read(from);
    let unknown = known.as_ref().err().map(ToString::to_string);
    let known = known.unwrap_or_default();

    spare::read(from, &mut |spare| {
        found.add(spare.key, spare.commit, spare.value)
    })
    .map_err(unread)?;

    // A damaged watermark is ignored.
    let mark = watermark::read(from).ok().flatten();
    drop(alone);

    let reached = mark.map_or(0, |mark| mark.commit);
    let totals = found.values.remove(TOTALS);
    let mut last_commit = LastCommit {
        totals: totals
            .filter(|totals| totals.commit >= reached)
            .map(|totals| totals.value),
        journal: Some(JournalEnd {
            last: mark.map_or(0, |mark| mark.journal),
            may_be_more: mark.is_none_or(|mark| mark.phase != SpoolPhase::Closed),
        }),
        ..LastCommit::default()
    };

    if found.newest < reached {
        last_commit.is_end_missing = true;
    }

    let store = open_store(to, Purpose::Serve)?;
    let mut commits = HashMap::new();
    let mut batch = Batch::new();

    let mut bytes = 0;
    for (key, found) in found.values {
        if !is_saved(&key) {
            continue;
        }
        if is_delivery(&key) {
            commits.insert(key.clone(), found.commit);
        }
        bytes += key.len() + found.value.len();
        batch.push((key, Some(found.value)));
        if bytes >= STEP_BYTES {
            store.write(std::mem::take(&mut batch))?;
            store.sync()?;
            bytes = 0;
        }
    }

    store.write(batch)?;
    store.sync()?;
    let ordered = put_in_order(&store, Timestamp::now(), last_commit, &|key| {
        known.is_newer(key, commits.get(key).copied().unwrap_or(0))
    })?;

    store.sync()?;
    store.close();
    let mut missing = ordered.missing;
    missing.extend(unknown.map(|why| {
        format!(
            "the latest outcomes, if their records were damaged: the file `outcomes` cannot be \
             read: {why}"
        )
    }));
    Ok(SalvageResult {
        mails: ordered.mails,
        damaged: found.damaged,
        missing,
    })
}

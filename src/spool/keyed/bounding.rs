//! Keeps a spool within `max_size`: finished mail is deleted before the end of its retention, the
//! oldest first; if none is left, new mail is refused. Runs on the writer's thread in bounded
//! steps, just before mail is written that would not fit.
//!
//! The log contains more than the current records: the room of removed records is free only when
//! their segment is cleaned. So the size of the files counts as well: the fuller they are, the less
//! finished mail is kept, and when they are almost full, writes are delayed until cleaning has
//! caught up.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use super::SpoolState;
use super::command::GroupCommand;
use super::encoding::Encoded;
use super::keys;
use super::operations;
use super::pace::Pace;
use super::reader::{self, StoredMailState};
use super::usage;
use super::write_transaction::WriteTransaction;
use super::writer::Writer;
use crate::mail::MailId;
use crate::spool::codec::Totals;
use crate::spool::store::{Direction, Store};
use crate::spool::{Manifest, SpoolError};

/// How many mails one step looks at.
pub(super) const LOOKED_AT: usize = 256;
/// How many steps are made before new mail is accepted or refused.
pub(super) const STEPS: usize = 16;
/// How long to wait before searching again after no mail could be deleted.
const REST: Duration = Duration::from_secs(1);
/// How long a measured size of the files is used: at least this long, and at least [`LOOK_SHARE`]
/// times as long as measuring took.
const MEASURED_EVERY: Duration = Duration::from_millis(100);
const LOOK_SHARE: u32 = 50;
/// About the bytes of one record that is counted by number.
pub(super) const VALUE_BYTES: u64 = 128;

/// The progress of a search for records to delete, which goes from the first to the last and begins
/// again.
pub(super) struct Search<K> {
    /// The record that was looked at last; `None` to begin with the first.
    pub at: Option<K>,
    /// How many were deleted since the search began.
    pub deleted: u64,
    /// When a search through all records found nothing to delete.
    in_vain: Option<Instant>,
}

impl<K> Default for Search<K> {
    fn default() -> Self {
        Search {
            at: None,
            deleted: 0,
            in_vain: None,
        }
    }
}

impl<K> Search<K> {
    /// Whether to wait, since there was nothing to delete a moment ago.
    pub(super) fn rests(&self) -> bool {
        self.in_vain.is_some_and(|at| at.elapsed() < REST)
    }

    /// All records were looked at.
    pub(super) fn end(&mut self) {
        *self = Search {
            in_vain: (self.deleted == 0).then(Instant::now),
            ..Search::default()
        };
    }
}

/// What is known of a bounded spool.
#[derive(Default)]
pub(super) struct Bounding {
    /// The search for finished mail, the oldest first.
    mails: Search<MailId>,
    /// The search for idempotency keys, the oldest first, by the keys of their timers.
    pub keys: Search<Vec<u8>>,
    /// The size of the files in bytes, and until when this value is used.
    measured: Option<(u64, Instant)>,
    pace: Pace,
}

/// The number of bytes down to which finished mail is deleted while the files have this size, so
/// that they stay below `max`. There is no limit while a fifth is free; then the limit decreases by
/// four bytes for each byte of growth, down to a half of `max`. Pending mail is not refused because
/// of it.
///
/// Less than a half costs more than it gains as long as the files stay below `max`: when half of
/// the file is free, sled moves the records at its end forward to shorten it, over and over while
/// new ones are written. Files that are larger than `max` are to be shortened: then the limit
/// decreases further, by a byte for each byte, down to a quarter.
fn bounded(max: u64, files: u64) -> u64 {
    let excess = files.saturating_sub(max - max / 5);
    let beyond = files.saturating_sub(max);
    let limit = max.saturating_sub(excess.saturating_mul(4)).max(max / 2);
    limit.saturating_sub(beyond).max(max / 4)
}

impl<S: Store> SpoolState<S> {
    /// About how many bytes are stored.
    fn kept_bytes(&self, totals: &Totals) -> u64 {
        let kept = totals.kept.unwrap_or_default();
        let values = kept.keys + kept.suppressions + kept.readers;
        kept.bytes + values * VALUE_BYTES + self.journal.bytes()
    }

    /// Whether `more` bytes of new mail fit.
    pub(super) fn fits(&self, totals: &Totals, more: u64) -> Result<(), SpoolError> {
        let kept = self.kept_bytes(totals);
        match self.options.max_size {
            Some(max) if kept.saturating_add(more) > max => Err(SpoolError::Full { kept, max }),
            _ => Ok(()),
        }
    }

    /// Whether a message of this size can fit once finished mail is deleted.
    pub(super) fn may_fit(&self, size: u64) -> Result<(), SpoolError> {
        if self.options.max_size.is_none() {
            return Ok(());
        }
        let totals = self.totals.lock();
        match totals.finished.iter().flatten().sum() {
            0u64 => self.fits(&totals, usage::LEAST_BYTES + size),
            _ => Ok(()),
        }
    }
}

/// The bytes that a command adds.
fn wanted<S>(command: &GroupCommand<S>) -> u64 {
    match command {
        GroupCommand::Judge(manifest, ..) => usage::weight(manifest, false),
        GroupCommand::Put(mails, _) => mails.iter().map(of_mail).sum(),
        _ => 0,
    }
}

fn of_mail<S>(mail: &Encoded<S>) -> u64 {
    usage::weight(&mail.manifest, false)
}

impl<S: Store> Writer<'_, S> {
    /// Whether the bytes that a command adds fit beside those that are stored and gathered.
    pub(super) fn has_space(&self, command: &GroupCommand<S>) -> bool {
        match wanted(command) {
            0 => true,
            more => self.shared.fits(&self.totals, more).is_ok(),
        }
    }

    /// Whether this mail fits.
    pub(super) fn check_space(&self, manifest: &Manifest) -> Result<(), SpoolError> {
        self.shared
            .fits(&self.totals, usage::weight(manifest, false))
    }

    /// Deletes finished mail, as long as the command's bytes do not fit or the files are too full.
    pub(super) fn make_space(&mut self, command: &GroupCommand<S>) {
        let more = wanted(command);
        let Some(max) = self.shared.options.max_size else {
            return;
        };
        if more == 0 {
            return;
        }

        self.forget_old_keys(max);
        let limit = self.limit(max);
        if self.shared.kept_bytes(&self.totals).saturating_add(more) <= limit {
            return;
        }

        // Deletes a little more than needed, so that not every new mail requires a step.
        let goal = limit.saturating_sub(limit / 32);
        for _ in 0..STEPS {
            let has_ended = self.ended() > 0;
            let rests = self.bounding.mails.rests();
            let kept = self.shared.kept_bytes(&self.totals);
            if !has_ended || rests || kept.saturating_add(more) <= goal {
                return;
            }
            let excess = kept.saturating_add(more) - goal;
            if let Err(error) = self.remove_some(excess) {
                tracing::error!(%error, "what has ended could not be removed");
                return;
            }
        }
    }

    /// How many deliveries are finished.
    fn ended(&self) -> u64 {
        self.totals.finished.iter().flatten().sum()
    }

    /// How many bytes may be stored now. The size of the files is ignored if almost no mail is
    /// finished: the search would walk through all pending mail and find nothing.
    fn limit(&mut self, max: u64) -> u64 {
        let pending: u64 = self.totals.pending.iter().sum();
        if self.ended() < pending / 4 {
            return max;
        }
        bounded(max, self.files())
    }

    /// The size of the files, measured now or a moment ago.
    fn files(&mut self) -> u64 {
        let begun = Instant::now();
        if let Some((files, until)) = self.bounding.measured
            && begun < until
        {
            return files;
        }
        let files = self.shared.store.grown_bytes();
        let rest = MEASURED_EVERY.max(begun.elapsed() * LOOK_SHARE);
        self.bounding.measured = Some((files, begun + rest));
        files
    }

    /// Waits after `written` bytes, as long as the cleaning of almost full files needs.
    pub(super) fn keep_pace(&mut self, written: usize) {
        let Some(max) = self.shared.options.max_size else {
            return;
        };
        let (written, files) = (written as u64, self.files());
        let kept = self.shared.kept_bytes(&self.totals);
        let wait = self.bounding.pace.wait_after(written, files, max, kept);
        if !wait.is_zero() {
            std::thread::sleep(wait);
        }
    }

    /// One step: deletes about `excess` bytes of finished mail.
    fn remove_some(&mut self, excess: u64) -> Result<(), SpoolError> {
        let mut search = std::mem::take(&mut self.bounding.mails);
        let removed = self.step(|transaction| remove_some(transaction, &mut search, excess));
        self.bounding.mails = search;
        removed
    }

    /// Makes one step of deleting, and leaves the sync to the syncer. Nothing of a step that fails
    /// is written.
    pub(super) fn step(
        &mut self,
        step: impl FnOnce(&mut WriteTransaction<'_, S>) -> Result<(), SpoolError>,
    ) -> Result<(), SpoolError> {
        let mut transaction =
            WriteTransaction::beside_others(self.shared, self.totals.clone(), self.syncer);
        let made = step(&mut transaction);
        if made.is_err() {
            transaction.abandon();
        }
        self.totals = transaction.totals.clone();
        self.unsynced += transaction.finish(None);
        self.sync_in_time();
        made
    }
}

fn remove_some<S: Store>(
    transaction: &mut WriteTransaction<'_, S>,
    search: &mut Search<MailId>,
    excess: u64,
) -> Result<(), SpoolError> {
    let store = &transaction.shared.store;
    let (begin, to) = keys::starting_with(b"m");
    let from = search
        .at
        .map_or(begin, |at| [&keys::manifest(at)[..], &[0]].concat());

    let mut ids = Vec::with_capacity(LOOKED_AT);
    store.walk(&from, &to, Direction::Up, &mut |key, _| {
        ids.extend(keys::mail_of(key));
        match ids.len() {
            LOOKED_AT => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        }
    })?;

    let is_last = ids.len() < LOOKED_AT;
    let before = transaction.totals.kept().bytes;
    let mut is_cut_short = false;
    for id in ids {
        if transaction.is_full() || before - transaction.totals.kept().bytes >= excess {
            is_cut_short = true;
            break;
        }
        search.at = Some(id);
        let whole = match reader::whole(&transaction.shared.store, id) {
            Ok(Some(whole)) => whole,
            Ok(None) | Err(SpoolError::Unreadable(_)) => continue,
            Err(error) => return Err(error),
        };
        if has_ended(&whole) {
            operations::remove_mail(transaction, &whole)?;
            search.deleted += 1;
        }
    }
    transaction.commit()?;

    if is_last && !is_cut_short {
        search.end();
    }

    Ok(())
}

fn has_ended(whole: &StoredMailState) -> bool {
    let mut stages = whole.deliveries.values().map(|delivery| delivery.stage);
    !whole.is_damaged && stages.all(|stage| stage.finished_at().is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fuller_the_files_are_the_less_is_kept_in_them() {
        for (files, kept) in [
            (0, 1000),
            (800, 1000),
            (850, 800),
            (920, 520),
            (1000, 500),
            (1100, 400),
            (5000, 250),
            (u64::MAX, 250),
        ] {
            assert_eq!(bounded(1000, files), kept, "{files}");
        }
    }
}

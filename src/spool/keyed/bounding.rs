//! Keeps a spool within its `max_size`: what has ended goes before its time, the oldest first, and
//! where nothing has ended that could go, no more mail is taken. On the writer's thread, in bounded
//! steps, right before mail is taken that would not fit.
//!
//! A log that is written at its end holds more than what is kept: what was removed takes its room
//! until its segment is cleaned. So the files are watched as well, and the fuller they are, the
//! less is kept.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use super::SpoolState;
use super::command::GroupCommand;
use super::encoding::Encoded;
use super::kept;
use super::keys;
use super::operations;
use super::reader::{self, MailState};
use super::write_transaction::WriteTransaction;
use super::writer::Writer;
use crate::mail::MailId;
use crate::spool::codec::Totals;
use crate::spool::store::{Store, Walk};
use crate::spool::{Manifest, SpoolError};

/// How many mails one step looks at.
const LOOKED_AT: usize = 256;
/// How many steps are made before mail is taken or refused.
const STEPS: usize = 16;
/// How long it rests after all mail was looked at in vain.
const REST: Duration = Duration::from_secs(1);
/// How long it is until the files are looked at again, and at least so many times as long as that
/// took.
const MEASURED_EVERY: Duration = Duration::from_millis(100);
const LOOK_SHARE: u32 = 50;
/// About what a value takes that is counted by number.
const VALUE_BYTES: u64 = 128;

/// How far a spool is in looking for what may go.
#[derive(Default)]
pub(super) struct Bounding {
    /// The mail that was looked at last; from the oldest on where there is none.
    at: Option<MailId>,
    /// What was removed since it began with the oldest.
    removed: u64,
    /// When all mail was looked at in vain.
    in_vain: Option<Instant>,
    /// When the files are looked at again.
    measured_until: Option<Instant>,
}

/// Down to how many bytes what has ended goes while the files are of this size, so that these stay
/// below `max`: all may stay while they have a fifth to spare, then four bytes less for each that
/// they grow, and never less than a quarter. What still waits is not refused for it.
fn bounded(max: u64, files: u64) -> u64 {
    let excess = files.saturating_sub(max - max / 5);
    max.saturating_sub(excess.saturating_mul(4)).max(max / 4)
}

impl<S: Store> SpoolState<S> {
    /// About how many bytes are kept.
    fn kept_bytes(&self, totals: &Totals) -> u64 {
        let kept = totals.kept.unwrap_or_default();
        let values = kept.keys + kept.suppressions + kept.readers;
        kept.bytes + values * VALUE_BYTES + self.journal.bytes()
    }

    /// Whether mail that takes so much fits.
    pub(super) fn fits(&self, totals: &Totals, more: u64) -> Result<(), SpoolError> {
        let kept = self.kept_bytes(totals);
        match self.options.max_size {
            Some(max) if kept.saturating_add(more) > max => Err(SpoolError::Full { kept, max }),
            _ => Ok(()),
        }
    }

    /// Whether a message of this size may fit, once what has ended is gone.
    pub(super) fn may_fit(&self, size: u64) -> Result<(), SpoolError> {
        if self.options.max_size.is_none() {
            return Ok(());
        }
        let totals = self.totals.lock();
        match totals.finished.iter().flatten().sum() {
            0u64 => self.fits(&totals, kept::LEAST_BYTES + size),
            _ => Ok(()),
        }
    }
}

/// What a command adds to what is kept.
fn wanted<S>(command: &GroupCommand<S>) -> u64 {
    match command {
        GroupCommand::Judge(manifest, ..) => kept::weight(manifest, false),
        GroupCommand::Put(mails, _) => mails.iter().map(of_mail).sum(),
        _ => 0,
    }
}

fn of_mail<S>(mail: &Encoded<S>) -> u64 {
    kept::weight(&mail.manifest, false)
}

impl<S: Store> Writer<'_, S> {
    /// Whether what a command adds fits beside what is kept and gathered.
    pub(super) fn has_space(&self, command: &GroupCommand<S>) -> bool {
        match wanted(command) {
            0 => true,
            more => self.shared.fits(&self.totals, more).is_ok(),
        }
    }

    /// Whether this mail fits.
    pub(super) fn check_space(&self, manifest: &Manifest) -> Result<(), SpoolError> {
        self.shared
            .fits(&self.totals, kept::weight(manifest, false))
    }

    /// Removes what has ended, as long as what a command adds does not fit, or the files are too
    /// full.
    pub(super) fn make_space(&mut self, command: &GroupCommand<S>) {
        let more = wanted(command);
        let Some(max) = self.shared.options.max_size else {
            return;
        };
        if more == 0 {
            return;
        }

        let limit = self.limit(max);
        if self.shared.kept_bytes(&self.totals).saturating_add(more) <= limit {
            return;
        }

        // Somewhat more goes than has to, so that not every mail is followed by the next step.
        let goal = limit.saturating_sub(limit / 32);
        for _ in 0..STEPS {
            let has_ended = self.ended() > 0;
            let rests = self.bounding.in_vain.is_some_and(|at| at.elapsed() < REST);
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

    /// How many deliveries have ended.
    fn ended(&self) -> u64 {
        self.totals.finished.iter().flatten().sum()
    }

    /// How many bytes may be kept now. The files are looked at now and then; and not where next to
    /// nothing has ended, which would be looked for in vain among what waits.
    fn limit(&mut self, max: u64) -> u64 {
        let begun = Instant::now();
        let is_known = self
            .bounding
            .measured_until
            .is_some_and(|until| begun < until);
        let pending: u64 = self.totals.pending.iter().sum();
        if is_known || self.ended() < pending / 4 {
            return max;
        }

        let files = self.shared.store.grown_bytes();
        let rest = MEASURED_EVERY.max(begun.elapsed() * LOOK_SHARE);
        self.bounding.measured_until = Some(begun + rest);
        bounded(max, files)
    }

    /// One step: removes about so many bytes of what has ended.
    fn remove_some(&mut self, excess: u64) -> Result<(), SpoolError> {
        let mut transaction =
            WriteTransaction::beside_others(self.shared, self.totals.clone(), self.syncer);
        let removed = remove_some(&mut transaction, &mut self.bounding, excess);
        if removed.is_err() {
            transaction.abandon();
        }
        self.totals = transaction.totals.clone();
        self.unsynced += transaction.finish(None);
        self.sync_in_time();
        removed
    }
}

fn remove_some<S: Store>(
    transaction: &mut WriteTransaction<'_, S>,
    bounding: &mut Bounding,
    excess: u64,
) -> Result<(), SpoolError> {
    let store = &transaction.shared.store;
    let (begin, to) = keys::starting_with(b"m");
    let from = bounding
        .at
        .map_or(begin, |at| [&keys::manifest(at)[..], &[0]].concat());

    let mut ids = Vec::with_capacity(LOOKED_AT);
    store.walk(&from, &to, Walk::Up, &mut |key, _| {
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
        bounding.at = Some(id);
        let whole = match reader::whole(&transaction.shared.store, id) {
            Ok(Some(whole)) => whole,
            Ok(None) | Err(SpoolError::Unreadable(_)) => continue,
            Err(error) => return Err(error),
        };
        if has_ended(&whole) {
            operations::remove_mail(transaction, &whole)?;
            bounding.removed += 1;
        }
    }
    transaction.commit()?;

    if is_last && !is_cut_short {
        bounding.in_vain = (bounding.removed == 0).then(Instant::now);
        bounding.at = None;
        bounding.removed = 0;
    }

    Ok(())
}

fn has_ended(whole: &MailState) -> bool {
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
            (950, 400),
            (1000, 250),
            (5000, 250),
            (u64::MAX, 250),
        ] {
            assert_eq!(bounded(1000, files), kept, "{files}");
        }
    }
}

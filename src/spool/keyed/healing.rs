//! Reopens a store after a failed write, as soon as it can be written again: when a full disk has
//! space again, the spool continues without a restart. Leases stay valid. Outcomes that arrive
//! meanwhile are kept in memory and written first, so that no mail is sent twice. Runs on the
//! writer's thread.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::answer::ReplySender;
use super::backlog::Backlog;
use super::group::CommitGroup;
use super::queue_ids::QueueIds;
use super::write_transaction::WriteTransaction;
use super::writer::{GROUP_BYTES, Writer};
use super::{SpoolState, reader, recovery};
use super::{keys, usage};
use crate::delivery::{Delivery, Route};
use crate::mail::Timestamp;
use crate::spool::codec;
use crate::spool::store::Store;
use crate::spool::{LeaseToken, SettleResult, SpoolError};

/// How long to wait between two tries.
pub(super) const RETRY_AFTER: Duration = Duration::from_millis(500);

/// Outcomes that could not be written, and the caller that waits for them.
pub(super) struct UnwrittenOutcomes {
    pub settled: Vec<(LeaseToken, Delivery)>,
    /// The answer to the caller, once they are written.
    pub results: Vec<SettleResult>,
    pub reply: ReplySender<Vec<SettleResult>>,
}

impl<S: Store> SpoolState<S> {
    /// Whether a retry may succeed after this failure.
    pub(super) fn may_heal(&self) -> bool {
        let is_unwritable = matches!(*self.failure.read(), Some(SpoolError::Unwritable { .. }));
        is_unwritable && self.store.may_reopen()
    }

    /// Answers the callers of all unwritten outcomes with the failure: there will be no further
    /// try.
    pub(super) fn fail_unwritten(&self) {
        let error = self.failure().unwrap_or(SpoolError::Closed);
        for waiting in std::mem::take(&mut *self.unwritten.lock()) {
            let _ = waiting.reply.send(Err(error.clone()));
        }
    }
}

impl<S: Store> Writer<'_, S> {
    /// Tries to write again, and continues if that succeeds.
    pub(super) fn heal(&mut self) {
        self.syncer.finish();

        let Some(before) = self.shared.failure() else {
            return;
        };
        match self.shared.store.reopen().and_then(|()| self.reload()) {
            Ok(()) => tracing::info!("the spool can be written again, and takes mail"),
            Err(error @ SpoolError::Damaged { .. }) => {
                tracing::error!(%error, "the spool cannot be opened again");
                *self.shared.failure.write() = Some(error);
            }
            Err(error) => {
                tracing::debug!(%error, "the spool cannot be written yet");
                self.shared.fail(before);
            }
        }
    }

    /// Reloads the state in memory from disk, then writes the outcomes that could not be written.
    fn reload(&mut self) -> Result<(), SpoolError> {
        let shared = self.shared;
        shared.journal.read_again(&shared.store)?;
        self.totals = usage::totals(&shared.store)?;

        let first = reader::first_timer(&shared.store)?.map_or(i64::MAX, Timestamp::as_millis);
        shared.next_timer.store(first, Ordering::Relaxed);
        {
            let mut queues = shared.queues.lock();
            queues.read_again(Vec::new());
            for token in std::mem::take(&mut *shared.stuck.lock()) {
                queues.end(&token);
            }
        }
        *shared.ids.write() = QueueIds::default();
        *shared.backlog.lock() = Backlog::default();
        shared.sweeps_in_progress.lock().clear();
        self.large_mails.clear();

        *shared.failure.write() = None;
        self.transact(recovery::name_queues)?;
        let routes: Vec<Route> = shared
            .ids
            .read()
            .all()
            .map(|(route, _)| route.clone())
            .collect();

        shared.queues.lock().read_again(routes);
        self.write_unwritten()?;
        self.transact(recovery::recover)?;
        shared.keep(Vec::new())?;
        shared.changed.notify_one();
        Ok(())
    }

    fn transact(
        &mut self,
        change: fn(&mut WriteTransaction<'_, S>) -> Result<(), SpoolError>,
    ) -> Result<(), SpoolError> {
        let mut transaction = WriteTransaction::new(self.shared, self.totals.clone());
        let changed = change(&mut transaction).inspect_err(|_| transaction.abandon());
        self.totals = transaction.totals.clone();
        changed
    }

    fn write_unwritten(&mut self) -> Result<(), SpoolError> {
        let mut group = CommitGroup::default();
        for waiting in std::mem::take(&mut *self.shared.unwritten.lock()) {
            let UnwrittenOutcomes {
                settled,
                results,
                reply,
            } = waiting;
            let settled = settled.into_iter().map(|(token, delivery)| {
                let bytes = codec::encode(&delivery);
                // The failed write may have reached the disk.
                let key = keys::delivery(token.mail, token.index);
                let stored = self.shared.store.get(&key).ok().flatten();
                let bytes = (stored.as_ref() != Some(&bytes)).then_some(bytes);
                (token, delivery, bytes)
            });
            let settled = settled.collect();
            self.record(&mut group, settled, results, reply);

            if group.changes.weight() >= GROUP_BYTES {
                self.commit(std::mem::take(&mut group), false);
            }
        }

        self.commit(group, false);
        self.syncer.finish();
        match self.shared.failure() {
            Some(failure) => Err(failure),
            None => Ok(()),
        }
    }
}

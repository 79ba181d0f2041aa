//! The trait `Spool` over ordered keys: each method checks, encodes, and asks the writer or reads.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;
use tokio::sync::{Notify, oneshot};

use super::changes::in_steps;
use super::command::{GroupCommand, WriterCommand};
use super::encoding::Encoded;
use super::stored_mail::{self, StoredMail};
use super::write_transaction::WriteTransaction;
use super::writer::GROUP_BYTES;
use super::{KeyedSpool, WAITING_KIB, keys, listing, operations, reader, statistics};
use crate::delivery::{Delivery, Requester, Route, Stage};
use crate::mail::{MailId, Submitter, Timestamp};
use crate::spool::codec;
use crate::spool::store::Store;
use crate::spool::{
    Claim, ClaimRequest, CommitTimes, Durability, FeedbackStore, Journal, Lease, LeaseToken,
    NewMail, OperationResult, Page, PutResult, Query, Record, SettleResult, Spool, SpoolError,
    SpoolStats, Suppressions, SweepReport,
};

#[async_trait]
impl<S: Store> Spool for KeyedSpool<S> {
    fn durability(&self) -> Durability {
        match (
            self.shared.store.is_persistent(),
            self.shared.options.sync_interval,
        ) {
            (false, _) => Durability::InMemory,
            (true, None) => Durability::Synced,
            (true, Some(_)) => Durability::Written,
        }
    }

    fn changed(&self) -> &Notify {
        &self.shared.changed
    }

    async fn put(&self, new_mails: Vec<NewMail>) -> Vec<Result<PutResult, SpoolError>> {
        if let Some(failure) = self.shared.failure() {
            return vec![Err(failure); new_mails.len()];
        }

        // A bounded amount of mail waits for the writer; more waits here.
        let kib: usize = new_mails
            .iter()
            .map(|new_mail| {
                (new_mail.body.len() + stored_mail::weight(&new_mail.deliveries)) / 1024 + 1
            })
            .sum();
        let permits = u32::try_from(kib.min(WAITING_KIB)).unwrap_or(u32::MAX);
        let _permits = self.waiting.acquire_many(permits).await;

        // The mails are put in groups that fit into one commit each.
        let mut results = Vec::with_capacity(new_mails.len());
        let (mut group, mut bytes) = (Vec::new(), 0);
        let mut queued_later = false;
        for new_mail in new_mails {
            let encoded = self.encode(new_mail).await;
            let weight = encoded.as_ref().map_or(0, Encoded::weight);
            if bytes + weight > GROUP_BYTES {
                results.extend(self.put_group(std::mem::take(&mut group)).await);
                bytes = 0;
            }
            bytes += weight;
            queued_later |= encoded.as_ref().is_ok_and(|mail| mail.queued_later);

            match encoded {
                Ok(mail) => group.push(mail),
                // It has its result already. Results are in order: those before it come first.
                Err(result) => {
                    results.extend(self.put_group(std::mem::take(&mut group)).await);
                    bytes = 0;
                    results.push(result);
                }
            }
        }

        results.extend(self.put_group(group).await);
        if queued_later {
            // They are stored; wait until their recipients are queued as well.
            let _ = self.ask(WriterCommand::Pass).await;
        }

        results
    }

    async fn claim(&self, request: ClaimRequest) -> Result<Vec<Claim>, SpoolError> {
        self.claim_for(request).await
    }

    async fn mark(&self, leases: Vec<LeaseToken>) -> Result<(), SpoolError> {
        // Check the leases and read the deliveries.
        let marking = self
            .look(move |shared| {
                let mut marked = Vec::with_capacity(leases.len());
                {
                    // All or none: if a part of a mail must not be sent, it is not sent now.
                    let mut queues = shared.queues.lock();
                    if leases.iter().any(|token| queues.current(token).is_none()) {
                        shared.count_stale();
                        return Err(SpoolError::StaleLease);
                    }
                    for token in &leases {
                        queues.mark(token);
                    }
                }

                for token in leases {
                    let delivery = reader::delivery(&shared.store, token.mail, token.index)?;
                    let Some(mut delivery) = delivery.transpose()? else {
                        continue;
                    };
                    if let Stage::Pending { due } = delivery.stage {
                        delivery.stage = Stage::Committing { due };
                        marked.push((token, delivery));
                    }
                }
                Ok(marked)
            })
            .await?;

        // Write the marks.
        for marking in in_steps(marking, |(_, delivery)| codec::encode(delivery).len()) {
            self.ask(|reply| GroupCommand::Mark(marking, reply))
                .await??;
        }
        Ok(())
    }

    fn settle(
        &self,
        settled: Vec<(Lease, Delivery)>,
    ) -> BoxFuture<'_, Result<Vec<SettleResult>, SpoolError>> {
        let settled = settled.into_iter().map(|(lease, delivery)| {
            let bytes = codec::encode(&delivery);
            (lease.spend(), delivery, bytes)
        });

        let mut answers = Vec::with_capacity(1);
        for settled in in_steps(settled.collect(), |(_, _, bytes)| bytes.len()) {
            let (reply, answer) = oneshot::channel();
            // If the writer has ended, `reply` is dropped and there is no answer.
            let _ = self
                .commands
                .send(GroupCommand::Settle(settled, reply).into());
            answers.push(answer);
        }

        Box::pin(async move {
            let mut recorded = Vec::new();
            for answer in answers {
                recorded.extend(answer.await.map_err(|_| SpoolError::Closed)??);
            }
            Ok(recorded)
        })
    }

    async fn get(&self, id: MailId) -> Result<Option<Record>, SpoolError> {
        let record = self.look(move |shared| reader::record(shared, id)).await?;
        self.shared.until_kept().await;
        Ok(record)
    }

    async fn body(&self, id: MailId) -> Result<Option<Bytes>, SpoolError> {
        self.look(move |shared| {
            if shared.options.keep_bodies.is_zero()
                && let Some(whole) = reader::whole(&shared.store, id)?
            {
                let mut stages = whole.deliveries.values().map(|delivery| &delivery.stage);
                let is_delivered = |stage: &Stage| matches!(stage, Stage::Delivered { .. });
                // Not readable from the moment of delivery, though it is deleted a moment later.
                if !whole.is_damaged && stages.all(is_delivered) {
                    return Err(SpoolError::Forgotten(id));
                }
            }

            match StoredMail::read(&shared.store, id)? {
                Some(mail) => reader::body(&shared.store, &mail)?.whole().map(Some),
                None => Ok(None),
            }
        })
        .await
    }

    async fn by_key(&self, whose: &Submitter, key: &str) -> Result<Option<MailId>, SpoolError> {
        let (whose, key) = (whose.clone(), key.to_owned());
        self.look(move |shared| shared.key_hash.find(&shared.store, &whose, &key))
            .await
    }

    async fn list(&self, query: Query, now: Timestamp) -> Result<Page, SpoolError> {
        let page = self
            .look(move |shared| listing::list(shared, &query, now))
            .await?;
        self.shared.until_kept().await;
        Ok(page)
    }

    async fn cancel(&self, id: MailId, now: Timestamp) -> Result<OperationResult, SpoolError> {
        self.cancel_by(&Requester::default(), id, now).await
    }

    async fn retry(
        &self,
        id: MailId,
        now: Timestamp,
        lifetime: Duration,
    ) -> Result<OperationResult, SpoolError> {
        self.retry_by(&Requester::default(), id, now, lifetime)
            .await
    }

    async fn purge(&self, id: MailId) -> Result<OperationResult, SpoolError> {
        self.purge_by(&Requester::default(), id, Timestamp::now())
            .await
    }

    async fn cancel_by(
        &self,
        by: &Requester,
        id: MailId,
        now: Timestamp,
    ) -> Result<OperationResult, SpoolError> {
        let by = by.clone();
        let step = move |transaction: &mut WriteTransaction<'_, S>, from| {
            operations::cancel(transaction, &by, id, now, from)
        };
        self.change_in_steps(step).await
    }

    async fn retry_by(
        &self,
        by: &Requester,
        id: MailId,
        now: Timestamp,
        lifetime: Duration,
    ) -> Result<OperationResult, SpoolError> {
        let revived = self
            .change(move |transaction| operations::begin_retry(transaction, id, now, lifetime))
            .await?;
        let Some(revived) = revived else {
            return Ok(OperationResult::Unknown);
        };
        let by = by.clone();
        let step = move |transaction: &mut WriteTransaction<'_, S>, from| {
            operations::retry(transaction, &by, (id, now), revived, from)
        };
        self.change_in_steps(step).await
    }

    async fn purge_by(
        &self,
        by: &Requester,
        id: MailId,
        now: Timestamp,
    ) -> Result<OperationResult, SpoolError> {
        let by = by.clone();
        self.change(move |transaction| operations::purge(transaction, &by, id, now))
            .await
    }

    fn is_sweep_due(&self, now: Timestamp) -> bool {
        self.shared.next_timer.load(Ordering::Relaxed) <= now.as_millis()
            || self.shared.journal.is_due(now)
    }

    async fn sweep(&self, now: Timestamp) -> Result<SweepReport, SpoolError> {
        let is_closed = self.shared.failure() == Some(SpoolError::Closed);
        if !is_closed && !self.is_sweep_due(now) {
            return Ok(SweepReport::default());
        }
        if let Some(failure) = self.shared.failure() {
            return Err(failure);
        }
        self.ask(|reply| WriterCommand::Sweep(now, reply)).await?
    }

    async fn reroute(&self, known: Vec<Route>, fallback: Route) -> Result<usize, SpoolError> {
        let known: HashSet<Route> = known.into_iter().collect();
        let unknown: Vec<Route> = self
            .shared
            .queues
            .lock()
            .routes()
            .into_iter()
            .filter(|route| !known.contains(route))
            .collect();

        if unknown.is_empty() {
            return Ok(0);
        }
        self.change(move |transaction| operations::reroute(transaction, &unknown, &fallback))
            .await
    }

    fn next_due(&self, after: Timestamp) -> Option<Timestamp> {
        let timer = self.shared.next_timer.load(Ordering::Relaxed);
        let timer = Some(timer)
            .filter(|at| *at < i64::MAX)
            .map(Timestamp::from_millis)
            .filter(|at| *at > after);
        let due = self.shared.queues.lock().next_due(after);
        let journal = self.shared.journal.next_due().filter(|at| *at > after);
        due.into_iter().chain(timer).chain(journal).min()
    }

    fn due_routes(&self, now: Timestamp) -> Option<Vec<Route>> {
        Some(self.shared.queues.lock().due_routes(now))
    }

    fn pending(&self) -> u64 {
        self.shared.pending.load(Ordering::Relaxed)
    }

    fn pending_of(&self, submitter: &Submitter) -> u64 {
        let backlog = self.shared.backlog.lock();
        backlog.of_account(submitter.account()).pending
    }

    fn accepted_on(&self, submitter: &Submitter, day: i64) -> u64 {
        let account = self.shared.backlog.lock().of_account(submitter.account());
        if account.day == day {
            account.accepted
        } else {
            0
        }
    }

    fn failure(&self) -> Option<SpoolError> {
        self.shared.failure()
    }

    fn refusal(&self) -> Option<SpoolError> {
        self.shared
            .failure()
            .or_else(|| self.shared.store.has_room().err())
    }

    fn check_space(&self, size: u64) -> Result<(), SpoolError> {
        self.shared.may_fit(size)
    }

    async fn stats(&self, now: Timestamp) -> Result<SpoolStats, SpoolError> {
        // Move what has become due since the last call from `scheduled` to `queued` in the counts,
        // step by step on the writer's thread. A spool that has failed reports its last counts.
        while let Ok(false) = self
            .change(move |transaction| {
                let shared = transaction.shared;
                shared.backlog.lock().follow(&shared.store, now)
            })
            .await
        {}

        let mut stats = self.look(statistics::stats).await?;
        stats.oldest_due = stats.oldest_due.filter(|due| *due <= now);
        stats.journal_bytes = self.shared.journal.bytes();
        Ok(stats)
    }

    /// From memory: nothing is read, and the writer is not asked.
    async fn backlog(&self, _: Timestamp) -> Result<Vec<(Route, u64)>, SpoolError> {
        match self.shared.failure() {
            Some(SpoolError::Closed) => Err(SpoolError::Closed),
            _ => Ok(statistics::backlog(&self.shared)),
        }
    }

    fn commit_times(&self) -> CommitTimes {
        *self.shared.commit_times.lock()
    }

    fn journal(&self) -> Option<&dyn Journal> {
        Some(self)
    }

    async fn set_paused(&self, relay: &str, paused: bool) -> Result<(), SpoolError> {
        let note = (keys::paused(relay), paused.then(Vec::new));
        self.note_with(Vec::new(), vec![note]).await
    }

    async fn paused(&self) -> Result<BTreeSet<String>, SpoolError> {
        self.look(|shared| reader::paused(&shared.store)).await
    }

    fn suppressions(&self) -> Option<&dyn Suppressions> {
        Some(self)
    }

    fn feedback(&self) -> Option<&dyn FeedbackStore> {
        Some(self)
    }

    async fn close(&self) -> Result<(), SpoolError> {
        if self.shared.failure() == Some(SpoolError::Closed) {
            return Ok(());
        }

        let synced = self
            .ask(WriterCommand::Close)
            .await
            .and_then(|synced| synced);

        let threads = std::mem::take(&mut *self.threads.lock());
        let _ = tokio::task::spawn_blocking(move || {
            threads.into_iter().for_each(|thread| _ = thread.join())
        })
        .await;

        let shared = Arc::clone(&self.shared);
        let _ = tokio::task::spawn_blocking(move || shared.store.close()).await;
        synced
    }
}

//! A spool whose disk fails, or takes its time, when a test says so.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;
use postrider::delivery::{Delivery, Route};
use postrider::spool::{
    Claim, ClaimRequest, Journal, Lease, LeaseToken, NewMail, OperationResult, Page, PutResult,
    Record, SettleResult, Spool, SpoolError, SpoolOptions, SpoolStats, Suppressions, SweepReport,
    memory,
};
use postrider::{Durability, MailId, Query, Submitter, Timestamp};
use tokio::sync::{Notify, watch};

/// A spool in memory that can be broken: then it takes no new mail. Or held: then a put is answered
/// when it is let go.
pub struct FaultySpool {
    kept: Arc<dyn Spool>,
    broken: AtomicBool,
    /// Whether each put fails in the middle: nobody knows before that it will, nor after it what is
    /// kept.
    pub failing: AtomicBool,
    held: watch::Sender<bool>,
}

impl FaultySpool {
    pub fn new() -> Arc<Self> {
        let kept = memory::open(SpoolOptions::default());
        Arc::new(FaultySpool {
            kept,
            broken: AtomicBool::new(false),
            failing: AtomicBool::new(false),
            held: watch::channel(false).0,
        })
    }

    pub fn hold(&self) {
        self.held.send_replace(true);
    }

    pub fn let_go(&self) {
        self.held.send_replace(false);
    }

    pub fn break_down(&self) {
        self.broken.store(true, Ordering::SeqCst);
    }

    pub fn mend(&self) {
        self.broken.store(false, Ordering::SeqCst);
    }
}

#[async_trait]
impl Spool for FaultySpool {
    fn durability(&self) -> Durability {
        self.kept.durability()
    }
    fn changed(&self) -> &Notify {
        self.kept.changed()
    }
    async fn put(&self, new_mails: Vec<NewMail>) -> Vec<Result<PutResult, SpoolError>> {
        match self.failure() {
            Some(failure) => vec![Err(failure); new_mails.len()],
            None if self.failing.load(Ordering::SeqCst) => vec![Err(unwritable()); new_mails.len()],
            None => {
                let put = self.kept.put(new_mails).await;
                let mut held = self.held.subscribe();
                held.wait_for(|held| !held)
                    .await
                    .expect("the spool lives on");
                put
            }
        }
    }
    async fn claim(&self, request: ClaimRequest) -> Result<Vec<Claim>, SpoolError> {
        self.kept.claim(request).await
    }
    async fn mark(&self, leases: Vec<LeaseToken>) -> Result<(), SpoolError> {
        self.kept.mark(leases).await
    }
    fn settle(
        &self,
        settled: Vec<(Lease, Delivery)>,
    ) -> BoxFuture<'_, Result<Vec<SettleResult>, SpoolError>> {
        self.kept.settle(settled)
    }
    async fn get(&self, id: MailId) -> Result<Option<Record>, SpoolError> {
        self.kept.get(id).await
    }
    async fn body(&self, id: MailId) -> Result<Option<Bytes>, SpoolError> {
        self.kept.body(id).await
    }
    async fn list(&self, query: Query, now: Timestamp) -> Result<Page, SpoolError> {
        self.kept.list(query, now).await
    }
    async fn cancel(&self, id: MailId, now: Timestamp) -> Result<OperationResult, SpoolError> {
        self.kept.cancel(id, now).await
    }
    async fn retry(
        &self,
        id: MailId,
        now: Timestamp,
        lifetime: Duration,
    ) -> Result<OperationResult, SpoolError> {
        self.kept.retry(id, now, lifetime).await
    }
    async fn purge(&self, id: MailId) -> Result<OperationResult, SpoolError> {
        self.kept.purge(id).await
    }
    fn is_sweep_due(&self, now: Timestamp) -> bool {
        self.kept.is_sweep_due(now)
    }
    async fn sweep(&self, now: Timestamp) -> Result<SweepReport, SpoolError> {
        self.kept.sweep(now).await
    }
    async fn reroute(&self, known: Vec<Route>, fallback: Route) -> Result<usize, SpoolError> {
        self.kept.reroute(known, fallback).await
    }
    fn next_due(&self, after: Timestamp) -> Option<Timestamp> {
        self.kept.next_due(after)
    }
    fn pending(&self) -> u64 {
        self.kept.pending()
    }
    fn pending_of(&self, submitter: &Submitter) -> u64 {
        self.kept.pending_of(submitter)
    }
    fn accepted_on(&self, submitter: &Submitter, day: i64) -> u64 {
        self.kept.accepted_on(submitter, day)
    }
    fn failure(&self) -> Option<SpoolError> {
        self.broken
            .load(Ordering::SeqCst)
            .then(unwritable)
            .or_else(|| self.kept.failure())
    }
    async fn stats(&self, now: Timestamp) -> Result<SpoolStats, SpoolError> {
        self.kept.stats(now).await
    }
    fn suppressions(&self) -> Option<&dyn Suppressions> {
        self.kept.suppressions()
    }
    fn journal(&self) -> Option<&dyn Journal> {
        self.kept.journal()
    }
    async fn close(&self) -> Result<(), SpoolError> {
        self.kept.close().await
    }
}

fn unwritable() -> SpoolError {
    SpoolError::Unwritable {
        path: PathBuf::from("/var/spool"),
        reason: "input/output error".into(),
    }
}

//! A spool whose disk fails, or takes its time, when a test says so.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use postrider::delivery::{Delivery, Event, Route};
use postrider::spool::{
    Claim, ClaimRequest, FeedbackResult, FeedbackStore, Journal, JournalPage, Lease, LeaseToken,
    NewFeedback, NewMail, OperationResult, Page, PutResult, ReaderChange, ReaderStatus, Record,
    SettleResult, Spool, SpoolError, SpoolOptions, SpoolStats, Suppression, SuppressionPage,
    SuppressionQuery, Suppressions, SweepReport, memory,
};
use postrider::{Durability, MailId, Query, Submitter, Timestamp};
use tokio::sync::{Notify, watch};

/// What a method that a test lets fail does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    Errs,
    Panics,
}

/// A spool in memory that can be broken: then it takes no new mail. Or held: then a put is answered
/// when it is let go. Or each of its methods can fail.
pub struct FaultySpool {
    kept: Arc<dyn Spool>,
    broken: AtomicBool,
    /// Whether each put fails in the middle: nobody knows before that it will, nor after it what is
    /// kept.
    pub failing: AtomicBool,
    held: watch::Sender<bool>,
    /// How often each method is to fail, and how.
    faults: Mutex<HashMap<&'static str, (u32, Fault)>>,
    /// How often each method was called.
    calls: Mutex<HashMap<&'static str, u64>>,
    /// How many mails lists have looked at.
    looked_at: AtomicU64,
    /// The routes that cannot be claimed from.
    unread: Mutex<Vec<Route>>,
}

impl FaultySpool {
    pub fn new() -> Arc<Self> {
        let kept = memory::open(SpoolOptions::default());
        Arc::new(FaultySpool {
            kept,
            broken: AtomicBool::new(false),
            failing: AtomicBool::new(false),
            held: watch::channel(false).0,
            faults: Mutex::default(),
            calls: Mutex::default(),
            looked_at: AtomicU64::new(0),
            unread: Mutex::default(),
        })
    }

    /// From now on this method fails so often.
    pub fn fails(&self, method: &'static str, times: u32, how: Fault) {
        self.faults.lock().insert(method, (times, how));
    }

    /// Nothing can be claimed of these routes.
    pub fn cannot_read(&self, routes: Vec<Route>) {
        *self.unread.lock() = routes;
    }

    /// How often a method was called.
    pub fn calls(&self, method: &'static str) -> u64 {
        self.calls.lock().get(method).copied().unwrap_or_default()
    }

    /// How many mails its lists have looked at.
    pub fn looked_at(&self) -> u64 {
        self.looked_at.load(Ordering::SeqCst)
    }

    fn strike(&self, method: &'static str) -> Result<(), SpoolError> {
        *self.calls.lock().entry(method).or_default() += 1;
        let how = match self.faults.lock().get_mut(method) {
            Some((times, how)) if *times > 0 => {
                *times -= 1;
                *how
            }
            _ => return Ok(()),
        };
        assert!(how != Fault::Panics, "{method} was told to panic");
        Err(SpoolError::Unreadable("input/output error".into()))
    }

    fn kept_journal(&self) -> &dyn Journal {
        self.kept.journal().expect("it keeps one")
    }

    fn kept_suppressions(&self) -> &dyn Suppressions {
        self.kept.suppressions().expect("it keeps them")
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
        self.faults.lock().clear();
        self.unread.lock().clear();
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
                if let Err(error) = self.strike("put") {
                    return vec![Err(error); new_mails.len()];
                }
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
        self.strike("claim")?;
        let unread = |route| self.unread.lock().contains(route);
        if request.routes.iter().any(unread) {
            return Err(SpoolError::Unreadable("a queue is damaged".into()));
        }
        self.kept.claim(request).await
    }
    async fn mark(&self, leases: Vec<LeaseToken>) -> Result<(), SpoolError> {
        self.strike("mark")?;
        self.kept.mark(leases).await
    }
    fn settle(
        &self,
        settled: Vec<(Lease, Delivery)>,
    ) -> BoxFuture<'_, Result<Vec<SettleResult>, SpoolError>> {
        // What it was asked to record is lost, as it is where nobody answers.
        match self.strike("settle") {
            Ok(()) => self.kept.settle(settled),
            Err(error) => Box::pin(async move { Err(error) }),
        }
    }
    async fn get(&self, id: MailId) -> Result<Option<Record>, SpoolError> {
        self.strike("get")?;
        self.kept.get(id).await
    }
    async fn body(&self, id: MailId) -> Result<Option<Bytes>, SpoolError> {
        self.strike("body")?;
        self.kept.body(id).await
    }
    async fn by_key(&self, whose: &Submitter, key: &str) -> Result<Option<MailId>, SpoolError> {
        self.strike("by_key")?;
        self.kept.by_key(whose, key).await
    }
    async fn list(&self, query: Query, now: Timestamp) -> Result<Page, SpoolError> {
        self.strike("list")?;
        let page = self.kept.list(query, now).await?;
        self.looked_at.fetch_add(page.looked_at, Ordering::SeqCst);
        Ok(page)
    }
    async fn cancel(&self, id: MailId, now: Timestamp) -> Result<OperationResult, SpoolError> {
        self.strike("cancel")?;
        self.kept.cancel(id, now).await
    }
    async fn retry(
        &self,
        id: MailId,
        now: Timestamp,
        lifetime: Duration,
    ) -> Result<OperationResult, SpoolError> {
        self.strike("retry")?;
        self.kept.retry(id, now, lifetime).await
    }
    async fn purge(&self, id: MailId) -> Result<OperationResult, SpoolError> {
        self.strike("purge")?;
        self.kept.purge(id).await
    }
    fn is_sweep_due(&self, now: Timestamp) -> bool {
        self.kept.is_sweep_due(now)
    }
    async fn sweep(&self, now: Timestamp) -> Result<SweepReport, SpoolError> {
        self.strike("sweep")?;
        self.kept.sweep(now).await
    }
    async fn reroute(&self, known: Vec<Route>, fallback: Route) -> Result<usize, SpoolError> {
        self.strike("reroute")?;
        self.kept.reroute(known, fallback).await
    }
    fn next_due(&self, after: Timestamp) -> Option<Timestamp> {
        self.kept.next_due(after)
    }
    fn due_routes(&self, now: Timestamp) -> Option<Vec<Route>> {
        self.kept.due_routes(now)
    }
    async fn backlog(&self, now: Timestamp) -> Result<Vec<(Route, u64)>, SpoolError> {
        self.strike("backlog")?;
        self.kept.backlog(now).await
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
        self.strike("stats")?;
        self.kept.stats(now).await
    }
    async fn set_paused(&self, relay: &str, paused: bool) -> Result<(), SpoolError> {
        self.strike("set_paused")?;
        self.kept.set_paused(relay, paused).await
    }
    async fn paused(&self) -> Result<BTreeSet<String>, SpoolError> {
        self.strike("paused")?;
        self.kept.paused().await
    }
    fn suppressions(&self) -> Option<&dyn Suppressions> {
        Some(self)
    }
    fn journal(&self) -> Option<&dyn Journal> {
        Some(self)
    }
    fn feedback(&self) -> Option<&dyn FeedbackStore> {
        Some(self)
    }
    async fn close(&self) -> Result<(), SpoolError> {
        self.strike("close")?;
        self.kept.close().await
    }
}

#[async_trait]
impl Journal for FaultySpool {
    fn id(&self) -> u32 {
        self.kept_journal().id()
    }
    fn last(&self) -> watch::Receiver<u64> {
        self.kept_journal().last()
    }
    async fn note(&self, events: Vec<Event>) -> Result<(), SpoolError> {
        self.strike("journal.note")?;
        self.kept_journal().note(events).await
    }
    async fn after(&self, number: u64, most: usize) -> Result<JournalPage, SpoolError> {
        self.strike("journal.after")?;
        self.kept_journal().after(number, most).await
    }
    async fn since(&self, at: Timestamp) -> Result<u64, SpoolError> {
        self.strike("journal.since")?;
        self.kept_journal().since(at).await
    }
    async fn of_mail(&self, mail: MailId, after: u64) -> Result<JournalPage, SpoolError> {
        self.strike("journal.of_mail")?;
        self.kept_journal().of_mail(mail, after).await
    }
    async fn acts(&self, before: u64, most: usize) -> Result<Vec<Arc<Event>>, SpoolError> {
        self.strike("journal.acts")?;
        self.kept_journal().acts(before, most).await
    }
    async fn reader(&self, name: &str, otherwise: u64) -> Result<u64, SpoolError> {
        self.strike("journal.reader")?;
        self.kept_journal().reader(name, otherwise).await
    }
    async fn advance(
        &self,
        name: &str,
        to: u64,
        changes: Vec<ReaderChange>,
    ) -> Result<(), SpoolError> {
        self.strike("journal.advance")?;
        self.kept_journal().advance(name, to, changes).await
    }
    async fn leave(&self, name: &str, changes: Vec<ReaderChange>) -> Result<(), SpoolError> {
        self.strike("journal.leave")?;
        self.kept_journal().leave(name, changes).await
    }
    async fn kept(
        &self,
        name: &str,
        from: Vec<u8>,
        to: Vec<u8>,
        most: usize,
    ) -> Result<Vec<(Vec<u8>, Vec<u8>)>, SpoolError> {
        self.strike("journal.kept")?;
        self.kept_journal().kept(name, from, to, most).await
    }
    async fn forget(&self, name: &str) -> Result<(), SpoolError> {
        self.strike("journal.forget")?;
        self.kept_journal().forget(name).await
    }
    async fn readers(&self) -> Result<Vec<ReaderStatus>, SpoolError> {
        self.strike("journal.readers")?;
        self.kept_journal().readers().await
    }
}

#[async_trait]
impl Suppressions for FaultySpool {
    fn is_empty(&self) -> bool {
        self.kept_suppressions().is_empty()
    }
    async fn of(
        &self,
        addresses: Vec<postrider::Address>,
    ) -> Result<Vec<Vec<Suppression>>, SpoolError> {
        self.strike("suppressions.of")?;
        self.kept_suppressions().of(addresses).await
    }
    async fn add(&self, entries: Vec<Suppression>) -> Result<(), SpoolError> {
        self.strike("suppressions.add")?;
        self.kept_suppressions().add(entries).await
    }
    async fn remove(&self, entries: Vec<Suppression>) -> Result<usize, SpoolError> {
        self.strike("suppressions.remove")?;
        self.kept_suppressions().remove(entries).await
    }
    async fn page(&self, query: SuppressionQuery) -> Result<SuppressionPage, SpoolError> {
        self.strike("suppressions.page")?;
        self.kept_suppressions().page(query).await
    }
}

#[async_trait]
impl FeedbackStore for FaultySpool {
    async fn keep(&self, new: Vec<NewFeedback>) -> Result<Vec<FeedbackResult>, SpoolError> {
        self.strike("feedback.keep")?;
        let kept = self.kept.feedback().expect("a spool in memory keeps it");
        kept.keep(new).await
    }
}

fn unwritable() -> SpoolError {
    SpoolError::Unwritable {
        path: PathBuf::from("/var/spool"),
        reason: "input/output error".into(),
    }
}

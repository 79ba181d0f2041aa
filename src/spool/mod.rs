//! The durable store, and the only queue. What it is asked is in [`Spool`]; who asks is `dispatch`.
//!
//! Two kinds keep mail today: [`sled`] on disk and in memory. Both are one engine over two stores,
//! and every kind passes the suite `conformance`, which the feature `testing` brings.
//!
//! *Invariants made here:* a [`Spool::put`] that answered is on disk; a delivery is leased to one
//! sender at a time; a settle without the current lease changes nothing; what cannot be read is set
//! aside, never deleted.

mod cluster;
mod codec;
mod commit_times;
#[cfg(feature = "testing")]
pub mod conformance;
#[cfg(feature = "postgres")]
mod copy;
mod counts;
mod error;
mod feedback;
mod journal;
mod keyed;
mod lease;
pub mod memory;
mod outbox;
#[cfg(feature = "postgres")]
pub mod postgres;
mod query;
mod record;
pub mod sled;
mod store;
mod suppression;
#[cfg(feature = "postgres")]
mod transfer;

pub use cluster::{Cluster, NodeStatus, Orders};
#[cfg(feature = "testing")]
pub use codec::decode_any;
pub use commit_times::CommitTimes;
#[cfg(feature = "postgres")]
pub use copy::{SpoolLocation, copy};
pub use counts::DeliveryCounts;
pub use error::SpoolError;
pub use feedback::{FeedbackResult, FeedbackStore, NewFeedback};
pub use journal::{Journal, JournalOptions, JournalPage, ReaderChange, ReaderStatus};
pub use lease::{Lease, LeaseKeeper, LeaseToken};
pub use outbox::{Handful, Outbox, OutboxDraft};
pub use query::{Only, Page, Query};
pub use record::{Manifest, Record};
pub use suppression::{
    Suppression, SuppressionPage, SuppressionQuery, SuppressionReason, Suppressions,
};
#[cfg(feature = "postgres")]
pub use transfer::Copied;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::delivery::{By, DeadReason, Delivery, Route};
use crate::mail::{Address, MailId, Priority, Submitter, Timestamp, days};

/// How a spool keeps mail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpoolOptions {
    /// How long finished mail is kept.
    pub retention: Duration,
    /// How long the message of a mail is kept that a relay took for every recipient.
    pub keep_bodies: Duration,
    /// About the most bytes that its files take: what ended first goes before its time, and then no
    /// more is taken.
    pub max_size: Option<u64>,
    /// How long an idempotency key is remembered; while its mail is pending in any case.
    pub idempotency_ttl: Duration,
    /// Sync this often, instead of before each answer.
    pub sync_interval: Option<Duration>,
    /// How many bytes of new mail's bodies stay in memory until they are sent.
    pub cache_bytes: usize,
    /// How long the journal is kept, and how large it grows.
    pub journal: JournalOptions,
}

impl Default for SpoolOptions {
    fn default() -> Self {
        SpoolOptions {
            retention: days(7),
            keep_bodies: days(1),
            max_size: None,
            idempotency_ttl: days(7),
            sync_interval: None,
            cache_bytes: 32 * 1024 * 1024,
            journal: JournalOptions::default(),
        }
    }
}

/// What a receipt promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Durability {
    /// On disk and synced: it survives a power cut.
    Synced,
    /// Written, and synced within a second: it survives a killed process.
    Written,
    /// In memory only.
    InMemory,
    /// Not kept: it was sent once, synchronously, because the spool could not take it.
    Direct,
}

/// A mail on its way into the spool: what is known of it, its bytes, and a delivery for each
/// recipient.
#[derive(Clone, Debug)]
pub struct NewMail {
    /// What is known of it.
    pub manifest: Manifest,
    /// The frozen message.
    pub body: Bytes,
    /// One for each recipient, in the envelope's order.
    pub deliveries: Vec<Delivery>,
}

/// What became of a [`NewMail`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PutResult {
    /// It is kept, under its own id.
    Stored,
    /// It was put before, or its idempotency key is known: this is the mail that is kept.
    Duplicate(MailId),
}

/// Whose mail a sender could take now.
#[derive(Clone, Debug)]
pub struct ClaimRequest {
    /// The queues it may take from.
    pub routes: Vec<Route>,
    /// A turn for each mail that is wanted, in order; a turn whose priority has nothing due goes to
    /// the most urgent that has.
    pub turns: Vec<Priority>,
    /// So many further mails, of [`Priority::Critical`] only.
    pub critical_only: usize,
    /// Stop before the bodies add up to more, except the first mail.
    pub max_bytes: usize,
    /// The most recipients of one mail at a time.
    pub max_recipients: usize,
    /// What is due by then.
    pub now: Timestamp,
}

/// A mail in a sender's hands, with those of its recipients that are due on one route. Dropped
/// unsettled, it goes back.
#[derive(Debug)]
pub struct Claim {
    /// What is known of the mail.
    pub manifest: Arc<Manifest>,
    /// The frozen message.
    pub body: Bytes,
    /// The deliveries, each under its lease.
    pub deliveries: Vec<(Lease, Delivery)>,
}

/// What a settle did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SettleResult {
    /// It is on disk.
    Done,
    /// The lease was not current: nothing was changed.
    Stale,
}

/// A delivery that was ended without a user's request: by the clock, in doubt, or because something
/// of it cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndedDelivery {
    /// The mail.
    pub mail: MailId,
    /// The recipient.
    pub recipient: Address,
    /// Why.
    pub reason: DeadReason,
}

/// What one step of [`Spool::sweep`] did.
#[derive(Clone, Debug, Default)]
pub struct SweepReport {
    /// The deliveries that are now dead.
    pub ended: Vec<EndedDelivery>,
    /// How many finished mails were deleted, their retention over.
    pub pruned: usize,
    /// Whether there is more to do now.
    pub more: bool,
}

/// What a user's wish to change a mail came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OperationResult {
    /// Done, for these recipients.
    Done(Vec<Address>),
    /// No delivery of the mail is in a state that allows it.
    TooLate,
    /// There is no such mail.
    Unknown,
}

impl OperationResult {
    /// Done for these, if there are any.
    pub(crate) fn of(recipients: Vec<Address>) -> Self {
        if recipients.is_empty() {
            OperationResult::TooLate
        } else {
            OperationResult::Done(recipients)
        }
    }
}

/// How full the spool is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpoolStats {
    /// Deliveries by state and priority.
    pub counts: DeliveryCounts,
    /// Pending deliveries by the queue they wait in.
    pub backlog: Vec<(Route, u64)>,
    /// Since when the longest-waiting due delivery has been due.
    pub oldest_due: Option<Timestamp>,
    /// Records that could not be read and were set aside.
    pub quarantined: u64,
    /// Bytes on disk.
    pub bytes: u64,
    /// Settles that were refused because their lease was not current.
    pub stale_settles: u64,
    /// Bytes of the journal.
    pub journal_bytes: u64,
    /// For how long something has kept the store from removing what is dead, if for too long.
    pub held_back: Option<Duration>,
}

/// The durable store. Cheap to share; every method may be called from any task.
///
/// Dropping the future of a call that changes something does not undo the change.
#[async_trait]
pub trait Spool: Send + Sync + 'static {
    /// What [`Spool::put`] promises when it answers.
    fn durability(&self) -> Durability;

    /// Notified when something may have become due or the next due time may have changed. One
    /// waiter: the scheduler.
    fn changed(&self) -> &Notify;

    /// Keeps new mails, in as few groups as their size allows. Each has its own result, in order.
    async fn put(&self, new_mails: Vec<NewMail>) -> Vec<Result<PutResult, SpoolError>>;

    /// Leases due deliveries. Fewer than wanted, or none, when no more are due.
    async fn claim(&self, request: ClaimRequest) -> Result<Vec<Claim>, SpoolError>;

    /// Records before the final dot that an at-most-once mail may have been sent: found so after a
    /// crash, it is dead as `in_doubt`. The leases stay. [`SpoolError::StaleLease`] where one of
    /// them is not current: none is marked then, and the mail must not be sent.
    async fn mark(&self, leases: Vec<LeaseToken>) -> Result<(), SpoolError>;

    /// Records what became of deliveries and ends their leases. Taken up in the order of the calls,
    /// as soon as the call is made; the future is only the wait for the disk.
    fn settle(
        &self,
        settled: Vec<(Lease, Delivery)>,
    ) -> BoxFuture<'_, Result<Vec<SettleResult>, SpoolError>>;

    /// All that is known of a mail; `None` where there is no such mail.
    async fn get(&self, id: MailId) -> Result<Option<Record>, SpoolError>;

    /// A mail's frozen message; `None` where there is no such mail. [`SpoolError::Forgotten`] where
    /// it is not kept any more.
    async fn body(&self, id: MailId) -> Result<Option<Bytes>, SpoolError>;

    /// The mail that has this idempotency key of whoever submitted it; `None` where there is none,
    /// or its key is forgotten.
    async fn by_key(&self, whose: &Submitter, key: &str) -> Result<Option<MailId>, SpoolError> {
        let _ = (whose, key);
        Ok(None)
    }

    /// One page of mails.
    async fn list(&self, query: Query, now: Timestamp) -> Result<Page, SpoolError>;

    /// Withdraws what is not being sent and has not ended.
    async fn cancel(&self, id: MailId, now: Timestamp) -> Result<OperationResult, SpoolError>;

    /// Queues dead deliveries again, or cancelled ones where none is dead: at once, with a full
    /// count of attempts and a lifetime of `lifetime`. A deferred one becomes due at once.
    async fn retry(
        &self,
        id: MailId,
        now: Timestamp,
        lifetime: Duration,
    ) -> Result<OperationResult, SpoolError>;

    /// Deletes a mail of which every delivery has ended.
    async fn purge(&self, id: MailId) -> Result<OperationResult, SpoolError>;

    /// As [`Spool::cancel`], done by this one: the journal says so.
    async fn cancel_by(
        &self,
        by: &By,
        id: MailId,
        now: Timestamp,
    ) -> Result<OperationResult, SpoolError> {
        let _ = by;
        self.cancel(id, now).await
    }

    /// As [`Spool::retry`], done by this one: the journal says so.
    async fn retry_by(
        &self,
        by: &By,
        id: MailId,
        now: Timestamp,
        lifetime: Duration,
    ) -> Result<OperationResult, SpoolError> {
        let _ = by;
        self.retry(id, now, lifetime).await
    }

    /// As [`Spool::purge`], done by this one: the journal says so.
    async fn purge_by(
        &self,
        by: &By,
        id: MailId,
        now: Timestamp,
    ) -> Result<OperationResult, SpoolError> {
        let _ = (by, now);
        self.purge(id).await
    }

    /// Whether [`Spool::sweep`] has something to do.
    fn is_sweep_due(&self, now: Timestamp) -> bool;

    /// Ends what has expired and deletes what was kept long enough; a bounded step. It also tells
    /// of what has ended otherwise without a user's request since the last sweep, which is then
    /// due.
    async fn sweep(&self, now: Timestamp) -> Result<SweepReport, SpoolError>;

    /// Moves pending deliveries of routes that are not `known` to `fallback`; a bounded step that
    /// returns how many it moved.
    async fn reroute(&self, known: Vec<Route>, fallback: Route) -> Result<usize, SpoolError>;

    /// The first time after `after` at which a delivery falls due or a sweep has something to do.
    fn next_due(&self, after: Timestamp) -> Option<Timestamp>;

    /// The queues in which something may be due by `now`; `None` where that is not known, so that
    /// all are to be looked at.
    fn due_routes(&self, now: Timestamp) -> Option<Vec<Route>> {
        let _ = now;
        None
    }

    /// How many deliveries are pending.
    fn pending(&self) -> u64;

    /// How many of them this one submitted. Counted for tokens and users; 0 for all others.
    fn pending_of(&self, submitter: &Submitter) -> u64 {
        let _ = submitter;
        0
    }

    /// How many deliveries were accepted of this one on this day, as [`Timestamp::day`] counts
    /// them; likewise. The last day is kept.
    fn accepted_on(&self, submitter: &Submitter, day: i64) -> u64 {
        let _ = (submitter, day);
        0
    }

    /// Why nothing can be written any more; `None` while all is well. Nothing is sent then: what
    /// became of it could not be recorded, and it would be sent again.
    fn failure(&self) -> Option<SpoolError>;

    /// Whether a lease is current, as far as this is known without asking. One that is not cannot
    /// be settled, and its mail must not be begun: another may have it.
    fn holds(&self, lease: &LeaseToken) -> bool {
        let _ = lease;
        true
    }

    /// Whether a message of this size may fit, once what has ended is gone.
    ///
    /// # Errors
    /// [`SpoolError::Full`] where it does not.
    fn check_space(&self, size: u64) -> Result<(), SpoolError> {
        let _ = size;
        Ok(())
    }

    /// Why no new mail is taken now; `None` while all is well. It may pass by itself, as a full
    /// disk does.
    fn refusal(&self) -> Option<SpoolError> {
        self.failure()
    }

    /// How full it is.
    async fn stats(&self, now: Timestamp) -> Result<SpoolStats, SpoolError>;

    /// How many deliveries are pending on each route.
    async fn backlog(&self, now: Timestamp) -> Result<Vec<(Route, u64)>, SpoolError> {
        Ok(self.stats(now).await?.backlog)
    }

    /// How long its commits took since it was opened.
    fn commit_times(&self) -> CommitTimes {
        CommitTimes::default()
    }

    /// The journal of what happened, where this spool keeps one. What a spool without one does is
    /// told to nobody.
    fn journal(&self) -> Option<&dyn Journal> {
        None
    }

    /// Notes that a relay is paused, or goes on: whoever opens the spool next obeys, and at once
    /// whoever shares it.
    async fn set_paused(&self, relay: &str, paused: bool) -> Result<(), SpoolError>;

    /// The relays that are paused.
    async fn paused(&self) -> Result<BTreeSet<String>, SpoolError>;

    /// The nodes that share this spool, where several may.
    fn cluster(&self) -> Option<&dyn Cluster> {
        None
    }

    /// Mail that applications have put beside the queue, where they can.
    fn outbox(&self) -> Option<&dyn Outbox> {
        None
    }

    /// Who is not to get mail, where this spool keeps that. One that does not suppresses nobody.
    fn suppressions(&self) -> Option<&dyn Suppressions> {
        None
    }

    /// What comes back for mail, where this spool keeps that. Of one that does not, the journal
    /// tells.
    fn feedback(&self) -> Option<&dyn FeedbackStore> {
        None
    }

    /// Writes out and closes. Everything that is asked afterwards is answered with
    /// [`SpoolError::Closed`].
    async fn close(&self) -> Result<(), SpoolError>;
}

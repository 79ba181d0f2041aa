//! The durable store, and the only queue. [`Spool`] is its interface; `dispatch` uses it.
//!
//! [`sled`] keeps mail on disk, [`memory`] in memory: one engine over two stores. `postgres` keeps
//! it in a database that several nodes share. Every kind passes the suite `conformance`, which the
//! feature `testing` brings.
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
pub use query::{Page, Query, RecordFilter};
pub use record::{Manifest, Record};
pub use suppression::{
    Suppression, SuppressionPage, SuppressionQuery, SuppressionReason, Suppressions,
};
#[cfg(feature = "postgres")]
pub use transfer::CopyReport;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::delivery::{DeadReason, Delivery, Requester, Route};
use crate::mail::{Address, MailId, Priority, Submitter, Timestamp, days};

/// How a spool keeps mail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpoolOptions {
    /// How long finished mail is kept.
    pub retention: Duration,
    /// How long the message is kept of a mail that was delivered to every recipient.
    pub keep_bodies: Duration,
    /// About the most bytes that its files take. Finished mail is deleted early to make room, the
    /// oldest first; if that is not enough, no new mail is accepted.
    pub max_size: Option<u64>,
    /// How long an idempotency key is remembered, and in any case while its mail is pending.
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

/// A mail that is to be stored: its manifest, its bytes, and a delivery for each recipient.
#[derive(Clone, Debug)]
pub struct NewMail {
    /// What is known of it.
    pub manifest: Manifest,
    /// The frozen message.
    pub body: Bytes,
    /// One for each recipient, in the envelope's order.
    pub deliveries: Vec<Delivery>,
}

/// The result of storing a [`NewMail`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PutResult {
    /// It is stored, under its own id.
    Stored,
    /// It was stored before, or its idempotency key is known: this is the mail that is stored.
    Duplicate(MailId),
}

/// The mail that a sender could take now.
#[derive(Clone, Debug)]
pub struct ClaimRequest {
    /// The queues it may take from.
    pub routes: Vec<Route>,
    /// The priority of each mail that is wanted, in order. If nothing of that priority is due, the
    /// most urgent mail that is due is taken instead.
    pub turns: Vec<Priority>,
    /// How many more mails may be taken, of [`Priority::Critical`] only.
    pub critical_only: usize,
    /// The most bytes of all bodies together; the first mail may be larger.
    pub max_bytes: usize,
    /// The most recipients of one mail in one claim.
    pub max_recipients: usize,
    /// Only mail that is due by this time.
    pub now: Timestamp,
}

/// A mail that is leased to a sender, with those of its recipients that are due on one route. If it
/// is dropped before it is settled, its deliveries return to the queue.
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

/// The result of a user's operation on a mail.
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
    /// Done for these recipients, or too late if there are none.
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
    /// For how long something has kept the database from removing dead rows, if for too long.
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

    /// Stores new mails, in as few groups as their size allows. Each has its own result, in order.
    async fn put(&self, new_mails: Vec<NewMail>) -> Vec<Result<PutResult, SpoolError>>;

    /// Leases due deliveries. Fewer than wanted, or none, when no more are due.
    async fn claim(&self, request: ClaimRequest) -> Result<Vec<Claim>, SpoolError>;

    /// Records before the final dot that an at-most-once mail may have been sent: after a crash it
    /// is dead as `in_doubt`. The leases stay. If one of them is not current, none is marked, the
    /// error is [`SpoolError::StaleLease`], and the mail must not be sent.
    async fn mark(&self, leases: Vec<LeaseToken>) -> Result<(), SpoolError>;

    /// Records the new states of deliveries and ends their leases. Calls take effect in their
    /// order, when they are made; the future only waits for the disk.
    fn settle(
        &self,
        settled: Vec<(Lease, Delivery)>,
    ) -> BoxFuture<'_, Result<Vec<SettleResult>, SpoolError>>;

    /// All that is known of a mail; `None` where there is no such mail.
    async fn get(&self, id: MailId) -> Result<Option<Record>, SpoolError>;

    /// A mail's frozen message; `None` if there is no such mail, [`SpoolError::Forgotten`] if its
    /// message is not kept any more.
    async fn body(&self, id: MailId) -> Result<Option<Bytes>, SpoolError>;

    /// The mail that this submitter gave this idempotency key; `None` if there is none, or its key
    /// is forgotten.
    async fn by_key(&self, whose: &Submitter, key: &str) -> Result<Option<MailId>, SpoolError> {
        let _ = (whose, key);
        Ok(None)
    }

    /// One page of mails.
    async fn list(&self, query: Query, now: Timestamp) -> Result<Page, SpoolError>;

    /// Cancels the deliveries of a mail that have not ended and are not being sent.
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

    /// As [`Spool::cancel`]; the journal names the requester.
    async fn cancel_by(
        &self,
        by: &Requester,
        id: MailId,
        now: Timestamp,
    ) -> Result<OperationResult, SpoolError> {
        let _ = by;
        self.cancel(id, now).await
    }

    /// As [`Spool::retry`]; the journal names the requester.
    async fn retry_by(
        &self,
        by: &Requester,
        id: MailId,
        now: Timestamp,
        lifetime: Duration,
    ) -> Result<OperationResult, SpoolError> {
        let _ = by;
        self.retry(id, now, lifetime).await
    }

    /// As [`Spool::purge`]; the journal names the requester.
    async fn purge_by(
        &self,
        by: &Requester,
        id: MailId,
        now: Timestamp,
    ) -> Result<OperationResult, SpoolError> {
        let _ = (by, now);
        self.purge(id).await
    }

    /// Whether [`Spool::sweep`] has something to do.
    fn is_sweep_due(&self, now: Timestamp) -> bool;

    /// Ends expired deliveries and deletes mail whose retention is over, in one bounded step. It
    /// also reports deliveries that have ended otherwise without a user's request since the last
    /// sweep; such an end makes a sweep due.
    async fn sweep(&self, now: Timestamp) -> Result<SweepReport, SpoolError>;

    /// Moves pending deliveries of routes that are not `known` to `fallback`; a bounded step that
    /// returns how many it moved.
    async fn reroute(&self, known: Vec<Route>, fallback: Route) -> Result<usize, SpoolError>;

    /// The first time after `after` at which a delivery falls due or a sweep has something to do.
    fn next_due(&self, after: Timestamp) -> Option<Timestamp>;

    /// The queues in which something may be due by `now`; `None` if that is not known, so that all
    /// of them must be looked at.
    fn due_routes(&self, now: Timestamp) -> Option<Vec<Route>> {
        let _ = now;
        None
    }

    /// How many deliveries are pending.
    fn pending(&self) -> u64;

    /// How many pending deliveries this submitter has. Counted for tokens and users; 0 for others.
    fn pending_of(&self, submitter: &Submitter) -> u64 {
        let _ = submitter;
        0
    }

    /// How many deliveries of this submitter were accepted on this day, as [`Timestamp::day`]
    /// counts days. Counted for tokens and users, for the last day only.
    fn accepted_on(&self, submitter: &Submitter, day: i64) -> u64 {
        let _ = (submitter, day);
        0
    }

    /// Why nothing can be written any more; `None` while all is well. Nothing is sent then, because
    /// the outcomes could not be recorded, and the mail would be sent again.
    fn failure(&self) -> Option<SpoolError>;

    /// Whether a lease is current, as far as is known without asking the store. A lease that is not
    /// cannot be settled, and its mail must not be begun, because another node may have it.
    fn holds(&self, lease: &LeaseToken) -> bool {
        let _ = lease;
        true
    }

    /// Checks whether a message of this size can fit, once finished mail is deleted.
    ///
    /// # Errors
    /// [`SpoolError::Full`] if it cannot.
    fn check_space(&self, size: u64) -> Result<(), SpoolError> {
        let _ = size;
        Ok(())
    }

    /// Why no new mail is accepted now; `None` while all is well. The reason may pass by itself, as
    /// a full disk does.
    fn refusal(&self) -> Option<SpoolError> {
        self.failure()
    }

    /// How full it is.
    async fn stats(&self, now: Timestamp) -> Result<SpoolStats, SpoolError>;

    /// How many deliveries are pending on each route.
    async fn backlog(&self, now: Timestamp) -> Result<Vec<(Route, u64)>, SpoolError> {
        Ok(self.stats(now).await?.backlog)
    }

    /// How long the commits took since the spool was opened.
    fn commit_times(&self) -> CommitTimes {
        CommitTimes::default()
    }

    /// The journal, if this spool keeps one. A spool without one reports no events.
    fn journal(&self) -> Option<&dyn Journal> {
        None
    }

    /// Records that a relay is paused or resumed. It applies to all nodes that share the spool, and
    /// to whoever opens it next.
    async fn set_paused(&self, relay: &str, paused: bool) -> Result<(), SpoolError>;

    /// The relays that are paused.
    async fn paused(&self) -> Result<BTreeSet<String>, SpoolError>;

    /// The nodes that share this spool, if several may.
    fn cluster(&self) -> Option<&dyn Cluster> {
        None
    }

    /// The outbox, in which applications put mail within their own transactions, if there is one.
    fn outbox(&self) -> Option<&dyn Outbox> {
        None
    }

    /// The suppressed addresses, if this spool keeps them. A spool that does not suppresses nobody.
    fn suppressions(&self) -> Option<&dyn Suppressions> {
        None
    }

    /// The bounces and complaints that came back for mail, if this spool keeps them. Otherwise they
    /// are only in the journal.
    fn feedback(&self) -> Option<&dyn FeedbackStore> {
        None
    }

    /// Writes everything to disk and closes the spool. Later calls fail with
    /// [`SpoolError::Closed`].
    async fn close(&self) -> Result<(), SpoolError>;
}

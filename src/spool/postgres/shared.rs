//! The state that all parts of one node's spool share.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use uuid::Uuid;

use super::accounts::{self, AccountCounts};
use super::connector::Connector;
use super::gathering::Gathering;
use super::hints::Hints;
use super::horizon::Horizon;
use super::lease_clock::LeaseInstant;
use super::lease_table::LeaseTable;
use super::link::{Connected, Link, StatementFailure, judge};
use super::outbox::Drafts;
use super::reading::CountedBacklog;
use super::routes::RouteNumbers;
use super::session::LapsedSessions;
use super::settle::SettleCommand;
use super::skew::Skew;
use crate::mail::Timestamp;
use crate::spool::keyed::journal::entry::{JournalEntry, PendingEntries};
use crate::spool::{
    CommitTimes, Durability, EndedDelivery, LeaseKeeper, LeaseToken, Orders, SpoolError,
    SpoolOptions,
};

/// How often a transaction is tried again after a conflict with others.
const CHANGE_TRIES: usize = 5;
/// The fraction of its lease after which a node without a heartbeat starts no delivery.
const FENCE_FRACTION: f64 = 0.6;
/// For how long a conflict with others is tried again before the database counts as away.
pub(super) const PATIENCE: Duration = Duration::from_secs(4);
/// How long to wait for returned leases to be written.
const RELEASED_WITHIN: Duration = Duration::from_secs(2);

pub(super) struct NodeState {
    pub connector: Arc<Connector>,
    pub options: SpoolOptions,
    /// The name under which this node is shown to operators.
    pub name: String,
    pub instance: Uuid,
    pub lease: Duration,
    pub durability: Durability,

    /// Connections, one for each kind of work, so that none waits for another.
    pub put: Link,
    pub settling: Link,
    pub claiming: Link,
    pub changing: Link,
    pub reading: Link,
    pub heart: Link,
    pub watching: Link,
    /// For maintenance such as VACUUM; opened when it is needed.
    pub keeping: Link,

    /// Allow one claim and one change at a time.
    pub claim_turn: tokio::sync::Mutex<Gathering>,
    pub change_turn: tokio::sync::Mutex<()>,
    pub leases: Mutex<LeaseTable>,
    pub routes: RouteNumbers,
    pub hints: Hints,
    /// The transactions that keep the database from removing dead rows.
    pub horizon: Horizon,
    pub skew: Skew,
    pub backlog: Mutex<Option<CountedBacklog>>,
    pub changed: Notify,

    pub session: RwLock<NodeSession>,
    pub closed: AtomicBool,
    /// Why the database is unavailable; `None` while it answers.
    pub down: RwLock<Option<SpoolError>>,
    /// Whether the last heartbeat succeeded.
    pub is_heard: AtomicBool,
    /// Why outcomes could not be written yet; no delivery is started until they are.
    pub unwritten: RwLock<Option<SpoolError>>,
    /// The sessions of other nodes whose lease has expired, as of the last heartbeat.
    pub lapsed: Mutex<LapsedSessions>,
    /// Deliveries that ended without a user's request, until a sweep reports them.
    pub unreported_ends: Mutex<Vec<EndedDelivery>>,

    pub drafts: Drafts,
    pub accounts: AccountCounts,
    /// Whether there may be suppressed addresses; if not, lookups are skipped.
    pub suppresses: AtomicBool,
    /// Whether all nodes flush what others have committed before they act upon it.
    pub all_flush: AtomicBool,
    /// Odd while suppressions are being added, and incremented afterwards, so that a poll notices
    /// that its answer may be outdated.
    pub adding: AtomicU64,
    /// Likewise for sweeps: odd while one runs.
    pub sweeps: AtomicU64,
    /// The orders that this node obeys.
    pub orders: watch::Sender<Arc<Orders>>,
    /// The named readers of the journal that this node owns, with the session that acquired each.
    pub readers: Mutex<HashMap<String, i32>>,
    pub stale: AtomicU64,
    /// Whether there may be rows that are leased to this session but held by no sender.
    pub has_doubt: AtomicBool,
    pub commands: mpsc::UnboundedSender<SettleCommand>,
    /// How many releases the settling task has not written yet.
    pub releasing: AtomicU64,
    pub last_event: watch::Sender<u64>,
    pub journal_id: AtomicU64,
    pub times: Mutex<CommitTimes>,
}

/// This node's session.
#[derive(Clone, Copy)]
pub(super) struct NodeSession {
    pub id: i32,
    /// When the last successful heartbeat was sent.
    pub asked: LeaseInstant,
}

impl NodeSession {
    pub(super) fn begun(id: i32, asked: LeaseInstant) -> Self {
        NodeSession { id, asked }
    }

    fn age(&self) -> Duration {
        self.asked.elapsed()
    }
}

impl NodeState {
    pub(super) fn session(&self) -> i32 {
        self.session.read().id
    }

    /// Why no delivery may be started; `None` if all is well.
    pub(super) fn failure(&self) -> Option<SpoolError> {
        if self.closed.load(Ordering::SeqCst) {
            return Some(SpoolError::Closed);
        }
        if let Some(down) = self.down.read().clone() {
            return Some(down);
        }

        if let Some(reason) = self.skew.prevents(Timestamp::now()) {
            return Some(self.connector.unreachable(reason));
        }

        let session = *self.session.read();
        let may_go_on = self.lease.mul_f64(FENCE_FRACTION);
        if session.id == 0 || session.age() > may_go_on {
            return Some(
                self.connector
                    .unreachable("this node's lease could not be renewed in time"),
            );
        }

        None
    }

    pub(super) fn check_open(&self) -> Result<(), SpoolError> {
        match self.closed.load(Ordering::SeqCst) {
            true => Err(SpoolError::Closed),
            false => Ok(()),
        }
    }

    /// Records that the database does not answer; other calls fail at once until it does.
    pub(super) fn note_down(&self, error: &SpoolError) {
        if !matches!(error, SpoolError::Unreachable { .. }) {
            return;
        }
        let mut down = self.down.write();
        if down.is_none() {
            tracing::error!(%error, "nothing is accepted or sent until the database answers");
        }
        *down = Some(error.clone());
    }

    /// The connection of a link. If there is none, that is recorded for all other calls too.
    pub(super) async fn on(&self, link: &Link) -> Result<Arc<Connected>, SpoolError> {
        self.check_open()?;
        link.get().await.inspect_err(|error| self.note_down(error))
    }

    /// Whether this is the oldest node, which runs the tasks that only one node runs.
    pub(super) fn is_first_node(&self) -> bool {
        self.orders.borrow().share.0 == 0
    }

    /// The error for the caller of a failed statement. If the connection is lost, records that.
    pub(super) fn failed(&self, error: &tokio_postgres::Error) -> SpoolError {
        let error_kind = judge(error);
        let error = self.connector.error(error);
        if error_kind.is_outage() {
            self.note_down(&error);
        }
        error
    }

    /// The error for the caller of a statement that has waited too long for what others have
    /// locked: as long as that lasts, the database is as good as away.
    pub(super) fn stuck(&self, error: &tokio_postgres::Error) -> SpoolError {
        let error = self.connector.error(error);
        self.note_down(&error);
        error
    }

    /// Runs a change in one transaction, again after a conflict with others.
    pub(super) async fn change<T, F>(self: &Arc<Self>, change: F) -> Result<T, SpoolError>
    where
        T: Send + 'static,
        F: for<'a> Fn(
                &'a Arc<NodeState>,
                &'a Connected,
            )
                -> BoxFuture<'a, Result<(T, Option<Committed>), tokio_postgres::Error>>
            + Send
            + Sync
            + 'static,
    {
        if let Some(failure) = self.failure() {
            return Err(failure);
        }
        self.transact(change).await
    }

    /// The same without checking that this node may change anything: for opening, for closing, and
    /// for taking over from dead nodes.
    pub(super) async fn transact<T, F>(self: &Arc<Self>, change: F) -> Result<T, SpoolError>
    where
        T: Send + 'static,
        F: for<'a> Fn(
                &'a Arc<NodeState>,
                &'a Connected,
            )
                -> BoxFuture<'a, Result<(T, Option<Committed>), tokio_postgres::Error>>
            + Send
            + Sync
            + 'static,
    {
        let node = Arc::clone(self);
        // If the caller goes away, the transaction must still end.
        let task = tokio::spawn(async move {
            let _turn = node.change_turn.lock().await;
            let mut tries = 0;
            loop {
                tries += 1;
                let on = match node.changing.get().await {
                    Ok(on) => on,
                    Err(error) => {
                        node.note_down(&error);
                        return Err(error);
                    }
                };
                let began = Instant::now();
                let outcome = async {
                    on.begin().await?;
                    let changed = change(&node, &on).await?;
                    on.commit().await?;
                    Ok::<_, tokio_postgres::Error>(changed)
                }
                .await;
                let error = match outcome {
                    Ok((changed, committed)) => {
                        node.time(began.elapsed());
                        if let Some(committed) = committed {
                            node.committed(committed);
                        }
                        return Ok(changed);
                    }
                    Err(error) => error,
                };
                if on.rollback().await.is_err() {
                    node.changing.discard().await;
                }
                if judge(&error) != StatementFailure::Busy || tries >= CHANGE_TRIES {
                    return Err(node.failed(&error));
                }
            }
        });

        match task.await {
            Ok(outcome) => outcome,
            Err(error) => Err(SpoolError::Unreadable(format!(
                "a change was broken off: {error}"
            ))),
        }
    }

    /// Waits until leases that were returned before are written.
    pub(super) async fn until_released(&self) {
        if self.releasing.load(Ordering::SeqCst) == 0 {
            return;
        }
        let (reply, answer) = oneshot::channel();
        if self.commands.send(SettleCommand::Pass(reply)).is_ok() {
            let _ = tokio::time::timeout(RELEASED_WITHIN, answer).await;
        }
    }

    pub(super) fn time(&self, took: Duration) {
        self.times.lock().add(took);
    }

    /// Learns the totals as of a commit.
    pub(super) fn committed(&self, committed: Committed) {
        self.hints.head(committed.commits, committed.pending);
        self.accounts.learn(committed.commits, &committed.accounts);
        let last = u64::try_from(committed.last).unwrap_or(0);
        self.last_event.send_if_modified(|known| {
            let is_newer = last > *known;
            *known = last.max(*known);
            is_newer
        });
    }

    /// Forgets what this node knows from commits that the database has lost: an earlier moment was
    /// restored, or a standby that had not heard of them took over.
    pub(super) async fn went_back(
        &self,
        on: &Connected,
        to: &Committed,
    ) -> Result<(), tokio_postgres::Error> {
        tracing::error!(
            commit = to.commits,
            "the database is as it was at an earlier moment: mail that was accepted since is \
             lost, and what was sent since may be sent again"
        );
        self.routes.learn_anew(on).await?;
        self.accounts.forget();
        self.hints.head_went_back(to.commits, to.pending);
        self.last_event
            .send_replace(u64::try_from(to.last).unwrap_or(0));
        self.has_doubt.store(true, Ordering::SeqCst);
        self.hints.mark_due([super::hints::ANY_ROUTE]);
        Ok(())
    }

    /// When a mail that ended at this time must be handled: its retention, or that of its message,
    /// is over.
    pub(super) fn kept_until(&self, at: i64) -> i64 {
        let kept = self.options.retention.min(self.options.keep_bodies);
        (Timestamp::from_millis(at) + kept).as_millis()
    }

    /// Whether this node holds the lease.
    pub(super) fn holds(&self, token: &LeaseToken) -> bool {
        self.leases.lock().current(token).is_some()
    }
}

impl LeaseKeeper for NodeState {
    fn release(&self, token: LeaseToken) {
        if !self.holds(&token) {
            return;
        }
        self.releasing.fetch_add(1, Ordering::SeqCst);
        if self.commands.send(SettleCommand::Release(token)).is_err() {
            self.releasing.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

/// What `head`, the row that every commit changes last, contained. Published after the commit.
#[derive(Clone, Debug)]
pub(super) struct Committed {
    pub commits: i64,
    pub pending: i64,
    /// The number of the last event.
    pub last: i64,
    /// The accounts that the commit changed, with their new counts.
    pub accounts: Vec<accounts::AccountAtCommit>,
}

/// The journal's records, as columns of the table.
#[derive(Default)]
pub(super) struct Records {
    pub offsets: Vec<i64>,
    pub events: Vec<i32>,
    pub ats: Vec<i64>,
    pub befores: Vec<i64>,
    pub acts: Vec<bool>,
    pub entries: Vec<Vec<u8>>,
    pub count: i64,
    pub bytes: i64,
}

impl Records {
    pub(super) fn of(entries: PendingEntries) -> Self {
        let mut records = Records::default();
        for part in entries.into_parts() {
            records.offsets.push(records.count);
            records.befores.push(records.bytes);
            records.events.push(i32::try_from(part.events).unwrap_or(0));
            records.ats.push(part.at.as_millis());
            records.acts.push(part.has_acts);
            records.count += i64::from(part.events);
            records.bytes += part.entries.len() as i64;
            records.entries.push(part.entries);
        }
        records
    }
}

/// A record of one entry: its bytes, and how many events it is.
pub(super) fn single_entry_record(entry: JournalEntry<'_>) -> (Vec<u8>, i32) {
    let mut entries = PendingEntries::default();
    entries.push(entry);
    let part = entries.into_parts().pop();
    part.map_or((Vec::new(), 0), |part| {
        (part.entries, i32::try_from(part.events).unwrap_or(0))
    })
}

/// Writes the journal's entries and the totals of a transaction; must be its last statement.
pub(super) async fn bump(
    on: &Connected,
    entries: PendingEntries,
    totals: &super::rows::TotalsChange,
) -> Result<Option<Committed>, tokio_postgres::Error> {
    const SQL: &str = "WITH b AS MATERIALIZED (SELECT * FROM bump($1, $2, $3, 0)),
        j AS (INSERT INTO journal (first, events, at, before, acts, entries)
              SELECT b.first + u.off, u.events, u.at, b.before + u.before, u.acts, u.entries
              FROM b, unnest($4::int8[], $5::int4[], $6::int8[], $7::int8[], $8::bool[],
                $9::bytea[])
                AS u(off, events, at, before, acts, entries))
        SELECT commits, pending, first,
          ARRAY(SELECT count_accounts(b.commits, $10::int8[], $11::int8[], $12::int8[],
            $13::int8[])) FROM b";

    let records = Records::of(entries);
    let accounts = totals.accounts.columns();
    let rows = on
        .query(
            SQL,
            &[
                &records.count,
                &records.bytes,
                &totals.columns(),
                &records.offsets,
                &records.events,
                &records.ats,
                &records.befores,
                &records.acts,
                &records.entries,
                &accounts.names,
                &accounts.pending,
                &accounts.days,
                &accounts.accepted,
            ],
        )
        .await?;

    Ok(rows.first().map(|row| Committed {
        commits: row.get(0),
        pending: row.get(1),
        last: row.get::<_, i64>(2) + records.count - 1,
        accounts: accounts::read(&row.get::<_, Vec<String>>(3)),
    }))
}

/// Lets the next sweep report deliveries that have ended without a user's request.
pub(super) fn report_ends(node: &NodeState, ended: Vec<EndedDelivery>) {
    if ended.is_empty() {
        return;
    }
    node.unreported_ends.lock().extend(ended);
    node.hints.sweep_at(0);
    node.changed.notify_one();
}

//! The spool on PostgreSQL: one queue that any number of nodes share. The database provides
//! locking, ordering and durability.
//!
//! * Set-up: `schema` creates the tables, `connector` opens connections, `link` keeps one for each
//!   kind of work, `shared` is the state that all parts share, and `check` finds out whether a
//!   database can be used.
//! * Cooperation with other nodes: `session` registers this node and renews its lease, measured by
//!   `lease_clock`; `poll` notices what other nodes changed; `takeover` returns the deliveries of
//!   dead nodes; `cluster` passes orders between nodes; `skew` measures how far their clocks
//!   differ; `outage` finds out when the database is available again; `horizon` reports
//!   transactions that keep it from removing dead rows.
//! * The main path: `put`, `claim` and `settle`; `gathering` makes their commits fewer and larger.
//!   `lease_table` lists the deliveries that this node holds, `hints` knows what is due next, and
//!   `lost_leases` returns deliveries that no sender holds.
//! * Everything else: `operations` is what users do, `sweep` what happens by time, and `ending` how
//!   deliveries end by either; `outbox` is what applications enqueue; `reading`, `journal`,
//!   `suppressions` and `feedback` read and write the other records; `accounts` counts what each
//!   submitter has submitted. `head` is the row that every commit changes; `rows` and `routes` map
//!   the rest to tables.
//! * Without registering as a node (`detached`): `transfer` and `import` copy a whole spool, and
//!   `inspect` verifies and exports it.
//!
//! *Invariants:* a lease is a row whose owner is a live session, and a settle must own the row,
//! under its lock. A lapsed session is never used again. A node that could not renew its lease in
//! time starts no delivery.

mod accounts;
mod check;
mod claim;
mod cluster;
mod connector;
mod detached;
mod ending;
mod feedback;
mod gathering;
mod head;
mod hints;
mod horizon;
pub(super) mod import;
mod inspect;
mod journal;
mod lease_clock;
mod lease_table;
mod link;
mod lost_leases;
mod operations;
mod outage;
mod outbox;
mod poll;
mod put;
mod reading;
mod routes;
mod rows;
mod schema;
mod session;
mod settle;
mod shared;
mod skew;
mod suppressions;
mod sweep;
mod takeover;
pub(super) mod transfer;

pub use check::DatabaseProblem;
pub(super) use detached::DetachedSpool;
pub use schema::Migrate;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;
use parking_lot::{Mutex, RwLock};
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::AbortHandle;
use uuid::Uuid;

use self::connector::Connector;
use self::gathering::Gathering;
use self::head::HEAD;
use self::hints::Hints;
use self::lease_clock::LeaseInstant;
use self::link::Link;
use self::put::PutQueue;
use self::settle::SettleCommand;
use self::shared::NodeSession;
use self::shared::NodeState;
use self::takeover::SessionEnd;
use super::{
    Claim, ClaimRequest, Cluster, CommitTimes, Durability, FeedbackStore, Journal, Lease,
    LeaseToken, NewMail, OperationResult, Outbox, Page, PutResult, Query, Record, SettleResult,
    Spool, SpoolError, SpoolOptions, SpoolStats, Suppressions, SweepReport,
};
use crate::delivery::{Delivery, Requester, Route};
use crate::mail::{MailId, Submitter, Timestamp, seconds};

/// How long closing waits for the database.
const CLOSE_WITHIN: Duration = Duration::from_secs(10);

/// A spool on PostgreSQL: its address, and the settings with which this node opens it.
#[derive(Clone)]
pub struct PostgresSpool {
    url: SecretString,
    password: Option<SecretString>,
    schema: String,
    node: Option<String>,
    lease: Duration,
    migrate: Migrate,
}

impl fmt::Debug for PostgresSpool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresSpool")
            .field("schema", &self.schema)
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}

impl PostgresSpool {
    /// The spool in the database of this URL, `postgres://USER@HOST[,HOST]/DATABASE`, in the schema
    /// `postrider`. `sslmode` and `sslrootcert` are supported. A connection to another machine is
    /// encrypted and the server's certificate is verified, unless `sslmode` is `disable`.
    pub fn new(url: impl Into<String>) -> Self {
        PostgresSpool {
            url: SecretString::from(url.into()),
            password: None,
            schema: "postrider".into(),
            node: None,
            lease: seconds(30),
            migrate: Migrate::Auto,
        }
    }

    /// Sets the password, if the URL contains none.
    pub fn password(mut self, password: SecretString) -> Self {
        self.password = Some(password);
        self
    }

    /// Sets the schema of the tables; `postrider` by default.
    pub fn schema(mut self, schema: impl Into<String>) -> Self {
        self.schema = schema.into();
        self
    }

    /// Sets the name under which this node is shown; the host's name by default.
    pub fn node(mut self, node: impl Into<String>) -> Self {
        self.node = Some(node.into());
        self
    }

    /// Sets after how long without a heartbeat other nodes take over this node's deliveries; 30 s
    /// by default.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = lease;
        self
    }

    /// Sets whether opening creates and upgrades the tables; it does by default.
    pub fn migrate(mut self, migrate: Migrate) -> Self {
        self.migrate = migrate;
        self
    }

    /// Checks the URL, without connecting.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub fn check(&self) -> Result<(), String> {
        self.connector("postrider").map(|_| ())
    }

    /// Its hosts, database and schema, for messages. Contains no password.
    pub fn name(&self) -> String {
        match self.connector("postrider") {
            Ok(connector) => format!("{}, schema {}", connector.name, self.schema),
            Err(_) => format!("schema {}", self.schema),
        }
    }

    fn connector(&self, application: &str) -> Result<Connector, String> {
        Connector::new(
            self.url.expose_secret(),
            self.password.as_ref().map(ExposeSecret::expose_secret),
            &self.schema,
            application,
        )
    }

    /// Opens the spool, and takes over the deliveries of nodes whose lease has expired.
    ///
    /// # Errors
    /// [`SpoolError::Unreachable`] if the database does not answer, [`SpoolError::Unusable`] if it
    /// cannot be used as a spool.
    pub async fn open(&self, options: SpoolOptions) -> Result<Arc<dyn Spool>, SpoolError> {
        let instance = Uuid::now_v7();
        let connector = self.connector(&format!("postrider {instance}"));
        let connector = Arc::new(connector.map_err(|reason| SpoolError::Unusable {
            database: "of `spool.url`".into(),
            reason,
        })?);
        let name = match &self.node {
            Some(name) => name.clone(),
            None => host_name(),
        };

        let (commands, settles) = mpsc::unbounded_channel();
        let (puts, putting) = mpsc::unbounded_channel();
        let link = || Link::new(&connector);
        let mut node = NodeState {
            put: link(),
            settling: link(),
            claiming: link(),
            changing: link(),
            reading: link(),
            heart: link(),
            watching: link(),
            keeping: link(),
            connector: Arc::clone(&connector),
            options,
            name,
            instance,
            lease: self.lease.max(Duration::from_millis(500)),
            durability: Durability::Synced,
            claim_turn: tokio::sync::Mutex::new(Gathering::at_most(claim::LONGEST_GATHERING)),
            change_turn: tokio::sync::Mutex::default(),
            leases: Mutex::default(),
            routes: routes::RouteNumbers::default(),
            hints: Hints::default(),
            horizon: horizon::Horizon::default(),
            skew: skew::Skew::default(),
            backlog: Mutex::default(),
            changed: Notify::new(),
            session: RwLock::new(NodeSession::begun(0, LeaseInstant::now())),
            closed: AtomicBool::new(false),
            down: RwLock::new(None),
            is_heard: AtomicBool::new(true),
            unwritten: RwLock::new(None),
            lapsed: Mutex::default(),
            unreported_ends: Mutex::default(),
            drafts: outbox::Drafts::default(),
            accounts: accounts::AccountCounts::default(),
            suppresses: AtomicBool::new(false),
            all_flush: AtomicBool::new(false),
            sweeps: AtomicU64::new(0),
            adding: AtomicU64::new(0),
            orders: watch::channel(Arc::default()).0,
            readers: Mutex::default(),
            stale: AtomicU64::new(0),
            has_doubt: AtomicBool::new(false),
            commands,
            releasing: AtomicU64::new(0),
            last_event: watch::channel(0).0,
            journal_id: AtomicU64::new(0),
            times: Mutex::default(),
        };

        let on = node.heart.get().await?;
        let other = node.reading.get().await?;
        connector::check_pooling(&connector, &on, &other).await?;
        schema::prepare(&on.client, &self.schema, &connector.name, self.migrate).await?;
        let failed = |error: tokio_postgres::Error| connector.error(&error);
        node.durability = durability(&on).await.map_err(failed)?;

        let node = Arc::new(node);
        session::begin(&node, &on).await.map_err(failed)?;
        // The rest may take longer than the lease, so the heartbeats begin now.
        let beating = tokio::spawn(session::run(Arc::downgrade(&node))).abort_handle();
        for session in session::count_nodes(&node, &on).await.map_err(failed)? {
            takeover::take_over(&node, session, SessionEnd::Lapsed).await?;
        }
        head::mend(&connector, &on).await?;
        learn(&node, &on).await.map_err(failed)?;

        let tasks = vec![
            tokio::spawn(put::run(Arc::clone(&node), putting)).abort_handle(),
            tokio::spawn(settle::run(Arc::clone(&node), settles)).abort_handle(),
            tokio::spawn(poll::run(Arc::downgrade(&node))).abort_handle(),
            tokio::spawn(outage::run(Arc::downgrade(&node))).abort_handle(),
            beating,
        ];

        Ok(Arc::new(PostgresNode { node, puts, tasks }))
    }
}

/// Loads the state that must be known before the first call.
async fn learn(node: &NodeState, on: &link::Connected) -> Result<(), tokio_postgres::Error> {
    node.routes.learn(on).await?;
    let rows = on
        .query(
            &format!(
                "SELECT commits, totals[1] + totals[2] + totals[3], next - 1, journal_id
                 FROM {HEAD}"
            ),
            &[],
        )
        .await?;

    on.flush().await?;
    let mut commits = 0;
    if let Some(row) = rows.first() {
        commits = row.get(0);
        node.committed(shared::Committed {
            commits,
            pending: row.get(1),
            last: row.get(2),
            accounts: Vec::new(),
        });
        let id = u64::from(row.get::<_, i32>(3).cast_unsigned());
        node.journal_id.store(id, Ordering::Relaxed);
    }

    node.accounts.read(on, commits).await?;
    poll::come(node, on).await?;
    cluster::read_orders(node, on).await?;

    let next = sweep::next(node, on).await?;
    node.hints.sweep_at(next);
    Ok(())
}

/// The durability that receipts promise, by the server's settings.
async fn durability(on: &link::Connected) -> Result<Durability, tokio_postgres::Error> {
    let rows = on
        .query(
            "SELECT current_setting('fsync'), current_setting('synchronous_commit')",
            &[],
        )
        .await?;
    let is_synced = rows.first().is_some_and(|row| {
        let (fsync, commit): (&str, &str) = (row.get(0), row.get(1));
        fsync == "on" && commit != "off"
    });

    Ok(match is_synced {
        true => Durability::Synced,
        false => Durability::Written,
    })
}

fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match name.trim() {
        "" => "node".into(),
        name => name.to_owned(),
    }
}

/// The spool as one node has it open.
struct PostgresNode {
    node: Arc<NodeState>,
    puts: mpsc::UnboundedSender<PutQueue>,
    tasks: Vec<AbortHandle>,
}

impl PostgresNode {
    /// Returns the deliveries that this node holds, and ends its session.
    async fn end(node: &Arc<NodeState>) -> Result<(), SpoolError> {
        let (reply, answer) = oneshot::channel();
        if node.commands.send(SettleCommand::Pass(reply)).is_ok() {
            let _ = answer.await;
        }
        takeover::take_over(node, node.session(), SessionEnd::Own).await
    }
}

impl Drop for PostgresNode {
    fn drop(&mut self) {
        let (node, tasks) = (Arc::clone(&self.node), std::mem::take(&mut self.tasks));
        let was_closed = node.closed.swap(true, Ordering::SeqCst);
        if was_closed {
            tasks.iter().for_each(AbortHandle::abort);
            return;
        }

        // `drop` cannot wait: the deliveries are returned in the background, or when the lease
        // expires.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                let _ = tokio::time::timeout(CLOSE_WITHIN, PostgresNode::end(&node)).await;
                tasks.iter().for_each(AbortHandle::abort);
            });
        }
    }
}

#[async_trait]
impl Spool for PostgresNode {
    fn durability(&self) -> Durability {
        self.node.durability
    }

    fn changed(&self) -> &Notify {
        &self.node.changed
    }

    async fn put(&self, new_mails: Vec<NewMail>) -> Vec<Result<PutResult, SpoolError>> {
        let count = new_mails.len();
        if count == 0 {
            return Vec::new();
        }
        if let Some(failure) = self.node.failure() {
            return vec![Err(failure); count];
        }

        let (reply, answer) = oneshot::channel();
        let put = PutQueue {
            mails: new_mails,
            reply,
        };

        if self.puts.send(put).is_err() {
            return vec![Err(SpoolError::Closed); count];
        }
        match answer.await {
            Ok(results) => results,
            Err(_) => vec![Err(SpoolError::Closed); count],
        }
    }

    async fn claim(&self, request: ClaimRequest) -> Result<Vec<Claim>, SpoolError> {
        claim::claim(&self.node, request).await
    }

    async fn mark(&self, leases: Vec<LeaseToken>) -> Result<(), SpoolError> {
        self.node.check_open()?;
        let (reply, answer) = oneshot::channel();
        let _ = self.node.commands.send(SettleCommand::Mark(leases, reply));
        answer.await.map_err(|_| SpoolError::Closed)?
    }

    fn settle(
        &self,
        settled: Vec<(Lease, Delivery)>,
    ) -> BoxFuture<'_, Result<Vec<SettleResult>, SpoolError>> {
        if self.node.closed.load(Ordering::SeqCst) {
            settled.into_iter().for_each(|(lease, _)| _ = lease.spend());
            return Box::pin(async { Err(SpoolError::Closed) });
        }
        let (reply, answer) = oneshot::channel();
        let settled = settled
            .into_iter()
            .map(|(lease, delivery)| (lease.spend(), delivery))
            .collect();
        let _ = self
            .node
            .commands
            .send(SettleCommand::Settle(settled, reply));
        Box::pin(async move { answer.await.map_err(|_| SpoolError::Closed)? })
    }

    async fn get(&self, id: MailId) -> Result<Option<Record>, SpoolError> {
        reading::get(&self.node, id).await
    }

    async fn body(&self, id: MailId) -> Result<Option<Bytes>, SpoolError> {
        reading::body(&self.node, id).await
    }

    async fn by_key(&self, whose: &Submitter, key: &str) -> Result<Option<MailId>, SpoolError> {
        reading::by_key(&self.node, whose, key).await
    }

    async fn list(&self, query: Query, now: Timestamp) -> Result<Page, SpoolError> {
        reading::list(&self.node, query, now).await
    }

    async fn cancel(&self, id: MailId, now: Timestamp) -> Result<OperationResult, SpoolError> {
        self.cancel_by(&Requester::default(), id, now).await
    }

    async fn cancel_by(
        &self,
        by: &Requester,
        id: MailId,
        now: Timestamp,
    ) -> Result<OperationResult, SpoolError> {
        operations::cancel(&self.node, by, id, now).await
    }

    async fn retry_by(
        &self,
        by: &Requester,
        id: MailId,
        now: Timestamp,
        lifetime: Duration,
    ) -> Result<OperationResult, SpoolError> {
        operations::retry(&self.node, by, id, now, lifetime).await
    }

    async fn purge_by(
        &self,
        by: &Requester,
        id: MailId,
        now: Timestamp,
    ) -> Result<OperationResult, SpoolError> {
        operations::purge(&self.node, by, id, now).await
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
        self.purge_by(&Requester::default(), id, self.node.hints.now())
            .await
    }

    fn is_sweep_due(&self, now: Timestamp) -> bool {
        self.node.hints.saw_clock(now);
        self.node.hints.sweep() <= now.as_millis()
    }

    async fn sweep(&self, now: Timestamp) -> Result<SweepReport, SpoolError> {
        sweep::sweep(&self.node, now).await
    }

    async fn reroute(&self, known: Vec<Route>, fallback: Route) -> Result<usize, SpoolError> {
        operations::reroute(&self.node, known, fallback).await
    }

    fn next_due(&self, after: Timestamp) -> Option<Timestamp> {
        self.node.hints.next(after)
    }

    fn due_routes(&self, now: Timestamp) -> Option<Vec<Route>> {
        let node = &self.node;
        let all = || node.routes.all().into_iter().map(|(id, _)| id).collect();
        let routes = node.hints.due_routes(now, all);
        // A route whose name this node has not read is left out.
        routes.into_iter().map(|id| node.routes.name(id)).collect()
    }

    fn pending(&self) -> u64 {
        self.node.hints.pending()
    }

    fn pending_of(&self, submitter: &Submitter) -> u64 {
        self.node.accounts.of(submitter.account()).pending
    }

    fn accepted_on(&self, submitter: &Submitter, day: i64) -> u64 {
        let account = self.node.accounts.of(submitter.account());
        match account.day == day {
            true => account.accepted,
            false => 0,
        }
    }

    fn failure(&self) -> Option<SpoolError> {
        self.node.failure()
    }

    fn holds(&self, lease: &LeaseToken) -> bool {
        self.node.holds(lease)
    }

    async fn stats(&self, now: Timestamp) -> Result<SpoolStats, SpoolError> {
        reading::stats(&self.node, now).await
    }

    async fn backlog(&self, _: Timestamp) -> Result<Vec<(Route, u64)>, SpoolError> {
        reading::backlog(&self.node).await
    }

    fn commit_times(&self) -> CommitTimes {
        *self.node.times.lock()
    }

    fn journal(&self) -> Option<&dyn Journal> {
        Some(self)
    }

    async fn set_paused(&self, relay: &str, paused: bool) -> Result<(), SpoolError> {
        cluster::set_paused(&self.node, relay, paused).await
    }

    async fn paused(&self) -> Result<BTreeSet<String>, SpoolError> {
        self.node.check_open()?;
        Ok(self.node.orders.borrow().paused.clone())
    }

    fn cluster(&self) -> Option<&dyn Cluster> {
        Some(self)
    }

    fn outbox(&self) -> Option<&dyn Outbox> {
        Some(self)
    }

    fn suppressions(&self) -> Option<&dyn Suppressions> {
        Some(self)
    }

    fn feedback(&self) -> Option<&dyn FeedbackStore> {
        Some(self)
    }

    async fn close(&self) -> Result<(), SpoolError> {
        if self.node.closed.swap(true, Ordering::SeqCst) {
            return Ok(());
        }
        let ended = tokio::time::timeout(CLOSE_WITHIN, PostgresNode::end(&self.node)).await;
        match ended {
            Ok(ended) => ended,
            Err(_) => Err(self.node.connector.unreachable(
                "it did not answer while the spool was closed; what this node held is given back \
                when its lease is over",
            )),
        }
    }
}

//! Polls for what other nodes have changed: mail that they have stored and settled, orders to all
//! nodes, and leases of dead nodes. Also runs the tasks that only one node does.

use std::panic::AssertUnwindSafe;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use futures::FutureExt;
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::head::HEAD;
use super::horizon;
use super::link::Connected;
use super::shared::{Committed, NodeState};
use super::takeover;
use crate::mail::Timestamp;
use crate::spool::SpoolError;

/// How often to look for changes by other nodes.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// How often to read the front of all queues, and the least pause between two such reads, as a
/// multiple of the time that one takes: if dead rows cannot be removed, it walks over all of them.
const FULL_POLL_INTERVAL: Duration = Duration::from_secs(1);
const FULL_POLL_SHARE: u32 = 10;
const LONGEST_FULL_POLL_INTERVAL: Duration = Duration::from_secs(30);
/// How often the oldest node vacuums queue tables, and from how many dead rows on.
const VACUUM_INTERVAL: Duration = Duration::from_secs(20);
/// The tables whose rows are short-lived.
const QUEUE_TABLES: &[&str] = &["ready", "outbox"];
const DEAD_ROWS: i64 = 10_000;

/// Polls until the spool is closed or dropped.
pub(super) async fn run(node: Weak<NodeState>) {
    let mut next_full_poll = Instant::now();
    let mut last_horizon: Option<Instant> = None;
    let mut last_vacuum = Instant::now();
    let (mut takeover_task, mut vacuum_task) =
        (BackgroundTask::default(), BackgroundTask::default());
    loop {
        tokio::time::sleep(POLL_INTERVAL).await;
        let Some(node) = node.upgrade() else { return };
        if node.closed.load(Ordering::SeqCst) {
            return;
        }
        if node.down.read().is_some() {
            continue;
        }

        if takeover_task.is_over() {
            let lapsed = node.lapsed.lock().take(&node);
            if !lapsed.is_empty() {
                takeover_task.begin(takeover::take_over_all(Arc::clone(&node), lapsed));
            }
        }

        let begun = Instant::now();
        let poll_anyway = begun >= next_full_poll;
        if poll_anyway && node.has_doubt.swap(false, Ordering::SeqCst) {
            super::lost_leases::find(&node);
        }
        let polled = AssertUnwindSafe(poll_others(&node, poll_anyway)).catch_unwind();
        let polled = polled.await.unwrap_or_else(|_| Err(SpoolError::panicked()));
        if poll_anyway {
            let took = polled.as_ref().map(|()| begun.elapsed());
            let rest = took.map_or(FULL_POLL_INTERVAL, |took| took * FULL_POLL_SHARE);
            next_full_poll = begun + rest.clamp(FULL_POLL_INTERVAL, LONGEST_FULL_POLL_INTERVAL);
        }
        if let Err(error) = polled {
            // An outage is logged once, by whoever notices it.
            match node.failure() {
                None => tracing::warn!(%error, "a poll of the others' changes failed"),
                Some(_) => tracing::debug!(%error, "a poll of the others' changes failed"),
            }
        }

        if last_horizon.is_none_or(|at| at.elapsed() >= horizon::CHECK_INTERVAL) {
            last_horizon = Some(Instant::now());
            if let Err(error) = check_horizon(&node).await {
                tracing::debug!(%error, "what the database cannot remove is not known");
            }
        }

        if node.is_first_node() && last_vacuum.elapsed() >= VACUUM_INTERVAL && vacuum_task.is_over()
        {
            last_vacuum = Instant::now();
            vacuum_task.begin(vacuum(Arc::clone(&node)));
        }
    }
}

/// A long task that runs concurrently with the polls; one at a time.
#[derive(Default)]
struct BackgroundTask(Option<JoinHandle<()>>);

impl BackgroundTask {
    fn is_over(&self) -> bool {
        self.0.as_ref().is_none_or(JoinHandle::is_finished)
    }

    fn begin(&mut self, errand: impl Future<Output = ()> + Send + 'static) {
        self.0 = Some(tokio::spawn(errand));
    }
}

/// Vacuums the queue tables if they have many dead rows: autovacuum runs too rarely for a queue.
async fn vacuum(node: Arc<NodeState>) {
    if node.horizon.held_for().is_some() {
        return;
    }
    if let Err(error) = try_vacuum(&node).await {
        tracing::debug!(%error, "the dead rows of what waits are left to the database");
    }
}

async fn try_vacuum(node: &NodeState) -> Result<(), SpoolError> {
    let failed = |error: tokio_postgres::Error| node.failed(&error);
    let on = node.on(&node.reading).await?;
    let dead = on
        .query(
            "SELECT name FROM unnest($1::text[]) AS name
             WHERE pg_stat_get_dead_tuples(to_regclass(name)) >= $2",
            &[&QUEUE_TABLES, &DEAD_ROWS],
        )
        .await
        .map_err(failed)?;

    if dead.is_empty() {
        return Ok(());
    }
    let tables: Vec<&str> = dead.iter().map(|row| row.get(0)).collect();
    // On a separate connection, which is closed afterwards, so that nothing waits for it.
    let on = node.on(&node.keeping).await?;
    let vacuumed = async {
        on.client
            .batch_execute("SET statement_timeout TO 0")
            .await?;
        on.client
            .batch_execute(&format!("VACUUM {}", tables.join(", ")))
            .await
    };
    let vacuumed = vacuumed.await.map_err(failed);
    node.keeping.discard().await;
    vacuumed
}

async fn check_horizon(node: &NodeState) -> Result<(), SpoolError> {
    let on = node.on(&node.watching).await?;
    let looked = horizon::look(node, &on).await;
    looked.map_err(|error| node.failed(&error))
}

/// The totals as of the last commit, the first free draft of the outbox, and the server's time.
const NEWS: &str = "SELECT commits, totals[1] + totals[2] + totals[3], next - 1,
  (SELECT o.id FROM outbox o WHERE o.owner = 0 AND o.id >= $1 ORDER BY o.id LIMIT 1),
  (extract(epoch FROM now()) * 1000)::bigint FROM";

/// Looks for changes by other nodes. With `anyway`, reads the front of all queues even if nothing
/// seems to have changed.
async fn poll_others(node: &Arc<NodeState>, anyway: bool) -> Result<(), SpoolError> {
    let on = node.on(&node.watching).await?;
    let failed = |error: tokio_postgres::Error| node.failed(&error);
    let from = match anyway {
        true => Uuid::nil(),
        false => node.drafts.from(),
    };
    let known = node.hints.commits();
    let rows = on
        .query(&format!("{NEWS} {HEAD}"), &[&from])
        .await
        .map_err(failed)?;
    // Where the row is damaged, whoever writes finds it out.
    let whole = rows
        .first()
        .filter(|row| row.get::<_, Option<i64>>(1).is_some());
    let Some(row) = whole else {
        return Ok(());
    };
    if let Some(first) = row.get(3) {
        let now = Timestamp::from_millis(row.get(4));
        node.drafts.found(first, node.is_first_node(), now);
    }

    let committed = Committed {
        commits: row.get(0),
        pending: row.get(1),
        last: row.get(2),
        accounts: Vec::new(),
    };

    if committed.commits > node.hints.commits() || committed.commits < known {
        on.flush().await.map_err(failed)?;
    }
    let (pending, commits) = (committed.pending, committed.commits);
    let went_back = committed.commits < known;
    if went_back {
        node.went_back(&on, &committed).await.map_err(failed)?;
    }
    let is_news = went_back || committed.commits > node.hints.commits();
    node.committed(committed);
    if !is_news && !anyway {
        return Ok(());
    }
    super::cluster::read_orders(node, &on)
        .await
        .map_err(failed)?;
    node.accounts.read(&on, commits).await.map_err(failed)?;
    if pending > 0 {
        fronts(node, &on, anyway).await.map_err(failed)?;
    }

    if anyway {
        let sweeps = node.sweeps.load(Ordering::Acquire);
        let at = super::sweep::next(node, &on).await.map_err(failed)?;
        // What a sweep of this node is handling, or has just handled, needs no other sweep.
        if sweeps.is_multiple_of(2) && node.sweeps.load(Ordering::Acquire) == sweeps {
            node.hints.sweep_at(at);
            if at <= node.hints.now().as_millis() {
                node.changed.notify_one();
            }
        }
    }

    Ok(())
}

/// The queues that contain deliveries, found by steps over the index instead of by trying every
/// route.
const QUEUES: &str = "WITH RECURSIVE q AS (
  (SELECT route, priority FROM ready ORDER BY route, priority LIMIT 1)
  UNION ALL
  SELECT n.route, n.priority FROM q CROSS JOIN LATERAL (SELECT r.route, r.priority FROM ready r
    WHERE (r.route, r.priority) > (q.route, q.priority) ORDER BY r.route, r.priority LIMIT 1) n)";

/// Reads the front of each queue, however far in the future it is due: at a start nothing is known.
pub(super) async fn come(node: &NodeState, on: &Connected) -> Result<(), tokio_postgres::Error> {
    let rows = on
        .query(
            &format!(
                "{QUEUES} SELECT q.route, x.due FROM q CROSS JOIN LATERAL (SELECT DISTINCT r.due
                  FROM ready r
                   WHERE r.route = q.route AND r.priority = q.priority ORDER BY r.due LIMIT 100) x"
            ),
            &[],
        )
        .await?;

    rows.iter()
        .for_each(|row| node.hints.due_at(row.get(0), row.get(1)));
    Ok(())
}

const FRONTS: &str = "SELECT w.route, x.due FROM w
  CROSS JOIN LATERAL (SELECT r.due FROM ready r WHERE r.route = w.route AND r.priority = w.priority
    AND r.owner = 0 AND r.due >= w.low ORDER BY r.due, r.mail, r.idx LIMIT 1) x
UNION ALL
SELECT w.route, y.due FROM w
  CROSS JOIN LATERAL (SELECT r.due FROM ready r WHERE r.route = w.route AND r.priority = w.priority
    AND r.owner = 0 AND r.due > $1 ORDER BY r.due, r.mail, r.idx LIMIT 1) y";

/// The first delivery in each queue.
///
/// `whole`: in all queues, from the front. Otherwise only in the queues from which claims were
/// made, from the position where something was found last: there may be very many dead rows before
/// it.
pub(super) async fn fronts(
    node: &NodeState,
    on: &Connected,
    whole: bool,
) -> Result<(), tokio_postgres::Error> {
    let now = node.hints.now().as_millis();
    let lows = node.hints.lows();
    let rows = match whole || lows.is_empty() {
        true => {
            let queues = format!("{QUEUES}, w AS (SELECT route, priority, $2::int8 AS low FROM q)");
            on.query(&format!("{queues} {FRONTS}"), &[&now, &i64::MIN])
                .await?
        }
        false => {
            let routes: Vec<i32> = lows.iter().map(|low| low.0).collect();
            let priorities: Vec<i16> = lows.iter().map(|low| low.1).collect();
            let from: Vec<i64> = lows.iter().map(|low| low.2).collect();
            let queues = "WITH w AS (SELECT * FROM unnest($2::int4[], $3::int2[], $4::int8[]) \
                AS w(route, priority, low))";
            on.query(
                &format!("{queues} {FRONTS}"),
                &[&now, &routes, &priorities, &from],
            )
            .await?
        }
    };
    node.routes.learn_those(on, &rows).await?;

    let mut is_due = false;
    for row in rows {
        let (route, due): (i32, i64) = (row.get("route"), row.get("due"));
        is_due |= due <= now;
        node.hints.due_at(route, due);
    }

    if is_due {
        node.changed.notify_one();
    }
    Ok(())
}

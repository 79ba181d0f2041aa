//! Checks whether the database can do everything that this node needs, and notices when an outage
//! is over.
//!
//! Outages are reported by missed heartbeats in `session`, and by every operation that fails
//! because of the database. Their end is found here, after heartbeats succeed again.

use std::sync::Weak;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::head;
use super::hints;
use super::link::{Connected, Link, judge, reason};
use super::shared::NodeState;
use crate::spool::SpoolError;

/// How long to wait for an answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);
/// How often to check the connections, and whether an outage is over.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
const RETRY_AFTER: Duration = Duration::from_millis(250);

/// Checks until the spool is closed or dropped. It is a task of its own, so that it can close
/// connections on which other tasks wait for an answer that never comes.
pub(super) async fn run(node: Weak<NodeState>) {
    let mut last_check: Option<Instant> = None;
    loop {
        let Some(node) = node.upgrade() else { return };
        if node.closed.load(Ordering::SeqCst) {
            return;
        }
        if node.down.read().is_some() {
            end(&node).await;
        } else if last_check.is_none_or(|at| at.elapsed() >= POLL_INTERVAL) {
            last_check = Some(Instant::now());
            check_connections(&node).await;
        }
        drop(node);
        tokio::time::sleep(RETRY_AFTER).await;
    }
}

fn links(node: &NodeState) -> [&Link; 6] {
    [
        &node.put,
        &node.settling,
        &node.claiming,
        &node.changing,
        &node.reading,
        &node.watching,
    ]
}

/// Opens all connections: a server may have room for only some of them.
async fn check_connections(node: &NodeState) {
    let all = links(node).map(async |link| link.get().await.map(|_| ()));
    let there = match tokio::time::timeout(ANSWER_WITHIN, futures::future::try_join_all(all)).await
    {
        Ok(there) => there.map(|_| ()),
        Err(_) => Err(node.connector.unreachable("it does not answer")),
    };
    if let Err(error) = there {
        node.note_down(&error);
    }
}

/// Continues if an outage is over, and records the reason if it is not.
async fn end(node: &NodeState) {
    // Nothing else is tried until a heartbeat succeeds.
    if !node.is_heard.load(Ordering::SeqCst) {
        return;
    }
    if let Err(error) = is_over(node).await {
        // The task that retries unwritten outcomes knows the reason best.
        let unwritten = node.unwritten.read().clone();
        return node.note_down(unwritten.as_ref().unwrap_or(&error));
    }
    if !node.is_heard.load(Ordering::SeqCst) || node.down.write().take().is_none() {
        return;
    }

    node.has_doubt.store(true, Ordering::SeqCst);
    tracing::info!("the database answers again");
    node.hints.mark_due([hints::ANY_ROUTE]);
    node.changed.notify_one();
}

/// Writes to all tables that a mail's delivery writes to, and rolls back.
const TRIAL_WRITE: &str = "BEGIN;
SET LOCAL lock_timeout TO '2s';
INSERT INTO mails (id, accepted_at, expires_at, priority, recipients, manifest, body)
  SELECT gen_random_uuid(), 0, 0, 0, '{}', '', string_agg(uuid_send(gen_random_uuid()),
    '') FROM generate_series(1, 512);
INSERT INTO ready (mail, idx, route, priority, due, expires_at, size,
  data) VALUES (gen_random_uuid(), 0, 0, 0, 0, 0, 0, '');
DELETE FROM ready WHERE mail = '00000000-0000-0000-0000-000000000000';
INSERT INTO ended (mail, idx, route, priority, at, stage, reason, token, tries, counted, crashes,
  data)
  VALUES (gen_random_uuid(), 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, '');
INSERT INTO keys (key, mail, fingerprint, forget_at)
  VALUES ('', gen_random_uuid(), gen_random_uuid(), 0);
UPDATE accounts SET version = version WHERE name = 0;
ROLLBACK";

/// The end of each commit: the next number of the journal, and its entry. Rolled back.
const TRIAL_COMMIT: &str = "BEGIN;
SET LOCAL lock_timeout TO '2s';
WITH b AS MATERIALIZED (SELECT * FROM bump(1, 0, array_fill(0::int8, ARRAY[12]), 0))
INSERT INTO journal (first, events, at, before, acts, entries)
  SELECT b.first, 1, 0, b.before, false, '' FROM b;
ROLLBACK";

/// Whether the outage is over. A server that answers may still lack disk space or refuse writes;
/// and unwritten outcomes must be written first.
async fn is_over(node: &NodeState) -> Result<(), SpoolError> {
    let all = links(node).map(|link| link.check_writable(ANSWER_WITHIN));
    // All connections are checked even if one fails, since each check closes a connection that is
    // silent.
    let checked = futures::future::join_all(all).await;
    checked.into_iter().collect::<Result<(), _>>()?;
    let on = node.on(&node.watching).await?;
    head::mend(&node.connector, &on).await?;
    if let Some(error) = node.unwritten.read().clone() {
        return Err(error);
    }

    let tried = async {
        match try_out(&on, TRIAL_WRITE).await {
            // Whoever refuses what the trial writes need not refuse a mail.
            Err(TrialFailure::Statement(error)) if judge(&error).is_statements_fault() => {
                _ = on.rollback().await;
            }
            Err(failure) => return Err(failure.reported(node)),
            Ok(()) => {}
        }
        let committed = try_out(&on, TRIAL_COMMIT).await;
        committed.map_err(|failure| failure.reported(node))
    };

    let tried = tried.await;
    if tried.is_err() {
        node.watching.discard().await;
    }
    tried
}

/// Whether anything at all can be committed, after one statement was refused.
///
/// # Errors
/// Why not. The database is as good as away then, and what was refused can be written later.
pub(super) async fn check_commits(node: &NodeState) -> Result<(), SpoolError> {
    // On a connection of its own, which is closed afterwards, so that nothing waits for it.
    let on = match tokio::time::timeout(ANSWER_WITHIN, node.connector.connect()).await {
        Ok(Ok(on)) => on,
        Ok(Err(error)) => return Err(node.connector.unreachable(reason(&error))),
        Err(_) => return Err(node.connector.unreachable("it does not answer")),
    };
    let tried = try_out(&on, TRIAL_COMMIT).await;
    tried.map_err(|failure| {
        let error = failure.reported(node);
        node.note_down(&error);
        error
    })
}

/// Why a trial did not succeed.
enum TrialFailure {
    Statement(tokio_postgres::Error),
    NoAnswer,
}

impl TrialFailure {
    fn reported(self, node: &NodeState) -> SpoolError {
        let reason = match self {
            TrialFailure::Statement(error) => reason(&error),
            TrialFailure::NoAnswer => "it does not answer".into(),
        };
        node.connector.unreachable(reason)
    }
}

async fn try_out(on: &Connected, trial: &str) -> Result<(), TrialFailure> {
    match tokio::time::timeout(ANSWER_WITHIN, on.execute_all(trial)).await {
        Ok(tried) => tried.map_err(TrialFailure::Statement),
        Err(_) => Err(TrialFailure::NoAnswer),
    }
}

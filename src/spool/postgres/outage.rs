//! Whether the database can do everything that this node needs, and when an outage is over.
//!
//! `session` reports missed heartbeats, and so does every operation that fails because of the
//! database; the end of an outage is found here, while the heartbeats continue.

use std::sync::Weak;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::hints;
use super::link::{Link, StatementFailure, judge, reason};
use super::shared::NodeState;
use crate::spool::SpoolError;

/// How long an answer is waited for.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);
/// How often it is looked whether all connections are there, and whether an outage is over.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
const RETRY_AFTER: Duration = Duration::from_millis(250);

/// Looks until the spool is closed or gone. In a task of its own: whatever else waits for an answer
/// that never comes is freed by it.
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

/// Has all connections be there: a server may have room for some of them only.
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

/// Goes on where an outage is over, and says what is in the way where it is not.
async fn end(node: &NodeState) {
    // While the heart is not heard nothing else is asked.
    if !node.is_heard.load(Ordering::SeqCst) {
        return;
    }
    if let Err(error) = is_over(node).await {
        // Whoever tries again and again to write what is owed knows best.
        let owed = node.owed.read().clone();
        return node.note_down(owed.as_ref().unwrap_or(&error));
    }
    if !node.is_heard.load(Ordering::SeqCst) || node.down.write().take().is_none() {
        return;
    }

    node.has_doubt.store(true, Ordering::SeqCst);
    tracing::info!("the database answers again");
    node.hints.stir([hints::ANY_ROUTE]);
    node.changed.notify_one();
}

/// All that a mail is written to on its way, and nothing of it is kept.
const TRIAL_WRITE: &str = "BEGIN;
INSERT INTO mails (id, accepted_at, expires_at, priority, recipients, manifest, body)
  SELECT gen_random_uuid(), 0, 0, 0, '{}', '', string_agg(uuid_send(gen_random_uuid()),
    '') FROM generate_series(1, 512);
INSERT INTO ready (mail, idx, route, priority, due, expires_at, size,
  data) VALUES (gen_random_uuid(), 0, 0, 0, 0, 0, 0, '');
DELETE FROM ready WHERE mail = '00000000-0000-0000-0000-000000000000';
INSERT INTO ended (mail, idx, route, priority, at, stage, reason, token, tries, counted, crashes,
  data)
  VALUES (gen_random_uuid(), 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, '');
INSERT INTO journal (first, events, at, before, acts, entries) VALUES (-1, 0, 0, 0, false, '');
UPDATE head SET commits = commits;
ROLLBACK";

/// A server that answers may have no room for what is written, or not let it be; and what is owed
/// to it is written first.
async fn is_over(node: &NodeState) -> Result<(), SpoolError> {
    let all = links(node).map(|link| link.check_writable(ANSWER_WITHIN));
    // All of them, whichever fails: each lets go of what is silent.
    let checked = futures::future::join_all(all).await;
    checked.into_iter().collect::<Result<(), _>>()?;
    if let Some(owed) = node.owed.read().clone() {
        return Err(owed);
    }

    let on = node.on(&node.watching).await?;
    let tried = match tokio::time::timeout(ANSWER_WITHIN, on.do_all(TRIAL_WRITE)).await {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(error)) => error,
        Err(_) => {
            node.watching.discard().await;
            return Err(node.connector.unreachable("it does not answer"));
        }
    };
    node.watching.discard().await;
    match judge(&tried) {
        StatementFailure::Impossible => Ok(()),
        _ => Err(node.connector.unreachable(reason(&tried))),
    }
}

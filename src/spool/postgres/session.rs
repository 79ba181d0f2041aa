//! This node's session, and the heartbeats that renew its lease. They wait for nothing else that
//! the node does.
//!
//! *Invariant:* a session that another node has ended is never used again, and no lease of it
//! settles.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::cluster;
use super::hints;
use super::lease_clock::LeaseInstant;
use super::link::{Connected, Param, StatementFailure, judge, reason};
use super::schema;
use super::shared::{NodeSession, NodeState};
use crate::mail::Timestamp;
use crate::spool::SpoolError;

/// The time-out of a heartbeat.
const BEAT_TIMEOUT: Duration = Duration::from_secs(3);
/// How soon to retry when the database did not answer.
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// Registers a session for this node.
pub(super) async fn begin(node: &NodeState, on: &Connected) -> Result<(), tokio_postgres::Error> {
    let asked = LeaseInstant::now();
    let lease = i64::try_from(node.lease.as_millis()).unwrap_or(i64::MAX);
    let insert = "INSERT INTO sessions (node, instance, version, lease_ms, flushes)
        VALUES ($1, $2, $3, $4, true) RETURNING id";
    let params: [Param<'_>; 4] = [
        &node.name,
        &node.instance,
        &env!("CARGO_PKG_VERSION"),
        &lease,
    ];
    let rows = match on.query(insert, &params).await {
        Err(error) if judge(&error) == StatementFailure::Exists => {
            schema::advance_ids(on, "sessions").await?;
            on.query(insert, &params).await?
        }
        rows => rows?,
    };
    let id: i32 = rows.first().map_or(0, |row| row.get(0));

    let mut leases = node.leases.lock();
    leases.begin(id);
    *node.session.write() = NodeSession::begun(id, asked);
    drop(leases);
    // Another session had the same number, where numbers began again with a restored database.
    node.has_doubt.store(true, Ordering::SeqCst);
    tracing::info!(session = id, node = %node.name, "a node of the spool");
    Ok(())
}

/// Sends heartbeats until the spool is closed or dropped.
pub(super) async fn run(node: Weak<NodeState>) {
    loop {
        let Some(node) = node.upgrade() else { return };
        if node.closed.load(Ordering::SeqCst) {
            return;
        }
        let begun = Instant::now();
        let every = beat_every(&node);
        let rest = match beat(&node).await {
            Ok(()) => every.saturating_sub(begun.elapsed()),
            Err(_) => RETRY_AFTER,
        };
        drop(node);
        tokio::time::sleep(rest).await;
    }
}

fn beat_every(node: &NodeState) -> Duration {
    (node.lease / 10).clamp(Duration::from_millis(100), Duration::from_secs(1))
}

/// Sends one heartbeat. If the session was ended by others, registers another.
async fn beat(node: &Arc<NodeState>) -> Result<(), SpoolError> {
    let beaten = match tokio::time::timeout(BEAT_TIMEOUT, try_beat(node)).await {
        Ok(beaten) => beaten,
        Err(_) => Err(node.connector.unreachable("it does not answer")),
    };
    node.is_heard.store(beaten.is_ok(), Ordering::SeqCst);
    if let Err(error) = &beaten {
        node.note_down(error);
        // The connection may date from a time when the database was read-only.
        node.heart.discard().await;
    }
    beaten
}

async fn try_beat(node: &Arc<NodeState>) -> Result<(), SpoolError> {
    let on = node.on(&node.heart).await?;
    let asked = LeaseInstant::now();
    let before = Timestamp::now();
    // Whatever prevents the heartbeat, such as missing tables, also prevents new deliveries.
    let failed = |error: tokio_postgres::Error| node.connector.unreachable(reason(&error));

    let session = node.session();
    let holds = i64::try_from(node.leases.lock().count()).unwrap_or(i64::MAX);
    let beaten = on
        .query(
            "UPDATE sessions SET seen = now(), holds = $2 WHERE id = $1 AND instance = $3
             RETURNING (extract(epoch FROM clock_timestamp()) * 1000)::bigint",
            &[&session, &holds, &node.instance],
        )
        .await
        .map_err(failed)?;

    match beaten.first() {
        Some(row) => {
            let database = Timestamp::from_millis(row.get(0));
            node.skew.seen(before, database, Timestamp::now());
            let mut current = node.session.write();
            if current.id == session {
                current.asked = asked;
            }
        }
        None => {
            if session != 0 {
                tracing::warn!(
                    session,
                    "this node gave no sign of life for longer than its lease, and others have \
                    taken over what it held"
                );
            }
            begin(node, &on).await.map_err(failed)?;
            node.hints.mark_due([hints::ANY_ROUTE]);
            node.changed.notify_one();
        }
    }

    let lapsed = count_nodes(node, &on).await.map_err(failed)?;
    node.lapsed.lock().seen(lapsed);
    Ok(())
}

/// The sessions whose lease has expired, and since when this is known.
#[derive(Default)]
pub(super) struct LapsedSessions(HashMap<i32, Instant>);

impl LapsedSessions {
    fn seen(&mut self, lapsed: Vec<i32>) {
        self.0.retain(|session, _| lapsed.contains(session));
        for session in lapsed {
            self.0.entry(session).or_insert_with(Instant::now);
        }
    }

    /// Returns the sessions that have been lapsed for two heartbeats. After the server's clock was
    /// set, all sessions look lapsed until their next heartbeat.
    pub(super) fn take(&mut self, node: &NodeState) -> Vec<i32> {
        let grace = beat_every(node) * 2;
        let known = self.0.iter();
        let over = known.filter(|(_, since)| since.elapsed() >= grace);
        let mut over: Vec<i32> = over.map(|(session, _)| *session).collect();
        over.sort_unstable();
        over.iter().for_each(|session| _ = self.0.remove(session));
        over
    }
}

/// The condition that session `s` sent no heartbeat for longer than its lease. A time far in the
/// future counts as well: it remains after the server's clock was set back.
pub(super) const IS_LAPSED: &str = "CASE WHEN isfinite(s.seen)
  THEN abs(extract(epoch FROM now() - s.seen)) * 1000 > s.lease_ms ELSE true END";

/// Counts the nodes and finds this one's position among them. Returns the sessions whose lease has
/// expired.
pub(super) async fn count_nodes(
    node: &NodeState,
    on: &Connected,
) -> Result<Vec<i32>, tokio_postgres::Error> {
    let session = node.session();
    let rows = on
        .query(
            &format!("SELECT s.id, {IS_LAPSED} FROM sessions s ORDER BY s.id"),
            &[],
        )
        .await?;
    let (lapsed, alive): (Vec<_>, Vec<_>) = rows.iter().partition(|row| row.get::<_, bool>(1));

    let ids = |rows: Vec<&tokio_postgres::Row>| -> Vec<i32> {
        rows.into_iter().map(|row| row.get(0)).collect()
    };
    let alive = ids(alive);
    let count = |nodes: usize| u32::try_from(nodes).unwrap_or(u32::MAX);
    let place = alive.iter().filter(|id| **id < session).count();
    let share = (count(place), count(alive.len().max(1)));
    cluster::order(node, |orders| orders.share = share);

    Ok(ids(lapsed))
}

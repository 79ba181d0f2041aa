//! This node among the others: its session, and the heartbeats that keep it alive, which wait for
//! nothing else that this node does.
//!
//! *Invariant:* a session that was ended by another is never used again, and nothing that was
//! leased under it settles.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::cluster;
use super::hints;
use super::lease_clock::LeaseInstant;
use super::link::{Connected, reason};
use super::shared::{NodeSession, NodeState};
use crate::mail::Timestamp;
use crate::spool::SpoolError;

/// How long a heartbeat may take.
const BEAT_TIMEOUT: Duration = Duration::from_secs(3);
/// How soon it beats again where the database did not answer.
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// Makes a session of this node's.
pub(super) async fn begin(node: &NodeState, on: &Connected) -> Result<(), tokio_postgres::Error> {
    let asked = LeaseInstant::now();
    let lease = i64::try_from(node.lease.as_millis()).unwrap_or(i64::MAX);
    let rows = on
        .query(
            "INSERT INTO sessions (node, instance, version, lease_ms) \
            VALUES ($1, $2, $3, $4) RETURNING id",
            &[
                &node.name,
                &node.instance,
                &env!("CARGO_PKG_VERSION"),
                &lease,
            ],
        )
        .await?;
    let id: i32 = rows.first().map_or(0, |row| row.get(0));

    let mut leases = node.leases.lock();
    leases.begin(id);
    *node.session.write() = NodeSession::begun(id, asked);
    drop(leases);
    tracing::info!(session = id, node = %node.name, "a node of the spool");
    Ok(())
}

/// Beats until the spool is closed or gone.
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

/// One heartbeat. Where the session is gone, another is begun.
async fn beat(node: &Arc<NodeState>) -> Result<(), SpoolError> {
    let beaten = match tokio::time::timeout(BEAT_TIMEOUT, try_beat(node)).await {
        Ok(beaten) => beaten,
        Err(_) => Err(node.connector.unreachable("it does not answer")),
    };
    node.is_heard.store(beaten.is_ok(), Ordering::SeqCst);
    if let Err(error) = &beaten {
        node.note_down(error);
        // It may be of a time at which nothing could be written.
        node.heart.discard().await;
    }
    beaten
}

async fn try_beat(node: &Arc<NodeState>) -> Result<(), SpoolError> {
    let on = node.on(&node.heart).await?;
    let asked = LeaseInstant::now();
    let before = Timestamp::now();
    // Whatever is in the way of it, such as tables that are gone, nothing may be begun without it.
    let failed = |error: tokio_postgres::Error| node.connector.unreachable(reason(&error));

    let session = node.session();
    let holds = i64::try_from(node.leases.lock().count()).unwrap_or(i64::MAX);
    let beaten = on
        .query(
            "UPDATE sessions SET seen = now(), holds = $2 WHERE id = $1
             RETURNING (extract(epoch FROM clock_timestamp()) * 1000)::bigint",
            &[&session, &holds],
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
            node.hints.stir([hints::ANY_ROUTE]);
            node.changed.notify_one();
        }
    }

    let lapsed = count_nodes(node, &on).await.map_err(failed)?;
    node.lapsed.lock().seen(lapsed);
    Ok(())
}

/// The sessions that are lapsed, and since when it is known.
#[derive(Default)]
pub(super) struct LapsedSessions(HashMap<i32, Instant>);

impl LapsedSessions {
    fn seen(&mut self, lapsed: Vec<i32>) {
        self.0.retain(|session, _| lapsed.contains(session));
        for session in lapsed {
            self.0.entry(session).or_insert_with(Instant::now);
        }
    }

    /// Takes those that stayed so for two heartbeats: where the server's clock was set, all are
    /// lapsed until they beat again.
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

/// Whether a session, s, gave no sign of life for longer than its lease; nor can it have given one
/// that lies so far ahead, where the server's clock was set back.
pub(super) const IS_LAPSED: &str = "abs(extract(epoch FROM now() - s.seen)) * 1000 > s.lease_ms";

/// Learns which of how many nodes this one is. Returns the sessions that gave no sign of life for
/// longer than their lease.
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

//! Orders that the nodes pass to each other, in tables that each node polls.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;
use tokio_postgres::Row;

use super::PostgresNode;
use super::link::Connected;
use super::reading::ask;
use super::rows;
use super::session::IS_LAPSED;
use super::shared::NodeState;
use crate::mail::{MailId, Timestamp};
use crate::spool::SpoolError;
use crate::spool::cluster::{Cluster, NodeStatus, Orders};

/// How long a recall of a mail is in force.
const RECALL_LIFETIME: Duration = Duration::from_secs(60);

/// Reads the orders, and announces them if they have changed.
pub(super) async fn read_orders(
    node: &NodeState,
    on: &Connected,
) -> Result<(), tokio_postgres::Error> {
    let adding = node.adding.load(Ordering::Acquire);
    let rows = on
        .query(
            "SELECT ARRAY(SELECT relay FROM paused ORDER BY relay),
              ARRAY(SELECT mail FROM wanted_back ORDER BY mail),
               EXISTS (SELECT FROM suppressions),
               NOT EXISTS (SELECT FROM sessions WHERE NOT flushes)",
            &[],
        )
        .await?;
    let Some(row) = rows.first() else {
        return Ok(());
    };

    if adding.is_multiple_of(2) && node.adding.load(Ordering::Acquire) == adding {
        node.suppresses.store(row.get(2), Ordering::Release);
    }
    node.all_flush.store(row.get(3), Ordering::Relaxed);
    let wanted: Vec<uuid::Uuid> = row.get(1);

    let paused = row.get::<_, Vec<String>>(0).into_iter().collect();
    let wanted_back = wanted.into_iter().map(rows::mail_id).collect();
    order(node, |orders| {
        orders.paused = paused;
        orders.wanted_back = wanted_back;
    });
    Ok(())
}

/// Changes the orders in memory, and announces them if they have changed.
pub(super) fn order(node: &NodeState, change: impl FnOnce(&mut Orders)) {
    let is_new = node.orders.send_if_modified(|known| {
        let mut orders = Orders::clone(known);
        change(&mut orders);
        let is_new = **known != orders;
        if is_new {
            *known = Arc::new(orders);
        }
        is_new
    });

    if is_new {
        node.hints.mark_due([super::hints::ANY_ROUTE]);
        node.changed.notify_one();
    }
}

/// Pauses or resumes a relay on all nodes.
pub(super) async fn set_paused(
    node: &NodeState,
    relay: &str,
    paused: bool,
) -> Result<(), SpoolError> {
    let sql = match paused {
        true => {
            "WITH h AS (UPDATE head SET commits = commits + 1)
             INSERT INTO paused (relay) VALUES ($1) ON CONFLICT DO NOTHING"
        }
        false => {
            "WITH h AS (UPDATE head SET commits = commits + 1) DELETE FROM paused WHERE relay = $1"
        }
    };

    let done: Result<u64, SpoolError> = ask!(node, on => on.execute(sql, &[&relay]));
    done?;
    let read: Result<(), SpoolError> = ask!(node, on => read_orders(node, &on));
    read
}

#[async_trait]
impl Cluster for PostgresNode {
    async fn nodes(&self) -> Result<Vec<NodeStatus>, SpoolError> {
        let node = &self.node;
        let rows: Result<Vec<Row>, SpoolError> = ask!(node, on => on.query(
            &format!(
                "SELECT s.id, s.node, s.version, (extract(epoch FROM s.since) * 1000)::bigint,
               (extract(epoch FROM s.seen) * 1000)::bigint, s.holds
             FROM sessions s WHERE NOT ({IS_LAPSED}) ORDER BY s.id"
            ),
            &[],
        ));

        let own = node.session();
        Ok(rows?
            .iter()
            .map(|row| NodeStatus {
                session: u32::try_from(row.get::<_, i32>(0)).unwrap_or(0),
                name: row.get(1),
                version: row.get(2),
                since: Timestamp::from_millis(row.get(3)),
                seen: Timestamp::from_millis(row.get(4)),
                is_this: row.get::<_, i32>(0) == own,
                holds: u64::try_from(row.get::<_, i64>(5)).unwrap_or(0),
            })
            .collect())
    }

    async fn want_back(&self, mail: MailId) -> Result<(), SpoolError> {
        let node = &self.node;
        let mail = rows::uuid(mail);
        let seconds = i64::try_from(RECALL_LIFETIME.as_secs()).unwrap_or(60);
        let done: Result<u64, SpoolError> = ask!(node, on => on.execute(
            "WITH h AS (UPDATE head SET commits = commits + 1),
               o AS (DELETE FROM wanted_back WHERE at < now() - $2 * interval '1 s' AND mail <> $1)
             INSERT INTO wanted_back (mail) VALUES ($1) ON CONFLICT (mail) DO UPDATE
               SET at = now()",
            &[&mail, &(seconds as f64)],
        ));
        done.map(|_| ())
    }

    fn warnings(&self) -> Vec<String> {
        let (horizon, skew) = (self.node.horizon.warning(), self.node.skew.warning());
        horizon.into_iter().chain(skew).collect()
    }

    fn orders(&self) -> watch::Receiver<Arc<Orders>> {
        self.node.orders.subscribe()
    }
}

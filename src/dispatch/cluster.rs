//! The dispatchers that share a spool, and orders that apply to all of them.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use ractor::{ActorRef, RpcReplyPort};
use tokio::time::Instant;

use super::engine::Engine;
use super::recalls::RecallRequest;
use super::router;
use super::{Dispatcher, Error, Inner};
use crate::mail::MailId;
use crate::spool::{NodeStatus, Orders};

/// How long a mail that was cancelled at some node is recalled here.
const RECALLED_FOR: Duration = Duration::from_secs(30);
/// How often to poll the state of a mail that another node may be sending: only the database knows
/// its outcome.
pub(super) const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// The orders that were applied.
#[derive(Default)]
pub(super) struct AppliedOrders {
    orders: Option<Arc<Orders>>,
    paused: BTreeSet<String>,
    recalled: HashMap<MailId, (RecallRequest, Instant)>,
}

impl AppliedOrders {
    /// Applies new orders.
    pub(super) fn apply(&mut self, engine: &Arc<Engine>, router: &ActorRef<router::Msg>) {
        let Some(cluster) = engine.spool.cluster() else {
            return;
        };
        let orders = Arc::clone(&cluster.orders().borrow());

        self.recalled
            .retain(|_, (_, since)| since.elapsed() < RECALLED_FOR);
        if self.orders.as_ref() == Some(&orders) {
            return;
        }

        let known = match &self.orders {
            Some(_) => std::mem::take(&mut self.paused),
            None => engine.paused(),
        };
        for relay in orders.paused.symmetric_difference(&known) {
            let (reply, _) = ractor::concurrency::oneshot::<bool>();
            let _ = router.cast(router::Msg::Pause {
                relay: relay.clone(),
                paused: orders.paused.contains(relay),
                reply: RpcReplyPort::from(reply),
            });
        }

        self.paused = orders.paused.clone();
        let before = self.orders.take();
        for mail in &orders.wanted_back {
            let is_known = before
                .as_ref()
                .is_some_and(|before| before.wanted_back.contains(mail));
            if is_known {
                continue;
            }
            let recalled = engine.recalls.recall(*mail);
            self.recalled.insert(*mail, (recalled, Instant::now()));
            engine.end_recalled(*mail, engine.clock.now());
        }

        self.orders = Some(orders);
    }
}

/// Applies this node's share of the relays whenever nodes join or leave, as long as the dispatcher
/// exists.
pub(super) fn follow_share(inner: &Arc<Inner>) {
    let Some(cluster) = inner.engine.spool.cluster() else {
        return;
    };
    let mut orders = cluster.orders();
    let mut share = orders.borrow().share;

    let inner = Arc::downgrade(inner);
    tokio::spawn(async move {
        while orders.changed().await.is_ok() {
            let now = orders.borrow_and_update().share;
            if now == share {
                continue;
            }
            let Some(inner) = inner.upgrade() else { return };
            let _one = inner.reloading.lock().await;
            let topology = inner.engine.topology().shared(now);
            if inner.configure(topology).await.is_err() {
                return;
            }
            tracing::info!(
                node = now.0,
                nodes = now.1,
                "this node's share of the relays has changed"
            );
            share = now;
        }
    });
}

impl Dispatcher {
    /// The dispatchers that share this one's spool, including this one; `None` if the spool is not
    /// shared.
    ///
    /// # Errors
    /// [`Error::Spool`].
    pub async fn nodes(&self) -> Result<Option<Vec<NodeStatus>>, Error> {
        match self.inner.engine.spool.cluster() {
            Some(cluster) => Ok(Some(cluster.nodes().await?)),
            None => Ok(None),
        }
    }

    /// Problems of a shared spool that do not stop the dispatchers, one sentence each.
    pub fn cluster_warnings(&self) -> Vec<String> {
        let cluster = self.inner.engine.spool.cluster();
        cluster.map_or_else(Vec::new, |cluster| cluster.warnings())
    }
}

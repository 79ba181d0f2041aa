//! What whoever tells the outside needs of the engine: whose turn it is where several nodes share a
//! spool, and where it is counted and noted what came of it.

use std::sync::Arc;

use tokio::sync::watch;

use super::Dispatcher;
use crate::delivery::EventKind;
use crate::spool::Orders;

/// What came of telling something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoticeResult {
    Delivered,
    Failed,
    GivenUp,
}

impl NoticeResult {
    fn as_str(self) -> &'static str {
        match self {
            NoticeResult::Delivered => "delivered",
            NoticeResult::Failed => "failed",
            NoticeResult::GivenUp => "given_up",
        }
    }
}

/// Whether this node is the one that does something which one node does for all.
pub(crate) struct Turn {
    orders: Option<watch::Receiver<Arc<Orders>>>,
    number: u64,
}

impl Turn {
    /// Whether it is this node's turn.
    pub fn is_mine(&self) -> bool {
        let Some(orders) = &self.orders else {
            return true;
        };
        let (rank, nodes) = orders.borrow().share;
        self.number % u64::from(nodes.max(1)) == u64::from(rank)
    }

    /// Waits until that may have changed.
    pub async fn changed(&mut self) {
        let is_told = match &mut self.orders {
            Some(orders) => orders.changed().await.is_ok(),
            None => false,
        };
        if !is_told {
            std::future::pending().await
        }
    }
}

impl Dispatcher {
    /// Whose turn it is to do what has this name.
    pub(crate) fn turn(&self, name: &str) -> Turn {
        let cluster = self.inner.engine.spool.cluster();
        Turn {
            orders: cluster.map(|cluster| cluster.orders()),
            number: twox_hash::XxHash3_64::oneshot(name.as_bytes()),
        }
    }

    /// Whether others share the spool.
    pub(crate) fn shares_its_spool(&self) -> bool {
        self.inner.engine.spool.cluster().is_some()
    }

    /// Counts what came of telling a webhook something.
    pub(crate) fn count_notice(&self, webhook: &str, result: NoticeResult) {
        let metrics = &self.inner.engine.metrics;
        metrics.noticed(webhook, result.as_str());
    }

    /// Shows in the metrics whether a webhook is off.
    pub(crate) fn show_webhook(&self, webhook: &str, is_off: bool) {
        self.inner.engine.metrics.webhook_is_off(webhook, is_off);
    }

    /// Notes in the journal that a webhook is switched off.
    pub(crate) async fn note_webhook_off(&self, webhook: &str, reason: &str) {
        let kind = EventKind::WebhookOff {
            webhook: webhook.to_owned(),
            reason: reason.to_owned(),
        };
        let engine = &self.inner.engine;
        let event = crate::delivery::Event::new(engine.clock.now(), kind);
        if let Some(journal) = engine.spool.journal()
            && let Err(error) = journal.note(vec![event]).await
        {
            tracing::warn!(%error, "what happened could not be noted in the journal");
        }
    }

    /// Notes what somebody did to a webhook.
    pub(crate) async fn note_webhook_act(&self, act: &str, webhook: &str) {
        let kind = EventKind::Act {
            act: act.to_owned(),
            count: 1,
            filter: Some(format!("webhook {webhook}")),
        };
        self.note(kind, |event| event).await;
    }
}

//! What webhooks, alerts and schedules need from the engine: which node does the work if several
//! share a spool, and metrics and journal entries for the results.

use std::time::Duration;

use super::{Dispatcher, JournalHandle};
use crate::delivery::EventKind;

/// The result of sending a notification.
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

/// How often a node checks whether it may take over the work of another one: a node that was killed
/// does not announce it.
const TURN_POLL_INTERVAL: Duration = Duration::from_millis(500);

/// Whether this node does the work that belongs to a named reader of the journal.
pub(crate) struct Turn {
    /// The reader that the node with the turn owns; `None` if every node has the turn.
    reader: Option<(JournalHandle, String)>,
    is_shared: bool,
}

impl Turn {
    /// A turn that every node has, for work that is done only once even if all nodes try.
    pub fn always() -> Self {
        Turn {
            reader: None,
            is_shared: false,
        }
    }

    /// Whether this node has the turn.
    pub fn is_mine(&self) -> bool {
        let reader = self.reader.as_ref();
        reader.is_none_or(|(journal, name)| journal.holds(name))
    }

    /// Waits until that changes. Takes the turn if no other node has it.
    pub async fn changed(&mut self) {
        let Some((journal, name)) = self.reader.as_ref().filter(|_| self.is_shared) else {
            return std::future::pending().await;
        };

        let was_mine = self.is_mine();
        loop {
            if !was_mine && journal.hold(name).await.unwrap_or(false) {
                return;
            }
            if self.is_mine() != was_mine {
                return;
            }
            tokio::time::sleep(TURN_POLL_INTERVAL).await;
        }
    }
}

impl Dispatcher {
    /// The turn that belongs to the reader with this name.
    pub(crate) fn turn(&self, name: &str) -> Turn {
        Turn {
            reader: Some((self.journal(), name.to_owned())),
            is_shared: self.shares_its_spool(),
        }
    }

    /// Whether other nodes share the spool.
    pub(crate) fn shares_its_spool(&self) -> bool {
        self.inner.engine.spool.cluster().is_some()
    }

    /// Counts the result of a webhook's notification.
    pub(crate) fn count_notice(&self, webhook: &str, result: NoticeResult) {
        let metrics = &self.inner.engine.metrics;
        metrics.noticed(webhook, result.as_str());
    }

    /// Sets the metric that shows whether a webhook is off.
    pub(crate) fn show_webhook(&self, webhook: &str, is_off: bool) {
        self.inner.engine.metrics.webhook_is_off(webhook, is_off);
    }

    /// Records in the journal that a webhook was switched off.
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
            tracing::warn!(%error, "cannot record an event in the journal");
        }
    }

    /// Records an operation on a webhook.
    pub(crate) async fn note_webhook_act(&self, act: &str, webhook: &str) {
        let kind = EventKind::Act {
            act: act.to_owned(),
            count: 1,
            filter: Some(format!("webhook {webhook}")),
        };
        self.note(kind, |event| event).await;
    }
}

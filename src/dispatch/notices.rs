//! What whoever tells the outside needs of the engine: whose turn it is where several nodes share a
//! spool, and where it is counted and noted what came of it.

use std::time::Duration;

use super::{Dispatcher, JournalHandle};
use crate::delivery::EventKind;

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

/// How often a node asks whether it may do what another does: one that is killed tells nobody.
const TURN_POLL_INTERVAL: Duration = Duration::from_millis(500);

/// Whether this node is the one that does for all what a named reader of the journal is for.
pub(crate) struct Turn {
    /// The reader that is held by whoever's turn it is; none where it is everybody's.
    reader: Option<(JournalHandle, String)>,
    is_shared: bool,
}

impl Turn {
    /// A turn of every node: of what can be done by all of them, because it is done once.
    pub fn always() -> Self {
        Turn {
            reader: None,
            is_shared: false,
        }
    }

    /// Whether it is this node's turn.
    pub fn is_mine(&self) -> bool {
        let reader = self.reader.as_ref();
        reader.is_none_or(|(journal, name)| journal.holds(name))
    }

    /// Waits until that has changed. Takes the turn where nobody has it.
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
    /// Whose turn it is to do what the reader of this name is for.
    pub(crate) fn turn(&self, name: &str) -> Turn {
        Turn {
            reader: Some((self.journal(), name.to_owned())),
            is_shared: self.shares_its_spool(),
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

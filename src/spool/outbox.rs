//! The outbox: mail that applications have enqueued in transactions of their own, and that is still
//! to be composed. A door composes it.
//!
//! *Invariants:* a draft is seen once its transaction has committed, and never otherwise; it leaves
//! the outbox in the commit in which its mail is put, so that it becomes one mail however often it
//! is taken.

use async_trait::async_trait;
use tokio::sync::Notify;

use super::SpoolError;
use crate::mail::{MailId, Timestamp};

/// A mail that is not composed yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboxDraft {
    /// The name that its mail will have.
    pub id: MailId,
    /// What is to be sent, as `POST /v1/mails` takes it; `None` where it is larger than what was
    /// asked for.
    pub json: Option<String>,
}

/// How much of the outbox is taken in hand at once.
#[derive(Clone, Copy, Debug)]
pub struct Handful {
    /// The most drafts.
    pub drafts: usize,
    /// About how many bytes of them; at least one draft is taken.
    pub bytes: usize,
    /// The largest draft that is handed out.
    pub largest: usize,
}

/// Mail that was put beside the queue.
#[async_trait]
pub trait Outbox: Send + Sync {
    /// Told when there may be drafts that nobody has in hand. Those of a node that is gone are told
    /// of by nobody: look for them now and then.
    fn arrived(&self) -> &Notify;

    /// Takes the oldest drafts in hand: nobody else gets them while this node lives.
    async fn take(&self, most: Handful) -> Result<Vec<OutboxDraft>, SpoolError>;

    /// A draft was found to be a mail that is kept already, by its idempotency key.
    async fn became(&self, draft: MailId, mail: MailId) -> Result<(), SpoolError>;

    /// A draft cannot become a mail: it is kept as one that is dead as `rejected`.
    async fn reject(
        &self,
        draft: &OutboxDraft,
        reason: &str,
        now: Timestamp,
    ) -> Result<(), SpoolError>;

    /// Drafts that could not be put now go back.
    async fn give_back(&self, drafts: Vec<MailId>) -> Result<(), SpoolError>;
}

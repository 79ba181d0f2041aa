//! Bounces, complaints and other reports that come back for mail that was sent. They are stored
//! beside the deliveries, entered into the journal in the same commit, and deleted with their mail.
//!
//! *Invariant:* the same feedback twice is one; one delivery keeps no more than
//! [`KEPT_FEEDBACK`](crate::delivery::KEPT_FEEDBACK).

use async_trait::async_trait;

use super::{SpoolError, Suppression};
use crate::delivery::Feedback;
use crate::mail::MailId;

/// Something that came back, for one delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewFeedback {
    /// The mail.
    pub mail: MailId,
    /// Which of its deliveries, in the envelope's order.
    pub index: u16,
    /// Names it: what comes twice has the same name.
    pub id: [u8; 16],
    /// What it says.
    pub feedback: Feedback,
    /// Whether it failed for good.
    pub permanent: bool,
    /// Who is not to get mail any more because of it.
    pub suppression: Option<Suppression>,
}

/// What became of a [`NewFeedback`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FeedbackResult {
    /// It is kept.
    Kept,
    /// It was known, or there is too much of it already.
    Known,
    /// There is no such delivery.
    Unknown,
}

/// Keeps what comes back.
#[async_trait]
pub trait FeedbackStore: Send + Sync {
    /// Keeps these, and the suppressions that follow; each has its own result, in order.
    async fn keep(&self, new: Vec<NewFeedback>) -> Result<Vec<FeedbackResult>, SpoolError>;
}

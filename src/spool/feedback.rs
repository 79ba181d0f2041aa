//! Bounces, complaints and other reports that come back for mail that was sent. They are stored
//! beside the deliveries, entered into the journal in the same commit, and deleted with their mail.
//!
//! *Invariant:* the same feedback twice is one; one delivery keeps no more than
//! [`KEPT_FEEDBACK`](crate::delivery::KEPT_FEEDBACK).

use async_trait::async_trait;

use super::{SpoolError, Suppression};
use crate::delivery::Feedback;
use crate::mail::MailId;

/// A report about one delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewFeedback {
    /// The mail.
    pub mail: MailId,
    /// Which of its deliveries, in the envelope's order.
    pub index: u16,
    /// An id of the report; a repeated report has the same.
    pub id: [u8; 16],
    /// What it says.
    pub feedback: Feedback,
    /// Whether the delivery has failed permanently.
    pub permanent: bool,
    /// The suppression that follows from it, if any.
    pub suppression: Option<Suppression>,
}

/// The result of storing a [`NewFeedback`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FeedbackResult {
    /// It is stored.
    Kept,
    /// It was stored before, or there are too many reports already.
    Known,
    /// There is no such delivery.
    Unknown,
}

/// Stores reports.
#[async_trait]
pub trait FeedbackStore: Send + Sync {
    /// Stores reports, with their suppressions; each has its own result, in order.
    async fn keep(&self, new: Vec<NewFeedback>) -> Result<Vec<FeedbackResult>, SpoolError>;
}

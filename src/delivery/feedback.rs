//! Feedback: what is reported after a relay has accepted a mail, such as a bounce, a complaint or
//! its arrival.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::mail::Timestamp;

/// The most reports that are kept for a delivery; further ones are ignored.
pub const KEPT_FEEDBACK: usize = 20;

/// The kind of feedback.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum FeedbackKind {
    /// A server behind the relay could not deliver the mail.
    Bounced,
    /// The recipient marked the mail as unwanted at a mailbox provider.
    Complained,
    /// The mail is in the mailbox, according to the report.
    Delivered,
    /// The recipient unsubscribed at the provider.
    Unsubscribed,
}

impl FeedbackKind {
    /// Its name in JSON and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            FeedbackKind::Bounced => "bounced",
            FeedbackKind::Complained => "complained",
            FeedbackKind::Delivered => "delivered",
            FeedbackKind::Unsubscribed => "unsubscribed",
        }
    }
}

impl fmt::Display for FeedbackKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One report about a delivery.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct Feedback {
    /// When it was received.
    pub at: Timestamp,
    /// Its kind.
    pub kind: FeedbackKind,
    /// The enhanced status code (RFC 3463), such as `5.1.1`; for a complaint its type, such as
    /// `abuse`.
    #[serde(default)]
    pub status: Option<String>,
    /// The explanation in the report.
    pub text: String,
    /// The source: `report`, or the provider's name.
    pub by: String,
}

/// Whether a bounce with this status means that the address can receive no mail any more: it does
/// not exist, or nobody reads it (RFC 3463 §3.2, §3.3; RFC 7505). A full mailbox may be emptied,
/// and a refusal by policy is about the mail or its sender.
pub fn ends_an_address(status: &str) -> bool {
    matches!(status, "5.1.1" | "5.1.3" | "5.1.6" | "5.1.10" | "5.2.1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_about_the_address_for_good_ends_it() {
        for status in ["5.1.1", "5.1.10", "5.2.1"] {
            assert!(ends_an_address(status), "{status}");
        }
        for status in ["5.7.1", "5.2.2", "4.1.1", "5.0.0", "5.4.4", "5.1.1x", ""] {
            assert!(!ends_an_address(status), "{status}");
        }
    }
}

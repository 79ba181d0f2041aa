//! What is reported after a relay has accepted a mail: that it bounced after all, that its
//! recipient complained, that it arrived.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::mail::Timestamp;

/// The most of it that one delivery keeps; what comes beyond changes nothing.
pub const KEPT_FEEDBACK: usize = 20;

/// What came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum FeedbackKind {
    /// A server behind the relay could not deliver it.
    Bounced,
    /// Its recipient told a mailbox provider that it was unwanted.
    Complained,
    /// It is in the mailbox, as far as anybody can say that.
    Delivered,
    /// Its recipient told a provider that no more is wanted.
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

/// One thing that came back for a delivery.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct Feedback {
    /// When it came.
    pub at: Timestamp,
    /// What it says.
    pub kind: FeedbackKind,
    /// The enhanced status code (RFC 3463), such as `5.1.1`; of a complaint its type, such as
    /// `abuse`.
    #[serde(default)]
    pub status: Option<String>,
    /// What was said besides.
    pub text: String,
    /// Who said it: `report`, or the provider's name.
    pub by: String,
}

/// Whether an address cannot receive mail any more, because of this status: there is nobody of
/// that name, or nobody who reads it (RFC 3463 §3.2, §3.3; RFC 7505). A full mailbox may be
/// emptied, and a refusal by policy is about the mail or its sender.
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

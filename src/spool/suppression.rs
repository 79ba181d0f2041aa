//! The addresses that get no mail, and why. Checked when a mail is accepted and again before it is
//! sent.
//!
//! *Invariant:* what was added is as safe as a receipt when the call returns; asking for a few
//! addresses costs the same however many are kept.

use std::fmt;
use std::str::FromStr;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::SpoolError;
use crate::mail::{Address, Priority, Timestamp, UnknownName};

/// Why an address is not to get mail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum SuppressionReason {
    /// Mail to it came back for good.
    Bounce,
    /// Its owner told a mailbox provider that mail was unwanted.
    Complaint,
    /// Its owner wants no more of it.
    Unsubscribe,
    /// Somebody here said so.
    Manual,
}

impl SuppressionReason {
    /// Every reason.
    pub const ALL: [SuppressionReason; 4] = [
        SuppressionReason::Bounce,
        SuppressionReason::Complaint,
        SuppressionReason::Unsubscribe,
        SuppressionReason::Manual,
    ];

    /// Its name in JSON, in CSV and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            SuppressionReason::Bounce => "bounce",
            SuppressionReason::Complaint => "complaint",
            SuppressionReason::Unsubscribe => "unsubscribe",
            SuppressionReason::Manual => "manual",
        }
    }
}

impl fmt::Display for SuppressionReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for SuppressionReason {
    type Err = UnknownName;
    fn from_str(text: &str) -> Result<Self, UnknownName> {
        let found = SuppressionReason::ALL
            .into_iter()
            .find(|reason| reason.as_str().eq_ignore_ascii_case(text));
        found.ok_or_else(|| UnknownName::new(text, "bounce, complaint, unsubscribe, manual"))
    }
}

/// One entry: an address, a reason, and the mail that is meant. There is one at most for each
/// address, list and reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct Suppression {
    /// Who is not to get mail. Upper and lower case are the same here.
    pub address: Address,
    /// Why.
    pub reason: SuppressionReason,
    /// The list whose mail is meant; all mail where it is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub list: Option<String>,
    /// Since when.
    pub since: Timestamp,
    /// Until when; for ever where it is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// What is known besides, such as what a server said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

impl Suppression {
    /// Whether it has not ended.
    pub fn is_in_force(&self, now: Timestamp) -> bool {
        self.until.is_none_or(|until| now < until)
    }

    /// Whether it holds back a mail of this list and priority now. Who waits for a code gets it
    /// although mail was unwanted before; an address that does not exist gets nothing, and what
    /// somebody here said holds for all.
    pub fn stops(&self, list: Option<&str>, priority: Priority, now: Timestamp) -> bool {
        let is_meant = self.list.is_none() || self.list.as_deref() == list;
        let is_about_wishes = matches!(
            self.reason,
            SuppressionReason::Complaint | SuppressionReason::Unsubscribe
        );
        self.is_in_force(now) && is_meant && !(is_about_wishes && priority == Priority::Critical)
    }
}

/// Which entries. What is absent asks nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SuppressionQuery {
    /// Of this address.
    pub address: Option<Address>,
    /// For this reason.
    pub reason: Option<SuppressionReason>,
    /// Of this list; those of no list are left out then.
    pub list: Option<String>,
    /// The most entries in the page.
    pub limit: usize,
    /// What the page before gave as `next`.
    pub cursor: Option<String>,
}

impl SuppressionQuery {
    /// Whether an entry is meant.
    pub fn admits(&self, entry: &Suppression) -> bool {
        self.reason.is_none_or(|reason| reason == entry.reason)
            && (self.list.is_none() || self.list == entry.list)
    }
}

/// One page of entries, by address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct SuppressionPage {
    /// The entries; possibly none although there are more, when many had to be looked at.
    pub suppressions: Vec<Suppression>,
    /// The cursor of the next page; absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// Keeps who is not to get mail.
#[async_trait]
pub trait Suppressions: Send + Sync {
    /// Whether there are none at all, as far as that is known without looking.
    fn is_empty(&self) -> bool;

    /// All entries of each of these addresses, in their order.
    async fn of(&self, addresses: Vec<Address>) -> Result<Vec<Vec<Suppression>>, SpoolError>;

    /// Adds entries; one with the same address, list and reason takes the place of the one before.
    async fn add(&self, entries: Vec<Suppression>) -> Result<(), SpoolError>;

    /// Removes entries; returns how many there were.
    async fn remove(&self, entries: Vec<Suppression>) -> Result<usize, SpoolError>;

    /// One page of entries.
    async fn page(&self, query: SuppressionQuery) -> Result<SuppressionPage, SpoolError>;
}

//! The options of a mail: what the sender requests besides the message.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Timestamp;

/// The priority of a mail. Each priority has a weight, so that none starves.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    /// Somebody is waiting for it: a code, a password reset. One connection of each relay is
    /// reserved for these.
    Critical,
    /// Neither critical nor bulk.
    #[default]
    Default,
    /// Newsletters and the like.
    Bulk,
}

impl Priority {
    /// All priorities, the most urgent first.
    pub const ALL: [Priority; 3] = [Priority::Critical, Priority::Default, Priority::Bulk];

    /// Its index in [`Priority::ALL`].
    pub fn index(self) -> usize {
        self as usize
    }

    /// Its name in files, in JSON and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Priority::Critical => "critical",
            Priority::Default => "default",
            Priority::Bulk => "bulk",
        }
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for Priority {
    type Err = UnknownName;
    fn from_str(text: &str) -> Result<Self, UnknownName> {
        Priority::ALL
            .into_iter()
            .find(|p| p.as_str().eq_ignore_ascii_case(text))
            .ok_or_else(|| UnknownName::new(text, "critical, default, bulk"))
    }
}

/// What to do if it is unknown whether a server accepted the mail.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Guarantee {
    /// Send it again: a mail may arrive twice, but is never lost.
    #[default]
    AtLeastOnce,
    /// Do not send it again: the delivery is dead as `in_doubt`.
    AtMostOnce,
}

impl std::str::FromStr for Guarantee {
    type Err = UnknownName;
    fn from_str(text: &str) -> Result<Self, UnknownName> {
        match text {
            "at_least_once" => Ok(Guarantee::AtLeastOnce),
            "at_most_once" => Ok(Guarantee::AtMostOnce),
            other => Err(UnknownName::new(other, "at_least_once, at_most_once")),
        }
    }
}

/// A word that is not one of the choices.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is not one of {known}", .name.escape_debug())]
pub struct UnknownName {
    name: String,
    known: &'static str,
}

impl UnknownName {
    pub(crate) fn new(name: &str, known: &'static str) -> Self {
        UnknownName {
            name: name.chars().take(64).collect(),
            known,
        }
    }
}

/// A point in time: absolute, or relative to the acceptance of a mail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// At this time.
    At(Timestamp),
    /// This long after acceptance.
    In(Duration),
}

impl When {
    /// The point in time, for a mail that is accepted at `accepted`.
    pub fn resolve(self, accepted: Timestamp) -> Timestamp {
        match self {
            When::At(at) => at,
            When::In(span) => accepted + span,
        }
    }
}

/// The options of a mail.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// The priority.
    pub priority: Priority,
    /// The earliest time at which it is sent; at once if absent.
    pub send: Option<When>,
    /// When it expires; if absent, the retry policy's `expire_after` decides.
    pub expires: Option<When>,
    /// Two mails with the same key are one mail.
    pub idempotency_key: Option<String>,
    /// Tags, for searching and for routes.
    pub tags: Vec<String>,
    /// What to do if the outcome is unknown.
    pub guarantee: Guarantee,
    /// The mailing list that it belongs to, such as `news`: its recipients can unsubscribe from
    /// that list.
    pub list: Option<String>,
}

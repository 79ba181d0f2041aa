//! What the sender asks for besides the message itself.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Timestamp;

/// How urgent a mail is. Each has a weight, so that none starves another.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    /// Somebody waits for it: a code, a password reset. One connection a relay is kept for these.
    Critical,
    /// Everything that is neither.
    #[default]
    Default,
    /// Newsletters and the like: sent when there is room.
    Bulk,
}

impl Priority {
    /// Every priority, the most urgent first.
    pub const ALL: [Priority; 3] = [Priority::Critical, Priority::Default, Priority::Bulk];

    /// Its place in [`Priority::ALL`].
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

/// What to do when it cannot be known whether a server took the mail.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Guarantee {
    /// Send again: a mail may arrive twice, and never not at all.
    #[default]
    AtLeastOnce,
    /// Never send again in doubt: the delivery becomes dead as `in_doubt`.
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

/// A word that names none of the choices.
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

/// A point in time that is either fixed, or counted from the moment a mail is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// At this time.
    At(Timestamp),
    /// This long after accept.
    In(Duration),
}

impl When {
    /// The time meant, for a mail that is accepted at `accepted`.
    pub fn resolve(self, accepted: Timestamp) -> Timestamp {
        match self {
            When::At(at) => at,
            When::In(span) => accepted + span,
        }
    }
}

/// What the sender asks for besides the message itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// How urgent it is.
    pub priority: Priority,
    /// Not to be sent before; at once when absent.
    pub send: Option<When>,
    /// Expires at this time; the retry policy's `expire_after` when absent.
    pub expires: Option<When>,
    /// Two mails with one key are one mail.
    pub idempotency_key: Option<String>,
    /// Words to find it by, and for routes to match.
    pub tags: Vec<String>,
    /// What to do in doubt.
    pub guarantee: Guarantee,
    /// The list that it is mail of, such as `news`: its recipients can leave that list alone.
    pub list: Option<String>,
}

//! `[retry]` and `[priorities]`: when deferred mail is tried again, and whose turn it is.

use std::time::Duration;

use serde::Deserialize;

use super::mistake::MistakeReport;
use super::units;
use crate::policy::{self, RetryPolicy, Weights};

/// When deferred mail is tried again.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Retry {
    /// The delays before the second, third … try; the last one repeats.
    #[serde(deserialize_with = "units::durations")]
    pub schedule: Vec<Duration>,
    /// How many tries count before a delivery is dead; without a number, expiry decides.
    pub max_attempts: Option<u32>,
    /// How long after accept a mail expires that names no time of its own.
    #[serde(deserialize_with = "units::duration")]
    pub expire_after: Duration,
    /// Whether the delays are spread.
    pub jitter: Jitter,
}

/// Whether the delays are spread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Jitter {
    /// Each is drawn evenly between half the schedule's and the whole.
    Full,
    /// Each is exactly the schedule's.
    None,
}

impl From<Jitter> for policy::Jitter {
    fn from(jitter: Jitter) -> policy::Jitter {
        match jitter {
            Jitter::Full => policy::Jitter::Full,
            Jitter::None => policy::Jitter::None,
        }
    }
}

impl Default for Retry {
    fn default() -> Self {
        let RetryPolicy {
            schedule,
            max_attempts,
            expire_after,
            ..
        } = RetryPolicy::default();
        Retry {
            schedule,
            max_attempts,
            expire_after,
            jitter: Jitter::Full,
        }
    }
}

impl Retry {
    pub(super) fn check(&self, report: &mut MistakeReport<'_>) {
        if self.schedule.is_empty() {
            report.add(
                "retry.schedule",
                "is empty; give at least one delay, such as 60s",
            );
        }

        if self.max_attempts == Some(0) {
            report.add("retry.max_attempts", "is 0, and must be at least 1");
        }
        if self.expire_after.is_zero() {
            report.add(
                "retry.expire_after",
                "is zero, so that every mail would be too late",
            );
        }
    }
}

/// Of each ten turns or so, how many a priority gets while all have mail waiting.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Priorities {
    /// Somebody waits for it.
    pub critical: u32,
    /// Everything that is neither.
    pub default: u32,
    /// Newsletters and the like.
    pub bulk: u32,
}

impl Default for Priorities {
    fn default() -> Self {
        let Weights {
            critical,
            default,
            bulk,
        } = Weights::default();
        Priorities {
            critical,
            default,
            bulk,
        }
    }
}

impl Priorities {
    pub(super) fn check(&self, report: &mut MistakeReport<'_>) {
        for (key, weight) in [
            ("critical", self.critical),
            ("default", self.default),
            ("bulk", self.bulk),
        ] {
            if !(1..=1000).contains(&weight) {
                report.add(
                    format!("priorities.{key}"),
                    format!("is {weight}, and must be 1 to 1000"),
                );
            }
        }
    }
}

//! `[retry]` and `[priorities]`: when deferred mail is attempted again, and the shares of the
//! priorities.

use std::time::Duration;

use serde::Deserialize;

use super::mistake::MistakeReport;
use super::units;
use crate::policy::{Jitter, RetryPolicy, Weights};

/// When deferred mail is attempted again.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Retry {
    /// The delays before the second, third and further attempts; the last one repeats.
    #[serde(deserialize_with = "units::durations")]
    pub schedule: Vec<Duration>,
    /// After how many counted attempts a delivery is dead; when absent, expiry decides.
    pub max_attempts: Option<u32>,
    /// How long after the time at which it is to be sent a mail expires, if it has no expiry of its
    /// own.
    #[serde(deserialize_with = "units::duration")]
    pub expire_after: Duration,
    /// Whether the delays are random.
    pub jitter: Jitter,
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

        if self.schedule.last().is_some_and(Duration::is_zero) && self.max_attempts.is_none() {
            report.add(
                "retry.schedule",
                "ends with no delay, which repeats: a relay that defers a mail would be asked \
                 without end until it expires; end with one such as 60s, or set max_attempts",
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

/// The share of each priority in what is sent, while mail of all priorities is waiting.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Priorities {
    /// Mail that somebody waits for, such as codes and password resets.
    pub critical: u32,
    /// All other mail.
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

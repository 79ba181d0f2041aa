//! `[suppression]`: how long addresses that bounced get no mail.

use std::time::Duration;

use serde::Deserialize;

use super::mistake::MistakeReport;
use super::units;
use crate::mail::days;

/// How long suppressed addresses get no mail.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Suppression {
    /// How long an address that bounced for good gets no mail.
    #[serde(deserialize_with = "units::duration")]
    pub bounces_for: Duration,
}

impl Default for Suppression {
    fn default() -> Self {
        Suppression {
            bounces_for: days(90),
        }
    }
}

impl Suppression {
    pub(super) fn check(&self, report: &mut MistakeReport<'_>) {
        if self.bounces_for.is_zero() {
            report.add("suppression.bounces_for", "must be above zero");
        }
    }
}

//! `[service]`: the process as a whole.

use std::time::Duration;

use serde::Deserialize;

use super::mistake::MistakeReport;
use super::units;
use crate::mail::seconds;

/// The process as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Service {
    /// How long a stop may take to finish what is in flight.
    #[serde(deserialize_with = "units::duration")]
    pub drain_timeout: Duration,
    /// The user that the process becomes if root starts it, once its listeners are open.
    pub user: Option<String>,
    /// The group that it becomes; the user's own when absent.
    pub group: Option<String>,
    /// Whether the process gives up the right to write anywhere but where the settings say, and to
    /// start programs.
    pub confine: bool,
}

impl Service {
    pub(super) fn check(&self, report: &mut MistakeReport<'_>) {
        if self.group.is_some() && self.user.is_none() {
            report.add("service.group", "is given and `service.user` is not");
        }
    }
}

impl Default for Service {
    fn default() -> Self {
        Service {
            drain_timeout: seconds(30),
            user: None,
            group: None,
            confine: false,
        }
    }
}

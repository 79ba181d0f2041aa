//! `[service]`: the process as a whole.

use std::time::Duration;

use serde::Deserialize;

use super::units;
use crate::mail::seconds;

/// The process as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Service {
    /// How long a stop may take to finish what is in flight.
    #[serde(deserialize_with = "units::duration")]
    pub drain_timeout: Duration,
}

impl Default for Service {
    fn default() -> Self {
        Service {
            drain_timeout: seconds(30),
        }
    }
}

//! The labels of the metrics: a label is named like its field, and its values like everywhere else.
//! Both are part of the public contract.

use std::fmt;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};

use super::metrics::DeliveryResult;
use crate::delivery::{AttemptClass, State};
use crate::mail::Priority;
use crate::policy::BreakerState;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct AcceptedLabels {
    pub door: &'static str,
    pub priority: Priority,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct DeliveryLabels {
    pub relay: String,
    pub result: DeliveryResult,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct AttemptLabels {
    pub relay: String,
    pub class: AttemptClass,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct DepthLabels {
    pub state: State,
    pub priority: Priority,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ConnectionLabels {
    pub relay: String,
    pub state: ConnectionState,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct BreakerLabels {
    pub relay: String,
    pub state: BreakerState,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct RelayLabels {
    pub relay: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct RestartLabels {
    pub actor: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct QuotaLabels {
    pub who: String,
    pub limit: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct KeyConflictLabels {
    pub who: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct RefusalLabels {
    pub door: &'static str,
    pub reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ActLabels {
    pub act: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct FeedbackLabels {
    pub by: String,
    pub result: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ReaderLabels {
    pub reader: String,
}

#[cfg(feature = "notify")]
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct WebhookMessageLabels {
    pub webhook: String,
    pub result: String,
}

#[cfg(feature = "notify")]
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct WebhookLabels {
    pub webhook: String,
}

/// What an open connection to a relay is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum ConnectionState {
    /// Mail is sent over it.
    Busy,
    /// It is kept for the next mail.
    Idle,
}

impl ConnectionState {
    fn as_str(self) -> &'static str {
        match self {
            ConnectionState::Busy => "busy",
            ConnectionState::Idle => "idle",
        }
    }
}

/// Encodes a label's value by its name: the derived form would write `InDoubt` for `in_doubt`.
macro_rules! encode_by_name {
    ($($named:ty),*) => {
        $(impl EncodeLabelValue for $named {
            fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
                EncodeLabelValue::encode(&self.as_str(), encoder)
            }
        })*
    };
}

encode_by_name!(
    AttemptClass,
    BreakerState,
    ConnectionState,
    DeliveryResult,
    Priority,
    State
);

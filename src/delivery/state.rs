//! The states of a delivery: as it is stored ([`Stage`]), as users see it ([`State`]), and for a
//! whole mail ([`MailState`]).

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::mail::{Timestamp, UnknownName};

/// The state of a delivery, as it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stage {
    /// It waits until `due`, or after that for a free sender.
    Pending {
        /// The earliest time of the next attempt.
        due: Timestamp,
    },
    /// An at-most-once delivery whose final dot may have been sent. After a crash it is dead as
    /// `in_doubt`.
    Committing {
        /// When it was due.
        due: Timestamp,
    },
    /// The relay accepted it.
    Delivered {
        /// When.
        at: Timestamp,
    },
    /// It failed for good.
    Dead {
        /// When.
        at: Timestamp,
        /// Why.
        reason: DeadReason,
    },
    /// A user cancelled it.
    Cancelled {
        /// When.
        at: Timestamp,
    },
}

impl Stage {
    /// When it was finished; `None` if it is not.
    pub fn finished_at(&self) -> Option<Timestamp> {
        match *self {
            Stage::Pending { .. } | Stage::Committing { .. } => None,
            Stage::Delivered { at } | Stage::Dead { at, .. } | Stage::Cancelled { at } => Some(at),
        }
    }

    /// When it is due; `None` if it is finished.
    pub fn due(&self) -> Option<Timestamp> {
        match *self {
            Stage::Pending { due } | Stage::Committing { due } => Some(due),
            _ => None,
        }
    }
}

/// Why a delivery failed for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum DeadReason {
    /// A server refused it for good (5yz).
    Rejected,
    /// It was attempted as often as the policy allows.
    Exhausted,
    /// It was not delivered in time.
    Expired,
    /// At-most-once mail that may or may not have been accepted.
    InDoubt,
    /// Its sender crashed twice while sending it.
    Poisoned,
    /// Its stored record could not be read.
    Quarantined,
    /// The recipient is on the suppression list: it bounced, complained, unsubscribed, or was added
    /// by a user.
    Suppressed,
}

impl DeadReason {
    /// Its name in JSON and in logs.
    pub fn as_str(self) -> &'static str {
        match self {
            DeadReason::Rejected => "rejected",
            DeadReason::Exhausted => "exhausted",
            DeadReason::Expired => "expired",
            DeadReason::InDoubt => "in_doubt",
            DeadReason::Poisoned => "poisoned",
            DeadReason::Quarantined => "quarantined",
            DeadReason::Suppressed => "suppressed",
        }
    }
}

impl fmt::Display for DeadReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The state of one delivery, as users see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Not attempted yet, and not due.
    Scheduled,
    /// Due, and waiting for a sender.
    Queued,
    /// Held by a sender.
    Sending,
    /// A relay accepted it.
    Delivered,
    /// Attempted, and to be attempted again later.
    Deferred,
    /// Failed for good.
    Dead,
    /// Cancelled by a user.
    Cancelled,
}

impl State {
    /// All states.
    pub const ALL: [State; 7] = [
        State::Scheduled,
        State::Queued,
        State::Sending,
        State::Delivered,
        State::Deferred,
        State::Dead,
        State::Cancelled,
    ];

    /// Its name in JSON, on the command line and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Scheduled => "scheduled",
            State::Queued => "queued",
            State::Sending => "sending",
            State::Delivered => "delivered",
            State::Deferred => "deferred",
            State::Dead => "dead",
            State::Cancelled => "cancelled",
        }
    }

    /// Whether it is finished; only a user can change that.
    pub fn is_final(self) -> bool {
        matches!(self, State::Delivered | State::Dead | State::Cancelled)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for State {
    type Err = UnknownName;
    fn from_str(text: &str) -> Result<Self, UnknownName> {
        State::ALL
            .into_iter()
            .find(|s| s.as_str() == text)
            .ok_or_else(|| {
                UnknownName::new(
                    text,
                    "scheduled, queued, sending, delivered, deferred, dead, cancelled",
                )
            })
    }
}

/// The state of a whole mail, derived from its deliveries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum MailState {
    /// No delivery is due yet, and none was attempted.
    Scheduled,
    /// At least one delivery is queued, and none is being sent.
    Queued,
    /// At least one delivery is being sent.
    Sending,
    /// All were delivered.
    Delivered,
    /// At least one is deferred, and none is queued.
    Deferred,
    /// All are dead.
    Dead,
    /// All were cancelled.
    Cancelled,
    /// All are finished, with different results.
    Partial,
}

impl MailState {
    /// The state of a mail with deliveries in these states: that of the least advanced one, or
    /// `Partial`.
    pub fn of(states: impl IntoIterator<Item = State>) -> MailState {
        let states: Vec<State> = states.into_iter().collect();
        let any = |wanted: State| states.contains(&wanted);
        let all = |wanted: State| states.iter().all(|state| *state == wanted);

        if any(State::Sending) {
            MailState::Sending
        } else if any(State::Queued) {
            MailState::Queued
        } else if any(State::Deferred) {
            MailState::Deferred
        } else if any(State::Scheduled) {
            MailState::Scheduled
        } else if all(State::Delivered) {
            MailState::Delivered
        } else if all(State::Dead) {
            MailState::Dead
        } else if all(State::Cancelled) {
            MailState::Cancelled
        } else {
            MailState::Partial
        }
    }

    /// Its name in JSON and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            MailState::Scheduled => "scheduled",
            MailState::Queued => "queued",
            MailState::Sending => "sending",
            MailState::Delivered => "delivered",
            MailState::Deferred => "deferred",
            MailState::Dead => "dead",
            MailState::Cancelled => "cancelled",
            MailState::Partial => "partial",
        }
    }

    /// Whether it is finished; only a user can change that.
    pub fn is_final(self) -> bool {
        matches!(
            self,
            MailState::Delivered | MailState::Dead | MailState::Cancelled | MailState::Partial
        )
    }
}

impl fmt::Display for MailState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

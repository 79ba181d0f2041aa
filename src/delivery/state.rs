//! The states of a delivery: as stored ([`Stage`]), as seen ([`State`]), and summed up over a mail
//! ([`MailState`]).

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::mail::{Timestamp, UnknownName};

/// Where a delivery is, as it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stage {
    /// Waits for `due`, or for a free sender afterwards.
    Pending {
        /// Not to be tried before.
        due: Timestamp,
    },
    /// An at-most-once delivery whose final dot may have been sent. Found after a crash, it is dead
    /// as `in_doubt`.
    Committing {
        /// When it was due.
        due: Timestamp,
    },
    /// The relay took it.
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
    /// A user withdrew it.
    Cancelled {
        /// When.
        at: Timestamp,
    },
}

impl Stage {
    /// When it ended; `None` while it has not.
    pub fn finished_at(&self) -> Option<Timestamp> {
        match *self {
            Stage::Pending { .. } | Stage::Committing { .. } => None,
            Stage::Delivered { at } | Stage::Dead { at, .. } | Stage::Cancelled { at } => Some(at),
        }
    }

    /// When it is due; `None` once it has ended.
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
    /// A server said 5yz: it will never take it.
    Rejected,
    /// Tried as often as the policy allows.
    Exhausted,
    /// Not delivered in time.
    Expired,
    /// An at-most-once mail of which it cannot be known whether it was taken.
    InDoubt,
    /// It took its sender down, twice.
    Poisoned,
    /// Its stored record could not be read.
    Quarantined,
    /// Its recipient is not to get mail: it bounced, complained, unsubscribed, or somebody said so.
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
    /// Not tried yet, and not to be before its time.
    Scheduled,
    /// Due, and waiting for a sender.
    Queued,
    /// In a sender's hands.
    Sending,
    /// The relay took it.
    Delivered,
    /// Tried, and to be tried again later.
    Deferred,
    /// Failed for good.
    Dead,
    /// Withdrawn.
    Cancelled,
}

impl State {
    /// Every state.
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

    /// Whether nothing follows it by itself.
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

/// The state of a whole mail, summed up from its deliveries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum MailState {
    /// No delivery is due yet, and none was tried.
    Scheduled,
    /// At least one waits for a sender, and none is being sent.
    Queued,
    /// At least one is in a sender's hands.
    Sending,
    /// Every one was taken.
    Delivered,
    /// At least one is to be tried again later; none is queued.
    Deferred,
    /// None was taken.
    Dead,
    /// Every one was withdrawn.
    Cancelled,
    /// All have ended, not all alike.
    Partial,
}

impl MailState {
    /// Sums up. A mail is as far as the delivery that is least far.
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

    /// Whether nothing follows it by itself.
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

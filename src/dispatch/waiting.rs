//! Why a delivery waits. It is computed when a record is shown, from the current state of the
//! relays.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::report::{RelayState, RelayStatus};
use crate::delivery::{Delivery, State};
use crate::mail::{Priority, Timestamp};

/// Why a delivery waits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct Waits {
    /// The reason.
    pub because: WaitReason,
    /// The relay that it waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relay: Option<String>,
    /// The reply or error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Since when it waits for this, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// Until when, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
}

/// The reasons why a delivery waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum WaitReason {
    /// It is scheduled for later.
    Scheduled,
    /// All its relays are down.
    RelayDown,
    /// All its relays are paused or down.
    Paused,
    /// Its domain rests at the relay.
    DomainRests,
    /// It is deferred until its next attempt.
    Retry,
    /// The rate limit of the relay.
    Rate,
    /// All connections of the relay are busy.
    Busy,
    /// Nothing: it is about to be sent.
    Turn,
}

impl WaitReason {
    /// Its name in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            WaitReason::Scheduled => "scheduled",
            WaitReason::RelayDown => "relay_down",
            WaitReason::Paused => "paused",
            WaitReason::DomainRests => "domain_rests",
            WaitReason::Retry => "retry",
            WaitReason::Rate => "rate",
            WaitReason::Busy => "busy",
            WaitReason::Turn => "turn",
        }
    }
}

impl PartialEq<&str> for WaitReason {
    fn eq(&self, name: &&str) -> bool {
        self.as_str() == *name
    }
}

impl fmt::Display for WaitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// For people: `the relay primary is down: connect: connection refused`.
impl fmt::Display for Waits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let relay = self.relay.as_deref().unwrap_or("?");
        match self.because {
            WaitReason::Scheduled => f.write_str("it is not to be sent yet")?,
            WaitReason::RelayDown => write!(f, "the relay {relay} is down")?,
            WaitReason::Paused => write!(f, "the relay {relay} is paused")?,
            WaitReason::DomainRests => write!(f, "its domain rests at the relay {relay}")?,
            WaitReason::Retry => f.write_str("it is tried again later")?,
            WaitReason::Rate => write!(f, "the rate of the relay {relay}")?,
            WaitReason::Busy => write!(f, "every connection of the relay {relay} is busy")?,
            WaitReason::Turn => f.write_str("it is about to be sent")?,
        }

        match &self.text {
            Some(text) => write!(f, ": {text}"),
            None => Ok(()),
        }
    }
}

/// Whether a delivery in this state can have a reason to wait.
pub(super) fn may_wait(state: State) -> bool {
    matches!(state, State::Scheduled | State::Queued | State::Deferred)
}

/// Why this delivery waits, given the current state of the relays; `None` if it does not.
pub(super) fn why(
    delivery: &Delivery,
    state: State,
    priority: Priority,
    relays: &[RelayStatus],
) -> Option<Waits> {
    if !may_wait(state) {
        return None;
    }

    let due = delivery.stage.due();
    let waits = Waits {
        because: WaitReason::Scheduled,
        relay: None,
        text: None,
        since: None,
        until: due,
    };

    if state == State::Scheduled {
        return Some(waits);
    }

    let of_route = |route: &crate::delivery::Route| -> Vec<&RelayStatus> {
        let names = route.relays();
        names
            .filter_map(|name| relays.iter().find(|relay| relay.name == name))
            .collect()
    };

    let route = of_route(&delivery.route);
    let taken = route.iter().find(|relay| relay.state == RelayState::Up);
    let at = |relay: &RelayStatus, because| Waits {
        because,
        relay: Some(relay.name.clone()),
        ..waits.clone()
    };

    let Some(taken) = taken else {
        let first = route.first()?;
        // A pause by a user is reported before an outage.
        let paused = route.iter().find(|relay| relay.state == RelayState::Paused);
        return Some(match paused {
            Some(paused) => Waits {
                until: None,
                ..at(paused, WaitReason::Paused)
            },
            None => Waits {
                text: first.last_failure.clone(),
                since: first.since,
                until: None,
                ..at(first, WaitReason::RelayDown)
            },
        });
    };

    let domain = delivery.recipient.domain();
    let mut resting = taken.resting_domains.iter();
    if let Some(rest) = resting.find(|rest| rest.domain.eq_ignore_ascii_case(domain)) {
        return Some(Waits {
            text: Some(rest.reason.clone()),
            since: rest.since,
            ..at(taken, WaitReason::DomainRests)
        });
    }

    if state == State::Deferred {
        let last = delivery.attempts.last();
        return Some(Waits {
            text: last.map(|attempt| attempt.reply_text()),
            since: last.map(|attempt| attempt.at),
            ..at(taken, WaitReason::Retry)
        });
    }

    // One connection of several is reserved for critical mail.
    let kept = usize::from(taken.connections >= 2 && priority != Priority::Critical);
    let because = match &taken.rate {
        _ if taken.busy >= taken.connections - kept => WaitReason::Busy,
        Some(_) => WaitReason::Rate,
        None => WaitReason::Turn,
    };

    Some(Waits {
        text: taken.rate.clone().filter(|_| because == WaitReason::Rate),
        until: None,
        ..at(taken, because)
    })
}

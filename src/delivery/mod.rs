//! The progress of mail. A [`Delivery`] is one recipient's progress; [`Delivery::settle`] is the
//! state machine. Pure functions; time and random numbers are arguments.
//!
//! ```text
//! scheduled ─▶ queued ─▶ sending ─▶ delivered
//!                ▲          ├─────▶ dead (rejected, exhausted, expired, in_doubt, poisoned,
//!                └ deferred ┘             quarantined, suppressed)
//!
//! cancelled: from every state that is not final, until the final dot
//! ```
//!
//! Not all of these are stored, because some follow from others: a pending delivery is `scheduled`
//! or `deferred` before it is due and `queued` after; it is `sending` while a sender holds its
//! lease.

mod attempt;
mod event;
mod fault;
mod feedback;
mod log_value;
mod settle;
mod state;
pub(crate) mod transaction;

pub(crate) use attempt::printable;
pub use attempt::{Attempt, AttemptClass, Outcome, Phase, Reply, TlsUse};
pub use event::{Event, EventKind, Requester};
pub use fault::{Circumstances, Fault, Judgement};
pub use feedback::{Feedback, FeedbackKind, KEPT_FEEDBACK, ends_an_address};
pub(crate) use log_value::LogValue;
#[cfg(feature = "server")]
pub(crate) use log_value::{escape, without_fields};
pub use settle::{SendPermission, SettleRules, Settlement};
pub use state::{DeadReason, MailState, Stage, State};

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::mail::Address;

/// How the reason of an outcome begins if the server did not answer in time.
pub(crate) const SILENCE: &str = "the server was silent";

/// How it begins if the server's reply follows.
pub(crate) const REFUSED: &str = "the server refused: ";

/// The most attempts that are kept with a delivery. The oldest are dropped, but remain counted.
pub const REMEMBERED_ATTEMPTS: usize = 20;

/// The relays that a delivery may use, in order of preference: their names joined by commas, as in
/// `primary,backup`. The remainder of a route, without its first relays, adds the first that is
/// left: `primary,backup>backup`.
///
/// It is also the name of the queue in which the delivery waits, so that the meaning of a queue
/// does not depend on the current configuration.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct Route(Arc<str>);

impl Route {
    /// The most relays of a configured route. Each of them has a queue with the route in its name,
    /// and each delivery stores that name.
    pub const MOST_RELAYS: usize = 100;

    /// A route over these relays, in order of preference.
    pub fn over<'a>(relays: impl IntoIterator<Item = &'a str>) -> Self {
        Route(relays.into_iter().collect::<Vec<_>>().join(",").into())
    }

    /// The names of its relays, in order.
    pub fn relays(&self) -> impl Iterator<Item = &str> + Clone {
        let (whole, first) = self.0.split_once('>').unwrap_or((&self.0, ""));
        whole
            .split(',')
            .filter(|name| !name.is_empty())
            .skip_while(move |name| !first.is_empty() && *name != first)
    }

    /// Whether this relay is one of them.
    pub fn has(&self, relay: &str) -> bool {
        self.relays().any(|name| name == relay)
    }

    /// The whole route of which this one may be a remainder.
    pub fn whole(&self) -> Route {
        match self.0.split_once('>') {
            Some((whole, _)) => Route(whole.into()),
            None => self.clone(),
        }
    }

    /// The remainder of the route from this relay on, which must be one of its relays.
    pub fn from_relay(&self, relay: &str) -> Route {
        let whole = self.whole();
        if whole.relays().next() == Some(relay) {
            whole
        } else {
            Route(format!("{}>{relay}", whole.0).into())
        }
    }

    /// The remainder of the route after this relay; `None` if it is the last.
    pub fn behind(&self, relay: &str) -> Option<Route> {
        let next = self.relays().skip_while(|name| *name != relay).nth(1)?;
        Some(self.from_relay(next))
    }

    /// The route and all its remainders.
    pub fn with_remainders(&self) -> impl Iterator<Item = Route> {
        self.relays().map(|relay| self.from_relay(relay))
    }

    /// The name of the route.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<String> for Route {
    fn from(joined: String) -> Self {
        Route(joined.into())
    }
}

impl From<Route> for String {
    fn from(route: Route) -> Self {
        route.0.as_ref().to_owned()
    }
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One recipient's progress.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivery {
    /// The recipient.
    pub recipient: Address,
    /// The relays that it may use.
    pub route: Route,
    /// Its state, as it is stored.
    pub stage: Stage,
    /// How many attempts were made; it decides which delay of the schedule is next.
    pub tries: u32,
    /// How many of the attempts count against `max_attempts`: those in which a server answered
    /// about this mail.
    pub counted: u32,
    /// How often its sender crashed while sending it.
    pub crashes: u32,
    /// The last attempts, the oldest first; at most [`REMEMBERED_ATTEMPTS`].
    pub attempts: Vec<Attempt>,
}

impl Delivery {
    /// A delivery without attempts.
    pub fn new(recipient: Address, route: Route, due: crate::mail::Timestamp) -> Self {
        let stage = Stage::Pending { due };
        Delivery {
            recipient,
            route,
            stage,
            tries: 0,
            counted: 0,
            crashes: 0,
            attempts: Vec::new(),
        }
    }

    /// The state that a user sees.
    pub fn state(&self, now: crate::mail::Timestamp, leased: bool) -> State {
        match self.stage {
            Stage::Pending { .. } | Stage::Committing { .. } if leased => State::Sending,
            Stage::Pending { due } if due <= now => State::Queued,
            Stage::Pending { .. } if self.tries == 0 => State::Scheduled,
            Stage::Pending { .. } => State::Deferred,
            Stage::Committing { .. } => State::Sending,
            Stage::Delivered { .. } => State::Delivered,
            Stage::Dead { .. } => State::Dead,
            Stage::Cancelled { .. } => State::Cancelled,
        }
    }

    fn remember(&mut self, attempt: Attempt) {
        if self.attempts.len() >= REMEMBERED_ATTEMPTS {
            self.attempts.remove(0);
        }
        self.attempts.push(attempt);
    }
}

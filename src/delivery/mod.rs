//! HOW FAR a mail is. One [`Delivery`] is one recipient's progress; [`Delivery::settle`] is the
//! state machine. Pure: time and chance come in as arguments.
//!
//! ```text
//! scheduled ─▶ queued ─▶ sending ─▶ delivered
//!                ▲          ├─────▶ dead (rejected, exhausted, expired, in_doubt, poisoned, quarantined)
//!                └ deferred ┘       cancelled: from every state that is not final and not past its final dot
//! ```
//!
//! Only three of these are stored as such, because the rest follow: a pending delivery is
//! `scheduled` or `deferred` before it is due and `queued` after; it is `sending` while a sender
//! holds its lease.

mod attempt;
mod settle;
mod state;

#[cfg(feature = "server")]
pub(crate) use attempt::is_harmless;
pub(crate) use attempt::printable;
pub use attempt::{Attempt, AttemptClass, Outcome, Phase, Reply};
pub use settle::{Rules, Settled};
pub use state::{DeadReason, MailState, Stage, State};

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::mail::Address;

/// The most attempts that a delivery remembers; the oldest are forgotten first, never the count.
pub const REMEMBERED_ATTEMPTS: usize = 20;

/// The relays that a delivery may take, in order, as their names joined by commas:
/// `primary,backup`.
///
/// It is also the name of the queue the delivery waits in, so that the queue's meaning does not
/// depend on a configuration that may have changed since.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct Route(Arc<str>);

impl Route {
    /// A route over these relays, the first one first.
    pub fn over<'a>(relays: impl IntoIterator<Item = &'a str>) -> Self {
        Route(relays.into_iter().collect::<Vec<_>>().join(",").into())
    }

    /// The relays' names, in order.
    pub fn relays(&self) -> impl Iterator<Item = &str> {
        self.0.split(',').filter(|name| !name.is_empty())
    }

    /// The names joined by commas.
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
    /// Who gets it.
    pub recipient: Address,
    /// The relays it may take.
    pub route: Route,
    /// Where it is.
    pub stage: Stage,
    /// How often it was tried. Decides which delay of the schedule comes next.
    pub tries: u32,
    /// How many of the tries count against `max_attempts`: those in which a server spoke about this
    /// mail.
    pub counted: u32,
    /// How often it took its sender down with it.
    pub crashes: u32,
    /// The last tries, the oldest first; at most [`REMEMBERED_ATTEMPTS`].
    pub attempts: Vec<Attempt>,
}

impl Delivery {
    /// A delivery that was not tried yet.
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

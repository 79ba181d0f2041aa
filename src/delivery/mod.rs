//! HOW FAR a mail is. One [`Delivery`] is one recipient's progress; [`Delivery::settle`] is the
//! state machine. Pure: time and chance come in as arguments.
//!
//! ```text
//! scheduled ─▶ queued ─▶ sending ─▶ delivered
//!                ▲          ├─────▶ dead (rejected, exhausted, expired, in_doubt, poisoned,
//!                └ deferred ┘             quarantined, suppressed)
//!
//! cancelled: from every state that is not final, until the final dot
//! ```
//!
//! Only three of these are stored as such, because the rest follow: a pending delivery is
//! `scheduled` or `deferred` before it is due and `queued` after; it is `sending` while a sender
//! holds its lease.

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

/// How the reason of an outcome begins where nothing was heard in time.
pub(crate) const SILENCE: &str = "the server was silent";

/// How it begins where the server's reply follows.
pub(crate) const REFUSED: &str = "the server refused: ";

/// The most attempts that a delivery remembers; the oldest are forgotten first, never the count.
pub const REMEMBERED_ATTEMPTS: usize = 20;

/// The relays that a delivery may take, in order, as their names joined by commas:
/// `primary,backup`. What is left of a route behind its first relays names the first that is left:
/// `primary,backup>backup`.
///
/// It is also the name of the queue the delivery waits in, so that the queue's meaning does not
/// depend on a configuration that may have changed since.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct Route(Arc<str>);

impl Route {
    /// The most relays of a route that is configured. It names a queue for each of them, and its
    /// name is kept with each delivery.
    pub const MOST_RELAYS: usize = 100;

    /// A route over these relays, the first one first.
    pub fn over<'a>(relays: impl IntoIterator<Item = &'a str>) -> Self {
        Route(relays.into_iter().collect::<Vec<_>>().join(",").into())
    }

    /// The relays' names, in order.
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

    /// The route that this one is, or is what is left of.
    pub fn whole(&self) -> Route {
        match self.0.split_once('>') {
            Some((whole, _)) => Route(whole.into()),
            None => self.clone(),
        }
    }

    /// What is left of it from this relay on, which must be one of its relays.
    pub fn from_relay(&self, relay: &str) -> Route {
        let whole = self.whole();
        if whole.relays().next() == Some(relay) {
            whole
        } else {
            Route(format!("{}>{relay}", whole.0).into())
        }
    }

    /// What is left of it behind this relay; `None` where it is the last.
    pub fn behind(&self, relay: &str) -> Option<Route> {
        let next = self.relays().skip_while(|name| *name != relay).nth(1)?;
        Some(self.from_relay(next))
    }

    /// The route, and what is left of it behind each of its relays.
    pub fn with_remainders(&self) -> impl Iterator<Item = Route> {
        self.relays().map(|relay| self.from_relay(relay))
    }

    /// The names joined by commas, and the first that is left.
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

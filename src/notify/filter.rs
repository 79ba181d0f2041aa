//! Which events somebody wants to be told of.

use crate::delivery::Event;

/// The events that can be asked for, as [`EventKind::as_str`](crate::EventKind::as_str) names them.
pub const EVENTS: [&str; 22] = [
    "accepted",
    "attempted",
    "deferred",
    "delivered",
    "dead",
    "cancelled",
    "retried",
    "purged",
    "bounced",
    "complained",
    "unsubscribed",
    "relay_up",
    "relay_down",
    "relay_paused",
    "relay_resumed",
    "webhook_off",
    "reloaded",
    "started",
    "stopped",
    "login_refused",
    "act",
    "suppressed",
];

/// Which events somebody wants to be told of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Their names.
    pub events: Vec<String>,
    /// Of what happens to mail, only to mail that has one of these tags; none: to all mail.
    pub tags: Vec<String>,
}

impl Filter {
    /// Whether an event is wanted.
    pub fn admits(&self, event: &Event) -> bool {
        let name = event.kind.as_str();
        if !self.events.iter().any(|wanted| wanted == name) {
            return false;
        }
        self.tags.is_empty()
            || event.mail.is_none()
            || self.tags.iter().any(|tag| event.tags.contains(tag))
    }
}

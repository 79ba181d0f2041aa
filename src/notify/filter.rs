//! Which events a webhook or an alert reports.

use crate::delivery::Event;

/// The events that can be asked for, as [`EventKind::as_str`](crate::EventKind::as_str) names them.
pub const EVENTS: [&str; 21] = [
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
];

/// Which events a webhook or an alert reports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Their names.
    pub events: Vec<String>,
    /// Of events about mail, only those of mail with one of these tags; if empty, of all mail.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_that_happens_can_be_asked_for_and_no_other() {
        let source = include_str!("../delivery/event.rs");
        let names = source.lines().filter_map(|line| {
            let (kind, name) = line
                .trim()
                .strip_prefix("EventKind::")?
                .split_once(" => \"")?;
            name.strip_suffix("\",").filter(|_| !kind.contains("Some"))
        });

        let mut named: Vec<&str> = names.collect();
        let mut known = EVENTS.to_vec();
        named.sort_unstable();
        known.sort_unstable();
        assert_eq!(named, known);
    }
}

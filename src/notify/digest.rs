//! The events since an alert's last mail: counts by kind and a few examples. Its size is bounded.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::{Deserialize, Serialize};

use crate::delivery::{Attempt, Event, EventKind};
use crate::mail::Timestamp;

/// The most kinds of events that are counted separately, and the most examples.
const MOST_KINDS: usize = 20;
const MOST_EXAMPLES: usize = 10;
/// The most characters of a kind's label and of an example.
const LABEL_CHARACTERS: usize = 120;
const EXAMPLE_CHARACTERS: usize = 220;
/// The label of all events beyond [`MOST_KINDS`].
const OTHER_KINDS: &str = "others";

/// Counted events, as they are stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Digest {
    first: Timestamp,
    last: Timestamp,
    counts: BTreeMap<String, u64>,
    examples: Vec<String>,
}

impl Digest {
    pub(super) fn new(at: Timestamp) -> Self {
        Digest {
            first: at,
            last: at,
            counts: BTreeMap::new(),
            examples: Vec::new(),
        }
    }

    /// Counts an event; `tried` is the attempt that caused it.
    pub(super) fn add(&mut self, event: &Event, tried: Option<&Attempt>) {
        self.first = self.first.min(event.at);
        self.last = self.last.max(event.at);
        let label = cut(&label(event), LABEL_CHARACTERS);
        let is_known = self.counts.contains_key(&label) || self.counts.len() < MOST_KINDS;
        let label = if is_known {
            label
        } else {
            OTHER_KINDS.to_owned()
        };

        *self.counts.entry(label).or_insert(0) += 1;
        if self.examples.len() < MOST_EXAMPLES {
            self.examples
                .push(cut(&example(event, tried), EXAMPLE_CHARACTERS));
        }
    }

    pub(super) fn total(&self) -> u64 {
        self.counts.values().sum()
    }

    /// The mail's subject.
    pub(super) fn subject(&self, host: &str) -> String {
        let mut counts: Vec<_> = self.counts.iter().collect();
        counts.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        let few = counts.iter().take(3);
        let few: Vec<String> = few
            .map(|(label, count)| format!("{count} x {label}"))
            .collect();
        let more = if counts.len() > 3 { ", ..." } else { "" };
        cut(&format!("[postrider {host}] {}{more}", few.join(", ")), 200)
    }

    /// The mail's text.
    pub(super) fn text(&self, host: &str) -> String {
        let mut text = format!("On {host}, from {} to {}:\n\n", self.first, self.last);
        for (label, count) in &self.counts {
            let _ = writeln!(text, "  {count} x {label}");
        }
        text.push_str("\nThe first of them:\n\n");
        for example in &self.examples {
            let _ = writeln!(text, "  {example}");
        }

        let more = self.total() - self.examples.len() as u64;
        if more > 0 {
            let _ = writeln!(text, "\nand {more} more.");
        }
        text.push_str(
            "\n`postrider dead list`, `postrider relay list` and `postrider tail --since \
             1h` tell more.\n",
        );
        text
    }
}

/// The label under which an event is counted.
fn label(event: &Event) -> String {
    let relay = event.relay.as_deref().unwrap_or("?");
    match &event.kind {
        EventKind::Dead { reason } => format!("dead ({reason})"),
        EventKind::RelayDown { .. } => format!("relay {relay} is down"),
        EventKind::RelayUp => format!("relay {relay} is up again"),
        EventKind::WebhookOff { webhook, .. } => format!("webhook {webhook} is off"),
        other => other.as_str().replace('_', " "),
    }
}

fn example(event: &Event, tried: Option<&Attempt>) -> String {
    let mut line = format!("{} {}", event.at, label(event));
    if let Some(mail) = event.mail {
        let _ = write!(line, " {mail}");
    }
    if let Some(recipient) = &event.recipient {
        let _ = write!(line, " to {recipient}");
    }

    match &event.kind {
        EventKind::RelayDown { reason } | EventKind::WebhookOff { reason, .. } => {
            let _ = write!(line, ": {reason}");
        }
        _ => {}
    }

    if let Some(tried) = tried {
        let code = tried
            .code
            .map(|code| format!("{code} "))
            .unwrap_or_default();
        let _ = write!(line, ": {code}{} (over {})", tried.text, tried.relay);
    }

    line
}

fn cut(text: &str, most: usize) -> String {
    let text = crate::delivery::printable(text);
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::delivery::DeadReason;

    #[test]
    fn a_digest_stays_small_whatever_happens() {
        let now = Timestamp::from_millis(1_000_000);
        let mut digest = Digest::new(now);
        for n in 0..10_000 {
            let reason = "x".repeat(500);
            let kind = match n % 2 {
                0 => EventKind::RelayDown { reason },
                _ => EventKind::Dead {
                    reason: DeadReason::Rejected,
                },
            };
            digest.add(&Event::new(now, kind).of_relay(&format!("relay{n}")), None);
        }

        assert_eq!(digest.total(), 10_000);
        assert!(serde_json::to_vec(&digest).unwrap().len() < 8 * 1024);
        assert!(digest.text("host").len() < 8 * 1024);
        assert!(digest.subject("host").chars().count() <= 203);
        assert!(digest.subject("host").contains("dead (rejected)"));
    }
}

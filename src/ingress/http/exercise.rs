//! The parsers of untrusted bytes behind the listener, for fuzz tests.

use super::feedback::provider;
use super::preview::html::{Images, Theme, cleaned};
use super::suppression_file::{SuppressionLine, lines, written};

/// Parses a body as the events of each provider.
///
/// # Panics
/// If a parsed event is empty.
pub fn provider_events(body: &[u8]) {
    provider::exercise(body);
}

/// A mail's HTML, as a preview shows it.
pub fn shown_html(html: &str) -> String {
    cleaned(html, &[], Images::None, Theme::Light)
}

/// Parses a file of suppressed addresses; returns how many it contains.
///
/// # Panics
/// If the result differs after it was written and parsed again.
pub fn suppression_file(file: &[u8]) -> usize {
    let read: Vec<SuppressionLine> = lines(file).map_while(Result::ok).flatten().collect();
    let rows = read.iter().map(|line| {
        let time = |time: Option<crate::Timestamp>| time.map(|time| time.to_string());
        [
            line.address.to_string(),
            line.reason.to_string(),
            line.list.clone().unwrap_or_default(),
            time(line.since).unwrap_or_default(),
            time(line.until).unwrap_or_default(),
            line.note.clone().unwrap_or_default(),
        ]
    });
    let again: Vec<SuppressionLine> = lines(written(rows).as_slice())
        .map_while(Result::ok)
        .flatten()
        .collect();

    assert_eq!(again, read);
    read.len()
}

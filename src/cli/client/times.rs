//! Times as people type them, and as they read them.

use std::time::Duration;

use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use crate::mail::Timestamp;

/// Reads a time: in RFC 3339, or on this machine's clock.
pub fn point_in_time(text: &str) -> Result<Timestamp, String> {
    if let Ok(at) = text.parse() {
        return Ok(at);
    }
    let local = text
        .parse::<DateTime>()
        .and_then(|at| at.to_zoned(TimeZone::system()));
    local
        .map(|at| Timestamp::from_millis(at.timestamp().as_millisecond()))
        .map_err(|_| "is no time such as 2026-01-31T12:00:00Z or \"2026-01-31 12:00\"".to_owned())
}

/// Reads a time that has passed: as [`point_in_time`] does, or as the span that it is ago, such as
/// `2h`.
pub fn past_time(text: &str) -> Result<Timestamp, String> {
    match humantime::parse_duration(text) {
        Ok(span) => {
            let millis = i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
            Ok(Timestamp::from_millis(
                Timestamp::now().as_millis().saturating_sub(millis),
            ))
        }
        Err(_) => point_in_time(text).map_err(|wrong| format!("{wrong}, and no span such as 2h")),
    }
}

/// `3 min ago`, `in 58 s`, `now`.
pub fn relative(at: Timestamp, now: Timestamp) -> String {
    match (rough(now.since(at)), rough(at.since(now))) {
        (Some(past), _) => format!("{past} ago"),
        (_, Some(future)) => format!("in {future}"),
        _ => "now".to_owned(),
    }
}

/// A span in its largest whole unit; `None` below a second.
pub fn rough(span: Duration) -> Option<String> {
    let seconds = span.as_secs();
    match seconds {
        0 => None,
        1..60 => Some(format!("{seconds} s")),
        60..3600 => Some(format!("{} min", seconds / 60)),
        3600..172_800 => Some(format!("{} h", seconds / 3600)),
        _ => Some(format!("{} days", seconds / 86_400)),
    }
}

/// A time on this machine's wall clock: `2026-01-31 12:00:00`.
pub fn local(at: Timestamp) -> String {
    zoned(at).strftime("%Y-%m-%d %H:%M:%S").to_string()
}

/// The time of day on this machine's wall clock: `12:00:00`.
pub fn time_of_day(at: Timestamp) -> String {
    zoned(at).strftime("%H:%M:%S").to_string()
}

fn zoned(at: Timestamp) -> jiff::Zoned {
    jiff::Timestamp::from_millisecond(at.as_millis())
        .unwrap_or_default()
        .to_zoned(TimeZone::system())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_time_is_absolute_local_or_ago() {
        assert_eq!(
            point_in_time("2026-01-31T13:00:00+01:00")
                .unwrap()
                .to_string(),
            "2026-01-31T12:00:00.000Z"
        );
        for typed in ["2026-01-31 12:00", "2026-01-31T12:00:00"] {
            assert_eq!(
                local(point_in_time(typed).unwrap()),
                "2026-01-31 12:00:00",
                "{typed}"
            );
        }
        assert!(point_in_time("tomorrow").is_err());
        let ago = Timestamp::now().since(past_time("2h").unwrap());
        assert!((7200..7260).contains(&ago.as_secs()));
        assert!(past_time("2 apples").is_err());
    }

    #[test]
    fn spans_are_told_in_their_largest_unit() {
        let at = Timestamp::from_millis(1_000_000_000);
        let after = |seconds| at + Duration::from_secs(seconds);
        assert_eq!(relative(at, at), "now");
        assert_eq!(relative(at, after(59)), "59 s ago");
        assert_eq!(relative(after(61), at), "in 1 min");
        assert_eq!(relative(at, after(7200)), "2 h ago");
        assert_eq!(relative(at, after(864_000)), "10 days ago");
    }
}

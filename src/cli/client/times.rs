//! Times as users type them, and as they are printed.

use std::time::Duration;

use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use crate::mail::{Timestamp, parse_span_with_unit};

/// Reads a time, past or future: in RFC 3339, on this machine's clock, or in words such as
/// `tomorrow 9:00`, `next monday`, `2 hours`.
pub fn point_in_time(text: &str) -> Result<Timestamp, String> {
    if let Ok(at) = text.parse() {
        return Ok(at);
    }

    let local = text
        .parse::<DateTime>()
        .and_then(|at| at.to_zoned(TimeZone::system()));
    if let Ok(at) = local {
        return Ok(stamp(&at));
    }

    in_words(text).ok_or_else(|| {
        "is not a time such as 2026-01-31T12:00:00Z, \"2026-01-31 12:00\" or \"tomorrow 9:00\""
            .to_owned()
    })
}

/// Reads a future time as [`point_in_time`] does, or as the span until then, such as `2h`. Words
/// for a past time, such as `9:00` at ten, are refused: the user means another time.
pub fn time_to_come(text: &str) -> Result<Timestamp, String> {
    let now = Timestamp::now();
    let counted = in_digits(text);
    // A number alone is ambiguous: an hour of the day in words, seconds as a span.
    let span = counted.trim_start_matches("in ").trim_start_matches('+');
    if let Ok(span) = parse_span_with_unit(span) {
        return Ok(now + span);
    }

    let at = point_in_time(text)?;
    let is_exact = text.parse::<Timestamp>().is_ok() || text.parse::<DateTime>().is_ok();
    if at < now && !is_exact {
        return Err(format!(
            "has passed: it is {}, and now is {}",
            local(at),
            local(now)
        ));
    }

    Ok(at)
}

/// Reads what `date --date` understands, in this machine's time zone.
fn in_words(text: &str) -> Option<Timestamp> {
    let words = text.trim();
    // An empty text, a number or a single letter is a time for `date`, but a mistake here.
    if words.len() < 2 || words.parse::<f64>().is_ok() {
        return None;
    }
    let now = jiff::Zoned::now();
    let words = words.to_lowercase().replace(" at ", " ");
    let words = in_digits(&words);
    let parsed = parse_datetime::parse_datetime_at_date(now, words).ok()?;
    parsed.as_zoned().map(stamp)
}

/// Replaces words that `date` does not know, such as `noon` and `one`, by digits.
fn in_digits(text: &str) -> String {
    let words = text.split_whitespace().map(|word| match word {
        "noon" => "12:00",
        "midnight" => "00:00",
        "a" | "an" | "one" => "1",
        word => word,
    });
    words.collect::<Vec<_>>().join(" ")
}

fn stamp(at: &jiff::Zoned) -> Timestamp {
    Timestamp::from_millis(at.timestamp().as_millisecond())
}

/// Reads a past time as [`point_in_time`] does, or as a span before now, such as `2h`.
pub fn past_time(text: &str) -> Result<Timestamp, String> {
    match parse_span_with_unit(text.strip_suffix(" ago").unwrap_or(text)) {
        Ok(span) => Ok(Timestamp::now().before(span)),
        Err(_) => point_in_time(text).map_err(|wrong| format!("{wrong}, nor a span such as 2h")),
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

        for wrong in ["", "5", "x", "never", "tomorrow 25:00"] {
            assert!(point_in_time(wrong).is_err(), "{wrong}");
        }

        let then = past_time("2h").unwrap();
        let ago = Timestamp::now().since(then);
        assert!((7200..7260).contains(&ago.as_secs()));
        assert!(past_time("2 apples").is_err());
    }

    #[test]
    fn words_name_a_time_on_this_machines_clock() {
        let now = jiff::Zoned::now();
        let day = |days: i64| {
            let day = now.date().checked_add(jiff::Span::new().days(days));
            day.unwrap().to_string()
        };

        for typed in [
            "tomorrow 9:00",
            "tomorrow at 9:00",
            "Tomorrow 09:00",
            "tomorrow 9am",
        ] {
            let expected = format!("{} 09:00:00", day(1));
            assert_eq!(local(time_to_come(typed).unwrap()), expected, "{typed}");
        }

        let friday = time_to_come("next friday 17:30").unwrap();
        let friday = zoned(friday);
        assert_eq!(friday.weekday(), jiff::civil::Weekday::Friday);
        assert_eq!((friday.hour(), friday.minute()), (17, 30));

        let noon = format!("{} 12:00:00", day(1));
        assert_eq!(local(time_to_come("tomorrow noon").unwrap()), noon);
        assert_eq!(local(time_to_come("tomorrow at noon").unwrap()), noon);
        let midnight = time_to_come("tomorrow midnight").unwrap();
        assert_eq!(local(midnight), format!("{} 00:00:00", day(1)));
        let hour = time_to_come("in an hour").unwrap().since(Timestamp::now());
        assert!((3500..3700).contains(&hour.as_secs()), "{hour:?}");

        for typed in ["2 hours", "in 2 hours", "2h", "in 2h", "+2h", "+2 hours"] {
            let ahead = time_to_come(typed).unwrap().since(Timestamp::now());
            assert!(
                (7100..7300).contains(&ahead.as_secs()),
                "{typed}: {ahead:?}"
            );
        }

        assert!(time_to_come("yesterday 9:00").is_err_and(|why| why.contains("has passed")));
        let past = past_time("yesterday 9:00").unwrap();
        assert_eq!(local(past), format!("{} 09:00:00", day(-1)));
    }

    #[test]
    fn spans_are_shown_in_their_largest_unit() {
        let at = Timestamp::from_millis(1_000_000_000);
        let after = |seconds| at + Duration::from_secs(seconds);
        assert_eq!(relative(at, at), "now");
        assert_eq!(relative(at, after(59)), "59 s ago");
        assert_eq!(relative(after(61), at), "in 1 min");
        assert_eq!(relative(at, after(7200)), "2 h ago");
        assert_eq!(relative(at, after(864_000)), "10 days ago");
    }
}

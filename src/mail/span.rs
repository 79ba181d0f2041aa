//! Parses spans of time: one grammar for the configuration, every listener, and the command line.

use std::time::Duration;

/// The description of a span, for errors.
pub const EXPECTED: &str = "a span of time such as `90s`, `5m` or `2h 30m`, or a number of seconds";

const EXPECTED_WITH_UNIT: &str = "a span of time such as `90s`, `5m` or `2h 30m`";

/// Parses a span: one or several numbers with units, such as `500ms`, `90s`, `5m`, `2h 30m`, `7d`,
/// `1w`; or a number of seconds.
///
/// # Errors
/// A description of what a span looks like.
pub fn parse_span(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    let seconds = text.parse::<f64>().ok();
    let span = match seconds {
        Some(seconds) => Duration::try_from_secs_f64(seconds).ok(),
        None => humantime::parse_duration(text).ok(),
    };
    span.ok_or_else(|| format!("is not {EXPECTED}"))
}

/// Parses a span that must have a unit, where a bare number could be mistaken for something else.
///
/// # Errors
/// The same as [`parse_span`].
pub fn parse_span_with_unit(text: &str) -> Result<Duration, String> {
    match text.trim().parse::<f64>() {
        Ok(_) => Err(format!("is not {EXPECTED_WITH_UNIT}")),
        Err(_) => parse_span(text).map_err(|_| format!("is not {EXPECTED_WITH_UNIT}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_has_a_unit_and_an_end() {
        assert_eq!(parse_span("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_span(" 2h 30m "), Ok(Duration::from_secs(9000)));
        assert_eq!(parse_span("1w"), Ok(Duration::from_secs(7 * 86_400)));
        assert_eq!(parse_span("90"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_span("0.5"), Ok(Duration::from_millis(500)));
        for wrong in ["", "-1", "-1s", "NaN", "inf", "soon", "5 parsecs"] {
            assert!(parse_span(wrong).is_err(), "{wrong}");
        }
        assert!(parse_span("1000y").is_ok(), "who asks for a time bounds it");
    }

    #[test]
    fn where_a_unit_is_needed_a_number_is_no_span() {
        let span = parse_span_with_unit(" 1h 30m");
        assert_eq!(span, Ok(Duration::from_secs(5400)));
        for wrong in ["90", " 0.5 ", "NaN", "soon"] {
            assert!(parse_span_with_unit(wrong).is_err(), "{wrong}");
        }
    }
}

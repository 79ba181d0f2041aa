//! Points in time and durations.
//!
//! A [`Timestamp`] is wall-clock time in milliseconds, because due times must survive a restart.
//! The current time is provided by a [`Clock`](crate::Clock), not by this module.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A point in wall-clock time, in whole milliseconds since the Unix epoch.
///
/// Displayed, parsed and put into JSON as RFC 3339 (`2026-01-31T12:00:00.250Z`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(
    feature = "server",
    derive(utoipa::ToSchema),
    schema(value_type = String, format = DateTime)
)]
pub struct Timestamp(i64);

/// The number of milliseconds in a day.
const DAY: i64 = 86_400_000;

impl Timestamp {
    /// The latest time: 9999-12-30, the last day that RFC 3339 can represent in every time zone.
    pub const MAX: Timestamp = Timestamp(253_402_207_200_000);

    /// The format of header fields (RFC 5322 §3.3), in UTC.
    pub fn to_rfc5322(self) -> String {
        let at = jiff::Timestamp::from_millisecond(self.as_millis()).unwrap_or_default();
        jiff::fmt::rfc2822::to_string(&at.to_zoned(jiff::tz::TimeZone::UTC))
            .expect("years 1970 to 9999 can be written")
    }

    /// The time this many milliseconds after the Unix epoch, limited to the years 1970 to 9999.
    pub fn from_millis(millis: i64) -> Self {
        Timestamp(millis.clamp(0, Self::MAX.0))
    }

    /// Milliseconds since the Unix epoch.
    pub fn as_millis(self) -> i64 {
        self.0
    }

    /// The time of the system's clock.
    pub fn now() -> Self {
        Self::from_millis(jiff::Timestamp::now().as_millisecond())
    }

    /// The day in UTC, counted from 1970-01-01.
    pub fn day(self) -> i64 {
        self.0.div_euclid(DAY)
    }

    /// The start of a day, counted from 1970-01-01.
    pub fn of_day(day: i64) -> Self {
        Timestamp::from_millis(day.saturating_mul(DAY))
    }

    /// The time `span` before this one; not before the epoch.
    pub fn before(self, span: Duration) -> Self {
        let millis = i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
        Timestamp::from_millis(self.0.saturating_sub(millis))
    }

    /// The duration from `earlier` to this time; zero if `earlier` is later.
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

impl std::ops::Add<Duration> for Timestamp {
    type Output = Timestamp;
    fn add(self, span: Duration) -> Timestamp {
        let millis = i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
        Timestamp::from_millis(self.0.saturating_add(millis))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_millisecond(self.0) {
            Ok(at) => write!(f, "{at:.3}"),
            Err(_) => write!(f, "{}ms", self.0),
        }
    }
}

impl std::str::FromStr for Timestamp {
    type Err = TimestampError;
    fn from_str(text: &str) -> Result<Self, TimestampError> {
        let at: jiff::Timestamp = text
            .trim()
            .parse()
            .map_err(|_| TimestampError(text.chars().take(64).collect()))?;
        Ok(Timestamp::from_millis(at.as_millisecond()))
    }
}

/// The text is not a point in time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{}` is not a time in RFC 3339, such as 2026-01-31T12:00:00Z or 2026-01-31T13:00:00+01:00",
    .0.escape_debug()
)]
pub struct TimestampError(String);

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        if to.is_human_readable() {
            to.collect_str(self)
        } else {
            to.serialize_i64(self.0)
        }
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        if from.is_human_readable() {
            String::deserialize(from)?
                .parse()
                .map_err(serde::de::Error::custom)
        } else {
            Ok(Timestamp::from_millis(i64::deserialize(from)?))
        }
    }
}

/// `n` seconds.
pub const fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// `n` minutes.
pub const fn minutes(n: u64) -> Duration {
    Duration::from_secs(n * 60)
}

/// `n` hours.
pub const fn hours(n: u64) -> Duration {
    Duration::from_secs(n * 3600)
}

/// `n` days of 24 hours.
pub const fn days(n: u64) -> Duration {
    Duration::from_secs(n * 86_400)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timestamp_survives_text_and_back() {
        let at: Timestamp = "2026-01-31T13:00:00.250+01:00".parse().expect("valid");
        assert_eq!(at.to_string(), "2026-01-31T12:00:00.250Z");
        assert_eq!(at.to_string().parse::<Timestamp>().expect("valid"), at);
    }

    #[test]
    fn arithmetic_stays_within_the_years_that_can_be_written() {
        assert_eq!(Timestamp::from_millis(5) + Duration::MAX, Timestamp::MAX);
        let five = Timestamp::from_millis(5);
        assert_eq!(five.before(Duration::from_millis(2)).as_millis(), 3);
        assert_eq!(five.before(Duration::MAX).as_millis(), 0);
        assert_eq!(
            Timestamp::from_millis(1).since(Timestamp::from_millis(9)),
            Duration::ZERO
        );
        assert!(Timestamp::MAX.to_string().starts_with("9999-"));
    }
}

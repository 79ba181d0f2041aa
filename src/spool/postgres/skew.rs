//! How far this machine's clock is from the database's. Leases depend on the database's clock only;
//! when mail falls due and expires depends on each node's own.

use std::fmt;
use std::time::Duration;

use parking_lot::Mutex;

use super::lease_clock::LeaseInstant;
use crate::mail::Timestamp;

/// By how much the clocks may differ before it is reported.
const TOLERATED_SKEW: Duration = Duration::from_secs(5);
/// By how much they may differ before this node does nothing: further than any time zone is from
/// another. Mail would expire that was never tried, and what is to be kept would be deleted.
const IMPOSSIBLE_SKEW: Duration = Duration::from_secs(26 * 3600);

#[derive(Default)]
pub(super) struct Skew(Mutex<KnownSkew>);

#[derive(Default)]
struct KnownSkew {
    last: Option<Measurement>,
    apart: Option<ClockSkew>,
    /// Whether this machine's clock was so far ahead that the engine's time still is: it follows a
    /// clock that is set ahead, and never goes back.
    was_far_ahead: bool,
}

/// The time by both clocks, and by one that nobody sets.
struct Measurement {
    here: Timestamp,
    database: Timestamp,
    at: LeaseInstant,
}

/// A clock that differs by too much.
#[derive(Clone, Copy)]
struct ClockSkew {
    is_ahead: bool,
    by: Duration,
}

impl Skew {
    /// Records a measurement: the database's time was read between `before` and `after` of this
    /// machine's clock.
    pub(super) fn seen(&self, before: Timestamp, database: Timestamp, after: Timestamp) {
        let apart = ClockSkew::between(before, database, after);
        let mut known = self.0.lock();
        if known.apart.is_none()
            && let Some(apart) = apart
        {
            tracing::warn!("{}", apart.sentence());
        }

        let is_far_ahead = apart.is_some_and(|apart| apart.is_far() && apart.is_ahead);
        // The database's clock may have been set back instead.
        let was_set = known.last.as_ref().is_none_or(|last| {
            let unset = last.here + last.at.elapsed();
            before.since(unset) > IMPOSSIBLE_SKEW
        });

        known.was_far_ahead |= is_far_ahead && was_set;
        known.apart = apart;
        // It may have been set before the answer came.
        known.last = Some(Measurement {
            here: before,
            database,
            at: LeaseInstant::now(),
        });
    }

    /// The warning, as a sentence.
    pub(super) fn warning(&self) -> Option<String> {
        self.0.lock().apart.map(ClockSkew::sentence)
    }

    /// Why this node must do nothing at this time of its clock, which may have been set since the
    /// last measurement.
    pub(super) fn prevents(&self, now: Timestamp) -> Option<String> {
        let known = self.0.lock();
        let last = known.last.as_ref()?;
        let database = last.database + last.at.elapsed();
        let apart = ClockSkew::between(now, database, now);
        match apart.filter(|apart| apart.is_far()) {
            Some(apart) => Some(format!(
                "this node's clock is {apart}, and one of them must be set"
            )),
            None => known.was_far_ahead.then(|| {
                "this node's clock was days ahead of the database's, and its time goes on from \
                 there; start it again"
                    .into()
            }),
        }
    }
}

impl ClockSkew {
    /// How far this machine's clock is from the database's time, if it is too far.
    fn between(before: Timestamp, database: Timestamp, after: Timestamp) -> Option<Self> {
        let (behind, ahead) = (database.since(after), before.since(database));
        let by = behind.max(ahead);
        (by > TOLERATED_SKEW).then_some(ClockSkew {
            is_ahead: ahead > behind,
            by,
        })
    }

    fn is_far(self) -> bool {
        self.by > IMPOSSIBLE_SKEW
    }

    fn sentence(self) -> String {
        let when = if self.is_ahead { "early" } else { "late" };
        format!("this node's clock is {self}: what it sends falls due and expires too {when}")
    }
}

impl fmt::Display for ClockSkew {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let by = humantime::format_duration(Duration::from_secs(self.by.as_secs()));
        let side = if self.is_ahead { "ahead of" } else { "behind" };
        write!(f, "{by} {side} the database's")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_off_is_reported_until_it_is_right() {
        let skew = Skew::default();
        let at = |seconds: i64| Timestamp::from_millis(1_000_000 + seconds * 1000);
        skew.seen(at(0), at(3), at(1));
        assert_eq!(skew.warning(), None, "near enough");
        skew.seen(at(0), at(8), at(10));
        assert_eq!(skew.warning(), None, "the answer took long");

        skew.seen(at(0), at(3600), at(0));
        let database = skew.warning().unwrap_or_default();
        assert!(
            database.contains("1h behind") && database.contains("late"),
            "{database}"
        );
        skew.seen(at(3600), at(0), at(3600));
        let database = skew.warning().unwrap_or_default();
        assert!(
            database.contains("1h ahead of") && database.contains("early"),
            "{database}"
        );

        skew.seen(at(0), at(0), at(0));
        assert_eq!(skew.warning(), None);
    }

    #[test]
    fn a_clock_that_was_set_far_away_is_known_at_once() {
        let skew = Skew::default();
        let at = |hours: i64| Timestamp::from_millis(1_000_000_000 + hours * 3_600_000);
        assert_eq!(skew.prevents(at(1000)), None, "nothing is known yet");

        skew.seen(at(0), at(0), at(0));
        assert_eq!(skew.prevents(at(14)), None, "another time zone");
        assert_eq!(skew.prevents(at(-14)), None, "another time zone");
        let why = skew.prevents(at(48)).unwrap_or_default();
        assert!(why.contains("ahead of the database's"), "{why}");
        let why = skew.prevents(at(-48)).unwrap_or_default();
        assert!(why.contains("behind the database's"), "{why}");
        assert_eq!(skew.prevents(at(0)), None, "it was set right");
    }

    #[test]
    fn a_time_that_followed_a_clock_ahead_stays_ahead_and_one_that_did_not_does_not() {
        let at = |hours: i64| Timestamp::from_millis(1_000_000_000 + hours * 3_600_000);
        let why = |skew: &Skew| skew.prevents(at(0)).unwrap_or_default();
        for (here, database, stays) in [(48, 0, true), (-48, 0, false), (0, -48, false)] {
            let skew = Skew::default();
            skew.seen(at(0), at(0), at(0));
            skew.seen(at(here), at(database), at(here));
            assert!(skew.prevents(at(here)).is_some());
            skew.seen(at(0), at(0), at(0));
            assert_eq!(why(&skew).contains("start it again"), stays, "{here}");
        }

        let skew = Skew::default();
        skew.seen(at(0), at(0), at(48));
        skew.seen(at(48), at(0), at(48));
        skew.seen(at(0), at(0), at(0));
        assert!(
            why(&skew).contains("start it again"),
            "it was set while it was asked"
        );

        let skew = Skew::default();
        skew.seen(at(48), at(0), at(48));
        skew.seen(at(0), at(0), at(0));
        assert!(why(&skew).contains("start it again"), "as it began");
    }
}

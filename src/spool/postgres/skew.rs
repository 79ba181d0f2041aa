//! How far this machine's clock is from the database's. Leases depend on the database's clock only;
//! when mail falls due and expires depends on each node's own.

use std::time::Duration;

use parking_lot::Mutex;

use crate::mail::Timestamp;

/// By how much the clocks may differ before it is reported.
const TOLERATED_SKEW: Duration = Duration::from_secs(5);

#[derive(Default)]
pub(super) struct Skew(Mutex<Option<ClockSkew>>);

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
        let (behind, ahead) = (database.since(after), before.since(database));
        let by = behind.max(ahead);
        let apart = (by > TOLERATED_SKEW).then_some(ClockSkew {
            is_ahead: ahead > behind,
            by,
        });

        let mut known = self.0.lock();
        if known.is_none()
            && let Some(apart) = apart
        {
            tracing::warn!("{}", apart.sentence());
        }
        *known = apart;
    }

    /// The warning, as a sentence.
    pub(super) fn warning(&self) -> Option<String> {
        self.0.lock().map(ClockSkew::sentence)
    }
}

impl ClockSkew {
    fn sentence(self) -> String {
        let (side, when) = match self.is_ahead {
            true => ("ahead of", "early"),
            false => ("behind", "late"),
        };
        let by = humantime::format_duration(Duration::from_secs(self.by.as_secs()));
        format!(
            "this node's clock is {by} {side} the database's: what it sends falls due and expires \
             too {when}"
        )
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
}

//! Learned limits of a relay: mails per session, recipients per transaction. A limit expires after
//! an hour, so that it is noticed when the relay has raised it.

use std::time::Duration;

use crate::mail::hours;

/// How long a learned limit is used.
const VALID_FOR: Duration = hours(1);

/// A learned limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LearnedCount {
    /// The limit.
    pub count: u32,
    /// When it was learned, in monotonic time.
    pub since: Duration,
}

/// The learned limits of one relay.
#[derive(Clone, Debug, Default)]
pub struct Limits {
    session: Option<LearnedCount>,
    transaction: Option<LearnedCount>,
    /// The number of mails after which a session was refused without a reason.
    suspected: Option<u32>,
}

impl Limits {
    /// How many mails a session may have, if a limit was learned.
    pub fn session(&self, now: Duration) -> Option<LearnedCount> {
        self.session.filter(|lesson| is_fresh(lesson, now))
    }

    /// How many recipients a transaction may have, if a limit was learned.
    pub fn transaction(&self, now: Duration) -> Option<LearnedCount> {
        self.transaction.filter(|lesson| is_fresh(lesson, now))
    }

    /// Records that a session was refused further mail after `carried` mails, and a new session was
    /// not. `said_so` if the server named this as its limit; otherwise it is used only when the
    /// same number was seen twice in a row.
    pub fn session_ended(&mut self, carried: u32, said_so: bool, now: Duration) {
        if said_so || self.suspected == Some(carried) {
            learn(&mut self.session, carried, now);
        }
        self.suspected = Some(carried);
    }

    /// Records that a transaction accepted this many recipients and refused the others.
    pub fn transaction_full(&mut self, accepted: u32, now: Duration) {
        learn(&mut self.transaction, accepted, now);
    }
}

fn learn(known: &mut Option<LearnedCount>, count: u32, now: Duration) {
    let lower = known.filter(|lesson| is_fresh(lesson, now) && lesson.count <= count);
    if lower.is_none() && count > 0 {
        *known = Some(LearnedCount { count, since: now });
    }
}

fn is_fresh(lesson: &LearnedCount, now: Duration) -> bool {
    now.saturating_sub(lesson.since) < VALID_FOR
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::minutes;

    fn count(lesson: Option<LearnedCount>) -> Option<u32> {
        lesson.map(|lesson| lesson.count)
    }

    #[test]
    fn what_was_said_is_learned_at_once_and_what_was_not_the_second_time() {
        let mut limits = Limits::default();
        limits.session_ended(20, false, Duration::ZERO);
        assert_eq!(limits.session(Duration::ZERO), None);
        limits.session_ended(20, false, Duration::ZERO);
        assert_eq!(count(limits.session(Duration::ZERO)), Some(20));
        limits.session_ended(10, true, Duration::ZERO);
        assert_eq!(count(limits.session(Duration::ZERO)), Some(10));
    }

    #[test]
    fn the_lowest_counts_until_it_is_forgotten() {
        let mut limits = Limits::default();
        limits.transaction_full(5, Duration::ZERO);
        limits.transaction_full(50, minutes(1));
        assert_eq!(count(limits.transaction(minutes(59))), Some(5));
        assert_eq!(limits.transaction(hours(1)), None);
        limits.transaction_full(50, hours(1));
        assert_eq!(count(limits.transaction(hours(1))), Some(50));
    }
}

//! What a relay has taught about how much it takes: mails in one session, recipients in one
//! transaction. A lesson has an age, and is forgotten so that a relay that has changed its mind is
//! found out.

use std::time::Duration;

use crate::mail::hours;

/// For how long a lesson is believed.
const VALID_FOR: Duration = hours(1);

/// A number that was learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LearnedCount {
    /// So many are taken.
    pub count: u32,
    /// When it was learned, in monotonic time.
    pub since: Duration,
}

/// What one relay takes.
#[derive(Clone, Debug, Default)]
pub struct Limits {
    session: Option<LearnedCount>,
    transaction: Option<LearnedCount>,
    /// After so many mails a session was refused without saying why.
    suspected: Option<u32>,
}

impl Limits {
    /// How many mails one session carries, as far as is known.
    pub fn session(&self, now: Duration) -> Option<LearnedCount> {
        self.session.filter(|lesson| is_fresh(lesson, now))
    }

    /// How many recipients one transaction takes, as far as is known.
    pub fn transaction(&self, now: Duration) -> Option<LearnedCount> {
        self.transaction.filter(|lesson| is_fresh(lesson, now))
    }

    /// A session took no more after so many mails, and a new one did. Where the server did not say
    /// that this is its limit, it is believed the second time.
    pub fn session_ended(&mut self, carried: u32, said_so: bool, now: Duration) {
        if said_so || self.suspected == Some(carried) {
            learn(&mut self.session, carried, now);
        }
        self.suspected = Some(carried);
    }

    /// A transaction took so many recipients and no more.
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

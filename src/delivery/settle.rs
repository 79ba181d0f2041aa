//! The state machine: from an outcome to what becomes of the delivery.

use std::time::Duration;

use super::{Attempt, DeadReason, Delivery, Outcome, Stage};
use crate::mail::{Guarantee, Timestamp};

/// How often a mail may take its sender down before it is dead as `poisoned`.
const MAX_CRASHES: u32 = 2;

/// What a verdict depends on besides the delivery and its outcome.
pub struct Rules<'a> {
    /// The time of the verdict.
    pub now: Timestamp,
    /// The relay that was tried.
    pub relay: &'a str,
    /// When the mail is worthless.
    pub expires_at: Timestamp,
    /// What to do in doubt.
    pub guarantee: Guarantee,
    /// How long to wait before the next try, given how often it was tried and how many of those
    /// count; `None` when the policy allows no more.
    pub retry_after: &'a dyn Fn(u32, u32) -> Option<Duration>,
}

/// What becomes of a delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settled {
    /// Nothing was learned about it: it goes back as it was.
    Untouched,
    /// It is now this, and that must be recorded.
    Changed(Delivery),
}

impl Delivery {
    /// What becomes of this delivery after `outcome`.
    pub fn settle(&self, outcome: &Outcome, rules: &Rules<'_>) -> Settled {
        let mut next = self.clone();
        match (outcome, self.stage) {
            (Outcome::Unavailable(..), Stage::Pending { .. }) => return Settled::Untouched,
            // It was recorded that it might have been sent, and it was not.
            (Outcome::Unavailable(..), Stage::Committing { due }) => {
                next.stage = Stage::Pending { due };
                return Settled::Changed(next);
            }
            _ => {}
        }
        next.tries = next.tries.saturating_add(1);
        next.remember(Attempt::new(rules.now, rules.relay, outcome));
        next.stage = next.stage_after(outcome, rules);
        Settled::Changed(next)
    }

    fn stage_after(&mut self, outcome: &Outcome, rules: &Rules<'_>) -> Stage {
        let at = rules.now;
        match outcome {
            Outcome::Delivered(_) => Stage::Delivered { at },
            Outcome::Rejected(..) => Stage::Dead {
                at,
                reason: DeadReason::Rejected,
            },
            Outcome::Withdrawn if at >= rules.expires_at => Stage::Dead {
                at,
                reason: DeadReason::Expired,
            },
            Outcome::Withdrawn => Stage::Cancelled { at },
            Outcome::InDoubt(_) | Outcome::Crashed if rules.guarantee == Guarantee::AtMostOnce => {
                Stage::Dead {
                    at,
                    reason: DeadReason::InDoubt,
                }
            }
            Outcome::Crashed => {
                self.crashes += 1;
                if self.crashes >= MAX_CRASHES {
                    Stage::Dead {
                        at,
                        reason: DeadReason::Poisoned,
                    }
                } else {
                    self.try_again(rules)
                }
            }
            Outcome::Deferred(..) | Outcome::InDoubt(_) => {
                self.counted = self.counted.saturating_add(1);
                self.try_again(rules)
            }
            // The relay broke off, not the mail: it waits like any other failure, but no attempt is
            // used up. A mail that makes a server hang up every time is ended by its expiry.
            Outcome::Lost(..) | Outcome::Unavailable(..) => self.try_again(rules),
        }
    }

    fn try_again(&self, rules: &Rules<'_>) -> Stage {
        let at = rules.now;
        match (rules.retry_after)(self.tries, self.counted) {
            None => Stage::Dead {
                at,
                reason: DeadReason::Exhausted,
            },
            // No try would come before it is worthless: that is known now, so it is said now.
            Some(wait) if at + wait >= rules.expires_at => Stage::Dead {
                at,
                reason: DeadReason::Expired,
            },
            Some(wait) => Stage::Pending { due: at + wait },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Phase, REMEMBERED_ATTEMPTS, Reply, Route};
    use super::*;

    const NOW: Timestamp = Timestamp::MAX;

    fn delivery() -> Delivery {
        let to = "ada@example.org".parse().expect("valid");
        Delivery::new(to, Route::over(["primary"]), Timestamp::from_millis(0))
    }

    fn now() -> Timestamp {
        Timestamp::from_millis(1_000_000)
    }

    fn settle(delivery: &Delivery, outcome: &Outcome, guarantee: Guarantee) -> Settled {
        let retry_after = |_: u32, counted: u32| (counted < 3).then_some(Duration::from_secs(60));
        delivery.settle(
            outcome,
            &Rules {
                now: now(),
                relay: "primary",
                expires_at: NOW,
                guarantee,
                retry_after: &retry_after,
            },
        )
    }

    fn changed(settled: Settled) -> Delivery {
        match settled {
            Settled::Changed(delivery) => delivery,
            Settled::Untouched => panic!("expected a change"),
        }
    }

    #[test]
    fn a_relay_that_is_down_costs_nothing() {
        let outcome = Outcome::Unavailable(Phase::Connect, "connection refused".into());
        assert_eq!(
            settle(&delivery(), &outcome, Guarantee::AtLeastOnce),
            Settled::Untouched
        );
        let due = Timestamp::from_millis(0);
        let marked = Delivery {
            stage: Stage::Committing { due },
            ..delivery()
        };
        assert_eq!(
            changed(settle(&marked, &outcome, Guarantee::AtMostOnce)),
            delivery(),
            "nor what was marked in vain"
        );
    }

    #[test]
    fn a_mail_deferred_by_421_does_not_lose_an_attempt() {
        let outcome = Outcome::Lost(Phase::RcptTo, "421 closing".into());
        let after = changed(settle(&delivery(), &outcome, Guarantee::AtLeastOnce));
        assert_eq!((after.tries, after.counted), (1, 0));
        assert_eq!(
            after.stage,
            Stage::Pending {
                due: now() + Duration::from_secs(60)
            }
        );
    }

    #[test]
    fn a_4yz_counts_until_the_attempts_are_used_up() {
        let outcome = Outcome::Deferred(Phase::RcptTo, Reply::new(450, "4.2.1 later"));
        let mut at = delivery();
        for counted in 1..=2 {
            at = changed(settle(&at, &outcome, Guarantee::AtLeastOnce));
            assert_eq!(at.counted, counted);
            assert!(matches!(at.stage, Stage::Pending { .. }));
        }
        let end = changed(settle(&at, &outcome, Guarantee::AtLeastOnce));
        assert_eq!(
            end.stage,
            Stage::Dead {
                at: now(),
                reason: DeadReason::Exhausted
            }
        );
        assert_eq!(end.attempts.len(), 3);
    }

    #[test]
    fn in_doubt_is_sent_again_unless_at_most_once_was_asked_for() {
        let outcome = Outcome::InDoubt("cut".into());
        let again = changed(settle(&delivery(), &outcome, Guarantee::AtLeastOnce));
        assert!(matches!(again.stage, Stage::Pending { .. }));
        let dead = changed(settle(&delivery(), &outcome, Guarantee::AtMostOnce));
        assert_eq!(
            dead.stage,
            Stage::Dead {
                at: now(),
                reason: DeadReason::InDoubt
            }
        );
    }

    #[test]
    fn what_was_broken_off_is_cancelled_unless_it_has_expired() {
        let cancelled = changed(settle(
            &delivery(),
            &Outcome::Withdrawn,
            Guarantee::AtMostOnce,
        ));
        assert_eq!(cancelled.stage, Stage::Cancelled { at: now() });
        let rules = Rules {
            now: now(),
            relay: "primary",
            expires_at: now(),
            guarantee: Guarantee::AtMostOnce,
            retry_after: &|_, _| None,
        };
        let expired = changed(delivery().settle(&Outcome::Withdrawn, &rules));
        assert_eq!(
            expired.stage,
            Stage::Dead {
                at: now(),
                reason: DeadReason::Expired
            }
        );
    }

    #[test]
    fn the_second_crash_is_poison() {
        let first = changed(settle(
            &delivery(),
            &Outcome::Crashed,
            Guarantee::AtLeastOnce,
        ));
        assert!(matches!(first.stage, Stage::Pending { .. }));
        let second = changed(settle(&first, &Outcome::Crashed, Guarantee::AtLeastOnce));
        assert_eq!(
            second.stage,
            Stage::Dead {
                at: now(),
                reason: DeadReason::Poisoned
            }
        );
    }

    #[test]
    fn a_retry_that_would_come_too_late_is_an_expiry_now() {
        let retry_after = |_: u32, _: u32| Some(Duration::from_secs(60));
        let rules = Rules {
            now: now(),
            relay: "primary",
            expires_at: now() + Duration::from_secs(59),
            guarantee: Guarantee::AtLeastOnce,
            retry_after: &retry_after,
        };
        let outcome = Outcome::Deferred(Phase::Data, Reply::new(451, "later"));
        let after = changed(delivery().settle(&outcome, &rules));
        assert_eq!(
            after.stage,
            Stage::Dead {
                at: now(),
                reason: DeadReason::Expired
            }
        );
    }

    #[test]
    fn only_the_last_attempts_are_remembered_and_the_count_is_not_forgotten() {
        let outcome = Outcome::Lost(Phase::Body, "cut".into());
        let mut at = delivery();
        for _ in 0..REMEMBERED_ATTEMPTS + 5 {
            at = changed(settle(&at, &outcome, Guarantee::AtLeastOnce));
        }
        assert_eq!(at.attempts.len(), REMEMBERED_ATTEMPTS);
        assert_eq!(at.tries as usize, REMEMBERED_ATTEMPTS + 5);
    }
}

//! The state machine: computes a delivery's next state from the outcome of an attempt.

use std::time::Duration;

use super::{
    Attempt, DeadReason, Delivery, Fault, Outcome, Phase, REMEMBERED_ATTEMPTS, Stage, TlsUse,
};
use crate::mail::{Guarantee, Timestamp};

/// After this many crashes of a sender over one mail, the delivery is dead as `poisoned`.
const MAX_CRASHES: u32 = 2;
/// How long a relay that detects repeated mail is trusted to do so: somewhat less than the day that
/// providers promise.
const RECOGNIZED_FOR: Duration = Duration::from_secs(20 * 60 * 60);

/// What the next state depends on, besides the delivery and the outcome.
#[derive(Clone, Copy)]
pub struct SettleRules<'a> {
    /// The time of the outcome.
    pub now: Timestamp,
    /// The relay that was tried.
    pub relay: &'a str,
    /// How the connection to it was secured.
    pub tls: Option<&'a TlsUse>,
    /// When the mail expires.
    pub expires_at: Timestamp,
    /// Whether to send again if the mail may have been delivered.
    pub guarantee: Guarantee,
    /// How long to wait before the next attempt, given how many attempts there were and how many of
    /// them count; `None` if the policy allows no more.
    pub retry_after: &'a dyn Fn(u32, u32) -> Option<Duration>,
}

/// What an outcome does to a delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settlement {
    /// Nothing was learned about it: it returns to the queue unchanged.
    Untouched,
    /// This is its new state, which must be recorded.
    Changed(Delivery),
}

/// Whether an at-most-once delivery may be sent to a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendPermission {
    /// Yes.
    Yes,
    /// Only to another relay, the one that may already have it.
    Elsewhere,
    /// To none: some relay may have it, and would not detect the repetition any more.
    Never,
}

impl Delivery {
    /// The next state of this delivery after `outcome`; `fault` is its cause.
    pub fn settle(&self, outcome: &Outcome, fault: Fault, rules: &SettleRules<'_>) -> Settlement {
        if says_nothing(outcome, fault) {
            return match self.stage {
                // The relay was asked and refused. This mail may be the cause, and would be tried
                // first forever: it goes behind the others that wait.
                Stage::Pending { due } | Stage::Committing { due } if was_asked(outcome) => {
                    Settlement::Changed(Delivery {
                        stage: Stage::Pending {
                            due: due.max(rules.now),
                        },
                        ..self.clone()
                    })
                }
                // The mark that it may have been sent turned out to be needless.
                Stage::Committing { due } => Settlement::Changed(Delivery {
                    stage: Stage::Pending { due },
                    ..self.clone()
                }),
                _ => Settlement::Untouched,
            };
        }

        let mut next = self.clone();
        next.tries = next.tries.saturating_add(1);
        next.remember(Attempt::new(rules.now, rules.relay, rules.tls, outcome));
        next.stage = next.stage_after(outcome, fault, rules);
        Settlement::Changed(next)
    }

    /// Whether at-most-once mail may be sent to this relay. If a relay that detects repetitions may
    /// have accepted it, only that relay may be tried again, and only for a limited time.
    pub fn may_send_once(&self, relay: &str, now: Timestamp) -> SendPermission {
        let mut since_queued = self.attempts.iter().rev().take(self.tries as usize);
        let is_doubtful =
            |attempt: &&Attempt| attempt.phase == Phase::FinalDot && attempt.code.is_none();
        let Some(first) = since_queued.rfind(is_doubtful) else {
            return SendPermission::Yes;
        };

        let is_forgotten = self.tries as usize > REMEMBERED_ATTEMPTS;
        if is_forgotten || now >= first.at + RECOGNIZED_FOR {
            SendPermission::Never
        } else if first.relay == relay {
            SendPermission::Yes
        } else {
            SendPermission::Elsewhere
        }
    }

    fn stage_after(&mut self, outcome: &Outcome, fault: Fault, rules: &SettleRules<'_>) -> Stage {
        let at = rules.now;
        match (outcome, fault) {
            (Outcome::Delivered(_), _) => Stage::Delivered { at },
            (Outcome::Withdrawn, _) if at >= rules.expires_at => Stage::Dead {
                at,
                reason: DeadReason::Expired,
            },
            (Outcome::Withdrawn, _) => Stage::Cancelled { at },
            (Outcome::InDoubt(_) | Outcome::Crashed, _)
                if rules.guarantee == Guarantee::AtMostOnce =>
            {
                Stage::Dead {
                    at,
                    reason: DeadReason::InDoubt,
                }
            }
            (Outcome::Crashed, _) => {
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
            (Outcome::Rejected(Phase::Local, _), _) => self.ask_the_next_relay(rules),
            (Outcome::Rejected(..), Fault::Mail) => Stage::Dead {
                at,
                reason: DeadReason::Rejected,
            },
            // The relay may be the cause, so another one may take it.
            (Outcome::Rejected(..) | Outcome::Deferred(..), Fault::Relay | Fault::Unclear) => {
                self.take_the_next_relay(rules)
            }
            (Outcome::Deferred(..), Fault::Mail) | (Outcome::InDoubt(_), _) => {
                self.counted = self.counted.saturating_add(1);
                self.try_again(rules)
            }
            // The mail is not the cause, so no attempt is counted, but it waits like after any
            // failure. A mail that makes a server hang up every time is ended by its expiry.
            _ => self.try_again(rules),
        }
    }

    /// This relay announces limits that the message exceeds. Another relay of the route may take
    /// it; once all have been asked, that is final.
    fn ask_the_next_relay(&mut self, rules: &SettleRules<'_>) -> Stage {
        let since_queued = self.tries as usize;
        let refused: Vec<&str> = self
            .attempts
            .iter()
            .rev()
            .take(since_queued)
            .filter(|attempt| attempt.phase == Phase::Local && attempt.code.is_some())
            .map(|attempt| attempt.relay.as_str())
            .collect();

        let whole = self.route.whole();
        let mut left = whole.relays().filter(|relay| !refused.contains(relay));
        if left.clone().next().is_none() {
            return Stage::Dead {
                at: rules.now,
                reason: DeadReason::Rejected,
            };
        }

        let behind = whole.behind(rules.relay);
        match left.find(|relay| behind.as_ref().is_some_and(|rest| rest.has(relay))) {
            Some(relay) => {
                self.route = whole.from_relay(relay);
                Stage::Pending { due: rules.now }
            }
            // Only earlier relays are left, which are down: they are asked once they are up.
            None => {
                self.route = self.route.whole();
                self.try_again(rules)
            }
        }
    }

    /// This relay seems to refuse all our mail: the route's next relay is asked at once. After the
    /// last one the delivery waits, and no attempt is counted.
    fn take_the_next_relay(&mut self, rules: &SettleRules<'_>) -> Stage {
        match self.route.behind(rules.relay) {
            Some(rest) => {
                self.route = rest;
                Stage::Pending { due: rules.now }
            }
            None => self.try_again(rules),
        }
    }

    /// The delivery while its domain rests at `relay`: it uses the route's next relay at once, or
    /// waits until the end of the rest.
    pub fn while_domain_rests(&self, relay: &str, until: Timestamp) -> Delivery {
        let mut held = self.clone();
        let due = match held.stage {
            Stage::Pending { due } | Stage::Committing { due } => due,
            _ => return held,
        };

        match held.route.behind(relay) {
            Some(rest) => {
                held.route = rest;
                held.stage = Stage::Pending { due };
            }
            None => {
                held.route = held.route.whole();
                held.stage = Stage::Pending { due: until };
                // So that it counts as deferred, not as scheduled by a user.
                held.tries = held.tries.max(1);
            }
        }

        held
    }

    fn try_again(&mut self, rules: &SettleRules<'_>) -> Stage {
        let at = rules.now;
        let is_refused_here =
            |attempt: &Attempt| attempt.phase == Phase::Local && attempt.code.is_some();
        if !self.attempts.iter().any(is_refused_here) {
            // The first relays may be up again.
            self.route = self.route.whole();
        }

        match (rules.retry_after)(self.tries, self.counted) {
            None => Stage::Dead {
                at,
                reason: DeadReason::Exhausted,
            },
            // It would expire before the next attempt, so it ends now.
            Some(wait) if at + wait >= rules.expires_at => Stage::Dead {
                at,
                reason: DeadReason::Expired,
            },
            Some(wait) => Stage::Pending { due: at + wait },
        }
    }
}

/// Whether the relay was asked about the mail.
fn was_asked(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Unavailable(phase, _)
        | Outcome::Deferred(phase, _)
        | Outcome::Rejected(phase, _) => *phase == Phase::MailFrom,
        _ => false,
    }
}

/// Whether nothing was learned about the mail: the relay was not asked about it, or its answer was
/// not about this mail.
fn says_nothing(outcome: &Outcome, fault: Fault) -> bool {
    match outcome {
        // The connection seems to have ended because of this mail.
        Outcome::Unavailable(..) if matches!(fault, Fault::Mail | Fault::Unclear) => false,
        Outcome::Unavailable(..) => true,
        Outcome::Deferred(phase, _) | Outcome::Rejected(phase, _) | Outcome::Lost(phase, _) => {
            match fault {
                Fault::Session | Fault::Transaction => true,
                Fault::Relay => *phase < Phase::RcptTo,
                _ => false,
            }
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Circumstances, Phase, Reply, Route};
    use super::*;

    const NOW: Timestamp = Timestamp::MAX;

    fn delivery() -> Delivery {
        let to = "ada@example.org".parse().expect("valid");
        Delivery::new(to, Route::over(["primary"]), Timestamp::from_millis(0))
    }

    fn now() -> Timestamp {
        Timestamp::from_millis(1_000_000)
    }

    fn settle(delivery: &Delivery, outcome: &Outcome, guarantee: Guarantee) -> Settlement {
        let retry_after = |_: u32, counted: u32| (counted < 3).then_some(Duration::from_secs(60));
        let fault = outcome.judge(Circumstances::default()).fault;

        delivery.settle(
            outcome,
            fault,
            &SettleRules {
                now: now(),
                relay: "primary",
                tls: None,
                expires_at: NOW,
                guarantee,
                retry_after: &retry_after,
            },
        )
    }

    fn rules(retry_after: &dyn Fn(u32, u32) -> Option<Duration>) -> SettleRules<'_> {
        SettleRules {
            now: now(),
            relay: "primary",
            tls: None,
            expires_at: NOW,
            guarantee: Guarantee::AtLeastOnce,
            retry_after,
        }
    }

    fn changed(settled: Settlement) -> Delivery {
        match settled {
            Settlement::Changed(delivery) => delivery,
            Settlement::Untouched => panic!("expected a change"),
        }
    }

    #[test]
    fn a_relay_that_is_down_costs_nothing() {
        let outcome = Outcome::Unavailable(Phase::Connect, "connection refused".into());
        assert_eq!(
            settle(&delivery(), &outcome, Guarantee::AtLeastOnce),
            Settlement::Untouched
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
        let rules = SettleRules {
            now: now(),
            relay: "primary",
            tls: None,
            expires_at: now(),
            guarantee: Guarantee::AtMostOnce,
            retry_after: &|_, _| None,
        };

        let expired = changed(delivery().settle(&Outcome::Withdrawn, Fault::Mail, &rules));
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
        let rules = SettleRules {
            now: now(),
            relay: "primary",
            tls: None,
            expires_at: now() + Duration::from_secs(59),
            guarantee: Guarantee::AtLeastOnce,
            retry_after: &retry_after,
        };

        let outcome = Outcome::Deferred(Phase::Data, Reply::new(451, "later"));
        let after = changed(delivery().settle(&outcome, Fault::Mail, &rules));
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

    #[test]
    fn what_is_not_the_mails_fault_costs_it_nothing() {
        let never = Outcome::Rejected(Phase::MailFrom, Reply::new(530, "5.7.0 log in first"));
        for fault in [Fault::Relay, Fault::Session, Fault::Transaction] {
            let rules = rules(&|_, _| None);
            let back = changed(delivery().settle(&never, fault, &rules));
            // It is queued behind other mail.
            let waits = Delivery {
                stage: Stage::Pending { due: now() },
                ..delivery()
            };
            assert_eq!(back, waits, "{fault:?}");
        }

        let later = Outcome::Deferred(Phase::RcptTo, Reply::new(451, "4.4.1 no answer"));
        for fault in [Fault::Destination, Fault::Unclear] {
            let after = delivery().settle(&later, fault, &rules(&|_, _| Some(Duration::ZERO)));
            assert_eq!(changed(after).counted, 0, "{fault:?}");
        }
    }

    #[test]
    fn a_message_that_one_relay_cannot_take_is_refused_when_none_can() {
        let too_large = Outcome::Rejected(Phase::Local, Reply::new(552, "5.3.4 too large"));
        let mut at = Delivery {
            route: Route::over(["primary", "second", "third"]),
            ..delivery()
        };

        let retry_after = |_: u32, _: u32| Some(Duration::from_secs(60));
        for (relay, route) in [
            ("primary", "primary,second,third>second"),
            ("third", "primary,second,third"),
        ] {
            let rules = SettleRules {
                relay,
                ..rules(&retry_after)
            };
            at = changed(at.settle(&too_large, Fault::Mail, &rules));
            assert_eq!(at.route.as_str(), route);
            assert_eq!(at.counted, 0);
        }

        let rules = SettleRules {
            relay: "second",
            ..rules(&retry_after)
        };

        let end = changed(at.settle(&too_large, Fault::Mail, &rules));
        assert_eq!(
            end.stage,
            Stage::Dead {
                at: now(),
                reason: DeadReason::Rejected
            }
        );
    }

    #[test]
    fn a_mail_whose_domain_rests_takes_the_next_relay_or_waits() {
        let until = now() + Duration::from_secs(1);
        let waits = delivery().while_domain_rests("primary", until);
        assert_eq!(
            (waits.stage, waits.tries),
            (Stage::Pending { due: until }, 1)
        );

        let two = Delivery {
            route: Route::over(["primary", "backup"]),
            ..delivery()
        };

        let diverted = two.while_domain_rests("primary", until);
        assert_eq!(diverted.route.relays().collect::<Vec<_>>(), ["backup"]);
        assert_eq!(diverted.stage, two.stage);

        let waits = diverted.while_domain_rests("backup", until);
        assert_eq!(waits.route, two.route);
        assert_eq!(waits.stage, Stage::Pending { due: until });
    }

    #[test]
    fn what_goes_once_and_may_be_with_one_relay_goes_to_no_other() {
        let doubt = Outcome::Lost(Phase::FinalDot, "no answer".into());
        let first = changed(settle(&delivery(), &doubt, Guarantee::AtMostOnce));
        assert!(matches!(first.stage, Stage::Pending { .. }));
        assert_eq!(first.may_send_once("primary", now()), SendPermission::Yes);
        assert_eq!(
            first.may_send_once("backup", now()),
            SendPermission::Elsewhere
        );

        let later = now() + RECOGNIZED_FOR;
        assert_eq!(first.may_send_once("primary", later), SendPermission::Never);

        // A user who retries it accepts the risk.
        let again = Delivery {
            tries: 0,
            ..first.clone()
        };
        assert_eq!(again.may_send_once("backup", later), SendPermission::Yes);

        let refused = Outcome::Deferred(Phase::FinalDot, Reply::new(451, "not now"));
        let free = changed(settle(&delivery(), &refused, Guarantee::AtMostOnce));
        assert_eq!(free.may_send_once("backup", now()), SendPermission::Yes);
    }
}

//! Domains that rest at a relay: a circuit breaker for each recipient domain.
//!
//! Mail to a resting domain is held until its next probe, each mail a little later than the one
//! before, so that not all of it is sent at once when the domain is up again. The probe is a mail
//! that did not cause the rest itself, if there is one.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use super::{Breaker, BreakerState, Streak};
use crate::delivery::Phase;
use crate::mail::{MailId, minutes};

/// The most domains that are tracked; if more fail, the relay is at fault.
const MOST_DOMAINS: usize = 1000;
/// How many of the failed mails are remembered for each domain.
const MOST_CAUSES: usize = 64;
/// The time between two mails that are held.
const SPACING: Duration = Duration::from_millis(5);
/// The longest time over which held mails are spread.
const LONGEST_SPREAD: Duration = minutes(10);
/// When a probe without a result counts as lost, and another is permitted.
const PROBE_TIMEOUT: Duration = minutes(10);

/// Whether a mail may be sent to its domain now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DomainAdmission {
    /// It may be sent.
    Go,
    /// It is held until this monotonic time.
    HoldUntil(Duration),
}

/// The resting domains of one relay, and those with recent failures.
#[derive(Clone, Debug, Default)]
pub struct Rests {
    domains: HashMap<String, DomainRest>,
}

/// The state of one domain.
#[derive(Clone, Debug, Default)]
struct DomainRest {
    breaker: Breaker,
    streak: Streak,
    causes: VecDeque<MailId>,
    /// How many other mails were held since the last probe.
    held: u32,
    probing_since: Option<Duration>,
    since: Duration,
    reason: String,
}

/// A resting domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestingDomain {
    /// The domain.
    pub domain: String,
    /// Since when it rests, in monotonic time.
    pub since: Duration,
    /// The reply or error of the last failure.
    pub reason: String,
}

impl Rests {
    /// Whether no domain is tracked.
    pub fn is_empty(&self) -> bool {
        self.domains.is_empty()
    }

    /// Whether `mail` may be sent to `domain` now.
    pub fn admits(&mut self, domain: &str, mail: MailId, now: Duration) -> DomainAdmission {
        let Some(rest) = self.domains.get_mut(&domain.to_ascii_lowercase()) else {
            return DomainAdmission::Go;
        };

        match rest.breaker.state(now) {
            BreakerState::Closed => DomainAdmission::Go,
            BreakerState::Open => rest.hold(mail, rest.breaker.probe_at().unwrap_or(now)),
            BreakerState::HalfOpen => {
                let is_probed = rest
                    .probing_since
                    .is_some_and(|since| now.saturating_sub(since) < PROBE_TIMEOUT);
                let others_wait = rest.held > 0;
                if is_probed {
                    return rest.hold(mail, now + super::breaker::FIRST_REST);
                }
                if rest.causes.contains(&mail) && others_wait {
                    // If no other mail comes, this one is the next probe.
                    rest.held = 0;
                    return DomainAdmission::HoldUntil(now + super::breaker::FIRST_REST);
                }
                rest.probing_since = Some(now);
                rest.held = 0;
                DomainAdmission::Go
            }
        }
    }

    /// Records that the domain was reached. Returns whether it was resting.
    pub fn answered(&mut self, domain: &str) -> bool {
        if self.domains.is_empty() {
            return false;
        }
        let known = self.domains.remove(&domain.to_ascii_lowercase());
        known.is_some_and(|rest| rest.breaker.probe_at().is_some())
    }

    /// Records a refusal that the recipient's domain may have caused. Returns whether the domain
    /// rests already, or enough other mails were refused before.
    pub fn is_repeated(&mut self, domain: &str, mail: MailId) -> bool {
        self.of(domain).is_some_and(|rest| {
            rest.streak.add(Phase::RcptTo, mail) || rest.breaker.probe_at().is_some()
        })
    }

    /// Records that the domain could not be reached with `mail`; `again` if other mails have shown
    /// that before, so that it rests at once. Returns whether it rests from now on.
    pub fn failed(
        &mut self,
        domain: &str,
        mail: MailId,
        reason: &str,
        again: bool,
        now: Duration,
        chance: f64,
    ) -> bool {
        let Some(rest) = self.of(domain) else {
            return false;
        };
        if rest.causes.len() == MOST_CAUSES {
            rest.causes.pop_front();
        }
        rest.causes.push_back(mail);
        rest.reason = reason.to_owned();
        rest.probing_since = None;

        let mut opened = rest.breaker.failed(now, chance);
        while again && rest.breaker.probe_at().is_none() {
            opened |= rest.breaker.failed(now, chance);
        }
        if opened {
            rest.since = now;
        }

        opened
    }

    /// The domains that rest now, sorted by name.
    pub fn resting(&self) -> Vec<RestingDomain> {
        let mut resting: Vec<RestingDomain> = self
            .domains
            .iter()
            .filter(|(_, rest)| rest.breaker.probe_at().is_some())
            .map(|(domain, rest)| RestingDomain {
                domain: domain.clone(),
                since: rest.since,
                reason: rest.reason.clone(),
            })
            .collect();
        resting.sort_by(|a, b| a.domain.cmp(&b.domain));
        resting
    }

    fn of(&mut self, domain: &str) -> Option<&mut DomainRest> {
        let domain = domain.to_ascii_lowercase();
        if self.domains.len() >= MOST_DOMAINS && !self.domains.contains_key(&domain) {
            self.domains
                .retain(|_, rest| rest.breaker.probe_at().is_some());
            if self.domains.len() >= MOST_DOMAINS {
                return None;
            }
        }
        Some(self.domains.entry(domain).or_default())
    }
}

impl DomainRest {
    fn hold(&mut self, mail: MailId, from: Duration) -> DomainAdmission {
        if !self.causes.contains(&mail) {
            self.held = self.held.saturating_add(1);
        }
        let spread = SPACING.saturating_mul(self.held).min(LONGEST_SPREAD);
        DomainAdmission::HoldUntil(from + spread)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::seconds;

    fn fail(rests: &mut Rests, mail: MailId, now: Duration) -> bool {
        rests.failed("Example.org", mail, "421 4.7.28 rate", false, now, 1.0)
    }

    fn is_held(admission: DomainAdmission) -> bool {
        matches!(admission, DomainAdmission::HoldUntil(_))
    }

    #[test]
    fn three_failures_in_a_row_let_a_domain_rest_and_no_other() {
        let mut rests = Rests::default();
        let mails: Vec<MailId> = (0..5).map(|_| MailId::generate()).collect();
        assert!(!fail(&mut rests, mails[0], seconds(0)));
        assert!(!fail(&mut rests, mails[1], seconds(0)));
        assert_eq!(
            rests.admits("example.org", mails[3], seconds(0)),
            DomainAdmission::Go
        );

        assert!(fail(&mut rests, mails[2], seconds(0)));
        assert_eq!(
            rests.admits("EXAMPLE.ORG", mails[3], seconds(0)),
            DomainAdmission::HoldUntil(seconds(1) + SPACING)
        );

        assert_eq!(
            rests.admits("example.com", mails[3], seconds(0)),
            DomainAdmission::Go
        );

        assert_eq!(rests.resting()[0].domain, "example.org");
    }

    #[test]
    fn it_is_probed_with_one_mail_that_was_not_the_cause() {
        let mut rests = Rests::default();
        let mails: Vec<MailId> = (0..6).map(|_| MailId::generate()).collect();
        (0..3).for_each(|n| _ = fail(&mut rests, mails[n], seconds(0)));
        assert!(is_held(rests.admits("example.org", mails[3], seconds(0))));
        assert!(is_held(rests.admits("example.org", mails[0], seconds(2))));
        assert_eq!(
            rests.admits("example.org", mails[3], seconds(2)),
            DomainAdmission::Go
        );

        assert!(is_held(rests.admits("example.org", mails[4], seconds(2))));
        assert!(rests.answered("example.org"));
        assert_eq!(
            rests.admits("example.org", mails[4], seconds(2)),
            DomainAdmission::Go
        );

        assert!(rests.is_empty());
    }

    #[test]
    fn a_cause_is_tried_where_nothing_else_waits() {
        let mut rests = Rests::default();
        let mail = MailId::generate();
        (0..3).for_each(|_| _ = fail(&mut rests, mail, seconds(0)));
        assert!(is_held(rests.admits("example.org", mail, seconds(0))));
        assert_eq!(
            rests.admits("example.org", mail, seconds(2)),
            DomainAdmission::Go
        );
    }
}

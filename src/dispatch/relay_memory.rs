//! What a relay has taught its senders, shared by all of them: how much it takes at once, which
//! domains rest there, and what several mails in a row have met.
//!
//! It outlives a reload, and is forgotten with the process: a restart finds out again.

use std::time::Duration;

use parking_lot::Mutex;

use crate::delivery::{Circumstances, Fault, Outcome};
use crate::mail::{Address, MailId};
use crate::policy::{Admission, Limits, RestingDomain, Rests, Streak};

#[derive(Default)]
pub(super) struct RelayMemory(Mutex<Lessons>);

#[derive(Default)]
struct Lessons {
    limits: Limits,
    rests: Rests,
    streak: Streak,
}

impl RelayMemory {
    /// How many mails one session carries, as far as is known.
    pub(super) fn session_limit(&self, now: Duration) -> Option<u32> {
        self.0.lock().limits.session(now).map(|lesson| lesson.count)
    }

    /// How many recipients one transaction takes, as far as is known.
    pub(super) fn transaction_limit(&self, now: Duration) -> Option<usize> {
        let limit = self.0.lock().limits.transaction(now);
        limit.map(|lesson| lesson.count as usize)
    }

    /// A session took no more after so many mails, and a new one did.
    pub(super) fn session_ended(&self, carried: u32, said_so: bool, now: Duration) {
        let limits = &mut self.0.lock().limits;
        limits.session_ended(carried, said_so, now);
    }

    /// A transaction took so many recipients and no more.
    pub(super) fn transaction_full(&self, accepted: usize, now: Duration) {
        let accepted = u32::try_from(accepted).unwrap_or(u32::MAX);
        self.0.lock().limits.transaction_full(accepted, now);
    }

    /// Whether no domain rests or is about to.
    pub(super) fn all_domains_answer(&self) -> bool {
        self.0.lock().rests.is_empty()
    }

    /// Whether a mail may go to this recipient now.
    pub(super) fn admits(&self, to: &Address, mail: MailId, now: Duration) -> Admission {
        self.0.lock().rests.admits(to.domain(), mail, now)
    }

    /// The domains that rest at this relay.
    pub(super) fn resting(&self) -> Vec<RestingDomain> {
        self.0.lock().rests.resting()
    }

    /// Whose fault an outcome was, in the light of what other mails have met, which is noted too.
    pub(super) fn judge(
        &self,
        outcome: &Outcome,
        circumstances: Circumstances,
        to: &Address,
        mail: MailId,
    ) -> Fault {
        let first = outcome.judge(circumstances);
        let code = match outcome {
            Outcome::Deferred(_, reply) | Outcome::Rejected(_, reply) => reply.code,
            _ => 0,
        };
        let lessons = &mut *self.0.lock();
        let is_repeated = match first.repeated {
            Some(Fault::Destination) => lessons.rests.is_repeated(to.domain(), code, mail),
            Some(_) => lessons.streak.add(code, mail),
            None => false,
        };
        if !is_repeated {
            return first.fault;
        }
        let again = Circumstances {
            is_repeated,
            ..circumstances
        };
        outcome.judge(again).fault
    }

    /// A mail fared better than those that were refused alike.
    pub(super) fn fared_better(&self, to: &Address) {
        let lessons = &mut *self.0.lock();
        lessons.streak.end();
        if lessons.rests.answered(to.domain()) {
            tracing::info!(domain = to.domain(), "the domain is reached again");
        }
    }

    /// The recipient's domain could not be reached. Returns whether it rests from now on.
    pub(super) fn unreached(
        &self,
        to: &Address,
        mail: MailId,
        reason: &str,
        now: Duration,
        chance: f64,
    ) -> bool {
        let rests = &mut self.0.lock().rests;
        rests.failed(to.domain(), mail, reason, false, now, chance)
    }
}

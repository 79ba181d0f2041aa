//! What a relay has taught its senders, shared by all of them: how much it takes at once, which
//! domains rest there, and what several mails in a row have met.
//!
//! It outlives a reload, and is forgotten with the process: a restart finds out again.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::delivery::{Circumstances, Fault, Outcome, Phase};
use crate::mail::{Address, MailId};
use crate::policy::{DomainAdmission, Limits, RestingDomain, Rests, Streak};
use crate::transport::AnnouncedLimits;

/// So many domains in a row that cannot be reached, and none that can: that is the relay.
const DOMAINS_IN_A_ROW: usize = 5;
/// Of so many mails is remembered that it was unclear whose fault their refusal was, or that the
/// relay ended a connection over them.
const REMEMBERED_MAILS: usize = 256;

#[derive(Default)]
pub(super) struct RelayMemory {
    state: Mutex<RememberedRelay>,
    open: Arc<AtomicUsize>,
}

/// Counts an open connection until it is dropped.
pub(super) struct ConnectionCount(Arc<AtomicUsize>);

impl Drop for ConnectionCount {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[derive(Default)]
struct RememberedRelay {
    limits: Limits,
    announced: AnnouncedLimits,
    rests: Rests,
    streak: Streak,
    /// The domains that could not be reached since a mail was last taken.
    unreached: Vec<String>,
    /// How many recipients' mail was taken.
    taken: u64,
    /// The mails that were refused and it was unclear whose fault that was.
    unclear: KnownMails,
    /// The mails over which the relay ended a connection and did not say why.
    ended_over: KnownMails,
}

/// Mails that met something, each with how many had been taken before.
#[derive(Default)]
struct KnownMails(VecDeque<(MailId, u64)>);

impl KnownMails {
    fn taken_before(&self, mail: MailId) -> Option<u64> {
        let mut known = self.0.iter();
        known
            .find(|(known, _)| *known == mail)
            .map(|(_, taken)| *taken)
    }

    fn add(&mut self, mail: MailId, taken: u64) {
        if self.0.len() == REMEMBERED_MAILS {
            self.0.pop_front();
        }
        self.0.push_back((mail, taken));
    }
}

impl RelayMemory {
    /// How many connections to it are open.
    pub(super) fn open_connections(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// One more is open.
    pub(super) fn opened(&self) -> ConnectionCount {
        self.open.fetch_add(1, Ordering::Relaxed);
        ConnectionCount(Arc::clone(&self.open))
    }

    /// What the server said beforehand on the newest connection; connections keep to it themselves.
    pub(super) fn announced(&self, limits: AnnouncedLimits) {
        self.state.lock().announced = limits;
    }

    /// How many mails the relay takes in one session, and how many recipients in one transaction,
    /// announced or learned.
    pub(super) fn known_limits(&self, now: Duration) -> (Option<u32>, Option<u32>) {
        let RememberedRelay {
            limits, announced, ..
        } = &*self.state.lock();
        let mails = limits.session(now).map(|lesson| lesson.count);
        let recipients = limits.transaction(now).map(|lesson| lesson.count);
        (
            mails.into_iter().chain(announced.mails).min(),
            recipients.into_iter().chain(announced.recipients).min(),
        )
    }

    /// How many mails one session carries, as far as was learned.
    pub(super) fn session_limit(&self, now: Duration) -> Option<u32> {
        self.state
            .lock()
            .limits
            .session(now)
            .map(|lesson| lesson.count)
    }

    /// How many recipients one transaction takes, as far as was learned.
    pub(super) fn transaction_limit(&self, now: Duration) -> Option<usize> {
        let limit = self.state.lock().limits.transaction(now);
        limit.map(|lesson| lesson.count as usize)
    }

    /// A session took no more after so many mails, and a new one did.
    pub(super) fn session_ended(&self, carried: u32, said_so: bool, now: Duration) {
        let limits = &mut self.state.lock().limits;
        limits.session_ended(carried, said_so, now);
    }

    /// A transaction took so many recipients and no more.
    pub(super) fn transaction_full(&self, accepted: usize, now: Duration) {
        let accepted = u32::try_from(accepted).unwrap_or(u32::MAX);
        self.state.lock().limits.transaction_full(accepted, now);
    }

    /// Whether no domain rests or is about to.
    pub(super) fn all_domains_answer(&self) -> bool {
        self.state.lock().rests.is_empty()
    }

    /// Whether a mail may go to this recipient now.
    pub(super) fn admits(&self, to: &Address, mail: MailId, now: Duration) -> DomainAdmission {
        self.state.lock().rests.admits(to.domain(), mail, now)
    }

    /// The domains that rest at this relay.
    pub(super) fn resting(&self) -> Vec<RestingDomain> {
        self.state.lock().rests.resting()
    }

    /// Whose fault an outcome was, in the light of what other mails have met, which is noted too.
    pub(super) fn judge(
        &self,
        outcome: &Outcome,
        circumstances: Circumstances,
        to: &Address,
        mail: MailId,
    ) -> Fault {
        if let Outcome::Delivered(_) = outcome {
            return Fault::Nobody;
        }
        self.state.lock().judge(outcome, circumstances, to, mail)
    }

    /// A mail was taken, and so fared better than those that were refused.
    pub(super) fn fared_better(&self, to: &Address) {
        let lessons = &mut *self.state.lock();
        lessons.taken += 1;
        lessons.streak.end();
        lessons.answered(to);
    }

    /// The relay ended a connection over this mail and did not say why. Returns whether it did so
    /// before, and has taken others since: then it is this mail's doing.
    pub(super) fn ends_over(&self, mail: MailId) -> bool {
        self.state.lock().ends_over(mail)
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
        let rests = &mut self.state.lock().rests;
        rests.failed(to.domain(), mail, reason, false, now, chance)
    }
}

impl RememberedRelay {
    fn judge(
        &mut self,
        outcome: &Outcome,
        circumstances: Circumstances,
        to: &Address,
        mail: MailId,
    ) -> Fault {
        let known = self.unclear.taken_before(mail);
        let circumstances = Circumstances {
            others_fared_better: known.is_some_and(|taken| taken < self.taken),
            ..circumstances
        };

        let first = outcome.judge(circumstances);
        let step = outcome.refused_at().unwrap_or(Phase::MailFrom);
        let is_repeated = match first.repeated {
            Some(Fault::Destination) => self.rests.is_repeated(to.domain(), mail),
            Some(_) => self.streak.add(step, mail),
            None => false,
        };

        let fault = match first.repeated {
            Some(Fault::Unclear) if is_repeated && self.streak.is_long() => Fault::Relay,
            Some(repeated) if is_repeated => repeated,
            _ => first.fault,
        };

        match fault {
            Fault::Unclear if known.is_none() => self.unclear.add(mail, self.taken),
            Fault::Relay if first.is_vague && self.ends_over(mail) => return Fault::Unclear,
            Fault::Destination if self.is_everywhere(to) => return Fault::Relay,
            // The server came to speak of this recipient or this message, and of nobody else.
            Fault::Mail if (Phase::RcptTo..=Phase::FinalDot).contains(&step) => {
                if first.repeated.is_none() {
                    self.streak.reached(step);
                }
                if first.repeated != Some(Fault::Destination) {
                    self.answered(to);
                }
            }
            _ => {}
        }

        fault
    }

    fn ends_over(&mut self, mail: MailId) -> bool {
        match self.ended_over.taken_before(mail) {
            Some(before) => before < self.taken,
            None => {
                self.ended_over.add(mail, self.taken);
                false
            }
        }
    }

    /// This domain could not be reached either. Returns whether none can be.
    fn is_everywhere(&mut self, to: &Address) -> bool {
        if self.unreached.len() < DOMAINS_IN_A_ROW {
            let domain = to.domain().to_ascii_lowercase();
            if !self.unreached.contains(&domain) {
                self.unreached.push(domain);
            }
        }
        self.unreached.len() >= DOMAINS_IN_A_ROW
    }

    fn answered(&mut self, to: &Address) {
        self.unreached.clear();
        if self.rests.answered(to.domain()) {
            tracing::info!(domain = to.domain(), "the domain is reached again");
        }
    }
}

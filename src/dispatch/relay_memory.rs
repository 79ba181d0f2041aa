//! What was learned about a relay, shared by all its senders: its limits, the domains that rest at
//! it, and the outcomes that several mails in a row had.
//!
//! It is kept during a reload, but not across a restart, after which it is learned again.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::delivery::{Circumstances, Fault, Outcome, Phase};
use crate::mail::{Address, MailId};
use crate::policy::{DomainAdmission, Limits, RestingDomain, Rests, Streak};
use crate::transport::AnnouncedLimits;

/// If this many domains cannot be reached, and none in between can, the relay is the cause.
const DOMAINS_IN_A_ROW: usize = 5;
/// How many mails are remembered whose refusal had an unclear cause, or for which the relay ended
/// the connection.
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
    /// The domains that could not be reached since a mail was last accepted.
    unreached: Vec<String>,
    /// How many recipients were accepted.
    taken: u64,
    /// The mails whose refusal had an unclear cause.
    unclear: KnownMails,
    /// The mails for which the relay ended the connection without a reason.
    ended_over: KnownMails,
}

/// Mails, each with the number of recipients that had been accepted before.
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
    /// How many connections to the relay are open.
    pub(super) fn open_connections(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Counts a connection that was opened.
    pub(super) fn count_connection(&self) -> ConnectionCount {
        self.open.fetch_add(1, Ordering::Relaxed);
        ConnectionCount(Arc::clone(&self.open))
    }

    /// Remembers the limits that the server announced on the newest connection; connections respect
    /// them themselves.
    pub(super) fn set_announced(&self, limits: AnnouncedLimits) {
        self.state.lock().announced = limits;
    }

    /// How many mails the relay accepts in one session, and how many recipients in one transaction;
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

    /// How many mails a session may have, if a limit was learned.
    pub(super) fn session_limit(&self, now: Duration) -> Option<u32> {
        self.state
            .lock()
            .limits
            .session(now)
            .map(|lesson| lesson.count)
    }

    /// How many recipients a transaction may have, if a limit was learned.
    pub(super) fn transaction_limit(&self, now: Duration) -> Option<usize> {
        let limit = self.state.lock().limits.transaction(now);
        limit.map(|lesson| lesson.count as usize)
    }

    /// Records that a session accepted no more mail after `carried` mails, and a new session did.
    pub(super) fn session_ended(&self, carried: u32, said_so: bool, now: Duration) {
        let limits = &mut self.state.lock().limits;
        limits.session_ended(carried, said_so, now);
    }

    /// Records that a transaction accepted this many recipients and refused the others.
    pub(super) fn transaction_full(&self, accepted: usize, now: Duration) {
        let accepted = u32::try_from(accepted).unwrap_or(u32::MAX);
        self.state.lock().limits.transaction_full(accepted, now);
    }

    /// Whether no domain rests or has failed recently.
    pub(super) fn all_domains_answer(&self) -> bool {
        self.state.lock().rests.is_empty()
    }

    /// Whether a mail may be sent to this recipient now.
    pub(super) fn admits(&self, to: &Address, mail: MailId, now: Duration) -> DomainAdmission {
        self.state.lock().rests.admits(to.domain(), mail, now)
    }

    /// The domains that rest at this relay.
    pub(super) fn resting(&self) -> Vec<RestingDomain> {
        self.state.lock().rests.resting()
    }

    /// The cause of an outcome, considering the outcomes of other mails; remembers this one, too.
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

    /// Records that a mail was accepted: it was not refused like others before it.
    pub(super) fn record_accepted(&self, to: &Address) {
        let lessons = &mut *self.state.lock();
        lessons.taken += 1;
        lessons.streak.end();
        lessons.answered(to);
    }

    /// Records that the relay ended a connection over this mail without a reason. Returns whether
    /// it did so before and has accepted other mail since: then the mail is the cause.
    pub(super) fn record_end_over(&self, mail: MailId) -> bool {
        self.state.lock().record_end_over(mail)
    }

    /// Records that the recipient's domain could not be reached. Returns whether it rests from now
    /// on.
    pub(super) fn record_unreachable(
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
            Fault::Relay if first.is_vague && self.record_end_over(mail) => return Fault::Unclear,
            Fault::Destination if self.are_all_unreachable(to) => return Fault::Relay,
            // The server reached RCPT or later, and its answer is only about this recipient or
            // message.
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

    fn record_end_over(&mut self, mail: MailId) -> bool {
        match self.ended_over.taken_before(mail) {
            Some(before) => before < self.taken,
            None => {
                self.ended_over.add(mail, self.taken);
                false
            }
        }
    }

    /// Records that this domain could not be reached. Returns whether no domain can be.
    fn are_all_unreachable(&mut self, to: &Address) -> bool {
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

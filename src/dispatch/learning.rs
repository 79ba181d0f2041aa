//! Learns from the outcomes of a mail: about the relay, and about the recipients' domains.

use super::delivering::RecipientResult;
use super::sender::State;
use crate::delivery::{Fault, Outcome, Phase, REFUSED, printable};
use crate::mail::{Address, MailId};
use crate::transport::Transaction;

/// After this many hang-ups over one mail, each on a new connection and before MAIL was answered,
/// the mail counts as the cause. That is more than opens the breaker, so a relay that hangs up on
/// every mail counts as down before any mail is blamed.
const HANG_UPS_PER_MAIL: u32 = 5;
/// For how many mails hang-ups are counted.
const COUNTED_MAILS: usize = 16;

impl State {
    /// Remembers what the outcomes say about the relay and the domains. Returns the results; the
    /// cause is corrected where the mail turns out to be the cause.
    pub(super) fn learn(
        &mut self,
        mail: &Transaction,
        mut results: Vec<RecipientResult>,
    ) -> Vec<RecipientResult> {
        for (one, to) in results.iter().zip(&mail.recipients) {
            match one.fault {
                Fault::Nobody => self.memory.record_accepted(to),
                Fault::Destination => self.rest_domain(mail.mail, one, to, self.engine.chance()),
                // An error at RCPT may concern only the recipient's domain. The domain rests at
                // least as long as the relay does, so that the relay is probed with mail for other
                // domains.
                Fault::Relay if one.outcome.ended_at() == Some(Phase::RcptTo) => {
                    self.rest_domain(mail.mail, one, to, 1.0);
                }
                _ => {}
            }
        }

        if results.iter().all(|one| one.fault == Fault::Relay) {
            self.blame_mail_after_hang_ups(mail.mail, &mut results);
        }
        results
    }

    /// Records that the recipient's domain could not be reached. `chance`, from 0 to 1, spreads the
    /// probes; with 1 the domain rests longest.
    fn rest_domain(&self, mail: MailId, one: &RecipientResult, to: &Address, chance: f64) {
        let now = self.engine.clock.monotonic();
        let reason = describe(&one.outcome);
        if self
            .memory
            .record_unreachable(to, mail, &reason, now, chance)
        {
            let (relay, domain) = (&*self.relay, to.domain());
            tracing::warn!(relay, domain, reason, "the domain rests at this relay");
        }
    }

    /// A relay that hangs up at MAIL says nothing about the mail, unless it does so for this mail
    /// repeatedly. Then the mail is deferred: otherwise it would stay first in the queue, and no
    /// mail after it would be sent.
    fn blame_mail_after_hang_ups(&mut self, mail: MailId, results: &mut [RecipientResult]) {
        let is_at_mail_from = |one: &RecipientResult| match &one.outcome {
            Outcome::Unavailable(phase, _)
            | Outcome::Deferred(phase, _)
            | Outcome::Rejected(phase, _) => *phase == Phase::MailFrom,
            _ => false,
        };

        if !results.first().is_some_and(is_at_mail_from) {
            return;
        }

        let known = self.hang_ups.iter().position(|(other, _)| *other == mail);
        let count = 1 + known
            .and_then(|at| self.hang_ups.remove(at))
            .map_or(0, |(_, before)| before);
        if count < HANG_UPS_PER_MAIL {
            self.hang_ups.push_back((mail, count));
            if self.hang_ups.len() > COUNTED_MAILS {
                self.hang_ups.pop_front();
            }
            return;
        }

        for one in results {
            if let Outcome::Unavailable(phase, reason) = &one.outcome {
                one.outcome = Outcome::Lost(*phase, reason.clone());
            }
            one.fault = Fault::Unclear;
        }
    }
}

/// Whether such a result shows that the relay works: it answered about a mail.
pub(super) fn speaks_for_the_relay(fault: Fault) -> bool {
    matches!(
        fault,
        Fault::Nobody | Fault::Mail | Fault::Transaction | Fault::Destination
    )
}

/// An outcome as text for logs and events.
pub(super) fn describe(outcome: &Outcome) -> String {
    let text = match outcome {
        Outcome::Unavailable(phase, reason) | Outcome::Lost(phase, reason) => {
            format!("{phase}: {reason}")
        }
        Outcome::InDoubt(reason) => format!("final_dot: {reason}"),
        Outcome::Deferred(phase, reply) | Outcome::Rejected(phase, reply) => {
            format!("{phase}: {REFUSED}{reply}")
        }
        other => format!("{other:?}"),
    };
    // A custom transport may return any text.
    printable(&text)
}

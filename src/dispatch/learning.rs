//! What the outcomes of a mail teach about the relay and the domains behind it.

use super::delivering::RecipientResult;
use super::sender::State;
use crate::delivery::{Fault, Outcome, Phase, REFUSED, printable};
use crate::mail::MailId;
use crate::transport::Transaction;

/// So often may a relay break off over one mail, on new connections and before it has answered
/// MAIL, until it is held to be the mail's doing: more than open a breaker, so that a relay that
/// breaks off over everything is found out first.
const BREAK_OFFS_PER_MAIL: u32 = 5;
/// Of how many mails that is counted.
const COUNTED_MAILS: usize = 16;

impl State {
    /// Notes what the outcomes say of the relay and of the domains behind it.
    pub(super) fn learn(
        &mut self,
        mail: &Transaction,
        mut judged: Vec<RecipientResult>,
    ) -> Vec<RecipientResult> {
        let now = self.engine.clock.monotonic();
        for (one, to) in judged.iter().zip(&mail.recipients) {
            match one.fault {
                Fault::Nobody => self.memory.fared_better(to),
                Fault::Destination => {
                    let reason = describe(&one.outcome);
                    let chance = self.engine.chance();
                    if self.memory.unreached(to, mail.mail, &reason, now, chance) {
                        let (relay, domain) = (&*self.relay, to.domain());
                        tracing::warn!(relay, domain, reason, "the domain rests at this relay");
                    }
                }
                _ => {}
            }
        }

        if judged.iter().all(|one| one.fault == Fault::Relay) {
            self.spare_the_relay(mail.mail, &mut judged);
        }
        judged
    }

    /// What a relay that fails over this mail, before it has taken the message, says of the mail:
    /// nothing, until it has done so again and again. Then the mail waits its turn, or it would be
    /// the first for ever and none behind it would be sent.
    fn spare_the_relay(&mut self, mail: MailId, judged: &mut [RecipientResult]) {
        let is_at_mail_from = |one: &RecipientResult| match &one.outcome {
            Outcome::Unavailable(phase, _)
            | Outcome::Deferred(phase, _)
            | Outcome::Rejected(phase, _) => *phase == Phase::MailFrom,
            _ => false,
        };

        if !judged.first().is_some_and(is_at_mail_from) {
            return;
        }
        let known = self
            .turned_away
            .iter()
            .position(|(other, _)| *other == mail);

        let count = 1 + known
            .and_then(|at| self.turned_away.remove(at))
            .map_or(0, |(_, before)| before);
        if count < BREAK_OFFS_PER_MAIL {
            self.turned_away.push_back((mail, count));
            if self.turned_away.len() > COUNTED_MAILS {
                self.turned_away.pop_front();
            }
            return;
        }

        for one in judged {
            if let Outcome::Unavailable(phase, reason) = &one.outcome {
                one.outcome = Outcome::Lost(*phase, reason.clone());
            }
            one.fault = Fault::Unclear;
        }
    }
}

/// Whether the relay works: it has answered about a mail, its recipient or its message.
pub(super) fn speaks_for_the_relay(fault: Fault) -> bool {
    matches!(
        fault,
        Fault::Nobody | Fault::Mail | Fault::Transaction | Fault::Destination
    )
}

/// An outcome in words, for logs and events.
pub(super) fn describe(outcome: &Outcome) -> String {
    let told = match outcome {
        Outcome::Unavailable(phase, reason) | Outcome::Lost(phase, reason) => {
            format!("{phase}: {reason}")
        }
        Outcome::InDoubt(reason) => format!("final_dot: {reason}"),
        Outcome::Deferred(phase, reply) | Outcome::Rejected(phase, reply) => {
            format!("{phase}: {REFUSED}{reply}")
        }
        other => format!("{other:?}"),
    };
    // It goes to logs and events, and a transport may be anybody's.
    printable(&told)
}

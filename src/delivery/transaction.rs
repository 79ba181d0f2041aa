//! The circumstances of the outcomes of one transaction: what a server answers about one recipient
//! depends on what it answered about the others.

use super::{Circumstances, Outcome, Phase};

/// The circumstances of each of these outcomes of one transaction. `carried`: the number of mails
/// that the connection had carried before; `accepted`: the number of recipients that the server
/// accepted.
pub(crate) fn circumstances(
    outcomes: &[Outcome],
    carried: u32,
    accepted: usize,
) -> impl Iterator<Item = Circumstances> {
    let mut before = 0;
    outcomes.iter().map(move |outcome| {
        let has_accepted = match outcome {
            outcome if outcome.is_of_all() => accepted > 1,
            outcome if outcome.is_cause_of_hang_up() => accepted > 0,
            _ => before > 0,
        };
        before += usize::from(outcome.was_accepted());
        Circumstances {
            has_carried_mail: carried > 0,
            has_accepted,
            ..Circumstances::default()
        }
    })
}

/// How many recipients the server accepted.
pub(crate) fn accepted(outcomes: &[Outcome]) -> usize {
    outcomes.iter().filter(|one| one.was_accepted()).count()
}

impl Outcome {
    /// Whether the connection ended at this recipient's RCPT.
    pub(crate) fn is_cause_of_hang_up(&self) -> bool {
        matches!(self, Outcome::Lost(Phase::RcptTo, _))
    }

    /// Whether this outcome is the same for all recipients that were accepted: it came after them.
    pub(crate) fn is_of_all(&self) -> bool {
        self.ended_at()
            .is_some_and(|at| (Phase::Data..=Phase::FinalDot).contains(&at))
    }

    /// The step at which the server refused, or at which the connection was lost.
    pub(crate) fn ended_at(&self) -> Option<Phase> {
        match self {
            Outcome::Lost(phase, _) => Some(*phase),
            other => other.refused_at(),
        }
    }

    /// Whether the server accepted this recipient, whatever the outcome of the message.
    fn was_accepted(&self) -> bool {
        matches!(self, Outcome::Delivered(_) | Outcome::InDoubt(_)) || self.is_of_all()
    }
}

//! Counts different mails that are refused in a row while none is accepted: then the mails are not
//! the cause.

use crate::delivery::Phase;
use crate::mail::MailId;

/// How many different mails in a row make it likely that the mails are not the cause.
const STREAK_LENGTH: usize = 3;
/// How many make it certain.
const CERTAIN_LENGTH: usize = 20;

/// The mails that were refused in a row at the same step.
#[derive(Clone, Debug, Default)]
pub struct Streak {
    step: Option<Phase>,
    mails: Vec<MailId>,
}

impl Streak {
    /// Records a refusal of this mail at this step. Returns whether enough different mails were
    /// refused.
    pub fn add(&mut self, step: Phase, mail: MailId) -> bool {
        if self.step != Some(step) {
            self.step = Some(step);
            self.mails.clear();
        }
        if !self.mails.contains(&mail) {
            if self.mails.len() == CERTAIN_LENGTH {
                self.mails.remove(0);
            }
            self.mails.push(mail);
        }
        self.mails.len() >= STREAK_LENGTH
    }

    /// Whether so many were refused that only the relay can be the cause.
    pub fn is_long(&self) -> bool {
        self.mails.len() >= CERTAIN_LENGTH
    }

    /// Ends the streak, because a mail was accepted.
    pub fn end(&mut self) {
        self.mails.clear();
    }

    /// Records that a mail reached this step and was refused for a cause of its own.
    pub fn reached(&mut self, step: Phase) {
        if self.step.is_some_and(|known| known <= step) {
            self.end();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_different_mails_in_a_row_make_a_streak() {
        let mails: Vec<MailId> = (0..4).map(|_| MailId::generate()).collect();
        let mut streak = Streak::default();
        assert!(!streak.add(Phase::MailFrom, mails[0]));
        assert!(!streak.add(Phase::MailFrom, mails[0]));
        assert!(!streak.add(Phase::MailFrom, mails[1]));
        assert!(streak.add(Phase::MailFrom, mails[2]));
        assert!(streak.add(Phase::MailFrom, mails[3]));
        assert!(!streak.add(Phase::Data, mails[3]), "another step");
        streak.end();
        assert!(!streak.add(Phase::Data, mails[0]));
    }

    #[test]
    fn a_mail_that_came_as_far_ends_it_and_one_that_did_not_does_not() {
        let mails: Vec<MailId> = (0..4).map(|_| MailId::generate()).collect();
        let mut streak = Streak::default();
        for mail in &mails[..3] {
            streak.add(Phase::FinalDot, *mail);
        }
        streak.reached(Phase::RcptTo);
        assert!(streak.add(Phase::FinalDot, mails[3]));
        streak.reached(Phase::FinalDot);
        assert!(!streak.add(Phase::FinalDot, mails[3]));
    }
}

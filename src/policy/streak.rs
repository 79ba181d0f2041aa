//! Whether different mails are refused in a row, and none fares better: then it is not theirs.

use crate::delivery::Phase;
use crate::mail::MailId;

/// So many different mails in a row make it somebody else's fault.
const STREAK_LENGTH: usize = 3;
/// So many leave no doubt.
const CERTAIN_LENGTH: usize = 20;

/// The mails that were refused at the same step in a row.
#[derive(Clone, Debug, Default)]
pub struct Streak {
    step: Option<Phase>,
    mails: Vec<MailId>,
}

impl Streak {
    /// This mail was refused at this step. Returns whether enough others were before it.
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

    /// Whether so many were refused that it can be nobody's but the relay's.
    pub fn is_long(&self) -> bool {
        self.mails.len() >= CERTAIN_LENGTH
    }

    /// A mail has fared better: it was taken.
    pub fn end(&mut self) {
        self.mails.clear();
    }

    /// A mail came as far as this step, and was refused there for itself.
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

//! Whether different mails meet the same refusal in a row: then it is not theirs.

use crate::mail::MailId;

/// So many different mails in a row make it somebody else's fault.
const IN_A_ROW: usize = 3;

/// The mails that met the same in a row.
#[derive(Clone, Debug, Default)]
pub struct Streak {
    code: u16,
    mails: Vec<MailId>,
}

impl Streak {
    /// This mail has met this code. Returns whether enough others have met it before.
    pub fn add(&mut self, code: u16, mail: MailId) -> bool {
        if self.code != code {
            self.code = code;
            self.mails.clear();
        }
        if !self.mails.contains(&mail) {
            if self.mails.len() == IN_A_ROW {
                self.mails.remove(0);
            }
            self.mails.push(mail);
        }
        self.mails.len() >= IN_A_ROW
    }

    /// A mail has fared better.
    pub fn end(&mut self) {
        self.mails.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_different_mails_in_a_row_make_a_streak() {
        let mails: Vec<MailId> = (0..4).map(|_| MailId::generate()).collect();
        let mut streak = Streak::default();
        assert!(!streak.add(450, mails[0]));
        assert!(!streak.add(450, mails[0]));
        assert!(!streak.add(450, mails[1]));
        assert!(streak.add(450, mails[2]));
        assert!(streak.add(450, mails[3]));
        assert!(!streak.add(451, mails[3]), "another code is another matter");
        streak.end();
        assert!(!streak.add(451, mails[0]));
    }
}

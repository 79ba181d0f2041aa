//! The extensions that a server announces in its reply to EHLO (RFC 5321 §4.1.1.1). lettre reads
//! some of them; this reads the rest.

use crate::delivery::{Outcome, Phase, Reply};
use crate::mail::Address;
use crate::transport::{AnnouncedLimits, Transaction};

/// The extensions that Postrider uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Extensions {
    /// RFC 2920.
    pub pipelining: bool,
    /// RFC 1870: the largest message in bytes; 0 means that there is no fixed limit.
    pub size: Option<u64>,
    /// RFC 6152.
    pub eight_bit_mime: bool,
    /// RFC 6531.
    pub smtputf8: bool,
    /// RFC 3207.
    pub starttls: bool,
    /// RFC 4954: the mechanisms that Postrider supports.
    pub auth: Logins,
    /// RFC 9422.
    pub limits: AnnouncedLimits,
}

impl AnnouncedLimits {
    /// Reads one `NAME=VALUE`. A limit of 0 is ignored: it cannot be meant.
    fn add(&mut self, limit: &str) {
        let Some((name, value)) = limit.split_once('=') else {
            return;
        };
        let value = value.parse().ok().filter(|value| *value > 0);
        match name.to_ascii_uppercase().as_str() {
            "MAILMAX" => self.mails = value,
            "RCPTMAX" => self.recipients = value,
            "RCPTDOMAINMAX" => self.domains = value,
            _ => {}
        }
    }

    /// Which of these recipients fit into one transaction; `None` if all do.
    pub(super) fn part(&self, recipients: &[Address]) -> Option<Vec<bool>> {
        let (most, most_domains) = (self.recipients, self.domains);
        let most = most.map_or(usize::MAX, |most| most as usize);
        let most_domains = most_domains.map_or(usize::MAX, |most| most as usize);
        let mut domains: Vec<&str> = Vec::new();
        let mut taken = 0;

        let goes = recipients.iter().map(|to| {
            let is_known = domains
                .iter()
                .any(|one| one.eq_ignore_ascii_case(to.domain()));
            let goes = taken < most && (is_known || domains.len() < most_domains);
            if goes {
                taken += 1;
                if !is_known && most_domains < usize::MAX {
                    domains.push(to.domain());
                }
            }
            goes
        });
        let goes: Vec<bool> = goes.collect();
        goes.contains(&false).then_some(goes)
    }
}

/// The AUTH mechanisms that the server offers and Postrider supports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Logins {
    pub plain: bool,
    pub login: bool,
    pub xoauth2: bool,
}

impl Logins {
    fn add(&mut self, name: &str) {
        match name.to_ascii_uppercase().as_str() {
            "PLAIN" => self.plain = true,
            "LOGIN" => self.login = true,
            "XOAUTH2" => self.xoauth2 = true,
            _ => {}
        }
    }
}

impl Extensions {
    /// Reads the texts of an EHLO reply's lines; the first is the server's name.
    pub(super) fn read<'a>(lines: impl Iterator<Item = &'a str>) -> Self {
        let mut offered = Extensions::default();
        for line in lines.skip(1) {
            // `AUTH=LOGIN` is the form from before RFC 2554, which some servers still send.
            let mut words = line.split(|c: char| c.is_ascii_whitespace() || c == '=');

            match words
                .next()
                .unwrap_or_default()
                .to_ascii_uppercase()
                .as_str()
            {
                "PIPELINING" => offered.pipelining = true,
                "SIZE" => {
                    offered.size = Some(
                        words
                            .next()
                            .and_then(|limit| limit.parse().ok())
                            .unwrap_or(0),
                    )
                }
                "8BITMIME" => offered.eight_bit_mime = true,
                "SMTPUTF8" => offered.smtputf8 = true,
                "STARTTLS" => offered.starttls = true,
                "AUTH" => words.for_each(|name| offered.auth.add(name)),
                "LIMITS" => {
                    let limits = line.split_ascii_whitespace().skip(1);
                    limits.for_each(|limit| offered.limits.add(limit));
                }
                _ => {}
            }
        }

        offered
    }

    /// Whether the message must be converted to 7 bits for this server (RFC 6152 §3).
    pub(super) fn wants_seven_bit(&self, mail: &Transaction) -> bool {
        mail.eight_bit && !self.eight_bit_mime && !mail.message.is_ascii()
    }

    /// Whether the addresses are fine for this server, and only the header section needs SMTPUTF8.
    pub(super) fn wants_ascii_header(&self, mail: &Transaction) -> bool {
        mail.smtputf8
            && !self.smtputf8
            && mail.has_ascii_return_path()
            && mail.recipients.iter().any(Address::is_ascii)
            && !mail.has_ascii_header()
    }

    /// The mail without the recipients whose addresses need SMTPUTF8. `None` if no recipient needs
    /// it, or if nobody would be left.
    pub(super) fn without_utf8_recipients(&self, mail: &Transaction) -> Option<Transaction> {
        if self.smtputf8 || !mail.smtputf8 {
            return None;
        }
        let others = mail.recipients.iter().filter(|to| to.is_ascii());
        let others: Vec<Address> = others.cloned().collect();
        if others.is_empty() || others.len() == mail.recipients.len() {
            return None;
        }
        let rest = mail.clone().for_recipients(others);
        (!rest.smtputf8).then_some(rest)
    }

    /// The outcome of a mail that exceeds what the server announced; such a mail is not sent.
    pub(super) fn refuse(&self, mail: &Transaction) -> Option<Outcome> {
        let size = super::message::size(&mail.message);
        if let Some(limit) = self.size.filter(|limit| *limit > 0 && size > *limit) {
            let text = format!("5.3.4 the message has {size} bytes, and the server takes {limit}");
            return Some(refusal(552, &text));
        }

        if mail.smtputf8 && !self.smtputf8 {
            return Some(needs_smtputf8());
        }

        let needs_eight_bit = mail.eight_bit && !self.eight_bit_mime;
        needs_eight_bit.then(|| {
            let text = "5.6.3 the message needs 8BITMIME, which the server does not offer, and \
                        cannot be converted: part of it is signed or encrypted as it is";
            refusal(554, text)
        })
    }
}

/// The outcome of a mail whose addresses or header section need SMTPUTF8, which the server lacks.
pub(super) fn needs_smtputf8() -> Outcome {
    refusal(
        550,
        "5.6.7 the mail needs SMTPUTF8, which the server does not offer",
    )
}

/// The outcome of a recipient beyond the number that the server announced for one transaction.
pub(super) fn has_no_room() -> Outcome {
    let reply = Reply::new(452, "4.5.3 the server takes no more recipients at once");
    Outcome::Deferred(Phase::Local, reply)
}

fn refusal(code: u16, text: &str) -> Outcome {
    Outcome::Rejected(Phase::Local, Reply::new(code, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keywords_are_read_in_any_case_and_the_servers_name_is_none() {
        let read = |text: &str| Extensions::read(text.split('\n'));
        assert_eq!(read("PIPELINING.example"), Extensions::default());
        assert_eq!(read("PIPELINING\nHELP"), Extensions::default());
        let all = read("host\npipelining\nSize 1000\n8bitMIME\nSMTPUTF8\nSTARTTLS\nDSN");

        let expected = Extensions {
            pipelining: true,
            size: Some(1000),
            eight_bit_mime: true,
            smtputf8: true,
            starttls: true,
            auth: Logins::default(),
            limits: AnnouncedLimits::default(),
        };

        assert_eq!(all, expected);
        assert_eq!(read("host\nSIZE").size, Some(0));
        assert_eq!(read("host\nSIZE many").size, Some(0));
    }

    #[test]
    fn limits_are_read_and_part_the_recipients() {
        let read = |text: &str| Extensions::read(text.split('\n')).limits;
        let limits = read("host\nLIMITS RCPTMAX=3 mailmax=20 RCPTDOMAINMAX=1 NEWMAX=5 ODD");
        assert_eq!(
            (limits.recipients, limits.mails, limits.domains),
            (Some(3), Some(20), Some(1))
        );
        assert_eq!(
            read("host\nLIMITS MAILMAX=0 RCPTMAX=x"),
            AnnouncedLimits::default()
        );

        let to = |names: &[&str]| -> Vec<Address> {
            names
                .iter()
                .map(|name| name.parse().expect("valid"))
                .collect()
        };
        let mixed = to(&["a@one.example", "b@two.example", "c@ONE.example"]);
        assert_eq!(limits.part(&mixed), Some(vec![true, false, true]));
        let many = to(&["a@x.example", "b@x.example", "c@x.example", "d@x.example"]);
        assert_eq!(limits.part(&many), Some(vec![true, true, true, false]));
        assert_eq!(limits.part(&many[..3]), None);
        assert_eq!(AnnouncedLimits::default().part(&many), None);
    }

    #[test]
    fn logins_are_read_in_any_case_and_in_the_old_form() {
        let read = |text: &str| Extensions::read(text.split('\n')).auth;
        let logins = |plain, login, xoauth2| Logins {
            plain,
            login,
            xoauth2,
        };

        assert_eq!(read("host\nAUTH plain Login"), logins(true, true, false));
        assert_eq!(read("host\nauth xoauth2"), logins(false, false, true));
        assert_eq!(read("host\nAUTH=LOGIN PLAIN"), logins(true, true, false));
        assert_eq!(
            read("host\nAUTH CRAM-MD5\nAUTH= LOGIN"),
            logins(false, true, false)
        );

        assert_eq!(read("AUTH PLAIN\nAUTH"), logins(false, false, false));
    }
}

//! The replies of the listener (RFC 5321 §4.2, RFC 3463).

use std::borrow::Cow;
use std::io::Write;

use crate::Error;

/// The most characters of a reply's text, so that the line stays below the 512 octets of RFC 5321
/// §4.5.3.1.5.
const LONGEST_TEXT: usize = 480;

/// One reply of one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SmtpReply {
    pub code: u16,
    /// The enhanced status code (RFC 3463); empty where none is allowed, as in 220, 334 and 354.
    pub enhanced: &'static str,
    pub text: Cow<'static, str>,
}

impl SmtpReply {
    pub fn new(code: u16, enhanced: &'static str, text: impl Into<Cow<'static, str>>) -> Self {
        SmtpReply {
            code,
            enhanced,
            text: text.into(),
        }
    }

    /// The reply to a mail that the dispatcher has refused.
    pub fn refusal(error: &Error) -> Self {
        let text = error.to_string();
        match error {
            Error::Mail(e) if e.is_too_large() => SmtpReply::new(552, "5.3.4", text),
            Error::Mail(_) => SmtpReply::new(554, "5.6.0", text),
            Error::Full { .. } => {
                SmtpReply::new(452, "4.3.1", "the queue is full; try again later")
            }
            Error::SpoolFull { .. } => {
                SmtpReply::new(452, "4.3.1", "the spool is full; try again later")
            }
            Error::Quota { .. } => SmtpReply::new(450, "4.7.1", text),
            Error::SenderRefused { .. } => SmtpReply::new(550, "5.7.1", text),
            Error::KeyReused(_) => SmtpReply::new(554, "5.5.0", text),
            Error::NoRoute(_) => SmtpReply::new(550, "5.7.1", text),
            // The spool's path is not disclosed to clients.
            Error::Spool(_) => SmtpReply::new(
                452,
                "4.3.1",
                "the spool cannot take the mail; try again later",
            ),
            Error::Stopped(_) => SmtpReply::new(421, "4.3.2", "shutting down; try again later"),
            _ => SmtpReply::new(
                451,
                "4.3.0",
                "the mail could not be accepted; try again later",
            ),
        }
    }

    /// Whether the connection ends after it (RFC 5321 §3.8).
    pub fn closes(&self) -> bool {
        self.code == 421
    }

    /// Appends the reply's line. Whatever the text quotes, the result is one line of printable
    /// ASCII.
    pub fn write(&self, out: &mut Vec<u8>) {
        let _ = write!(out, "{} ", self.code);
        if !self.enhanced.is_empty() {
            out.extend_from_slice(self.enhanced.as_bytes());
            out.push(b' ');
        }

        let printable = |c: char| {
            if c.is_ascii_graphic() || c == ' ' {
                c as u8
            } else {
                b'?'
            }
        };

        out.extend(self.text.chars().take(LONGEST_TEXT).map(printable));
        out.extend_from_slice(b"\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MailError;

    fn line(reply: &SmtpReply) -> String {
        let mut out = Vec::new();
        reply.write(&mut out);
        String::from_utf8(out).expect("ASCII")
    }

    #[test]
    fn a_reply_is_one_printable_line_whatever_it_quotes() {
        let nasty = SmtpReply::new(
            554,
            "5.6.0",
            format!("headers.X\r\n250 2.0.0 \x1b[2J \u{202e}{}", "é".repeat(900)),
        );
        let line = line(&nasty);
        assert!(
            line.starts_with("554 5.6.0 headers.X??250 2.0.0 ?[2J ?"),
            "{line}"
        );
        assert!(line.len() <= 512 && line.ends_with("\r\n"));
        assert_eq!(line.matches(['\r', '\n']).count(), 2);
    }

    #[test]
    fn every_refusal_has_its_code() {
        let unwritable = crate::spool::SpoolError::Unwritable {
            path: "/var/spool".into(),
            reason: "disk full".into(),
        };

        let cases = [
            (Error::Full { pending: 1, max: 1 }, "452 4.3.1"),
            (Error::Mail(MailError::too_large(2, 1)), "552 5.3.4"),
            (
                Error::Mail(MailError::new("headers.Subject", "is wrong")),
                "554 5.6.0 headers.Subject: is wrong",
            ),
            (Error::NoRoute("ada@example.org".into()), "550 5.7.1"),
            (
                Error::KeyReused(crate::MailId::from_bytes([7; 16])),
                "554 5.5.0",
            ),
            (Error::Spool(unwritable), "452 4.3.1"),
            (Error::BadCursor, "451 4.3.0"),
            (Error::Stopped("draining".into()), "421 4.3.2"),
        ];

        for (error, expected) in cases {
            let line = line(&SmtpReply::refusal(&error));
            assert!(
                line.starts_with(expected) && !line.contains("/var"),
                "{error:?} gave {line}"
            );
        }
    }
}

//! Reads the header of a message that came to an address for reports and is not a report.

use mail_parser::MessageParser;

use super::{Author, is_answer, writer};
use crate::mail::has_too_many_pieces;

/// The most addresses that are read.
const MOST_ADDRESSES: usize = 20;
/// The most bytes of the header that are read.
const HEADER_BYTES: usize = 64 * 1024;

/// What the header of a message contains.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Letter {
    /// The addresses in its To field.
    pub to: Vec<String>,
    /// The decoded subject, without spaces: mail programs fold long words by inserting some.
    pub subject: String,
    /// Whether it is an automatic reply, or was sent by a server.
    pub is_answer: bool,
}

/// Reads the header of a message that is not a report.
pub fn read_letter(message: &[u8]) -> Letter {
    let bytes = &message[..message.len().min(HEADER_BYTES)];
    // A message that cannot be read counts as an automatic reply, so that it causes nothing.
    let unread = || Letter {
        is_answer: true,
        ..Letter::default()
    };
    if has_too_many_pieces(bytes) {
        return unread();
    }
    let Some(parsed) = MessageParser::default().parse_headers(bytes) else {
        return unread();
    };

    let to = parsed.to().into_iter().flat_map(|to| to.iter());
    let to = to.filter_map(|to| to.address()).take(MOST_ADDRESSES);
    let subject = parsed.subject().unwrap_or_default();

    Letter {
        to: to.map(str::to_owned).collect(),
        subject: subject.split_whitespace().collect(),
        is_answer: is_answer(&parsed) || writer(&parsed) != Author::Somebody,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_is_whole_however_it_was_broken() {
        for subject in [
            "AQAB_c-d",
            "\r\n AQAB_c-d",
            "AQAB\r\n _c-d",
            "=?utf-8?Q?AQAB?=\r\n =?utf-8?Q?=5Fc-d?=",
            "=?UTF-8?B?QVFBQl9jLWQ=?=",
        ] {
            let text = format!(
                "From: a@example.org\r\nTo: <u-1@b.example>\r\nSubject: {subject}\r\n\r\nx"
            );
            let letter = read_letter(text.as_bytes());
            assert_eq!(letter.subject, "AQAB_c-d", "{subject:?}");
            assert_eq!(letter.to, ["u-1@b.example"]);
            assert!(!letter.is_answer);
        }
    }

    #[test]
    fn what_a_program_answers_is_distinguished_from_what_somebody_asks() {
        for header in [
            "From: a@example.org\r\nAuto-Submitted: auto-replied (vacation)",
            "From: MAILER-DAEMON@example.org",
            "From: a@example.org\r\nPrecedence: auto_reply",
            "",
        ] {
            assert!(read_letter(format!("{header}\r\nSubject: x\r\n\r\n").as_bytes()).is_answer);
        }

        // A mail program's unsubscribe button generates the message too, but for the user.
        let button = "From: a@example.org\r\nAuto-Submitted: auto-generated\r\nSubject: x\r\n\r\n";
        assert!(!read_letter(button.as_bytes()).is_answer);
    }
}

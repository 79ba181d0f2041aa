//! Completes the message from standard input: finds its end and the beginning of its body, and adds
//! what scripts leave out, a From field and the fields of MIME for 8-bit text. The service adds
//! Date and Message-ID and normalizes line ends; all other bytes are left unchanged.

use lettre::message::header::{From, Headers};
use lettre::message::{Mailbox, Mailboxes};

use super::flags::Flags;
use crate::cli::client::user;

/// The message up to a line with a single dot, which ends it unless dots are ignored.
pub fn up_to_the_dot(mut input: Vec<u8>, ignore_dots: bool) -> Vec<u8> {
    if !ignore_dots {
        let mut end = 0;
        for line in input.split_inclusive(|byte| *byte == b'\n') {
            if matches!(line, b"." | b".\n" | b".\r\n") {
                break;
            }
            end += line.len();
        }
        input.truncate(end);
    }
    input
}

/// The message with the fields that it lacks: From, which is made of `-f`, `-F` and the login name,
/// and for a body of 8-bit text the fields of MIME.
pub fn made_whole(input: &[u8], flags: &Flags) -> Vec<u8> {
    let input = without_mbox_line(input);
    let (header, body) = input.split_at(header_length(input));
    let mut message = Vec::with_capacity(input.len() + 256);
    if !has_field(header, "from") {
        message.extend_from_slice(from_field(flags).as_bytes());
    }
    message.extend_from_slice(header);
    if !header.is_empty() && !header.ends_with(b"\n") {
        message.extend_from_slice(b"\r\n");
    }
    if !body.is_ascii() && !has_field(header, "mime-version") {
        message.extend_from_slice(mime_fields(header, body).as_bytes());
    }
    if !body.starts_with(b"\n") && !body.starts_with(b"\r\n") {
        // A text without a header section, as in `echo hello | sendmail root`.
        message.extend_from_slice(b"\r\n");
    }

    message.extend_from_slice(body);
    message
}

/// The message without the line `From sender date` that programs with mbox files put first: it is
/// not a header field.
fn without_mbox_line(input: &[u8]) -> &[u8] {
    if !input.starts_with(b"From ") {
        return input;
    }
    input
        .iter()
        .position(|byte| *byte == b'\n')
        .map_or(&[], |end| &input[end + 1..])
}

/// The length of the header section in bytes, without the empty line after it.
fn header_length(input: &[u8]) -> usize {
    let mut length = 0;
    for line in input.split_inclusive(|byte| *byte == b'\n') {
        let continues = length > 0 && matches!(line.first(), Some(b' ' | b'\t'));
        if !continues && !is_field(line) {
            break;
        }
        length += line.len();
    }
    length
}

/// Whether the line begins a header field: a name of printable ASCII without a colon, then a colon
/// (RFC 5322 §3.6.8).
fn is_field(line: &[u8]) -> bool {
    match line.iter().position(|byte| *byte == b':') {
        Some(0) | None => false,
        Some(colon) => line[..colon]
            .trim_ascii_end()
            .iter()
            .all(u8::is_ascii_graphic),
    }
}

/// Whether there is a field of this name, even an empty one: the service reports an empty From,
/// which a second From would hide.
fn has_field(header: &[u8], name: &str) -> bool {
    header.split(|byte| *byte == b'\n').any(|line| {
        let colon = line.iter().position(|byte| *byte == b':');
        colon.is_some_and(|colon| {
            line[..colon]
                .trim_ascii_end()
                .eq_ignore_ascii_case(name.as_bytes())
        })
    })
}

/// The MIME fields for a body of 8-bit text. The charset of text that is not UTF-8 is unknown, and
/// RFC 1428 §3 has a name for that.
fn mime_fields(header: &[u8], body: &[u8]) -> String {
    let charset = if std::str::from_utf8(body).is_ok() {
        "utf-8"
    } else {
        "unknown-8bit"
    };

    let mut fields = "MIME-Version: 1.0\r\n".to_owned();
    if !has_field(header, "content-type") {
        fields.push_str(&format!("Content-Type: text/plain; charset={charset}\r\n"));
    }
    if !has_field(header, "content-transfer-encoding") {
        fields.push_str("Content-Transfer-Encoding: 8bit\r\n");
    }

    fields
}

fn from_field(flags: &Flags) -> String {
    let address = match &flags.from {
        Some(from) if from != "<>" => user::qualified(from),
        _ => user::address(),
    };

    let name = flags
        .full_name
        .clone()
        .or_else(|| flags.from.is_none().then(user::full_name).flatten());

    match address.parse() {
        Ok(parsed) => {
            let name = name.map(|name| name.chars().filter(|c| !c.is_control()).collect());
            let mut headers = Headers::new();
            headers.set(From::from(Mailboxes::from(Mailbox::new(name, parsed))));
            headers.to_string()
        }
        Err(_) => format!("From: {address}\r\n"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::mail::Addressees;

    fn ended(input: &str, ignore_dots: bool) -> String {
        String::from_utf8(up_to_the_dot(input.into(), ignore_dots)).unwrap()
    }

    fn whole(input: &str) -> String {
        let flags = Flags {
            from: Some("me@example.com".into()),
            ..Flags::default()
        };
        String::from_utf8(made_whole(input.as_bytes(), &flags)).unwrap()
    }

    #[test]
    fn a_lone_dot_ends_the_message_unless_it_is_ignored() {
        assert_eq!(ended("a\n.\nb\n", false), "a\n");
        assert_eq!(ended("a\r\n.\r\nb\r\n", false), "a\r\n");
        assert_eq!(ended("a\n.", false), "a\n");
        assert_eq!(ended("a\n.b\n..\n", false), "a\n.b\n..\n");
        assert_eq!(ended("a\n.\nb\n", true), "a\n.\nb\n");
    }

    #[test]
    fn a_missing_from_is_added_and_a_present_one_kept() {
        assert_eq!(
            whole("To: a@b\n\nhi\n"),
            "From: me@example.com\r\nTo: a@b\n\nhi\n"
        );
        assert_eq!(whole("FROM : x@y\n\nhi\n"), "FROM : x@y\n\nhi\n");
        assert_eq!(whole("From: \n\nhi\n"), "From: \n\nhi\n");
        assert_eq!(
            whole("Subject: s\n\nFrom: not@me\n"),
            "From: me@example.com\r\nSubject: s\n\nFrom: not@me\n"
        );
    }

    #[test]
    fn text_without_a_header_section_is_a_body() {
        assert_eq!(
            whole("hello\nthere: x\n"),
            "From: me@example.com\r\n\r\nhello\nthere: x\n"
        );

        assert_eq!(whole(""), "From: me@example.com\r\n\r\n");
        assert_eq!(
            whole("Subject: s\nhello\n"),
            "From: me@example.com\r\nSubject: s\n\r\nhello\n"
        );

        assert_eq!(
            whole("Subject: s"),
            "From: me@example.com\r\nSubject: s\r\n\r\n"
        );

        assert_eq!(
            whole("Subject: a\n\tb\n\nhi"),
            "From: me@example.com\r\nSubject: a\n\tb\n\nhi"
        );
    }

    #[test]
    fn eight_bit_text_is_called_so() {
        let mime = |charset| {
            let kind = format!("Content-Type: text/plain; charset={charset}\r\n");
            format!("From: a@b\nMIME-Version: 1.0\r\n{kind}Content-Transfer-Encoding: 8bit\r\n\n")
                .into_bytes()
        };

        let flags = Flags::default();
        assert_eq!(
            made_whole("From: a@b\n\nü".as_bytes(), &flags),
            [mime("utf-8"), "ü".into()].concat()
        );

        assert_eq!(
            made_whole(b"From: a@b\n\n\xfc", &flags),
            [mime("unknown-8bit"), b"\xfc".to_vec()].concat()
        );

        let said = "From: a@b\nmime-version: 1.0\n\nü";
        assert_eq!(made_whole(said.as_bytes(), &flags), said.as_bytes());
        let half = "From: a@b\nContent-Type: text/html; charset=utf-8\n";

        let added = "MIME-Version: 1.0\r\nContent-Transfer-Encoding: 8bit\r\n";
        assert_eq!(whole(&format!("{half}\nü")), format!("{half}{added}\nü"));
    }

    #[test]
    fn an_mbox_line_is_not_sent() {
        assert_eq!(
            whole("From me Mon Jan  1 00:00:00 2026\nFrom: a@b\n\nhi"),
            "From: a@b\n\nhi"
        );
    }

    #[test]
    fn a_full_name_cannot_leave_its_field() {
        for name in [
            "A \"B\"\r\nBcc: x@y.example\\",
            "Grüße\n\nx",
            "a, b <c@d.example>",
        ] {
            let flags = Flags {
                from: Some("me@example.com".into()),
                full_name: Some(name.into()),
                ..Flags::default()
            };
            let message = made_whole(b"\nhi", &flags);
            assert!(message.is_ascii() && message.ends_with(b"\r\n\nhi"));
            assert_eq!(
                message.iter().filter(|byte| **byte == b'\r').count(),
                1,
                "{name}"
            );
            assert_eq!(
                Addressees::sender_of(&message, "host")
                    .unwrap()
                    .unwrap()
                    .as_str(),
                "me@example.com",
                "{name}"
            );
        }
    }
}

//! The message on standard input, made whole: where it ends, where its body begins, and whom it is from. The service adds
//! Date and Message-ID and settles the line ends; the bytes are otherwise left as they came.

use lettre::message::header::{From, Headers};
use lettre::message::{Mailbox, Mailboxes};

use super::flags::Flags;
use crate::cli::client::{headers, user};

/// What stands before a line with a single dot, which ends the message unless dots are ignored.
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

/// The message with a From field, which is made from `-f`, `-F` and the login name where it has none.
pub fn with_sender(input: Vec<u8>, flags: &Flags) -> Vec<u8> {
    let input = without_mbox_line(&input);
    let header = header_length(input);
    let mut message = Vec::with_capacity(input.len() + 256);
    if headers::sender(input).is_none() && !has_from(&input[..header]) {
        message.extend_from_slice(from_field(flags).as_bytes());
    }
    message.extend_from_slice(&input[..header]);
    let body = &input[header..];
    if !body.starts_with(b"\n") && !body.starts_with(b"\r\n") {
        // The text began without an empty line, as in `echo hello | sendmail root`.
        message.extend_from_slice(b"\r\n");
    }
    message.extend_from_slice(body);
    message
}

/// Programs that keep mail in mbox files put a line `From sender date` first, which is no header field.
fn without_mbox_line(input: &[u8]) -> &[u8] {
    if !input.starts_with(b"From ") {
        return input;
    }
    input.iter().position(|byte| *byte == b'\n').map_or(&[], |end| &input[end + 1..])
}

/// How many bytes the header fields have, without the empty line after them.
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

/// Whether the line begins a header field: a name of printable ASCII without a colon, then a colon (RFC 5322 §3.6.8).
fn is_field(line: &[u8]) -> bool {
    match line.iter().position(|byte| *byte == b':') {
        Some(0) | None => false,
        Some(colon) => line[..colon].trim_ascii_end().iter().all(u8::is_ascii_graphic),
    }
}

/// A From field that names nobody is the sender's mistake; the service tells it. A second one would hide it.
fn has_from(header: &[u8]) -> bool {
    header.split(|byte| *byte == b'\n').any(|line| {
        line.iter()
            .position(|byte| *byte == b':')
            .is_some_and(|colon| line[..colon].trim_ascii_end().eq_ignore_ascii_case(b"from"))
    })
}

fn from_field(flags: &Flags) -> String {
    let address = match &flags.from {
        Some(from) if from != "<>" => user::qualified(from),
        _ => user::address(),
    };
    let name = flags.full_name.clone().or_else(|| flags.from.is_none().then(user::full_name).flatten());
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

    fn ended(input: &str, ignore_dots: bool) -> String {
        String::from_utf8(up_to_the_dot(input.into(), ignore_dots)).unwrap()
    }

    fn made_whole(input: &str) -> String {
        let flags = Flags { from: Some("me@example.com".into()), ..Flags::default() };
        String::from_utf8(with_sender(input.into(), &flags)).unwrap()
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
        assert_eq!(made_whole("To: a@b\n\nhi\n"), "From: me@example.com\r\nTo: a@b\n\nhi\n");
        assert_eq!(made_whole("FROM : x@y\n\nhi\n"), "FROM : x@y\n\nhi\n");
        assert_eq!(made_whole("From: \n\nhi\n"), "From: \n\nhi\n");
        assert_eq!(made_whole("Subject: s\n\nFrom: not@me\n"), "From: me@example.com\r\nSubject: s\n\nFrom: not@me\n");
    }

    #[test]
    fn text_without_a_header_section_is_a_body() {
        assert_eq!(made_whole("hello\nthere: x\n"), "From: me@example.com\r\n\r\nhello\nthere: x\n");
        assert_eq!(made_whole(""), "From: me@example.com\r\n\r\n");
        assert_eq!(made_whole("Subject: s\nhello\n"), "From: me@example.com\r\nSubject: s\n\r\nhello\n");
        assert_eq!(made_whole("Subject: a\n\tb\n\nhi"), "From: me@example.com\r\nSubject: a\n\tb\n\nhi");
    }

    #[test]
    fn an_mbox_line_is_not_sent() {
        assert_eq!(made_whole("From me Mon Jan  1 00:00:00 2026\nFrom: a@b\n\nhi"), "From: a@b\n\nhi");
    }

    #[test]
    fn a_full_name_cannot_leave_its_field() {
        for name in ["A \"B\"\r\nBcc: x@y.example\\", "Grüße\n\nx", "a, b <c@d.example>"] {
            let flags = Flags { from: Some("me@example.com".into()), full_name: Some(name.into()), ..Flags::default() };
            let message = with_sender(b"\nhi".to_vec(), &flags);
            assert!(message.is_ascii() && message.ends_with(b"\r\n\nhi"));
            assert_eq!(message.iter().filter(|byte| **byte == b'\r').count(), 1, "{name}");
            assert_eq!(headers::sender(&message).as_deref(), Some("me@example.com"), "{name}");
        }
    }
}

//! A strict parser for the header section of a message (RFC 5322 §2.2). It accepts only what every
//! server and reader parses in the same way, so that no field can be hidden in another.
//!
//! Used by everything that inspects a raw message: [`freeze`](super::freeze),
//! [`directives`](super::directives), [`fingerprint`](super::fingerprint).

use std::borrow::Cow;

use memchr::memchr;

use super::MailError;

/// The longest line that RFC 5322 §2.1.1 allows, without CRLF.
const MAX_LINE: usize = 998;

/// The largest header section, in bytes: enough for thousands of recipients in To, and little
/// enough for a list of its fields in memory.
pub(super) const MAX_SECTION: usize = 1 << 20;

/// A field of a message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Field<'a> {
    /// Without the white space that may precede the colon.
    pub name: &'a str,
    /// All its lines, including folded ones, with line ends.
    pub raw: &'a [u8],
}

impl<'a> Field<'a> {
    pub fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name)
    }

    /// The value, as it is folded.
    pub fn folded(&self) -> &'a [u8] {
        let colon = memchr(b':', self.raw).unwrap_or(self.name.len());
        self.raw[colon + 1..].trim_ascii()
    }

    /// The value on one line.
    pub fn value(&self) -> Cow<'a, str> {
        let folded = self.folded();
        if memchr(b'\n', folded).is_none() {
            return String::from_utf8_lossy(folded);
        }
        let unfolded: Vec<u8> = lines(folded).flatten().copied().collect();
        Cow::Owned(String::from_utf8_lossy(&unfolded).into_owned())
    }

    pub fn is_empty(&self) -> bool {
        self.folded().is_empty()
    }

    /// Its lines, without line ends; lines of only white space are skipped.
    pub fn lines(&self) -> impl Iterator<Item = &'a [u8]> {
        lines(self.raw)
    }
}

fn lines(raw: &[u8]) -> impl Iterator<Item = &[u8]> {
    let lines = raw
        .split(|byte| *byte == b'\n')
        .map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    lines.filter(|line| !line.trim_ascii().is_empty())
}

/// A header section and the body.
#[derive(Clone, Debug)]
pub(super) struct Section<'a> {
    pub fields: Vec<Field<'a>>,
    /// `None` if the message ends with its header section, without an empty line.
    pub body: Option<&'a [u8]>,
    /// Whether every line ends with CRLF and none consists only of white space.
    pub canonical: bool,
    /// Whether it has non-ASCII characters; they are valid UTF-8.
    pub utf8: bool,
}

impl<'a> Section<'a> {
    /// Parses the header section of a message.
    ///
    /// Lines may end with LF or CRLF. A bare CR is refused, since servers and readers disagree
    /// about whether it ends a line, which would allow fields to be smuggled in.
    pub fn read(message: &'a [u8]) -> Result<Self, MailError> {
        if message.is_empty() {
            return Err(MailError::new("headers", "the message is empty"));
        }
        let mut section = Section {
            fields: Vec::with_capacity(16),
            body: None,
            canonical: true,
            utf8: false,
        };

        let mut start = 0; // of the field that is being read
        let mut at = 0;
        while at < message.len() {
            let end = memchr(b'\n', &message[at..]).map_or(message.len(), |lf| at + lf + 1);
            let with_end = &message[at..end];
            let line = match with_end.strip_suffix(b"\r\n") {
                Some(line) => line,
                None => {
                    section.canonical = false;
                    with_end.strip_suffix(b"\n").unwrap_or(with_end)
                }
            };
            if line.is_empty() {
                section.body = Some(&message[end..]);
                break;
            }
            if matches!(line[0], b' ' | b'\t') {
                let Some(field) = section.fields.last_mut() else {
                    return Err(MailError::new(
                        "headers",
                        "the first line is a continuation of no field",
                    ));
                };
                field.raw = &message[start..end];
                section.canonical &= !line.trim_ascii().is_empty();
            } else {
                start = at;
                section.fields.push(Field {
                    name: name(line, section.fields.last())?,
                    raw: with_end,
                });
            }
            section.utf8 |= check_line(line, section.fields.last().map_or("", |field| field.name))?;
            at = end;
            if at > MAX_SECTION {
                return Err(MailError::new(
                    "headers",
                    format!("the header section has more than {MAX_SECTION} bytes"),
                ));
            }
        }

        if section.utf8 {
            section.fields.iter().try_for_each(check_utf8)?;
        }
        Ok(section)
    }

    /// The first field with this name.
    pub fn find(&self, name: &str) -> Option<&Field<'a>> {
        self.fields.iter().find(|field| field.is(name))
    }
}

/// An error about a field of a message, named as `headers.NAME`.
pub(super) fn refuse(name: &str, reason: impl std::fmt::Display) -> MailError {
    MailError::new(format!("headers.{}", shown(name)), reason)
}

/// The start of a field's name, for an error; it is ASCII.
fn shown(name: &str) -> &str {
    name.get(..76).unwrap_or(name)
}

/// Parses the name of the field that starts in this line.
fn name<'a>(line: &'a [u8], before: Option<&Field<'_>>) -> Result<&'a str, MailError> {
    let place = || {
        before.map_or("the first line".to_owned(), |field| {
            format!("the line after {}", shown(field.name))
        })
    };

    let Some(colon) = memchr(b':', line) else {
        let reason = format!(
            "{} is neither a field nor the empty line that ends the header section",
            place()
        );
        return Err(MailError::new("headers", reason));
    };

    // White space before the colon is obsolete, but must be accepted (RFC 5322 §4.5).
    match std::str::from_utf8(line[..colon].trim_ascii_end()) {
        Ok(name) if !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic()) => {
            Ok(name)
        }
        _ => Err(MailError::new(
            "headers",
            format!("{} has no valid field name before its colon", place()),
        )),
    }
}

/// Refuses a line that is too long or has control characters; returns whether it has non-ASCII
/// bytes.
fn check_line(line: &[u8], name: &str) -> Result<bool, MailError> {
    if line.len() > MAX_LINE {
        let reason = format!(
            "has a line of {} bytes; at most {MAX_LINE} are allowed: fold it",
            line.len()
        );
        return Err(refuse(name, reason));
    }

    // One pass without a branch per byte, which the compiler can vectorize.
    let (control, beyond_ascii) = line.iter().fold((false, false), |(control, beyond), byte| {
        (
            control | ((*byte < 0x20) & (*byte != b'\t')) | (*byte == 0x7f),
            beyond | (*byte > 0x7f),
        )
    });

    if control {
        let reason = if line.contains(&b'\r') {
            "has a CR without an LF"
        } else {
            "has a control character"
        };
        return Err(refuse(name, reason));
    }

    Ok(beyond_ascii)
}

fn check_utf8(field: &Field<'_>) -> Result<(), MailError> {
    match std::str::from_utf8(field.raw) {
        Err(_) => Err(refuse(
            field.name,
            "has bytes above 127 that are not UTF-8 (RFC 6532)",
        )),
        Ok(text) if text.chars().any(|c| c.is_control() && !c.is_ascii()) => {
            Err(refuse(field.name, "has a control character"))
        }
        Ok(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn refused(message: &[u8]) -> String {
        Section::read(message).unwrap_err().to_string()
    }

    #[test]
    fn a_section_knows_its_fields_with_their_folds_and_its_body() {
        let section = Section::read(b"Subject: a\r\n b\r\nX-Empty:\r\n\r\nbody\r\n").unwrap();
        assert_eq!(section.fields.len(), 2);
        assert_eq!(section.find("sUBJECT").unwrap().value(), "a b");
        assert_eq!(
            section.find("subject").unwrap().raw,
            b"Subject: a\r\n b\r\n"
        );
        assert!(section.find("X-Empty").unwrap().is_empty());
        assert_eq!(section.body, Some(&b"body\r\n"[..]));
        assert!(section.canonical && !section.utf8);
    }

    #[test]
    fn a_line_that_ends_in_lf_alone_is_a_line_and_not_canonical() {
        let section = Section::read(b"Subject: a\nTo: b@c\n\r\nbody").unwrap();
        assert_eq!(section.fields.len(), 2);
        assert!(!section.canonical);
        assert_eq!(section.body, Some(&b"body"[..]));
    }

    #[test]
    fn white_space_before_the_colon_is_not_part_of_the_name() {
        let section = Section::read(b"Bcc \t: a@b\r\n\r\n").unwrap();
        assert_eq!(section.find("Bcc").unwrap().value(), "a@b");
    }

    #[test]
    fn what_is_no_field_is_refused_by_its_place_or_name() {
        assert_eq!(refused(b""), "headers: the message is empty");
        assert!(refused(b" folded: x\r\n").contains("continuation of no field"));
        assert!(refused(b"Hello\r\n\r\n").starts_with("headers: the first line is neither"));
        assert!(refused(b"A: b\r\nHello\r\n").starts_with("headers: the line after A is neither"));
        assert!(refused(b": a\r\n").contains("no valid field name"));
        assert!(refused("Tö: a\r\n".as_bytes()).contains("no valid field name"));
        assert_eq!(
            refused(b"Subject: a\rBcc: evil@x\r\n"),
            "headers.Subject: has a CR without an LF"
        );

        assert_eq!(
            refused(b"Subject: a\r\r\n\r\n"),
            "headers.Subject: has a CR without an LF"
        );

        assert_eq!(
            refused(b"X-A: \x1b[31m\r\n"),
            "headers.X-A: has a control character"
        );

        assert_eq!(
            refused(b"X-A: a\0\r\n"),
            "headers.X-A: has a control character"
        );

        assert_eq!(
            refused("X-A: a\u{85}Bcc: x\r\n".as_bytes()),
            "headers.X-A: has a control character"
        );

        assert!(
            refused(b"X-A: \xe4\r\n")
                .starts_with("headers.X-A: has bytes above 127 that are not UTF-8")
        );

        assert!(
            refused(&b"X-A: b\r\n".repeat(200_000))
                .starts_with("headers: the header section has more than")
        );

        let long = format!("X-A: {}\r\n", "a".repeat(994));
        assert!(refused(long.as_bytes()).starts_with("headers.X-A: has a line of 999 bytes"));
        assert!(refused(format!("{}:\r\n", "X".repeat(5000)).as_bytes()).len() < 200);

        let fits = format!("X-A: {}\r\n", "a".repeat(993));
        assert!(Section::read(fits.as_bytes()).is_ok());
    }
}

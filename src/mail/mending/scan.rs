//! Finds the header fields of a message that may be malformed. The strict parser
//! ([`Section`](crate::mail::header::Section)) refuses whatever is ambiguous; this one finds where
//! the header section is meant to end.

use memchr::memchr;

use crate::mail::header::MAX_SECTION;

/// The byte order mark that some editors write at the start of a text.
pub(super) const BOM: &[u8] = b"\xef\xbb\xbf";

/// A field of a message.
#[derive(Clone, Copy, Debug)]
pub(in crate::mail) struct LooseField<'a> {
    /// Without the white space that may precede the colon (RFC 5322 §4.5).
    pub name: &'a str,
    /// All its lines, with line ends.
    pub raw: &'a [u8],
    /// Where its value begins in `raw`.
    pub value_at: usize,
}

impl<'a> LooseField<'a> {
    pub fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name)
    }

    /// The value, folded, with its last line end.
    pub fn value(&self) -> &'a [u8] {
        &self.raw[self.value_at..]
    }
}

/// The structure of a message.
#[derive(Clone, Debug)]
pub(in crate::mail) struct Scan<'a> {
    /// What precedes the first field and is none: a byte order mark, or the first line of a message
    /// in an mbox file.
    pub lead: &'a [u8],
    pub fields: Vec<LooseField<'a>>,
    /// Everything after the header section and its empty line, if there is one.
    pub body: Option<&'a [u8]>,
    /// Whether there is an empty line between the two.
    pub has_separator: bool,
    /// Whether the header section is longer than is accepted; then the rest of it was not read.
    pub is_too_long: bool,
}

impl<'a> Scan<'a> {
    /// Whether it consists of a header section, an empty line and a body.
    pub fn is_whole(&self) -> bool {
        !self.is_too_long && self.lead.is_empty() && self.has_separator
    }

    pub fn of(message: &'a [u8]) -> Self {
        let mut at = lead(message);
        let mut scan = Scan {
            lead: &message[..at],
            fields: Vec::with_capacity(16),
            body: None,
            has_separator: false,
            is_too_long: false,
        };

        let mut start = at;
        while at < message.len() {
            if at > MAX_SECTION {
                scan.is_too_long = true;
                break;
            }
            let end = memchr(b'\n', &message[at..]).map_or(message.len(), |lf| at + lf + 1);
            let line = &message[at..end];
            if matches!(line, b"\n" | b"\r\n") {
                scan.body = Some(&message[end..]);
                scan.has_separator = true;
                break;
            }
            match (line[0], scan.fields.last_mut()) {
                (b' ' | b'\t', Some(field)) => field.raw = &message[start..end],
                _ => match field(line) {
                    Some(field) => {
                        start = at;
                        scan.fields.push(field);
                    }
                    None => {
                        scan.body = Some(&message[at..]);
                        break;
                    }
                },
            }
            at = end;
        }

        scan
    }

    pub fn find(&self, name: &str) -> Option<&LooseField<'a>> {
        self.fields.iter().find(|field| field.is(name))
    }
}

/// The field that starts in this line, with a name of visible ASCII and a colon (RFC 5322 §3.6.8).
fn field(line: &[u8]) -> Option<LooseField<'_>> {
    let colon = memchr(b':', line)?;
    let name = line[..colon].trim_ascii_end();
    let is_name = !name.is_empty() && name.iter().all(u8::is_ascii_graphic);
    let name = std::str::from_utf8(name).ok().filter(|_| is_name)?;
    Some(LooseField {
        name,
        raw: line,
        value_at: colon + 1,
    })
}

/// The length of what precedes the first field.
fn lead(message: &[u8]) -> usize {
    let mut at = if message.starts_with(BOM) {
        BOM.len()
    } else {
        0
    };
    loop {
        let end = memchr(b'\n', &message[at..]).map_or(message.len(), |lf| at + lf + 1);
        if at == end || !is_mbox_line(&message[at..end]) {
            return at;
        }
        at = end;
    }
}

/// Whether a line is `From sender Mon Jan  1 00:00:00 2026`, and not the start of a text with this
/// word, nor a field with a space after its name.
fn is_mbox_line(line: &[u8]) -> bool {
    let line = line.strip_prefix(b">").unwrap_or(line);
    let Some(rest) = line.strip_prefix(b"From ") else {
        return false;
    };
    let is_field = rest.trim_ascii_start().first() == Some(&b':');

    let is_time = |word: &[u8]| {
        let mut parts = word.split(|byte| *byte == b':');
        let is_number =
            |part: &[u8]| (1..=2).contains(&part.len()) && part.iter().all(u8::is_ascii_digit);
        word.contains(&b':') && parts.all(is_number)
    };

    let mut words = rest
        .split(|byte| byte.is_ascii_whitespace())
        .filter(|word| !word.is_empty());
    !is_field && words.next().is_some() && words.any(is_time)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn names(message: &str) -> Vec<&str> {
        Scan::of(message.as_bytes())
            .fields
            .iter()
            .map(|field| field.name)
            .collect()
    }

    #[test]
    fn the_header_section_ends_at_an_empty_line_or_at_what_is_no_field() {
        let scan = Scan::of(b"A: 1\r\nB : 2\r\n folded\r\n\r\nC: 3\r\n");
        assert_eq!(scan.fields[1].name, "B");
        assert_eq!(scan.fields[1].value(), b" 2\r\n folded\r\n");
        assert_eq!(
            (scan.body, scan.has_separator),
            (Some(&b"C: 3\r\n"[..]), true)
        );

        let scan = Scan::of(b"A: 1\nhello\nB: 2\n");
        assert_eq!(
            (scan.body, scan.has_separator),
            (Some(&b"hello\nB: 2\n"[..]), false)
        );

        let scan = Scan::of(b" folded: x\n");
        assert!(scan.fields.is_empty() && scan.body == Some(&b" folded: x\n"[..]));
        assert!(Scan::of(b"test1").fields.is_empty());
        assert_eq!(names("hello there: x\n"), [""; 0]);
    }

    #[test]
    fn an_mbox_line_is_distinguished_from_a_field_and_from_a_text() {
        assert_eq!(names("From me Mon Jan  1 00:00:00 2026\nTo: a\n"), ["To"]);
        assert_eq!(
            names("From a@b Thu Nov 19 10:11 2026\n>From c Thu Nov 19 10:11:12 2026\nTo: a\n"),
            ["To"]
        );
        assert_eq!(names("\u{feff}To: a\n"), ["To"]);
        assert_eq!(names("From : a@b\nTo: a\n"), ["From", "To"]);
        assert_eq!(names("From  : a@b Mon 10:00\nTo: a\n"), ["From", "To"]);
        let text = "From today on we close at noon\n";
        assert_eq!(Scan::of(text.as_bytes()).body, Some(text.as_bytes()));
    }
}

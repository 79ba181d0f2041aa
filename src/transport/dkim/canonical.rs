//! What is signed of a message: its fields and its body in the "relaxed" form of RFC 6376 §3.4,
//! which survives what relays do to white space.

use memchr::memmem;

use crate::mail::Address;

/// A message, cut into header fields and body.
pub(super) struct SplitMessage<'a> {
    /// Each with its folded lines and without its last line end.
    fields: Vec<&'a [u8]>,
    pub body: &'a [u8],
}

impl<'a> SplitMessage<'a> {
    /// `None` where it does not begin with a header.
    pub fn read(message: &'a [u8]) -> Option<Self> {
        let (section, body) = match memmem::find(message, b"\r\n\r\n") {
            Some(at) => (&message[..at], &message[at + 4..]),
            None => (message.strip_suffix(b"\r\n").unwrap_or(message), &b""[..]),
        };

        let mut fields = Vec::with_capacity(16);
        let mut start = 0;
        for end in memmem::find_iter(section, b"\r\n").chain([section.len()]) {
            let folds = matches!(section.get(end + 2), Some(b' ' | b'\t'));
            if !folds && end > start {
                fields.push(&section[start..end]);
                start = end + 2;
            }
        }

        fields
            .iter()
            .all(|field| name_of(field).is_some())
            .then_some(SplitMessage { fields, body })
    }

    /// The fields of that name, in order.
    pub fn fields(&self, name: &str) -> impl DoubleEndedIterator<Item = &'a [u8]> {
        self.fields.iter().copied().filter(move |field| {
            name_of(field).is_some_and(|found| found.eq_ignore_ascii_case(name.as_bytes()))
        })
    }

    /// The domain of the only author, in lower case.
    pub fn author_domain(&self) -> Option<String> {
        let mut authors = self.fields("From");
        let (Some(author), None) = (authors.next(), authors.next()) else {
            return None;
        };
        let parser = mail_parser::MessageParser::new();
        let header = [author, b"\r\n\r\n"].concat();
        let parsed = parser.parse_headers(&header)?;
        let address = parsed.from()?.first()?.address()?;
        let domain = Address::parse(address).ok()?;
        Some(domain.domain().to_ascii_lowercase())
    }

    /// Whether it bears a signature of this domain.
    pub fn is_signed_by(&self, domain: &str) -> bool {
        self.fields("DKIM-Signature").any(|field| {
            let value: String = String::from_utf8_lossy(field)
                .chars()
                .filter(|c| !c.is_whitespace())
                .collect();
            let tags = value.split_once(':').map_or("", |(_, tags)| tags);
            tags.split(';')
                .filter_map(|tag| tag.strip_prefix("d="))
                .any(|signed| signed.eq_ignore_ascii_case(domain))
        })
    }
}

fn name_of(field: &[u8]) -> Option<&[u8]> {
    let colon = field.iter().position(|byte| *byte == b':')?;
    Some(field[..colon].trim_ascii_end())
}

/// Appends a field in relaxed form (RFC 6376 §3.4.2): name in lower case, unfolded, runs of white
/// space as one space, none around the colon or at the end, and a CRLF.
pub(super) fn relaxed_field(field: &[u8], to: &mut Vec<u8>) {
    let colon = field.iter().position(|byte| *byte == b':').unwrap_or(0);
    let (name, value) = field.split_at(colon);
    to.extend(name.trim_ascii_end().iter().map(u8::to_ascii_lowercase));
    to.push(b':');

    let start = to.len();
    for byte in value.iter().skip(1) {
        match byte {
            b' ' | b'\t' | b'\r' | b'\n' => {
                if to.len() > start && to.last() != Some(&b' ') {
                    to.push(b' ');
                }
            }
            byte => to.push(*byte),
        }
    }

    if to.len() > start && to.last() == Some(&b' ') {
        to.pop();
    }
    to.extend_from_slice(b"\r\n");
}

/// A body in relaxed form (RFC 6376 §3.4.4): runs of white space as one space, none at the end of a
/// line, no empty lines at the end; an empty body stays empty.
pub(super) fn relaxed_body(body: &[u8]) -> Vec<u8> {
    let mut relaxed = Vec::with_capacity(body.len() + 2);
    let mut empty_lines = 0;
    let mut rest = body;
    while !rest.is_empty() {
        let end = memmem::find(rest, b"\r\n").unwrap_or(rest.len());
        let (line, after) = rest.split_at(end);
        rest = after.get(2..).unwrap_or_default();
        let line = trim_end(line);
        if line.is_empty() {
            empty_lines += 1;
            continue;
        }
        for _ in 0..std::mem::take(&mut empty_lines) {
            relaxed.extend_from_slice(b"\r\n");
        }
        let mut was_blank = false;
        for byte in line {
            let blank = matches!(byte, b' ' | b'\t');
            match (blank, was_blank) {
                (true, false) => relaxed.push(b' '),
                (true, true) => {}
                (false, _) => relaxed.push(*byte),
            }
            was_blank = blank;
        }
        relaxed.extend_from_slice(b"\r\n");
    }

    relaxed
}

fn trim_end(line: &[u8]) -> &[u8] {
    let end = line
        .iter()
        .rposition(|byte| !matches!(byte, b' ' | b'\t'))
        .map_or(0, |last| last + 1);
    &line[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 6376 §3.4.5.
    #[test]
    fn the_example_of_the_rfc_comes_out_as_it_says() {
        let message = b"A: X\r\nB : Y\t\r\n\tZ  \r\n\r\n C \r\nD \t E\r\n\r\n\r\n";
        let message = SplitMessage::read(message).expect("valid");
        let mut header = Vec::new();
        for field in &message.fields {
            relaxed_field(field, &mut header);
        }
        assert_eq!(header, b"a:X\r\nb:Y Z\r\n");
        assert_eq!(relaxed_body(message.body), b" C\r\nD E\r\n");
    }

    #[test]
    fn an_empty_body_stays_empty_and_a_cut_line_is_ended() {
        assert_eq!(relaxed_body(b""), b"");
        assert_eq!(relaxed_body(b"\r\n \t\r\n"), b"");
        assert_eq!(relaxed_body(b"a\r\n\r\nb"), b"a\r\n\r\nb\r\n");
    }
}

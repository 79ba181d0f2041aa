//! Two mails that ask for the same thing have one fingerprint, so that an idempotency key which is
//! used again with other content is noticed (`KeyReused`), and a repeated request is not.
//!
//! What a program makes anew each time does not count: Date, Message-ID, trace fields, signatures,
//! MIME boundaries, and points in time that a caller computes from its clock.

use std::borrow::Cow;
use std::ops::Range;

use memchr::memmem;
use twox_hash::xxhash3_128::Hasher;

use super::header::{Field, Section};
use super::{Address, Envelope, Options, When};

/// The fields that are made anew each time that a message is written or handed on.
const VOLATILE_FIELDS: [&str; 4] = ["Date", "Message-ID", "Received", "DKIM-Signature"];

/// The fields in which addresses stand.
const ADDRESS_FIELDS: [&str; 7] = [
    "From",
    "Sender",
    "Reply-To",
    "To",
    "Cc",
    "Bcc",
    "Return-Path",
];

/// The most boundaries that are looked for in one message; more than these count as content.
const MAX_BOUNDARIES: usize = 32;

/// The most bytes of a boundary that is looked for. RFC 2046 §5.1.1 allows 70.
const MAX_BOUNDARY: usize = 200;

/// Whether a program makes this field anew each time, so that it does not count.
pub(super) fn is_made_anew(name: &str) -> bool {
    VOLATILE_FIELDS
        .iter()
        .any(|anew| anew.eq_ignore_ascii_case(name))
}

/// A text in which addresses stand, with their domains in lower case: in another case they are the
/// same (RFC 5321 §2.4).
fn alike(text: &[u8]) -> Cow<'_, [u8]> {
    if !text.iter().any(u8::is_ascii_uppercase) {
        return Cow::Borrowed(text);
    }
    let mut folded = text.to_vec();

    let mut is_domain = false;
    for byte in &mut folded {
        is_domain = match *byte {
            b'@' => true,
            b'.' | b'-' => is_domain,
            other => is_domain && other.is_ascii_alphanumeric(),
        };
        if is_domain {
            byte.make_ascii_lowercase();
        }
    }

    Cow::Owned(folded)
}

/// Hashes parts of different lengths, so that `ab`, `c` and `a`, `bc` differ.
pub(super) struct PartHasher(Hasher);

impl PartHasher {
    pub fn new() -> Self {
        PartHasher(Hasher::new())
    }

    pub fn add(&mut self, part: impl AsRef<[u8]>) -> &mut Self {
        let part = part.as_ref();
        self.0.write(&(part.len() as u64).to_le_bytes());
        self.0.write(part);
        self
    }

    pub fn add_all(&mut self, parts: impl ExactSizeIterator<Item = impl AsRef<[u8]>>) -> &mut Self {
        self.add((parts.len() as u64).to_le_bytes());
        parts.for_each(|part| {
            self.add(part);
        });
        self
    }

    pub fn envelope(&mut self, envelope: &Envelope) -> &mut Self {
        let return_path = envelope.return_path().map_or("", Address::as_str);
        self.add(alike(return_path.as_bytes()));
        let recipients = envelope.recipients().iter();
        self.add_all(recipients.map(|address| alike(address.as_str().as_bytes())))
    }

    /// Adds lists of addresses as people write them.
    pub fn add_addresses(&mut self, lists: &[String]) -> &mut Self {
        self.add_all(lists.iter().map(|list| alike(list.as_bytes())))
    }

    pub fn finish(&self) -> u128 {
        self.0.finish_128()
    }
}

/// The fingerprint of a frozen message under its envelope. The work is proportional to its size,
/// whatever stands in it: a stranger wrote it.
pub(super) fn of_message(envelope: &Envelope, message: &[u8]) -> u128 {
    let mut print = PartHasher::new();
    print.envelope(envelope);
    let Ok(section) = Section::read(message) else {
        return print.add(message).finish();
    };

    let mut boundaries: Vec<&[u8]> = Vec::new();
    for field in section
        .fields
        .iter()
        .filter(|field| !is_made_anew(field.name))
    {
        add_field(field, &mut boundaries, &mut print);
    }

    boundaries.truncate(MAX_BOUNDARIES);
    add_body(section.body.unwrap_or_default(), boundaries, &mut print);
    print.finish()
}

/// The fingerprint of what is asked for, besides `content`. The key itself does not count, nor do
/// fixed points in time.
pub(super) fn with_options(content: u128, options: &Options) -> u128 {
    let Options {
        priority,
        send,
        expires,
        idempotency_key: _,
        tags,
        guarantee,
        list,
    } = options;
    let span = |when: &Option<When>| match when {
        Some(When::In(span)) => span.as_millis(),
        Some(When::At(_)) | None => 0,
    };

    let mut print = PartHasher::new();
    print
        .add(content.to_le_bytes())
        .add(priority.as_str())
        .add([*guarantee as u8]);
    print
        .add(span(send).to_le_bytes())
        .add(span(expires).to_le_bytes())
        .add_all(tags.iter());

    // Without one it is what it was before there were lists.
    if let Some(list) = list {
        print.add(list);
    }
    print.finish()
}

fn add_field<'a>(field: &Field<'a>, boundaries: &mut Vec<&'a [u8]>, print: &mut PartHasher) {
    match boundary_of(field) {
        None if ADDRESS_FIELDS.iter().any(|name| field.is(name)) => print.add(alike(field.raw)),
        None => print.add(field.raw),
        Some(boundary) => {
            boundaries.push(&field.raw[boundary.clone()]);
            print
                .add(&field.raw[..boundary.start])
                .add(&field.raw[boundary.end..])
        }
    };
}

/// Where in the field the boundary of a multipart stands (RFC 2046 §5.1.1).
fn boundary_of(field: &Field<'_>) -> Option<Range<usize>> {
    const NAME: &[u8] = b"boundary=";
    if !field.is("Content-Type") {
        return None;
    }

    let at = field
        .raw
        .windows(NAME.len())
        .position(|window| window.eq_ignore_ascii_case(NAME))?
        + NAME.len();

    let value = &field.raw[at..];
    let (start, length) = match value.strip_prefix(b"\"") {
        Some(quoted) => (at + 1, quoted.iter().position(|byte| *byte == b'"')?),
        None => (
            at,
            value
                .iter()
                .position(|byte| byte.is_ascii_whitespace() || *byte == b';')?,
        ),
    };

    let found = start..start + length;
    let is_boundary =
        (1..=MAX_BOUNDARY).contains(&length) && !field.raw[found.clone()].contains(&b'\n');
    is_boundary.then_some(found)
}

/// Adds a body, piece by piece, with every delimiter line as if its boundary were empty. The header
/// of each part is looked into for boundaries of its own.
fn add_body<'a>(body: &'a [u8], mut boundaries: Vec<&'a [u8]>, print: &mut PartHasher) {
    if boundaries.is_empty() {
        print.add(body);
        return;
    }

    let mut done = 0; // how much of the body has been added
    let mut at = if body.starts_with(b"--") {
        Some(0)
    } else {
        next_dashes(body, 0)
    };

    while let Some(dashes) = at {
        let name = dashes + 2;
        if let Some(boundary) = delimiter(&body[dashes..], &boundaries) {
            print.add(&body[done..name]);
            done = name + boundary.len();
            let fields = part_header(&body[done..], &boundaries);
            if fields.iter().any(|field| boundary_of(field).is_some()) {
                // The CRLF that ends the delimiter line.
                done += 2;
                for field in &fields {
                    add_field(field, &mut boundaries, print);
                    done += field.raw.len();
                }
                boundaries.truncate(MAX_BOUNDARIES);
                // Without the empty line's CRLF, which may begin the next delimiter.
                done -= 2;
            }
        }
        at = next_dashes(body, done.max(name));
    }

    print.add(&body[done..]);
}

/// Where the next line that starts with two dashes starts.
fn next_dashes(body: &[u8], from: usize) -> Option<usize> {
    memmem::find(&body[from..], b"\r\n--").map(|at| from + at + 2)
}

/// The boundary whose delimiter begins here, if one does.
fn delimiter<'a>(line: &[u8], boundaries: &[&'a [u8]]) -> Option<&'a [u8]> {
    let name = line.strip_prefix(b"--")?;
    boundaries
        .iter()
        .find(|boundary| name.starts_with(boundary))
        .copied()
}

/// The fields of the header of the part that follows a delimiter; none where there is no such
/// header.
///
/// It is read no further than to the next delimiter, even where that looks like a field: so each
/// byte of a body is read once, however many delimiters there are.
fn part_header<'a>(part: &'a [u8], boundaries: &[&[u8]]) -> Vec<Field<'a>> {
    let mut fields: Vec<Field<'a>> = Vec::new();
    let Some(header) = part.strip_prefix(b"\r\n") else {
        return fields;
    };
    let (mut start, mut at) = (0, 0);

    while let Some(end) = memchr::memchr(b'\n', &header[at..]).map(|lf| at + lf + 1) {
        let line = &header[at..end];
        if line == b"\r\n" {
            return fields;
        }
        if delimiter(line, boundaries).is_some() {
            break;
        }
        match (line[0], fields.last_mut()) {
            (b' ' | b'\t', Some(field)) => field.raw = &header[start..end],
            (b' ' | b'\t', None) => break,
            _ => {
                let Some(name) = name_of(line) else { break };
                start = at;
                fields.push(Field { name, raw: line });
            }
        }
        at = end;
    }

    Vec::new()
}

/// The name of the field that begins in this line, if one does.
fn name_of(line: &[u8]) -> Option<&str> {
    let colon = memchr::memchr(b':', line).filter(|colon| *colon > 0)?;
    let name = std::str::from_utf8(&line[..colon]).ok()?;
    name.bytes()
        .all(|byte| byte.is_ascii_graphic())
        .then_some(name)
}

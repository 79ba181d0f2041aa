//! The fingerprint of a mail: equal for two requests with the same content. It distinguishes a
//! repeated request with an idempotency key from one that reuses the key for other content
//! (`KeyReused`).
//!
//! What programs generate anew each time does not count: Date, Message-ID, trace fields,
//! signatures, MIME boundaries, and points in time that a caller computes from its clock.

use std::borrow::Cow;
use std::ops::Range;

use memchr::memmem;
use twox_hash::xxhash3_128::Hasher;

use super::header::{Field, Section};
use super::{Address, Envelope, Options, When};

/// Fields that are generated anew each time a message is written or passed on.
const VOLATILE_FIELDS: [&str; 4] = ["Date", "Message-ID", "Received", "DKIM-Signature"];

/// Fields that contain addresses.
const ADDRESS_FIELDS: [&str; 7] = [
    "From",
    "Sender",
    "Reply-To",
    "To",
    "Cc",
    "Bcc",
    "Return-Path",
];

/// The most boundaries of one message that are ignored; further ones count as content.
const MAX_BOUNDARIES: usize = 32;

/// The longest boundary that is ignored, in bytes. RFC 2046 §5.1.1 allows 70.
const MAX_BOUNDARY: usize = 200;

/// Whether this field is generated anew each time, so that it does not count.
pub(super) fn is_made_anew(name: &str) -> bool {
    VOLATILE_FIELDS
        .iter()
        .any(|anew| anew.eq_ignore_ascii_case(name))
}

/// A text with addresses, their domains in lower case: the case of a domain has no meaning (RFC
/// 5321 §2.4).
fn with_lower_domains(text: &[u8]) -> Cow<'_, [u8]> {
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

/// Hashes parts together with their lengths, so that `ab`, `c` and `a`, `bc` differ.
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
        self.add(with_lower_domains(return_path.as_bytes()));
        let recipients = envelope.recipients().iter();
        self.add_all(recipients.map(|address| with_lower_domains(address.as_str().as_bytes())))
    }

    /// Adds lists of addresses as people write them.
    pub fn add_addresses(&mut self, lists: &[String]) -> &mut Self {
        self.add_all(lists.iter().map(|list| with_lower_domains(list.as_bytes())))
    }

    pub fn finish(&self) -> u128 {
        self.0.finish_128()
    }
}

/// The fingerprint of a frozen message and its envelope. The work is linear in the size of the
/// message, which may come from an attacker.
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

/// The fingerprint of `content` and the options. The key itself does not count, nor do absolute
/// points in time.
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

    // Without a list, the fingerprint is the same as in versions without lists.
    if let Some(list) = list {
        print.add(list);
    }
    print.finish()
}

fn add_field<'a>(field: &Field<'a>, boundaries: &mut Vec<&'a [u8]>, print: &mut PartHasher) {
    match boundary_of(field) {
        None if ADDRESS_FIELDS.iter().any(|name| field.is(name)) => {
            print.add(with_lower_domains(field.raw))
        }
        None => print.add(field.raw),
        Some(boundary) => {
            boundaries.push(&field.raw[boundary.clone()]);
            print
                .add(&field.raw[..boundary.start])
                .add(&field.raw[boundary.end..])
        }
    };
}

/// The position of the multipart boundary in the field (RFC 2046 §5.1.1).
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

/// Adds a body piece by piece, with the boundaries in all delimiter lines left out. The header of
/// each part is searched for further boundaries.
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
                // Without the empty line's CRLF, which may be the start of the next delimiter.
                done -= 2;
            }
        }
        at = next_dashes(body, done.max(name));
    }

    print.add(&body[done..]);
}

/// The position of the next line that starts with two dashes.
fn next_dashes(body: &[u8], from: usize) -> Option<usize> {
    memmem::find(&body[from..], b"\r\n--").map(|at| from + at + 2)
}

/// The boundary of the delimiter at this position, if there is one.
fn delimiter<'a>(line: &[u8], boundaries: &[&'a [u8]]) -> Option<&'a [u8]> {
    let name = line.strip_prefix(b"--")?;
    boundaries
        .iter()
        .find(|boundary| name.starts_with(boundary))
        .copied()
}

/// The header fields of the part after a delimiter; none if it has no header.
///
/// Reading stops at the next delimiter, even if that looks like a field, so that each byte of a
/// body is read once, however many delimiters there are.
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

/// The name of the field that starts in this line, if there is one.
fn name_of(line: &[u8]) -> Option<&str> {
    let colon = memchr::memchr(b':', line).filter(|colon| *colon > 0)?;
    let name = std::str::from_utf8(&line[..colon]).ok()?;
    name.bytes()
        .all(|byte| byte.is_ascii_graphic())
        .then_some(name)
}

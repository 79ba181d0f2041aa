//! Mends what other programs write incorrectly, before it is parsed strictly. All submitted
//! messages pass through it. A note about each change is kept with the mail.
//!
//! *Invariant:* a well-formed message keeps every byte, and so does the header section of a signed
//! message (RFC 6376).

mod ascii_header;
mod body;
mod fields;
mod params;
mod parts;
mod scan;
mod seven_bit;

use bytes::Bytes;
use memchr::memchr;

use super::Envelope;
use super::freeze::SINGLE_FIELDS;
pub use ascii_header::ascii_header;
use scan::LooseField;
pub(super) use scan::Scan;
pub use seven_bit::seven_bit;

/// The most notes that are kept for a message.
const MAX_NOTES: usize = 16;

/// What the caller knows about a message.
#[derive(Clone, Copy, Debug, Default)]
pub struct Intake<'a> {
    /// The domain for addresses in the header section without one, such as `root`; otherwise the
    /// domain of the return path is used.
    pub domain: Option<&'a str>,
    /// The name of this machine, if neither is known.
    pub host: Option<&'a str>,
    /// How many bytes at the start were added by the listener, such as a Received field.
    pub trace: usize,
}

/// A mended message, with notes about what was changed.
pub(super) struct MendedMessage {
    pub message: Bytes,
    pub acts: Vec<String>,
}

/// What is known while a message is mended.
struct Context<'a> {
    domain: Option<&'a str>,
    /// Whether an address needs SMTPUTF8, so that the header section may stay in UTF-8 (RFC 6531).
    stays_utf8: bool,
}

/// Mends a message. A well-formed one is returned unchanged.
pub(super) fn mend(message: Bytes, envelope: &Envelope, intake: Intake<'_>) -> MendedMessage {
    let (trace, written) = message.split_at(intake.trace.min(message.len()));
    let scan = Scan::of(written);
    let mut acts = MendingNotes::default();
    if scan.is_too_long {
        return MendedMessage {
            message,
            acts: Vec::new(),
        };
    }

    if scan.lead.starts_with(scan::BOM) {
        acts.add("removed a byte order mark");
    }
    if scan.lead.len() > scan::BOM.len() {
        acts.add("removed a line of an mbox file");
    }

    if !scan.has_separator && scan.body.is_some() {
        acts.add(match scan.fields.is_empty() {
            true => "put a header section before a text that had none",
            false => "put an empty line between the header section and the body",
        });
    }

    let return_path = envelope.return_path().map(super::Address::domain);
    let context = Context {
        domain: intake.domain.or(return_path).or(intake.host),
        stays_utf8: fields::needs_utf8(&scan, envelope),
    };

    let mut header: Vec<Option<Vec<u8>>> = vec![None; scan.fields.len()];
    let mut added = String::new();
    let mut encoded = None;
    if !is_signed(&scan) {
        let said = OnceFields::of(&scan.fields);
        for (field, place) in scan.fields.iter().zip(&mut header) {
            let (mended, act) = match said.role_of(field) {
                FieldRole::Repeated => (Vec::new(), "removed, because it occurred twice"),
                FieldRole::Joined => (Vec::new(), "joined with the first one"),
                FieldRole::First(None) => match fields::mend(field, &context) {
                    Some(mended) => mended,
                    None => continue,
                },
                FieldRole::First(Some(whole)) => joined(field, &whole, &context),
                // The strict parser refuses these, with an error that names them.
                FieldRole::Ambiguous => continue,
            };
            acts.add(&format!("{}: {act}", shown(field.name)));
            *place = Some(mended);
        }
        encoded = body::mend(&scan, &mut added, &mut acts);
    }

    if acts.acts.is_empty() {
        return MendedMessage {
            message,
            acts: acts.acts,
        };
    }

    MendedMessage {
        message: with(trace, &scan, &header, &added, encoded.as_ref()),
        acts: acts.acts,
    }
}

/// Fields that contain a list of addresses, so that several of them mean the same as one.
const LIST_FIELDS: [&str; 3] = ["To", "Cc", "Reply-To"];

/// The role of a field that may occur only once (RFC 5322 §3.6), among those with its name.
#[derive(Clone, Debug, PartialEq, Eq)]
enum FieldRole {
    /// The first one. With the joined lists of all of them, if it is a list and they differ.
    First(Option<Vec<u8>>),
    /// A later one with the same value.
    Repeated,
    /// A later one whose list was added to the first.
    Joined,
    /// One of several with different values: it is unknown which one is meant.
    Ambiguous,
}

/// The first value of each field that may occur only once, and whether another one differs.
struct OnceFields<'a> {
    fields: &'a [LooseField<'a>],
    first: [Option<(&'a [u8], bool)>; SINGLE_FIELDS.len()],
}

impl<'a> OnceFields<'a> {
    fn of(fields: &'a [LooseField<'a>]) -> Self {
        let mut first = [None; SINGLE_FIELDS.len()];
        for field in fields {
            if let Some(which) = SINGLE_FIELDS.iter().position(|name| field.is(name)) {
                let value = field.value();
                let (said, is_ambiguous) = first[which].get_or_insert((value, false));
                *is_ambiguous |= said.trim_ascii() != value.trim_ascii();
            }
        }
        OnceFields { fields, first }
    }

    fn role_of(&self, field: &LooseField<'_>) -> FieldRole {
        let which = SINGLE_FIELDS.iter().position(|name| field.is(name));
        let Some((first, is_ambiguous)) = which.and_then(|which| self.first[which]) else {
            return FieldRole::First(None);
        };

        let is_first = std::ptr::eq(first, field.value());
        let is_list = LIST_FIELDS.iter().any(|name| field.is(name));
        match (is_ambiguous, is_first) {
            (false, true) => FieldRole::First(None),
            (false, false) => FieldRole::Repeated,
            (true, _) if !is_list => FieldRole::Ambiguous,
            (true, true) => FieldRole::First(Some(self.list_of(field.name))),
            (true, false) => FieldRole::Joined,
        }
    }

    /// All lists with this name as one, each on a line of its own.
    fn list_of(&self, name: &str) -> Vec<u8> {
        let lists = self.fields.iter().filter(|field| field.is(name));
        let lists = lists.map(|field| field.value().trim_ascii());
        let lists: Vec<&[u8]> = lists.filter(|list| !list.is_empty()).collect();
        [b" ", &lists.join(&b",\r\n "[..])[..], b"\r\n"].concat()
    }
}

/// The first of several lists, with the content of all of them, mended like any other field.
fn joined(first: &LooseField<'_>, value: &[u8], context: &Context<'_>) -> (Vec<u8>, &'static str) {
    let raw = [first.name.as_bytes(), b":", value].concat();
    let field = LooseField {
        name: first.name,
        raw: &raw,
        value_at: first.name.len() + 1,
    };
    let mended = fields::mend(&field, context).map(|(mended, _)| mended);
    (
        mended.unwrap_or(raw),
        "joined, because it occurred several times",
    )
}

/// Whether the header section is signed.
fn is_signed(scan: &Scan<'_>) -> bool {
    ["DKIM-Signature", "ARC-Seal", "ARC-Message-Signature"]
        .iter()
        .any(|name| scan.find(name).is_some())
}

/// Mends the body of an embedded message; its header section is unchanged.
pub(super) fn embedded(message: Bytes) -> Bytes {
    let scan = Scan::of(&message);
    let (mut added, mut acts) = (String::new(), MendingNotes::default());
    let encoded = match scan.is_too_long {
        true => None,
        false => body::mend(&scan, &mut added, &mut acts),
    };
    match encoded {
        Some(encoded) => with(&[], &scan, &[], &added, Some(&encoded)),
        None => message,
    }
}

/// Assembles the message from mended and unchanged parts.
fn with(
    trace: &[u8],
    scan: &Scan<'_>,
    header: &[Option<Vec<u8>>],
    added: &str,
    encoded: Option<&body::EncodedBody>,
) -> Bytes {
    let body = encoded.map(|encoded| &encoded.body[..]).or(scan.body);
    let size = scan
        .fields
        .iter()
        .map(|field| field.raw.len())
        .sum::<usize>()
        + body.map_or(0, <[u8]>::len);

    let mut out = Vec::with_capacity(trace.len() + size + size / 16 + added.len() + 256);
    out.extend_from_slice(trace);
    let has_new_encoding = encoded.is_some_and(|encoded| encoded.encoding.is_some());
    for (at, field) in scan.fields.iter().enumerate() {
        if has_new_encoding && field.is("Content-Transfer-Encoding") {
            continue;
        }
        let mended = header.get(at).and_then(Option::as_deref);
        if mended.is_some_and(<[u8]>::is_empty) {
            continue;
        }
        out.extend_from_slice(mended.unwrap_or(field.raw));
        if !out.ends_with(b"\n") {
            out.extend_from_slice(b"\r\n");
        }
    }

    out.extend_from_slice(added.as_bytes());
    if let Some(body) = body {
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(body);
    }

    out.into()
}

/// Notes about what was changed.
#[derive(Default)]
struct MendingNotes {
    acts: Vec<String>,
}

impl MendingNotes {
    fn add(&mut self, act: &str) {
        match self.acts.len() {
            n if n < MAX_NOTES => self.acts.push(act.to_owned()),
            MAX_NOTES => self.acts.push("and more".to_owned()),
            _ => {}
        }
    }
}

/// The start of a field's name, for a note; it is ASCII.
fn shown(name: &str) -> &str {
    name.get(..76).unwrap_or(name)
}

/// Whether a line is longer than servers must accept (RFC 5321 §4.5.3.1.6), not counting its line
/// end.
pub(super) fn has_long_line(text: &[u8]) -> bool {
    let mut at = 0;
    while at < text.len() {
        let end = memchr(b'\n', &text[at..]).map_or(text.len(), |lf| at + lf);
        let line = &text[at..end];
        if line.strip_suffix(b"\r").unwrap_or(line).len() > LONGEST_LINE {
            return true;
        }
        at = end + 1;
    }
    false
}

/// The most bytes of a line without its line end (RFC 5322 §2.1.1).
const LONGEST_LINE: usize = 998;

#[cfg(test)]
mod tests;

//! The mending room: what other programs write, made right before it is read strictly, in one place
//! for every way in. What was done is kept with the mail, in words.
//!
//! *Invariant:* a message that is well formed keeps every byte, and so does the header section of
//! one that is signed (RFC 6376): what was signed is never mended.

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

/// The most acts that are acts of one message.
const MAX_NOTES: usize = 16;

/// What a way in knows of a message besides its bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Intake<'a> {
    /// The domain of addresses in its header section that have none, such as `root`; else that of
    /// the return path.
    pub domain: Option<&'a str>,
    /// What this machine is called, where neither is known.
    pub host: Option<&'a str>,
    /// How many bytes in front the door has put there itself, such as a Received field.
    pub trace: usize,
}

/// A message that is as it should be, and what was done to it.
pub(super) struct MendedMessage {
    pub message: Bytes,
    pub acts: Vec<String>,
}

/// What is known while a message is mended.
struct Context<'a> {
    domain: Option<&'a str>,
    /// Whether an address needs SMTPUTF8, so that its header may stay in UTF-8 (RFC 6531).
    stays_utf8: bool,
}

/// Mends a message. One that is well formed comes back as it is.
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

    if !scan.is_parted && scan.body.is_some() {
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
            let (mended, act) = match said.standing(field) {
                FieldRole::Repeated => (Vec::new(), "removed, as it stood there twice"),
                FieldRole::Joined => (Vec::new(), "joined with the one above"),
                FieldRole::First(None) => match fields::mend(field, &context) {
                    Some(mended) => mended,
                    None => continue,
                },
                FieldRole::First(Some(whole)) => joined(field, &whole, &context),
                // The strict reader refuses them, and names them.
                FieldRole::Disputed => continue,
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

/// The fields that hold a list of addresses, so that several of them say what one would say.
const LIST_FIELDS: [&str; 3] = ["To", "Cc", "Reply-To"];

/// What a field that may stand there once (RFC 5322 §3.6) is to the others of its name.
#[derive(Clone, Debug, PartialEq, Eq)]
enum FieldRole {
    /// The first, and what all of them say together where it is a list and says less than that.
    First(Option<Vec<u8>>),
    /// A later one that says the same.
    Repeated,
    /// A later one that stands in the first now.
    Joined,
    /// One of several that say different things: nobody knows which is meant.
    Disputed,
}

/// What was said first by each field that may stand there once, and whether another says something
/// else.
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
                let (said, is_disputed) = first[which].get_or_insert((value, false));
                *is_disputed |= said.trim_ascii() != value.trim_ascii();
            }
        }
        OnceFields { fields, first }
    }

    fn standing(&self, field: &LooseField<'_>) -> FieldRole {
        let which = SINGLE_FIELDS.iter().position(|name| field.is(name));
        let Some((first, is_disputed)) = which.and_then(|which| self.first[which]) else {
            return FieldRole::First(None);
        };

        let is_first = std::ptr::eq(first, field.value());
        let is_list = LIST_FIELDS.iter().any(|name| field.is(name));
        match (is_disputed, is_first) {
            (false, true) => FieldRole::First(None),
            (false, false) => FieldRole::Repeated,
            (true, _) if !is_list => FieldRole::Disputed,
            (true, true) => FieldRole::First(Some(self.list_of(field.name))),
            (true, false) => FieldRole::Joined,
        }
    }

    /// All lists of this name as one, each on a line of its own.
    fn list_of(&self, name: &str) -> Vec<u8> {
        let lists = self.fields.iter().filter(|field| field.is(name));
        let lists = lists.map(|field| field.value().trim_ascii());
        let lists: Vec<&[u8]> = lists.filter(|list| !list.is_empty()).collect();
        [b" ", &lists.join(&b",\r\n "[..])[..], b"\r\n"].concat()
    }
}

/// The first of several lists that holds what all of them say, made right like any other field.
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
        "joined, as it stood there several times",
    )
}

/// Whether its header section is signed.
fn is_signed(scan: &Scan<'_>) -> bool {
    ["DKIM-Signature", "ARC-Seal", "ARC-Message-Signature"]
        .iter()
        .any(|name| scan.find(name).is_some())
}

/// A message within a message, its body made right; its header section stays.
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

/// The message put together from what was mended and what was not.
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

/// What was done, in words.
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

/// As much of a field's name as helps to find it; it is ASCII.
fn shown(name: &str) -> &str {
    name.get(..76).unwrap_or(name)
}

/// Whether a line is longer than servers need take (RFC 5321 §4.5.3.1.6), without its line end.
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

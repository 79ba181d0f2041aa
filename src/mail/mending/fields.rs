//! Mends a header field: in ASCII, on lines that are not too long, with complete addresses.

use std::borrow::Cow;

use super::params::HeaderParams;
use super::scan::{LooseField, Scan};
use super::{Context, LONGEST_LINE};
use crate::mail::address_list::{self, FoundMailbox, ListEntry};
use crate::mail::structured::{self, Kind};
use crate::mail::{Address, Envelope, Timestamp, field};

/// The longest word around which lines can be folded.
const LONGEST_WORD: usize = 900;

/// The characters of windows-1252 at 0x80 to 0x9f, where Latin-1 has control characters.
const WINDOWS_1252: [char; 32] = [
    '€', '\u{fffd}', '‚', 'ƒ', '„', '…', '†', '‡', 'ˆ', '‰', 'Š', '‹', 'Œ', '\u{fffd}', 'Ž',
    '\u{fffd}', '\u{fffd}', '‘', '’', '“', '”', '•', '–', '—', '˜', '™', 'š', '›', 'œ', '\u{fffd}',
    'ž', 'Ÿ',
];

/// Whether an address of the mail has no ASCII form.
pub(super) fn needs_utf8(scan: &Scan<'_>, envelope: &Envelope) -> bool {
    let mut envelope = envelope.recipients().iter().chain(envelope.return_path());
    if !envelope.all(Address::is_ascii) {
        return true;
    }
    // Bcc fields are removed from the message.
    let stays = |field: &&LooseField<'_>| !field.is("Bcc") && !field.is("Resent-Bcc");
    let eight_bit = scan.fields.iter().filter(|field| !field.raw.is_ascii());

    eight_bit.filter(stays).any(|field| {
        let text = text_of(field.value());
        is_addresses(field)
            && entries(&text).is_some_and(|entries| {
                address_list::mailboxes(entries).any(|found| !found.local.is_ascii())
            })
    })
}

/// The mended field with its line end, and a note about what was done; `None` if it needs no
/// mending, or cannot be mended.
pub(super) fn mend(
    field: &LooseField<'_>,
    context: &Context<'_>,
) -> Option<(Vec<u8>, &'static str)> {
    let is_spaced = field.value_at > field.name.len() + 1;
    let value = field.value();
    let is_utf8 = std::str::from_utf8(value).is_ok();
    if value
        .iter()
        .any(|byte| byte.is_ascii_control() && !b"\t\r\n".contains(byte))
        || has_bare_cr(value)
    {
        // The strict parser refuses it, with an error that names it.
        return None;
    }

    let text = text_of(value);
    if text.chars().any(|c| c.is_control() && !c.is_ascii()) {
        return None;
    }

    let is_long = field
        .raw
        .split(|byte| *byte == b'\n')
        .any(|line| line.len() > LONGEST_LINE + 1);

    if !value.is_ascii() && (!is_utf8 || !context.stays_utf8) {
        let act = match is_utf8 {
            true => "put in ASCII",
            false => "read as windows-1252, put in ASCII",
        };
        if let Some(written) = in_ascii(field, &text, context.domain) {
            return Some((written.into_bytes(), act));
        }
        if !is_utf8 {
            let lines = format!("{}:{}\r\n", field.name, text.trim_end());
            let read = LooseField {
                name: field.name,
                raw: lines.as_bytes(),
                value_at: field.name.len() + 1,
            };
            let whole = context.domain.and_then(|domain| qualified(&read, domain));
            return Some((whole.unwrap_or(lines.into_bytes()), "read as windows-1252"));
        }
    }

    if let Some(mended) = readable(field, &text, context.domain) {
        return Some(mended);
    }
    if is_long && let Some(written) = folded(field, &text, context) {
        return Some((written.into_bytes(), "folded"));
    }
    if let Some(whole) = context.domain.and_then(|domain| qualified(field, domain)) {
        return Some((whole, "a domain was added to an address"));
    }

    is_spaced.then(|| {
        let whole = [field.name.as_bytes(), b":", value].concat();
        (whole, "removed the space before the colon")
    })
}

/// Rewrites a value that other programs cannot parse, or parse differently, according to the
/// grammar (RFC 5322 §3). Local users get `domain`.
fn readable(
    field: &LooseField<'_>,
    text: &str,
    domain: Option<&str>,
) -> Option<(Vec<u8>, &'static str)> {
    if !text.is_ascii() {
        return None;
    }
    let line = |value: &str| format!("{}: {value}\r\n", field.name).into_bytes();

    if is_addresses(field) {
        let read = match address_list::read_loosely(text) {
            // Local recipients and one elsewhere look like a name without its quotes.
            Ok(read) if !is_author(field) => Some(read),
            _ => loose_entries(text),
        };
        let (entries, is_loose) = read?;
        let mut out = String::new();
        let written =
            is_loose && structured::write_addresses(&mut out, field.name, &entries, domain).is_ok();
        return written.then(|| (out.into_bytes(), "written as a list of addresses"));
    }

    let value = text.trim();
    if field.is("Message-ID") {
        let is_bare = value
            .bytes()
            .all(|b| b.is_ascii_graphic() && !b"<>()\",;".contains(&b))
            && value.split('@').filter(|part| !part.is_empty()).count() == 2
            && value.matches('@').count() == 1;
        return is_bare.then(|| (line(&format!("<{value}>")), "put in angle brackets"));
    }

    if field.is("Date") && !value.is_empty() {
        let strict = jiff::fmt::rfc2822::DateTimeParser::new().relaxed_weekday(true);
        if strict.parse_zoned(unfolded(text)).is_ok() {
            return None;
        }
        let read = mail_parser::DateTime::parse_rfc822(value).filter(|date| date.is_valid());
        return Some(
            match read.map(|date| date.to_timestamp()).filter(|at| *at > 0) {
                Some(at) => {
                    let date = Timestamp::from_millis(at.saturating_mul(1000)).to_rfc5322();
                    (line(&date), "written as a date")
                }
                None => (Vec::new(), "removed, because it was not a date"),
            },
        );
    }

    None
}

fn is_author(field: &LooseField<'_>) -> bool {
    let authors = ["From", "Sender", "Reply-To"];
    authors.iter().any(|name| field.is(name))
}

/// Text in UTF-8, or otherwise in windows-1252, the most likely charset.
pub(super) fn text_of(value: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(value) {
        Ok(text) => text.into(),
        Err(_) => {
            let character = |byte: &u8| match byte {
                0x80..=0x9f => WINDOWS_1252[usize::from(byte - 0x80)],
                byte => char::from(*byte),
            };
            value.iter().map(character).collect::<String>().into()
        }
    }
}

fn has_bare_cr(value: &[u8]) -> bool {
    memchr::memchr_iter(b'\r', value).any(|at| value.get(at + 1) != Some(&b'\n'))
}

pub(super) fn is_addresses(field: &LooseField<'_>) -> bool {
    matches!(
        structured::kind(field.name),
        Kind::Mailbox | Kind::Mailboxes
    )
}

/// The addresses of a field. A name without its quotes is accepted if a single address ends the
/// field: `Müller, GmbH <info@example.org>`.
pub(super) fn entries(text: &str) -> Option<Vec<ListEntry>> {
    loose_entries(text).map(|(entries, _)| entries)
}

/// The addresses, and whether other programs may parse the field differently.
fn loose_entries(text: &str) -> Option<(Vec<ListEntry>, bool)> {
    let read = address_list::read_loosely(text).ok();
    let has_domain = |found: &FoundMailbox| found.domain.is_some();
    let is_whole = |entry: &ListEntry| match entry {
        ListEntry::One(found) => has_domain(found),
        ListEntry::Group(_, members) => members.iter().all(has_domain),
    };

    if read
        .as_ref()
        .is_some_and(|(all, _)| all.iter().all(is_whole))
    {
        return read;
    }
    let text = unfolded(text);
    let one = text
        .strip_suffix('>')
        .and_then(|text| text.rsplit_once('<'));
    let Some((name, address)) = one else {
        return read;
    };
    let is_half_a_name =
        name.contains([',', ';', ':']) && !name.contains('"') || name.matches('"').count() == 1;
    let is_half_a_name = is_half_a_name && !name.contains(['<', '>', '@', '(']);
    let alone = address_list::read(address).unwrap_or_default();
    let (true, Ok([ListEntry::One(found)])) = (is_half_a_name, <[ListEntry; 1]>::try_from(alone))
    else {
        return read;
    };

    let name = address_list::decoded(name.replace('"', "").trim());
    let one = ListEntry::One(FoundMailbox {
        name: Some(name).filter(|name| !name.is_empty()),
        ..found
    });
    Some((vec![one], true))
}

pub(super) fn in_ascii(field: &LooseField<'_>, text: &str, domain: Option<&str>) -> Option<String> {
    let mut out = String::with_capacity(text.len() * 2);
    let name = field.name;
    let written = match structured::kind(name) {
        Kind::Text => {
            write_text(&mut out, name, text);
            Ok(())
        }
        Kind::Mailbox | Kind::Mailboxes => {
            structured::write_addresses(&mut out, name, &entries(text)?, domain)
        }
        Kind::Ascii if is_mime(name) => {
            field::write_words(&mut out, name, HeaderParams::of(&unfolded(text)).in_ascii());
            Ok(())
        }
        _ => structured::write(&mut out, name, &unfolded(text)),
    };

    (written.is_ok() && out.is_ascii() && !out.is_empty()).then_some(out)
}

fn is_mime(name: &str) -> bool {
    ["Content-Type", "Content-Disposition"]
        .iter()
        .any(|mime| mime.eq_ignore_ascii_case(name))
}

/// Encoded words in the text keep their meaning.
fn write_text(out: &mut String, name: &str, text: &str) {
    let text = unfolded(text).replace('\t', " ");
    field::write_text(out, name, &address_list::decoded(&text));
}

fn folded(field: &LooseField<'_>, text: &str, context: &Context<'_>) -> Option<String> {
    let mut out = String::with_capacity(text.len() + text.len() / 16);
    let name = field.name;
    let unfolded = unfolded(text);
    let written = match structured::kind(name) {
        Kind::Text if unfolded.split(' ').all(|word| word.len() <= LONGEST_WORD) => {
            field::write_words(&mut out, name, [unfolded.replace('\t', " ")]);
            Ok(())
        }
        Kind::Text => {
            write_text(&mut out, name, text);
            Ok(())
        }
        Kind::Mailbox | Kind::Mailboxes => {
            structured::write_addresses(&mut out, name, &entries(text)?, context.domain)
        }
        _ => structured::write(&mut out, name, &unfolded),
    };

    (written.is_ok() && !out.is_empty()).then_some(out)
}

/// The field with `domain` added to each local user; all other bytes are unchanged.
fn qualified(field: &LooseField<'_>, domain: &str) -> Option<Vec<u8>> {
    if !is_addresses(field) {
        return None;
    }

    let text = std::str::from_utf8(field.value()).ok()?;
    let is_bare = |found: &FoundMailbox| found.domain.is_none();
    // A name without its quotes is not a local user.
    if !address_list::mailboxes(entries(text)?).any(|found| is_bare(&found)) {
        return None;
    }

    let found = address_list::mailboxes(address_list::read(text).ok()?);
    let bare: Vec<FoundMailbox> = found.filter(is_bare).collect();
    let is_wrong = |found: &FoundMailbox| found.address(Some(domain)).is_err();
    if bare.is_empty() || bare.iter().any(is_wrong) {
        return None;
    }

    let mut whole = format!("{}:", field.name);
    let mut from = 0;
    for found in bare {
        whole.push_str(&text[from..found.place.end]);
        whole.push('@');
        whole.push_str(domain);
        from = found.place.end;
    }

    whole.push_str(&text[from..]);
    Some(whole.into_bytes())
}

/// A value on one line.
pub(super) fn unfolded(text: &str) -> String {
    let lines = text
        .split('\n')
        .map(|line| line.strip_suffix('\r').unwrap_or(line));
    let lines = lines.filter(|line| !line.trim_ascii().is_empty());
    lines.collect::<String>().trim().to_owned()
}

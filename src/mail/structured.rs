//! Which header fields have a syntax of their own (RFC 5322 §3.6 and the registry of permanent
//! message header fields, RFC 4021), and how their values are checked and written.
//!
//! *Invariant:* only free text and names become encoded words (RFC 2047 §5). An id, a URI or a
//! token is written unencoded or refused: programs would not decode it.

use std::fmt::Write;

use email_encoding::headers::quoted_string;
use email_encoding::headers::writer::EmailWriter;

use super::address_list::{self, ListEntry};
use super::field;
use super::mailbox::Mailbox;

/// The longest word that is written on one line (RFC 5322 §2.1.1).
const LONGEST_WORD: usize = 900;
/// The length of the pieces into which a signature is split.
const SIGNATURE_PIECE: usize = 72;

/// The syntax of a field's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Free text.
    Text,
    /// One mailbox.
    Mailbox,
    /// Mailboxes and groups.
    Mailboxes,
    /// `<name@example.org>`
    Id,
    /// Several ids.
    Ids,
    /// `<https://example.org/>, <mailto:list@example.org>` (RFC 2369 §2).
    Uris,
    /// A name and `<list.example.org>` (RFC 2919 §3).
    ListId,
    /// The same syntax as Date.
    Date,
    /// Words for programs, perhaps with parameters: `auto-replied; owner-email="a@b"`.
    Tokens,
    /// `List-Unsubscribe=One-Click` (RFC 8058 §3.1).
    OneClick,
    /// `de, en-GB` (RFC 3282).
    Languages,
    /// Phrases, separated by commas.
    Phrases,
    /// `v=1; a=rsa-sha256; b=…`, where folding has no meaning (RFC 6376 §3.2).
    Tags,
    /// Another syntax for programs, always in ASCII.
    Ascii,
}

#[rustfmt::skip]
const KINDS: [(Kind, &[&str]); 13] = [
    (Kind::Mailbox, &["Sender", "Resent-Sender", "Original-Sender", "Author-Address", "X-Sender"]),
    (Kind::Mailboxes, &[
        "From", "To", "Cc", "Bcc", "Reply-To", "Resent-From", "Resent-To", "Resent-Cc",
        "Resent-Bcc", "Resent-Reply-To", "Disposition-Notification-To", "Return-Receipt-To",
        "X-Confirm-Reading-To", "Read-Receipt-To", "Errors-To", "Original-From", "Author",
        "Mail-Followup-To", "Mail-Reply-To", "Apparently-To", "Followup-To-Address",
        "Alternate-Recipient-Address", "Originator-Return-Address", "X-Original-From",
        "Abuse-Reports-To", "X-Report-Abuse-To",
    ]),
    (Kind::Id, &["Message-ID", "Resent-Message-ID", "Original-Message-ID", "Content-ID"]),
    (Kind::Ids, &["In-Reply-To", "References", "Obsoletes", "Supersedes", "Resent-References"]),
    (Kind::Uris, &[
        "List-Archive", "List-Help", "List-Owner", "List-Post", "List-Subscribe",
        "List-Unsubscribe", "Archived-At",
    ]),
    (Kind::ListId, &["List-ID"]),
    (Kind::Date, &[
        "Date", "Resent-Date", "Expires", "Expiry-Date", "Reply-By", "Delivery-Date",
        "Deferred-Delivery", "Latest-Delivery-Time", "Injection-Date", "Original-Date",
    ]),
    (Kind::Tokens, &[
        "Auto-Submitted", "Autosubmitted", "Autoforwarded", "Precedence", "X-Precedence",
        "Importance", "Priority", "X-Priority", "X-MSMail-Priority", "Sensitivity",
        "Message-Context", "Message-Type", "MT-Priority", "TLS-Required", "Conversion",
        "Conversion-With-Loss", "Alternate-Recipient", "Disclose-Recipients",
        "Generate-Delivery-Report", "Prevent-NonDelivery-Report", "Incomplete-Copy",
        "X-Auto-Response-Suppress", "Disposition-Notification-Options", "Content-Return",
        "Content-Duration", "Encoding", "MMHS-Primary-Precedence", "MMHS-Copy-Precedence",
        "MMHS-Message-Type", "MMHS-Exempted-Address", "Original-Encoded-Information-Types",
        "Content-Alternative", "Content-Features",
    ]),
    (Kind::OneClick, &["List-Unsubscribe-Post"]),
    (Kind::Languages, &["Content-Language", "Accept-Language", "Language"]),
    (Kind::Phrases, &["Keywords", "X-Keywords"]),
    (Kind::Tags, &[
        "DKIM-Signature", "ARC-Seal", "ARC-Message-Signature", "X-Google-DKIM-Signature",
        "DomainKey-Signature", "Autocrypt", "Autocrypt-Gossip", "BIMI-Selector", "OpenPGP",
        "VBR-Info", "X-ME-Proxy", "DKIM2-Signature",
    ]),
    (Kind::Ascii, &[
        "ARC-Authentication-Results", "Authentication-Results", "Received", "Received-SPF",
        "Return-Path", "Feedback-ID", "MIME-Version", "Content-Type", "Content-Transfer-Encoding",
        "Content-Disposition", "Content-Location", "Content-Base", "Content-MD5", "Content-Length",
        "Content-Identifier", "Require-Recipient-Valid-Since", "Original-Recipient",
        "Original-Envelope-Id", "Envelope-Id", "Solicitation", "Jabber-ID", "Face", "X-Face",
        "PICS-Label", "TLS-Report-Domain", "TLS-Report-Submitter", "Encrypted", "Newsgroups",
        "Path", "Xref", "Lines", "BIMI-Location", "BIMI-Indicator", "X-UIDL",
        "DL-Expansion-History", "X400-Content-Identifier", "X400-Content-Return",
        "X400-Content-Type", "X400-MTS-Identifier", "X400-Originator", "X400-Received",
        "X400-Recipients", "X400-Trace", "P1-Content-Type", "P1-Message-Id", "P1-Recipient",
    ]),
];

/// The syntax of this field's value.
pub(super) fn kind(name: &str) -> Kind {
    let is_among = |names: &&[&str]| names.iter().any(|known| known.eq_ignore_ascii_case(name));
    let known = KINDS.iter().find(|(_, names)| is_among(names));
    known.map_or(Kind::Text, |(kind, _)| *kind)
}

/// Appends a field. The caller has checked that the value has no control characters. An empty one
/// is left out.
///
/// # Errors
/// The value is not valid for this field; the error says why.
pub(super) fn write(out: &mut String, name: &str, value: &str) -> Result<(), String> {
    let value = value.trim();
    let kind = kind(name);
    if kind == Kind::Text {
        field::write_text(out, name, value);
        return Ok(());
    }

    if value.is_empty() {
        return Ok(());
    }
    match kind {
        Kind::Text => {}
        Kind::Mailbox => {
            let mailbox = Mailbox::parse(value)?;
            field::write_mailboxes(out, name, std::slice::from_ref(&mailbox));
        }
        Kind::Mailboxes => write_addresses(out, name, &address_list::read(value)?, None)?,
        Kind::Id => match &*ids(value)? {
            [id] if id.contains('@') => field::write_words(out, name, [id]),
            _ => return Err("is not an id such as <name@example.org>".to_owned()),
        },
        Kind::Ids => field::write_words(out, name, ids(value)?),
        Kind::Uris => field::write_words(out, name, uris(name, value)?),
        Kind::ListId => write_list_id(out, name, value)?,
        Kind::Date => {
            if jiff::fmt::rfc2822::parse(value).is_err() {
                let reason = "is not a date in RFC 5322, such as Sat, 31 Jan 2026 12:00:00 +0000";
                return Err(reason.to_owned());
            }
            field::write_words(out, name, value.split_whitespace());
        }
        Kind::Tokens => {
            check_tokens(value)?;
            field::write_words(out, name, words(value)?);
        }
        Kind::OneClick => {
            if !value.eq_ignore_ascii_case("List-Unsubscribe=One-Click") {
                return Err("can only be List-Unsubscribe=One-Click (RFC 8058 §3.1)".to_owned());
            }
            field::write_words(out, name, [value]);
        }
        Kind::Languages => {
            check_languages(value)?;
            field::write_words(out, name, words(value)?);
        }
        Kind::Phrases => {
            let phrases = phrases(value)?;
            field::write_with(out, name, |to| {
                for (i, phrase) in phrases.iter().enumerate() {
                    if i > 0 {
                        to.write_char(',')?;
                        to.space();
                    }
                    write_phrase(phrase, to)?;
                }
                Ok(())
            });
        }
        Kind::Tags => {
            let has_tags = value.contains('=') || !value.contains(' ');
            if !has_tags {
                return Err("is not a list of tags such as v=1; a=b".to_owned());
            }
            let in_pieces = ascii(value)?.split_whitespace().flat_map(pieces);
            field::write_words(out, name, in_pieces);
        }
        Kind::Ascii => field::write_words(out, name, words(value)?),
    }

    Ok(())
}

/// Appends a field of mailboxes and groups; those without a domain get `domain`.
///
/// # Errors
/// One of them is not an address, or there is none.
pub(super) fn write_addresses(
    out: &mut String,
    name: &str,
    entries: &[ListEntry],
    domain: Option<&str>,
) -> Result<(), String> {
    if entries.is_empty() {
        return Err("has no address".to_owned());
    }

    let mut read = Vec::with_capacity(entries.len());
    for entry in entries {
        let (group, found) = match entry {
            ListEntry::One(found) => (None, std::slice::from_ref(found)),
            ListEntry::Group(name, members) => (Some(name), &members[..]),
        };
        let mailboxes: Result<Vec<_>, _> = found
            .iter()
            .map(|found| Mailbox::found(found, domain))
            .collect();
        read.push((group, mailboxes?));
    }

    field::write_with(out, name, |to| {
        for (i, (group, mailboxes)) in read.iter().enumerate() {
            if i > 0 {
                to.write_char(',')?;
                to.space();
            }
            if let Some(group) = group {
                write_phrase(group, to)?;
                to.write_char(':')?;
                to.space();
            }
            field::list_mailboxes(mailboxes, to)?;
            if group.is_some() {
                to.write_char(';')?;
            }
        }
        Ok(())
    });

    Ok(())
}

fn ascii(value: &str) -> Result<&str, String> {
    match value.chars().find(|c| !c.is_ascii()) {
        Some(c) => Err(format!("has `{c}`, and can only hold ASCII")),
        None => Ok(value),
    }
}

/// The words of a value that is written unencoded.
fn words(value: &str) -> Result<std::str::SplitWhitespace<'_>, String> {
    let words = ascii(value)?.split_whitespace();
    match words.clone().any(|word| word.len() > LONGEST_WORD) {
        true => Err(format!("has a word of more than {LONGEST_WORD} bytes")),
        false => Ok(words),
    }
}

/// A long word in pieces, between which it can be folded.
fn pieces(word: &str) -> impl Iterator<Item = &str> {
    let size = if word.len() > LONGEST_WORD {
        SIGNATURE_PIECE
    } else {
        word.len()
    };
    let ends = (0..word.len()).step_by(size);
    ends.map(move |at| &word[at..word.len().min(at + size)])
}

fn ids(value: &str) -> Result<Vec<&str>, String> {
    let wrong = || "has something else than ids such as <name@example.org>".to_owned();
    let mut ids = Vec::new();
    let mut rest = value;

    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        if rest.is_empty() {
            return Ok(ids);
        }
        let end = rest
            .find('>')
            .filter(|_| rest.starts_with('<'))
            .ok_or_else(wrong)?;
        let (id, after) = rest.split_at(end + 1);
        let inner = &id[1..end];
        let is_id = !inner.is_empty()
            && inner.len() <= LONGEST_WORD
            && inner
                .bytes()
                .all(|byte| byte.is_ascii_graphic() && byte != b'<')
            && !inner.starts_with('@')
            && !inner.ends_with('@');
        if !is_id {
            return Err(wrong());
        }
        ids.push(id);
        rest = after;
    }
}

/// The URIs, each with the comma that follows it, and comments unchanged.
fn uris(name: &str, value: &str) -> Result<Vec<String>, String> {
    if name.eq_ignore_ascii_case("List-Post") && value.starts_with("NO") {
        return Ok(words(value)?.map(str::to_owned).collect());
    }
    let mut items: Vec<String> = Vec::new();
    let mut found = false;

    let mut rest = value;
    loop {
        rest = rest.trim_start();
        let Some(first) = rest.chars().next() else {
            break;
        };
        let end = match first {
            '<' => rest.find('>').ok_or("has `<` without `>` after it")? + 1,
            '(' => comment_end(rest)?,
            ',' => 1,
            _ => {
                return Err(
                    "is not a list of URIs such as <https://example.org/unsubscribe>".into(),
                );
            }
        };
        let (item, after) = rest.split_at(end);
        match (first, items.last_mut()) {
            ('<', _) => {
                found = true;
                items.push(format!("<{}>", uri(item[1..end - 1].trim())?));
            }
            (',', Some(last)) => last.push(','),
            (',', None) => {}
            _ => items.extend(words(item)?.map(str::to_owned)),
        }
        rest = after;
    }

    match found {
        true => Ok(items),
        false => Err("has no URI such as <https://example.org/unsubscribe>".to_owned()),
    }
}

/// A URI in ASCII (RFC 3986); other characters are converted.
fn uri(text: &str) -> Result<String, String> {
    let scheme = text.split_once(':').map_or("", |(scheme, _)| scheme);
    let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));

    if !is_scheme || scheme.len() + 1 == text.len() {
        return Err(format!(
            "has `{}`, which is not a URI such as https://example.org/unsubscribe",
            text.chars().take(80).collect::<String>()
        ));
    }

    if text.contains([' ', '<', '>', '"']) {
        return Err(
            "has a space, a quote or a bracket in a URI: write %20 and the like".to_owned(),
        );
    }

    let uri = match text.is_ascii() {
        true => text.to_owned(),
        false => url::Url::parse(text)
            .map_err(|why| format!("has a URI that is not valid: {why}"))?
            .into(),
    };

    match uri.len() > LONGEST_WORD {
        true => Err(format!("has a URI of more than {LONGEST_WORD} bytes")),
        false => Ok(uri),
    }
}

/// The end of the comment at the start of `text`.
fn comment_end(text: &str) -> Result<usize, String> {
    let (mut depth, mut escaped) = (0_usize, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Ok(at + 1);
        }
    }

    Err("has a comment that is never closed".to_owned())
}

fn write_list_id(out: &mut String, name: &str, value: &str) -> Result<(), String> {
    let wrong = || "is not a list's id such as News <news.example.org>".to_owned();
    let (phrase, id) = value
        .strip_suffix('>')
        .and_then(|value| value.rsplit_once('<'))
        .ok_or_else(wrong)?;
    let id = match id.is_ascii() {
        true => id.to_owned(),
        false => idna::domain_to_ascii(id).map_err(|_| wrong())?,
    };

    let is_id = !id.is_empty()
        && id.len() <= 255
        && id
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && byte != b'<');

    if !is_id {
        return Err(wrong());
    }

    let phrase = plain_phrase(phrase);
    field::write_with(out, name, |to| {
        if !phrase.is_empty() {
            write_phrase(&phrase, to)?;
            to.space();
        }
        to.folding().write_str(&format!("<{id}>"))
    });

    Ok(())
}

/// A phrase, decoded and without quotes.
fn plain_phrase(phrase: &str) -> String {
    let phrase = phrase.trim();
    match phrase
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'))
    {
        Some(quoted) => address_list::unescaped(quoted),
        None => address_list::decoded(phrase),
    }
}

fn write_phrase(phrase: &str, to: &mut EmailWriter<'_>) -> std::fmt::Result {
    let is_atom = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    match phrase.bytes().all(is_atom) {
        true => to.folding().write_str(phrase),
        false => quoted_string::encode(phrase, to),
    }
}

fn phrases(value: &str) -> Result<Vec<String>, String> {
    let mut phrases = Vec::new();
    let (mut start, mut quoted, mut escaped) = (0, false, false);
    for (at, c) in value.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            ',' if !quoted => {
                phrases.push(plain_phrase(&value[start..at]));
                start = at + 1;
            }
            _ => {}
        }
    }

    if quoted {
        return Err("has a double quote that is never closed".to_owned());
    }
    phrases.push(plain_phrase(&value[start..]));
    phrases.retain(|phrase| !phrase.is_empty());
    Ok(phrases)
}

/// Checks that words are separated by commas or semicolons, as programs expect.
fn check_tokens(value: &str) -> Result<(), String> {
    let mut rest = ascii(value)?;
    let mut words_here = 0;
    loop {
        rest = rest.trim_start();
        let Some(first) = rest.bytes().next() else {
            break;
        };
        let end = match first {
            b'(' => comment_end(rest)?,
            b',' | b';' => {
                words_here = 0;
                1
            }
            _ => {
                words_here += 1;
                token_end(rest)?
            }
        };
        if words_here > 1 {
            return Err("has several words where one is expected".to_owned());
        }
        rest = &rest[end..];
    }

    Ok(())
}

/// The end of a word, which may have a quoted value: `owner-email="a b@example.org"`.
fn token_end(text: &str) -> Result<usize, String> {
    let (mut quoted, mut escaped) = (false, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            ' ' | '\t' | ',' | ';' | '(' if !quoted => return Ok(at),
            _ => {}
        }
    }

    match quoted {
        true => Err("has a double quote that is never closed".to_owned()),
        false => Ok(text.len()),
    }
}

fn check_languages(value: &str) -> Result<(), String> {
    let is_subtag = |tag: &str| {
        (1..=8).contains(&tag.len()) && tag.bytes().all(|byte| byte.is_ascii_alphanumeric())
    };
    for language in value.split(',') {
        let tag = language.split([';', '(']).next().unwrap_or_default().trim();
        let begins = tag.starts_with(|c: char| c.is_ascii_alphabetic());
        if tag != "*" && !(begins && tag.split('-').all(is_subtag)) {
            return Err("is not a list of languages such as de, en-GB".to_owned());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;

//! Turns a written message into the bytes that are sent, at every attempt.
//!
//! Every way to make a [`Mail`](super::Mail) ends here. A message that needs no change, as almost
//! all, is returned without a copy.

use bytes::Bytes;
use memchr::{memchr, memchr_iter, memchr2};

use super::header::{Field, Section, refuse};
use super::{Address, MailError, MailId, Timestamp, subject};

/// The fields that may occur only once (RFC 5322 §3.6). Readers disagree about which of two counts,
/// so two are refused.
pub(super) const SINGLE_FIELDS: [&str; 12] = [
    "From",
    "To",
    "Cc",
    "Subject",
    "Date",
    "Message-ID",
    "Reply-To",
    "Sender",
    "In-Reply-To",
    "References",
    // RFC 2045 §3: with two of these, readers disagree about the content of the body.
    "Content-Type",
    "Content-Transfer-Encoding",
];

/// The fields that define the meaning of bytes above 127 in the body.
const MIME_FIELDS: [&str; 3] = ["MIME-Version", "Content-Type", "Content-Transfer-Encoding"];

/// A message whose bytes do not change any more.
#[derive(Clone, Debug)]
pub(super) struct FrozenMessage {
    pub bytes: Bytes,
    pub message_id: String,
    pub subject: String,
    pub eight_bit: bool,
    pub utf8_header: bool,
    /// The fields that were added.
    pub made: Vec<&'static str>,
}

/// Freezes a message:
///
/// - Line ends become CRLF: a bare LF everywhere, a bare CR in the body. In the header section a
///   bare CR is refused, and lines of only white space are removed, since some readers treat them
///   as the end of the header section.
/// - Bcc is removed. Date and Message-ID are added if they are missing or empty; so is From, from
///   the return path, as RFC 6409 §8 allows a submission server to do.
/// - Long lines in the body are kept: breaking them would break signatures, and many servers accept
///   them.
///
/// Freezing the result again does not change it.
pub(super) fn freeze(
    message: Bytes,
    return_path: Option<&Address>,
    id: MailId,
) -> Result<FrozenMessage, MailError> {
    let section = Section::read(&message)?;
    let body = section.body.unwrap_or_default();
    check_once(&section)?;
    check_body(&section, body)?;

    let removed = section
        .fields
        .iter()
        .filter(|field| is_removed(field))
        .count();
    let (mut added, mut made) = (String::new(), Vec::new());

    let kept = |name| section.find(name).filter(|field| !field.is_empty());
    let from = match (kept("From"), return_path) {
        (Some(field), _) => field.value().into_owned(),
        (None, Some(address)) => {
            added.push_str(&format!("From: <{address}>\r\n"));
            made.push("From");
            address.to_string()
        }
        (None, None) => {
            return Err(MailError::new(
                "from",
                "the message has no From, and there is no return path",
            ));
        }
    };

    if kept("Date").is_none() {
        added.push_str(&format!("Date: {}\r\n", Timestamp::now().to_rfc5322()));
        made.push("Date");
    }

    let message_id = match kept("Message-ID") {
        Some(field) => field.value().chars().take(998).collect(),
        None => {
            let message_id = message_id(id, domain_of(&from).or(return_path.map(Address::domain)));
            added.push_str(&format!("Message-ID: {message_id}\r\n"));
            made.push("Message-ID");
            message_id
        }
    };

    let subject = section
        .find("Subject")
        .map_or(String::new(), |field| subject::decode(&field.value()));
    let stays_utf8 = |field: &Field<'_>| !is_removed(field) && !field.raw.is_ascii();
    let utf8_header = !added.is_ascii() || (section.utf8 && section.fields.iter().any(stays_utf8));
    let eight_bit = utf8_header || !body.is_ascii();

    let is_unchanged = section.canonical && removed == 0 && added.is_empty() && has_only_crlf(body);
    let bytes = if is_unchanged {
        None
    } else {
        Some(rewrite(&section, &added, message.len()))
    };

    Ok(FrozenMessage {
        bytes: bytes.unwrap_or(message),
        message_id,
        subject,
        eight_bit,
        utf8_header,
        made,
    })
}

/// A new Message-ID (RFC 5322 §3.6.4). It contains the mail's id, so that the mail can be found
/// from a server's log.
pub(super) fn message_id(id: MailId, domain: Option<&str>) -> String {
    format!(
        "<{id}@{}>",
        domain
            .filter(|domain| domain.is_ascii())
            .unwrap_or("localhost")
    )
}

/// Bcc is for the envelope only (RFC 5322 §3.6.3); the others are removed if they are empty, and
/// added anew.
fn is_removed(field: &Field<'_>) -> bool {
    ["Bcc", "Resent-Bcc"].iter().any(|name| field.is(name))
        || (field.is_empty()
            && ["From", "Date", "Message-ID"]
                .iter()
                .any(|name| field.is(name)))
}

fn check_once(section: &Section<'_>) -> Result<(), MailError> {
    let mut seen = [false; SINGLE_FIELDS.len()];
    for field in &section.fields {
        let Some(which) = SINGLE_FIELDS.iter().position(|name| field.is(name)) else {
            continue;
        };
        if std::mem::replace(&mut seen[which], true) {
            return Err(refuse(
                SINGLE_FIELDS[which],
                "occurs twice; at most one is allowed (RFC 5322 §3.6, RFC 2045 §3)",
            ));
        }
    }

    Ok(())
}

fn check_body(section: &Section<'_>, body: &[u8]) -> Result<(), MailError> {
    if memchr(0, body).is_some() {
        return Err(MailError::new(
            "body",
            "has a NUL byte, which no server accepts: encode it as base64",
        ));
    }

    if !body.is_ascii() && !MIME_FIELDS.iter().any(|name| section.find(name).is_some()) {
        return Err(MailError::new(
            "body",
            "has bytes above 127, but no MIME-Version field that defines their meaning",
        ));
    }

    Ok(())
}

/// Whether the body has no line ends other than CRLF.
fn has_only_crlf(body: &[u8]) -> bool {
    let mut lines = 0;
    for lf in memchr_iter(b'\n', body) {
        if lf == 0 || body[lf - 1] != b'\r' {
            return false;
        }
        lines += 1;
    }
    memchr_iter(b'\r', body).count() == lines
}

fn rewrite(section: &Section<'_>, added: &str, size: usize) -> Bytes {
    let mut out = Vec::with_capacity(size + size / 32 + added.len() + 64);
    for field in section.fields.iter().filter(|field| !is_removed(field)) {
        for line in field.lines() {
            out.extend_from_slice(line);
            out.extend_from_slice(b"\r\n");
        }
    }

    // Below the existing fields, so that trace fields stay at the top.
    out.extend_from_slice(added.as_bytes());
    if let Some(body) = section.body {
        out.extend_from_slice(b"\r\n");
        write_crlf(body, &mut out);
    }

    Bytes::from(out)
}

/// Appends `text` with every line end (CRLF, LF or CR) as CRLF.
pub(super) fn write_crlf(mut text: &[u8], out: &mut Vec<u8>) {
    while let Some(end) = memchr2(b'\r', b'\n', text) {
        out.extend_from_slice(&text[..end]);
        out.extend_from_slice(b"\r\n");
        text = text[end..]
            .strip_prefix(b"\r\n")
            .unwrap_or(&text[end + 1..]);
    }
    out.extend_from_slice(text);
}

/// The domain of the last address in a field, if it is valid in a Message-ID.
fn domain_of(mailboxes: &str) -> Option<&str> {
    let (_, domain) = mailboxes.rsplit_once('@')?;
    let end = domain
        .find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '-')))
        .unwrap_or(domain.len());
    let domain = &domain[..end];
    (!domain.is_empty() && !domain.starts_with('.') && !domain.ends_with('.')).then_some(domain)
}

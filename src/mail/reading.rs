//! Parses a message for display: header fields as they are written and decoded, text, parts, and
//! the codes and links in it.
//!
//! *Invariant:* the result is bounded for any message, and says whether something was left out.

use mail_parser::{Message, MessageParser, MessagePart, MimeHeaders, PartType};
use serde::{Deserialize, Serialize};

use super::characters::{is_harmless, is_invisible};
use super::{findings, subject};

/// The most bytes of text that are returned.
const MAX_TEXT: usize = 512 * 1024;

/// The most bytes of a header field.
const MAX_FIELD: usize = 16 * 1024;

/// How many nested messages a message may mention.
const MAX_NESTED: usize = 200;
/// The most pieces of a field's parameters (RFC 2231 §3).
const MAX_PIECES: usize = 100;
/// The most header fields, and the most parts.
const MAX_ENTRIES: usize = 500;

/// The most characters of a file name.
const MAX_NAME: usize = 200;

/// A parsed message.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct Reading {
    /// The decoded subject.
    pub subject: String,
    /// The header fields in order.
    pub headers: Vec<HeaderField>,
    /// The text; if there is none, that of the HTML.
    pub text: String,
    /// Whether there is HTML.
    pub has_html: bool,
    /// Its parts, without multiparts.
    pub parts: Vec<PartInfo>,
    /// What looks like a code to be typed, in the subject and the text.
    pub codes: Vec<String>,
    /// The URLs in text and HTML.
    pub links: Vec<String>,
    /// Whether something was too long and was cut; the raw message has all of it.
    pub is_cut: bool,
}

/// A header field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct HeaderField {
    /// Its name.
    pub name: String,
    /// The value, unfolded and decoded.
    pub value: String,
    /// The value as it is written.
    pub raw: String,
}

/// One part of a message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct PartInfo {
    /// Its number, for requests.
    pub n: usize,
    /// Its media type.
    pub content_type: String,
    /// The name of its file.
    pub filename: Option<String>,
    /// Its Content-ID, without angle brackets.
    pub content_id: Option<String>,
    /// Its size in bytes, decoded.
    pub size: usize,
    /// Whether it is an attachment rather than the text or the HTML.
    pub attachment: bool,
}

/// A parsed part with its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The part.
    pub info: PartInfo,
    /// The decoded content; text is in UTF-8.
    pub content: Vec<u8>,
}

impl Reading {
    /// Parses a message. Never fails: the result for bytes that are no message is empty.
    pub fn of(message: &[u8]) -> Self {
        let Some(parsed) = parse(message) else {
            return Reading::default();
        };

        let mut is_cut = false;
        let headers: Vec<HeaderField> = parsed
            .headers_raw()
            .take(MAX_ENTRIES)
            .map(|(name, raw)| HeaderField {
                name: cut(name, MAX_FIELD, &mut is_cut),
                value: cut(&decoded_value(raw), MAX_FIELD, &mut is_cut),
                raw: cut(raw.trim_matches([' ', '\r', '\n']), MAX_FIELD, &mut is_cut),
            })
            .collect();

        let html = html_of(&parsed);
        // HTML that is too long is cut before it is converted to text.
        let text = match parsed.text_part(0).map(|part| &part.body) {
            Some(PartType::Text(text)) => cut(text, MAX_TEXT, &mut is_cut),
            Some(PartType::Html(html)) => {
                let html = cut(html, MAX_TEXT, &mut is_cut);
                mail_parser::decoders::html::html_to_text(&html)
            }
            _ => String::new(),
        };

        let parts: Vec<PartInfo> = numbered(&parsed)
            .map(|(n, part)| info(&parsed, n, part))
            .take(MAX_ENTRIES)
            .collect();
        let subject = parsed.subject().map(subject::printable).unwrap_or_default();
        let shown_html = html.map(|html| cut(html, MAX_TEXT, &mut is_cut));

        is_cut |= headers.len() == MAX_ENTRIES || parts.len() == MAX_ENTRIES;
        Reading {
            codes: findings::codes(&subject, &text),
            links: findings::links(&text, shown_html.as_deref().unwrap_or_default()),
            subject,
            headers,
            text,
            has_html: shown_html.is_some(),
            parts,
            is_cut,
        }
    }

    /// The decoded value of the first field with this name.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = |field: &&HeaderField| field.name.eq_ignore_ascii_case(name);
        self.headers
            .iter()
            .find(found)
            .map(|field| field.value.as_str())
    }

    /// The HTML of a message, and the parts to which it can refer: those with a Content-ID.
    pub fn html(message: &[u8]) -> Option<(String, Vec<Part>)> {
        let parsed = parse(message)?;
        let html = html_of(&parsed)?.to_owned();
        let shown = numbered(&parsed)
            .filter(|(_, part)| part.content_id().is_some())
            .take(MAX_ENTRIES)
            .map(|(n, part)| Part {
                info: info(&parsed, n, part),
                content: part.contents().to_vec(),
            })
            .collect();
        Some((html, shown))
    }

    /// One part of a message, by its number.
    pub fn part(message: &[u8], n: usize) -> Option<Part> {
        let parsed = parse(message)?;
        let (_, part) = numbered(&parsed).find(|(number, _)| *number == n)?;
        Some(Part {
            info: info(&parsed, n, part),
            content: part.contents().to_vec(),
        })
    }
}

/// The parts with content of their own, and their numbers.
fn numbered<'a, 'x>(
    message: &'a Message<'x>,
) -> impl Iterator<Item = (usize, &'a MessagePart<'x>)> {
    let parts = message.parts.iter().enumerate();
    parts.filter(|(_, part)| !matches!(part.body, PartType::Multipart(_)))
}

fn html_of<'a>(message: &'a Message<'_>) -> Option<&'a str> {
    let mut bodies = message.html_bodies();
    bodies.find_map(|part| match &part.body {
        PartType::Html(html) => Some(html.as_ref()),
        _ => None,
    })
}

fn info(message: &Message<'_>, n: usize, part: &MessagePart<'_>) -> PartInfo {
    let kind = part.content_type().map(|kind| {
        let subtype = kind.subtype().unwrap_or("*");
        format!("{}/{subtype}", kind.ctype()).to_ascii_lowercase()
    });

    let default = match part.body {
        PartType::Text(_) => "text/plain",
        PartType::Message(_) => "message/rfc822",
        _ => "application/octet-stream",
    };

    let mut is_cut = false;
    let is_listed = message
        .attachments
        .iter()
        .any(|listed| *listed as usize == n);

    PartInfo {
        n,
        content_type: kind.unwrap_or_else(|| default.to_owned()),
        filename: part.attachment_name().map(file_name),
        content_id: part
            .content_id()
            .map(|id| cut(id.trim_matches(['<', '>']), MAX_FIELD, &mut is_cut)),
        size: part.contents().len(),
        attachment: is_listed,
    }
}

/// A file name without a path, invisible characters, and those that change the direction of
/// writing.
fn file_name(given: &str) -> String {
    let last = given.rsplit(['/', '\\']).next().unwrap_or_default();
    let name: String = last
        .chars()
        .filter(|c| is_harmless(*c) && !is_invisible(*c))
        .collect();
    // Files that start with a dot are hidden.
    let name = name.trim_start_matches(['.', ' ']);
    name.chars().take(MAX_NAME).collect()
}

/// A field's value, unfolded and decoded.
fn decoded_value(raw: &str) -> String {
    let unfolded = raw.replace("\r\n", "").replace(['\r', '\n'], "");
    let unfolded = unfolded.trim();
    match unfolded.contains("=?") {
        true => subject::decode_words(unfolded).unwrap_or_default(),
        false => unfolded.to_owned(),
    }
}

/// The start of a text, at most `most` bytes.
fn cut(text: &str, most: usize, is_cut: &mut bool) -> String {
    if text.len() <= most {
        return text.to_owned();
    }
    *is_cut = true;
    beginning(text, most).to_owned()
}

/// Parses a message. Messages that mention too many nested messages are refused: the parser
/// recurses, and a stack overflow ends the process.
pub(crate) fn parse(message: &[u8]) -> Option<Message<'_>> {
    let nests = [&b"message/"[..], b"digest"];
    let is_there = |at: usize, kind: &[u8]| {
        let end = message.get(at..at + kind.len());
        end.is_some_and(|found| found.eq_ignore_ascii_case(kind))
    };
    let found = (0..message.len()).filter(|at| nests.iter().any(|kind| is_there(*at, kind)));
    if found.take(MAX_NESTED + 1).count() > MAX_NESTED || has_too_many_pieces(message) {
        return None;
    }

    MessageParser::default().parse(message)
}

/// Whether a field has more parameters in pieces (RFC 2231 §3) than any program writes. The parser
/// takes quadratic time to join them.
pub(crate) fn has_too_many_pieces(message: &[u8]) -> bool {
    let (mut pieces, mut last) = (0, 0);
    for star in memchr::memchr_iter(b'*', message) {
        let rest = message[star + 1..].iter().take(12);
        let number = rest.take_while(|byte| byte.is_ascii_digit() || **byte == b'*');
        if message.get(star + 1 + number.count()) != Some(&b'=') {
            continue;
        }

        // A line that does not start with white space begins another field.
        let between = &message[last..star];
        let begins = |at: usize| !matches!(between.get(at + 1), Some(b' ' | b'\t') | None);
        if memchr::memchr_iter(b'\n', between).any(begins) {
            pieces = 0;
        }
        (pieces, last) = (pieces + 1, star);
        if pieces > MAX_PIECES {
            return true;
        }
    }

    false
}

/// At most `most` bytes of a text, without cutting a character.
pub(crate) fn beginning(text: &str, most: usize) -> &str {
    let is_whole = |at: &usize| text.is_char_boundary(*at);
    let end = (0..=most.min(text.len())).rev().find(is_whole);
    &text[..end.unwrap_or(0)]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const MESSAGE: &[u8] = b"From: =?utf-8?q?J=C3=B6rg?= <shop@example.com>\r\n\
                             To: ada@example.org\r\n\
        Subject: =?utf-8?q?Dein_Code=3A_4711?=\r\nX-Long: one\r\n two\r\nMIME-Version: 1.0\r\n\
        Content-Type: multipart/mixed; boundary=m\r\n\r\n\
        --m\r\nContent-Type: multipart/alternative; boundary=a\r\n\r\n\
        --a\r\nContent-Type: text/plain; charset=iso-8859-1\r\n\r\n\
        Gr\xfc\xdfe: https://shop.example/c?x=1.\r\n\
        --a\r\nContent-Type: text/html\r\n\r\n<p>Hallo <img src=cid:logo></p>\r\n--a--\r\n\
        --m\r\nContent-Type: image/png\r\nContent-ID: <logo>\r\n\
        Content-Transfer-Encoding: base64\r\n\r\nAAEC\r\n\
        --m\r\nContent-Type: application/pdf\r\nContent-Disposition: attachment;\r\n \
        filename=\"../../etc/a.pdf\"\r\n\r\nx\r\n--m--\r\n";

    #[test]
    fn a_message_is_taken_apart_into_what_a_person_looks_for() {
        let reading = Reading::of(MESSAGE);
        assert_eq!(reading.subject, "Dein Code: 4711");
        assert_eq!(
            reading.header("from").unwrap(),
            "J\u{f6}rg <shop@example.com>"
        );

        let long = reading
            .headers
            .iter()
            .find(|field| field.name == "X-Long")
            .unwrap();

        assert_eq!(
            (long.value.as_str(), long.raw.as_str()),
            ("one two", "one\r\n two")
        );

        assert!(reading.text.starts_with("Gr\u{fc}\u{df}e"));
        assert!(reading.has_html && !reading.is_cut);
        assert_eq!(reading.codes, ["4711"]);
        assert_eq!(reading.links, ["https://shop.example/c?x=1"]);

        let names: Vec<_> = reading
            .parts
            .iter()
            .map(|part| part.filename.as_deref())
            .collect();
        assert_eq!(names, [None, None, None, Some("a.pdf")]);

        let (html, shown) = Reading::html(MESSAGE).unwrap();
        assert!(html.contains("cid:logo"));
        assert_eq!(shown[0].content, [0, 1, 2]);
        assert_eq!(shown[0].info.content_id.as_deref(), Some("logo"));

        let n = reading.parts[3].n;
        assert_eq!(Reading::part(MESSAGE, n).unwrap().content, b"x");
        assert_eq!(Reading::part(MESSAGE, 99), None);
    }

    #[test]
    fn messages_in_messages_without_end_do_not_end_the_process() {
        let deep = "Content-Type: message/rfc822\r\n\r\n".repeat(20_000);
        let parts = "Content-Type: multipart/digest; boundary=b\r\n\r\n--b\r\n\r\n".repeat(20_000);
        for message in [deep, parts] {
            assert!(parse(message.as_bytes()).is_none());
            assert_eq!(Reading::of(message.as_bytes()), Reading::default());
        }
        let few = "Content-Type: message/rfc822\r\n\r\n".repeat(100);
        assert!(parse(few.as_bytes()).is_some());
    }

    #[test]
    fn whatever_is_given_what_comes_out_is_bounded() {
        for message in [
            &b""[..],
            b"\r\n\r\n",
            b"\0\xff",
            b"Subject",
            b"Content-Type: multipart/mixed\r\n\r\n",
        ] {
            let reading = Reading::of(message);
            assert!(reading.text.len() < 100, "{reading:?}");
        }

        let mut many = b"Subject: x\r\n".to_vec();
        for n in 0..2000 {
            many.extend_from_slice(format!("X-{n}: y\r\n").as_bytes());
        }
        many.extend_from_slice(b"\r\n");
        many.resize(many.len() + 10 * 1024 * 1024, b'a');

        let reading = Reading::of(&many);
        assert!(reading.is_cut && reading.headers.len() <= MAX_ENTRIES);
        assert!(reading.text.len() <= MAX_TEXT);
    }
}

//! Mends a body: declares the meaning of bytes above 127, and encodes what servers do not accept (a
//! line of more than 998 bytes, a NUL), in the part that contains it (RFC 2045 §6). `seven_bit`
//! uses it for servers without 8BITMIME.

use lettre::message::Body;
use lettre::message::header::ContentTransferEncoding;
use memchr::memchr;

use super::params::HeaderParams;
use super::parts::PartsWalk;
use super::scan::{LooseField, Scan};
use super::{MendingNotes, has_long_line};

/// The length of a line of base64 (RFC 2045 §6.8), and the most of one of quoted-printable.
const ENCODED_LINE: usize = 76;

/// A body after encoding.
pub(super) struct EncodedBody {
    pub body: Vec<u8>,
    /// Its new encoding, for the header section.
    pub encoding: Option<&'static str>,
}

/// What the header fields of a message or a part say about its content.
pub(super) struct ContentFields {
    /// The media type in lower case, such as `text/plain`.
    pub kind: String,
    pub boundary: Option<String>,
    pub encoding: String,
}

/// The kind of server that the body is encoded for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BodyCarrier {
    /// Any server: no NUL, no line of more than 998 bytes.
    EightBit,
    /// A server without 8BITMIME (RFC 6152): no byte above 127.
    SevenBit,
}

impl BodyCarrier {
    fn takes(self, body: &[u8]) -> bool {
        match self {
            BodyCarrier::EightBit => memchr(0, body).is_none() && !has_long_line(body),
            BodyCarrier::SevenBit => body.is_ascii(),
        }
    }
}

/// Mends the body of a message; fields that its header section lacks are appended to `added`.
pub(super) fn mend(
    scan: &Scan<'_>,
    added: &mut String,
    acts: &mut MendingNotes,
) -> Option<EncodedBody> {
    let body = scan.body?;
    let content = ContentFields::of(&scan.fields);
    let encoded = content
        .encode(body, BodyCarrier::EightBit)
        .or_else(|| content.as_eight_bit(body));

    let says_nothing = scan.find("MIME-Version").is_none();
    if encoded.is_none() && !says_nothing {
        return None;
    }

    let is_ascii = body.is_ascii();
    let still_eight_bit = match &encoded {
        Some(encoded) => !encoded.body.is_ascii(),
        None => !is_ascii,
    };

    if let Some(encoded) = &encoded {
        acts.add(match encoded.encoding {
            Some("base64") => "the body: encoded as base64",
            Some("8bit") => "the body: declared as 8-bit text",
            Some(_) => "the body: encoded as quoted-printable",
            None => "the body: parts with long lines or a NUL encoded",
        });
        if let Some(encoding) = encoded.encoding {
            added.push_str(&format!("Content-Transfer-Encoding: {encoding}\r\n"));
        }
    }

    let needs_mime = !is_ascii || encoded.is_some();
    if needs_mime && says_nothing {
        if still_eight_bit {
            acts.add("the body: declared as 8-bit text");
        }
        added.push_str("MIME-Version: 1.0\r\n");
        if scan.find("Content-Type").is_none() {
            let charset = charset_of(body);
            added.push_str(&format!("Content-Type: text/plain; charset={charset}\r\n"));
        }
        let has_encoding = encoded
            .as_ref()
            .is_some_and(|encoded| encoded.encoding.is_some())
            || scan.find("Content-Transfer-Encoding").is_some();
        if !has_encoding && still_eight_bit {
            added.push_str("Content-Transfer-Encoding: 8bit\r\n");
        }
    }

    encoded
}

impl ContentFields {
    pub fn of(fields: &[LooseField<'_>]) -> Self {
        let value = |name: &str| {
            let field = fields.iter().find(|field| field.is(name));
            field.map_or(String::new(), |field| {
                String::from_utf8_lossy(field.value())
                    .replace(['\r', '\n'], "")
                    .trim()
                    .to_owned()
            })
        };

        let kind = value("Content-Type");
        let params = HeaderParams::of(&kind);
        let encoding = value("Content-Transfer-Encoding").to_ascii_lowercase();
        ContentFields {
            boundary: params.get("boundary"),
            kind: params.essence.to_ascii_lowercase(),
            encoding,
        }
    }

    /// The same body, declared as 8-bit, if it was declared as 7-bit and is not.
    fn as_eight_bit(&self, body: &[u8]) -> Option<EncodedBody> {
        let is_wrong = self.encoding == "7bit" && !body.is_ascii();
        let is_one = !self.kind.starts_with("multipart/") && !self.kind.starts_with("message/");
        (is_wrong && is_one).then(|| EncodedBody {
            body: body.to_vec(),
            encoding: Some("8bit"),
        })
    }

    /// Whether it is signed or encrypted, so that it must not change (RFC 1847, RFC 8551).
    pub fn is_sealed(&self) -> bool {
        ["multipart/signed", "multipart/encrypted"].contains(&&*self.kind)
    }

    /// Whether it is a message whose parts may be encoded, but not the message as a whole (RFC 2046
    /// §5.2.1).
    pub fn is_message(&self) -> bool {
        ["message/rfc822", "message/news"].contains(&&*self.kind)
            && !["base64", "quoted-printable"].contains(&&*self.encoding)
    }

    /// The body encoded for this kind of server; `None` if it needs no encoding, or cannot be
    /// encoded.
    pub fn encode(&self, body: &[u8], carrier: BodyCarrier) -> Option<EncodedBody> {
        if carrier.takes(body) || self.is_sealed() {
            return None;
        }
        if self.kind.starts_with("multipart/") {
            let boundary = self
                .boundary
                .as_deref()
                .filter(|boundary| !boundary.is_empty())?;
            let body = PartsWalk::of(boundary, carrier).mended(body)?;
            return Some(EncodedBody {
                body,
                encoding: None,
            });
        }

        match &*self.encoding {
            "base64" => Some(EncodedBody {
                body: wrapped_base64(body),
                encoding: None,
            }),
            "quoted-printable" => Some(EncodedBody {
                body: wrapped_quoted_printable(body),
                encoding: None,
            }),
            "" | "7bit" | "8bit" | "binary" if self.may_be_encoded(carrier) => {
                let is_text = self.kind.is_empty()
                    || self.kind.starts_with("text/")
                    || self.kind.starts_with("message/") && self.kind.ends_with("-status");
                let (encoding, name) = match is_text {
                    true => (ContentTransferEncoding::QuotedPrintable, "quoted-printable"),
                    false => (ContentTransferEncoding::Base64, "base64"),
                };
                let whole = match is_text {
                    true => with_crlf(body),
                    false => body.to_vec(),
                };
                let encoded = Body::new_with_encoding(whole, encoding).ok()?;
                Some(EncodedBody {
                    body: encoded.into_vec(),
                    encoding: Some(name),
                })
            }
            _ => None,
        }
    }

    /// Whether content of this type may be encoded as base64 or quoted-printable: for messages, RFC
    /// 2046 §5.2 forbids it for some types.
    fn may_be_encoded(&self, carrier: BodyCarrier) -> bool {
        match self.kind.strip_prefix("message/") {
            None => true,
            Some(_) if carrier == BodyCarrier::EightBit => false,
            Some(kind) => !["rfc822", "news", "partial", "external-body"].contains(&kind),
        }
    }
}

/// The charset of text that does not declare one. If it is not UTF-8 it is unknown, for which there
/// is a name (RFC 1428 §3).
pub(super) fn charset_of(text: &[u8]) -> &'static str {
    match std::str::from_utf8(text).is_ok() {
        true => "utf-8",
        false => "unknown-8bit",
    }
}

fn with_crlf(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + text.len() / 32);
    crate::mail::freeze::write_crlf(text, &mut out);
    out
}

/// Base64 with line breaks at the required length.
fn wrapped_base64(text: &[u8]) -> Vec<u8> {
    let is_base64 = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/=".contains(byte);
    let letters: Vec<u8> = text.iter().copied().filter(is_base64).collect();
    let mut out = Vec::with_capacity(letters.len() + letters.len() / 32);
    for line in letters.chunks(ENCODED_LINE) {
        out.extend_from_slice(line);
        out.extend_from_slice(b"\r\n");
    }
    out
}

/// Quoted-printable text with soft line breaks, none of them within an escape.
fn wrapped_quoted_printable(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + text.len() / 32);
    let (mut length, mut at) = (0, 0);
    let mut escape;
    while let Some(byte) = text.get(at) {
        let is_end = *byte == b'\n' || (*byte == b'\r' && text.get(at + 1) == Some(&b'\n'));
        if is_end {
            out.push(*byte);
            at += 1;
            length = if *byte == b'\n' { 0 } else { length };
            continue;
        }
        let is_escape = *byte == b'='
            && text
                .get(at + 1..at + 3)
                .is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit));
        let (piece, taken): (&[u8], usize) = match byte {
            0 => (b"=00", 1),
            0x80.. => {
                escape = escaped(*byte);
                (&escape, 1)
            }
            _ if is_escape => (&text[at..at + 3], 3),
            _ => (&text[at..=at], 1),
        };
        let is_soft_break = piece == b"=" && matches!(text.get(at + 1), Some(b'\r' | b'\n'));
        if length + piece.len() >= ENCODED_LINE && !is_soft_break {
            out.extend_from_slice(b"=\r\n");
            length = 0;
        }
        out.extend_from_slice(piece);
        length += piece.len();
        at += taken;
    }

    out
}

fn escaped(byte: u8) -> [u8; 3] {
    let digit = |nibble: u8| b"0123456789ABCDEF"[usize::from(nibble)];
    [b'=', digit(byte >> 4), digit(byte & 15)]
}

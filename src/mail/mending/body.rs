//! A body, made right: bytes above 127 have their meaning, and what no server takes (a line of more
//! than 998 bytes, a NUL) is encoded, in the part where it stands (RFC 2045 §6).

use lettre::message::Body;
use lettre::message::header::ContentTransferEncoding;
use memchr::memchr;

use super::params::Params;
use super::scan::{LooseField, Scan};
use super::{Acts, has_long_line};

/// How deep parts may lie in parts, and still be looked into.
const DEEPEST: usize = 16;
/// The length of a line of base64 (RFC 2045 §6.8), and the most of one of quoted-printable.
const ENCODED_LINE: usize = 76;

/// A body that was encoded.
pub(super) struct Encoded {
    pub body: Vec<u8>,
    /// Its new encoding, which the header section says.
    pub encoding: Option<&'static str>,
}

/// What a message or one of its parts says of its content.
struct Content {
    /// `text/plain`, in small letters.
    kind: String,
    boundary: Option<String>,
    encoding: String,
}

/// Mends the body of a message; what its header section lacks is appended to `added`.
pub(super) fn mend(scan: &Scan<'_>, added: &mut String, acts: &mut Acts) -> Option<Encoded> {
    let body = scan.body?;
    let content = Content::of(&scan.fields);
    let encoded = content.encode(body);
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
        acts.tell(match encoded.encoding {
            Some("base64") => "the body: encoded as base64",
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
            acts.tell("the body: said to be 8-bit text");
        }
        added.push_str("MIME-Version: 1.0\r\n");
        if scan.find("Content-Type").is_none() {
            // Text that is not UTF-8 could be anything, and has a name for that (RFC 1428 §3).
            let charset = match std::str::from_utf8(body).is_ok() {
                true => "utf-8",
                false => "unknown-8bit",
            };
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

impl Content {
    fn of(fields: &[LooseField<'_>]) -> Self {
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
        let params = Params::of(&kind);
        let encoding = value("Content-Transfer-Encoding").to_ascii_lowercase();
        Content {
            boundary: params.get("boundary"),
            kind: params.essence.to_ascii_lowercase(),
            encoding,
        }
    }

    /// Whether this was signed or encrypted as it stands (RFC 1847, RFC 8551).
    fn is_sealed(&self) -> bool {
        ["multipart/signed", "multipart/encrypted"].contains(&&*self.kind)
    }

    fn encode(&self, body: &[u8]) -> Option<Encoded> {
        let is_fine = memchr(0, body).is_none() && !has_long_line(body);
        if is_fine || self.is_sealed() {
            return None;
        }
        if self.kind.starts_with("multipart/") {
            let boundary = self
                .boundary
                .as_deref()
                .filter(|boundary| !boundary.is_empty())?;
            let body = Parts::new(boundary).walk(body)?;
            return Some(Encoded {
                body,
                encoding: None,
            });
        }
        match &*self.encoding {
            "base64" => Some(Encoded {
                body: wrapped_base64(body),
                encoding: None,
            }),
            "quoted-printable" => Some(Encoded {
                body: wrapped_quoted_printable(body),
                encoding: None,
            }),
            "" | "7bit" | "8bit" | "binary" if !self.kind.starts_with("message/") => {
                let is_text = self.kind.is_empty() || self.kind.starts_with("text/");
                let (encoding, name) = match is_text {
                    true => (ContentTransferEncoding::QuotedPrintable, "quoted-printable"),
                    false => (ContentTransferEncoding::Base64, "base64"),
                };
                let whole = match is_text {
                    true => with_crlf(body),
                    false => body.to_vec(),
                };
                let encoded = Body::new_with_encoding(whole, encoding).ok()?;
                Some(Encoded {
                    body: encoded.into_vec(),
                    encoding: Some(name),
                })
            }
            _ => None,
        }
    }
}

/// Walks over the parts of a body, line by line, and encodes those that need it.
struct Parts {
    /// The boundaries of the part that is read and of those around it.
    boundaries: Vec<String>,
    out: Vec<u8>,
    has_encoded: bool,
}

/// Where the walk is.
enum At {
    /// Before, between or behind parts, or in one that stays as it is.
    Outside,
    /// In a part's header section, which began here.
    Header(usize),
    /// In a part's body.
    Body { header: usize, body: usize },
}

impl Parts {
    fn new(boundary: &str) -> Self {
        Parts {
            boundaries: vec![boundary.to_owned()],
            out: Vec::new(),
            has_encoded: false,
        }
    }

    /// The body with what needed it encoded; `None` where nothing did.
    fn walk(mut self, text: &[u8]) -> Option<Vec<u8>> {
        self.out.reserve(text.len() + text.len() / 8);
        let (mut at, mut here) = (At::Outside, 0);
        while here < text.len() {
            let end = memchr(b'\n', &text[here..]).map_or(text.len(), |lf| here + lf + 1);
            let line = &text[here..end];
            if let Some(begins) = self.delimiter(line) {
                self.end_part(&at, text, here);
                self.out.extend_from_slice(line);
                at = match begins {
                    true => At::Header(end),
                    false => At::Outside,
                };
            } else {
                at = match at {
                    At::Header(header) if matches!(line, b"\n" | b"\r\n") => {
                        self.begin_body(header, end, text)
                    }
                    At::Outside => {
                        self.out.extend_from_slice(line);
                        At::Outside
                    }
                    at => at,
                };
            }
            here = end;
        }
        self.end_part(&at, text, text.len());
        self.has_encoded.then_some(self.out)
    }

    /// Whether this line begins a part (`true`) or ends the last one (`false`).
    fn delimiter(&mut self, line: &[u8]) -> Option<bool> {
        let rest = line.strip_prefix(b"--")?.trim_ascii_end();
        for depth in (0..self.boundaries.len()).rev() {
            let Some(after) = rest.strip_prefix(self.boundaries[depth].as_bytes()) else {
                continue;
            };
            let begins = match after {
                b"" => true,
                b"--" => false,
                _ => continue,
            };
            self.boundaries
                .truncate(if begins { depth + 1 } else { depth });
            return Some(begins);
        }
        None
    }

    fn begin_body(&mut self, header: usize, body: usize, text: &[u8]) -> At {
        let scan = Scan::of(&text[header..body]);
        let content = Content::of(&scan.fields);
        let is_container = content.kind.starts_with("multipart/") && !content.is_sealed();
        if !is_container {
            return At::Body { header, body };
        }
        if let Some(boundary) = content.boundary.filter(|boundary| !boundary.is_empty())
            && self.boundaries.len() < DEEPEST
        {
            self.boundaries.push(boundary);
        }
        self.out.extend_from_slice(&text[header..body]);
        At::Outside
    }

    /// Copies a part that ends at `end`, encoded if it must be.
    fn end_part(&mut self, at: &At, text: &[u8], end: usize) {
        let (header, body) = match at {
            At::Outside => return,
            At::Header(header) => {
                self.out.extend_from_slice(&text[*header..end]);
                return;
            }
            At::Body { header, body } => (*header, *body),
        };
        let content = &text[body..end];
        // The line end before a delimiter belongs to it (RFC 2046 §5.1.1).
        let kept = content.strip_suffix(b"\n").unwrap_or(content);
        let kept = kept.strip_suffix(b"\r").unwrap_or(kept);
        let line_end = &content[kept.len()..];
        let scan = Scan::of(&text[header..body]);
        let Some(encoded) = Content::of(&scan.fields).encode(kept) else {
            self.out.extend_from_slice(&text[header..end]);
            return;
        };

        self.has_encoded = true;
        for field in &scan.fields {
            if encoded.encoding.is_none() || !field.is("Content-Transfer-Encoding") {
                self.out.extend_from_slice(field.raw);
            }
        }
        if let Some(encoding) = encoded.encoding {
            let field = format!("Content-Transfer-Encoding: {encoding}\r\n");
            self.out.extend_from_slice(field.as_bytes());
        }
        self.out.extend_from_slice(b"\r\n");
        self.out.extend_from_slice(&encoded.body);
        self.out.extend_from_slice(line_end);
    }
}

fn with_crlf(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + text.len() / 32);
    crate::mail::freeze::write_crlf(text, &mut out);
    out
}

/// The same base64 on lines of the length that it should have.
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

/// The same quoted-printable text with soft line breaks, none within an escape.
fn wrapped_quoted_printable(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + text.len() / 32);
    let (mut length, mut at) = (0, 0);
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

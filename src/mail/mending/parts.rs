//! Walks through the parts of a body line by line, and encodes those that the server would not
//! accept. Used by `body` and `seven_bit`; each line is read once.

use memchr::memchr;

use super::body::{BodyCarrier, ContentFields, charset_of};
use super::scan::{LooseField, Scan};
use super::{Context, fields};

/// The deepest nesting of parts that is walked.
const DEEPEST_PART: usize = 64;

pub(super) struct PartsWalk {
    carrier: BodyCarrier,
    /// The boundaries of the current part and of the parts that contain it.
    boundaries: Vec<String>,
    at: WalkPosition,
    out: Vec<u8>,
    has_encoded: bool,
}

/// The position of the walk.
#[derive(Clone, Copy)]
enum WalkPosition {
    /// Before, between or after parts.
    Outside,
    /// In a part that is left unchanged.
    Closed,
    /// In the header section of a part or message, which started at `header`.
    Header { header: usize, is_message: bool },
    /// In its body.
    Body {
        header: usize,
        body: usize,
        is_message: bool,
    },
}

/// The new encoding of a body; for the body of a message also the charset, in case it declares
/// none.
struct NewEncoding {
    encoding: &'static str,
    charset: Option<&'static str>,
}

impl PartsWalk {
    /// Walks the parts with this boundary.
    pub fn of(boundary: &str, carrier: BodyCarrier) -> Self {
        PartsWalk {
            carrier,
            boundaries: vec![boundary.to_owned()],
            at: WalkPosition::Outside,
            out: Vec::new(),
            has_encoded: false,
        }
    }

    /// Walks a whole message.
    pub fn of_message(carrier: BodyCarrier) -> Self {
        PartsWalk {
            carrier,
            boundaries: Vec::new(),
            at: WalkPosition::Header {
                header: 0,
                is_message: true,
            },
            out: Vec::new(),
            has_encoded: false,
        }
    }

    /// The text, with parts encoded where necessary; `None` if none was.
    pub fn mended(mut self, text: &[u8]) -> Option<Vec<u8>> {
        self.walk(text);
        self.has_encoded.then_some(self.out)
    }

    /// The text, with parts encoded where necessary and possible.
    pub fn encoded(mut self, text: &[u8]) -> Vec<u8> {
        self.walk(text);
        self.out
    }

    fn walk(&mut self, text: &[u8]) {
        self.out.reserve(text.len() + text.len() / 8);
        let mut here = 0;
        while here < text.len() {
            let end = memchr(b'\n', &text[here..]).map_or(text.len(), |lf| here + lf + 1);
            let line = &text[here..end];
            if let Some(begins) = self.delimiter(line) {
                self.end_part(text, here);
                self.out.extend_from_slice(line);
                self.at = match begins {
                    true => WalkPosition::Header {
                        header: end,
                        is_message: false,
                    },
                    false => WalkPosition::Outside,
                };
            } else {
                self.line(line, end, text);
            }
            here = end;
        }

        self.end_part(text, text.len());
    }

    /// Whether this line begins a part (`true`) or ends the last one (`false`); `None` if it is no
    /// delimiter.
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

    /// Handles a line that is not a delimiter and ends at `end`.
    fn line(&mut self, line: &[u8], end: usize, text: &[u8]) {
        match self.at {
            WalkPosition::Header { header, is_message } if matches!(line, b"\n" | b"\r\n") => {
                self.at = self.begin_body(header, end, is_message, text);
            }
            // This text is not shown to anybody (RFC 2046 §5.1.1).
            WalkPosition::Outside if self.carrier == BodyCarrier::SevenBit => {
                let seven_bit = |byte: &u8| if byte.is_ascii() { *byte } else { b'?' };
                self.out.extend(line.iter().map(seven_bit));
            }
            WalkPosition::Outside | WalkPosition::Closed => self.out.extend_from_slice(line),
            WalkPosition::Header { .. } | WalkPosition::Body { .. } => {}
        }
    }

    fn begin_body(
        &mut self,
        header: usize,
        body: usize,
        is_message: bool,
        text: &[u8],
    ) -> WalkPosition {
        let scan = Scan::of(&text[header..body]);
        let content = ContentFields::of(&scan.fields);
        let is_container = content.kind.starts_with("multipart/") && !content.is_sealed();

        let has_message = self.carrier == BodyCarrier::SevenBit && content.is_message();
        if !is_container && !has_message {
            return WalkPosition::Body {
                header,
                body,
                is_message,
            };
        }

        self.write_header(&text[header..body], &scan, None);
        if has_message {
            return WalkPosition::Header {
                header: body,
                is_message: true,
            };
        }

        match content.boundary.filter(|boundary| !boundary.is_empty()) {
            Some(boundary) if self.boundaries.len() < DEEPEST_PART => {
                self.boundaries.push(boundary);
                WalkPosition::Outside
            }
            _ => WalkPosition::Closed,
        }
    }

    /// Copies the part that ends at `end`, encoded if necessary.
    fn end_part(&mut self, text: &[u8], end: usize) {
        let (header, body, is_message) = match self.at {
            WalkPosition::Outside | WalkPosition::Closed => return,
            WalkPosition::Header { header, .. } => {
                let scan = Scan::of(&text[header..end]);
                return self.write_header(&text[header..end], &scan, None);
            }
            WalkPosition::Body {
                header,
                body,
                is_message,
            } => (header, body, is_message),
        };

        let content = &text[body..end];
        // The line end before a delimiter belongs to it (RFC 2046 §5.1.1).
        let kept = content.strip_suffix(b"\n").unwrap_or(content);
        let kept = kept.strip_suffix(b"\r").unwrap_or(kept);
        let line_end = &content[kept.len()..];

        let scan = Scan::of(&text[header..body]);
        let encoded = ContentFields::of(&scan.fields).encode(kept, self.carrier);
        self.has_encoded |= encoded.is_some();
        let encoding = encoded.as_ref().and_then(|encoded| encoded.encoding);
        let new = encoding.map(|encoding| NewEncoding {
            encoding,
            charset: is_message.then(|| charset_of(kept)),
        });

        self.write_header(&text[header..body], &scan, new);
        match encoded {
            Some(encoded) => {
                self.out.extend_from_slice(&encoded.body);
                self.out.extend_from_slice(line_end);
            }
            None => self.out.extend_from_slice(content),
        }
    }

    /// Writes a header section and its empty line, with the new encoding of the body.
    fn write_header(&mut self, header: &[u8], scan: &Scan<'_>, new: Option<NewEncoding>) {
        if new.is_none() && self.carrier == BodyCarrier::EightBit {
            return self.out.extend_from_slice(header);
        }

        let mut written = 0;
        for field in &scan.fields {
            let start = field.raw.as_ptr().addr() - header.as_ptr().addr();
            let Some(replaced) = self.replaced(field, new.is_some()) else {
                continue;
            };
            self.out.extend_from_slice(&header[written..start]);
            self.out.extend_from_slice(&replaced);
            written = start + field.raw.len();
        }

        let rest = &header[written..];
        let empty = [&b"\r\n"[..], b"\n"]
            .into_iter()
            .find(|empty| rest.ends_with(empty))
            .unwrap_or_default();
        let Some(new) = new else {
            return self.out.extend_from_slice(rest);
        };

        self.out
            .extend_from_slice(&rest[..rest.len() - empty.len()]);
        if let Some(charset) = new.charset
            && scan.find("MIME-Version").is_none()
        {
            self.out.extend_from_slice(b"MIME-Version: 1.0\r\n");
            if scan.find("Content-Type").is_none() {
                let kind = format!("Content-Type: text/plain; charset={charset}\r\n");
                self.out.extend_from_slice(kind.as_bytes());
            }
        }

        let field = format!("Content-Transfer-Encoding: {}\r\n", new.encoding);
        self.out.extend_from_slice(field.as_bytes());
        self.out.extend_from_slice(empty);
    }

    /// The replacement for a field; `None` if it is unchanged.
    fn replaced(&self, field: &LooseField<'_>, is_encoded: bool) -> Option<Vec<u8>> {
        if field.is("Content-Transfer-Encoding") {
            let encoding = field.value().trim_ascii().to_ascii_lowercase();
            let is_now_7bit = self.carrier == BodyCarrier::SevenBit
                && [&b"8bit"[..], b"binary"].contains(&&*encoding);
            return match is_encoded {
                true => Some(Vec::new()),
                false => is_now_7bit.then(|| [field.name.as_bytes(), b": 7bit\r\n"].concat()),
            };
        }

        if self.carrier == BodyCarrier::EightBit || field.raw.is_ascii() {
            return None;
        }
        let context = Context {
            domain: None,
            stays_utf8: false,
        };

        fields::mend(field, &context).map(|(mended, _)| mended)
    }
}

//! A Subject as a person reads it: decoded (RFC 2047), on one line, without what could confuse a terminal, and not long.

use mail_parser::HeaderValue;
use mail_parser::parsers::MessageStream;
use memchr::memmem;

/// The most characters that are kept of a subject.
const MAX_CHARS: usize = 200;

/// Decodes the value of a Subject field.
pub(super) fn decode(folded: &[u8]) -> String {
    if memmem::find(folded, b"=?").is_none() {
        return printable(&String::from_utf8_lossy(folded));
    }
    // The decoder stops at the end of a field, so it needs to see one.
    let field = [folded, b"\r\n"].concat();
    match MessageStream::new(&field).parse_unstructured() {
        HeaderValue::Text(text) => printable(&text),
        _ => String::new(),
    }
}

/// The text on one line, cut, with a replacement for each character that is not seen or that turns the writing around.
pub(super) fn printable(text: &str) -> String {
    let seen = text.trim().chars().filter(|c| !matches!(c, '\r' | '\n')).take(MAX_CHARS);
    seen.map(|c| match c {
        '\t' => ' ',
        c if c.is_control() || is_bidi_control(c) => char::REPLACEMENT_CHARACTER,
        c => c,
    })
    .collect()
}

/// The text's first `max` bytes, or fewer where a character ends earlier.
pub(super) fn cut(text: &str, max: usize) -> String {
    text[..text.floor_char_boundary(max)].to_owned()
}

fn is_bidi_control(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_is_decoded_and_unfolded() {
        assert_eq!(decode(b"Hello\r\n World"), "Hello World");
        assert_eq!(decode("Grüße".as_bytes()), "Grüße");
        assert_eq!(decode(b"=?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\n =?utf-8?b?IGFuIEFkYQ==?= now"), "Grüße an Ada now");
        assert_eq!(decode(b"=?iso-8859-1?Q?caf=E9?="), "café");
        assert_eq!(decode(b"=?broken"), "=?broken");
    }

    #[test]
    fn a_subject_cannot_steer_a_terminal() {
        assert_eq!(decode(b"=?utf-8?q?a=1B[31m=0D=0Ab?="), "a\u{fffd}[31mb");
        assert_eq!(decode("a\u{202e}b".as_bytes()), "a\u{fffd}b");
        assert_eq!(decode("ä".repeat(500).as_bytes()).chars().count(), 200);
    }
}

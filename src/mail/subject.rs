//! A subject for display: decoded (RFC 2047), on one line, safe for terminals, and of limited
//! length.

use mail_parser::HeaderValue;
use mail_parser::parsers::MessageStream;

use super::characters::is_harmless;

/// The most characters of a subject that are kept.
const MAX_CHARS: usize = 200;

/// Decodes the unfolded value of a Subject field.
pub(super) fn decode(value: &str) -> String {
    if !value.contains("=?") {
        return printable(value);
    }
    decode_words(value).map_or(String::new(), |text| printable(&text))
}

/// The text with its encoded words decoded, whatever characters they contain; `None` if there is no
/// text.
pub(super) fn decode_words(value: &str) -> Option<String> {
    // The decoder stops at the end of a field, so the text needs one.
    let field = [value.as_bytes(), b"\r\n"].concat();
    match MessageStream::new(&field).parse_unstructured() {
        HeaderValue::Text(text) => Some(text.into_owned()),
        _ => None,
    }
}

/// The text on one line, cut, with unsafe characters replaced.
pub(super) fn printable(text: &str) -> String {
    let seen = text
        .trim()
        .chars()
        .filter(|c| !matches!(c, '\r' | '\n'))
        .take(MAX_CHARS);
    seen.map(|c| match c {
        '\t' => ' ',
        c if is_harmless(c) => c,
        _ => char::REPLACEMENT_CHARACTER,
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_is_decoded() {
        assert_eq!(decode("Grüße"), "Grüße");
        assert_eq!(
            decode("=?utf-8?q?Gr=C3=BC=C3=9Fe?= =?utf-8?b?IGFuIEFkYQ==?= now"),
            "Grüße an Ada now"
        );
        assert_eq!(decode("=?iso-8859-1?Q?caf=E9?="), "café");
        assert_eq!(decode("=?broken"), "=?broken");
    }

    #[test]
    fn a_subject_cannot_steer_a_terminal() {
        assert_eq!(decode("=?utf-8?q?a=1B[31m=0D=0Ab?="), "a\u{fffd}[31mb");
        assert_eq!(decode("a\u{202e}b"), "a\u{fffd}b");
        assert_eq!(decode(&"ä".repeat(500)).chars().count(), 200);
    }
}

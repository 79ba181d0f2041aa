//! The parameters of a MIME field (RFC 2045 §5.1), as far as mending needs them.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// The characters that need no encoding in an extended value (RFC 2231 §7).
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_');

/// A field's value: the part before the first semicolon, and the parameters as they are written.
pub(super) struct HeaderParams<'a> {
    pub essence: &'a str,
    params: Vec<(&'a str, &'a str)>,
}

impl<'a> HeaderParams<'a> {
    pub fn of(value: &'a str) -> Self {
        let (mut pieces, mut start, mut quoted, mut escaped) = (Vec::new(), 0, false, false);
        for (at, c) in value.char_indices() {
            match c {
                _ if escaped => escaped = false,
                '\\' if quoted => escaped = true,
                '"' => quoted = !quoted,
                ';' if !quoted => {
                    pieces.push(&value[start..at]);
                    start = at + 1;
                }
                _ => {}
            }
        }

        pieces.push(&value[start..]);
        let mut pieces = pieces.into_iter().map(str::trim);
        let essence = pieces.next().unwrap_or_default();
        let params = pieces
            .filter(|piece| !piece.is_empty())
            .map(|piece| piece.split_once('=').unwrap_or((piece, "")))
            .map(|(name, value)| (name.trim(), value.trim()))
            .collect();

        HeaderParams { essence, params }
    }

    /// The value of a parameter, without quotes and escapes.
    pub fn get(&self, name: &str) -> Option<String> {
        let found = self
            .params
            .iter()
            .find(|(given, _)| given.eq_ignore_ascii_case(name));
        found.map(|(_, value)| plain(value))
    }

    /// The parameters as words of a field; non-ASCII values as extended ones (RFC 2231 §4).
    pub fn in_ascii(&self) -> Vec<String> {
        let mut words = vec![self.essence.to_owned()];
        for (name, value) in &self.params {
            if let Some(last) = words.last_mut() {
                last.push(';');
            }
            words.push(match (value.is_ascii(), value.is_empty()) {
                (true, true) => (*name).to_owned(),
                (true, false) => format!("{name}={value}"),
                (false, _) => {
                    let value = plain(value);
                    format!("{name}*=utf-8''{}", utf8_percent_encode(&value, PLAIN))
                }
            });
        }

        words
    }
}

fn plain(value: &str) -> String {
    match value
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'))
    {
        Some(quoted) => crate::mail::address_list::unescaped(quoted),
        None => value.to_owned(),
    }
}

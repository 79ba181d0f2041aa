//! Escapes text from outside for use as the value of a log field.

use std::fmt;

use crate::mail::is_harmless;

/// Displays the text unchanged if it is one plain word, else quoted and escaped, so that it can
/// neither end the line nor look like a field of its own.
pub(crate) struct LogValue<'a>(pub &'a str);

impl fmt::Display for LogValue<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_plain = |c: char| is_harmless(c) && !c.is_whitespace() && !"\"'\\,;[]{}".contains(c);
        let names_no_field = || !(1..=self.0.len()).any(|end| names_a_field(self.0, end));
        if !self.0.is_empty() && self.0.chars().all(is_plain) && names_no_field() {
            return f.write_str(self.0);
        }

        f.write_str("\"")?;
        escape(self.0, f)?;
        f.write_str("\"")
    }
}

/// Writes text escaped, to be put between quotes.
pub(crate) fn escape(text: &str, f: &mut impl fmt::Write) -> fmt::Result {
    for (at, c) in text.char_indices() {
        match c {
            '"' | '\\' => write!(f, "\\{c}")?,
            // A search in the log could mistake it for a field, even within quotes.
            '=' if names_a_field(text, at + 1) => f.write_str("\\u{3d}")?,
            c if is_harmless(c) => f.write_char(c)?,
            c => write!(f, "{}", c.escape_unicode())?,
        }
    }
    Ok(())
}

/// Escapes whatever looks like a field, in a value that is quoted already.
#[cfg(feature = "server")]
pub(crate) fn without_fields(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for (at, c) in text.char_indices() {
        match c {
            '=' if names_a_field(text, at + 1) => shown.push_str("\\u{3d}"),
            c => shown.push(c),
        }
    }
    shown
}

/// Whether the text up to `end` ends with what looks like the name of a field and `=`: a word of
/// letters, digits, dots and underscores.
fn names_a_field(text: &str, end: usize) -> bool {
    let Some(before) = text.as_bytes()[..end].strip_suffix(b"=") else {
        return false;
    };
    let is_of_name = |b: &&u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.');
    let name = before.iter().rev().take_while(is_of_name).take(64).count();
    let front = before.len() - name;
    let stands_alone = match before[..front].last() {
        None => true,
        Some(b) => b.is_ascii_whitespace() || b"\"'`,;([{<".contains(b) || *b >= 0x80,
    };
    name > 0 && stands_alone
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_passes_for_a_field_or_ends_a_line() {
        let shown = |text: &str| LogValue(text).to_string();
        for plain in [
            "ada@example.org",
            "bounce+ada=example.org@example.com",
            "x?p=1",
            "grün",
        ] {
            assert_eq!(shown(plain), plain);
        }

        assert_eq!(shown(""), "\"\"");
        assert_eq!(shown("two words"), "\"two words\"");
        assert_eq!(
            shown("\"x peer=192.0.2.1 refused=\"@example.org"),
            "\"\\\"x peer\\u{3d}192.0.2.1 refused\\u{3d}\\\"@example.org\""
        );

        assert_eq!(shown("peer=192.0.2.1"), "\"peer\\u{3d}192.0.2.1\"");
        assert_eq!(shown("\u{202e}gro\n"), "\"\\u{202e}gro\\u{a}\"");
    }

    #[test]
    fn long_text_takes_time_in_proportion() {
        let time = |size: usize| {
            let text = "a=".repeat(size);
            let began = std::time::Instant::now();
            assert!(LogValue(&text).to_string().len() >= size);
            began.elapsed()
        };
        time(10_000);
        let (small, large) = (time(10_000), time(100_000));
        assert!(large < small * 30 + std::time::Duration::from_millis(20));
    }
}

//! Writes header fields: encoded (RFC 2047) and folded, so that a value always stays one field.

use std::fmt::Write;

use email_encoding::headers::rfc2047;
use email_encoding::headers::writer::EmailWriter;

use super::mailbox::Mailbox;

/// The longest word that is written unencoded. A longer one would not fit on a line (RFC 5322
/// §2.1.1); encoded, it can be folded.
const LONGEST_WORD: usize = 900;

/// Appends a field with free text. The caller has checked that the value has no control characters.
pub(super) fn write_text(out: &mut String, name: &str, value: &str) {
    write_with(out, name, |to| {
        let value = value.trim();
        let Some((from, until)) = span_to_encode(value) else {
            return to.folding().write_str(value);
        };
        to.folding().write_str(&value[..from])?;
        rfc2047::encode(&value[from..until], to)?;
        to.folding().write_str(&value[until..])
    });
}

/// Appends a field with a list of mailboxes; nothing if the list is empty.
pub(super) fn write_mailboxes(out: &mut String, name: &str, mailboxes: &[Mailbox]) {
    if mailboxes.is_empty() {
        return;
    }
    write_with(out, name, |to| list_mailboxes(mailboxes, to));
}

/// Writes mailboxes, separated by commas.
pub(super) fn list_mailboxes(mailboxes: &[Mailbox], to: &mut EmailWriter<'_>) -> std::fmt::Result {
    for (i, mailbox) in mailboxes.iter().enumerate() {
        if i > 0 {
            to.write_char(',')?;
            to.space();
        }
        mailbox.write(to)?;
    }
    Ok(())
}

/// Appends a field of words, unencoded, which may be folded between them.
pub(super) fn write_words<W: AsRef<str>>(
    out: &mut String,
    name: &str,
    words: impl IntoIterator<Item = W>,
) {
    write_with(out, name, |to| {
        for (i, word) in words.into_iter().enumerate() {
            if i > 0 {
                to.space();
            }
            to.folding().write_str(word.as_ref())?;
        }
        Ok(())
    });
}

/// Appends a field with what `value` writes.
pub(super) fn write_with(
    out: &mut String,
    name: &str,
    value: impl FnOnce(&mut EmailWriter<'_>) -> std::fmt::Result,
) {
    out.push_str(name);
    out.push_str(": ");
    let mut writer = EmailWriter::new(out, name.len() + 2, 0, false);
    value(&mut writer).expect("writing to a string cannot fail");
    drop(writer);
    out.push_str("\r\n");
}

/// The range from the first to the last word that must be encoded: because of non-ASCII characters,
/// or because it looks like an encoded word. The whole range is encoded, because white space
/// between two encoded words is lost (RFC 2047 §6.2). It includes surrounding spaces except one,
/// because some readers collapse several.
fn span_to_encode(value: &str) -> Option<(usize, usize)> {
    let is_plain = |word: &str| {
        word.is_ascii() && !word.contains("=?") && word.trim_end().len() <= LONGEST_WORD
    };
    if is_plain(value) {
        return None;
    }

    let (mut span, mut start) = (None, 0);
    for word in value.split_inclusive(' ') {
        let end = start + word.trim_end_matches(' ').len();
        if !is_plain(word) {
            span = Some((span.map_or(start, |(from, _)| from), end));
        }
        start += word.len();
    }

    let (mut from, mut until) = span?;
    while value[..from].ends_with("  ") {
        from -= 1;
    }
    while value[until..].starts_with("  ") {
        until += 1;
    }

    Some((from, until))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(value: &str) -> String {
        let mut out = String::new();
        write_text(&mut out, "Subject", value);
        out
    }

    #[test]
    fn plain_text_stands_as_it_is_and_the_rest_is_encoded() {
        assert_eq!(written("Hello  World"), "Subject: Hello  World\r\n");
        assert_eq!(
            written("to Zoë  and Chloë now"),
            "Subject: to =?utf-8?b?Wm/DqyAgYW5kIENobG/Dqw==?= now\r\n"
        );
        assert_eq!(
            written("=?utf-8?q?x?="),
            "Subject: =?utf-8?b?PT91dGYtOD9xP3g/PQ==?=\r\n"
        );
    }

    #[test]
    fn long_text_is_folded() {
        let lines = written(&"word ".repeat(100));
        assert!(
            lines.lines().count() > 5 && lines.lines().all(|line| line.len() <= 78),
            "{lines}"
        );
        let lines = written(&"wörd ".repeat(100));
        assert!(
            lines.lines().count() > 5 && lines.lines().all(|line| line.len() <= 78),
            "{lines}"
        );
    }
}

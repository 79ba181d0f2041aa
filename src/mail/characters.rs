//! Which characters of a text from outside may be shown: one rule for logs, terminals, subjects and
//! file names.

/// Whether showing the character is safe: it is not a control character, starts no new line, does
/// not change the direction of writing (Unicode's `Bidi_Control`), and is not a byte order mark.
pub(crate) fn is_harmless(c: char) -> bool {
    let is_bidi_control = matches!(c,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let is_separator = matches!(c, '\u{2028}' | '\u{2029}');
    let is_byte_order_mark = c == '\u{feff}';

    !(c.is_control() || is_bidi_control || is_separator || is_byte_order_mark)
}

/// Whether the character has no width, so that two names that differ only in it look the same. Some
/// texts need such characters: they join or separate letters, and the parts of an emoji.
pub(crate) fn is_invisible(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{180e}' | '\u{200b}'..='\u{200d}' | '\u{2060}'..='\u{2065}'
        | '\u{206a}'..='\u{206f}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_steers_a_terminal_or_turns_the_writing_around_is_not_harmless() {
        let steers = "\0\t\r\n\u{7f}\u{9b}\u{1b}".chars();
        let separates = '\u{2028}'..='\u{2029}';
        let turns = "\u{61c}\u{200e}\u{200f}\u{202a}\u{202b}\u{202c}\u{202d}\u{202e}".chars();
        let isolates = '\u{2066}'..='\u{2069}';
        let all = steers.chain(separates).chain(turns).chain(isolates);
        for c in all.chain(['\u{feff}']) {
            assert!(!is_harmless(c), "{}", c.escape_unicode());
        }
        for c in "aß漢 \u{200d}\u{1f600}".chars() {
            assert!(is_harmless(c), "{}", c.escape_unicode());
        }
    }

    #[test]
    fn what_takes_no_room_is_invisible() {
        for c in "\u{ad}\u{200b}\u{200d}\u{2060}\u{206f}\u{e0041}".chars() {
            assert!(is_invisible(c), "{}", c.escape_unicode());
        }
        assert!(!"a b".chars().any(is_invisible));
    }
}

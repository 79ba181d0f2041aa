//! Finds codes to be typed and links to be followed in an automatic mail.

use std::collections::BTreeSet;

/// The most codes, and the most links, that are returned.
const MAX_FOUND: usize = 50;

/// The longest link, in bytes.
const MAX_LINK: usize = 2048;

/// Words that appear near a code.
const CODE_WORDS: [&str; 9] = [
    "code", "pin", "otp", "password", "passwort", "token", "tan", "kennwort", "verif",
];

/// What looks like a code, those near one of [`CODE_WORDS`] first: 4 to 8 digits, also in two
/// groups, or 5 to 10 capital letters and digits mixed.
pub(super) fn codes(subject: &str, text: &str) -> Vec<String> {
    let (mut sure, mut likely) = (Vec::new(), Vec::new());
    let mut was_near = false;
    for line in std::iter::once(subject).chain(text.lines()) {
        let lower = line.to_lowercase();
        let is_near = CODE_WORDS.iter().any(|word| lower.contains(word));
        let found = match is_near || was_near {
            true => &mut sure,
            false => &mut likely,
        };
        // A code is often alone on the line after such a word.
        was_near = is_near || (was_near && line.trim().is_empty());
        let words: Vec<&str> = line
            .split(|c: char| c.is_whitespace() || "()[]<>\"'*_|;,".contains(c))
            .collect();
        for (at, word) in words.iter().enumerate() {
            let word = word.trim_matches(['.', ':', '!', '?']);
            let next = words
                .get(at + 1)
                .map(|next| next.trim_matches(['.', ':', '!', '?']));
            let pair = next.filter(|next| word.len() == 3 && next.len() == 3);
            if let Some(next) = pair.filter(|next| is_digits(word) && is_digits(next)) {
                found.push(format!("{word}{next}"));
            } else if is_code(word, is_near) {
                found.push(word.to_owned());
            }
        }
    }

    sure.append(&mut likely);
    distinct(sure)
}

fn is_digits(word: &str) -> bool {
    word.bytes().all(|b| b.is_ascii_digit())
}

fn is_code(word: &str, is_near: bool) -> bool {
    let plain = word.replace('-', "");
    if is_digits(&plain) {
        let is_grouped = word.len() == 7 && word.as_bytes().get(3) == Some(&b'-');
        let is_year = word.len() == 4 && (word.starts_with("19") || word.starts_with("20"));
        return (is_grouped || plain.len() == word.len())
            && (4..=8).contains(&plain.len())
            && (is_near || !is_year);
    }

    let is_mixed = plain.bytes().any(|b| b.is_ascii_digit())
        && plain
            .bytes()
            .all(|b| b.is_ascii_uppercase() || b.is_ascii_digit());

    is_near && is_mixed && (5..=10).contains(&plain.len())
}

/// The URLs in a text and in the attributes of HTML, without duplicates.
pub(super) fn links(text: &str, html: &str) -> Vec<String> {
    let ends = |c: char| c.is_whitespace() || c.is_control() || "<>\"'`|\\^{}".contains(c);
    let closing = ['.', ',', ';', ':', '!', '?', ')', ']', '*'];
    let mut found = Vec::new();
    for (source, is_html) in [(text, false), (html, true)] {
        for scheme in ["https://", "http://"] {
            // A URL within another ends with it, so its end is not searched for again.
            let mut end = 0;
            for (at, _) in source.match_indices(scheme) {
                if at >= end {
                    let rest = &source[at..];
                    let link = &rest[..rest.find(ends).unwrap_or(rest.len())];
                    end = at + link.trim_end_matches(closing).len();
                }
                let link = source.get(at..end).unwrap_or_default();
                if link.len() > scheme.len()
                    && link.len() <= MAX_LINK
                    && found.len() < 4 * MAX_FOUND
                {
                    let link = match is_html {
                        true => link.replace("&amp;", "&"),
                        false => link.to_owned(),
                    };
                    found.push(link);
                }
            }
        }
    }

    distinct(found)
}

/// Without duplicates, in order.
fn distinct(found: Vec<String>) -> Vec<String> {
    let mut known = BTreeSet::new();
    let fresh = |one: &String| known.insert(one.clone());
    found.into_iter().filter(fresh).take(MAX_FOUND).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_found_and_years_prices_and_numbers_are_not() {
        for (text, expected) in [
            ("Your code is 123456.", vec!["123456"]),
            ("Your code:\n\n  918 273\n\nThanks, 2026", vec!["918273"]),
            ("PIN 4711, order no. 123456789", vec!["4711"]),
            ("Enter code AB12-CD34 now", vec!["AB12-CD34"]),
            ("Founded in 1998, 12.50 EUR, call 030 1234567890", vec![]),
            ("Room 5567\nYour code is 1999", vec!["1999", "5567"]),
        ] {
            assert_eq!(codes("", text), expected, "{text}");
        }
        assert_eq!(codes("424242 is your code", ""), ["424242"]);
    }

    #[test]
    fn links_are_found_once_and_without_what_ends_the_sentence() {
        let text = "See https://a.example/x?y=1&z=2, or (http://b.example/). javascript:alert(1)";
        let html =
            "<a href=\"https://a.example/x?y=1&amp;z=2\">x</a><a href='https://c.example'>y</a>";
        let expected = [
            "https://a.example/x?y=1&z=2",
            "http://b.example/",
            "https://c.example",
        ];
        assert_eq!(links(text, html), expected);
        assert!(links(&"https://x.example/a ".repeat(1000), "").len() == 1);
    }
}

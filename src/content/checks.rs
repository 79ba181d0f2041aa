//! Checks values where HTML's escapes are not enough: a URL may only have a harmless scheme, and a
//! value in CSS must stay a single value. The engine calls [`check`] for each such value of a
//! render.
//!
//! A value that fails its check fails the render. Go's `html/template` writes `#ZgotmplZ` instead,
//! because a web page is rendered for a reader who cannot correct the mistake. A mail is rendered
//! when it is submitted: the submitter gets the error, whereas a mail with a dead link would be
//! noticed by its reader only.

use std::fmt;

use minijinja::value::Value;
use minijinja::{Error, ErrorKind};

use super::places::Rule;
use super::walk::CheckedPlace;
use crate::mail::{is_harmless, is_invisible};

/// The schemes that a URL may have.
const SCHEMES: [&str; 6] = ["http", "https", "mailto", "tel", "sms", "cid"];
/// Characters that end a value in CSS or make more of it. Without a parenthesis, `url` is an
/// ordinary word.
const CSS_MARKS: &[char] = &[
    '"', '\'', '`', '\\', '<', '>', '(', ')', '[', ']', '{', '}', ';', '@', '*',
];
/// CSS that old mail programs execute.
const CSS_WORDS: [&str; 2] = ["expression", "-moz-binding"];
/// Characters that may not be in a quoted URL in CSS.
const CSS_ADDRESS_MARKS: &[char] = &['"', '\'', '`', '\\', '<', '>', '(', ')', '{', '}', ';'];

/// A value that is not allowed in its place.
#[derive(Debug)]
pub(super) struct UnfitValue {
    /// The template's expression in this place.
    pub expression: String,
    pub reason: String,
}

impl fmt::Display for UnfitValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{{{ {} }}}} {}", self.expression, self.reason)
    }
}

impl std::error::Error for UnfitValue {}

/// Checks a value without changing it.
pub(super) fn check(value: &Value, place: &CheckedPlace) -> Result<(), Error> {
    let is_nothing = value.is_undefined() || value.is_none();
    if is_nothing || (place.is_marked && value.is_safe()) {
        return Ok(());
    }

    let text = value.to_string();
    // The output of a macro or a block is escaped already. In any other value character references
    // are text; but some mail programs decode twice.
    let read = decoded(&text);
    let refused = match place.rule {
        Rule::Style if text.contains('&') => {
            Some("has `&`, which CSS has no escape for".to_owned())
        }
        _ if value.is_safe() => refusal(place, &read),
        _ => refusal(place, &text).or_else(|| refusal(place, &read)),
    };
    let Some(reason) = refused else { return Ok(()) };
    let unfit = UnfitValue {
        expression: place.expression.clone(),
        reason,
    };
    Err(Error::new(ErrorKind::InvalidOperation, unfit.to_string()).with_source(unfit))
}

/// Why a text is not allowed in this place; `None` if it is.
fn refusal(place: &CheckedPlace, text: &str) -> Option<String> {
    let attribute = place.attribute.as_str();
    let address = |text: &str, is_picture| {
        let scheme = unfit_scheme(text, is_picture)?;
        let also = if is_picture { ", data:image/" } else { "" };
        Some(format!(
            "begins an address in {attribute} with `{scheme}:`: http, https, mailto, tel, sms, \
             cid{also} or none may stand there, or mark it |safe"
        ))
    };
    let css = |marks: &[char]| {
        let found = unfit_css(text, marks)?;
        Some(format!(
            "has {found}, which a value in the CSS of {attribute} may not have; or mark it |safe"
        ))
    };

    match place.rule {
        Rule::Address => address(text, false),
        Rule::Picture => address(text, true),
        Rule::Pictures => text.split(',').find_map(|one| address(one, true)),
        Rule::Css | Rule::Style => css(CSS_MARKS).or_else(|| address(text, false)),
        Rule::CssPicture => address(text, true).or_else(|| match picture(&plain(text)) {
            true => css(&CSS_ADDRESS_MARKS[..CSS_ADDRESS_MARKS.len() - 1]),
            false => css(CSS_ADDRESS_MARKS),
        }),
        Rule::CssPicturePart => css(CSS_ADDRESS_MARKS),
    }
}

/// The scheme of a URL, if it is not allowed. The text before the first colon is a scheme unless a
/// `/`, `?` or `#` comes first (RFC 3986 §4.2); characters that browsers ignore are left out.
fn unfit_scheme(text: &str, is_picture: bool) -> Option<String> {
    let plain = plain(text);
    let end = plain.find([':', '/', '\\', '?', '#'])?;
    let scheme = &plain[..end];
    if !plain[end..].starts_with(':')
        || SCHEMES.contains(&scheme)
        || (is_picture && picture(&plain))
    {
        return None;
    }
    Some(scheme.chars().take(30).collect())
}

/// Whether a URL contains a picture itself.
fn picture(plain: &str) -> bool {
    plain.starts_with("data:image/")
}

/// The text in lower case, without invisible characters.
fn plain(text: &str) -> String {
    let is_unseen = |c: &char| c.is_whitespace() || !is_harmless(*c) || is_invisible(*c);
    let seen = text.chars().filter(|c| !is_unseen(c));
    seen.flat_map(char::to_lowercase).collect()
}

/// The character or word that makes a text more than one value in CSS.
fn unfit_css(text: &str, marks: &[char]) -> Option<String> {
    let is_unfit = |c: char| c.is_control() || marks.contains(&c);
    if let Some(mark) = text.chars().find(|c| is_unfit(*c)) {
        let shown = match mark.is_control() {
            true => mark.escape_debug().to_string(),
            false => mark.to_string(),
        };
        return Some(format!("`{shown}`"));
    }
    let plain = plain(text);
    let word = CSS_WORDS.iter().find(|word| plain.contains(*word));
    word.map(|word| format!("`{word}`"))
}

/// A text with its character references decoded, several times.
fn decoded(text: &str) -> String {
    let mut text = text.to_owned();
    // As often as programs on the mail's way may decode it.
    for _ in 0..3 {
        if !text.contains('&') {
            break;
        }
        text = read_once(&text);
    }
    text
}

/// Decodes the references that matter here: numbers, and the names of characters with a meaning in
/// HTML, URLs and CSS (WHATWG HTML §13.5).
fn read_once(text: &str) -> String {
    const NAMES: [(&str, char); 18] = [
        ("amp", '&'),
        ("lt", '<'),
        ("gt", '>'),
        ("quot", '"'),
        ("apos", '\''),
        ("colon", ':'),
        ("semi", ';'),
        ("sol", '/'),
        ("bsol", '\\'),
        ("lpar", '('),
        ("rpar", ')'),
        ("lcub", '{'),
        ("rcub", '}'),
        ("lbrace", '{'),
        ("rbrace", '}'),
        ("commat", '@'),
        ("tab", '\t'),
        ("newline", '\n'),
    ];

    let mut read = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('&') {
        read.push_str(before);
        let length = after
            .find(|c: char| !c.is_ascii_alphanumeric() && c != '#')
            .unwrap_or(after.len());
        let name = after[..length].to_ascii_lowercase();
        let number = name
            .strip_prefix('#')
            .map(|number| match number.strip_prefix('x') {
                // A reference without a semicolon ends where its digits end.
                Some(hex) => (1, hex, 16),
                None => (0, number, 10),
            });

        let (c, taken) = match number {
            Some((skipped, digits, radix)) => {
                let digits = digits
                    .find(|c: char| !c.is_digit(radix))
                    .map_or(digits, |end| &digits[..end]);
                let c = u32::from_str_radix(digits, radix).ok();
                (c.and_then(char::from_u32), 1 + skipped + digits.len())
            }
            None => {
                let found = NAMES.iter().find(|(known, _)| *known == name);
                (found.map(|(_, c)| *c), length)
            }
        };
        match c {
            Some(c) => {
                read.push(c);
                let after = &after[taken..];
                rest = after.strip_prefix(';').unwrap_or(after);
            }
            None => {
                read.push('&');
                rest = after;
            }
        }
    }
    read.push_str(rest);
    read
}

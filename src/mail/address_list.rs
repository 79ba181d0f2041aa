//! Parses addresses as people and programs write them (RFC 5322 §3.4): lists, groups, names in
//! every form, comments, folded lines, and the obsolete forms that must still be accepted (§4.4),
//! such as routes.
//!
//! Used by everything that accepts addresses: JSON, header fields, command lines. *Invariant:*
//! encoded words (RFC 2047) are decoded only in names, after the address was found, so that the
//! content of an encoded word never becomes a recipient. Each byte is read once and there is no
//! recursion, so the work is linear, however deeply comments are nested.

use std::ops::Range;

use super::{Address, subject};

/// The most words of one name, more than any real name has, to limit memory.
const MAX_WORDS: usize = 500;

/// A mailbox that was found in a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FoundMailbox {
    /// The display name, decoded.
    pub name: Option<String>,
    /// The local part, quoted if necessary.
    pub local: String,
    /// `None` for a local user without a domain: `root`.
    pub domain: Option<String>,
    /// The position of the address in the text, without angle brackets.
    pub place: Range<usize>,
}

impl FoundMailbox {
    /// The address; `domain` is used if it has none.
    pub fn address(&self, domain: Option<&str>) -> Result<Address, String> {
        let Some(domain) = self.domain.as_deref().or(domain) else {
            let shown = shown(&self.local);
            return Err(format!("`{shown}` has no @"));
        };
        let whole = format!("{}@{domain}", self.local);
        if whole.contains(char::REPLACEMENT_CHARACTER) {
            return Err("has bytes in an address that are not UTF-8".to_owned());
        }
        Address::parse(&whole).map_err(|error| error.to_string())
    }
}

/// One entry of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ListEntry {
    One(FoundMailbox),
    /// `Friends: ada@example.org, bob@example.org;`
    Group(String, Vec<FoundMailbox>),
}

/// Parses a list of mailboxes and groups.
///
/// # Errors
/// The reason, with enough of the text to find the place.
pub(super) fn read(text: &str) -> Result<Vec<ListEntry>, String> {
    let mut reader = ListReader::new(text);
    reader.read().map(|()| reader.entries)
}

/// Parses a list as [`read`] does. Also returns whether other programs may parse it differently: a
/// name lacks quotes that it needs (`[Shop] <shop@example.com>`), or semicolons replace commas.
pub(super) fn read_loosely(text: &str) -> Result<(Vec<ListEntry>, bool), String> {
    let mut reader = ListReader::new(text);
    reader.read().map(|()| (reader.entries, reader.is_loose))
}

/// All mailboxes of a list, including those in groups.
pub(super) fn mailboxes(entries: Vec<ListEntry>) -> impl Iterator<Item = FoundMailbox> {
    entries.into_iter().flat_map(|entry| match entry {
        ListEntry::One(found) => vec![found],
        ListEntry::Group(_, found) => found,
    })
}

/// Parses the content of the angle brackets of an SMTP path; a source route is ignored (RFC 5321
/// §4.1.1.3). If only a part of the local part is quoted (RFC 5322 §4.4), the quotes are put around
/// all of it.
pub(super) fn path(text: &str) -> Result<Address, String> {
    let strict = Address::parse(text).map_err(|error| error.reason().to_owned());
    if strict.is_ok() || !text.contains('"') {
        return strict;
    }
    match &*read(&format!("<{text}>")).unwrap_or_default() {
        [ListEntry::One(found)] if found.name.is_none() => found.address(None).or(strict),
        _ => strict,
    }
}

/// The kind of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Atom,
    Quoted,
    /// `[192.0.2.1]`
    Literal,
    Comment,
    Special(u8),
}

#[derive(Clone, Debug)]
struct ListToken {
    kind: Kind,
    place: Range<usize>,
    /// Whether white space or a comment precedes it.
    is_apart: bool,
}

impl ListToken {
    fn is(&self, special: u8) -> bool {
        self.kind == Kind::Special(special)
    }
}

struct ListReader<'a> {
    text: &'a str,
    at: usize,
    entries: Vec<ListEntry>,
    group: Option<(String, Vec<FoundMailbox>)>,
    /// The words since the end of the last mailbox.
    words: Vec<ListToken>,
    comment: Option<Range<usize>>,
    /// The address in angle brackets after these words.
    angle: Option<FoundMailbox>,
    /// Whether something is outside the grammar, including its obsolete forms.
    is_loose: bool,
}

impl<'a> ListReader<'a> {
    fn new(text: &'a str) -> Self {
        ListReader {
            text,
            at: 0,
            entries: Vec::new(),
            group: None,
            words: Vec::new(),
            comment: None,
            angle: None,
            is_loose: false,
        }
    }

    fn read(&mut self) -> Result<(), String> {
        while let Some(token) = self.next()? {
            match token.kind {
                Kind::Comment => self.comment = Some(token.place),
                Kind::Special(b',') => self.end_mailbox()?,
                Kind::Special(b';') => {
                    self.is_loose |= self.group.is_none();
                    self.end_mailbox()?;
                    self.end_group();
                }
                Kind::Special(b':') => self.begin_group()?,
                Kind::Special(b'<') => {
                    if self.angle.is_some() {
                        return Err("has `<` twice in one address".to_owned());
                    }
                    self.angle = Some(self.in_brackets()?);
                }
                Kind::Special(b'>') => {
                    return Err("has `>` without `<` before it".to_owned());
                }
                _ if self.angle.is_some() => {
                    let shown = shown(&self.text[token.place.start..]);
                    return Err(format!("has `{shown}` after the address"));
                }
                _ => self.words.push(token),
            }
            if self.words.len() > MAX_WORDS {
                return Err(format!("has more than {MAX_WORDS} words in one name"));
            }
        }

        self.end_mailbox()?;
        // A group that is not closed ends with the text.
        self.end_group();
        Ok(())
    }

    fn begin_group(&mut self) -> Result<(), String> {
        let is_name = !self.words.is_empty() && !self.words.iter().any(|word| word.is(b'@'));
        if self.group.is_some() || self.angle.is_some() || !is_name {
            return Err("has `:` where no group begins".to_owned());
        }
        let words = std::mem::take(&mut self.words);
        self.comment = None;
        self.group = Some((self.phrase(&words), Vec::new()));
        Ok(())
    }

    fn end_group(&mut self) {
        if let Some((name, found)) = self.group.take() {
            self.entries.push(ListEntry::Group(name, found));
        }
    }

    /// Ends a mailbox. There may be nothing since the last comma (RFC 5322 §4.4).
    fn end_mailbox(&mut self) -> Result<(), String> {
        let words = std::mem::take(&mut self.words);
        let comment = self.comment.take();
        let needs_quotes = |word: &ListToken| word.is(b'@') || word.kind == Kind::Literal;
        let found = match self.angle.take() {
            Some(found) => FoundMailbox {
                name: Some(self.phrase(&words)).filter(|name| !name.is_empty()),
                ..found
            },
            None if words.is_empty() => return Ok(()),
            None => self.address(&words)?,
        };

        self.is_loose |= found.name.is_some() && words.iter().any(needs_quotes);
        let name = found.name.or_else(|| self.comment_text(comment?));
        let found = FoundMailbox { name, ..found };
        match &mut self.group {
            Some((_, members)) => members.push(found),
            None => self.entries.push(ListEntry::One(found)),
        }

        Ok(())
    }

    /// Parses up to the closing angle bracket. A route before the address is ignored (RFC 5322
    /// §4.4).
    fn in_brackets(&mut self) -> Result<FoundMailbox, String> {
        let mut words: Vec<ListToken> = Vec::new();
        while let Some(token) = self.next()? {
            let in_route = words.first().is_none_or(|word| word.is(b'@'));
            match token.kind {
                Kind::Comment => {}
                Kind::Special(b'>') if words.is_empty() => {
                    return Err("has no address between `<` and `>`".to_owned());
                }
                Kind::Special(b'>') => return self.address(&words),
                Kind::Special(b',') if in_route => {}
                Kind::Special(b':') if in_route && !words.is_empty() => words.clear(),
                Kind::Special(b'<' | b',' | b';' | b':') => {
                    let shown = shown(&self.text[token.place]);
                    return Err(format!("has `{shown}` between `<` and `>`"));
                }
                _ => words.push(token),
            }
            if words.len() > MAX_WORDS {
                return Err("has an address that is much too long".to_owned());
            }
        }

        Err("has `<` without `>` after it".to_owned())
    }

    /// The address (`addr-spec`) or local user that these words are.
    fn address(&self, words: &[ListToken]) -> Result<FoundMailbox, String> {
        let (Some(first), Some(last)) = (words.first(), words.last()) else {
            return Err("has no address".to_owned());
        };
        let place = first.place.start..last.place.end;
        let whole = || shown(&self.text[place.clone()]);

        let at = words.iter().position(|word| word.is(b'@'));
        let (local, domain) = match at {
            Some(at) => (&words[..at], Some(&words[at + 1..])),
            None => (words, None),
        };

        if domain.is_some_and(|domain| domain.iter().any(|word| word.is(b'@'))) {
            return Err(format!("`{}` has more than one @", whole()));
        }
        if !is_dotted(local) {
            let why = match (at, local.is_empty()) {
                (None, _) => "has no @",
                (Some(_), true) => "has nothing before the @",
                (Some(_), false) => {
                    "has a character before the @ that is not allowed there, or a dot too many"
                }
            };
            return Err(format!("`{}` {why}", whole()));
        }

        let local = self.local(local);
        if domain.is_none() && local.starts_with("=?") && local.ends_with("?=") {
            return Err(format!(
                "`{}` is an encoded word and not an address (RFC 2047 §5)",
                whole()
            ));
        }

        let domain = match domain {
            None => None,
            Some([literal]) if literal.kind == Kind::Literal => {
                Some(unfolded_literal(&self.text[literal.place.clone()]))
            }
            Some(words)
                if is_dotted(words) && words.iter().all(|word| word.kind != Kind::Quoted) =>
            {
                Some(
                    words
                        .iter()
                        .map(|word| &self.text[word.place.clone()])
                        .collect(),
                )
            }
            Some(_) => return Err(format!("`{}` has a domain that is not valid", whole())),
        };

        Ok(FoundMailbox {
            name: None,
            local,
            domain,
            place,
        })
    }

    /// The local part. Quotes around only a part of it, which RFC 5321 does not allow, are put
    /// around all of it; needless escapes and folds are removed.
    fn local(&self, words: &[ListToken]) -> String {
        let quoted = words.iter().any(|word| word.kind == Kind::Quoted);
        let plain: String = words.iter().map(|word| self.plain(word)).collect();
        let needs_quotes = words.len() == 1 || !plain.split('.').all(is_atom);
        if !(quoted && needs_quotes) {
            return plain;
        }

        let mut local = String::with_capacity(plain.len() + 2);
        local.push('"');
        for c in plain.chars() {
            if matches!(c, '"' | '\\') {
                local.push('\\');
            }
            local.push(c);
        }

        local.push('"');
        local
    }

    /// A word without quotes, escapes and folds.
    fn plain(&self, word: &ListToken) -> String {
        let text = &self.text[word.place.clone()];
        if word.kind != Kind::Quoted {
            return text.to_owned();
        }
        unescaped(&text[1..text.len() - 1])
    }

    /// A name: its words, separated by single spaces where they were separated. Encoded words are
    /// decoded where they are allowed, which is outside quotes (RFC 2047 §5).
    fn phrase(&self, words: &[ListToken]) -> String {
        let mut name = String::new();
        let mut run = String::new();
        for (i, word) in words.iter().enumerate() {
            let space = if i > 0 && word.is_apart { " " } else { "" };
            if word.kind == Kind::Quoted {
                name.push_str(&decoded(&std::mem::take(&mut run)));
                name.push_str(space);
                name.push_str(&self.plain(word));
            } else {
                run.push_str(space);
                run.push_str(&self.text[word.place.clone()]);
            }
        }

        name.push_str(&decoded(&run));
        name.trim().to_owned()
    }

    /// The text of a comment that serves as a name: `ada@example.org (Ada Lovelace)`.
    fn comment_text(&self, place: Range<usize>) -> Option<String> {
        let inner = &self.text[place.start + 1..place.end - 1];
        let text = decoded(unescaped(inner).trim());
        let is_name = !text.is_empty() && !text.chars().any(char::is_control);
        is_name.then_some(text)
    }

    fn next(&mut self) -> Result<Option<ListToken>, String> {
        let bytes = self.text.as_bytes();
        let start = self.at;
        while self.at < bytes.len() && matches!(bytes[self.at], b' ' | b'\t' | b'\r' | b'\n') {
            self.at += 1;
        }

        let after_comment = start > 0 && bytes[start - 1] == b')';
        let is_apart = self.at > start || after_comment;
        let from = self.at;
        let Some(first) = bytes.get(from) else {
            return Ok(None);
        };

        let kind = match first {
            b'(' => self.comment()?,
            b'"' => self.until(b'"', Kind::Quoted, "a double quote that is never closed")?,
            b'[' => self.until(b']', Kind::Literal, "`[` without `]` after it")?,
            b')' => return Err("has `)` without `(` before it".to_owned()),
            b']' | b'\\' => {
                let shown = char::from(*first);
                return Err(format!("has `{shown}` where it is not allowed"));
            }
            special @ (b',' | b';' | b':' | b'<' | b'>' | b'@' | b'.') => {
                self.at += 1;
                Kind::Special(*special)
            }
            control if control.is_ascii_control() => {
                return Err("has a control character".to_owned());
            }
            _ => {
                let is_atom =
                    |byte: u8| !byte.is_ascii_control() && !b" ()\"[]\\,;:<>@.".contains(&byte);
                while self.at < bytes.len() && is_atom(bytes[self.at]) {
                    self.at += 1;
                }
                Kind::Atom
            }
        };

        Ok(Some(ListToken {
            kind,
            place: from..self.at,
            is_apart,
        }))
    }

    /// Skips a comment, with nested ones.
    fn comment(&mut self) -> Result<Kind, String> {
        let bytes = self.text.as_bytes();
        let mut depth = 0_usize;
        while let Some(byte) = bytes.get(self.at) {
            self.at += 1;
            match byte {
                b'\\' => self.at += 1,
                b'(' => depth += 1,
                b')' if depth == 1 => return Ok(Kind::Comment),
                b')' => depth -= 1,
                _ => {}
            }
        }

        Err("has a comment that is never closed".to_owned())
    }

    fn until(&mut self, end: u8, kind: Kind, unclosed: &str) -> Result<Kind, String> {
        let bytes = self.text.as_bytes();
        self.at += 1;
        while let Some(byte) = bytes.get(self.at) {
            self.at += 1;
            match byte {
                b'\\' => self.at += 1,
                byte if *byte == end => return Ok(kind),
                _ => {}
            }
        }
        Err(format!("has {unclosed}"))
    }
}

/// Whether these are words separated by dots.
fn is_dotted(words: &[ListToken]) -> bool {
    words.len() % 2 == 1
        && words.iter().enumerate().all(|(i, word)| match i % 2 {
            0 => matches!(word.kind, Kind::Atom | Kind::Quoted),
            _ => word.is(b'.'),
        })
}

fn is_atom(text: &str) -> bool {
    let is_atext =
        |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(c) || !c.is_ascii();
    !text.is_empty() && text.chars().all(is_atext)
}

/// A quoted text without escapes and folds.
pub(super) fn unescaped(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => plain.extend(chars.next()),
            '\r' | '\n' => {}
            c => plain.push(c),
        }
    }
    plain
}

fn unfolded_literal(text: &str) -> String {
    text.chars().filter(|c| !c.is_ascii_whitespace()).collect()
}

/// The text with its encoded words decoded, unless they contain control characters.
pub(super) fn decoded(text: &str) -> String {
    if !text.contains("=?") {
        return text.to_owned();
    }
    match subject::decode_words(text) {
        Some(decoded) if !decoded.chars().any(char::is_control) => decoded,
        _ => text.to_owned(),
    }
}

/// The start of a text, for an error.
fn shown(text: &str) -> String {
    let start: String = text.chars().take(80).collect();
    start.escape_debug().to_string()
}

#[cfg(test)]
mod tests;

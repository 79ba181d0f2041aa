//! Where a template puts values into HTML. What is escaped stays text, and stays within the
//! quotation marks of an attribute. Where there are none, or where a script is, escapes hold
//! nothing, and a value could become more than one: that is found before a template is in force.

use super::folder::line_at;

/// Elements whose contents are no HTML.
const RAW: [&str; 4] = ["script", "style", "textarea", "title"];

/// What stands at a place of HTML (WHATWG HTML §13.2.5, as far as it matters here).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Text,
    Comment,
    /// The contents of one of [`RAW`].
    Raw(&'static str),
    /// The name of an element.
    Element,
    /// Between attributes.
    Tag,
    /// The name of an attribute.
    Attribute,
    /// Behind the equals sign of one.
    Equals,
    /// A value without quotation marks.
    Bare,
    /// One that this mark ends.
    Quoted(u8),
}

/// Walks through a source.
struct Walk<'a> {
    source: &'a str,
    at: usize,
    place: Place,
    /// Where the name of this element began, and whether it is an end tag.
    element: (usize, bool),
    /// Where the name of this attribute began.
    attribute: usize,
    found: Vec<(usize, String)>,
}

/// The values that are not held where they stand, each with its line and what to do about it.
pub(super) fn unheld(source: &str) -> Vec<(usize, String)> {
    let mut walk = Walk {
        source,
        at: 0,
        place: Place::Text,
        element: (0, false),
        attribute: 0,
        found: Vec::new(),
    };
    while walk.at < source.len() {
        walk.step();
    }
    walk.found
}

impl Walk<'_> {
    fn step(&mut self) {
        let rest = &self.source.as_bytes()[self.at..];
        match rest {
            [b'{', b'{', ..] => self.value(),
            [b'{', b'%', ..] => self.block(),
            [b'{', b'#', ..] => self.pass("#}"),
            [byte, ..] => {
                let byte = *byte;
                self.at += 1;
                self.html(byte);
            }
            [] => {}
        }
    }

    /// Goes on behind this.
    fn pass(&mut self, end: &str) {
        let found = self.source[self.at..].find(end);
        self.at = found.map_or(self.source.len(), |found| self.at + found + end.len());
    }

    fn value(&mut self) {
        let start = self.at;
        self.pass("}}");
        let written = &self.source[start..self.at];
        let inner = written.trim_matches(['{', '}', '-', '+']).trim();
        if let Some(reason) = self.reason(inner) {
            let line = line_at(self.source, start);
            self.found
                .push((line, format!("{{{{ {inner} }}}} {reason}")));
        }
        if self.place == Place::Equals {
            self.place = Place::Bare;
        }
    }

    /// A block is no part of the HTML; what stands in a raw one is.
    fn block(&mut self) {
        let start = self.at;
        self.pass("%}");
        let inner = self.source[start..self.at].trim_matches(['{', '}', '%', '-', '+']);
        if inner.trim() == "raw" {
            self.pass("endraw");
            self.pass("%}");
        }
    }

    /// Why a value is not held here.
    fn reason(&self, value: &str) -> Option<&'static str> {
        let last = value.rsplit('|').next().unwrap_or_default().trim();
        let is_safe = last == "safe" || ["super()", "caller()"].contains(&value);
        if is_safe {
            return None;
        }

        match self.place {
            Place::Element => Some("stands where the name of an element does"),
            Place::Tag | Place::Attribute => Some("stands where the name of an attribute does"),
            Place::Equals | Place::Bare => Some(
                "is an attribute without quotation marks, which a space ends: put them around it",
            ),
            Place::Raw("script") if last != "tojson" => {
                Some("stands in a script, which HTML's escapes say nothing to: add |tojson")
            }
            Place::Quoted(_) if last != "tojson" && self.is_handler() => {
                Some("stands in a script, which HTML's escapes say nothing to: add |tojson")
            }
            _ => None,
        }
    }

    /// Whether the value of this attribute is a script.
    fn is_handler(&self) -> bool {
        let begins = self
            .source
            .as_bytes()
            .get(self.attribute..self.attribute + 2);
        begins.is_some_and(|begins| begins.eq_ignore_ascii_case(b"on"))
    }

    fn html(&mut self, byte: u8) {
        // Nothing within a letter of several bytes matters here.
        let rest = self.source.get(self.at..).unwrap_or_default();
        let is_space = byte.is_ascii_whitespace();
        self.place = match (self.place, byte) {
            (Place::Text, b'<') if rest.starts_with("!--") => {
                self.at += 3;
                Place::Comment
            }
            (Place::Text, b'<') => self.begin(),
            (Place::Comment, b'-') if rest.starts_with("->") => {
                self.at += 2;
                Place::Text
            }
            (Place::Raw(name), b'<') if is_end_of(rest, name) => self.begin(),
            (
                Place::Element | Place::Tag | Place::Attribute | Place::Equals | Place::Bare,
                b'>',
            ) => self.end(),
            (Place::Element | Place::Bare, _) if is_space => Place::Tag,
            (Place::Element, b'/') => Place::Tag,
            (Place::Tag | Place::Attribute, b'=') => Place::Equals,
            (Place::Attribute, _) if is_space => Place::Tag,
            (Place::Tag, _) if !is_space && byte != b'/' => {
                self.attribute = self.at - 1;
                Place::Attribute
            }
            (Place::Equals, b'"' | b'\'') => Place::Quoted(byte),
            (Place::Equals, _) if !is_space => Place::Bare,
            (Place::Quoted(mark), byte) if mark == byte => Place::Tag,
            (place, _) => place,
        };
    }

    /// Behind a `<`: a tag, where a name follows.
    fn begin(&mut self) -> Place {
        let rest = &self.source[self.at..];
        let is_end = rest.starts_with('/');
        let name = rest.trim_start_matches('/');
        let is_name = |c: char| c.is_ascii_alphabetic() || c == '!';
        if !name.starts_with(is_name) && !name.starts_with("{{") {
            return Place::Text;
        }
        self.at += usize::from(is_end);
        self.element = (self.at, is_end);
        Place::Element
    }

    /// Behind a tag.
    fn end(&self) -> Place {
        let (start, is_end) = self.element;
        let name = &self.source[start..];
        let is_it = |raw: &&&str| {
            let begins = name.get(..raw.len());
            let ends = name.as_bytes().get(raw.len());
            begins.is_some_and(|begins| begins.eq_ignore_ascii_case(raw))
                && ends.is_some_and(|byte| !byte.is_ascii_alphanumeric() && *byte != b'-')
        };
        match RAW.iter().find(is_it) {
            Some(raw) if !is_end => Place::Raw(raw),
            _ => Place::Text,
        }
    }
}

/// Whether this, behind a `<`, ends the element of this name.
fn is_end_of(rest: &str, name: &str) -> bool {
    let found = rest
        .strip_prefix('/')
        .and_then(|rest| rest.get(..name.len()));
    found.is_some_and(|found| found.eq_ignore_ascii_case(name))
}

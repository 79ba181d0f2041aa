//! Where in HTML a template puts a value, and what holds it there. What is escaped stays text, and
//! stays within the quotation marks of an attribute. Where there are none, or where a script is,
//! escapes hold nothing: such a place is found before a template is in force. In an address and in
//! CSS a value can be text and do harm all the same: there it is looked at when it is rendered.
//!
//! `walk` asks for each value of a template; `checks` looks at what the data put there.

/// Elements whose contents are no HTML.
const RAW: [&str; 5] = ["script", "style", "textarea", "title", "mj-style"];

/// Attributes that hold an address, in HTML, in VML, and in MJML.
const ADDRESSES: [&str; 25] = [
    "action",
    "archive",
    "background",
    "base-url",
    "cite",
    "codebase",
    "data",
    "dynsrc",
    "formaction",
    "href",
    "icon",
    "icon-unwrapped-url",
    "icon-wrapped-url",
    "left-icon",
    "longdesc",
    "lowsrc",
    "manifest",
    "ping",
    "poster",
    "profile",
    "right-icon",
    "src",
    "thumbnails-src",
    "usemap",
    "xlink:href",
];

/// Attributes of MJML's elements that become text; an address is none, everything else becomes CSS.
const MJML_TEXT: [&str; 17] = [
    "alt",
    "class",
    "content",
    "css-class",
    "dir",
    "id",
    "lang",
    "media",
    "mj-class",
    "mode",
    "name",
    "path",
    "rel",
    "role",
    "sizes",
    "target",
    "title",
];

/// The most letters of a name that are remembered.
const NAME_LETTERS: usize = 40;

/// What stands at a place of HTML (WHATWG HTML §13.2.5, as far as it matters here).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum HtmlContext {
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

/// Who says what an address leads to, as far as it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Scheme {
    /// The template, or there is none: what follows cannot become one.
    Known,
    /// Nothing yet.
    Open,
    /// A value stands where it would, and nothing has ended it.
    Given,
}

/// A place in a document.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Spot {
    place: HtmlContext,
    element: String,
    is_end_tag: bool,
    attribute: String,
    scheme: Scheme,
    /// Whether this is a comment in which Outlook reads HTML.
    is_conditional: bool,
}

/// What a value must be in a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rule {
    /// The beginning of an address.
    Address,
    /// Of that of a picture, which may be in the address itself.
    Picture,
    /// A part of several addresses, or all of them: `srcset`.
    Pictures,
    /// A value in CSS.
    Css,
    /// In the contents of `<style>`, in which HTML's escapes are none.
    Style,
    /// The beginning of the address of a picture that stands in CSS too.
    CssPicture,
    /// What follows in one.
    CssPicturePart,
}

/// Why an attribute is a script.
const SCRIPT: &str = "stands in a script, which HTML's escapes say nothing to: add |tojson";

impl Spot {
    /// The beginning of a document.
    pub fn text() -> Self {
        Spot {
            place: HtmlContext::Text,
            element: String::new(),
            is_end_tag: false,
            attribute: String::new(),
            scheme: Scheme::Known,
            is_conditional: false,
        }
    }

    /// Whether whatever stands here, escaped, is text.
    pub fn is_plain(&self) -> bool {
        let holds = match self.place {
            HtmlContext::Text | HtmlContext::Comment | HtmlContext::Raw("textarea" | "title") => {
                true
            }
            HtmlContext::Quoted(_) => !self.is_script() && !self.is_document(),
            _ => false,
        };
        holds && self.rule().is_none()
    }

    /// Why a value is not held here, whatever it is; `filter` is the last one that it goes through.
    pub fn refusal(&self, filter: &str) -> Option<&'static str> {
        // Outlook alone reads these, and runs no script.
        if self.is_conditional {
            return None;
        }

        match self.place {
            HtmlContext::Element => Some("stands where the name of an element does"),
            HtmlContext::Tag | HtmlContext::Attribute => {
                Some("stands where the name of an attribute does")
            }
            HtmlContext::Equals | HtmlContext::Bare => Some(
                "is an attribute without quotation marks, which a space ends: put them around it",
            ),
            HtmlContext::Raw("script") if filter != "tojson" => Some(SCRIPT),
            HtmlContext::Quoted(_) if filter != "tojson" && self.is_script() => Some(SCRIPT),
            HtmlContext::Quoted(_) if self.is_document() => {
                Some("stands in srcdoc, which is a document of its own: escapes end in it")
            }
            _ => None,
        }
    }

    /// What a value must be here.
    pub fn rule(&self) -> Option<Rule> {
        match self.place {
            HtmlContext::Raw("style" | "mj-style") => return Some(Rule::Style),
            HtmlContext::Equals | HtmlContext::Bare | HtmlContext::Quoted(_) => {}
            _ => return None,
        }

        let is_open = self.scheme != Scheme::Known || self.place == HtmlContext::Equals;
        let is_mjml = self.element.starts_with("mj-");
        match self.attribute.as_str() {
            "style" => Some(Rule::Css),
            "srcset" => Some(Rule::Pictures),
            // The sheet of a font is imported in CSS.
            name if name == "background-url" || self.is_font() => match is_open {
                true => Some(Rule::CssPicture),
                false => Some(Rule::CssPicturePart),
            },
            name if ADDRESSES.contains(&name) => {
                let rule = match self.shows_picture() {
                    true => Rule::Picture,
                    false => Rule::Address,
                };
                is_open.then_some(rule)
            }
            name if is_mjml && !MJML_TEXT.contains(&name) && !is_of_a_program(name) => {
                Some(Rule::Css)
            }
            _ => None,
        }
    }

    /// The attribute that a value stands in.
    pub fn attribute(&self) -> &str {
        match self.place {
            HtmlContext::Raw(name) => name,
            _ => &self.attribute,
        }
    }

    /// Goes on behind a value.
    pub fn pass_value(&mut self, is_safe: bool) {
        if self.place == HtmlContext::Equals {
            self.place = HtmlContext::Bare;
            self.scheme = Scheme::Open;
        }
        if self.scheme == Scheme::Open {
            // Whoever marks it as safe has written it, so to speak.
            self.scheme = match is_safe {
                true => Scheme::Known,
                false => Scheme::Given,
            };
        }
    }

    /// Where one goes on behind several ways that lead here: where values are looked at most.
    pub fn joined(self, other: Spot) -> Spot {
        let is_same = (&self.place, &self.attribute) == (&other.place, &other.attribute);
        if is_same {
            let scheme = self.scheme.max(other.scheme);
            return Spot { scheme, ..other };
        }
        match (self.rule(), other.rule()) {
            (Some(_), None) if self.place == other.place => self,
            _ => other,
        }
    }

    /// Goes on behind this byte of HTML, which `rest` follows. Returns how much of the rest was
    /// gone through too, and what is wrong with the values before.
    pub fn html(&mut self, byte: u8, rest: &str) -> (usize, Option<&'static str>) {
        let is_space = byte.is_ascii_whitespace();
        let mut passed = 0;
        let mut wrong = None;

        self.place = match (self.place, byte) {
            // Whoever is not Outlook reads on here.
            (_, b'-') if self.is_conditional && rest.starts_with("->") => {
                self.is_conditional = false;
                passed = 2;
                HtmlContext::Text
            }
            (HtmlContext::Text, b'<') if rest.starts_with("!--[if") => {
                self.is_conditional = true;
                self.begin(rest, &mut passed)
            }
            (HtmlContext::Text, b'<') if rest.starts_with("!--") => {
                self.is_conditional = false;
                let is_empty = rest.starts_with("!-->") || rest.starts_with("!--->");
                passed = 3;
                match is_empty {
                    true => HtmlContext::Text,
                    false => HtmlContext::Comment,
                }
            }
            (HtmlContext::Text, b'<') => {
                self.is_conditional &= !rest.starts_with("![endif]");
                self.begin(rest, &mut passed)
            }
            (HtmlContext::Comment, b'-') if rest.starts_with("->") => {
                passed = 2;
                HtmlContext::Text
            }
            (HtmlContext::Raw(name), b'<') if is_end_of(rest, name) => {
                self.begin(rest, &mut passed)
            }
            (
                HtmlContext::Element
                | HtmlContext::Tag
                | HtmlContext::Attribute
                | HtmlContext::Equals
                | HtmlContext::Bare,
                b'>',
            ) => self.end(),
            (HtmlContext::Element | HtmlContext::Bare, _) if is_space => HtmlContext::Tag,
            (HtmlContext::Element, b'/') => HtmlContext::Tag,
            (HtmlContext::Element, _) => {
                push(&mut self.element, byte);
                HtmlContext::Element
            }
            (HtmlContext::Tag | HtmlContext::Attribute, b'=') => HtmlContext::Equals,
            (HtmlContext::Attribute, _) if is_space => HtmlContext::Tag,
            (HtmlContext::Attribute, _) => {
                push(&mut self.attribute, byte);
                HtmlContext::Attribute
            }
            (HtmlContext::Tag, _) if !is_space && byte != b'/' => {
                self.attribute.clear();
                push(&mut self.attribute, byte);
                HtmlContext::Attribute
            }
            (HtmlContext::Equals, b'"' | b'\'') => {
                self.scheme = Scheme::Open;
                HtmlContext::Quoted(byte)
            }
            (HtmlContext::Equals, _) if !is_space => {
                self.scheme = Scheme::Open;
                wrong = self.address(byte);
                HtmlContext::Bare
            }
            (HtmlContext::Quoted(mark), byte) if mark == byte => {
                self.scheme = Scheme::Known;
                HtmlContext::Tag
            }
            (place @ (HtmlContext::Quoted(_) | HtmlContext::Bare), _) => {
                wrong = self.address(byte);
                place
            }
            (place, _) => place,
        };
        (passed, wrong)
    }

    /// What the template itself writes in an attribute.
    fn address(&mut self, byte: u8) -> Option<&'static str> {
        let given = self.scheme == Scheme::Given;
        match byte {
            b',' if self.attribute == "srcset" => self.scheme = Scheme::Open,
            b':' | b'/' | b'?' | b'#' => self.scheme = Scheme::Known,
            _ => {}
        }

        let is_address = || {
            let name = self.attribute.as_str();
            ADDRESSES.contains(&name) || ["srcset", "background-url"].contains(&name)
        };
        (given && byte == b':' && is_address()).then_some(
            "stands before a colon, and would choose what the address leads to: write https: there",
        )
    }

    /// Whether the value of this attribute is a script.
    fn is_script(&self) -> bool {
        self.attribute.starts_with("on")
    }

    fn is_font(&self) -> bool {
        self.element == "mj-font" && self.attribute == "href"
    }

    /// Whether it is HTML.
    fn is_document(&self) -> bool {
        self.attribute == "srcdoc"
    }

    /// Whether an address here is that of a picture: what it leads to runs nothing.
    fn shows_picture(&self) -> bool {
        const DOCUMENTS: [&str; 5] = ["embed", "frame", "iframe", "object", "script"];
        let is_link = |name: &str| name.ends_with("href") || name.ends_with("action");
        match self.attribute.as_str() {
            "background" | "poster" => true,
            "cite" | "codebase" | "data" | "longdesc" | "manifest" | "ping" | "base-url" => false,
            name => !is_link(name) && !DOCUMENTS.contains(&self.element.as_str()),
        }
    }

    /// Behind a `<`: a tag, where a name follows.
    fn begin(&mut self, rest: &str, passed: &mut usize) -> HtmlContext {
        let is_end_tag = rest.starts_with('/');
        let name = rest.trim_start_matches('/');
        let is_name = |c: char| c.is_ascii_alphabetic() || c == '!';
        if !name.starts_with(is_name) && !name.starts_with("{{") {
            return HtmlContext::Text;
        }
        *passed = usize::from(is_end_tag);
        self.is_end_tag = is_end_tag;
        self.element.clear();
        self.attribute.clear();
        HtmlContext::Element
    }

    /// Behind a tag.
    fn end(&mut self) -> HtmlContext {
        let found = RAW.iter().find(|raw| **raw == self.element);
        self.element.clear();
        self.attribute.clear();
        self.scheme = Scheme::Known;
        match found {
            Some(raw) if !self.is_end_tag => HtmlContext::Raw(raw),
            _ => {
                self.is_end_tag = false;
                HtmlContext::Text
            }
        }
    }
}

/// Whether only programs read an attribute of this name.
fn is_of_a_program(name: &str) -> bool {
    name.starts_with("data-") || name.starts_with("aria-") || name.starts_with("xmlns")
}

fn push(name: &mut String, byte: u8) {
    if name.len() < NAME_LETTERS {
        name.push(char::from(byte).to_ascii_lowercase());
    }
}

/// Whether this, behind a `<`, ends the element of this name.
fn is_end_of(rest: &str, name: &str) -> bool {
    let found = rest
        .strip_prefix('/')
        .and_then(|rest| rest.get(..name.len()));
    found.is_some_and(|found| found.eq_ignore_ascii_case(name))
}

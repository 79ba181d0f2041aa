//! The places in HTML where a template writes a value, and what makes a value safe there. In text,
//! and within an attribute's quotation marks, HTML's escapes are enough. Without quotation marks,
//! or in a script, they are not: such a template is refused when it is loaded. In a URL and in CSS
//! an escaped value can still do harm: there it is checked at each render.
//!
//! `walk` asks for the [`Rule`] of each value in a template; `checks` applies it to the data.

/// Elements whose contents are not HTML.
const RAW: [&str; 5] = ["script", "style", "textarea", "title", "mj-style"];

/// Attributes with a URL, in HTML, VML and MJML.
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

/// Attributes of MJML's elements that become text. Except for these and the ones with a URL, they
/// become CSS.
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

/// The most bytes of an element's or attribute's name that are kept.
const NAME_LETTERS: usize = 40;

/// The state of a parser of HTML (WHATWG HTML §13.2.5, as far as it matters here).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum HtmlContext {
    Text,
    Comment,
    /// The contents of one of [`RAW`].
    Raw(&'static str),
    /// The name of an element.
    Element,
    /// In a tag, between attributes.
    Tag,
    /// The name of an attribute.
    Attribute,
    /// After an attribute's equals sign.
    Equals,
    /// An attribute's value without quotation marks.
    Unquoted,
    /// An attribute's value that this quotation mark ends.
    Quoted(u8),
}

/// Who decides the scheme of a URL, as far as it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Scheme {
    /// The template does, or there is none: a value from here on cannot become the scheme.
    Known,
    /// Nothing is written yet: a value could be the scheme.
    Open,
    /// A value was written where the scheme would be, and nothing has ended the scheme.
    Given,
}

/// A place in a document: the state of the parser there.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Spot {
    context: HtmlContext,
    element: String,
    is_end_tag: bool,
    attribute: String,
    scheme: Scheme,
    /// Whether this is within a comment whose contents Outlook reads as HTML.
    is_conditional: bool,
}

/// How a value is checked in a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rule {
    /// The beginning of a URL.
    Address,
    /// The beginning of a picture's URL, which may be a `data:` URL.
    Picture,
    /// One or several URLs of pictures: `srcset`.
    Pictures,
    /// A value in CSS.
    Css,
    /// A value in `<style>`, where HTML's escapes have no meaning.
    Style,
    /// The beginning of a picture's URL in CSS.
    CssPicture,
    /// A later part of a picture's URL in CSS.
    CssPicturePart,
}

/// Why a value in a script is refused.
const SCRIPT: &str = "stands in a script, where HTML's escapes have no effect: add |tojson";

impl Spot {
    /// The place at the beginning of a document.
    pub fn text() -> Self {
        Spot {
            context: HtmlContext::Text,
            element: String::new(),
            is_end_tag: false,
            attribute: String::new(),
            scheme: Scheme::Known,
            is_conditional: false,
        }
    }

    /// Whether every escaped value is safe here without a check.
    pub fn is_plain(&self) -> bool {
        let holds = match self.context {
            HtmlContext::Text | HtmlContext::Comment | HtmlContext::Raw("textarea" | "title") => {
                true
            }
            HtmlContext::Quoted(_) => !self.is_script() && !self.is_document(),
            _ => false,
        };
        holds && self.rule().is_none()
    }

    /// Why no value is safe here; `None` if values can be. `filter` is the last filter of the
    /// expression.
    pub fn refusal(&self, filter: &str) -> Option<&'static str> {
        // Only Outlook reads these, and it runs no scripts.
        if self.is_conditional {
            return None;
        }

        match self.context {
            HtmlContext::Element => Some("stands where the name of an element does"),
            HtmlContext::Tag | HtmlContext::Attribute => {
                Some("stands where the name of an attribute does")
            }
            HtmlContext::Equals | HtmlContext::Unquoted => Some(
                "is an attribute without quotation marks, which a space ends: put them around it",
            ),
            HtmlContext::Raw("script") if filter != "tojson" => Some(SCRIPT),
            HtmlContext::Quoted(_) if filter != "tojson" && self.is_script() => Some(SCRIPT),
            HtmlContext::Quoted(_) if self.is_document() => {
                Some("stands in srcdoc, a document of its own, where HTML's escapes are not enough")
            }
            _ => None,
        }
    }

    /// How a value is checked here; `None` if HTML's escapes are enough.
    pub fn rule(&self) -> Option<Rule> {
        match self.context {
            HtmlContext::Raw("style" | "mj-style") => return Some(Rule::Style),
            HtmlContext::Equals | HtmlContext::Unquoted | HtmlContext::Quoted(_) => {}
            _ => return None,
        }

        let is_open = self.scheme != Scheme::Known || self.context == HtmlContext::Equals;
        let is_mjml = self.element.starts_with("mj-");
        match self.attribute.as_str() {
            "style" => Some(Rule::Css),
            "srcset" => Some(Rule::Pictures),
            // MJML imports a font's style sheet in CSS.
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
            name if is_mjml && !MJML_TEXT.contains(&name) && !is_for_programs(name) => {
                Some(Rule::Css)
            }
            _ => None,
        }
    }

    /// The attribute, or the element, of a value here.
    pub fn attribute(&self) -> &str {
        match self.context {
            HtmlContext::Raw(name) => name,
            _ => &self.attribute,
        }
    }

    /// Moves on past a value.
    pub fn pass_value(&mut self, is_safe: bool) {
        if self.context == HtmlContext::Equals {
            self.context = HtmlContext::Unquoted;
            self.scheme = Scheme::Open;
        }
        if self.scheme == Scheme::Open {
            // The author answers for a value that is marked as safe, as for the template's own
            // text.
            self.scheme = match is_safe {
                true => Scheme::Known,
                false => Scheme::Given,
            };
        }
    }

    /// The place after two branches that ended at these places: the one with the stricter check.
    pub fn joined(self, other: Spot) -> Spot {
        let is_same = (&self.context, &self.attribute) == (&other.context, &other.attribute);
        if is_same {
            let scheme = self.scheme.max(other.scheme);
            return Spot { scheme, ..other };
        }
        match (self.rule(), other.rule()) {
            (Some(_), None) if self.context == other.context => self,
            _ => other,
        }
    }

    /// Moves on past a byte of HTML; `rest` follows it. Returns how many bytes of `rest` were
    /// passed as well, and what is wrong with the value before.
    pub fn html(&mut self, byte: u8, rest: &str) -> (usize, Option<&'static str>) {
        let is_space = byte.is_ascii_whitespace();
        let mut passed = 0;
        let mut wrong = None;

        self.context = match (self.context, byte) {
            // Programs other than Outlook read on from here.
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
                | HtmlContext::Unquoted,
                b'>',
            ) => self.end(),
            (HtmlContext::Element | HtmlContext::Unquoted, _) if is_space => HtmlContext::Tag,
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
                wrong = self.pass_own_byte(byte);
                HtmlContext::Unquoted
            }
            (HtmlContext::Quoted(mark), byte) if mark == byte => {
                self.scheme = Scheme::Known;
                HtmlContext::Tag
            }
            (context @ (HtmlContext::Quoted(_) | HtmlContext::Unquoted), _) => {
                wrong = self.pass_own_byte(byte);
                context
            }
            (context, _) => context,
        };
        (passed, wrong)
    }

    /// Moves on past a byte that the template itself writes in an attribute. Returns what is wrong
    /// with the value before.
    fn pass_own_byte(&mut self, byte: u8) -> Option<&'static str> {
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
        (given && byte == b':' && is_address())
            .then_some("stands before a colon, so that it would be the scheme: write https: there")
    }

    /// Whether the value of this attribute is a script.
    fn is_script(&self) -> bool {
        self.attribute.starts_with("on")
    }

    fn is_font(&self) -> bool {
        self.element == "mj-font" && self.attribute == "href"
    }

    /// Whether the value of this attribute is a document.
    fn is_document(&self) -> bool {
        self.attribute == "srcdoc"
    }

    /// Whether a URL here is that of a picture, so that nothing it leads to is executed.
    fn shows_picture(&self) -> bool {
        const DOCUMENTS: [&str; 5] = ["embed", "frame", "iframe", "object", "script"];
        let is_link = |name: &str| name.ends_with("href") || name.ends_with("action");
        match self.attribute.as_str() {
            "background" | "poster" => true,
            "cite" | "codebase" | "data" | "longdesc" | "manifest" | "ping" | "base-url" => false,
            name => !is_link(name) && !DOCUMENTS.contains(&self.element.as_str()),
        }
    }

    /// Moves on past a `<`, which begins a tag if a name follows.
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

    /// Moves on past the end of a tag.
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

/// Whether attributes of this name have no effect on how a document is shown.
fn is_for_programs(name: &str) -> bool {
    name.starts_with("data-") || name.starts_with("aria-") || name.starts_with("xmlns")
}

fn push(name: &mut String, byte: u8) {
    if name.len() < NAME_LETTERS {
        name.push(char::from(byte).to_ascii_lowercase());
    }
}

/// Whether this text, after a `<`, is the end tag of the element of this name.
fn is_end_of(rest: &str, name: &str) -> bool {
    let found = rest
        .strip_prefix('/')
        .and_then(|rest| rest.get(..name.len()));
    found.is_some_and(|found| found.eq_ignore_ascii_case(name))
}

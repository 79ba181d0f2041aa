//! Walks through the templates as they will be rendered, through what they include and extend, and
//! finds where each of their values will stand in HTML.
//!
//! A value that nothing holds there is a mistake of the template. One that must be looked at when
//! it is rendered gets a filter of its own, which the engine knows: `{{ x }}` becomes
//! `{{ (x)|held(7) }}`. No line changes its number.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::folder::line_at;
use super::places::{Rule, Spot};

/// The filter's name.
pub(super) const FILTER: &str = "__held";
/// How many files, each at another place, one set of templates may include.
const MOST_WALKS: usize = 10_000;
/// How deep files may include each other.
const MAX_DEPTH: usize = 100;

/// A place whose value is looked at when it is rendered.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct CheckedPlace {
    pub rule: Rule,
    /// The attribute that it stands in, or the element.
    pub attribute: String,
    /// What the template writes there.
    pub expression: String,
    /// Whether it is marked as safe, if it is safe then.
    pub is_marked: bool,
}

/// Something wrong in a file: its name, the line, and what to do about it.
pub(super) type Unheld = (String, usize, String);

/// What was found.
#[derive(Default)]
pub(super) struct Walked {
    /// The files in which HTML's values are looked at.
    pub sources: BTreeMap<String, String>,
    /// The places that the filter is told by their numbers.
    pub places: Vec<CheckedPlace>,
    pub unheld: BTreeSet<Unheld>,
}

/// Finds where the values of these files will stand.
pub(super) fn walk(files: &BTreeMap<String, String>) -> Walked {
    let mut walk = Walk {
        files,
        depth: 0,
        walked: HashMap::new(),
        checks: BTreeMap::new(),
        unheld: BTreeSet::new(),
    };
    let is_html = |name: &&String| {
        let ends = [".html", ".htm", ".mjml"];
        ends.iter().any(|end| name.ends_with(end))
    };
    for name in files.keys().filter(is_html) {
        walk.file(name, &Spot::text());
    }

    // What nothing names may be included by a name in the data. It is no HTML for itself.
    let unheld = walk.unheld.clone();
    for name in files.keys() {
        walk.file(name, &Spot::text());
    }
    walk.unheld = unheld;
    walk.rewritten()
}

/// The first places of the blocks of a file, by name.
type Blocks = HashMap<String, Spot>;

struct Walk<'a> {
    files: &'a BTreeMap<String, String>,
    depth: usize,
    /// Where the walk through a file ended that began at this place; and its blocks.
    walked: HashMap<(&'a str, Spot), (Spot, Blocks)>,
    /// What to look at, by file, and by where the expression begins and ends.
    checks: BTreeMap<&'a str, BTreeMap<(usize, usize), BTreeSet<CheckedPlace>>>,
    unheld: BTreeSet<Unheld>,
}

impl<'a> Walk<'a> {
    fn file(&mut self, name: &str, from: &Spot) -> (Spot, Blocks) {
        let Some((name, source)) = self.files.get_key_value(name) else {
            return (from.clone(), Blocks::new());
        };
        let key = (name.as_str(), from.clone());
        if let Some(known) = self.walked.get(&key) {
            return known.clone();
        }
        // For one that includes itself.
        let unchanged = (from.clone(), Blocks::new());
        self.walked.insert(key.clone(), unchanged.clone());
        if self.depth == MAX_DEPTH || self.walked.len() > MOST_WALKS {
            let reason = "is included too deep, or at too many places".to_owned();
            self.unheld.insert((name.clone(), 1, reason));
            return unchanged;
        }

        let mut reader = Reader {
            name,
            source,
            at: 0,
            spot: from.clone(),
            frames: Vec::new(),
            inherited: Blocks::new(),
            blocks: Blocks::new(),
            end: None,
        };
        self.depth += 1;
        while reader.at < source.len() {
            reader.step(self);
        }
        self.depth -= 1;

        let mut blocks = reader.inherited;
        blocks.extend(reader.blocks);
        let walked = (reader.end.unwrap_or(reader.spot), blocks);
        self.walked.insert(key, walked.clone());
        walked
    }

    /// The files with the filter where it is needed.
    fn rewritten(self) -> Walked {
        let mut sources = BTreeMap::new();
        let mut places = Vec::new();
        for (name, checks) in self.checks {
            let mut source = self.files[name].clone();
            for ((start, end), checks) in checks.into_iter().rev() {
                let mut held = format!("({})", &source[start..end]);
                for check in checks {
                    held.push_str(&format!("|{FILTER}({})", places.len()));
                    places.push(check);
                }
                source.replace_range(start..end, &held);
            }
            sources.insert(name.to_owned(), source);
        }
        Walked {
            sources,
            places,
            unheld: self.unheld,
        }
    }
}

/// A block of the language that is open.
enum Frame {
    /// What stands in it is written where it stands.
    Plain,
    /// It is written elsewhere, or where another file says; here one goes on as before.
    Apart(Spot),
    /// One of several ways is taken: where all began, where those before ended, and whether one of
    /// them is taken for sure.
    Ways {
        before: Spot,
        ends: Vec<Spot>,
        is_complete: bool,
    },
}

/// Walks through one file.
struct Reader<'a> {
    name: &'a str,
    source: &'a str,
    at: usize,
    spot: Spot,
    frames: Vec<Frame>,
    /// The blocks of what this extends, and its own.
    inherited: Blocks,
    blocks: Blocks,
    /// Where what this extends ends.
    end: Option<Spot>,
}

impl<'a> Reader<'a> {
    fn step(&mut self, walk: &mut Walk<'a>) {
        let rest = &self.source.as_bytes()[self.at..];
        match rest {
            [b'{', b'{', ..] => self.value(walk),
            [b'{', b'%', ..] => self.block(walk),
            [b'{', b'#', ..] => self.pass("#}"),
            _ => self.html(walk),
        }
    }

    fn html(&mut self, walk: &mut Walk<'a>) {
        let byte = self.source.as_bytes()[self.at];
        self.at += 1;
        // Nothing within a letter of several bytes matters here.
        let rest = self.source.get(self.at..).unwrap_or_default();
        let (passed, wrong) = self.spot.html(byte, rest);
        if let Some(reason) = wrong {
            let reason = format!("a value {reason}");
            self.mistake(walk, self.at, reason);
        }
        self.at += passed;
    }

    fn mistake(&self, walk: &mut Walk<'a>, at: usize, reason: String) {
        let line = line_at(self.source, at);
        walk.unheld.insert((self.name.to_owned(), line, reason));
    }

    /// Goes on behind this.
    fn pass(&mut self, end: &str) {
        let found = self.source[self.at..].find(end);
        self.at = found.map_or(self.source.len(), |found| self.at + found + end.len());
    }

    /// The inside of a value or block: its offsets, without the marks that trim white space.
    fn inside(&mut self, end: &str) -> (usize, usize) {
        let start = self.at + 2;
        let length = length_of(&self.source[start..], end);
        let stop = start + length;
        self.at = (stop + end.len()).min(self.source.len());

        let marks = ['-', '+'];
        let inner = &self.source[start..stop];
        let skipped = usize::from(inner.starts_with(marks));
        let cut = usize::from(inner.len() > 1 && inner.ends_with(marks));
        (start + skipped, stop - cut)
    }

    fn value(&mut self, walk: &mut Walk<'a>) {
        let outside = self.at;
        let (start, end) = self.inside("}}");
        let expression = self.source[start..end].trim();
        let filter = expression.rsplit('|').next().unwrap_or_default().trim();
        let is_marked = filter == "safe";
        let is_block = ["super()", "caller()"].contains(&expression);

        if !is_marked
            && !is_block
            && let Some(reason) = self.spot.refusal(filter)
        {
            let reason = format!("{{{{ {expression} }}}} {reason}");
            self.mistake(walk, outside, reason);
        }

        // What a block of the parent wrote was looked at there.
        if let Some(rule) = self.spot.rule().filter(|_| expression != "super()")
            && !expression.is_empty()
        {
            let check = CheckedPlace {
                rule,
                attribute: self.spot.attribute().to_owned(),
                expression: expression.to_owned(),
                is_marked: is_marked && is_one(expression),
            };
            let checks = walk.checks.entry(self.name).or_default();
            checks.entry((start, end)).or_default().insert(check);
        }
        self.spot.pass_value(is_marked);
    }

    fn block(&mut self, walk: &mut Walk<'a>) {
        let outside = self.at;
        let (start, end) = self.inside("%}");
        let inner = self.source[start..end].trim();
        let (word, rest) = inner.split_once(char::is_whitespace).unwrap_or((inner, ""));
        let rest = rest.trim();

        match word {
            "raw" => self.raw(walk),
            "include" => self.include(walk, outside, rest),
            "extends" => {
                let (end, blocks) = match named(rest) {
                    Some(name) => walk.file(name, &self.spot),
                    None => (self.spot.clone(), Blocks::new()),
                };
                self.end = Some(end);
                self.inherited = blocks;
            }
            "import" | "from" => {
                if let Some(name) = named(rest) {
                    walk.file(name, &Spot::text());
                }
            }
            "block" => {
                let place = self.inherited.get(rest).cloned();
                self.frames.push(match &place {
                    Some(_) => Frame::Apart(self.spot.clone()),
                    None => Frame::Plain,
                });
                self.spot = place.unwrap_or_else(|| self.spot.clone());
                self.blocks.insert(rest.to_owned(), self.spot.clone());
            }
            "call" => {
                if self.spot.refusal("").is_some() || self.spot.rule().is_some() {
                    let reason = format!("{{% {inner} %}} stands where only a value may");
                    self.mistake(walk, outside, reason);
                }
                self.apart();
            }
            "macro" => self.apart(),
            "set" if !rest.contains('=') => self.apart(),
            "set" => {}
            "if" | "for" => self.frames.push(Frame::Ways {
                before: self.spot.clone(),
                ends: Vec::new(),
                is_complete: false,
            }),
            "elif" | "else" => self.other_way(word == "else"),
            "autoescape" | "filter" | "with" => self.frames.push(Frame::Plain),
            word if word.starts_with("end") => self.end_frame(),
            _ => {}
        }
    }

    /// What follows is written elsewhere, as if it were a document of its own.
    fn apart(&mut self) {
        let before = std::mem::replace(&mut self.spot, Spot::text());
        self.frames.push(Frame::Apart(before));
    }

    fn other_way(&mut self, is_last: bool) {
        if let Some(Frame::Ways {
            before,
            ends,
            is_complete,
        }) = self.frames.last_mut()
        {
            ends.push(std::mem::replace(&mut self.spot, before.clone()));
            *is_complete |= is_last;
        }
    }

    fn end_frame(&mut self) {
        match self.frames.pop() {
            Some(Frame::Apart(before)) => self.spot = before,
            Some(Frame::Ways {
                before,
                mut ends,
                is_complete,
            }) => {
                ends.push(self.spot.clone());
                let skipped = (!is_complete).then_some(before);
                let all = skipped.into_iter().chain(ends);
                if let Some(end) = all.reduce(Spot::joined) {
                    self.spot = end;
                }
            }
            Some(Frame::Plain) | None => {}
        }
    }

    /// What stands in a raw block is HTML and nothing else.
    fn raw(&mut self, walk: &mut Walk<'a>) {
        while self.at < self.source.len() {
            let rest = &self.source[self.at..];
            let inner = rest
                .strip_prefix("{%")
                .map(|rest| rest.trim_start_matches(['-', '+']));
            if inner.is_some_and(|inner| inner.trim_start().starts_with("endraw")) {
                return self.pass("%}");
            }
            self.html(walk);
            while !self.source.is_char_boundary(self.at) {
                self.at += 1;
            }
        }
    }

    fn include(&mut self, walk: &mut Walk<'a>, at: usize, rest: &str) {
        if let Some(name) = named(rest) {
            self.spot = walk.file(name, &self.spot).0;
        } else if !self.spot.is_plain() {
            let reason = format!(
                "{{% include {rest} %}} stands where values are looked at, and does not say which \
                 file: name it"
            );
            self.mistake(walk, at, reason);
        }
    }
}

/// The name of a file where it is written out.
fn named(rest: &str) -> Option<&str> {
    let quote = rest.chars().next().filter(|c| ['"', '\''].contains(c))?;
    let (name, after) = rest[1..].split_once(quote)?;
    let is_whole = !after.trim_start().starts_with(['~', '|', '+', '[']) && !after.contains(" if ");
    is_whole.then_some(name)
}

/// The letters of an expression, with their offsets, that are neither within a text nor within
/// brackets.
fn outside(expression: &str) -> impl Iterator<Item = (usize, char)> {
    let (mut depth, mut quote, mut is_escaped) = (0_usize, None, false);
    expression.char_indices().filter(move |(_, c)| {
        if std::mem::take(&mut is_escaped) {
            return false;
        }
        let is_outside = depth == 0 && quote.is_none();
        match (quote, *c) {
            (Some(_), '\\') => is_escaped = true,
            (Some(mark), c) if mark == c => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(*c),
            (None, '(' | '[' | '{') => depth += 1,
            (None, ')' | ']' | '}') => depth = depth.saturating_sub(1),
            _ => {}
        }
        is_outside
    })
}

/// How long an expression is that this ends.
fn length_of(source: &str, end: &str) -> usize {
    outside(source)
        .find(|(at, _)| source[*at..].starts_with(end))
        .map_or(source.len(), |(at, _)| at)
}

/// Whether the last filter of an expression is one of all of it, and not of an operand.
fn is_one(expression: &str) -> bool {
    let outside: String = outside(expression)
        .map(|(_, c)| c)
        .filter(|c| !"\"'()[]{}".contains(*c))
        .collect();
    let is_part = |c: char| c.is_alphanumeric() || "_.|".contains(c) || c.is_whitespace();
    let operators = ["if", "else", "or", "and", "not", "in", "is"];
    outside.chars().all(is_part)
        && !outside
            .split_whitespace()
            .any(|one| operators.contains(&one))
}

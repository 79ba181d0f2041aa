//! Walks through the templates in the order of rendering, through the files that they include and
//! extend, and finds the place of each value in HTML. `template_set` calls it before it compiles.
//!
//! A value that nothing can make safe in its place is a mistake of the template. A value that must
//! be checked at each render gets a filter, which the engine implements: `{{ x }}` becomes
//! `{{ (x)|__checked(7) }}`. Line numbers stay the same.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::folder::line_at;
use super::places::{Rule, Spot};

/// The name of the filter that checks a value.
pub(super) const FILTER: &str = "__checked";
/// The most walks through a file: once for each place from which it is included.
const MOST_WALKS: usize = 10_000;
/// How deep includes may be nested.
const MAX_DEPTH: usize = 100;

/// A place whose value is checked at each render.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct CheckedPlace {
    pub rule: Rule,
    /// The attribute or the element of the place.
    pub attribute: String,
    /// The template's expression in this place.
    pub expression: String,
    /// Whether the whole expression is marked with `|safe`; then a value that is safe at the render
    /// is not checked.
    pub is_marked: bool,
}

/// A mistake in a file: its name, the line, and the reason with the way out.
pub(super) type PlaceMistake = (String, usize, String);

/// The result of the walk.
#[derive(Default)]
pub(super) struct WalkResult {
    /// The files that have values to be checked, with the filter added.
    pub sources: BTreeMap<String, String>,
    /// The places to be checked; the filter's argument is an index in it.
    pub places: Vec<CheckedPlace>,
    pub mistakes: BTreeSet<PlaceMistake>,
}

/// Finds the places of all values in these files.
pub(super) fn walk(files: &BTreeMap<String, String>) -> WalkResult {
    let mut walk = Walk {
        files,
        depth: 0,
        finished: HashMap::new(),
        checks: BTreeMap::new(),
        mistakes: BTreeSet::new(),
    };
    let is_html = |name: &&String| {
        let ends = [".html", ".htm", ".mjml"];
        ends.iter().any(|end| name.ends_with(end))
    };
    for name in files.keys().filter(is_html) {
        walk.file(name, &Spot::text());
    }

    // The other files may be included by a name in the data, so their values are checked as well.
    // By themselves they are not HTML, so mistakes in them are ignored.
    let mistakes = walk.mistakes.clone();
    for name in files.keys() {
        walk.file(name, &Spot::text());
    }
    walk.mistakes = mistakes;
    walk.rewritten()
}

/// The places at which the blocks of a file begin, by name.
type Blocks = HashMap<String, Spot>;

struct Walk<'a> {
    files: &'a BTreeMap<String, String>,
    depth: usize,
    /// The finished walks, by file and place of the beginning: the place of the end, and the
    /// blocks.
    finished: HashMap<(&'a str, Spot), (Spot, Blocks)>,
    /// The checks, by file, and by the beginning and end of the expression.
    checks: BTreeMap<&'a str, BTreeMap<(usize, usize), BTreeSet<CheckedPlace>>>,
    mistakes: BTreeSet<PlaceMistake>,
}

impl<'a> Walk<'a> {
    fn file(&mut self, name: &str, from: &Spot) -> (Spot, Blocks) {
        let Some((name, source)) = self.files.get_key_value(name) else {
            return (from.clone(), Blocks::new());
        };
        let key = (name.as_str(), from.clone());
        if let Some(known) = self.finished.get(&key) {
            return known.clone();
        }
        // A file that includes itself finds this.
        let unchanged = (from.clone(), Blocks::new());
        self.finished.insert(key.clone(), unchanged.clone());
        if self.depth == MAX_DEPTH || self.finished.len() > MOST_WALKS {
            let reason = "is included too deep, or at too many places".to_owned();
            self.mistakes.insert((name.clone(), 1, reason));
            return unchanged;
        }

        let mut reader = Reader {
            name,
            source,
            at: 0,
            spot: from.clone(),
            open_blocks: Vec::new(),
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
        self.finished.insert(key, walked.clone());
        walked
    }

    /// The result, with the filter added where it is needed.
    fn rewritten(self) -> WalkResult {
        let mut sources = BTreeMap::new();
        let mut places = Vec::new();
        for (name, checks) in self.checks {
            let mut source = self.files[name].clone();
            for ((start, end), checks) in checks.into_iter().rev() {
                let mut checked = format!("({})", &source[start..end]);
                for check in checks {
                    checked.push_str(&format!("|{FILTER}({})", places.len()));
                    places.push(check);
                }
                source.replace_range(start..end, &checked);
            }
            sources.insert(name.to_owned(), source);
        }
        WalkResult {
            sources,
            places,
            mistakes: self.mistakes,
        }
    }
}

/// An open block of the template language.
enum OpenBlock {
    /// Its contents are written in this place.
    Plain,
    /// Its contents are written elsewhere. After it, the walk goes on at the place before it.
    Apart(Spot),
    /// One of several branches is taken: the place where all begin, the places where the branches
    /// so far ended, and whether one of them is certainly taken.
    Branches {
        before: Spot,
        ends: Vec<Spot>,
        is_complete: bool,
    },
}

/// The walk through one file.
struct Reader<'a> {
    name: &'a str,
    source: &'a str,
    at: usize,
    spot: Spot,
    open_blocks: Vec<OpenBlock>,
    /// The blocks of the file that this one extends, and its own.
    inherited: Blocks,
    blocks: Blocks,
    /// The place where the file that this one extends ends.
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
        // Bytes within a character of several bytes do not matter here.
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
        walk.mistakes.insert((self.name.to_owned(), line, reason));
    }

    /// Moves on past this text.
    fn pass(&mut self, end: &str) {
        let found = self.source[self.at..].find(end);
        self.at = found.map_or(self.source.len(), |found| self.at + found + end.len());
    }

    /// The offsets of the inside of `{{ }}` or `{% %}`, without the marks that trim white space.
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

        // The output of a block of the parent was checked there.
        if let Some(rule) = self.spot.rule().filter(|_| expression != "super()")
            && !expression.is_empty()
        {
            let check = CheckedPlace {
                rule,
                attribute: self.spot.attribute().to_owned(),
                expression: expression.to_owned(),
                is_marked: is_marked && filters_all(expression),
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
                let (end, blocks) = match literal_name(rest) {
                    Some(name) => walk.file(name, &self.spot),
                    None => (self.spot.clone(), Blocks::new()),
                };
                self.end = Some(end);
                self.inherited = blocks;
            }
            "import" | "from" => {
                if let Some(name) = literal_name(rest) {
                    walk.file(name, &Spot::text());
                }
            }
            "block" => {
                let place = self.inherited.get(rest).cloned();
                self.open_blocks.push(match &place {
                    Some(_) => OpenBlock::Apart(self.spot.clone()),
                    None => OpenBlock::Plain,
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
            "if" | "for" => self.open_blocks.push(OpenBlock::Branches {
                before: self.spot.clone(),
                ends: Vec::new(),
                is_complete: false,
            }),
            "elif" | "else" => self.next_branch(word == "else"),
            "autoescape" | "filter" | "with" => self.open_blocks.push(OpenBlock::Plain),
            word if word.starts_with("end") => self.end_block(),
            _ => {}
        }
    }

    /// The contents of the block are written elsewhere, like a document of its own.
    fn apart(&mut self) {
        let before = std::mem::replace(&mut self.spot, Spot::text());
        self.open_blocks.push(OpenBlock::Apart(before));
    }

    fn next_branch(&mut self, is_last: bool) {
        if let Some(OpenBlock::Branches {
            before,
            ends,
            is_complete,
        }) = self.open_blocks.last_mut()
        {
            ends.push(std::mem::replace(&mut self.spot, before.clone()));
            *is_complete |= is_last;
        }
    }

    fn end_block(&mut self) {
        match self.open_blocks.pop() {
            Some(OpenBlock::Apart(before)) => self.spot = before,
            Some(OpenBlock::Branches {
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
            Some(OpenBlock::Plain) | None => {}
        }
    }

    /// Walks through a raw block, which has HTML only.
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
        if let Some(name) = literal_name(rest) {
            self.spot = walk.file(name, &self.spot).0;
        } else if !self.spot.is_plain() {
            let reason = format!(
                "{{% include {rest} %}} stands where values are checked, and does not name its \
                 file: write the name in quotes"
            );
            self.mistake(walk, at, reason);
        }
    }
}

/// The name of a file, if it is a literal.
fn literal_name(rest: &str) -> Option<&str> {
    let quote = rest.chars().next().filter(|c| ['"', '\''].contains(c))?;
    let (name, after) = rest[1..].split_once(quote)?;
    let is_whole = !after.trim_start().starts_with(['~', '|', '+', '[']) && !after.contains(" if ");
    is_whole.then_some(name)
}

/// The characters of an expression that are neither within a string nor within brackets, with their
/// offsets.
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

/// The length of an expression that `end` ends.
fn length_of(source: &str, end: &str) -> usize {
    outside(source)
        .find(|(at, _)| source[*at..].starts_with(end))
        .map_or(source.len(), |(at, _)| at)
}

/// Whether the last filter applies to the whole expression, and not to an operand.
fn filters_all(expression: &str) -> bool {
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

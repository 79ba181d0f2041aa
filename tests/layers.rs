//! The layers of the crate: imports point down only, outside crates stay in their rooms, and doors
//! see only what is theirs.
//!
//! Every path in the sources counts, wherever it stands: in a `use`, in an expression, in a macro's
//! arguments. Comments and texts do not.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// The layers, the lowest first. A room imports from layers below its own, and from itself.
const LAYERS: [&[&str]; 9] = [
    &["mail", "private"],
    &["delivery", "content"],
    &["policy", "feedback"],
    &["spool", "transport", "observe"],
    &["dispatch"],
    &["notify"],
    &["ingress"],
    &["config"],
    &["cli"],
];

/// Outside crates that only these rooms may name.
const HOMES: [(&str, &[&str]); 18] = [
    (
        "lettre",
        &["mail", "transport", "dispatch", "ingress", "cli"],
    ),
    ("mail_parser", &["mail", "feedback", "transport", "cli"]),
    ("sled", &["spool"]),
    ("tokio_postgres", &["spool"]),
    (
        "tokio",
        &[
            "spool",
            "transport",
            "observe",
            "dispatch",
            "notify",
            "ingress",
            "cli",
        ],
    ),
    ("prometheus_client", &["observe"]),
    ("ractor", &["dispatch"]),
    ("ammonia", &["ingress"]),
    ("axum", &["ingress"]),
    ("hyper", &["transport", "ingress"]),
    ("smtp_proto", &["ingress"]),
    ("toml", &["config", "content"]),
    ("minijinja", &["content"]),
    ("mrml", &["content"]),
    ("css_inline", &["content"]),
    ("html2text", &["content"]),
    ("clap", &["cli"]),
    ("ureq", &["cli"]),
];

/// What a door may name of the rooms below: the mail whole, and of the others only what the library
/// hands to its users.
const OPEN_TO_DOORS: &str = "mail";

/// A path of a source file that leads into the crate or out of it.
#[derive(Debug, PartialEq, Eq)]
struct FoundPath {
    /// From the crate's root for paths of our own: `["spool", "Query"]`. Of other paths, the first
    /// name.
    path: Vec<String>,
    ours: bool,
    line: usize,
}

/// Reads one source file.
struct Reader {
    /// The module that is being read, from the crate's root.
    module: Vec<String>,
    found: Vec<FoundPath>,
}

impl Reader {
    fn read(source: &str, module: Vec<String>) -> Vec<FoundPath> {
        let mut reader = Reader {
            module,
            found: Vec::new(),
        };
        reader.tokens(source.parse().unwrap());
        reader.found
    }

    fn tokens(&mut self, tokens: TokenStream) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let mut at = 0;
        while at < tokens.len() {
            match &tokens[at] {
                TokenTree::Ident(word) if word == "mod" => {
                    if let (Some(TokenTree::Ident(name)), Some(TokenTree::Group(body))) =
                        (tokens.get(at + 1), tokens.get(at + 2))
                    {
                        self.module.push(name.to_string());
                        self.tokens(body.stream());
                        self.module.pop();
                        at += 2;
                    }
                }
                TokenTree::Ident(_) if !is_separator(&tokens[..at]) => at = self.path(&tokens, at),
                TokenTree::Group(group) => self.tokens(group.stream()),
                _ => {}
            }
            at += 1;
        }
    }

    /// Reads the path that begins at this word, if one does. Returns its last token.
    fn path(&mut self, tokens: &[TokenTree], at: usize) -> usize {
        let line = tokens[at].span().start().line;
        let imported = at > 0 && matches!(&tokens[at - 1], TokenTree::Ident(word) if word == "use");
        match tokens[at].to_string().as_str() {
            "crate" => self.ours(Vec::new(), tokens, at + 1, line),
            "super" => {
                let mut module = self.module.clone();
                let mut at = at;
                loop {
                    module.pop();
                    match tokens.get(at + 3) {
                        Some(TokenTree::Ident(word)) if word == "super" => at += 3,
                        _ => return self.ours(module, tokens, at + 1, line),
                    }
                }
            }
            "self" => at,
            word if imported || begins_separator(tokens, at + 1) => {
                self.found.push(FoundPath {
                    path: vec![word.to_owned()],
                    ours: false,
                    line,
                });
                at
            }
            _ => at,
        }
    }

    /// Reads on after `path`, where `::` may follow. Returns the last token that belongs to it.
    fn ours(
        &mut self,
        mut path: Vec<String>,
        tokens: &[TokenTree],
        mut at: usize,
        line: usize,
    ) -> usize {
        while begins_separator(tokens, at) {
            match tokens.get(at + 2) {
                Some(TokenTree::Ident(name)) => path.push(name.to_string()),
                Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace => {
                    let parts: Vec<TokenTree> = group.stream().into_iter().collect();
                    for part in parts
                        .split(|token| matches!(token, TokenTree::Punct(p) if p.as_char() == ','))
                    {
                        let Some(TokenTree::Ident(name)) = part.first() else {
                            continue;
                        };
                        let inner = match name.to_string().as_str() {
                            "self" => path.clone(),
                            name => [&path[..], &[name.to_owned()]].concat(),
                        };
                        self.ours(inner, part, 1, line);
                    }
                    return at + 2;
                }
                _ => break,
            }
            at += 3;
        }

        self.found.push(FoundPath {
            path,
            ours: true,
            line,
        });

        at - 1
    }
}

fn begins_separator(tokens: &[TokenTree], at: usize) -> bool {
    let colon =
        |at: usize| matches!(tokens.get(at), Some(TokenTree::Punct(p)) if p.as_char() == ':');
    colon(at) && colon(at + 1)
}

/// Whether what was read last is `::` or `.`, so that a word after it begins nothing.
fn is_separator(before: &[TokenTree]) -> bool {
    match before {
        [.., TokenTree::Punct(a), TokenTree::Punct(b)]
            if a.as_char() == ':' && b.as_char() == ':' =>
        {
            true
        }
        [.., TokenTree::Punct(dot)] => dot.as_char() == '.',
        _ => false,
    }
}

/// All that is wrong with one file.
struct FileCheck<'a> {
    /// The file, as problems name it.
    file: &'a str,
    room: &'a str,
    /// What the library re-exports: the name, and the room that it comes from.
    handed_out: &'a BTreeMap<String, String>,
}

impl FileCheck<'_> {
    fn problems(&self, found: &[FoundPath]) -> Vec<String> {
        let told = |found: &FoundPath| {
            let problem = if found.ours {
                self.inner_path(&found.path)
            } else {
                self.outer_path(&found.path[0])
            };
            problem.map(|problem| format!("{}:{}: {problem}", self.file, found.line))
        };
        found.iter().filter_map(told).collect()
    }

    fn inner_path(&self, path: &[String]) -> Option<String> {
        let first = path.first()?;
        let shown = path.join("::");

        // A name at the crate's root stands for the room that it comes from.
        let (to, name) = match self.handed_out.get(first) {
            Some(room) => (room, Some(first)),
            None => (first, path.get(1)),
        };

        let Some(height) = height(to) else {
            return Some(format!("`{shown}` leads to no layer"));
        };
        if to == self.room {
            return None;
        }
        if Some(height) >= self::height(self.room) {
            return Some(format!("{} looks up or aside to `{shown}`", self.room));
        }

        let is_handed_out = name.is_some_and(|name| self.handed_out.get(name) == Some(to));
        let is_closed = self.room == "ingress" && to != OPEN_TO_DOORS && !is_handed_out;
        is_closed.then(|| format!("a door sees `{shown}`, which the library hands out to nobody"))
    }

    fn outer_path(&self, name: &str) -> Option<String> {
        let (_, rooms) = HOMES.iter().find(|(outside, _)| *outside == name)?;
        (!rooms.contains(&self.room))
            .then(|| format!("{} knows {name}, which is at home in {rooms:?}", self.room))
    }
}

fn height(room: &str) -> Option<usize> {
    LAYERS.iter().position(|rooms| rooms.contains(&room))
}

/// The names that `lib.rs` re-exports, each with its room.
fn handed_out(library: &str) -> BTreeMap<String, String> {
    let source: TokenStream = library.parse().unwrap();
    let tokens: Vec<TokenTree> = source.into_iter().collect();
    let mut reader = Reader {
        module: Vec::new(),
        found: Vec::new(),
    };

    for at in 1..tokens.len() {
        if matches!(&tokens[at - 1], TokenTree::Ident(word) if word == "use") {
            reader.ours(vec![tokens[at].to_string()], &tokens, at + 1, 0);
        }
    }

    reader
        .found
        .into_iter()
        .map(|found| (found.path[1].clone(), found.path[0].clone()))
        .collect()
}

/// Every source file below `dir`, by its path from there.
fn sources(dir: &Path, below: &str, into: &mut Vec<(String, String)>) {
    let mut entries: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();

    entries.sort();
    for path in entries {
        let name = format!("{below}{}", path.file_name().unwrap().to_str().unwrap());
        if path.is_dir() {
            sources(&path, &format!("{name}/"), into);
        } else if name.ends_with(".rs") {
            into.push((name, fs::read_to_string(&path).unwrap()));
        }
    }
}

/// `spool/sled/mod.rs` → `["spool", "sled"]`.
fn module_of(file: &str) -> Vec<String> {
    let path = file.trim_end_matches(".rs").trim_end_matches("/mod");
    path.split('/').map(str::to_owned).collect()
}

fn problems_of(file: &str, source: &str, handed_out: &BTreeMap<String, String>) -> Vec<String> {
    let module = module_of(file);
    let room = module[0].clone();
    FileCheck {
        file,
        room: &room,
        handed_out,
    }
    .problems(&Reader::read(source, module))
}

#[test]
fn the_layers_of_the_crate_hold() {
    let mut files = Vec::new();
    sources(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("src"),
        "",
        &mut files,
    );

    let library = files.iter().find(|(file, _)| file == "lib.rs").unwrap();
    let handed_out = handed_out(&library.1);
    assert!(
        handed_out.len() > 20,
        "the library hands out {handed_out:?}"
    );

    let mut problems = Vec::new();
    let mut rooms = 0;
    for (file, source) in files
        .iter()
        .filter(|(file, _)| !["lib.rs", "main.rs"].contains(&file.as_str()))
    {
        if height(&module_of(file)[0]).is_none() {
            problems.push(format!(
                "{file} stands in no layer: give its room a place in LAYERS"
            ));
        }
        rooms += usize::from(file.ends_with("/mod.rs") && file.matches('/').count() == 1);
        problems.extend(problems_of(file, source, &handed_out));
    }

    assert!(problems.is_empty(), "{}", problems.join("\n"));
    assert_eq!(
        rooms,
        LAYERS.iter().flat_map(|rooms| rooms.iter()).count(),
        "LAYERS names a room that is not there"
    );
}

#[test]
fn the_check_sees_each_way_out_of_a_room() {
    let handed_out = handed_out("pub use dispatch::{Dispatcher, Error};\npub use spool::Query;");
    let problems = |file: &str, source: &str| problems_of(file, source, &handed_out);
    for (file, source) in [
        ("mail/mod.rs", "use crate::delivery::State;"),
        (
            "mail/mod.rs",
            "use crate::{mail::Mail, spool::{self as kept}};",
        ),
        ("mail/mod.rs", "use super::spool;"),
        ("mail/time.rs", "fn f() { super::super::spool::open() }"),
        (
            "mail/time.rs",
            "mod tests { use super::super::super::spool::Spool; }",
        ),
        (
            "mail/time.rs",
            "fn f() { let x = crate::Query::default(); }",
        ),
        ("mail/time.rs", "use sled::Db;"),
        ("spool/mod.rs", "use crate::transport::Relay;"),
        ("transport/mod.rs", "fn f(x: &dyn crate::spool::Spool) {}"),
        ("transport/mod.rs", "vec![crate::spool::X];"),
        ("policy/retry.rs", "use lettre as mail;"),
        ("policy/retry.rs", "fn f() -> lettre::Message { todo() }"),
        ("dispatch/mod.rs", "fn f(x: axum::Router) {}"),
        ("ingress/http/mod.rs", "use crate::spool::Spool;"),
        ("ingress/http/mod.rs", "use crate::dispatch;"),
        ("ingress/http/mod.rs", "use crate::config::Settings;"),
        ("config/mod.rs", "use crate::cli::Failure;"),
        ("mail/mod.rs", "use crate::attic::Dust;"),
    ] {
        assert_eq!(problems(file, source).len(), 1, "{file}: {source}");
    }

    for (file, source) in [
        (
            "delivery/mod.rs",
            "use crate::mail::Address; // crate::spool\nconst X: &str = \"crate::spool\";",
        ),
        (
            "delivery/mod.rs",
            "mod tests { use super::*; use super::super::mail; }",
        ),
        (
            "transport/relay.rs",
            "use crate::policy::Rate; use super::Transport;",
        ),
        (
            "dispatch/builder.rs",
            "use crate::spool; fn f() { spool::sled::open() }",
        ),
        (
            "ingress/http/mod.rs",
            "use crate::{Dispatcher, mail::{Mail, When}, spool::Query};",
        ),
        (
            "cli/run.rs",
            "use crate::config::Settings; use crate::ingress::http;",
        ),
    ] {
        assert!(problems(file, source).is_empty(), "{file}: {source}");
    }
}

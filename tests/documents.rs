//! What the documents name is there: files, and tests that prove an invariant. And what is read by
//! people fits on their screen.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const DOCUMENTS: [&str; 3] = ["ARCHITECTURE.md", "RELIABILITY.md", "BENCHMARKS.md"];

/// Where a path in a document may begin.
const ROOTS: [&str; 4] = ["", "src", "src/spool", "src/content"];

#[test]
fn every_file_that_a_document_names_is_there() {
    let names: Vec<String> = sources()
        .iter()
        .map(|path| path.display().to_string())
        .collect();

    let mut missing = Vec::new();

    for document in DOCUMENTS {
        for word in words(document) {
            let is_path = ["rs", "sql", "js", "toml", "md"]
                .iter()
                .any(|ending| word.ends_with(&format!(".{ending}")));
            if !is_path || word.contains([' ', '*', '<', '=']) {
                continue;
            }

            let is_there = ROOTS
                .iter()
                .any(|root| Path::new(root).join(&word).exists());
            let is_the_end_of_one = names.iter().any(|name| name.ends_with(&format!("/{word}")));
            if !is_there && !is_the_end_of_one {
                missing.push(format!("{document}: {word}"));
            }
        }
    }

    assert!(missing.is_empty(), "files that are not there: {missing:#?}");
}

#[test]
fn every_invariant_is_proved_by_tests_that_are_there() {
    let text: String = sources()
        .iter()
        .map(|path| fs::read_to_string(path).unwrap())
        .collect();
    let architecture = fs::read_to_string("ARCHITECTURE.md").unwrap();
    let section = architecture.split("\n## Invariants\n").nth(1).unwrap();
    let section = section.split("\n## ").next().unwrap();
    let rows: Vec<&str> = section.lines().filter(|line| is_numbered(line)).collect();
    assert!(rows.len() >= 10, "the table of invariants is gone");

    let tests = numbered_items(section);
    assert_eq!(tests.len(), rows.len(), "each invariant has tests");

    for (number, (row, tests)) in (1..).zip(rows.iter().zip(&tests)) {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").collect();
        let [first, promise, made_in] = cells[..] else {
            panic!("an invariant is a number, a promise and a file: {row}");
        };
        assert_eq!(first.trim(), number.to_string(), "in order: {promise}");
        assert!(!made_in.trim().is_empty(), "no file makes it: {promise}");

        let named = backticked(tests);
        assert!(!named.is_empty(), "no test fails without it: {promise}");
        let functions = named
            .iter()
            .filter(|name| name.contains('_') && !name.contains(['/', '.']));
        for test in functions {
            assert!(
                text.contains(&format!("fn {test}(")),
                "no test is called {test}: {promise}"
            );
        }
    }
}

/// The items of a numbered list, each in one line; they are numbered from 1.
fn numbered_items(text: &str) -> Vec<String> {
    let mut items: Vec<String> = Vec::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix(&format!("{}. ", items.len() + 1)) {
            items.push(rest.to_owned());
        } else if let Some(item) = items.last_mut()
            && line.starts_with("  ")
        {
            *item = format!("{item} {}", line.trim());
        }
    }

    items
}

/// Names of tests are sentences, and the table of keys is read as a table.
#[test]
fn no_line_of_the_sources_is_longer_than_100_columns() {
    let mut long = Vec::new();
    for path in sources() {
        let is_rust = path.extension().is_some_and(|ending| ending == "rs");
        if !is_rust {
            continue;
        }

        let text = fs::read_to_string(&path).unwrap();
        for (number, line) in (1..).zip(text.lines()) {
            let is_name = line.contains("fn ") && line.ends_with("()");
            if line.chars().count() > 100 && !is_name && !line.starts_with("//! | ") {
                long.push(format!("{}:{number}", path.display()));
            }
        }
    }

    assert!(long.is_empty(), "wrap these lines: {}", long.join(", "));
}

/// Rows of tables, blocks of code, HTML, and lines that are one link cannot be wrapped.
#[test]
fn no_prose_of_the_documents_is_wider_than_100_columns() {
    let mut long = Vec::new();
    for path in documents() {
        let text = fs::read_to_string(&path).unwrap();
        let mut is_code = false;
        for (number, line) in (1..).zip(text.lines()) {
            let is_fence = line.trim_start().starts_with("```");
            is_code ^= is_fence;
            if !is_code && !is_fence && line.chars().count() > 100 && can_be_wrapped(line) {
                long.push(format!("{}:{number}", path.display()));
            }
        }
    }

    assert!(long.is_empty(), "wrap these lines: {}", long.join(", "));
}

#[test]
fn a_paragraph_can_be_wrapped_and_a_row_or_a_link_alone_cannot() {
    for prose in [
        "a sentence",
        "- an item",
        "  which [goes on](there)",
        "[begins](so) and goes on",
        "`code` and prose",
    ] {
        assert!(can_be_wrapped(prose), "{prose}");
    }

    for line in [
        "| a row | of a table |",
        "<img src=\"logo.svg\">",
        "![a picture](docs/page.png)",
        "[1.0.0]: https://example.com",
        "- [all of it](there)",
        "https://example.com/",
    ] {
        assert!(!can_be_wrapped(line), "{line}");
    }
}

fn can_be_wrapped(line: &str) -> bool {
    let text = line.trim().trim_start_matches("- ");
    let is_link = text.trim_start_matches('!').starts_with('[')
        && (text.contains("]: ")
            || text
                .split_once(')')
                .is_some_and(|(_, rest)| rest.is_empty()));
    let is_markup = text.starts_with(['|', '<', '#']);
    !is_link && !is_markup && text.contains(' ')
}

fn is_numbered(line: &str) -> bool {
    line.strip_prefix("| ")
        .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
}

fn words(document: &str) -> BTreeSet<String> {
    backticked(&fs::read_to_string(document).unwrap())
}

/// What stands between backticks, except blocks of code.
fn backticked(text: &str) -> BTreeSet<String> {
    let prose = text.split("```").step_by(2);
    prose
        .flat_map(|part| part.split('`').skip(1).step_by(2))
        .map(str::to_owned)
        .collect()
}

const FOLDERS: [&str; 6] = ["src", "tests", "benches", "examples", "fuzz", "contrib"];

fn sources() -> Vec<PathBuf> {
    files_below(&FOLDERS, &["rs", "sql", "js"])
}

/// Every document in Markdown.
fn documents() -> Vec<PathBuf> {
    let at_the_top = fs::read_dir(".")
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let mut found: Vec<PathBuf> = at_the_top
        .filter(|path| path.extension().is_some_and(|ending| ending == "md"))
        .collect();
    found.extend(files_below(&["docs", "config"], &["md"]));
    found.extend(files_below(&FOLDERS, &["md"]));

    found
}

fn files_below(folders: &[&str], endings: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> = folders.iter().map(PathBuf::from).collect();

    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let is_built = path.file_name().is_some_and(|name| name == "target");
            if path.is_dir() && !is_built {
                folders.push(path);
            } else if path
                .extension()
                .is_some_and(|ending| endings.iter().any(|one| ending == *one))
            {
                found.push(path);
            }
        }
    }

    found
}

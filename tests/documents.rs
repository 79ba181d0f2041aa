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
    let table = architecture.split("\n## Invariants\n").nth(1).unwrap();
    let table = table.split("\n## ").next().unwrap();
    let rows: Vec<&str> = table.lines().filter(|line| is_numbered(line)).collect();
    assert!(rows.len() >= 10, "the table of invariants is gone");

    for row in rows {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").collect();
        let [_, promise, made_in, fails_without] = cells[..] else {
            panic!("an invariant is a number, a promise, a file and a test: {row}");
        };
        assert!(!made_in.trim().is_empty(), "no file makes it: {promise}");

        let named = backticked(fails_without);
        let tests = named
            .iter()
            .filter(|name| name.contains('_') && !name.contains(['/', '.']));
        for test in tests.clone() {
            assert!(
                text.contains(&format!("fn {test}(")),
                "no test is called {test}: {promise}"
            );
        }
        assert!(!named.is_empty(), "no test fails without it: {promise}");
    }
}

/// Names of tests are sentences, and the table of keys is read as a table.
#[test]
fn no_line_of_the_sources_is_longer_than_100_columns() {
    let mut long = Vec::new();
    for path in sources() {
        let is_rust = path.extension().is_some_and(|ending| ending == "rs");
        if !is_rust || path.components().any(|part| part.as_os_str() == "target") {
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

fn sources() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> = ["src", "tests", "benches", "examples", "fuzz", "contrib"]
        .map(PathBuf::from)
        .into();

    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path
                .extension()
                .is_some_and(|ending| ["rs", "sql", "js"].iter().any(|one| ending == *one))
            {
                found.push(path);
            }
        }
    }

    found
}

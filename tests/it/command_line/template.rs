//! `postrider template`, and `send --template`.

use std::fs;
use std::path::Path;

use serde_json::json;
use tempfile::TempDir;

use crate::command_line::scripted::{ScriptedService, json as answer};
use crate::command_line::{CommandResult, ID, finish, postrider, run, run_with};

/// A configuration beside its templates.
fn template_dir(files: &[(&str, &str)]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let config = "[templates]\npath = \"mails\"\n[[relays]]\nurl = \"capture://\"\n";
    fs::write(dir.path().join("postrider.toml"), config).unwrap();
    for (name, text) in files {
        let path = dir.path().join("mails").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    dir
}

fn run_in(dir: &Path, words: &[&str]) -> CommandResult {
    finish(postrider().args(words).current_dir(dir), b"")
}

const GOOD: [(&str, &str); 3] = [
    ("code/subject.txt", "Your code"),
    ("code/body.html", "<p>\n{{ code }}</p>"),
    ("code/template.toml", "[sample]\ncode = \"123 & 4\""),
];

#[test]
fn files_are_checked_listed_and_rendered_before_they_are_in_force() {
    let dir = template_dir(&GOOD);
    let dir = dir.path();
    let told = run_in(dir, &["template", "check"]).well();
    assert!(
        told.contains("mails: no mistakes found (templates: 1)"),
        "{told}"
    );

    let listed = run_in(dir, &["template", "list", "--config", "postrider.toml"]).well();
    assert!(listed.contains("code"), "{listed}");

    let render = ["template", "render", "code", "--config", "postrider.toml"];
    let html = run_in(dir, &[&render[..], &["--part", "html"]].concat()).well();
    assert_eq!(html, "<p>\n123 &amp; 4</p>");

    let given = [&render[..], &["--data", r#"{"code": "<7>"}"#, "--json"]].concat();
    let rendered = run_in(dir, &given).well();
    assert!(
        rendered.contains("&lt;7&gt;") && rendered.contains("Your code"),
        "{rendered}"
    );

    let told = run_in(dir, &[&render[..], &["--data", "{}"]].concat()).failed(1);
    assert_eq!(
        told,
        "postrider: code/body.html, line 2: `code` is missing\n"
    );
}

#[test]
fn mistakes_are_reported_line_by_line_by_both_checks() {
    let dir = template_dir(&GOOD);
    let dir = dir.path();
    fs::write(dir.join("mails/code/body.html"), "<p>\n{% if x %}").unwrap();
    fs::create_dir(dir.join("mails/empty")).unwrap();

    let told = run_in(dir, &["template", "check"]).failed(2);
    let lines: Vec<&str> = told.lines().collect();
    assert_eq!(lines.len(), 2, "{told}");
    assert!(lines[0].starts_with("mails/empty: has neither"), "{told}");
    assert!(
        lines[1].starts_with("mails/code/body.html:2: syntax error"),
        "{told}"
    );

    let told = run_in(dir, &["template", "check", "--json"]);
    assert_eq!(told.code, 2);
    assert!(
        told.out.contains("\"line\"") && told.out.contains("\"ok\":false"),
        "{}",
        told.out
    );

    let told = run_in(dir, &["check"]).failed(2);
    assert!(
        told.contains("templates.path") && told.contains("body.html:2: syntax"),
        "{told}"
    );

    let told = run_in(dir, &["template", "check", "nowhere"]).failed(2);
    assert!(told.starts_with("nowhere: cannot be read"), "{told}");
}

#[test]
fn a_template_is_asked_of_the_service() {
    let taken = json!({"id": ID, "state": "queued", "duplicate": false, "durability": "synced"});
    let service = ScriptedService::new([answer(202, taken)]);
    let words = [
        "send",
        "--from",
        "a@example.org",
        "--to",
        "b@example.org",
        "--template",
        "code",
    ];

    let words = [&words[..], &["--data", "-", "--locale", "de"]].concat();
    run_with(&service, &words, br#"{"code": 7}"#).well();
    let template = json!({"name": "code", "data": {"code": 7}, "locale": "de"});
    let expected = json!({"from": "a@example.org", "to": ["b@example.org"], "template": template});
    assert_eq!(service.asked_once().json(), expected);

    let made = json!({"name": "code", "locale": "de", "hash": "00", "subject": "S",
        "html": "<p>H</p>", "text": "T"});
    let service = ScriptedService::new([answer(200, made)]);
    let shown = run(
        &service,
        &["template", "render", "code", "--data", r#"{"code": 7}"#],
    )
    .well();

    assert_eq!(shown, "Subject: S\n\nT\n\n<p>H</p>\n");
    assert_eq!(service.asked_once().line, "POST /v1/templates/code/render");
}

//! Where the service is and what opens its door: flags, variables, and files.

use std::process::Command;

use serde_json::{Value, json};

use crate::command_line::scripted::{ScriptedService, json as answer, problem};
use crate::command_line::{CommandResult, finish, postrider, run};

/// A user whose home holds these files.
struct User(tempfile::TempDir);

impl User {
    fn with(files: &[(&str, &str)]) -> Self {
        let user = User(tempfile::tempdir().unwrap());
        for (name, text) in files {
            let path = user.0.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        user
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = postrider();
        command
            .args(words)
            .env("HOME", self.0.path())
            .env_remove("XDG_CONFIG_HOME")
            .env_remove("POSTRIDER_TOKEN_FILE");
        command
    }

    fn does(&self, words: &[&str]) -> CommandResult {
        finish(&mut self.command(words), b"")
    }
}

fn relays() -> ScriptedService {
    ScriptedService::new([answer(200, json!({"relays": []}))])
}

fn shown(service: &ScriptedService) -> Option<String> {
    let asked = service.asked_once();
    asked.header("authorization").map(str::to_owned)
}

#[test]
fn a_users_file_says_where_the_service_is_and_what_opens_its_door() {
    for (token, name) in [
        ("token = \"s3cret\"", "x"),
        ("token_file = \"t\"", ".config/t"),
        ("token_file = \"~/t\"", "t"),
    ] {
        let service = relays();
        let text = format!("url = \"{}\"\n{token}\n", service.url());
        let user = User::with(&[(".config/postrider.toml", &text), (name, "s3cret\n")]);
        user.does(&["relay", "list"]).well();
        assert_eq!(shown(&service).as_deref(), Some("Bearer s3cret"), "{token}");
    }
}

#[test]
fn sendmail_finds_its_service_in_the_users_file() {
    let service = ScriptedService::new([answer(202, json!({}))]);
    let text = format!("url = \"{}\"\ntoken = \"s3cret\"\n", service.url());
    let user = User::with(&[(".config/postrider.toml", &text)]);
    let mut command = user.command(&["sendmail", "-i", "ada@example.org"]);
    finish(&mut command, b"From: a@example.com\n\nhi\n").well();
    assert_eq!(shown(&service).as_deref(), Some("Bearer s3cret"));
}

#[test]
fn flags_win_over_variables_and_variables_over_the_file() {
    let user = User::with(&[
        (".config/postrider.toml", "token = \"of-the-file\"\n"),
        ("token", "of-a-file\n"),
    ]);
    let file = user.path("token");

    type Case<'a> = (&'a [&'a str], &'a [(&'a str, &'a str)], &'a str);
    let cases: [Case<'_>; 5] = [
        (&[], &[], "of-the-file"),
        (
            &[],
            &[("POSTRIDER_TOKEN", "of-a-variable")],
            "of-a-variable",
        ),
        (&[], &[("POSTRIDER_TOKEN_FILE", &file)], "of-a-file"),
        (
            &["--token-file", &file],
            &[("POSTRIDER_TOKEN", "no")],
            "of-a-file",
        ),
        (
            &["--token", "of-a-flag"],
            &[("POSTRIDER_TOKEN", "no")],
            "of-a-flag",
        ),
    ];

    for (words, environment, expected) in cases {
        let service = relays();
        let words = [&["relay", "list"], words].concat();
        let mut command = user.command(&words);
        command
            .env("POSTRIDER_URL", service.url())
            .envs(environment.iter().copied());
        finish(&mut command, b"").well();
        assert_eq!(shown(&service), Some(format!("Bearer {expected}")));
    }
}

#[test]
fn a_token_goes_to_no_other_address_than_the_one_it_stands_beside() {
    let service = relays();
    let text = "url = \"http://127.0.0.1:1\"\ntoken = \"s3cret\"\n";
    let user = User::with(&[(".config/postrider.toml", text)]);
    user.does(&["relay", "list", "--url", &service.url()])
        .well();
    assert_eq!(shown(&service), None);
}

#[test]
fn what_is_wrong_is_reported_where_it_was_said() {
    let with = |text: &str| User::with(&[(".config/postrider.toml", text)]);
    let plain = User::with(&[("empty", "\n")]);
    let empty = plain.path("empty");
    let words = ["relay", "list"];
    let wrong = |user: &User, more: &[&str], environment: &[(&str, &str)]| {
        let mut command = user.command(&[&words[..], more].concat());
        finish(command.envs(environment.iter().copied()), b"").failed(2)
    };

    for (told, expected) in [
        (
            wrong(&plain, &[], &[("POSTRIDER_URL", "nonsense")]),
            "the variable POSTRIDER_URL `nonsense` is not a URL",
        ),
        (
            wrong(&plain, &["--url", "nonsense"], &[]),
            "--url `nonsense` is not a URL",
        ),
        (
            wrong(&plain, &[], &[("POSTRIDER_TOKEN", "a\u{7f}b")]),
            "the variable POSTRIDER_TOKEN contains a character",
        ),
        (
            wrong(&plain, &[], &[("POSTRIDER_TOKEN_FILE", "/nowhere")]),
            "the variable POSTRIDER_TOKEN_FILE names /nowhere, which cannot be read: No such file",
        ),
        (
            wrong(&plain, &["--token-file", &empty], &[]),
            "which is empty",
        ),
        (
            wrong(&plain, &["--ca-file", &empty], &[]),
            "which contains no certificate",
        ),
        (
            wrong(&with("url = \"nonsense\""), &[], &[]),
            ".config/postrider.toml: url: `nonsense` is not a URL",
        ),
        (
            wrong(&with("uri = \"x\""), &[], &[]),
            "unknown field `uri`, expected one of `url`, `token`, `token_file`",
        ),
        (
            wrong(&with("token = \"s3cret"), &[], &[]),
            ".config/postrider.toml: line 1: ",
        ),
        (
            wrong(&with("token_file = \"gone\""), &[], &[]),
            ".config/postrider.toml: token_file: names ",
        ),
    ] {
        assert!(told.contains(expected), "{told} does not say: {expected}");
        assert!(!told.contains("s3cret"), "{told}");
    }
}

#[test]
fn errors_are_json_where_json_is_asked_for() {
    let invalid = json!({"type": "urn:x", "title": "The request is not valid", "status": 422,
        "errors": [{"pointer": "/to/1", "detail": "`x` has no @"}]});
    let service = ScriptedService::new([problem(422, invalid.clone())]);
    let words = [
        "send",
        "--to",
        "a@b.example",
        "--to",
        "x",
        "--subject",
        "s",
        "--text",
        "t",
        "--json",
    ];

    let told = run(&service, &words).failed(1);
    let error: Value = serde_json::from_str(&told).unwrap();
    assert_eq!(error["errors"][0]["flag"], "--to (2nd)");
    assert_eq!(
        (&error["exit_code"], &error["status"]),
        (&json!(1), &json!(422))
    );
    assert_eq!(error["problem"], invalid);

    let user = User::with(&[]);
    for (words, code) in [
        (vec!["status", "42", "--json"], 2),
        (vec!["list", "--nonsense", "--json"], 2),
        (vec!["stats", "--json", "--url", "ftp://x"], 2),
        (vec!["stats", "--json", "--url", "http://127.0.0.1:1"], 75),
        (vec!["spool", "verify", "nowhere", "--json"], 1),
    ] {
        let told = user.does(&words).failed(code);
        let error: Value = serde_json::from_str(&told).unwrap_or_else(|e| panic!("{e}: {told}"));
        assert_eq!(error["exit_code"], code, "{told}");
        assert!(!error["error"].as_str().unwrap().is_empty(), "{told}");
    }
}

#[test]
fn health_is_an_exit_code() {
    let ready = ScriptedService::new([answer(200, json!({"ready": true}))]);
    let out = run(&ready, &["health", "--token", "s3cret"]).well();
    assert_eq!(out, "ready\n");
    assert_eq!(ready.asked_once().line, "GET /health/ready");
    assert_eq!(shown(&ready), None, "health asks for no token");

    let live = ScriptedService::new([answer(200, json!({}))]);
    assert_eq!(run(&live, &["health", "--live"]).well(), "live\n");
    assert_eq!(live.asked_once().line, "GET /health/live");

    let full = problem(
        503,
        json!({"title": "Not available now", "status": 503, "detail": "the queue is full"}),
    );

    let told = run(&ScriptedService::new([full]), &["health"]).failed(1);
    assert_eq!(told, "postrider: not ready: the queue is full\n");
    let away = User::with(&[]);
    away.does(&["health", "--url", "http://127.0.0.1:1"])
        .failed(1);
}

#[test]
fn a_newcomers_slips_are_explained() {
    let user = User::with(&[("f", "")]);
    let inside = |words: &[&str]| {
        let mut command = user.command(words);
        finish(command.current_dir(user.0.path()), b"")
    };

    let told = inside(&["init", "f"]).failed(2);
    assert!(
        told.contains("f is a file, and init takes the directory"),
        "{told}"
    );

    let told = inside(&["spool", "verify", "nowhere"]).failed(1);
    assert!(
        told.contains("nowhere") && told.contains("does not exist"),
        "{told}"
    );

    let told = inside(&["spool", "verify", "f"]).failed(1);
    assert!(told.contains("it is a file"), "{told}");
    let told = inside(&["spool", "verify"]).failed(1);
    assert!(
        told.contains("var/spool") && !told.contains("relays"),
        "{told}"
    );

    let mut command = user.command(&["check"]);
    command.current_dir(user.0.path());
    let told = finish(command.env("POSTRIDER_SPOOL_PATH", "x"), b"").failed(2);
    assert!(
        told.starts_with("POSTRIDER_SPOOL_PATH: sets nothing")
            && told.contains("POSTRIDER_SPOOL__PATH?"),
        "{told}"
    );

    let mut command = user.command(&["check"]);
    let told = finish(command.env("POSTRIDER_CONFIG", "/nowhere.toml"), b"").failed(2);
    assert!(
        told.starts_with("/nowhere.toml: cannot be read")
            && told.contains("the variable POSTRIDER_CONFIG names it"),
        "{told}"
    );
}

#[test]
fn a_time_can_be_said_in_words() {
    let service = ScriptedService::new([answer(
        202,
        json!({"id": crate::command_line::ID, "state": "scheduled", "duplicate": false,
            "durability": "synced"}),
    )]);

    let mail = [
        "send",
        "--to",
        "a@b.example",
        "--subject",
        "s",
        "--text",
        "t",
        "--at",
    ];

    run(&service, &[&mail[..], &["tomorrow 9:00"]].concat()).well();
    let sent = service.asked_once().json();
    assert!(
        sent["send_at"]
            .as_str()
            .unwrap()
            .ends_with("T09:00:00.000Z"),
        "{sent}"
    );

    for wrong in ["yesterday 9:00", "whenever", ""] {
        let told = run(&ScriptedService::silent(), &[&mail[..], &[wrong]].concat()).failed(2);
        assert!(told.contains("--at"), "{told}");
    }
}

//! The service's numbers, its relays, its dead letters; completions and manual.

use serde_json::{Value, json};

use crate::command_line::record::record;
use crate::command_line::scripted::{ScriptedService, json as answer, problem};
use crate::command_line::{ID, finish, postrider, run, run_with};

fn relay(name: &str, state: &str, failure: Option<&str>) -> Value {
    json!({"name": name, "state": state, "breaker": "closed", "connections": 16, "busy": 3,
        "rate": "100/s",
        "backlog": 12345, "last_failure": failure})
}

fn stats() -> Value {
    json!({
        "deliveries": {"queued": 1200, "dead": 3, "deferred": 0},
        "pending_by_priority": {"bulk": 1100, "critical": 100},
        "pending": 1200, "max_pending": 1_000_000, "oldest_queued_seconds": 75.5, "accepted": 5000,
        "delivered": 3797,
        "dead": 3, "deferred": 17, "delivered_per_second": 12.34, "quarantined": 1,
        "spool_bytes": 3_145_728,
        "relays": [relay("primary", "down", Some("connection\u{7} refused"))],
    })
}

#[test]
fn the_numbers_are_on_one_screen() {
    let service = ScriptedService::new([answer(200, stats()), answer(200, stats())]);
    let out = run(&service, &["stats"]).well();
    for expected in [
        "queued 1,200, dead 3\n",
        "1,200 of 1,000,000",
        "critical 100, bulk 1,100",
        "due for 1 min",
        "5,000 accepted, 3,797 delivered, 17 deferred, 3 dead",
        "12.3 delivered/s",
        "3.0 MiB",
        "1 unreadable record;",
        "primary",
        "connection\\u{7} refused",
    ] {
        assert!(out.contains(expected), "{expected} is not in\n{out}");
    }

    assert_eq!(
        run(&service, &["stats", "--json"]).well(),
        stats().to_string() + "\n"
    );

    assert_eq!(service.asked()[0].line, "GET /v1/stats");
}

#[test]
fn relays_are_listed() {
    let body = json!({"relays": [relay("primary", "up", None), relay("backup", "paused", None)]});
    let service = ScriptedService::new([answer(200, body.clone()), answer(200, body.clone())]);
    let out = run(&service, &["relay", "list"]).well();
    let lines: Vec<String> = out
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();

    assert_eq!(
        lines,
        [
            "RELAY STATE BREAKER CONNECTIONS RATE BACKLOG LAST FAILURE",
            "primary up closed 3 of 16 busy 100/s 12,345",
            "backup paused closed 3 of 16 busy 100/s 12,345",
        ]
    );

    assert_eq!(
        run(&service, &["relay", "list", "--json"]).well(),
        body.to_string() + "\n"
    );
}

#[test]
fn a_relay_is_paused_and_resumed_by_its_name() {
    let service = ScriptedService::new([
        answer(200, relay("a/b c", "paused", None)),
        answer(200, relay("a/b c", "up", None)),
        problem(
            404,
            json!({"title": "Not found", "status": 404, "detail": "there is no relay named `x`"}),
        ),
    ]);

    assert_eq!(
        run(&service, &["relay", "pause", "a/b c"]).well(),
        "a/b c is paused\n"
    );

    let out = run(&service, &["relay", "resume", "a/b c", "--json"]).well();
    assert_eq!(out, relay("a/b c", "up", None).to_string() + "\n");
    let lines: Vec<_> = service
        .asked()
        .into_iter()
        .map(|asked| asked.line)
        .collect();

    assert_eq!(
        lines,
        [
            "POST /v1/relays/a%2Fb%20c/pause",
            "POST /v1/relays/a%2Fb%20c/resume"
        ]
    );

    let err = run(&service, &["relay", "pause", "x"]).failed(1);
    assert_eq!(err, "postrider: Not found: there is no relay named `x`\n");
}

#[test]
fn dead_letters_are_listed_with_the_reason() {
    let page = json!({"mails": [record("dead")], "next": null});

    let service = ScriptedService::new([answer(200, page)]);
    let out = run(&service, &["dead", "list", "--tag", "otp"]).well();
    let row = out.lines().nth(1).unwrap();
    for expected in [
        ID,
        "rejected",
        "ada@example.org",
        "rcpt to: 550 5.1.1 no such user\\u{1b}[2J",
    ] {
        assert!(row.contains(expected), "{expected} is not in {row}");
    }

    let asked = service.asked_once();
    assert_eq!(
        (asked.parameter("state"), asked.parameter("tag")),
        (vec!["dead".to_owned()], vec!["otp".to_owned()])
    );
}

#[test]
fn dead_letters_are_sent_again() {
    let count = |dry_run: bool| answer(200, json!({"count": 1234, "dry_run": dry_run}));
    let service = ScriptedService::new([count(true), count(false), count(false)]);

    let words = ["dead", "retry", "--recipient", "ada@example.org"];
    let out = run(&service, &[&words[..], &["--dry-run"]].concat()).well();
    assert_eq!(out, "1,234 mails would be sent again\n");
    assert_eq!(run(&service, &words).well(), "1,234 mails sent again\n");

    let out = run(&service, &[&words[..], &["--json"]].concat()).well();
    assert_eq!(out, "{\"count\":1234,\"dry_run\":false}\n");
    let lines: Vec<_> = service
        .asked()
        .into_iter()
        .map(|asked| asked.line)
        .collect();

    assert_eq!(
        lines[0],
        "POST /v1/dead/retry?recipient=ada%40example.org&dry_run=true"
    );

    assert_eq!(lines[1], "POST /v1/dead/retry?recipient=ada%40example.org");
}

#[test]
fn dead_letters_are_deleted_only_when_it_is_meant() {
    let service = ScriptedService::new([
        answer(200, json!({"count": 1, "dry_run": true})),
        answer(200, json!({"count": 1, "delivered": 2, "dry_run": false})),
    ]);

    let err = run(&service, &["dead", "purge"]).failed(2);
    assert!(err.contains("--yes") && err.contains("--dry-run"), "{err}");
    assert!(err.contains("--all"), "{err}");

    let err = run_with(&service, &["dead", "purge", "--all"], b"y\n").failed(2);
    assert!(err.contains("--yes"), "a pipe is nobody to ask: {err}");
    let err = run(&service, &["dead", "purge", "--yes"]).failed(2);
    assert!(err.contains("--all"), "all must be meant: {err}");
    assert_eq!(
        run(&service, &["dead", "purge", "--dry-run"]).well(),
        "1 mail would be deleted\n"
    );

    assert_eq!(
        run(&service, &["dead", "purge", "--yes", "--all"]).well(),
        "1 mail deleted, and the record of 2 recipients who got it\n"
    );

    let lines: Vec<_> = service
        .asked()
        .into_iter()
        .map(|asked| asked.line)
        .collect();

    assert_eq!(lines, ["DELETE /v1/dead?dry_run=true", "DELETE /v1/dead"]);
}

#[test]
fn completions_are_made_for_every_shell() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let out = finish(postrider().args(["completions", shell]), b"").well();
        assert!(
            out.contains("sendmail") && out.contains("expires-in"),
            "{shell}"
        );
    }
    finish(postrider().args(["completions", "tcsh"]), b"").failed(2);
}

#[test]
fn the_manual_has_a_page_for_each_command() {
    let page = finish(postrider().arg("man"), b"").well();
    assert!(page.contains(".TH postrider 1"), "{page}");
    let dir = tempfile::tempdir().unwrap();
    finish(postrider().arg("man").arg(dir.path()), b"").well();

    for name in [
        "postrider.1",
        "postrider-send.1",
        "postrider-dead-purge.1",
        "postrider-sendmail.1",
    ] {
        assert!(
            std::fs::read_to_string(dir.path().join(name))
                .unwrap()
                .contains(".SH NAME"),
            "{name}"
        );
    }

    let err = finish(postrider().args(["man", "/dev/null/x"]), b"").failed(1);
    assert!(err.contains("cannot write into /dev/null/x"), "{err}");
}

//! `postrider audit`: a table for people, JSON for programs.

use serde_json::json;

use super::scripted::{ScriptedService, json as answer};
use super::{ID, run};

#[test]
fn who_did_what_is_a_table_over_all_pages() {
    let first = json!({"entries": [
        {"seq": 9, "at": "2026-01-31T12:00:00Z", "who": "token:ops", "from": "192.0.2.7",
            "act": "pause", "count": 1,
            "relay": "primary"},
        {"seq": 8, "at": "2026-01-31T11:00:00Z", "who": "local", "act": "purge", "count": 1200,
            "filter": "state:dead"},
    ], "next": "8"});

    let second = json!({"entries": [
        {"seq": 3, "at": "2026-01-31T10:00:00Z", "who": "user:a\u{7}b", "from": "192.0.2.8",
            "act": "login_refused",
            "count": 31},
        {"seq": 2, "at": "2026-01-31T09:00:00Z", "who": "local", "act": "cancel", "count": 1,
            "mail": ID},
        {"seq": 1, "at": "2026-01-31T08:00:00Z", "who": "local", "act": "reload", "count": 1,
            "error": "relays: none"},
        {"seq": 0, "at": "2026-01-31T07:00:00Z", "who": "local", "act": "suppress", "count": 2,
            "filter": "2 entries"},
    ]});

    let service = ScriptedService::new([
        answer(200, first.clone()),
        answer(200, second),
        answer(200, first.clone()),
    ]);

    let out = run(&service, &["audit", "--who", "ops", "--all"]).well();
    let lines: Vec<String> = out
        .lines()
        .map(|line| {
            line.split_whitespace()
                .skip(2)
                .collect::<Vec<_>>()
                .join(" ")
        })
        .collect();

    for expected in [
        "token:ops 192.0.2.7 pause primary".to_owned(),
        "local - purge 1,200 mails of state:dead".to_owned(),
        "user:a\\u{7}b 192.0.2.8 login refused 31 times".to_owned(),
        format!("local - cancel {ID}"),
        "local - reload failed: relays: none".to_owned(),
        "local - suppress 2 entries".to_owned(),
    ] {
        assert!(lines.contains(&expected), "{expected} is not in\n{out}");
    }

    let page = run(&service, &["audit", "--limit", "2", "--json"]).well();
    assert_eq!(page, first.to_string() + "\n");
    let asked: Vec<_> = service
        .asked()
        .into_iter()
        .map(|asked| asked.line)
        .collect();

    assert_eq!(
        asked,
        [
            "GET /v1/audit?who=ops&limit=1000",
            "GET /v1/audit?who=ops&cursor=8&limit=1000",
            "GET /v1/audit?limit=2",
        ]
    );
}

#[test]
fn nothing_done_is_said() {
    let service = ScriptedService::new([answer(200, json!({"entries": []}))]);
    let out = run(&service, &["audit", "--act", "purge"]).well();
    assert_eq!(out, "no operations\n");
}

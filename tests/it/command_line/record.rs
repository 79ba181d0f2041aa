//! The commands about one mail, and the lists of many.

use serde_json::{Value, json};

use crate::command_line::scripted::{self, ScriptedService, json as answer, other, problem};
use crate::command_line::{ID, finish, postrider, run};

/// A mail's record as the service gives it: one recipient, tried once.
pub fn record(state: &str) -> Value {
    let (code, enhanced, text, reason) = match state {
        "delivered" => (250, "2.0.0", "queued as 4XYZ", Value::Null),
        "dead" => (550, "5.1.1", "no such user\u{1b}[2J", json!("rejected")),
        _ => (450, "4.2.1", "come back later", Value::Null),
    };

    let finished_at = match reason.is_null() {
        true => Value::Null,
        false => json!("2026-01-31T12:00:05.000Z"),
    };
    let next_attempt_at = match state {
        "deferred" => json!("2026-01-31T12:01:04.000Z"),
        _ => Value::Null,
    };

    json!({
        "id": ID, "state": state, "created_at": "2026-01-31T12:00:00.000Z",
        "finished_at": finished_at,
        "expires_at": "2026-02-02T12:00:00.000Z", "return_path": "shop@example.com",
        "subject": "Your \u{1b}]0;code\u{7}", "message_id": "<1@example.com>",
        "priority": "critical",
        "guarantee": "at_least_once", "tags": ["otp", "login"], "idempotency_key": "otp-42",
        "size": 2048,
        "deliveries": [{
            "recipient": "ada@example.org",
            "state": if state == "partial" { "dead" } else { state },
            "reason": reason,
            "relays": ["primary", "backup"],
            "attempts": [{
                "at": "2026-01-31T12:00:04.000Z", "relay": "primary",
                "phase": if code == 250 { "final_dot" } else { "rcpt_to" }, "code": code,
                "enhanced": enhanced, "text": text,
            }],
            "attempts_counted": 1,
            "next_attempt_at": next_attempt_at,
            "finished_at": Value::Null,
        }],
    })
}

/// Whether a line has these words, in this order.
#[track_caller]
fn has_line(out: &str, words: &[&str]) {
    let found = out.lines().any(|line| {
        line.split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
            .contains(&words.join(" "))
    });
    assert!(found, "no line with {words:?} in\n{out}");
}

#[test]
fn a_mail_is_named_by_other_names_and_its_status_says_why_it_waits() {
    let mut waiting = record("queued");
    waiting["deliveries"][0]["attempts"] = json!([]);
    waiting["deliveries"][0]["waits"] =
        json!({"because": "relay_down", "relay": "primary", "text": "connect: refused\u{1b}[2J"});

    let service = ScriptedService::new([answer(200, waiting)]);
    let out = run(&service, &["status", "<1@example.com>"]).well();
    let line = service.asked_once().line;
    assert_eq!(line, "GET /v1/mails/%3C1@example.com%3E");
    has_line(
        &out,
        &["waits: the relay primary is down: connect: refused"],
    );
    assert!(!out.contains('\u{1b}'), "{out}");

    let service = ScriptedService::new([answer(200, record("cancelled"))]);
    run(&service, &["cancel", "otp-42"]).well();
    assert_eq!(service.asked_once().line, "POST /v1/mails/otp-42/cancel");
}

/// What a service says that has looked at a part of all mail.
fn in_part(mails: Value) -> scripted::Answer {
    let problem = json!({
        "type": "urn:postrider:problem:not-all-seen", "title": "Not all mail was looked at",
        "status": 409,
        "detail": "there is older mail", "next": "abc", "looked_at": 9000, "mails": mails,
    });
    scripted::problem(409, problem)
}

#[test]
fn a_mail_is_looked_for_until_it_is_known_which_is_meant() {
    const OTHER: &str = "0199c0de-0000-7000-8000-0000000000ff";
    let name = "shop@example.com";
    let unknown = problem(
        404,
        json!({"title": "Not found", "status": 404, "detail": "there is no mail"}),
    );
    let asked_on = format!("GET /v1/mails/{name}?cursor=abc");

    // Found later; found at once, and no other behind it; as the thing that is done to it.
    let first = || in_part(json!([]));
    for (does, line, answers) in [
        (
            "status",
            "GET /v1/mails/",
            [first(), first(), answer(200, record("queued"))],
        ),
        (
            "status",
            "GET /v1/mails/",
            [first(), in_part(json!([ID])), unknown.clone()],
        ),
        (
            "cancel",
            "POST /v1/mails/",
            [first(), in_part(json!([ID])), unknown.clone()],
        ),
    ] {
        let last = answer(200, record("queued"));
        let service = ScriptedService::new(answers.into_iter().chain([last]).collect::<Vec<_>>());
        run(&service, &[does, name]).well();
        let asked: Vec<String> = service.asked().into_iter().map(|one| one.line).collect();
        let call = if does == "cancel" { "/cancel" } else { "" };
        let first = format!("{line}{name}{call}");
        let last = format!("{line}{ID}{call}");
        assert_eq!(asked, [&first[..], &asked_on, &asked_on, &last]);
    }

    let service = ScriptedService::new([in_part(json!([ID])), in_part(json!([OTHER]))]);
    let why = run(&service, &["cancel", name]).failed(1);
    assert!(why.contains(ID) && why.contains(OTHER), "{why}");
    let service = ScriptedService::new([first(), unknown]);
    let why = run(&service, &["cancel", name]).failed(1);
    assert!(why.contains("there is no mail"), "{why}");
}

#[test]
fn what_is_counted_in_parts_is_added_up() {
    let part = |next: Value| {
        answer(
            200,
            json!({"count": 3, "by_state": {"queued": 2, "dead": 1}, "next": next,
                "looked_at": 10_000}),
        )
    };
    let service = ScriptedService::new([part(json!("abc")), part(Value::Null)]);
    let out = run(&service, &["count", "-q", "from:shop"]).well();
    has_line(&out, &["queued", "4"]);
    has_line(&out, &["all", "6"]);
    let asked: Vec<String> = service.asked().into_iter().map(|one| one.line).collect();
    assert_eq!(asked[1], "GET /v1/mails/count?q=from%3Ashop&cursor=abc");
}

#[test]
fn a_status_shows_where_each_delivery_is() {
    let service = ScriptedService::new([answer(200, record("deferred"))]);
    let out = run(&service, &["status", ID]).well();
    assert_eq!(service.asked_once().line, format!("GET /v1/mails/{ID}"));
    has_line(&out, &["mail", ID]);
    has_line(&out, &["state", "deferred"]);
    has_line(&out, &["subject", "Your \\u{1b}]0;code\\u{7}"]);
    has_line(&out, &["tags", "otp, login"]);
    has_line(&out, &["size", "2.0 KiB"]);
    has_line(&out, &["accepted", "2026-01-31 12:00:00"]);
    has_line(&out, &["ada@example.org", "deferred", "1"]);
    has_line(&out, &["primary", "rcpt to: 450 4.2.1 come back later"]);

    assert!(
        !out.contains('\u{1b}'),
        "neither colours nor the mail's own control characters: {out:?}"
    );
}

#[test]
fn a_dead_mail_says_why() {
    let service = ScriptedService::new([answer(200, record("dead"))]);
    let out = run(&service, &["status", ID]).well();
    has_line(&out, &["ada@example.org", "dead: rejected"]);
    has_line(&out, &["rcpt to: 550 5.1.1 no such user\\u{1b}[2J"]);
}

#[test]
fn a_delivered_mail_shows_what_the_relay_said() {
    let service = ScriptedService::new([answer(200, record("delivered"))]);
    let out = run(&service, &["status", ID]).well();
    has_line(
        &out,
        &[
            "ada@example.org",
            "delivered",
            "1",
            "primary",
            "250 2.0.0 queued as 4XYZ",
        ],
    );
}

#[test]
fn a_status_as_json_is_what_the_service_answered() {
    let service = ScriptedService::new([answer(200, record("deferred"))]);
    let out = run(&service, &["status", ID, "--json"]).well();
    assert_eq!(out, record("deferred").to_string() + "\n");
}

#[test]
fn an_unknown_mail_fails() {
    let body =
        json!({"title": "Not found", "status": 404, "detail": format!("there is no mail {ID}")});
    let service = ScriptedService::new([problem(404, body)]);
    let err = run(&service, &["status", ID]).failed(1);
    assert_eq!(
        err,
        format!("postrider: Not found: there is no mail {ID}\n")
    );
}

#[test]
fn what_is_no_id_is_wrong_usage() {
    let err = run(&ScriptedService::silent(), &["status", "42"]).failed(2);
    assert!(err.contains("`42` is not a mail id"), "{err}");
}

#[test]
fn a_mail_is_shown_with_its_attempts_its_text_and_its_files() {
    let message = "Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\nX-Evil: \u{1b}[2J\r\n\
                   Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\
                   Content-Type: text/plain; charset=utf-8\r\n\
                   Content-Transfer-Encoding: base64\r\n\r\nSGVsbG8gG1syShsK\r\n--b\r\n\
                   Content-Type: application/pdf\r\n\
                   Content-Disposition: attachment; filename=\"bill.pdf\"\r\n\r\n12345\r\n\
                   --b--\r\n";
    let service = ScriptedService::new([
        answer(200, record("deferred")),
        other(200, "message/rfc822", message),
    ]);
    let out = run(&service, &["show", ID]).well();

    assert_eq!(service.asked()[1].line, format!("GET /v1/mails/{ID}/raw"));
    has_line(
        &out,
        &[
            "2026-01-31 12:00:04",
            "ada@example.org",
            "primary",
            "rcpt to: 450 4.2.1 come back later",
        ],
    );

    has_line(&out, &["Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?="]);
    has_line(&out, &["X-Evil: \\u{1b}[2J"]);
    has_line(&out, &["Hello \\u{1b}[2J\\u{1b}"]);
    has_line(&out, &["attachment", "bill.pdf", "(application/pdf, 5 B)"]);

    assert!(!out.contains('\u{1b}'));
}

#[test]
fn a_raw_message_is_exact() {
    let message = b"Subject: \x1b[2J\r\n\r\n\xff\x00\r\n";
    let service = ScriptedService::new([other(200, "message/rfc822", message.as_slice())]);
    let output = postrider()
        .args(["show", ID, "--raw", "--url", &service.url()])
        .output()
        .unwrap();
    assert!(output.status.success() && output.stdout == message);
}

#[test]
fn a_mail_can_be_cancelled_and_retried() {
    for (verb, state) in [("cancel", "cancelled"), ("retry", "queued")] {
        let service =
            ScriptedService::new([answer(200, record(state)), answer(200, record(state))]);
        assert_eq!(
            run(&service, &[verb, ID]).well(),
            format!("{ID}  {state}\n")
        );
        assert_eq!(
            run(&service, &[verb, ID, "--json"]).well(),
            record(state).to_string() + "\n"
        );
        assert_eq!(
            service.asked()[0].line,
            format!("POST /v1/mails/{ID}/{verb}")
        );
    }
}

#[test]
fn it_can_be_too_late_to_cancel() {
    let detail = format!("mail {ID} is delivered, so it is too late for that");
    let service = ScriptedService::new([problem(
        409,
        json!({"title": "Too late", "status": 409, "detail": detail}),
    )]);
    assert_eq!(
        run(&service, &["cancel", ID]).failed(1),
        format!("postrider: Too late: {detail}\n")
    );
}

#[test]
fn a_list_asks_for_what_is_wanted() {
    let service = ScriptedService::new([answer(
        200,
        json!({"mails": [record("deferred")], "next": null}),
    )]);

    let words = [
        "list",
        "--state",
        "deferred",
        "--recipient",
        "ada@example.org",
        "--tag",
        "a b",
        "--priority",
        "critical",
        "--since",
        "2026-01-31T12:00:00Z",
        "--limit",
        "7",
    ];

    let out = run(&service, &words).well();
    has_line(&out, &["ID", "STATE", "AGE", "TO", "SUBJECT"]);
    has_line(&out, &[ID, "deferred"]);
    has_line(&out, &["ada@example.org", "Your \\u{1b}]0;code\\u{7}"]);

    let asked = service.asked_once();
    assert!(asked.line.starts_with("GET /v1/mails?"));
    for (name, value) in [
        ("state", "deferred"),
        ("recipient", "ada@example.org"),
        ("tag", "a b"),
        ("priority", "critical"),
        ("since", "2026-01-31T12:00:00.000Z"),
        ("limit", "7"),
    ] {
        assert_eq!(asked.parameter(name), [value], "{name}");
    }
}

#[test]
fn a_list_without_mails_says_so() {
    let service = ScriptedService::new([answer(200, json!({"mails": [], "next": null}))]);
    assert_eq!(run(&service, &["list"]).well(), "no mails\n");
}

#[test]
fn a_list_that_is_cut_off_says_so() {
    let service = ScriptedService::new([answer(
        200,
        json!({"mails": [record("dead")], "next": "c1"}),
    )]);
    let done = run(&service, &["list", "--limit", "1"]);
    assert_eq!(
        (done.code, done.err.as_str()),
        (
            0,
            "There are more: list them with --limit N, or with --all.\n"
        )
    );
}

#[test]
fn all_mails_are_listed_page_by_page() {
    let pages = || {
        [
            answer(200, json!({"mails": [record("dead")], "next": "c1"})),
            // A page may be empty although more follow.
            answer(200, json!({"mails": [], "next": "c2"})),
            answer(200, json!({"mails": [record("delivered")], "next": null})),
        ]
    };

    let service = ScriptedService::new(pages());
    let out = run(&service, &["list", "--all"]).well();
    assert_eq!(out.matches(ID).count(), 2);
    let cursors: Vec<_> = service
        .asked()
        .iter()
        .map(|asked| asked.parameter("cursor").concat())
        .collect();
    assert_eq!(cursors, ["", "c1", "c2"]);

    let service = ScriptedService::new(pages());
    let out = run(&service, &["list", "--all", "--json"]).well();
    let pages: Vec<Value> = out
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();

    assert_eq!(
        (pages.len(), &pages[1]),
        (3, &json!({"mails": [], "next": "c2"}))
    );
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let many: Vec<Value> = (0..1000).map(|_| record("dead")).collect();
    let service = ScriptedService::new([answer(200, json!({"mails": many, "next": null}))]);
    let mut command = postrider();
    command
        .args(["list", "--all", "--json", "--url", &service.url()])
        .stdout(std::process::Stdio::piped());

    let mut child = command
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();

    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stderr).as_ref()
        ),
        (Some(0), "")
    );
}

#[test]
fn a_service_behind_a_path_is_asked_below_it() {
    let service = ScriptedService::new([answer(200, record("queued"))]);
    let url = format!("{}/mail/", service.url());
    finish(postrider().args(["status", ID, "--url", &url]), b"").well();
    assert_eq!(
        service.asked_once().line,
        format!("GET /mail/v1/mails/{ID}")
    );
}

//! `postrider send`.

use serde_json::{Value, json};

use crate::command_line::record::record;
use crate::command_line::scripted::{ScriptedService, json as answer, other, problem};
use crate::command_line::{CommandResult, ID, finish, postrider, run, run_with};

const REQUIRED_OPTIONS: [&str; 7] = [
    "send",
    "--to",
    "ada@example.org",
    "--subject",
    "Hello",
    "--text",
    "hi",
];

fn accepted(state: &str) -> Value {
    json!({"id": ID, "state": state, "duplicate": false, "durability": "synced"})
}

fn taking() -> ScriptedService {
    ScriptedService::new([answer(202, accepted("queued"))])
}

#[test]
fn a_mail_is_handed_in_and_its_id_printed() {
    let service = taking();
    let out = run(
        &service,
        &[
            &REQUIRED_OPTIONS[..],
            &["--from", "Shop <shop@example.com>"],
        ]
        .concat(),
    )
    .well();

    assert_eq!(out, format!("{ID}  queued  on disk\n"));
    let asked = service.asked_once();
    assert_eq!(asked.line, "POST /v1/mails");

    let expected = json!({
        "from": "Shop <shop@example.com>", "to": ["ada@example.org"], "subject": "Hello",
        "text": "hi",
    });
    assert_eq!(asked.json(), expected);
}

#[test]
fn everything_that_can_be_asked_for_reaches_the_service() {
    let service = taking();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("bill.pdf");
    std::fs::write(&file, b"\x00\xff%PDF").unwrap();

    run(
        &service,
        &[
            "send",
            "--from",
            "a@example.com",
            "--to",
            "b@example.org",
            "--to",
            "c@example.org",
            "--cc",
            "d@example.org",
            "--bcc",
            "e@example.org",
            "--reply-to",
            "f@example.com",
            "--subject",
            "s",
            "--text",
            "t",
            "--html",
            "<p>t",
            "--attach",
            file.to_str().unwrap(),
            "--header",
            "X-One: a: b",
            "--header",
            "X-Two:c",
            "--priority",
            "critical",
            "--at",
            "2030-01-31 12:00",
            "--expires-in",
            "5m",
            "--key",
            "k",
            "--tag",
            "x",
            "--tag",
            "y",
            "--at-most-once",
        ],
    )
    .well();

    let expected = json!({
        "from": "a@example.com", "to": ["b@example.org", "c@example.org"], "cc": ["d@example.org"],
        "bcc": ["e@example.org"], "reply_to": ["f@example.com"], "subject": "s", "text": "t",
        "html": "<p>t",
        "attachments": [{"filename": "bill.pdf", "content_type": "application/pdf",
            "content": "AP8lUERG"}],
        "headers": {"X-One": "a: b", "X-Two": "c"}, "priority": "critical",
        "send_at": "2030-01-31T12:00:00.000Z",
        "expires_in": "5m", "idempotency_key": "k", "tags": ["x", "y"], "guarantee": "at_most_once",
    });

    assert_eq!(service.asked_once().json(), expected);
}

#[test]
fn an_invitation_goes_as_another_form_of_the_text() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("invite.ics");
    std::fs::write(
        &file,
        "BEGIN:VCALENDAR\r\nMETHOD:REQUEST\r\nEND:VCALENDAR\r\n",
    )
    .unwrap();

    let service = taking();
    let words = [
        &REQUIRED_OPTIONS[..],
        &["--alternative", file.to_str().unwrap()],
    ]
    .concat();
    run(&service, &words).well();

    let asked = service.asked_once().json();
    let alternatives = &asked["alternatives"];
    assert_eq!(
        *alternatives,
        json!([{"content_type": "text/calendar; method=REQUEST; charset=utf-8",
            "content": "QkVHSU46VkNBTEVOREFSDQpNRVRIT0Q6UkVRVUVTVA0KRU5EOlZDQUxFTkRBUg0K"}])
    );
}

#[test]
fn the_body_can_come_from_standard_input() {
    let service = taking();
    let words = [
        "send",
        "--to",
        "a@example.org",
        "--subject",
        "s",
        "--text",
        "-",
        "--delay",
        "90s",
    ];

    run_with(&service, &words, "Grüße\n".as_bytes()).well();
    let asked = service.asked_once().json();
    assert_eq!(
        (&asked["text"], &asked["delay"]),
        (&json!("Grüße\n"), &json!("1m 30s"))
    );

    assert!(
        asked["from"].as_str().unwrap().contains('@'),
        "the login name stands in for --from"
    );
}

#[test]
fn a_written_message_goes_to_those_it_names() {
    let message = b"From: Shop <shop@example.com>\r\nTo: A <a@example.org>\r\n\
                    Bcc: b@example.org\r\n\r\n\xe9\r\n";
    let service = taking();
    let words = [
        "send",
        "--eml",
        "-",
        "--priority",
        "bulk",
        "--tag",
        "x",
        "--tag",
        "y",
        "--key",
        "k",
    ];

    run_with(&service, &words, message).well();
    let asked = service.asked_once();
    assert_eq!(asked.header("content-type"), Some("message/rfc822"));
    assert_eq!(asked.body, message);
    assert_eq!(asked.parameter("from"), ["shop@example.com"]);
    assert_eq!(asked.parameter("to"), ["a@example.org", "b@example.org"]);
    assert_eq!(asked.parameter("tag"), ["x", "y"]);
    assert_eq!(asked.parameter("priority"), ["bulk"]);

    assert_eq!(asked.parameter("idempotency_key"), ["k"]);
}

#[test]
fn the_envelope_of_a_written_message_can_be_given() {
    let service = taking();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("m.eml");
    std::fs::write(&file, "To: a@example.org\n\nhi\n").unwrap();

    let words = [
        "send",
        "--eml",
        file.to_str().unwrap(),
        "--from",
        "S <s@example.com>",
        "--to",
        "C <c@example.org>",
    ];

    run(&service, &words).well();
    let asked = service.asked_once();
    assert_eq!(
        (asked.parameter("from"), asked.parameter("to")),
        (
            vec!["s@example.com".into()],
            vec!["c@example.org".to_owned()]
        )
    );
}

#[test]
fn json_is_exactly_what_the_service_answered() {
    let body = format!(
        "{{\"id\": \"{ID}\",  \"state\":\"queued\",\n\"duplicate\":false, \"new_field\":1}}"
    );
    let service = ScriptedService::new([other(202, "application/json", body.clone())]);
    assert_eq!(
        run(&service, &[&REQUIRED_OPTIONS[..], &["--json"]].concat()).well(),
        body + "\n"
    );
}

#[test]
fn a_key_that_was_seen_before_is_reported() {
    let body = json!({"id": ID, "duplicate": true, "durability": "synced"});
    let service = ScriptedService::new([answer(202, body)]);
    assert_eq!(
        run(&service, &REQUIRED_OPTIONS).well(),
        format!("{ID}  accepted before under this key\n")
    );
}

#[test]
fn waiting_ends_when_the_mail_is_delivered() {
    let service = ScriptedService::new([
        answer(202, accepted("queued")),
        answer(200, record("sending")),
        answer(200, record("delivered")),
    ]);
    let out = run(&service, &[&REQUIRED_OPTIONS[..], &["--wait"]].concat()).well();
    assert_eq!(out, format!("{ID}  queued  on disk\n{ID}  delivered\n"));
    assert_eq!(service.asked()[2].line, format!("GET /v1/mails/{ID}"));
}

#[test]
fn waiting_for_a_mail_that_fails_for_good_fails() {
    let service =
        ScriptedService::new([answer(202, accepted("queued")), answer(200, record("dead"))]);
    let done = run(
        &service,
        &[&REQUIRED_OPTIONS[..], &["--wait", "--json"]].concat(),
    );
    assert_eq!(done.code, 1);
    assert_eq!(
        serde_json::from_str::<Value>(&done.out).unwrap(),
        record("dead")
    );
    assert_eq!(
        done.err,
        format!("postrider: the mail is dead; see `postrider status {ID}`\n")
    );
}

#[test]
fn waiting_no_longer_than_asked_says_try_later() {
    let service = ScriptedService::new([
        answer(202, accepted("queued")),
        answer(200, record("deferred")),
    ]);
    let done = run(
        &service,
        &[&REQUIRED_OPTIONS[..], &["--wait=0s", "--json"]].concat(),
    );
    let err = done.failed(75);
    assert!(
        err.contains(&format!("mail {ID} is deferred after 0s")),
        "{err}"
    );
}

#[test]
fn a_service_that_goes_away_while_waited_for_has_still_accepted() {
    let service = ScriptedService::new([answer(202, accepted("queued"))]);
    let done = run(&service, &[&REQUIRED_OPTIONS[..], &["--wait"]].concat());
    assert_eq!(done.code, 75);
    assert!(
        done.err.contains(&format!("mail {ID} was accepted; but")),
        "{}",
        done.err
    );
}

#[test]
fn a_mail_that_was_sent_at_once_is_not_waited_for() {
    let body = json!({"id": ID, "state": "delivered", "duplicate": false, "durability": "direct"});
    let service = ScriptedService::new([answer(202, body)]);
    let out = run(&service, &[&REQUIRED_OPTIONS[..], &["--wait"]].concat()).well();
    assert_eq!(
        out,
        format!("{ID}  delivered  sent at once, because it could not be stored\n")
    );
}

#[test]
fn each_bad_field_is_named() {
    let body = json!({"type": "x", "title": "The request is not valid", "status": 422,
        "detail": "2 fields",
        "errors": [{"pointer": "/to/0", "detail": "`x` has no @"},
            {"pointer": "/subject", "detail": "has a \u{1b}[2J"}]});
    let service = ScriptedService::new([problem(422, body)]);
    let expected =
        "postrider: The request is not valid:\n  --to `x` has no @\n  --subject has a \\u{1b}[2J\n";
    assert_eq!(run(&service, &REQUIRED_OPTIONS).failed(1), expected);
}

#[test]
fn one_bad_field_is_one_line() {
    let body = json!({"type": "x", "title": "The request is not valid", "status": 422,
        "detail": "/to/0: `x` has no @",
        "errors": [{"pointer": "/to/0", "detail": "`x` has no @"}]});
    let service = ScriptedService::new([problem(422, body)]);
    assert_eq!(
        run(&service, &REQUIRED_OPTIONS).failed(1),
        "postrider: The request is not valid: --to `x` has no @\n"
    );
}

#[test]
fn a_full_service_says_when_to_try_again() {
    let body =
        json!({"title": "The queue is full", "status": 503, "detail": "5 deliveries are pending"});
    let service = ScriptedService::new([problem(503, body).with("Retry-After: 5")]);
    let expected = "postrider: The queue is full: 5 deliveries are pending; try again in 5 s\n";
    assert_eq!(run(&service, &REQUIRED_OPTIONS).failed(75), expected);
}

#[test]
fn a_service_that_is_not_there_is_something_to_try_later() {
    let service = ScriptedService::silent();
    let url = service.url();

    // Its door closes by itself, because it has no answers to give.
    let done = loop {
        let done = run(&service, &REQUIRED_OPTIONS);
        if done.err.contains("no service answers") {
            break done;
        }
    };

    assert_eq!(
        done.failed(75),
        format!("postrider: no service answers at {url}; start one with `postrider run`\n")
    );
}

#[test]
fn what_is_no_postrider_is_not_taken_for_one() {
    let service = ScriptedService::new([other(404, "text/html", "<h1>Not Found\u{1b}[2J</h1>")]);
    let err = run(&service, &REQUIRED_OPTIONS).failed(1);
    assert!(
        err.contains("answered with HTTP 404 and not as Postrider does") && !err.contains("h1"),
        "{err}"
    );
    let service = ScriptedService::new([other(200, "text/html", "<h1>It works!</h1>")]);
    assert!(
        run(&service, &REQUIRED_OPTIONS)
            .failed(1)
            .contains("is not understood")
    );
}

#[test]
fn a_redirect_is_not_followed_with_the_token() {
    let service =
        ScriptedService::new([other(307, "text/plain", "").with("Location: http://127.0.0.1:1/")]);
    let err = run(
        &service,
        &[&REQUIRED_OPTIONS[..], &["--token", "secret"]].concat(),
    )
    .failed(1);
    assert!(err.contains("HTTP 307"), "{err}");
}

#[test]
fn the_token_opens_the_door_and_is_never_printed() {
    let service = taking();
    let with_token = |token: &str| -> CommandResult {
        finish(
            postrider()
                .args(REQUIRED_OPTIONS)
                .env("POSTRIDER_URL", service.url())
                .env("POSTRIDER_TOKEN", token),
            b"",
        )
    };

    with_token("s3cret").well();
    assert_eq!(
        service.asked_once().header("authorization"),
        Some("Bearer s3cret")
    );

    let err = with_token("s3\ncret").failed(2);
    assert!(err.contains("--token") && !err.contains("cret"), "{err}");
}

#[test]
fn a_missing_token_is_reported_with_the_way_out() {
    let body = json!({"title": "A valid token is needed", "status": 401});
    let service = ScriptedService::new([problem(401, body)]);
    let expected =
        "postrider: A valid token is needed; give a token with --token or POSTRIDER_TOKEN\n";
    assert_eq!(run(&service, &REQUIRED_OPTIONS).failed(1), expected);
}

#[test]
fn wrong_usage_is_reported_before_anything_is_sent() {
    let service = ScriptedService::silent();
    for (words, reason) in [
        (
            &["send", "--to", "a@example.org", "--subject", "s"][..],
            "--text <TEXT>|--html <HTML>|--eml <FILE>",
        ),
        (&["send", "--subject", "s", "--text", "t"], "--to <ADDRESS>"),
        (
            &["send", "--to", "a@example.org", "--text", "t"],
            "--subject <TEXT>",
        ),
        (
            &[&REQUIRED_OPTIONS[..], &["--eml", "x"]].concat(),
            "cannot be used with",
        ),
        (
            &[&REQUIRED_OPTIONS[..], &["--priority", "urgent"]].concat(),
            "critical, default, bulk",
        ),
        (
            &[&REQUIRED_OPTIONS[..], &["--at", "soon"]].concat(),
            "is not a time such as",
        ),
        (
            &[&REQUIRED_OPTIONS[..], &["--header", "none"]].concat(),
            "has no colon",
        ),
        (
            &[
                &REQUIRED_OPTIONS[..],
                &["--header", "X: 1", "--header", "X: 2"],
            ]
            .concat(),
            "--header gives X twice",
        ),
        (
            &[&REQUIRED_OPTIONS[..], &["--url", "ftp://x"]].concat(),
            "must begin with http",
        ),
        (
            &[&REQUIRED_OPTIONS[..], &["--url", "http://u:p@x"]].concat(),
            "use --token",
        ),
    ] {
        let err = run(&service, words).failed(2);
        assert!(err.contains(reason), "{words:?}: {err}");
    }
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let service = ScriptedService::silent();
    let err = run(
        &service,
        &[&REQUIRED_OPTIONS[..], &["--attach", "/nowhere/x.pdf"]].concat(),
    )
    .failed(1);
    assert_eq!(
        err,
        "postrider: cannot read /nowhere/x.pdf: No such file or directory (os error 2)\n"
    );
}

//! `postrider tail`. It ends only when it is ended, or cannot go on.

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Stdio};

use serde_json::{Value, json};

use crate::command_line::scripted::{ScriptedService, json as answer, other, problem};
use crate::command_line::{ID, postrider, run};

/// A command that runs, and what it prints.
struct Running {
    child: Child,
    out: BufReader<ChildStdout>,
}

impl Running {
    fn start(service: &ScriptedService, words: &[&str]) -> Self {
        let mut command = postrider();
        command
            .args(words)
            .env("POSTRIDER_URL", service.url())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        Running { child, out }
    }

    /// The next line; empty at the end.
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.out.read_line(&mut line).unwrap();
        line.trim_end_matches('\n').to_owned()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn event(seq: u64, name: &str, rest: Value) -> (String, Value) {
    let mut data = json!({"seq": seq, "at": "2026-01-31T12:00:00.000Z", "event": name});
    data.as_object_mut()
        .unwrap()
        .extend(rest.as_object().unwrap().clone());
    (
        format!("id: run-{seq}\nevent: {name}\ndata: {data}\n\n"),
        data,
    )
}

fn stream(text: impl Into<String>) -> crate::command_line::scripted::Answer {
    other(200, "text/event-stream", text.into())
}

#[test]
fn each_event_is_a_line() {
    let attempt = json!({"at": "2026-01-31T12:00:00.000Z", "relay": "primary", "phase": "rcpt_to",
        "code": 450,
        "enhanced": null, "text": "later\u{1b}[2J"});
    let text: String = [
        event(1, "accepted", json!({"mail": ID})),
        event(
            2,
            "attempted",
            json!({"mail": ID, "recipient": "ada@example.org", "relay": "primary",
                "attempt": attempt}),
        ),
        event(
            3,
            "deferred",
            json!({"mail": ID, "recipient": "ada@example.org",
                "next_attempt_at": "2026-01-31T12:01:00Z"}),
        ),
        event(
            4,
            "delivered",
            json!({"mail": ID, "recipient": "ada@example.org",
            "relay": "primary"}),
        ),
        event(
            5,
            "dead",
            json!({"mail": ID, "recipient": "bob@example.org", "reason": "in_doubt"}),
        ),
        event(
            6,
            "relay_down",
            json!({"relay": "primary", "reason": "connection refused"}),
        ),
        event(7, "relay_up", json!({"relay": "primary"})),
        event(8, "invented", json!({"x": "\u{1b}"})),
    ]
    .into_iter()
    .map(|(text, _)| text)
    .collect();

    let service = ScriptedService::new([stream(format!(": hello\nretry: 2000\n\n{text}"))]);
    let mut tail = Running::start(&service, &["tail", "--mail", ID]);
    for expected in [
        format!("12:00:00  accepted    {ID}"),
        format!(
            "12:00:00  attempted   {ID}  ada@example.org  primary rcpt to: 450 later\\u{{1b}}[2J"
        ),
        format!("12:00:00  deferred    {ID}  ada@example.org  again in 1 min"),
        format!("12:00:00  delivered   {ID}  ada@example.org  primary"),
        format!("12:00:00  dead        {ID}  bob@example.org  in doubt"),
        "12:00:00  relay_down  primary  connection refused".to_owned(),
        "12:00:00  relay_up    primary".to_owned(),
    ] {
        assert_eq!(tail.line(), expected);
    }

    let unknown = tail.line();
    assert!(
        unknown.starts_with("invented  {") && !unknown.contains('\u{1b}'),
        "{unknown}"
    );

    let asked = service.asked_once();
    assert_eq!(asked.parameter("mail"), [ID]);
    assert_eq!(
        (asked.header("accept"), asked.header("last-event-id")),
        (Some("text/event-stream"), None)
    );
}

#[test]
fn a_broken_connection_goes_on_where_it_broke() {
    let (first, _) = event(7, "accepted", json!({"mail": ID}));
    let (second, _) = event(8, "cancelled", json!({"mail": ID}));
    let service = ScriptedService::new([
        stream(format!("{first}id: run-8\nevent: cancelled\ndata: cut o")),
        problem(503, json!({"title": "Not available now", "status": 503})),
        stream(second),
        stream(
            "event: missed\ndata: {\"count\":1200}\n\nevent: missed\ndata: {\"count\":null}\n\n",
        ),
        stream(event(9, "accepted", json!({"mail": ID})).0),
    ]);

    let mut tail = Running::start(&service, &["tail"]);
    assert_eq!(tail.line(), format!("12:00:00  accepted    {ID}"));
    assert_eq!(tail.line(), format!("12:00:00  cancelled   {ID}"));
    assert_eq!(tail.line(), "--------  1,200 events missed");
    assert_eq!(
        tail.line(),
        "--------  the service keeps another journal now; some events before that were missed"
    );

    assert_eq!(tail.line(), format!("12:00:00  accepted    {ID}"));
    let resumed: Vec<_> = service
        .asked()
        .iter()
        .map(|a| a.header("last-event-id").map(str::to_owned))
        .collect();

    let after = |id: &str| Some(id.to_owned());
    // What was missed has no number: the one before still counts.
    assert_eq!(
        resumed,
        [
            None,
            after("run-7"),
            after("run-7"),
            after("run-8"),
            after("run-8")
        ]
    );
}

#[test]
fn json_is_one_event_a_line() {
    let (text, data) = event(1, "accepted", json!({"mail": ID}));
    let service = ScriptedService::new([stream(text)]);
    let mut tail = Running::start(&service, &["tail", "--json"]);
    assert_eq!(tail.line(), data.to_string());
}

#[test]
fn a_service_that_says_no_is_not_asked_for_ever() {
    let service = ScriptedService::new([problem(
        403,
        json!({"title": "The token's scope does not allow this", "status": 403}),
    )]);

    assert_eq!(
        run(&service, &["tail"]).failed(1),
        "postrider: The token's scope does not allow this\n"
    );

    let service = ScriptedService::new([
        stream(event(1, "accepted", json!({})).0),
        problem(
            401,
            json!({"title": "A valid token is needed", "status": 401}),
        ),
    ]);

    let done = run(&service, &["tail", "--json"]);
    assert_eq!(done.code, 1);
    assert!(done.err.contains("A valid token is needed"), "{}", done.err);
}

#[test]
fn an_answer_that_is_no_stream_is_not_followed() {
    let service = ScriptedService::new([answer(404, json!({"title": "Not found", "status": 404}))]);
    run(&service, &["tail"]).failed(1);
}

//! `postrider suppression`.

use serde_json::json;

use crate::command_line::scripted::{Scripted, json as answer, other};
use crate::command_line::{run, run_with};

#[test]
fn entries_are_added_listed_and_taken_off() {
    let entry =
        json!({"address": "a@example.org", "reason": "manual", "since": "2026-01-31T12:00:00Z"});
    let service = Scripted::new([answer(201, entry.clone())]);
    let words = [
        "suppression",
        "add",
        "a@example.org",
        "--list",
        "news",
        "--note",
        "asked by phone",
    ];

    assert_eq!(
        run(&service, &words).well(),
        "a@example.org gets no mail (manual)\n"
    );

    let asked = service.asked_once();
    assert_eq!(asked.line, "POST /v1/suppressions");
    let expected = json!({"address": "a@example.org", "list": "news", "note": "asked by phone"});
    assert_eq!(asked.json(), expected);

    let service = Scripted::new([answer(200, json!({"suppressions": [entry], "next": "abc"}))]);
    let shown = run(&service, &["suppression", "list", "--reason", "manual"]).well();
    assert!(
        shown.contains("a@example.org") && shown.contains("--cursor abc"),
        "{shown}"
    );

    assert_eq!(
        service.asked_once().line,
        "GET /v1/suppressions?reason=manual&limit=50"
    );

    let service = Scripted::new([answer(200, json!({"count": 2}))]);
    let shown = run(&service, &["suppression", "remove", "a@example.org"]).well();
    assert_eq!(shown, "entries taken off: 2\n");
    assert_eq!(
        service.asked_once().line,
        "DELETE /v1/suppressions?address=a%40example.org"
    );

    run(&Scripted::new([]), &["suppression", "remove"]).failed(2);
}

#[test]
fn files_go_in_and_come_out() {
    let done =
        json!({"imported": 1, "refused": 1, "errors": [{"line": 2, "detail": "has no address"}]});
    let service = Scripted::new([answer(200, done)]);
    let told = run_with(
        &service,
        &["suppression", "import", "-"],
        b"a@example.org\n,x\n",
    );

    assert_eq!(told.code, 1, "{}", told.err);
    assert_eq!(
        told.out,
        "imported: 1, refused: 1\nline 2: has no address\n"
    );
    assert_eq!(service.asked_once().body, b"a@example.org\n,x\n");

    let service = Scripted::new([other(200, "text/csv", "address\na@example.org\n")]);
    let shown = run(&service, &["suppression", "export", "--list", "news"]).well();
    assert_eq!(shown, "address\na@example.org\n");
    assert_eq!(
        service.asked_once().line,
        "GET /v1/suppressions/export?list=news"
    );
}

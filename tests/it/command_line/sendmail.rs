//! `postrider sendmail`, as cron, PHP and scripts call it.

use std::os::unix::process::CommandExt;

use serde_json::json;

use crate::command_line::scripted::{
    Answer, ReceivedRequest, ScriptedService, json as answer, other, problem,
};
use crate::command_line::{CommandResult, ID, finish, postrider, run_with};

fn accepted() -> Answer {
    answer(
        202,
        json!({"id": ID, "state": "queued", "duplicate": false, "durability": "synced"}),
    )
}

/// Sends `input` with these words, and returns what the service was asked.
#[track_caller]
fn sent(words: &[&str], input: impl AsRef<[u8]>) -> ReceivedRequest {
    let service = ScriptedService::new([accepted()]);
    let out = run_with(&service, &[&["sendmail"], words].concat(), input.as_ref()).well();
    assert_eq!(out, "", "a sendmail says nothing when all is well");
    let asked = service.asked_once();
    assert!(asked.line.starts_with("POST /v1/mails?"), "{}", asked.line);
    asked
}

/// Sends against a service that gives this answer.
fn refused(answers: impl IntoIterator<Item = Answer>, words: &[&str]) -> CommandResult {
    run_with(
        &ScriptedService::new(answers),
        &[&["sendmail"], words].concat(),
        b"From: a@example.com\n\nhi\n",
    )
}

#[test]
fn recipients_come_from_the_arguments() {
    let message = "From: Shop <shop@example.com>\nSubject: s\n\nhi\n";
    let asked = sent(
        &["-i", "a@example.org", "B <b@example.org>, c@example.org"],
        message,
    );
    assert_eq!(
        asked.parameter("to"),
        ["a@example.org", "b@example.org", "c@example.org"]
    );
    assert_eq!(asked.parameter("from"), ["shop@example.com"]);
    assert_eq!(asked.message(), message);
}

#[test]
fn recipients_come_from_the_message_with_t() {
    let message = "From: shop@example.com\nTo: A <a@example.org>,\n b@example.org\n\
                   Cc: c@example.org\n\
                   Bcc: d@example.org\nSubject: s\n\nTo: not@example.org\n";
    let asked = sent(&["-t", "-i"], message);
    assert_eq!(
        asked.parameter("to"),
        [
            "a@example.org",
            "b@example.org",
            "c@example.org",
            "d@example.org"
        ]
    );

    let asked = sent(&["-ti", "e@example.org"], message);
    assert_eq!(asked.parameter("to").first().unwrap(), "e@example.org");
    assert_eq!(
        asked.parameter("to").len(),
        5,
        "those that are named get it besides those in the message"
    );
}

#[test]
fn every_form_of_an_address_in_the_message_is_read() {
    let message = "From: \"ada lovelace\"@example.com\nTo: \"bob\"@example.org, (a (nested)\n \
                   comment) c@example.org,\n\
        \x20=?utf-8?q?eve=40evil.example=2C?= <@a.example,@b.example:d@example.org>\n\
        Cc: team: \"e@f\"@example.org, g . h @ example . org;, \"i,j\" <k@[192.0.2.1]>\n\nhi\n";
    let asked = sent(&["-t", "-i"], message);
    assert_eq!(
        asked.parameter("to"),
        [
            "\"bob\"@example.org",
            "c@example.org",
            "d@example.org",
            "\"e@f\"@example.org",
            "g.h@example.org",
            "k@[192.0.2.1]"
        ]
    );

    assert_eq!(asked.parameter("from"), ["\"ada lovelace\"@example.com"]);
}

#[test]
fn what_an_encoded_word_holds_is_nobodys_address() {
    for field in [
        "To: =?utf-8?q?x=40evil.example?=",
        "Cc: b@example.org, =?utf-8?b?eEBldmlsLmV4YW1wbGU=?=",
    ] {
        let message = format!("From: a@example.com\n{field}\n\nhi\n");
        let service = ScriptedService::new([]);
        let done = run_with(&service, &["sendmail", "-t"], message.as_bytes());
        let err = done.failed(67);
        assert!(err.contains("encoded word"), "{err}");
        assert!(service.asked().is_empty());
    }
}

#[test]
fn the_envelopes_sender_is_what_f_says() {
    let message = "From: shop@example.com\n\nhi\n";
    for words in [
        &["-f", "bounce@example.com", "a@example.org"][..],
        &["-fbounce@example.com", "a@example.org"],
    ] {
        let asked = sent(words, message);
        assert_eq!(asked.parameter("from"), ["bounce@example.com"]);
        assert_eq!(asked.message(), message);
    }

    assert_eq!(
        sent(&["-f", "<>", "a@example.org"], message).parameter("from"),
        ["<>"]
    );

    assert_eq!(
        sent(&["-f", "", "a@example.org"], message).parameter("from"),
        ["<>"]
    );
}

#[test]
fn cron_gets_its_mail_through() {
    let input =
        "From: root (Cron Daemon)\nTo: root\nSubject: Cron <root@vm> backup\n\nno space left\n";
    let asked = sent(&["-i", "-FCronDaemon", "-B8BITMIME", "-oem", "root"], input);
    let to = asked.parameter("to").concat();
    assert!(
        to.starts_with("root@") && to.len() > 5,
        "an address without a domain is of this machine: {to}"
    );
    assert!(asked.parameter("from").concat().starts_with("root@"));
    assert_eq!(asked.message(), input);
}

#[test]
fn a_missing_sender_is_whoever_runs_it() {
    let asked = sent(&["-FThe Shop", "a@example.org"], "Subject: s\n\nhi\n");
    let from = asked.parameter("from").concat();
    assert!(from.contains('@'));
    assert_eq!(
        asked.message(),
        format!("From: \"The Shop\" <{from}>\r\nSubject: s\n\nhi\n")
    );

    let asked = sent(&["-f", "me@example.com", "a@example.org"], "just text\n");
    assert_eq!(asked.message(), "From: me@example.com\r\n\r\njust text\n");
}

#[test]
fn a_lone_dot_ends_the_message_unless_i_is_given() {
    let input = "From: a@example.com\n\none\n.\ntwo\n";
    assert_eq!(
        sent(&["b@example.org"], input).message(),
        "From: a@example.com\n\none\n"
    );
    for flag in ["-i", "-oi"] {
        assert_eq!(sent(&[flag, "b@example.org"], input).message(), input);
    }
}

#[test]
fn bytes_are_left_as_they_are() {
    let latin1 = b"From: a@example.com\nSubject: 8-bit\nMIME-Version: 1.0\n\
                   Content-Type: text/plain; charset=iso-8859-1\n\
                   Content-Transfer-Encoding: 8bit\n\n\xe9\xe8\xff\n";
    assert_eq!(sent(&["b@example.org"], latin1).body, latin1);
    let mut long = b"From: a@example.com\n\n".to_vec();
    while long.len() < 8 << 20 {
        long.extend_from_slice(
            b"The quick brown fox jumps over the lazy dog, again and again.\r\n",
        );
    }
    assert_eq!(sent(&["-i", "b@example.org"], &long).body, long);
}

#[test]
fn words_after_two_dashes_are_recipients() {
    let asked = sent(
        &["-i", "--", "-dash@example.org"],
        "From: a@example.com\n\nhi\n",
    );
    assert_eq!(asked.parameter("to"), ["-dash@example.org"]);
}

#[test]
fn a_link_named_sendmail_does_the_same() {
    let service = ScriptedService::new([accepted()]);
    let mut command = postrider();
    command
        .arg0("/usr/sbin/sendmail")
        .args(["-t", "-i", "--", "-x@example.org"])
        .env("POSTRIDER_URL", service.url());

    finish(
        &mut command,
        b"From: a@example.com\nTo: b@example.org\n\nhi\n",
    )
    .well();

    assert_eq!(
        service.asked_once().parameter("to"),
        ["-x@example.org", "b@example.org"]
    );
}

#[test]
fn harmless_flags_are_taken() {
    let words = [
        "-oem",
        "-B8BITMIME",
        "-N",
        "never",
        "-R",
        "hdrs",
        "-V",
        "id",
        "-v",
        "-odb",
        "-G",
        "b@example.org",
    ];

    assert_eq!(
        sent(&words, "From: a@example.com\n\nhi\n").parameter("to"),
        ["b@example.org"]
    );
}

#[test]
fn smtp_is_spoken_on_standard_input() {
    let dialogue = "EHLO [127.0.0.1]\r\nMAIL FROM:<shop@example.com>\r\nRCPT TO:<a@example.org>\r\n\
        RCPT TO:<b@example.org>\r\nDATA\r\nSubject: x\r\n\r\n..hi\r\n.\r\nQUIT\r\n";
    for words in [&["-bs"][..], &["-t", "-i", "-bs"]] {
        let service = ScriptedService::new([accepted()]);
        let words = [&["sendmail"], words].concat();
        let out = run_with(&service, &words, dialogue.as_bytes()).well();
        assert!(
            out.contains(&format!("250 2.0.0 queued as {ID}\r\n")),
            "{out}"
        );
        assert!(out.ends_with("221 2.0.0 goodbye\r\n"), "{out}");
        let asked = service.asked_once();
        assert_eq!(asked.parameter("from"), ["shop@example.com"]);
        assert_eq!(asked.parameter("to"), ["a@example.org", "b@example.org"]);
        assert_eq!(asked.message(), "Subject: x\r\n\r\n.hi\r\n");
    }

    let no = problem(
        422,
        json!({"title": "no", "status": 422, "errors": [{"pointer": "/from",
            "detail": "is wrong"}]}),
    );

    let out = run_with(
        &ScriptedService::new([no]),
        &["sendmail", "-bs"],
        dialogue.as_bytes(),
    )
    .well();

    assert!(out.contains("\r\n554 5.6.0 "), "{out}");
}

#[test]
fn the_queue_is_printed_and_what_needs_no_doing_is_done() {
    let empty = || answer(200, json!({"mails": [], "next": null}));
    for (name, words) in [("sendmail", &["-bp"][..]), ("/usr/bin/mailq", &[])] {
        let service = ScriptedService::new([empty(), empty(), empty(), empty()]);
        let mut command = postrider();
        command
            .arg0(name)
            .args(words)
            .env("POSTRIDER_URL", service.url());
        assert_eq!(finish(&mut command, b"").well(), "Mail queue is empty\n");
    }

    for words in [&["-q"][..], &["-q30m"], &["-bi"], &["-I"]] {
        let words = [&["sendmail"], words].concat();
        assert_eq!(run_with(&ScriptedService::new([]), &words, b"").well(), "");
    }
}

#[test]
fn wrong_usage_is_64() {
    for (words, reason) in [
        (&["-i"][..], "no recipient: name one"),
        (&["-t"], "the message names none in To, Cc or Bcc"),
        (&["-Z", "a@example.org"], "there is no flag `-Z`"),
        (&["-f"], "-f needs a value"),
        (&["-bd"], "postrider run"),
    ] {
        let err = refused([], words).failed(64);
        assert!(
            err.starts_with("sendmail: ") && err.contains(reason),
            "{words:?}: {err}"
        );
    }
}

#[test]
fn addresses_that_are_none_are_distinguished() {
    let err = refused([], &["a@example.org", "b@@example.org"]).failed(67);
    assert!(err.contains("b@@example.org"), "{err}");
    refused([], &["-f", "a@b@c", "a@example.org"]).failed(65);
}

#[test]
fn each_refusal_has_its_code() {
    let invalid = |pointer: &str| {
        problem(
            422,
            json!({"title": "no", "status": 422,
                "errors": [{"pointer": pointer, "detail": "is wrong"}]}),
        )
    };

    let plainly = |status: u16| problem(status, json!({"title": "no", "status": status}));
    for (answer, code) in [
        (invalid("/to/0"), 67),
        (invalid("/from"), 65),
        (invalid("/message"), 65),
        (plainly(413), 65),
        (plainly(422), 69),
        (plainly(401), 77),
        (plainly(403), 77),
        (plainly(500), 75),
        (plainly(503), 75),
        (other(404, "text/html", "not here"), 69),
    ] {
        let err = refused([answer], &["a@example.org"]).failed(code);
        assert!(err.starts_with("sendmail: "), "{err}");
    }
}

#[test]
fn a_service_that_is_away_is_75_and_a_wrong_address_78() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let words = |url: &str| -> CommandResult {
        finish(
            postrider().args(["sendmail", "--url", url, "-i", "a@example.org"]),
            b"From: a@example.com\n\nhi\n",
        )
    };
    assert!(words(&url).failed(75).contains("no service answers"));
    assert!(words("nonsense").failed(78).contains("--url"));
}

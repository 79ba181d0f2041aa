//! Who is not to get mail, over HTTP.

use std::time::Duration;

use postrider::ingress::http::Limits;
use postrider::{Clock, Timestamp, days};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::service::Service;

async fn add(service: &Service, entry: Value) {
    let answer = service.json("POST", "/v1/suppressions", &entry).await;
    assert_eq!(answer.status, 201, "{}", answer.text());
}

fn mail(to: Value) -> Value {
    json!({"from": "shop@example.com", "to": to, "subject": "Hello", "text": "Hello."})
}

async fn record(service: &Service, id: &str) -> Value {
    service
        .call("GET", &format!("/v1/mails/{id}"))
        .await
        .value()
}

#[tokio::test]
async fn a_suppressed_recipient_gets_nothing_and_the_record_says_so() {
    let service = Service::start().await;
    add(
        &service,
        json!({"address": "Ada@example.org", "reason": "bounce", "note": "550"}),
    )
    .await;

    let answer = service
        .json("POST", "/v1/mails", &mail(json!("ADA@Example.org")))
        .await;
    assert_eq!(answer.status, 202);

    let accepted = answer.value();
    assert_eq!(
        (&accepted["state"], &accepted["suppressed"][0]),
        (&json!("dead"), &json!("ADA@Example.org"))
    );

    let dead = record(&service, accepted["id"].as_str().unwrap()).await;
    assert_eq!(dead["deliveries"][0]["reason"], "suppressed", "{dead}");

    let id = service
        .accept(&mail(json!(["ada@example.org", "ben@example.org"])))
        .await;
    service.dispatcher.wait_idle().await;

    let partial = record(&service, &id).await;
    assert_eq!(partial["state"], "partial", "{partial}");
    let sent = service.capture.captured();
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0].recipients[0].as_str(), "ben@example.org");

    let dead = service.call("GET", "/v1/mails?state=dead").await.value();
    assert_eq!(
        dead["mails"].as_array().unwrap().len(),
        2,
        "visible as every dead letter"
    );

    let gone = service
        .call("DELETE", "/v1/suppressions?address=ada@example.org")
        .await;
    assert_eq!(gone.value()["count"], 1);

    let again = service
        .json("POST", &format!("/v1/mails/{id}/retry"), &json!({}))
        .await;
    assert!(again.status.is_success(), "{}", again.text());
    service.dispatcher.wait_idle().await;

    assert_eq!(
        record(&service, &id).await["state"],
        "delivered",
        "once it is taken off"
    );
}

#[tokio::test]
async fn it_is_asked_again_before_a_mail_is_sent() {
    let clock = Clock::fake();
    let service = Service::with(Vec::new(), Limits::default(), |engine| {
        engine.clock(clock.clone())
    });
    let service = service.await;

    let mut later = mail(json!(["ada@example.org", "ben@example.org"]));
    later["delay"] = "1h".into();
    let id = service.accept(&later).await;
    add(
        &service,
        json!({"address": "ada@example.org", "reason": "complaint"}),
    )
    .await;
    clock.advance(postrider::hours(2));
    service.dispatcher.wait(id.parse().unwrap()).await.unwrap();

    let record = record(&service, &id).await;
    assert_eq!(record["deliveries"][0]["reason"], "suppressed", "{record}");
    assert_eq!(record["deliveries"][1]["state"], "delivered", "{record}");
}

#[tokio::test]
async fn what_is_meant_depends_on_list_reason_priority_and_time() {
    let clock = Clock::fake();
    let service = Service::with(Vec::new(), Limits::default(), |engine| {
        engine.clock(clock.clone())
    });
    let service = service.await;
    for entry in [
        json!({"address": "left@example.org", "reason": "unsubscribe", "list": "news"}),
        json!({"address": "angry@example.org", "reason": "complaint"}),
        json!({"address": "gone@example.org", "reason": "bounce"}),
        json!({"address": "barred@example.org"}),
    ] {
        add(&service, entry).await;
    }

    let is_held = async |to: &str, more: Value| {
        let mut mail = mail(json!(to));
        mail.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        let accepted = service.json("POST", "/v1/mails", &mail).await.value();
        assert!(accepted["id"].is_string(), "{accepted}");
        !accepted["suppressed"].is_null()
    };

    let critical = || json!({"priority": "critical"});
    assert!(
        !is_held("left@example.org", json!({})).await,
        "other mail goes on"
    );

    assert!(is_held("angry@example.org", json!({})).await);
    assert!(
        !is_held("angry@example.org", critical()).await,
        "a code passes a complaint"
    );

    assert!(
        is_held("gone@example.org", critical()).await,
        "and not a hard bounce"
    );

    assert!(is_held("barred@example.org", critical()).await);
    clock.advance(days(91));
    assert!(
        !is_held("gone@example.org", json!({})).await,
        "a bounce ends"
    );

    assert!(
        is_held("angry@example.org", json!({})).await,
        "a complaint does not"
    );

    let listed = service.call("GET", "/v1/suppressions").await.value();
    assert_eq!(
        listed["suppressions"].as_array().unwrap().len(),
        3,
        "{listed}"
    );
}

#[tokio::test]
async fn entries_come_in_and_go_out_as_csv() {
    let service = Service::start().await;
    let file = "\u{feff}Email,Reason,List,Note\r\n\
                ada@example.org,unsubscribe,news,\"said \"\"no\"\", twice\"\r\n\
                nobody,bounce,,\r\n\r\n\
                Ben <ben@example.org>,,,\r\n\
                c@example.org,because,,\r\n";
    let csv = [("content-type", "text/csv; charset=utf-8")];
    let answer = service
        .send("POST", "/v1/suppressions/import", &csv, file)
        .await
        .value();

    assert_eq!(
        (&answer["imported"], &answer["refused"]),
        (&json!(2), &json!(2)),
        "{answer}"
    );

    assert_eq!(
        (&answer["errors"][0]["line"], &answer["errors"][1]["line"]),
        (&json!(3), &json!(6))
    );

    let listed = service
        .call("GET", "/v1/suppressions?list=news&reason=unsubscribe")
        .await
        .value();

    assert_eq!(
        listed["suppressions"][0]["note"], "said \"no\", twice",
        "{listed}"
    );

    let exported = service.call("GET", "/v1/suppressions/export").await;
    assert_eq!(exported.header("content-type"), "text/csv; charset=utf-8");
    let exported = exported.text();
    assert!(
        exported.starts_with("address,reason,list,since,until,note\n"),
        "{exported}"
    );

    let other = Service::start().await;
    let answer = other
        .send("POST", "/v1/suppressions/import", &csv, exported.clone())
        .await
        .value();

    assert_eq!(
        (&answer["imported"], &answer["refused"]),
        (&json!(2), &json!(0)),
        "{answer}"
    );

    assert_eq!(
        other.call("GET", "/v1/suppressions/export").await.text(),
        exported
    );

    let bare = "d@example.org\ne@example.org,bounce\n";
    let answer = other
        .send("POST", "/v1/suppressions/import", &csv, bare)
        .await
        .value();

    assert_eq!(answer["imported"], 2, "{answer}");

    // As spreadsheets write where numbers have commas; and a note that is a column's name.
    for (file, imported) in [
        (
            "address;reason;note\nf@example.org;bounce;gone, for good\n",
            1,
        ),
        ("g@example.org;complaint\nh@example.org\n", 2),
        ("email\treason\ni@example.org\tbounce\n", 1),
        ("j@example.org,manual,,,,email\n", 1),
        // As Excel names the delimiter, in a line of its own.
        ("sep=;\r\naddress;reason\r\nk@example.org;bounce\r\n", 1),
        ("\u{feff}\"sep=\t\"\nl@example.org\tbounce\tnews\n", 1),
        ("SEP=|\nm@example.org|complaint\nn@example.org|manual\n", 2),
    ] {
        let answer = other.send("POST", "/v1/suppressions/import", &csv, file);
        let answer = answer.await.value();
        assert_eq!(answer["imported"], imported, "{file}: {answer}");
        assert_eq!(answer["refused"], 0, "{file}: {answer}");
    }
    let found = other.call("GET", "/v1/suppressions?reason=complaint").await;
    assert_eq!(found.value()["suppressions"][0]["address"], "g@example.org");

    for (file, line) in [
        ("sep=;\r\nnobody;x\r\n", 2),
        (
            "sep=;\r\naddress;reason\r\no@example.org;manual\r\nnobody\r\n",
            4,
        ),
        ("sep=;\naddress;reason\no@example.org;manual\nnobody\n", 4),
    ] {
        let answer = other.send("POST", "/v1/suppressions/import", &csv, file);
        let answer = answer.await.value();
        assert_eq!(answer["errors"][0]["line"], line, "{file:?}: {answer}");
    }
}

#[tokio::test]
async fn what_is_wrong_with_an_entry_is_pointed_at() {
    let service = Service::start().await;
    for (entry, pointer) in [
        (json!({}), "/address"),
        (json!({"address": "nobody"}), "/address"),
        (
            json!({"address": "a@example.org", "reason": "x"}),
            "/reason",
        ),
        (
            json!({"address": "a@example.org", "list": "a\r\nb"}),
            "/list",
        ),
        (
            json!({"address": "a@example.org", "note": "x".repeat(501)}),
            "/note",
        ),
    ] {
        let answer = service.json("POST", "/v1/suppressions", &entry).await;
        assert_eq!(answer.pointers(), [pointer], "{entry}");
        assert!(!answer.text().contains(" at line "), "{}", answer.text());
    }

    let all = service.call("DELETE", "/v1/suppressions").await;
    assert_eq!(all.status, 422, "all at once are not taken off");
    let cursor = service.call("GET", "/v1/suppressions?cursor=x").await;
    assert_eq!(cursor.pointers(), ["/cursor"]);

    let mut wrong = mail(json!("a@example.org"));
    wrong["list"] = "a b".into();
    let answer = service.json("POST", "/v1/mails", &wrong).await;
    assert_eq!(answer.pointers(), ["/list"]);
}

#[tokio::test]
async fn what_is_changed_is_in_the_audit_trail_with_how_much() {
    let service = Service::start().await;
    add(
        &service,
        json!({"address": "ada@example.org", "reason": "bounce"}),
    )
    .await;
    let gone = service
        .call("DELETE", "/v1/suppressions?address=ada@example.org")
        .await;
    assert_eq!(gone.status, 200, "{}", gone.text());

    let audit = service.call("GET", "/v1/audit").await.value();
    let acts: Vec<_> = audit["entries"].as_array().unwrap().iter().collect();
    let of = |act: &str| {
        let found = acts.iter().find(|entry| entry["act"] == act);
        let found = found.unwrap_or_else(|| panic!("{act}: {audit}"));
        (found["count"].clone(), found["filter"].clone())
    };
    assert_eq!(
        of("suppress"),
        (json!(1), json!("address=ada@example.org reason=bounce"))
    );
    assert_eq!(
        of("unsuppress"),
        (json!(1), json!("address=ada@example.org"))
    );
}

/// A file is read as it comes: it may be larger than what all requests may hold together.
#[tokio::test]
async fn a_file_larger_than_the_memory_for_requests_comes_in() {
    let limits = Limits {
        held_bytes: 100_000,
        ..Limits::default()
    };
    let service = Service::with(Vec::new(), limits, |builder| builder).await;
    let csv = [("content-type", "text/csv")];
    let line = |n| format!("gone{n}@example.org,bounce,,,,\"said:\r\nno such user, {n}\"\r\n");
    let file: String = (0..12_001).map(line).collect();
    assert!(file.len() > 500_000);

    let answer = service.send("POST", "/v1/suppressions/import", &csv, file);
    let answer = answer.await.value();
    assert_eq!(answer["imported"], 12_001, "{answer}");
    let last = service.call("GET", "/v1/suppressions?address=gone12000@example.org");
    let last = last.await.value();
    let note = "said:\r\nno such user, 12000";
    assert_eq!(last["suppressions"][0]["note"], note, "{last}");
}

#[tokio::test]
async fn a_file_that_breaks_off_or_has_a_line_without_end_is_refused() {
    let service = Service::start().await;
    let csv = [("content-type", "text/csv")];
    let head = "POST /v1/suppressions/import HTTP/1.1\r\nhost: localhost\r\n\
                content-type: text/csv\r\ncontent-length: 1000\r\n\r\n";
    let mut stream = TcpStream::connect(service.addr).await.unwrap();
    let sent = format!("{head}ada@example.org\nben@example.or");
    stream.write_all(sent.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut said = Vec::new();
    let _ = stream.read_to_end(&mut said).await;
    let said = String::from_utf8_lossy(&said);
    assert!(!said.contains(" 200 "), "{said}");

    let unclosed = format!("a@example.org,,,,,\"{}", "x,".repeat(100_000));
    let answer = service.send("POST", "/v1/suppressions/import", &csv, unclosed);
    let problem = answer.await.problem(400, "malformed");
    assert!(
        problem["detail"]
            .as_str()
            .unwrap()
            .contains("quotation mark")
    );

    let kept = service.call("GET", "/v1/suppressions").await.value();
    assert_eq!(kept["suppressions"], json!([]), "{kept}");
}

#[tokio::test]
async fn no_spreadsheet_computes_what_stands_in_an_exported_file() {
    let service = Service::start().await;
    let notes = [
        "=HYPERLINK(\"http://evil.example\")",
        "+1",
        "-1",
        "@SUM(1)",
        "'=1",
        "'",
        "it's",
    ];
    for (n, note) in notes.iter().enumerate() {
        let address = format!(
            "{}@example.org",
            ["=1+1", "+a", "-a", "'a", "''", "a", "b'"][n]
        );
        add(&service, json!({"address": address, "note": note})).await;
    }

    let exported = service.call("GET", "/v1/suppressions/export").await.text();
    for line in exported.lines().skip(1) {
        let cells = line.split([',', '"']);
        let computed = |cell: &str| cell.starts_with(['=', '+', '-', '@']);
        assert!(!cells.clone().any(computed), "{line}");
    }

    // What was exported comes in as it was.
    let other = Service::start().await;
    let csv = [("content-type", "text/csv")];
    let answer = other.send("POST", "/v1/suppressions/import", &csv, exported.clone());
    assert_eq!(answer.await.value()["imported"], 7);
    let all = async |service: &Service| service.call("GET", "/v1/suppressions").await.value();
    assert_eq!(all(&other).await, all(&service).await);
}

#[tokio::test]
async fn what_providers_export_is_understood_as_it_is() {
    let kind = [("content-type", "text/csv")];
    for (file, reason, since, note) in [
        // SendGrid: bounces, spam reports.
        (
            "status,reason,email,created\n5.1.1,\"550 5.1.1 no such user, sorry\",a@example.org,\
             1443651141\n",
            "bounce",
            "2015-09-30T22:12:21Z",
            "550 5.1.1 no such user, sorry",
        ),
        (
            "reason,email,created\nMail domain mentioned in email address is unknown,\
             a@example.org,1443651141\n",
            "bounce",
            "2015-09-30T22:12:21Z",
            "Mail domain mentioned in email address is unknown",
        ),
        // Mailgun.
        (
            "address,code,error,created_at\r\na@example.org,550,No such mailbox,\"Fri, 21 Oct 2011 \
             11:02:55 GMT\"\r\n",
            "bounce",
            "2011-10-21T11:02:55Z",
            "No such mailbox",
        ),
        // SES.
        (
            "EmailAddress,Reason,LastUpdateTime\na@example.org,COMPLAINT,\
             2024-01-02T03:04:05.678000+00:00\n",
            "complaint",
            "2024-01-02T03:04:05.678Z",
            "",
        ),
        // Postmark.
        (
            "\"EmailAddress\",\"SuppressionReason\",\"Origin\",\"CreatedAt\"\n\"a@example.org\",\
             \"HardBounce\",\"Recipient\",\"2024-01-02 03:04:05\"\n",
            "bounce",
            "2024-01-02T03:04:05Z",
            "",
        ),
        ("Email Address\ta\na@example.org\tb\n", "manual", "", ""),
    ] {
        let service = Service::start().await;
        let path = "/v1/suppressions/import";
        let answer = service.send("POST", path, &kind, file).await.value();
        assert_eq!(answer["imported"], 1, "{file}: {answer}");
        assert_eq!(answer["refused"], 0, "{file}: {answer}");

        let found = service.call("GET", "/v1/suppressions").await.value();
        let entry = &found["suppressions"][0];
        assert_eq!(entry["address"], "a@example.org", "{file}");
        assert_eq!(entry["reason"], reason, "{file}");
        let at: Timestamp = entry["since"].as_str().unwrap().parse().unwrap();
        if !since.is_empty() {
            assert_eq!(at, since.parse().unwrap(), "{file}");
        }
        assert_eq!(entry["note"].as_str().unwrap_or_default(), note, "{file}");
    }
}

#[tokio::test]
async fn a_file_may_be_empty_or_end_without_a_line_end() {
    let service = Service::start().await;
    let kind = [("content-type", "text/csv")];
    for (file, imported) in [
        ("", 0),
        ("\u{feff}", 0),
        ("\n", 0),
        ("address", 0),
        ("ada@example.org", 1),
        ("address,reason\nben@example.org,bounce", 1),
        ("\u{feff}carl@example.org\r\ndora@example.org", 2),
    ] {
        let path = "/v1/suppressions/import";
        let answer = service.send("POST", path, &kind, file).await;
        assert_eq!(answer.status, 200, "{file:?}: {}", answer.text());
        assert_eq!(answer.value()["imported"], imported, "{file:?}");
    }
}

/// A file of five thousand lines with a note of some length.
fn part(n: usize) -> String {
    let note = "x".repeat(220);
    let line = |m| format!("gone{n}-{m}@example.org,bounce,,,,{note}\n");
    (0..5000).map(line).collect()
}

/// What a file may take is no time for all of it, but one in which nothing more of it was done.
#[tokio::test]
async fn a_file_that_takes_longer_than_any_answer_may_is_taken_as_long_as_it_gets_on() {
    let span = Duration::from_millis(1500);
    let limits = Limits {
        answer_timeout: span,
        body_timeout: span,
        ..Limits::default()
    };
    let service = Service::with(Vec::new(), limits, |builder| builder).await;

    let length: usize = (0..8).map(|n| part(n).len()).sum();
    let head = format!(
        "POST /v1/suppressions/import HTTP/1.1\r\nhost: localhost\r\ncontent-type: text/csv\r\n\
         connection: close\r\ncontent-length: {length}\r\n\r\n"
    );
    let bring = async |parts: usize| {
        let mut stream = TcpStream::connect(service.addr).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        for n in 0..parts {
            stream.write_all(part(n).as_bytes()).await.unwrap();
            tokio::time::sleep(span / 3).await;
        }
        let mut said = String::new();
        let read = stream.read_to_string(&mut said);
        let read = tokio::time::timeout(Duration::from_secs(20), read).await;
        read.expect("it is answered").unwrap();
        said
    };

    let begun = std::time::Instant::now();
    let said = bring(8).await;
    assert!(begun.elapsed() > span * 2, "{:?}", begun.elapsed());
    assert!(said.starts_with("HTTP/1.1 200"), "{said}");
    assert!(said.contains("\"imported\":40000"), "{said}");

    // One that does not get on any more is given up.
    let said = bring(2).await;
    assert!(
        said.starts_with("HTTP/1.1 504") || said.starts_with("HTTP/1.1 408"),
        "{said}"
    );
}

/// Whoever has sent all of a file learns what is wrong with it, and how much of it is there.
#[tokio::test]
async fn a_file_that_is_no_csv_from_some_line_on_says_how_much_of_it_was_added() {
    let service = Service::start().await;
    let csv = [("content-type", "text/csv")];
    let file = [
        part(0).as_bytes(),
        b"caf\xe9@example.org\n",
        &part(1).into_bytes(),
    ]
    .concat();
    let answer = service.send("POST", "/v1/suppressions/import", &csv, file);
    let problem = answer.await.problem(400, "malformed");
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("UTF-8"), "{detail}");
    assert!(
        detail.ends_with("entries before that were added: 5000"),
        "{detail}"
    );
    let kept = service.call("GET", "/v1/suppressions?address=gone0-4999@example.org");
    let kept = kept.await.value();
    assert_eq!(kept["suppressions"].as_array().unwrap().len(), 1, "{kept}");
}

/// Files that come slowly leave the threads to those who hand in mail.
#[test]
fn many_slow_files_keep_no_mail_out() {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.enable_all().max_blocking_threads(32).build();
    runtime.unwrap().block_on(async {
        let service = Service::start().await;
        let head = "POST /v1/suppressions/import HTTP/1.1\r\nhost: localhost\r\n\
                    content-type: text/csv\r\ncontent-length: 1000\r\n\r\nada@example.org\n";
        let mut slow = Vec::new();
        for _ in 0..64 {
            let mut stream = TcpStream::connect(service.addr).await.unwrap();
            stream.write_all(head.as_bytes()).await.unwrap();
            slow.push(stream);
        }
        tokio::time::sleep(Duration::from_millis(500)).await;

        // A large one is read on a thread of its own.
        let mut large = mail(json!("ben@example.org"));
        large["text"] = "a line\n".repeat(100_000).into();
        let accepted = tokio::time::timeout(Duration::from_secs(10), service.accept(&large));
        accepted.await.expect("it is taken while they come");

        // Whoever is one too many is told at once.
        let told = async |stream: &mut TcpStream| {
            let mut said = [0; 12];
            let wait = Duration::from_millis(100);
            let read = tokio::time::timeout(wait, stream.read_exact(&mut said)).await;
            read.is_ok()
                .then(|| String::from_utf8_lossy(&said).into_owned())
        };
        let mut refused = 0;
        for stream in &mut slow {
            if let Some(said) = told(stream).await {
                assert_eq!(said, "HTTP/1.1 429");
                refused += 1;
            }
        }
        assert_eq!(refused, 64 - 8);

        // And when they have gone, there is room again.
        drop(slow);
        let csv = [("content-type", "text/csv")];
        for _ in 0..50 {
            let path = "/v1/suppressions/import";
            let answer = service.send("POST", path, &csv, "carl@example.org").await;
            if answer.status == 200 {
                return;
            }
            answer.problem(429, "too-many");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("nobody else can bring a file");
    });
}

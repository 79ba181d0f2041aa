//! Mail comes in.

use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use crate::common::FaultySpool;
use crate::common::test_spool::durability;
use crate::http::service::{Service, pointers};

fn simple() -> Value {
    json!({"from": "Shop <shop@example.com>", "to": "ada@example.org", "subject": "Your code",
        "text": "123456"})
}

#[tokio::test]
async fn a_mail_is_not_accepted_before_the_spool_says_so() {
    let spool = FaultySpool::new();
    let service = Service::with(Vec::new(), Default::default(), |engine| {
        engine.spool_custom(spool.clone())
    })
    .await;

    spool.hold();
    let (mail, batch) = (simple(), json!({"mails": [simple()]}));
    let mut one = std::pin::pin!(service.json("POST", "/v1/mails", &mail));

    let mut many = std::pin::pin!(service.json("POST", "/v1/mails/batch", &batch));
    let early = tokio::time::timeout(Duration::from_millis(200), async {
        tokio::select! {
            answer = &mut one => answer.status,
            answer = &mut many => answer.status,
        }
    });

    let early = early.await;
    assert!(early.is_err(), "answered too early: {early:?}");
    spool.let_go();
    assert_eq!(
        (one.await.status.as_u16(), many.await.status.as_u16()),
        (202, 202)
    );
}

#[tokio::test]
async fn while_the_spool_is_broken_mail_is_put_off_and_afterwards_all_goes_on() {
    let spool = FaultySpool::new();
    let service = Service::with(Vec::new(), Default::default(), |engine| {
        engine.spool_custom(spool.clone())
    })
    .await;

    service.dispatcher.pause("capture").await.unwrap();
    let before = service.accept(&simple()).await;
    spool.break_down();

    let refused = service.json("POST", "/v1/mails", &simple()).await;
    assert_eq!(refused.status, 503, "{}", refused.text());
    assert!(refused.header("retry-after").parse::<u32>().unwrap() > 0);
    assert!(
        refused.text().contains("input/output error"),
        "{}",
        refused.text()
    );

    assert_eq!(service.call("GET", "/health/ready").await.status, 503);
    assert_eq!(service.call("GET", "/health/live").await.status, 200);
    service.dispatcher.resume("capture").await.unwrap();
    assert!(
        service.capture.captured().is_empty(),
        "what became of it could not be recorded"
    );

    spool.mend();
    assert_eq!(service.call("GET", "/health/ready").await.status, 200);
    service.accept(&simple()).await;
    service
        .dispatcher
        .wait(before.parse().unwrap())
        .await
        .unwrap();
}

#[tokio::test]
async fn a_mail_handed_in_as_json_is_accepted_and_arrives() {
    let service = Service::start().await;
    let answer = service.json("POST", "/v1/mails", &simple()).await;
    assert_eq!(answer.status, 202, "{}", answer.text());

    let accepted = answer.value();
    assert_eq!(
        (&accepted["state"], &accepted["duplicate"]),
        (&json!("queued"), &json!(false))
    );

    assert_eq!(accepted["durability"], durability());
    let id = accepted["id"].as_str().unwrap();
    assert_eq!(answer.header("location"), format!("/v1/mails/{id}"));

    service.dispatcher.wait(id.parse().unwrap()).await.unwrap();
    let record = service.call("GET", answer.header("location")).await;
    assert_eq!(record.status, 200);

    let record = record.value();
    assert_eq!(
        (&record["state"], &record["subject"]),
        (&json!("delivered"), &json!("Your code"))
    );

    assert!(record["created_at"].is_string() && record["finished_at"].is_string());
    let delivery = &record["deliveries"][0];
    assert_eq!(
        (&delivery["recipient"], &delivery["state"]),
        (&json!("ada@example.org"), &json!("delivered"))
    );

    assert_eq!(
        (
            &delivery["attempts"][0]["code"],
            &delivery["attempts"][0]["relay"]
        ),
        (&json!(250), &json!("capture"))
    );

    assert_eq!(service.capture.captured().len(), 1);
}

#[tokio::test]
async fn every_field_of_a_mail_has_its_effect() {
    let service = Service::start().await;
    let mail = json!({
        "from": "Shop <shop@example.com>", "to": ["Ada <ada@example.org>", "bob@example.org"],
        "cc": "cy@example.org",
        "bcc": ["dee@example.org"], "reply_to": "help@example.com",
        "return_path": "bounces@example.com",
        "subject": "Grüße", "text": "plain", "html": "<p>rich <img src=\"cid:logo\"></p>",
        "headers": {"X-Campaign": "spring"},
        "attachments": [
            {"filename": "a.txt", "content_type": "text/plain",
                "content": BASE64_STANDARD.encode("attached text")},
            {"filename": "logo.png", "content_type": "image/png", "content": "iVBORw0KGgo=",
                "inline_id": "logo"},
        ],
        "priority": "critical", "expires_in": "2h", "idempotency_key": "k-1",
        "tags": ["spring", "test"],
        "guarantee": "at_most_once",
    });

    let id = service.accept(&mail).await;
    let status = service.dispatcher.wait(id.parse().unwrap()).await.unwrap();
    let record = service
        .call("GET", &format!("/v1/mails/{id}"))
        .await
        .value();

    assert_eq!(record["priority"], "critical");
    assert_eq!(record["tags"], json!(["spring", "test"]));
    assert_eq!(record["guarantee"], "at_most_once");
    assert_eq!(record["idempotency_key"], "k-1");
    assert_eq!(record["return_path"], "bounces@example.com");
    assert_eq!(status.expires_at.since(status.created_at).as_secs(), 7200);

    let recipients: Vec<&str> = record["deliveries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|d| d["recipient"].as_str().unwrap())
        .collect();

    assert_eq!(
        recipients,
        [
            "ada@example.org",
            "bob@example.org",
            "cy@example.org",
            "dee@example.org"
        ]
    );

    let raw = service.call("GET", &format!("/v1/mails/{id}/raw")).await;
    let text = raw.text();
    for part in [
        "X-Campaign: spring",
        "Reply-To: help@example.com",
        "multipart/alternative",
        "a.txt",
        "<logo>",
    ] {
        assert!(text.contains(part), "{part} is missing in {text}");
    }

    assert!(!text.contains("dee@example.org"), "Bcc shows in {text}");
}

#[tokio::test]
async fn times_are_text_or_seconds() {
    let service = Service::start().await;
    for (field, value, state) in [
        ("delay", json!("1h"), "scheduled"),
        ("delay", json!(3600), "scheduled"),
        ("delay", json!(0), "queued"),
        ("send_at", json!("2199-01-01T13:00:00+01:00"), "scheduled"),
        ("send_at", json!("2020-01-01T00:00:00Z"), "queued"),
    ] {
        let mut mail = simple();
        mail[field] = value.clone();
        mail["expires_in"] = json!("100000d");
        let answer = service.json("POST", "/v1/mails", &mail).await;
        assert_eq!(answer.status, 202, "{field} = {value}: {}", answer.text());
        assert_eq!(answer.value()["state"], state, "{field} = {value}");
    }
}

#[tokio::test]
async fn one_answer_names_every_bad_field() {
    let service = Service::start().await;
    let mail = json!({
        "from": "nobody", "to": ["ada@example.org", "at@@example.org", 7], "cc": {"a": 1},
        "bcc": ["x\r\ny@example.org"],
        "subject": 5, "text": "hi", "headers": {"X-Good": "1", "X-Bad": "a\r\nBcc: eve@example.org",
            "no/name:": "x"},
        "attachments": [
            {"filename": "a.txt", "content": "aGk="},
            {"filename": "b.txt", "content": "not base64!", "size": 3},
            {"content": "aGk=", "content_type": "nonsense"},
        ],
        "priority": "asap", "send_at": "tomorrow", "delay": -5, "tags": ["ok", ""],
        "guarantee": "always",
        "attachment": [],
    });

    let answer = service.json("POST", "/v1/mails", &mail).await;
    let mut named = answer.pointers();
    named.sort();
    let mut expected = [
        "/from",
        "/to/1",
        "/to/2",
        "/cc",
        "/bcc/0",
        "/subject",
        "/headers/X-Bad",
        "/headers/no~1name:",
        "/attachments/1/content",
        "/attachments/1/size",
        "/attachments/2/filename",
        "/attachments/2/content_type",
        "/priority",
        "/send_at",
        "/delay",
        "/tags/1",
        "/guarantee",
        "/attachment",
    ];

    expected.sort_unstable();
    assert_eq!(named, expected, "{}", answer.text());
    assert!(
        service
            .dispatcher
            .list(postrider::Query::default())
            .await
            .unwrap()
            .mails
            .is_empty(),
        "something was kept"
    );
}

#[tokio::test]
async fn what_is_missing_is_named_too() {
    let service = Service::start().await;
    assert_eq!(
        service
            .json("POST", "/v1/mails", &json!({"text": "hi"}))
            .await
            .pointers(),
        ["/from", "/to"]
    );

    let both = json!({"from": "a@example.org", "to": [], "text": "x",
        "send_at": "2199-01-01T00:00:00Z", "delay": "5m"});
    assert_eq!(
        service.json("POST", "/v1/mails", &both).await.pointers(),
        ["/delay", "/to"]
    );

    let bodyless = json!({"from": "a@example.org", "to": "b@example.org"});
    assert_eq!(
        service
            .json("POST", "/v1/mails", &bodyless)
            .await
            .pointers(),
        ["/text"]
    );
}

#[tokio::test]
async fn a_field_given_twice_is_refused() {
    let service = Service::start().await;
    let body =
        r#"{"from": "a@example.org", "to": "b@example.org", "to": "c@example.org", "text": "x"}"#;
    let answer = service
        .send(
            "POST",
            "/v1/mails",
            &[("content-type", "application/json")],
            body,
        )
        .await;

    assert!(
        answer.problem(422, "invalid")["detail"]
            .as_str()
            .unwrap()
            .contains("duplicate field `to`")
    );
}

#[tokio::test]
async fn a_byte_order_mark_before_json_is_passed_over() {
    let service = Service::start().await;
    let json = [("content-type", "application/json")];
    for (path, body) in [
        ("/v1/mails", simple()),
        ("/v1/mails/batch", json!({"mails": [simple()]})),
    ] {
        let marked = format!("\u{feff}{body}");
        let answer = service.send("POST", path, &json, marked).await;
        assert_eq!(answer.status.as_u16(), 202, "{path}");
    }
}

#[tokio::test]
async fn what_is_no_json_or_no_mail_at_all_is_refused_as_such() {
    let service = Service::start().await;
    let json = [("content-type", "application/json")];
    for body in ["", "{", "{\"from\": \"a@example.org\",}", "{} {}", "from=a"] {
        service
            .send("POST", "/v1/mails", &json, body)
            .await
            .problem(400, "malformed");
    }

    for body in ["[]", "null", "\"mail\"", "5"] {
        assert_eq!(
            service
                .send("POST", "/v1/mails", &json, body)
                .await
                .pointers(),
            [""],
            "{body}"
        );
    }

    let deep = format!("{{\"from\": {}", "[".repeat(100_000));
    service
        .send("POST", "/v1/mails", &json, deep)
        .await
        .problem(400, "malformed");

    for kind in [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "nonsense",
    ] {
        service
            .send("POST", "/v1/mails", &[("content-type", kind)], "{}")
            .await
            .problem(415, "media-type");
    }

    service
        .send("POST", "/v1/mails", &[], "{}")
        .await
        .problem(415, "media-type");

    let packed = [
        ("content-type", "application/json"),
        ("content-encoding", "gzip"),
    ];

    service
        .send("POST", "/v1/mails", &packed, "{}")
        .await
        .problem(415, "media-type");
}

#[tokio::test]
async fn a_finished_message_is_taken_under_the_envelope_of_the_query() {
    let service = Service::start().await;
    let message =
        "From: Shop <shop@example.com>\nTo: Ada <ada@example.org>\nSubject: hi\n\nline\n.\nend\n";
    let kind = [
        ("content-type", "message/rfc822"),
        ("idempotency-key", "m-1"),
    ];

    let path = "/v1/mails?from=bounces%2Bada@example.com&to=ada@example.org&to=bob@example.org\
        &priority=bulk&tag=a\
        &tag=b&expires_in=3600&guarantee=at_most_once";
    let answer = service.send("POST", path, &kind, message).await;
    assert_eq!(answer.status, 202, "{}", answer.text());

    let id = answer.value()["id"].as_str().unwrap().to_owned();
    service.dispatcher.wait(id.parse().unwrap()).await.unwrap();

    let record = service
        .call("GET", &format!("/v1/mails/{id}"))
        .await
        .value();

    assert_eq!(record["return_path"], "bounces+ada@example.com");
    assert_eq!(
        (&record["priority"], &record["tags"]),
        (&json!("bulk"), &json!(["a", "b"]))
    );

    assert_eq!(
        (&record["idempotency_key"], &record["guarantee"]),
        (&json!("m-1"), &json!("at_most_once"))
    );
    assert_eq!(record["deliveries"].as_array().unwrap().len(), 2);

    let raw = service.call("GET", &format!("/v1/mails/{id}/raw")).await;
    assert_eq!(raw.header("content-type"), "message/rfc822");
    assert_eq!(raw.header("x-content-type-options"), "nosniff");
    assert_eq!(
        raw.header("content-disposition"),
        format!("attachment; filename=\"{id}.eml\"")
    );

    assert!(raw.header("content-security-policy").contains("sandbox"));
    assert!(
        raw.text().ends_with("\r\n\r\nline\r\n.\r\nend\r\n"),
        "{}",
        raw.text()
    );

    assert_eq!(
        service.capture.captured()[0].message,
        raw.body,
        "what is shown is what was sent"
    );
}

#[tokio::test]
async fn a_messages_bad_parameters_are_all_named() {
    let service = Service::start().await;
    let kind = [("content-type", "message/rfc822")];
    let message = "From: a@example.org\r\nSubject: hi\r\n\r\nx\r\n";
    let answer = service
        .send(
            "POST",
            "/v1/mails?to=nobody&priority=asap&subject=x",
            &kind,
            message,
        )
        .await;

    assert_eq!(
        answer.pointers(),
        ["/from", "/to/0", "/priority", "/subject"]
    );

    let answer = service
        .send("POST", "/v1/mails?from=a@example.org", &kind, message)
        .await;
    assert_eq!(answer.pointers(), ["/to"]);

    let null = service
        .send("POST", "/v1/mails?from=&to=a@example.org", &kind, message)
        .await;
    assert_eq!(null.status, 202, "{}", null.text());

    // Options of a JSON mail stand in the JSON, and are not silently ignored in the query.
    assert_eq!(
        service
            .json("POST", "/v1/mails?priority=bulk", &simple())
            .await
            .pointers(),
        ["/priority"]
    );
}

#[tokio::test]
async fn one_key_is_one_mail() {
    let service = Service::start().await;
    let headers = [
        ("content-type", "application/json"),
        ("idempotency-key", "order-7"),
    ];
    let first = service
        .send("POST", "/v1/mails", &headers, simple().to_string())
        .await
        .value();

    assert_eq!(first["duplicate"], false);
    service
        .dispatcher
        .wait(first["id"].as_str().unwrap().parse().unwrap())
        .await
        .unwrap();

    let mut by_field = simple();
    by_field["idempotency_key"] = json!("order-7");
    for again in [
        service
            .send("POST", "/v1/mails", &headers, simple().to_string())
            .await,
        service.json("POST", "/v1/mails", &by_field).await,
        service
            .send("POST", "/v1/mails", &headers, by_field.to_string())
            .await,
    ] {
        assert_eq!(again.status, 202, "{}", again.text());
        let again = again.value();
        assert_eq!(
            (&again["id"], &again["duplicate"]),
            (&first["id"], &json!(true))
        );
        assert_eq!(
            again["state"], "delivered",
            "a duplicate tells how far the first is"
        );
    }
    assert_eq!(service.capture.captured().len(), 1);

    let mut other = simple();
    other["text"] = json!("654321");

    let reused = service
        .send("POST", "/v1/mails", &headers, other.to_string())
        .await;
    assert_eq!(
        pointers(&reused.problem(422, "key-reused")),
        ["/idempotency_key"]
    );

    let headers = [
        ("content-type", "application/json"),
        ("idempotency-key", "order-8"),
    ];

    let answer = service
        .send("POST", "/v1/mails", &headers, by_field.to_string())
        .await;
    assert_eq!(answer.pointers(), ["/idempotency_key"]);
}

#[tokio::test]
async fn a_batch_answers_for_each_mail_in_order() {
    let service = Service::start().await;
    let mut keyed = simple();
    keyed["idempotency_key"] = json!("b-1");

    let mails = json!({"mails": [simple(), {"from": "nobody", "to": "x", "text": "t"}, keyed, 5,
        keyed, simple()]});
    let answer = service.json("POST", "/v1/mails/batch", &mails).await;
    assert_eq!(answer.status, 202, "{}", answer.text());

    let results = answer.value()["results"].clone();
    assert_eq!(results.as_array().unwrap().len(), 6);
    for place in [0, 2, 4, 5] {
        assert_eq!(results[place]["durability"], durability(), "{results}");
    }

    assert_eq!(pointers(&results[1]), ["/mails/1/from", "/mails/1/to"]);
    assert_eq!(results[1]["status"], 422);
    assert_eq!(pointers(&results[3]), ["/mails/3"]);
    assert_eq!(
        (&results[2]["duplicate"], &results[4]["duplicate"]),
        (&json!(false), &json!(true))
    );

    assert_eq!(results[2]["id"], results[4]["id"]);
    service.dispatcher.wait_idle().await;
    assert_eq!(service.capture.captured().len(), 3);
}

#[tokio::test]
async fn a_batch_has_at_most_five_hundred_mails() {
    let service = Service::start().await;
    let answer = service
        .json(
            "POST",
            "/v1/mails/batch",
            &json!({"mails": vec![simple(); 500]}),
        )
        .await;

    assert_eq!(answer.status, 202, "{}", answer.text());
    assert!(
        answer.value()["results"]
            .as_array()
            .unwrap()
            .iter()
            .all(|result| result["id"].is_string())
    );

    let answer = service
        .json(
            "POST",
            "/v1/mails/batch",
            &json!({"mails": vec![json!({}); 501]}),
        )
        .await;

    assert_eq!(answer.pointers(), ["/mails"]);
    assert_eq!(
        service
            .json("POST", "/v1/mails/batch", &json!({"mails": {}}))
            .await
            .pointers(),
        ["/mails"]
    );

    assert_eq!(
        service
            .json("POST", "/v1/mails/batch", &json!({"mails": [], "mode": 1}))
            .await
            .pointers(),
        ["/mode"]
    );

    assert_eq!(
        service
            .json("POST", "/v1/mails/batch", &json!([]))
            .await
            .pointers(),
        [""]
    );

    let headers = [
        ("content-type", "application/json"),
        ("idempotency-key", "x"),
    ];

    let answer = service
        .send("POST", "/v1/mails/batch", &headers, "{\"mails\": []}")
        .await;
    assert_eq!(answer.pointers(), ["/idempotency_key"]);
}

#[tokio::test]
async fn a_finished_message_says_what_it_asks_for_in_its_own_fields_too() {
    let service = Service::start().await;
    let message = "From: shop@example.com\r\nX-Postrider-Priority: bulk\r\n\
                   X-Postrider-Key: order-7\r\n\
                   X-Postrider-Tag: a, b\r\nX-Postrider-Expires-In: 5m\r\nSubject: x\r\n\r\nhi\r\n";
    let path = "/v1/mails?from=shop@example.com&to=ada@example.org";

    let kind = [("content-type", "message/rfc822")];
    let answer = service.send("POST", path, &kind, message).await;
    assert_eq!(answer.status, 202, "{}", answer.text());
    let id = answer.value()["id"].as_str().unwrap().to_owned();

    let again = service.send("POST", path, &kind, message).await;
    assert_eq!(again.value()["duplicate"], true, "{}", again.text());
    let record = service
        .call("GET", &format!("/v1/mails/{id}"))
        .await
        .value();

    assert_eq!(record["priority"], "bulk");
    assert_eq!(record["tags"], json!(["a", "b"]));
    let raw = service.call("GET", &format!("/v1/mails/{id}/raw")).await;
    assert!(!raw.text().contains("X-Postrider"), "{}", raw.text());
}

#[tokio::test]
async fn a_mail_may_be_sent_later_than_a_mail_lives_by_default() {
    let service = Service::start().await;
    for later in [
        json!({"delay": "9d"}),
        json!({"send_at": "2099-01-31T12:00:00Z"}),
    ] {
        let mut mail = simple();
        let later = later.as_object().unwrap().clone();
        mail.as_object_mut().unwrap().extend(later);
        let answer = service.json("POST", "/v1/mails", &mail).await;
        assert_eq!(answer.status, 202, "{}", answer.text());
        assert_eq!(answer.value()["state"], "scheduled");

        // A mail lives two days by default, from when it is to be sent.
        let id = answer.value()["id"].as_str().unwrap().to_owned();
        let record = service
            .call("GET", &format!("/v1/mails/{id}"))
            .await
            .value();
        let at = |value: &serde_json::Value| {
            value
                .as_str()
                .unwrap()
                .parse::<postrider::Timestamp>()
                .unwrap()
        };
        let due = at(&record["deliveries"][0]["next_attempt_at"]);
        let lives = at(&record["expires_at"]).since(due);
        assert_eq!(lives.as_secs().div_ceil(3600), 48, "{record}");
    }
}

#[tokio::test]
async fn a_message_that_is_attached_is_not_encoded() {
    let service = Service::start().await;
    let mut mail = simple();
    let attached = "RnJvbTogYUBleGFtcGxlLm9yZw0KU3ViamVjdDogaW5uZXINCg0KaGkNCg==";
    mail["attachments"] = json!([
        {"filename": "a.eml", "content_type": "message/rfc822", "content": attached}
    ]);
    let id = service.accept(&mail).await;
    let raw = service
        .call("GET", &format!("/v1/mails/{id}/raw"))
        .await
        .text();
    assert!(raw.contains("\r\nSubject: inner\r\n\r\nhi\r\n"), "{raw}");
    let part = raw.split("message/rfc822").nth(1).unwrap();
    assert!(!part.contains("base64"), "RFC 2046 §5.2.1: {raw}");
}

#[tokio::test]
async fn what_programs_leave_empty_says_nothing() {
    let service = Service::start().await;
    let mut mail = simple();
    mail["cc"] = json!("");
    mail["bcc"] = json!("");
    mail["html"] = json!("");

    let id = service.accept(&mail).await;
    let raw = service.call("GET", &format!("/v1/mails/{id}/raw")).await;
    assert!(
        raw.text().contains("Content-Type: text/plain"),
        "{}",
        raw.text()
    );

    assert!(!raw.text().contains("multipart"), "{}", raw.text());
}

#[tokio::test]
async fn a_type_that_is_none_or_stands_twice_is_refused_by_name() {
    let service = Service::start().await;
    for kind in ["application/", "/pdf", "application/ ; name=x"] {
        let mut mail = simple();
        mail["attachments"] = json!([{"filename": "a", "content_type": kind, "content": "aGk="}]);
        let answer = service.json("POST", "/v1/mails", &mail).await;
        assert_eq!(answer.status, 422, "{kind}: {}", answer.text());
        assert_eq!(answer.pointers(), ["/attachments/0/content_type"]);
    }

    let twice =
        "From: shop@example.com\r\nContent-Type: text/plain\r\nContent-Type: text/html\r\n\r\nhi";
    let path = "/v1/mails?from=shop@example.com&to=ada@example.org";

    let kind = [("content-type", "message/rfc822")];
    let answer = service.send("POST", path, &kind, twice).await;
    assert_eq!(answer.status, 422, "{}", answer.text());
}

#[tokio::test]
async fn what_is_no_name_is_not_taken_for_what_is_no_json() {
    let service = Service::start().await;
    for (field, value) in [
        ("priority", json!(1)),
        ("priority", json!(["bulk"])),
        ("guarantee", json!(true)),
    ] {
        let mut mail = simple();
        mail[field] = value;
        let answer = service.json("POST", "/v1/mails", &mail).await;
        assert_eq!(answer.status, 422, "{}", answer.text());
        assert_eq!(answer.pointers(), [format!("/{field}")]);
    }

    let mut mail = simple();
    mail["priority"] = json!(null);
    let id = service.accept(&mail).await;
    let record = service.call("GET", &format!("/v1/mails/{id}")).await;
    assert_eq!(record.value()["priority"], "default");
}

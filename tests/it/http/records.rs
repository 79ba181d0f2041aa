//! Looking at mail, and what can still be done to it.

use postrider::ingress::http::Limits;
use postrider::{Clock, minutes};
use serde_json::{Value, json};

use crate::http::service::Service;

const NOBODY: &str = "0199c0de-0000-7000-8000-000000000000";

fn mail_to(recipient: &str) -> Value {
    json!({"from": "shop@example.com", "to": recipient, "subject": "s", "text": "t"})
}

/// A service that sends nothing, with mails that are dead because their time was over.
async fn with_dead(recipients: &[&str]) -> (Service, Vec<String>) {
    let clock = Clock::fake();
    let its = clock.clone();
    let service = Service::with(Vec::new(), Limits::default(), |builder| builder.clock(its)).await;
    service.dispatcher.pause("capture").await.unwrap();

    let mut ids = Vec::new();
    for recipient in recipients {
        let mut mail = mail_to(recipient);
        mail["expires_in"] = json!("1m");
        ids.push(service.accept(&mail).await);
    }

    clock.advance(minutes(2));
    for id in &ids {
        service.dispatcher.wait(id.parse().unwrap()).await.unwrap();
    }
    (service, ids)
}

#[tokio::test]
async fn a_list_is_read_page_by_page() {
    let service = Service::start().await;
    service.dispatcher.pause("capture").await.unwrap();
    let mut ids = Vec::new();
    for n in 0..7 {
        let mut mail = mail_to(&format!("user{n}@example.org"));
        mail["tags"] = json!([if n % 2 == 0 { "even" } else { "odd" }]);
        ids.push(service.accept(&mail).await);
    }

    let mut seen = Vec::new();
    let mut path = "/v1/mails?limit=3".to_owned();
    loop {
        let page = service.call("GET", &path).await;
        assert_eq!(page.status, 200, "{}", page.text());
        let page = page.value();
        let mails = page["mails"].as_array().unwrap();
        assert!(mails.len() <= 3);
        seen.extend(
            mails
                .iter()
                .map(|mail| mail["id"].as_str().unwrap().to_owned()),
        );
        match page["next"].as_str() {
            Some(cursor) => path = format!("/v1/mails?limit=3&cursor={}", encoded(cursor)),
            None => break,
        }
    }

    ids.reverse();
    assert_eq!(seen, ids, "the newest first, each once");

    let count = async |query: &str| {
        let page = service.call("GET", &format!("/v1/mails?{query}")).await;
        assert_eq!(page.status, 200, "{}", page.text());
        page.value()["mails"].as_array().unwrap().len()
    };

    assert_eq!(count("tag=even").await, 4);
    assert_eq!(count("recipient=user3@example.org").await, 1);
    assert_eq!(count("state=queued&tag=odd").await, 3);
    assert_eq!(count("state=dead").await, 0);
    assert_eq!(count("priority=bulk").await, 0);
    assert_eq!(count("until=2020-01-01T00:00:00Z").await, 0);

    let answer = service
        .call("GET", "/v1/mails?state=lost&limit=many&cursor=&order=up")
        .await;
    assert_eq!(answer.pointers(), ["/state", "/limit", "/order"]);

    assert_eq!(
        service
            .call("GET", "/v1/mails?cursor=nonsense")
            .await
            .pointers(),
        ["/cursor"]
    );
}

fn encoded(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

#[tokio::test]
async fn a_mail_that_waits_can_be_cancelled_and_one_that_is_gone_cannot() {
    let service = Service::start().await;
    let mut mail = mail_to("ada@example.org");
    mail["delay"] = json!("1h");

    let id = service.accept(&mail).await;
    let cancelled = service
        .call("POST", &format!("/v1/mails/{id}/cancel"))
        .await;
    assert_eq!(cancelled.status, 200, "{}", cancelled.text());
    assert_eq!(cancelled.value()["state"], "cancelled");

    let again = service
        .call("POST", &format!("/v1/mails/{id}/cancel"))
        .await;
    assert_eq!(
        (again.status.as_u16(), &again.value()["state"]),
        (200, &json!("cancelled")),
        "asked twice, done once"
    );

    let id = service.accept(&mail_to("ada@example.org")).await;
    service.dispatcher.wait(id.parse().unwrap()).await.unwrap();
    service
        .call("POST", &format!("/v1/mails/{id}/cancel"))
        .await
        .problem(409, "too-late");

    service
        .call("POST", &format!("/v1/mails/{id}/retry"))
        .await
        .problem(409, "too-late");
}

#[tokio::test]
async fn a_dead_mail_can_be_retried() {
    let (service, ids) = with_dead(&["ada@example.org"]).await;
    let path = format!("/v1/mails/{}", ids[0]);
    let record = service.call("GET", &path).await.value();
    assert_eq!(
        (&record["state"], &record["deliveries"][0]["reason"]),
        (&json!("dead"), &json!("expired"))
    );

    let retried = service.call("POST", &format!("{path}/retry")).await;
    assert_eq!(retried.status, 200, "{}", retried.text());
    assert_eq!(retried.value()["state"], "queued");
    assert_eq!(
        service
            .call("POST", "/v1/relays/capture/resume")
            .await
            .status,
        200
    );

    service
        .dispatcher
        .wait(ids[0].parse().unwrap())
        .await
        .unwrap();

    assert_eq!(
        service.call("GET", &path).await.value()["state"],
        "delivered"
    );
}

#[tokio::test]
async fn dead_letters_are_counted_retried_and_deleted_by_filter() {
    let (service, _) = with_dead(&["ada@example.org", "bob@example.org", "bob@example.org"]).await;
    let dead = async || {
        service.call("GET", "/v1/mails?state=dead").await.value()["mails"]
            .as_array()
            .unwrap()
            .len()
    };

    let answer = service
        .call(
            "POST",
            "/v1/dead/retry?recipient=bob@example.org&dry_run=true",
        )
        .await;

    assert_eq!(answer.value(), json!({"count": 2, "dry_run": true}));
    assert_eq!(dead().await, 3);

    let answer = service
        .call("POST", "/v1/dead/retry?recipient=ada@example.org")
        .await;
    assert_eq!(answer.value(), json!({"count": 1, "dry_run": false}));
    assert_eq!(dead().await, 2);

    for (method, path) in [("POST", "/v1/dead/retry"), ("DELETE", "/v1/dead")] {
        // Who writes his filters there does not mean all.
        let refused = service
            .send(method, path, &[], r#"{"recipient": "nobody@example.org"}"#)
            .await;
        assert!(
            refused
                .problem(422, "invalid")
                .to_string()
                .contains("in the query")
        );
    }

    let answer = service
        .call("DELETE", "/v1/dead?state=dead&dry_run=true")
        .await;
    assert_eq!(answer.value(), json!({"count": 2, "dry_run": true}));

    let answer = service.call("DELETE", "/v1/dead").await;
    assert_eq!(answer.value(), json!({"count": 2, "dry_run": false}));
    assert_eq!(dead().await, 0);

    assert_eq!(
        service
            .call("DELETE", "/v1/dead?recipent=bob@example.org")
            .await
            .pointers(),
        ["/recipent"]
    );

    assert_eq!(
        service
            .call("DELETE", "/v1/dead?state=delivered")
            .await
            .pointers(),
        ["/state"]
    );
}

#[tokio::test]
async fn a_mail_is_named_by_its_key_its_message_id_or_the_beginning_of_its_id_and_says_why_it_waits()
 {
    let service = Service::start().await;
    service.dispatcher.pause("capture").await.unwrap();
    let mut mail = mail_to("ada@example.org");
    mail["idempotency_key"] = json!("order/1");

    let id = service.accept(&mail).await;
    let other = service.accept(&mail_to("bob@example.org")).await;

    let record = service.call("GET", "/v1/mails/order%2F1").await.value();
    assert_eq!(record["id"], id.as_str());
    let waits = &record["deliveries"][0]["waits"];
    assert_eq!(waits["because"], "paused", "{record}");
    assert_eq!(waits["relay"], "capture");

    let page = service.call("GET", "/v1/mails?state=queued").await.value();
    assert_eq!(page["mails"][0]["deliveries"][0]["waits"], *waits);

    let message_id = record["message_id"].as_str().unwrap();
    for name in [&encoded(message_id), &id[..35]] {
        let found = service.call("GET", &format!("/v1/mails/{name}")).await;
        assert_eq!(found.value()["id"], id.as_str(), "{name}");
    }

    let both = service
        .call("POST", "/v1/mails/shop%40example.com/cancel")
        .await;
    both.problem(409, "ambiguous");

    assert!(both.text().contains(&id) && both.text().contains(&other));
    let cancelled = service.call("POST", "/v1/mails/order%2F1/cancel").await;
    assert_eq!(cancelled.value()["state"], "cancelled");
    assert_eq!(cancelled.value()["deliveries"][0]["waits"], Value::Null);
}

#[tokio::test]
async fn what_is_not_there_is_a_problem_too() {
    let service = Service::start().await;
    for (method, path) in [
        ("GET", format!("/v1/mails/{NOBODY}")),
        ("GET", format!("/v1/mails/{NOBODY}/raw")),
        ("POST", format!("/v1/mails/{NOBODY}/cancel")),
        ("POST", format!("/v1/mails/{NOBODY}/retry")),
        ("GET", "/v1/mails/nonsense".to_owned()),
        ("POST", "/v1/mails/nobody%40example.com/cancel".to_owned()),
        ("GET", "/v1/mails/%ff%fe".to_owned()),
        ("GET", "/v1/mails/".to_owned()),
        ("GET", "/v2/mails".to_owned()),
        ("POST", "/v1/relays/none/pause".to_owned()),
    ] {
        let answer = service.call(method, &path).await;
        answer.problem(404, "not-found");
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
    }

    for (method, path, allow) in [
        ("PUT", "/v1/mails", "POST,GET,HEAD,DELETE"),
        ("DELETE", "/v1/stats", "GET,HEAD"),
        ("GET", "/v1/dead", "DELETE"),
        ("TRACE", "/health/live", "GET,HEAD"),
    ] {
        let answer = service.call(method, path).await;
        answer.problem(405, "method-not-allowed");
        let mut allowed: Vec<&str> = answer.header("allow").split(',').map(str::trim).collect();
        let mut expected: Vec<&str> = allow.split(',').collect();
        allowed.sort_unstable();
        expected.sort_unstable();
        assert_eq!(allowed, expected, "{method} {path}");
    }
}

#[tokio::test]
async fn a_message_that_is_not_kept_any_more_is_gone_and_its_record_is_not() {
    let service = Service::with(Vec::new(), Limits::default(), |builder| {
        builder.keep_bodies(std::time::Duration::ZERO)
    })
    .await;

    let id = service.accept(&mail_to("ada@example.org")).await;
    service.dispatcher.wait(id.parse().unwrap()).await.unwrap();
    let record = service.call("GET", &format!("/v1/mails/{id}")).await;
    assert_eq!(record.status, 200);
    assert_eq!(record.value()["state"], "delivered");

    let raw = service.call("GET", &format!("/v1/mails/{id}/raw")).await;
    let problem = raw.value();
    assert_eq!(raw.status, 410);
    assert_eq!(problem["status"], 410);
    assert_eq!(problem["type"], "urn:postrider:problem:gone");

    assert!(
        problem["detail"]
            .as_str()
            .unwrap()
            .contains("spool.keep_bodies")
    );
}

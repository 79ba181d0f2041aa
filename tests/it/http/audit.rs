//! Who did what, as HTTP tells it.

use postrider::ingress::http::{Limits, Scope};
use serde_json::{Value, json};

use super::service::{Service, token};
use crate::common::eventually;

const OPS: (&str, &str) = ("authorization", "Bearer ops-secret");

async fn service() -> Service {
    let tokens = vec![
        token("ops", "ops-secret", Scope::Admin),
        token("app", "app-secret", Scope::Send),
    ];
    Service::with(tokens, Limits::default(), |builder| builder).await
}

async fn audit(service: &Service, query: &str) -> Value {
    let path = format!("/v1/audit{query}");
    let answer = service.send("GET", &path, &[OPS], "").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.value()
}

#[tokio::test]
async fn the_token_that_did_it_is_recorded_with_the_address_it_came_from() {
    let service = service().await;
    let post = async |path: &str| service.send("POST", path, &[OPS], "").await.status;
    assert_eq!(post("/v1/relays/capture/pause").await, 200);

    let mail = json!({"from": "a@example.org", "to": "b@example.org", "text": "t"});
    let accepted = service
        .send(
            "POST",
            "/v1/mails",
            &[OPS, ("content-type", "application/json")],
            mail.to_string(),
        )
        .await;

    let id = accepted.value()["id"].as_str().unwrap().to_owned();
    assert_eq!(post(&format!("/v1/mails/{id}/cancel")).await, 200);
    assert_eq!(post(&format!("/v1/mails/{id}/retry")).await, 200);
    assert_eq!(post("/v1/dead/retry?tag=otp").await, 200);
    assert_eq!(post("/v1/relays/capture/resume").await, 200);

    let all = audit(&service, "").await;
    let entries = all["entries"].as_array().unwrap();
    let acts: Vec<_> = entries.iter().map(|entry| &entry["act"]).collect();
    assert_eq!(acts, ["resume", "retry", "retry", "cancel", "pause"]);

    for entry in entries {
        assert_eq!(
            (&entry["who"], &entry["from"]),
            (&json!("token:ops"), &json!("127.0.0.1")),
            "{entry}"
        );
        assert!(entry["at"].is_string() && entry["seq"].is_u64(), "{entry}");
    }

    assert_eq!(
        (&entries[1]["count"], &entries[1]["filter"]),
        (&json!(0), &json!("state:dead tag:otp"))
    );

    assert_eq!(
        (&entries[3]["count"], &entries[3]["mail"]),
        (&json!(1), &json!(id))
    );

    let page = audit(&service, "?act=retry&limit=1").await;
    assert_eq!(page["entries"].as_array().unwrap().len(), 1);

    let next = page["next"].as_str().unwrap();
    let page = audit(&service, &format!("?act=retry&limit=1&cursor={next}")).await;
    assert_eq!(page["entries"][0]["mail"], id);
    assert_eq!(audit(&service, "?who=app").await, json!({"entries": []}));
}

#[tokio::test]
async fn a_token_that_is_none_is_reported_and_counted() {
    let service = service().await;
    let wrong = ("authorization", "Bearer ops-secreT");
    for _ in 0..3 {
        let answer = service.send("GET", "/v1/stats", &[wrong], "").await;
        assert_eq!(answer.status, 401);
    }

    let metrics = service.dispatcher.metrics().await.unwrap();
    assert!(
        metrics.contains("postrider_refusals_total{door=\"http\",reason=\"login\"} 3\n"),
        "{metrics}"
    );

    let told = async || audit(&service, "?act=login_refused&limit=1000").await;
    eventually("all are told", async || {
        told().await["entries"].as_array().unwrap().len() == 3
    })
    .await;
    let told = told().await;
    let told = told["entries"].as_array().unwrap();
    assert_eq!(
        (&told[0]["who"], &told[0]["from"]),
        (&Value::Null, &json!("127.0.0.1"))
    );
}

#[tokio::test]
async fn what_cannot_be_asked_is_said_and_who_may_not_ask_is_refused() {
    let service = service().await;

    let bad = "/v1/audit?limit=0&since=yesterday&mail=x&cursor=y&order=up";
    let answer = service.send("GET", bad, &[OPS], "").await;
    let problem = answer.problem(422, "invalid");
    let pointers: Vec<_> = problem["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|error| error["pointer"].as_str().unwrap())
        .collect();

    for pointer in ["/limit", "/since", "/mail", "/cursor", "/order"] {
        assert!(pointers.contains(&pointer), "{problem}");
    }

    let app = ("authorization", "Bearer app-secret");
    let refused = service.send("GET", "/v1/audit", &[app], "").await;
    refused.problem(403, "forbidden");
}

#[tokio::test]
async fn why_a_relay_is_paused_is_recorded_where_it_was_said() {
    let service = service().await;
    let headers = [OPS, ("content-type", "application/json")];
    let path = "/v1/relays/capture/pause";
    let pause = async |body: &str| {
        let answer = service.send("POST", path, &headers, body.to_owned()).await;
        answer.status
    };
    assert_eq!(pause(r#"{"reason": " the provider moves "}"#).await, 200);
    assert_eq!(pause("{}").await, 200);

    let all = audit(&service, "?act=pause").await;
    let entries = all["entries"].as_array().unwrap();
    let reasons: Vec<_> = entries.iter().map(|entry| &entry["reason"]).collect();
    assert_eq!(reasons, [&Value::Null, &json!("the provider moves")]);

    let long = json!({ "reason": "x".repeat(401) }).to_string();
    for (body, status) in [(long.as_str(), 422), (r#"{"why": "x"}"#, 422), ("{", 400)] {
        assert_eq!(pause(body).await, status, "{body}");
    }
}

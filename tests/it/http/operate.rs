//! Relays, numbers, health, and the description of it all.

use postrider::Drain;
use serde_json::{Value, json};

use crate::http::service::Service;

#[tokio::test]
async fn a_relay_is_paused_and_resumed() {
    let service = Service::start().await;
    let relays = service.call("GET", "/v1/relays").await.value();
    assert_eq!(
        (&relays["relays"][0]["name"], &relays["relays"][0]["state"]),
        (&json!("capture"), &json!("up"))
    );

    let paused = service.call("POST", "/v1/relays/capture/pause").await;
    assert_eq!(paused.status, 200, "{}", paused.text());
    assert_eq!(
        (&paused.value()["name"], &paused.value()["state"]),
        (&json!("capture"), &json!("paused"))
    );

    let mail = json!({"from": "a@example.org", "to": "b@example.org", "text": "t"});
    let id = service.accept(&mail).await;
    assert_eq!(
        service
            .call("GET", &format!("/v1/mails/{id}"))
            .await
            .value()["state"],
        "queued"
    );

    assert_eq!(service.capture.captured().len(), 0);
    assert_eq!(
        service
            .call("POST", "/v1/relays/capture/resume")
            .await
            .value()["state"],
        "up"
    );

    service.dispatcher.wait(id.parse().unwrap()).await.unwrap();
    assert_eq!(service.capture.captured().len(), 1);

    let stats = service.call("GET", "/v1/stats").await.value();
    assert_eq!(
        (&stats["accepted"], &stats["delivered"]),
        (&json!(1), &json!(1))
    );
}

#[tokio::test]
async fn what_waits_for_a_relay_is_counted_by_domain_and_what_it_took_as_a_rate() {
    let service = Service::start().await;
    service.call("POST", "/v1/relays/capture/pause").await;
    for to in ["ada@slow.example", "bob@SLOW.example", "eve@example.org"] {
        let mail = json!({"from": "a@example.org", "to": to, "text": "t"});
        service.accept(&mail).await;
    }
    let later =
        json!({"from": "a@example.org", "to": "ada@slow.example", "text": "t", "delay": "1h"});
    service.accept(&later).await;

    let waiting = service.call("GET", "/v1/relays/capture/domains").await;
    let waiting = waiting.value();
    assert_eq!(
        (&waiting["complete"], &waiting["others"]),
        (&json!(true), &json!(0))
    );
    let domains = waiting["domains"].as_array().unwrap();
    let told: Vec<_> = domains
        .iter()
        .map(|one| {
            (
                one["domain"].as_str().unwrap(),
                one["count"].as_u64(),
                one["scheduled"].as_u64(),
            )
        })
        .collect();
    assert_eq!(
        told,
        [
            ("slow.example", Some(3), Some(1)),
            ("example.org", Some(1), Some(0))
        ]
    );

    let relays = service.call("GET", "/v1/relays").await.value();
    assert_eq!(relays["relays"][0]["backlog"], 4, "all of it is told");
    let q = domains[0]["q"].as_str().unwrap();
    let q = q.replace(' ', "+").replace('"', "%22");
    let found = service.call("GET", &format!("/v1/mails/count?q={q}")).await;
    assert_eq!(found.value()["count"], 3, "its search finds them");

    let unknown = service.call("GET", "/v1/relays/none/domains").await;
    assert_eq!(unknown.status, 404);

    // What it took lately shows as soon as it is counted.
    service.call("POST", "/v1/relays/capture/resume").await;
    let mut recent = Value::Null;
    for _ in 0..400 {
        let relays = service.call("GET", "/v1/relays").await.value();
        recent = relays["relays"][0]["recent"].clone();
        if recent["delivered"] == 3 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(25)).await;
    }
    assert_eq!(
        (&recent["delivered"], &recent["dead"]),
        (&json!(3), &json!(0))
    );
    assert!(recent["per_second"].as_f64().unwrap() > 0.0, "{recent}");
    assert!(recent["p50"].as_f64().unwrap() <= recent["p99"].as_f64().unwrap());
}

#[tokio::test]
async fn metrics_are_in_the_format_of_prometheus() {
    let service = Service::start().await;
    service
        .accept(&json!({"from": "a@example.org", "to": "b@example.org", "text": "t"}))
        .await;

    let metrics = service.call("GET", "/metrics").await;
    assert_eq!(metrics.status, 200);
    assert_eq!(
        metrics.header("content-type"),
        "application/openmetrics-text; version=1.0.0; charset=utf-8"
    );

    let text = metrics.text();
    assert!(
        text.contains("postrider_mails_accepted_total{door=\"http\",priority=\"default\"} 1"),
        "{text}"
    );

    assert!(text.ends_with("# EOF\n"), "{text}");
}

#[tokio::test]
async fn a_service_that_cannot_accept_is_alive_but_not_ready() {
    let service = Service::start().await;
    assert_eq!(
        service.call("GET", "/health/live").await.value(),
        json!({"status": "live"})
    );

    assert_eq!(
        service.call("GET", "/health/ready").await.value(),
        json!({"status": "ready"})
    );

    service
        .dispatcher
        .shutdown(Drain::within(postrider::seconds(5)))
        .await
        .unwrap();

    assert_eq!(service.call("GET", "/health/live").await.status, 200);
    let ready = service.call("GET", "/health/ready").await;
    ready.problem(503, "unavailable");
    assert!(ready.header("retry-after").parse::<u64>().unwrap() > 0);

    let mail = json!({"from": "a@example.org", "to": "b@example.org", "text": "t"});
    let refused = service.json("POST", "/v1/mails", &mail).await;
    refused.problem(503, "unavailable");
    assert!(refused.headers.contains_key("retry-after"));
}

#[tokio::test]
async fn every_call_is_described_and_every_reference_leads_somewhere() {
    let service = Service::start().await;
    let answer = service.call("GET", "/openapi.json").await;
    assert_eq!(answer.header("content-type"), "application/json");

    let document = answer.value();
    assert!(
        document["openapi"].as_str().unwrap().starts_with("3.1"),
        "{}",
        document["openapi"]
    );

    let described: Vec<String> = document["paths"]
        .as_object()
        .unwrap()
        .iter()
        .flat_map(|(path, item)| {
            item.as_object()
                .unwrap()
                .keys()
                .map(move |method| format!("{} {path}", method.to_uppercase()))
        })
        .collect();

    for call in [
        "POST /v1/mails",
        "POST /v1/mails/batch",
        "GET /v1/mails/{id}",
        "GET /v1/mails",
        "GET /v1/mails/count",
        "GET /v1/mails/export",
        "GET /v1/failures",
        "POST /v1/mails/cancel",
        "POST /v1/mails/retry",
        "DELETE /v1/mails",
        "GET /v1/jobs",
        "GET /v1/jobs/{id}",
        "DELETE /v1/jobs/{id}",
        "GET /v1/session",
        "POST /v1/session",
        "DELETE /v1/session",
        "GET /v1/mails/{id}/raw",
        "POST /v1/mails/{id}/cancel",
        "POST /v1/mails/{id}/retry",
        "POST /v1/dead/retry",
        "DELETE /v1/dead",
        "GET /v1/events",
        "GET /v1/nodes",
        "GET /v1/relays",
        "GET /v1/relays/{name}/domains",
        "POST /v1/relays/{name}/pause",
        "POST /v1/relays/{name}/resume",
        "GET /v1/stats",
        "GET /metrics",
        "GET /health/live",
        "GET /health/ready",
    ] {
        assert!(
            described.iter().any(|d| d == call),
            "{call} is missing in {described:?}"
        );
    }

    let mut open = vec![&document];
    while let Some(value) = open.pop() {
        match value {
            Value::Array(items) => open.extend(items),
            Value::Object(fields) => {
                if let Some(reference) = fields.get("$ref").and_then(Value::as_str) {
                    assert!(
                        document
                            .pointer(reference.trim_start_matches('#'))
                            .is_some(),
                        "{reference} leads nowhere"
                    );
                }
                open.extend(fields.values());
            }
            _ => {}
        }
    }
}

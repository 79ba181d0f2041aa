//! What an end user sees of a mail, with nothing but the address from its receipt.

use postrider::ingress::http::{Limits, Scope, StatusSettings};
use serde_json::{Value, json};

use super::service::{Answer, Service, token};
use crate::common::service::{Service as Process, configuration, configured};
use crate::common::{Act, FakeSmtp, Rule, Step};

async fn service() -> Service {
    let settings = StatusSettings {
        secret: "a secret of some length".to_owned().into(),
        base_url: Some("https://mail.example.com/post/".to_owned()),
    };
    let tokens = vec![token("app", "app-secret", Scope::Send)];
    let with_status = |door: postrider::ingress::http::HttpDoor| door.with_status(&settings);
    Service::behind(tokens, Limits::default(), |builder| builder, with_status).await
}

async fn hand_in(service: &Service, path: &str, body: Value) -> Value {
    let headers = [
        ("content-type", "application/json"),
        ("authorization", "Bearer app-secret"),
    ];
    let answer = service.send("POST", path, &headers, body.to_string()).await;
    assert_eq!(answer.status, 202, "{}", answer.text());
    answer.value()
}

fn mail(to: Value) -> Value {
    json!({"from": "shop@example.com", "to": to, "subject": "Geheimnis", "text": "Geheimnis 4711",
           "tags": ["geheim"], "idempotency_key": to.to_string()})
}

/// The path below the door of what a receipt bears.
fn path(receipt: &Value) -> String {
    let url = receipt["status_url"].as_str().unwrap();
    url.strip_prefix("https://mail.example.com/post")
        .unwrap()
        .to_owned()
}

/// As a page of another site asks for it, through a proxy with a name of its own.
async fn from_elsewhere(service: &Service, path: &str) -> Answer {
    let headers = [
        ("origin", "https://shop.example"),
        ("sec-fetch-site", "cross-site"),
        ("host", "mail.example.com"),
    ];
    service.send("GET", path, &headers, "").await
}

#[tokio::test]
async fn whoever_has_the_address_of_a_receipt_sees_how_far_the_mail_is_and_nothing_else() {
    let service = service().await;
    service.dispatcher.pause("capture").await.unwrap();
    let receipt = hand_in(&service, "/v1/mails", mail(json!("ada@example.org"))).await;

    let again = hand_in(&service, "/v1/mails", mail(json!("ada@example.org"))).await;
    assert_eq!(again["status_url"], receipt["status_url"]);
    let path = path(&receipt);
    assert!(!path.contains(receipt["id"].as_str().unwrap()));

    let pending = from_elsewhere(&service, &path).await;
    assert_eq!(pending.status, 200);
    let status = pending.value();
    assert_eq!(status["status"], "pending");

    let mut names: Vec<&String> = status.as_object().unwrap().keys().collect();
    names.sort();
    assert_eq!(names, ["created_at", "retry_count", "sent_at", "status"]);
    assert_eq!(
        (&status["sent_at"], &status["retry_count"]),
        (&json!(null), &json!(0))
    );

    // Followed until it ends, and then the stream ends as well.
    let events = format!("{path}/events");
    let (code, _, body) = service.open("GET", &events, &[], "").await;
    assert_eq!(code, 200);
    service.dispatcher.resume("capture").await.unwrap();

    let whole = http_body_util::BodyExt::collect(body)
        .await
        .unwrap()
        .to_bytes();

    let told = String::from_utf8_lossy(&whole).into_owned();
    let told: Vec<Value> = told
        .lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .map(|data| serde_json::from_str(data).unwrap())
        .collect();

    assert_eq!(told.first().unwrap()["status"], "pending");
    assert_eq!(told.last().unwrap()["status"], "sent");

    let sent = from_elsewhere(&service, &path).await;
    assert_eq!(sent.value(), *told.last().unwrap());
    assert!(sent.value()["sent_at"].is_string());
    for answer in [&pending, &sent] {
        for secret in [
            "ada",
            "example.org",
            "Geheimnis",
            "geheim",
            "capture",
            "250",
        ] {
            assert!(!answer.text().contains(secret), "{}", answer.text());
        }
    }

    // A browser that comes back learns that there is nothing more.
    let seen = [("last-event-id", "sent-0")];
    assert_eq!(service.send("GET", &events, &seen, "").await.status, 204);
}

#[tokio::test]
async fn a_mail_that_did_not_reach_everybody_has_failed() {
    let service = service().await;
    service.dispatcher.pause("capture").await.unwrap();

    let both = json!({"mails": [mail(json!("ada@example.org")), mail(json!("bob@example.org"))]});
    let receipts = hand_in(&service, "/v1/mails/batch", both).await["results"].clone();
    assert_ne!(receipts[0]["status_url"], receipts[1]["status_url"]);

    let id = receipts[0]["id"].as_str().unwrap().parse().unwrap();
    service.dispatcher.cancel(id).await.unwrap();
    let failed = from_elsewhere(&service, &path(&receipts[0])).await.value();
    assert_eq!(
        (&failed["status"], &failed["sent_at"]),
        (&json!("failed"), &json!(null))
    );

    let pending = from_elsewhere(&service, &path(&receipts[1])).await.value();
    assert_eq!(pending["status"], "pending");
}

#[tokio::test]
async fn an_address_that_was_not_given_out_is_answered_as_one_that_is_not_kept_any_more() {
    let service = service().await;

    let receipt = hand_in(&service, "/v1/mails", mail(json!("ada@example.org"))).await;
    let path = path(&receipt);
    let mut guessed = path.clone();
    let place = path.len() - 4..path.len() - 3;
    let other = if &path[place.clone()] == "_" {
        "-"
    } else {
        "_"
    };
    guessed.replace_range(place, other);

    let id = receipt["id"].as_str().unwrap();
    let elsewhere = format!("/status/{id}");
    let mut answers = Vec::new();
    for none in [
        guessed.as_str(),
        "/status/x",
        elsewhere.as_str(),
        "/status/%ff",
    ] {
        let answer = from_elsewhere(&service, none).await;
        answer.problem(404, "not-found");
        assert_eq!(answer.header("access-control-allow-origin"), "*");
        let events = from_elsewhere(&service, &format!("{none}/events")).await;
        events.problem(404, "not-found");
        answers.push(answer.text());
    }

    service.dispatcher.wait(id.parse().unwrap()).await.unwrap();
    let all = postrider::Query::default();
    let jobs = service.dispatcher.jobs();
    let job = jobs.start(postrider::JobRequest {
        act: postrider::Act::Purge,
        query: all,
        limit: None,
        per_minute: None,
        search: String::new(),
    });

    let job = job.unwrap().id;
    crate::common::engine::eventually("the mail is purged", async || {
        jobs.get(job).unwrap().state != postrider::JobState::Running
    })
    .await;
    answers.push(from_elsewhere(&service, &path).await.text());

    assert!(
        answers.iter().all(|answer| *answer == answers[0]),
        "{answers:?}"
    );
}

#[tokio::test]
async fn pages_of_other_origins_read_the_status_and_nothing_else() {
    let service = service().await;
    let receipt = hand_in(&service, "/v1/mails", mail(json!("ada@example.org"))).await;
    let status = path(&receipt);
    for open in [status.as_str(), "/status.js"] {
        let answer = from_elsewhere(&service, open).await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("access-control-allow-origin"), "*");
        assert!(
            !answer
                .headers
                .contains_key("access-control-allow-credentials")
        );
        let asked = service
            .send("OPTIONS", open, &[("origin", "https://shop.example")], "")
            .await;
        assert_eq!(asked.status, 204);
    }

    for closed in [
        "/",
        "/v1/mails",
        "/v1/stats",
        "/openapi.json",
        "/health/live",
        "/metrics",
    ] {
        let answer = from_elsewhere(&service, closed).await;
        let allowed = answer.headers.get("access-control-allow-origin");
        assert_eq!(allowed, None, "{closed}");
    }

    for method in ["POST", "DELETE", "PUT"] {
        let answer = service.send(method, &status, &[], "").await;
        assert!(matches!(answer.status.as_u16(), 401 | 405), "{method}");
    }
}

#[tokio::test]
async fn without_its_section_no_receipt_bears_an_address_and_none_is_answered() {
    let service = Service::start().await;
    let answer = service
        .json("POST", "/v1/mails", &mail(json!("ada@example.org")))
        .await;
    assert_eq!(answer.value().get("status_url"), None);
    for path in ["/status/x", "/status/x/events", "/status.js"] {
        service.call("GET", path).await.problem(404, "not-found");
    }
}

/// The whole service, before a relay that wants to be asked twice, in another process after a
/// restart.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_holds_over_a_restart_and_counts_the_tries() {
    let relay = FakeSmtp::start().await;
    let later = Act::reply(451, "4.7.1 greylisted, ada@example.org");
    relay.rule(Rule::at(Step::Rcpt).first(1).act(later));

    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("status"), "a secret of some length\n").unwrap();
    let more = "[retry]\nschedule = [\"2s\"]\njitter = \"none\"\n\
                [status]\nenabled = true\nsecret_file = \"status\"\n";
    let config = configuration(&dir.path().join("spool"), &relay.url(), more);
    let mut service = Process::start(configured(dir.path(), &config));
    let receipt = service.hand_in("ada@example.org", "t").json();
    let url = receipt["status_url"].as_str().unwrap().to_owned();
    let path = url
        .strip_prefix(&format!("http://{}", service.http))
        .unwrap()
        .to_owned();

    service.become_all(&[receipt["id"].as_str().unwrap().to_owned()], "deferred");
    let status = service.get(&path).json();
    assert_eq!(
        (&status["status"], &status["retry_count"]),
        (&json!("pending"), &json!(1))
    );
    assert!(service.stop().success());

    let service = Process::start(configured(dir.path(), &config));
    service.become_all(&[receipt["id"].as_str().unwrap().to_owned()], "delivered");
    let status = service.get(&path).json();
    assert_eq!(
        (&status["status"], &status["retry_count"]),
        (&json!("sent"), &json!(1))
    );

    // What is set can be seen by an administrator, without what is secret.
    let told = service.get("/v1/configuration").json();
    assert_eq!(told["configuration"]["retry"]["schedule"], json!(["2s"]));
    assert_eq!(told["configuration"]["status"]["secret_file"], "status");
    for public in [service.log(), told.to_string()] {
        assert!(!public.contains("a secret of some length"), "{public}");
    }
}

//! What each of those who submit mail may use up.

use std::time::Duration;

use postrider::ingress::http::{Limits, Scope, Token};
use postrider::{Builder, Clock, Quota, Submitter};
use serde_json::{Value, json};

use crate::http::service::{Answer, Service};

/// Two tenants, of whom `app` has this quota.
async fn tenants(quota: Quota, configure: impl FnOnce(Builder) -> Builder) -> Service {
    let tokens = ["app", "shop"].map(|name| Token {
        name: name.into(),
        secret: format!("{name}-secret").into(),
        scope: Scope::Send,
    });
    let service = Service::with(tokens.to_vec(), Limits::default(), configure).await;
    service.dispatcher.set_quotas([
        (Submitter::token("app"), quota),
        (Submitter::token("shop"), Quota::default()),
    ]);
    service
}

fn mail(recipients: usize) -> Value {
    let to: Vec<String> = (0..recipients)
        .map(|n| format!("r{n}@example.org"))
        .collect();
    json!({"from": "app@example.com", "to": to, "text": "t", "delay": "1h"})
}

impl Service {
    async fn hand_in(&self, who: &str, mail: &Value) -> Answer {
        let bearer = format!("Bearer {who}-secret");
        let headers = [
            ("content-type", "application/json"),
            ("authorization", &bearer),
        ];
        let headers = headers.map(|(name, value)| (name, value as &str));
        self.send("POST", "/v1/mails", &headers, mail.to_string())
            .await
    }
}

fn seconds_of(refused: &Answer) -> u64 {
    let problem = refused.problem(429, "quota");
    let detail = problem["detail"].as_str().unwrap();
    assert!(
        detail.contains("token:app") && detail.contains("again in"),
        "{detail}"
    );
    refused.header("retry-after").parse().unwrap()
}

#[tokio::test]
async fn beyond_a_rate_mail_is_refused_until_the_time_that_is_said() {
    let quota = Quota {
        rate: Some("2/m".parse().unwrap()),
        ..Quota::default()
    };

    let clock = Clock::fake();
    let service = tenants(quota, |builder| builder.clock(clock.clone())).await;
    for _ in 0..2 {
        assert_eq!(service.hand_in("app", &mail(1)).await.status, 202);
    }

    let wait = seconds_of(&service.hand_in("app", &mail(1)).await);
    assert!((1..=30).contains(&wait), "{wait}");
    assert_eq!(service.hand_in("shop", &mail(1)).await.status, 202);
    clock.advance(Duration::from_secs(wait));

    assert_eq!(service.hand_in("app", &mail(1)).await.status, 202);
    seconds_of(&service.hand_in("app", &mail(1)).await);

    let metrics = service.dispatcher.metrics().await.unwrap();
    let counted = "postrider_quota_refusals_total{who=\"token:app\",limit=\"rate\"} 2";
    assert!(metrics.contains(counted), "{metrics}");
}

#[tokio::test]
async fn what_one_has_pending_and_hands_in_on_a_day_is_bounded() {
    let quota = Quota {
        max_pending: Some(3),
        max_per_day: Some(5),
        ..Quota::default()
    };

    let clock = Clock::fake();
    let service = tenants(quota, |builder| builder.clock(clock.clone())).await;
    let three = service.hand_in("app", &mail(3)).await;
    let three = three.value()["id"].as_str().unwrap().parse().unwrap();

    let full = service.hand_in("app", &mail(1)).await;
    seconds_of(&full);
    assert!(full.text().contains("max_pending"), "{}", full.text());
    assert_eq!(service.hand_in("shop", &mail(9)).await.status, 202);

    service.dispatcher.cancel(three).await.unwrap();
    assert_eq!(service.hand_in("app", &mail(2)).await.status, 202);
    let wait = {
        let refused = service.hand_in("app", &mail(1)).await;
        assert!(refused.text().contains("max_per_day"), "{}", refused.text());
        seconds_of(&refused)
    };

    assert!(wait <= 86_400, "until midnight in UTC, {wait}");
    clock.advance(Duration::from_secs(wait));
    assert_eq!(service.hand_in("app", &mail(1)).await.status, 202);
}

#[tokio::test]
async fn each_mail_of_a_batch_counts() {
    let quota = Quota {
        max_pending: Some(2),
        ..Quota::default()
    };

    let service = tenants(quota, |builder| builder).await;
    let batch = json!({"mails": [mail(1), mail(1), mail(1)]}).to_string();
    let headers = [
        ("content-type", "application/json"),
        ("authorization", "Bearer app-secret"),
    ];

    let answer = service
        .send("POST", "/v1/mails/batch", &headers, batch)
        .await;
    let results = answer.value()["results"].clone();
    assert_eq!(results[0]["state"], "scheduled");
    assert_eq!(results[1]["state"], "scheduled");

    assert_eq!(results[2]["status"], 429);
}

#[tokio::test]
async fn nobody_fills_the_queue_for_all_and_critical_mail_finds_room() {
    let service = tenants(Quota::default(), |builder| builder.max_pending(100)).await;
    for _ in 0..8 {
        assert_eq!(service.hand_in("app", &mail(10)).await.status, 202);
    }
    seconds_of(&service.hand_in("app", &mail(1)).await);

    assert_eq!(service.hand_in("shop", &mail(20)).await.status, 202);
    service.hand_in("shop", &mail(1)).await.problem(503, "full");

    let mut critical = mail(1);
    critical["priority"] = json!("critical");
    for _ in 0..5 {
        assert_eq!(service.hand_in("shop", &critical).await.status, 202);
    }
    service
        .hand_in("shop", &critical)
        .await
        .problem(503, "full");
}

#[tokio::test]
async fn one_sends_from_the_addresses_alone_that_one_may() {
    let quota = Quota {
        from: vec![
            "app@example.com".parse().unwrap(),
            "example.net".parse().unwrap(),
        ],
        ..Quota::default()
    };

    let service = tenants(quota, |builder| builder).await;
    let from = async |who: &str, change: Value| {
        let mut mail = mail(1);
        let change = change.as_object().unwrap().clone();
        mail.as_object_mut().unwrap().extend(change);
        service.hand_in(who, &mail).await
    };

    for allowed in [
        "app@example.com",
        "App <APP@example.com>",
        "anybody@example.net",
    ] {
        assert_eq!(
            from("app", json!({"from": allowed})).await.status,
            202,
            "{allowed}"
        );
    }

    for foreign in [
        "boss@example.com",
        "app@example.com.evil.example",
        "a@mail.example.net",
    ] {
        let refused = from("app", json!({"from": foreign})).await;
        let problem = refused.problem(403, "sender-refused");
        assert!(
            problem["detail"].as_str().unwrap().contains(foreign),
            "{problem}"
        );
        assert_eq!(problem["errors"][0]["pointer"], "/from");
        assert_eq!(from("shop", json!({"from": foreign})).await.status, 202);
    }

    let sender = json!({"headers": {"Sender": "boss@example.com"}});
    from("app", sender).await.problem(403, "sender-refused");

    // A finished message says it itself, whatever its envelope is.
    for (envelope, author) in [
        ("app@example.com", "boss@example.com"),
        ("boss@example.com", "app@example.com"),
        ("", "boss@example.com"),
        ("app@example.com", "app@example.com, boss@example.com"),
    ] {
        let path = format!("/v1/mails?from={envelope}&to=b@example.org");
        let headers = [
            ("content-type", "message/rfc822"),
            ("authorization", "Bearer app-secret"),
        ];
        let message = format!("From: {author}\r\nSubject: s\r\n\r\nt\r\n");
        let answer = service.send("POST", &path, &headers, message).await;
        answer.problem(403, "sender-refused");
    }
}

#[tokio::test]
async fn mail_is_neither_scheduled_nor_kept_for_ever() {
    let service = tenants(Quota::default(), |builder| builder).await;
    for (change, pointer) in [
        (
            json!({"delay": null, "send_at": "2099-01-01T00:00:00Z"}),
            "/send_at",
        ),
        (json!({"delay": "400d"}), "/delay"),
        (json!({"expires_in": "3000d"}), "/expires_in"),
    ] {
        let mut mail = mail(1);
        mail.as_object_mut()
            .unwrap()
            .extend(change.as_object().unwrap().clone());
        let refused = service.hand_in("app", &mail).await;
        refused.problem(422, "invalid");
        assert_eq!(refused.pointers(), [pointer], "{}", refused.text());
    }

    let open = Service::start().await;
    let far = json!({
        "from": "a@example.com", "to": "b@example.org", "text": "t",
        "send_at": "9999-01-01T00:00:00Z",
    });

    let refused = open.json("POST", "/v1/mails", &far).await;
    refused.problem(422, "invalid");
    assert_eq!(refused.pointers(), ["/send_at"]);
}

#[tokio::test]
async fn who_tries_keys_is_answered_later_and_later() {
    let service = tenants(Quota::default(), |builder| builder).await;
    let mut first = mail(1);
    first["idempotency_key"] = json!("otp-42");
    assert_eq!(service.hand_in("app", &first).await.status, 202);

    let mut guess = first.clone();
    let begun = tokio::time::Instant::now();
    for n in 0..15 {
        guess["text"] = json!(format!("{n}"));
        service
            .hand_in("app", &guess)
            .await
            .problem(422, "key-reused");
    }

    // The first ten are free; then 50 ms, 100 ms, and so on.
    assert!(
        begun.elapsed() >= Duration::from_millis(700),
        "{:?}",
        begun.elapsed()
    );

    let begun = tokio::time::Instant::now();
    assert_eq!(
        service.hand_in("app", &first).await.value()["duplicate"],
        true
    );

    assert!(
        begun.elapsed() < Duration::from_millis(500),
        "who has the mail does not wait"
    );

    let metrics = service.dispatcher.metrics().await.unwrap();
    let counted = "postrider_key_conflicts_total{who=\"token:app\"} 15";
    assert!(metrics.contains(counted), "{metrics}");
}

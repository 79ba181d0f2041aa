//! A provider's relay among the others: its pace, its rests, its breaker, its limits, and what a
//! kill -9 leaves.

use std::collections::BTreeMap;
use std::time::Instant;

use futures::StreamExt;
use postrider::{EventItem, EventKind, Rate};

use super::*;
use crate::common::TestSpool;
#[cfg(target_os = "linux")]
use crate::common::service::{Service, configured};

/// Nothing here takes this long unless it hangs.
const WAIT_LIMIT: Duration = Duration::from_secs(30);

fn small(to: &str) -> Mail {
    let mail = Mail::builder().from("shop@example.com").to(to);
    mail.subject("x").text("y").build().unwrap()
}

async fn engine_of(relay: Relay) -> Dispatcher {
    Dispatcher::builder()
        .relay(relay)
        .test_spool()
        .start()
        .await
        .unwrap()
}

/// Waits until something of this kind is told.
async fn wait_for_event(engine: &Dispatcher, what: impl Fn(&EventKind) -> bool) {
    let mut events = engine.events_after(0);
    let waiting = async {
        while let Some(item) = events.next().await {
            if matches!(item, EventItem::Event(event) if what(&event.kind)) {
                return;
            }
        }
    };
    tokio::time::timeout(WAIT_LIMIT, waiting)
        .await
        .expect("the event is published");
}

#[tokio::test]
async fn each_providers_way_to_say_how_long_is_understood() {
    let now = std::time::SystemTime::now();
    let epoch = now.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let reset: &'static str = (epoch + 2).to_string().leak();
    let slow = |status, name, value| {
        let headers: &'static [(&str, &str)] = vec![(name, value)].leak();
        Act::Answer(status, headers, "{}".into())
    };

    let said = |status, name: &str| {
        let headers: &'static [(&str, &str)] = &[("retry-after", "1")];
        let body = json!({"__type": name, "name": name, "ErrorCode": 100,
            "error": {"code": name, "errors": [{"reason": name}]}});
        Act::Answer(status, headers, body.to_string())
    };

    for (url, act) in [
        (BREVO, slow(429, "x-sib-ratelimit-reset", "1")),
        (SENDGRID, slow(429, "x-ratelimit-reset", reset)),
        (MAILGUN, slow(429, "retry-after", "1")),
        (SES, said(429, "TooManyRequestsException")),
        (SES, said(400, "ThrottlingException")),
        (GRAPH, said(429, "ApplicationThrottled")),
        (GMAIL, said(403, "userRateLimitExceeded")),
        (GMAIL, said(429, "rateLimitExceeded")),
        (POSTMARK, said(503, "later")),
        (RESEND, said(429, "rate_limit_exceeded")),
    ] {
        let case = format!("{url} {act:?}");
        let server = Provider::new(vec![act, Act::Take]).await;
        let engine = engine_of(relay(url, &server)).await;
        let began = Instant::now();
        let status = settled(&engine, small("ada@example.org")).await;
        assert_eq!(status.state.as_str(), "delivered", "{case}: {status:#?}");
        assert_eq!(status.deliveries[0].attempts.len(), 1, "{case}");
        let took = began.elapsed();
        assert!(took >= Duration::from_millis(900), "{case}: after {took:?}");
        assert!(took < Duration::from_secs(4), "{case}: after {took:?}");
    }
}

#[tokio::test]
async fn a_long_rest_is_the_relays_and_its_mail_takes_the_next_one() {
    for url in ALL {
        let headers: &[(&str, &str)] = match url {
            BREVO => &[("x-sib-ratelimit-reset", "600")],
            _ => &[("retry-after", "600")],
        };
        let slow = Act::Answer(429, headers, "{}".into());
        let server = Provider::new(vec![slow, Act::Take]).await;
        let backup = Capture::new(None);
        let engine = engine(relay(url, &server).connections(2), &backup).await;
        for n in 1..=3 {
            let status = settled(&engine, small("ada@example.org")).await;
            assert_eq!(status.state.as_str(), "delivered", "{url}: {status:#?}");
            assert_eq!(status.deliveries[0].attempts_counted, 0, "{url}");
            assert_eq!(backup.captured().len(), n, "{url}");
        }
        assert_eq!(server.asked().len(), 1, "{url} is left alone");
    }
}

#[tokio::test]
async fn an_account_that_is_shut_opens_the_breaker_and_costs_no_mail_anything() {
    let shut = answer(403, json!({"name": "invalid_api_key", "message": "so"}));
    let server = Provider::new(vec![
        shut.clone(),
        shut.clone(),
        shut.clone(),
        shut,
        Act::Take,
    ])
    .await;
    let engine = engine_of(relay(RESEND, &server)).await;

    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(engine.submit(small("ada@example.org")).await.unwrap().id);
    }
    wait_for_event(&engine, |kind| {
        matches!(kind, EventKind::RelayDown { reason,
        .. } if reason.contains("invalid_api_key"))
    })
    .await;
    for id in &ids {
        let status = engine.status(*id).await.unwrap();
        assert_eq!(status.deliveries[0].attempts_counted, 0, "{status:#?}");
    }

    wait_for_event(&engine, |kind| matches!(kind, EventKind::RelayUp)).await;
    for id in ids {
        let status = tokio::time::timeout(WAIT_LIMIT, engine.wait(id)).await;
        let status = status.unwrap().unwrap();
        assert_eq!(status.state.as_str(), "delivered", "{status:#?}");
    }

    assert_eq!(server.asked().len(), 4 + 5);
}

#[tokio::test]
async fn a_rate_holds_over_an_api_as_over_smtp() {
    let server = Provider::new(vec![Act::Take]).await;
    let relay = relay(SES, &server)
        .connections(4)
        .rate(Rate::per_second(10).unwrap());
    let engine = engine_of(relay).await;
    let began = Instant::now();

    let mut ids = Vec::new();
    for _ in 0..25 {
        ids.push(engine.submit(small("ada@example.org")).await.unwrap().id);
    }
    for id in ids {
        engine.wait(id).await.unwrap();
    }

    let took = began.elapsed();
    assert!(
        took >= Duration::from_millis(1300),
        "25 mails at 10/s took {took:?}"
    );

    assert_eq!(server.asked().len(), 25);
}

/// Who gets a request.
fn recipients(asked: &ReceivedRequest) -> Vec<String> {
    let body = asked.json();
    let lists = [
        body["Destination"]["ToAddresses"].clone(),
        body["to"].clone(),
        body["cc"].clone(),
    ];

    let mut all: Vec<String> = lists
        .iter()
        .flat_map(|list| list.as_array().cloned().unwrap_or_default())
        .map(|one| {
            let text = one["email"].as_str().or(one.as_str()).unwrap().to_owned();
            text.trim_end_matches('>')
                .rsplit('<')
                .next()
                .unwrap()
                .to_owned()
        })
        .collect();

    if let Some(to) = body["To"].as_str() {
        all.extend(to.split(", ").map(str::to_owned));
    }
    all
}

#[tokio::test]
async fn recipients_over_the_limit_become_several_requests_and_each_gets_it_once() {
    for (url, limit) in [(SES, 50), (BREVO, 99), (POSTMARK, 50), (RESEND, 50)] {
        let mut mail = Mail::builder()
            .from("shop@example.com")
            .subject("x")
            .text("y");
        let names: Vec<String> = (0..2 * limit + 7)
            .map(|n| format!("a{n}@example.org"))
            .collect();
        for name in &names {
            mail = mail.to(name.as_str());
        }
        // The second request is refused: those recipients it is, and nobody else.
        let refused = match url {
            SES => answer(
                400,
                json!({"__type": "MessageRejected", "message": "a virus"}),
            ),
            BREVO => answer(400, json!({"code": "invalid_parameter"})),
            POSTMARK => answer(
                422,
                json!({"ErrorCode": 300, "Message": "Invalid email request"}),
            ),
            _ => answer(422, json!({"name": "validation_error"})),
        };
        let server = Provider::new(vec![Act::Take, refused, Act::Take]).await;
        let engine = engine_of(relay(url, &server)).await;
        let status = settled(&engine, mail.build().unwrap()).await;

        let asked = server.asked();
        assert!(asked.len() >= 3, "{url}: {}", asked.len());
        let mut seen: BTreeMap<String, usize> = BTreeMap::new();
        for (at, one) in asked.iter().enumerate() {
            let these = recipients(one);
            assert!(these.len() <= limit, "{url}: {}", these.len());
            for recipient in these {
                seen.insert(recipient, at);
            }
        }
        assert_eq!(seen.len(), names.len(), "{url}");
        for delivery in &status.deliveries {
            let at = seen[delivery.recipient.as_str()];
            let state = if at == 1 { "dead" } else { "delivered" };
            assert_eq!(
                delivery.state.as_str(),
                state,
                "{url} {}",
                delivery.recipient
            );
        }
    }
}

#[tokio::test]
async fn once_the_account_is_shut_the_other_requests_of_a_mail_are_not_made() {
    let shut = answer(400, json!({"__type": "AccountSuspendedException"}));
    let server = Provider::new(vec![Act::Take, shut]).await;
    let backup = Capture::new(None);
    let engine = engine(relay(SES, &server), &backup).await;
    let mut mail = Mail::builder()
        .from("shop@example.com")
        .subject("x")
        .text("y");

    for n in 0..200 {
        mail = mail.to(format!("a{n}@example.org"));
    }

    let status = settled(&engine, mail.build().unwrap()).await;
    assert_eq!(status.state.as_str(), "delivered", "{status:#?}");
    let by_backup: usize = backup
        .captured()
        .iter()
        .map(|mail| mail.recipients.len())
        .sum();

    assert_eq!(by_backup, 150);
    assert!(server.asked().len() <= 2 + 3, "{}", server.asked().len());
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_a_kill_and_arrives_over_an_api() {
    let server = Provider::new(vec![Act::Take]).await;
    let dir = tempfile::tempdir().unwrap();
    let config = server.configuration("postmark", "connections = 4\nrate = \"200/s\"\n");

    let asked = server.clone();
    let work = tokio::task::spawn_blocking(move || {
        let mut ids = Vec::new();
        for round in 0..3 {
            let mut service = Service::start(configured(dir.path(), &config));
            let known = service.hand_in_many(&format!("known{round}-"), 20, "text");
            service.become_all(&known, "delivered");
            ids.extend(known);
            ids.extend(service.hand_in_many(&format!("new{round}-"), 40, "text"));
            service.kill();
        }
        let service = Service::start(configured(dir.path(), &config));
        service.become_all(&ids, "delivered");
        // The provider's id is kept with the attempt, where the record is asked for over HTTP.
        let record = service.get(&format!("/v1/mails/{}", ids[179])).json();
        let attempt = &record["deliveries"][0]["attempts"][0];
        assert_eq!(attempt["text"], "accepted as id-1", "{record}");
        assert_eq!(attempt["relay"], "api", "{record}");
    });
    work.await.unwrap();

    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for one in asked.asked() {
        *seen.entry(one.json()["To"].to_string()).or_default() += 1;
    }

    assert_eq!(seen.len(), 180, "each arrived");
    for (to, count) in seen {
        // What was known to be delivered before a kill is not sent again.
        assert!(
            count == 1 || !to.contains("known"),
            "{to} got it {count} times"
        );
    }
}

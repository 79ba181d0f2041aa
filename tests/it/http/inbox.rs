//! Waiting for captured mail, as people's own end-to-end tests do.

use std::time::{Duration, Instant};

use futures::future::join_all;
use postrider::ingress::http::Limits;
use serde_json::{Value, json};

use super::service::{Answer, Service};

const SHORT_WAIT: Duration = Duration::from_millis(150);

fn mail(to: Value, subject: &str) -> Value {
    json!({"from": "shop@example.com", "to": to, "subject": subject, "text": "t"})
}

async fn latest(service: &Service, query: &str) -> Answer {
    let path = format!("/v1/inbox/latest?{query}");
    service.call("GET", &path).await
}

/// Whoever waits gets the mail that it asked for, however many wait, and each its own.
#[tokio::test]
async fn each_of_several_waiters_gets_what_it_asked_for() {
    let service = Service::start().await;
    let queries = [
        ("to=ada@example.org&wait=30s", "a"),
        ("to=ada@example.org&wait=30s", "a"),
        ("to=ADA&subject=code&wait=30s", "a"),
        ("subject=READY&wait=30s", "b"),
        ("to=carl@example.org&wait=30s", "b"),
        ("to=example.net&subject=your&wait=30s", "c"),
    ];
    let waiting = join_all(queries.map(|(query, _)| latest(&service, query)));
    let coming = async {
        tokio::time::sleep(SHORT_WAIT).await;
        let hand_in = |to, subject| {
            let mail = mail(to, subject);
            let service = &service;
            async move { service.accept(&mail).await }
        };
        // None of them wants these.
        hand_in(json!("ada@example.com.example"), "Your Bill").await;
        hand_in(json!("eve@example.org"), "Your parcel").await;
        let a = hand_in(json!("ada@example.org"), "Your Code").await;
        tokio::time::sleep(SHORT_WAIT).await;
        let both = json!(["ben@example.org", "carl@example.org"]);
        let b = hand_in(both, "Bill ready").await;
        let c = hand_in(json!("dora@example.net"), "Your trip").await;
        [("a", a), ("b", b), ("c", c)]
    };

    let (answers, came) = tokio::join!(waiting, coming);
    for ((query, wanted), answer) in queries.into_iter().zip(answers) {
        let (_, id) = came.iter().find(|(name, _)| *name == wanted).unwrap();
        assert_eq!(answer.value()["id"], **id, "{query}");
    }
}

#[tokio::test]
async fn what_does_not_match_is_waited_past_until_the_time_is_over() {
    let service = Service::start().await;
    let before = service.accept(&mail(json!("ada@example.org"), "One")).await;
    service
        .dispatcher
        .wait(before.parse().unwrap())
        .await
        .unwrap();
    let queries = [
        format!("to=ada@example.org&after={before}&wait=500ms"),
        "to=ada@example.or&wait=500ms".to_owned(),
        "subject=Three&wait=500ms".to_owned(),
        "to=ben@example.org&subject=One&wait=500ms".to_owned(),
    ];

    let begun = Instant::now();
    let waiting = join_all(queries.iter().map(|query| latest(&service, query)));
    let coming = async {
        tokio::time::sleep(SHORT_WAIT).await;
        service.accept(&mail(json!("ben@example.org"), "Two")).await
    };
    let (answers, _) = tokio::join!(waiting, coming);
    for answer in answers {
        answer.problem(404, "not-found");
    }
    assert!(begun.elapsed() >= Duration::from_millis(500));

    for (query, pointer) in [
        ("wait=", "/wait"),
        ("wait=-1s", "/wait"),
        ("wait=1s&wait=2s", "/wait"),
        ("after=yesterday", "/after"),
        ("until=1s", "/until"),
    ] {
        assert_eq!(
            latest(&service, query).await.pointers(),
            [pointer],
            "{query}"
        );
    }
}

/// Clients that go away while they wait leave nothing behind: as many may come again and again.
#[tokio::test]
async fn a_waiter_that_goes_away_leaves_its_place() {
    let limits = Limits {
        connections: 4,
        connections_per_peer: 4,
        ..Limits::default()
    };
    let service = Service::with(Vec::new(), limits, |builder| builder).await;
    for round in 0..3 {
        let waiting = join_all((0..4).map(|_| latest(&service, "to=nobody&wait=60s")));
        let gone = tokio::time::timeout(SHORT_WAIT, waiting).await;
        assert!(gone.is_err(), "round {round}: they did not wait");
        // Their places are free once the service has seen them go.
        tokio::time::sleep(SHORT_WAIT * 4).await;
        assert_eq!(
            service.call("GET", "/health/live").await.status,
            200,
            "{round}"
        );
    }
}

#[tokio::test]
async fn a_service_that_stops_keeps_no_waiter() {
    let service = Service::start().await;
    let stopping = async {
        tokio::time::sleep(SHORT_WAIT).await;
        service.stop.send(true).unwrap();
    };
    let begun = Instant::now();
    let (answer, ()) = tokio::join!(latest(&service, "wait=50s"), stopping);
    answer.problem(404, "not-found");
    assert!(begun.elapsed() < Duration::from_secs(20));
}

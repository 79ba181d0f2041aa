//! Looking at much mail costs what looking at little does, and moving it what there is to move.

use std::time::{Duration, Instant};

use postrider::delivery::State;
use postrider::{Clock, Dispatcher, Match, Query, Reload, RouteRule, Weights, minutes};

use crate::common::{ScriptedRelay, engine, mail_to};

/// The median time of many looks.
async fn look(ask: impl AsyncFn()) -> Duration {
    let mut took = Vec::new();
    for _ in 0..60 {
        let began = Instant::now();
        ask().await;
        took.push(began.elapsed());
    }
    took.sort();
    took[took.len() / 2]
}

/// An engine with so much pending mail, some of which is due later.
async fn with_pending(count: usize) -> Dispatcher {
    let relay = ScriptedRelay::free();
    let postrider = engine(relay.relay(), &Clock::fake()).spool_in_memory();
    let postrider = postrider.start().await.unwrap();
    postrider.pause("primary").await.unwrap();

    let mut numbers = 0..count;
    loop {
        let some = numbers.by_ref().take(500).map(|n| {
            let mail = mail_to(&format!("user{n}@example.org"));
            let mail = if n % 3 == 0 {
                mail.delay(minutes(5))
            } else {
                mail
            };
            mail.build().unwrap()
        });
        let receipts = postrider.submit_many(some.collect()).await;
        if receipts.is_empty() {
            return postrider;
        }
        assert!(receipts.iter().all(|receipt| receipt.is_ok()));
    }
}

/// What each look takes.
async fn looks(postrider: &Dispatcher) -> Vec<(&'static str, Duration)> {
    let list = async |state: Option<State>| {
        let query = Query {
            state,
            limit: 50,
            ..Query::default()
        };
        let page = postrider.list(query).await.unwrap();
        assert_eq!(
            page.mails.len(),
            50,
            "{state:?}: {} looked at",
            page.looked_at
        );
    };

    vec![
        (
            "stats",
            look(async || drop(postrider.stats().await.unwrap())).await,
        ),
        (
            "metrics",
            look(async || drop(postrider.metrics().await.unwrap())).await,
        ),
        (
            "relays",
            look(async || drop(postrider.relays().await.unwrap())).await,
        ),
        ("a list", look(async || list(None).await).await),
        (
            "what is queued",
            look(async || list(Some(State::Queued)).await).await,
        ),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn looking_at_much_mail_costs_what_looking_at_little_does() {
    let few = looks(&with_pending(1_000).await).await;
    let many = looks(&with_pending(30_000).await).await;
    for ((what, few), (_, many)) in few.into_iter().zip(many) {
        println!("{what}: {few:?} with 1,000 pending, {many:?} with 30,000");
        let bound = few * 4 + Duration::from_millis(1);
        assert!(many <= bound, "{what}: {many:?} instead of {few:?}");
    }
}

/// How long it takes until the mail of so many routes, some of each, is sent by another one.
async fn moving_takes(routes: usize) -> Duration {
    let (clock, relay) = (Clock::fake(), ScriptedRelay::free());
    let name = |n: usize| format!("relay{n}");
    let mut builder = engine(relay.relay(), &clock).spool_in_memory();
    for n in 0..routes {
        let matching = Match {
            recipient_domain: vec![format!("d{n}.example")],
            ..Match::default()
        };
        builder = builder
            .relay(relay.named(&name(n)))
            .route(matching, [name(n)]);
    }
    let builder = builder.route(Match::default(), ["primary"]);
    let postrider = builder.start().await.unwrap();

    let mails = (0..routes).flat_map(|n| {
        let later = move |user| {
            let mail = mail_to(&format!("user{user}@d{n}.example")).delay(minutes(5));
            mail.build().unwrap()
        };
        (0..4).map(later)
    });
    let receipts = postrider.submit_many(mails.collect()).await;

    let began = Instant::now();
    let reload = Reload {
        relays: vec![relay.relay()],
        routes: vec![RouteRule {
            matching: Match::default(),
            relays: vec!["primary".to_owned()],
        }],
        weights: Weights::default(),
    };
    postrider.reload(reload).await.unwrap();
    clock.advance(minutes(6));
    for receipt in receipts {
        postrider.wait(receipt.unwrap().id).await.unwrap();
    }
    began.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn moving_the_mail_of_many_routes_costs_what_there_is_to_move() {
    let few = moving_takes(100).await;
    let many = moving_takes(1000).await;
    println!("{few:?} with 100 routes, {many:?} with 1,000");
    assert!(many <= few * 30, "{many:?} with 1,000, {few:?} with 100");
}

//! Each method of the spool fails once, twice and for a while, with an error and with a panic:
//! nothing stands still afterwards, no relay is blamed, and nothing spins meanwhile.

use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt, StreamExt};
use postrider::delivery::{Outcome, Phase, Reply, Route};
use postrider::{
    Address, AuditQuery, Dispatcher, Drain, Error, EventItem, FeedbackKind, Guarantee, MailId,
    Match, NoticeError, Notices, ProviderEvent, Query, Redeliver, Reload, RetryPolicy, RouteRule,
    SeriesQuery, SuppressionQuery, SuppressionReason, Timestamp, Webhook, Weights, seconds,
};

use crate::common::faulty_spool::Fault;
use crate::common::{EventLog, FaultySpool, ScriptedRelay, eventually, mail, mail_to};

/// All that the engine asks of a spool that can fail.
const METHODS: [&str; 34] = [
    "put",
    "claim",
    "mark",
    "settle",
    "get",
    "body",
    "by_key",
    "list",
    "cancel",
    "retry",
    "purge",
    "sweep",
    "reroute",
    "stats",
    "backlog",
    "paused",
    "set_paused",
    "close",
    "journal.note",
    "journal.after",
    "journal.since",
    "journal.of_mail",
    "journal.acts",
    "journal.reader",
    "journal.readers",
    "journal.advance",
    "journal.leave",
    "journal.kept",
    "journal.forget",
    "suppressions.of",
    "suppressions.add",
    "suppressions.remove",
    "suppressions.page",
    "feedback.keep",
];

/// What a webhook signs with.
const SECRET: &str = "whsec_c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0";

/// For as long as it takes until the spool is mended.
const EVERY_TIME: u32 = u32::MAX;

fn tagged(tag: &str, relay: &str) -> RouteRule {
    let matching = Match {
        tag: vec![tag.to_owned()],
        ..Match::default()
    };
    rule(matching, relay)
}

fn rule(matching: Match, relay: &str) -> RouteRule {
    RouteRule {
        matching,
        relays: vec![relay.to_owned()],
    }
}

/// Asks again until it is answered: a caller is told of a failure, and nothing else is wrong.
async fn insisting<T>(what: &str, ask: impl AsyncFn() -> Result<T, Error>) -> T {
    let asking = async {
        loop {
            match std::panic::AssertUnwindSafe(ask()).catch_unwind().await {
                Ok(Ok(answer)) => return answer,
                Ok(Err(Error::Spool(_))) | Err(_) => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Ok(Err(other)) => panic!("{what}: {other}"),
            }
        }
    };

    let answered = tokio::time::timeout(seconds(20), asking).await;
    answered.unwrap_or_else(|_| panic!("{what} is never answered"))
}

async fn is(postrider: &Dispatcher, id: postrider::MailId, wanted: &str) -> bool {
    let status = postrider.status(id).await;
    status.is_ok_and(|status| status.state.as_str() == wanted)
}

/// A day in the life of an engine whose spool fails so at one thing.
async fn a_day(method: &'static str, times: u32, how: Fault) {
    let day = format!("{method} fails {times} times ({how:?})");
    let spool = FaultySpool::new();
    let (first, second) = (ScriptedRelay::free(), ScriptedRelay::free());
    first.answer(|transaction| match transaction.recipients[0].as_str() {
        "bad@example.org" => Outcome::Rejected(Phase::RcptTo, Reply::new(550, "5.1.1 nobody")),
        _ => Outcome::Delivered(Reply::new(250, "2.0.0 taken")),
    });

    spool.fails(method, times, how);
    let healer =
        (times == EVERY_TIME).then(|| tokio::spawn(mends_in_a_while(Arc::clone(&spool), method)));

    let relays = || vec![first.relay(), second.relay().name("second")];
    let gone = ScriptedRelay::free();
    let default = rule(Match::default(), "primary");
    let start = async || {
        let mut builder = Dispatcher::builder()
            .spool_custom(Arc::clone(&spool) as Arc<dyn postrider::spool::Spool>)
            .retry(RetryPolicy {
                schedule: vec![Duration::from_millis(20)],
                ..RetryPolicy::default()
            })
            .relay(gone.relay().name("gone"));

        for relay in relays() {
            builder = builder.relay(relay);
        }
        for (tag, relay) in [("second", "second"), ("gone", "gone")] {
            let matching = tagged(tag, relay).matching;
            builder = builder.route(matching, [relay]);
        }

        builder.route(Match::default(), ["primary"]).start().await
    };

    let postrider = insisting(&day, start).await;
    let mut told = EventLog::by(&postrider);

    let notices = Notices::of(&postrider);
    let tell = async || {
        let hook = Webhook::new("hook", "http://127.0.0.1:9/", SECRET.to_owned());
        notices.set_webhooks(vec![hook]).await.unwrap();
        Ok(())
    };
    insisting(&day, tell).await;
    insisting(&day, async || postrider.pause("gone").await).await;
    let suppressed = suppress(&day, &postrider).await;

    let submit = async |mail: postrider::MailBuilder| {
        let mail = mail.build().unwrap();
        insisting(&day, async || postrider.submit(mail.clone()).await)
            .await
            .id
    };

    let mut arrive = Vec::new();
    for n in 0..3 {
        arrive.push(submit(mail_to(&format!("user{n}@example.org"))).await);
        arrive.push(submit(mail_to(&format!("other{n}@example.org")).tag("second")).await);
    }

    let once = submit(mail_to("once@example.org").guarantee(Guarantee::AtMostOnce)).await;
    let unwanted = submit(mail_to("unwanted@example.org")).await;
    let keyed = mail_to("keyed@example.org").idempotency_key("a key");
    let keyed = submit(keyed).await;
    let bad = submit(mail_to("bad@example.org")).await;
    let brief = mail_to("brief@example.org").tag("gone");
    let brief = submit(brief.expires_in(Duration::from_millis(300))).await;
    let scheduled = submit(mail_to("scheduled@example.org").delay(seconds(3600))).await;
    let moved = submit(mail_to("moved@example.org").tag("gone")).await;

    insisting(&day, async || postrider.stats().await).await;
    insisting(&day, async || postrider.relays().await).await;
    insisting(&day, async || postrider.list(Query::default()).await).await;
    insisting(&day, async || postrider.raw(scheduled).await).await;
    let found = insisting(&day, async || postrider.find("a key", None).await).await;
    assert_eq!(found, keyed, "{day}");
    look_back(&day, &postrider, &notices, keyed).await;

    let cancelled = async || match postrider.cancel(scheduled).await {
        Err(Error::TooLate { .. }) => postrider.status(scheduled).await,
        other => other,
    };

    insisting(&day, cancelled).await;
    eventually(&format!("{day}: expired"), async || {
        is(&postrider, brief, "dead").await
    })
    .await;

    postrider
        .reload(Reload {
            relays: relays(),
            routes: vec![tagged("second", "second"), default],
            weights: Weights::default(),
        })
        .await
        .unwrap();
    arrive.extend([moved, keyed]);

    for id in arrive {
        eventually(&format!("{day}: delivered"), async || {
            is(&postrider, id, "delivered").await
        })
        .await;
    }

    comes_back(&day, &postrider, keyed).await;
    eventually(&format!("{day}: refused"), async || {
        is(&postrider, bad, "dead").await
    })
    .await;
    eventually(&format!("{day}: suppressed"), async || {
        is(&postrider, unwanted, "dead").await
    })
    .await;

    // An outcome that was lost leaves it in doubt; nothing else does.
    let final_states = [
        "delivered",
        if method == "settle" {
            "dead"
        } else {
            "delivered"
        },
    ];

    eventually(&format!("{day}: sent once"), async || {
        is(&postrider, once, final_states[0]).await || is(&postrider, once, final_states[1]).await
    })
    .await;

    assert!(is(&postrider, scheduled, "cancelled").await, "{day}");
    first.answer(|_| Outcome::Delivered(Reply::new(250, "2.0.0 taken")));
    let retried = async || match postrider.retry(bad).await {
        Err(Error::TooLate { .. }) => postrider.status(bad).await,
        other => other,
    };

    insisting(&day, retried).await;
    eventually(&format!("{day}: retried"), async || {
        is(&postrider, bad, "delivered").await
    })
    .await;

    let forgiven = async || postrider.suppressions().remove(suppressed.clone()).await;
    insisting(&day, forgiven).await;
    let purged = async || {
        postrider
            .dead_letters()
            .purge(Query::default(), false)
            .await
    };
    insisting(&day, purged).await;

    // Everything was told, and whatever was lost was sent a few times more at most.
    let last = mail("last@example.org");
    let last = insisting(&day, async || postrider.submit(last.clone()).await).await;
    while told.first("delivered").await.mail != Some(last.id) {}

    let begun: Vec<String> = [&first, &second]
        .iter()
        .flat_map(|relay| relay.begun())
        .collect();

    let most = if method == "settle" { 8 } else { 1 };
    for to in begun.iter().filter(|to| *to != "bad@example.org") {
        let count = begun.iter().filter(|other| *other == to).count();
        let most = if to == "once@example.org" { 1 } else { most };
        assert!(count <= most, "{day}: {to} was sent {count} times");
    }

    assert!(
        !begun.iter().any(|to| to == "unwanted@example.org"),
        "{day}"
    );

    for relay in postrider.relays().await.unwrap() {
        assert_eq!(
            (relay.state.as_str(), relay.last_failure),
            ("up", None),
            "{day}"
        );
    }

    if let Some(healer) = healer {
        healer.await.unwrap();
    }

    notices.close(seconds(1)).await;
    let drained = postrider.shutdown(Drain::within(seconds(10))).await;
    match method {
        "close" if times != EVERY_TIME => {
            assert!(postrider.stopped().await.is_err(), "{day}: nobody is told")
        }
        _ => assert!(drained.unwrap(), "{day}: not all was finished"),
    }
    assert!(spool.calls(method) > 0, "{method} was never called");
}

/// Suppresses an address; what is said is how to find that again.
async fn suppress(day: &str, postrider: &Dispatcher) -> SuppressionQuery {
    let address: Address = "unwanted@example.org".parse().unwrap();
    let suppressions = postrider.suppressions();
    let entry = suppressions.entry(address.clone(), SuppressionReason::Manual);
    insisting(day, async || suppressions.add(vec![entry.clone()]).await).await;

    let query = SuppressionQuery {
        address: Some(address),
        ..SuppressionQuery::default()
    };
    let listed = async || suppressions.list(query.clone()).await;
    assert_eq!(insisting(day, listed).await.suppressions, [entry], "{day}");
    query
}

/// Asks for what the journal kept, and has a webhook told of it again.
async fn look_back(day: &str, postrider: &Dispatcher, notices: &Notices, mail: MailId) {
    let journal = postrider.journal();
    insisting(day, async || postrider.audit(AuditQuery::default()).await).await;
    insisting(day, async || postrider.series(SeriesQuery::default()).await).await;
    insisting(day, async || journal.readers().await).await;
    insisting(day, async || journal.forget("nobody").await).await;
    let again = async || {
        let since = Redeliver::Since(Timestamp::from_millis(0));
        match notices.redeliver("hook", since).await {
            Err(NoticeError::Dispatcher(error)) => Err(error),
            other => Ok(other.unwrap()),
        }
    };
    insisting(day, again).await;

    let mut of_mail = postrider.events_of(mail, Some(0));
    let told = tokio::time::timeout(seconds(20), of_mail.next()).await;
    assert!(
        matches!(told.expect(day), Some(EventItem::Event(event)) if event.mail == Some(mail)),
        "{day}"
    );
}

/// A provider says that a mail bounced after all.
async fn comes_back(day: &str, postrider: &Dispatcher, mail: MailId) {
    let bounce = ProviderEvent {
        id: "bounce-1".to_owned(),
        kind: FeedbackKind::Bounced,
        permanent: false,
        status: Some("4.2.2".to_owned()),
        text: "mailbox full".to_owned(),
        recipient: "keyed@example.org".to_owned(),
        names_recipient: true,
        message_id: Some(format!("<{mail}@example.com>")),
        provider_id: None,
        raw: bytes::Bytes::new(),
    };
    let taken = async || {
        let events = vec![bounce.clone()];
        postrider.feedback().take_events("brevo", events).await
    };
    assert_eq!(insisting(day, taken).await[0].mail, mail, "{day}");
}

/// Mends the spool, and sees that nobody spins until then: in half a second it is asked for 60
/// times at most, which is what the callers of this test do.
async fn mends_in_a_while(spool: Arc<FaultySpool>, method: &'static str) {
    tokio::time::sleep(Duration::from_millis(700)).await;
    let before = spool.calls(method);
    tokio::time::sleep(Duration::from_millis(500)).await;
    let calls = spool.calls(method) - before;
    spool.mend();
    assert!(
        calls <= 60,
        "{method} was asked {calls} times in half a second"
    );
}

async fn days(times: u32, how: Fault) {
    let all = METHODS.iter().map(|method| a_day(method, times, how));
    futures::future::join_all(all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_stands_still_after_the_spool_failed_once() {
    days(1, Fault::Errs).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_stands_still_after_the_spool_failed_twice() {
    days(2, Fault::Errs).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_stands_still_after_the_spool_failed_for_a_while() {
    days(EVERY_TIME, Fault::Errs).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_stands_still_after_the_spool_panicked() {
    days(1, Fault::Panics).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_cannot_be_read_stops_no_other_queue_of_its_lane_and_is_read_again() {
    let spool = FaultySpool::new();
    let relay = ScriptedRelay::free();
    let other = ScriptedRelay::free();
    let mut builder = Dispatcher::builder()
        .spool_custom(Arc::clone(&spool) as Arc<dyn postrider::spool::Spool>)
        .relay(relay.relay())
        .relay(other.relay().name("other"));

    // Many queues that one relay serves: over the others, by way of it.
    for n in 0..8 {
        builder = builder.relay(other.relay().name(format!("spare{n}")));
        let matching = tagged(&format!("queue{n}"), "primary").matching;
        builder = builder.route(matching, ["primary".to_owned(), format!("spare{n}")]);
    }

    let postrider = builder
        .route(Match::default(), ["primary"])
        .start()
        .await
        .unwrap();
    spool.cannot_read(vec![Route::over(["primary", "spare3"])]);

    let hand_in = async |round: u32| {
        let mut ids = Vec::new();
        for n in 0..8 {
            let to = format!("user{n}-{round}@example.org");
            let mail = mail_to(&to).tag(format!("queue{n}")).build().unwrap();
            ids.push(postrider.submit(mail).await.unwrap().id);
        }
        ids
    };

    let mut stuck = Vec::new();
    for round in 0..5 {
        let mut ids = hand_in(round).await;
        stuck.push(ids.remove(3));
        for id in ids {
            let status = tokio::time::timeout(seconds(10), postrider.wait(id)).await;
            assert_eq!(status.unwrap().unwrap().state.as_str(), "delivered");
        }
    }

    let tasks = || {
        tokio::runtime::Handle::current()
            .metrics()
            .num_alive_tasks()
    };

    let (before, claims) = (tasks(), spool.calls("claim"));
    for round in 5..25 {
        let mut ids = hand_in(round).await;
        stuck.push(ids.remove(3));
        for id in ids {
            postrider.wait(id).await.unwrap();
        }
    }

    let (after, claims) = (tasks(), spool.calls("claim") - claims);
    assert!(after < before + 10, "{before} tasks have become {after}");
    assert!(claims < 20 * 8 * 4, "{claims} claims for {} mails", 20 * 8);

    spool.mend();
    for id in stuck {
        let status = tokio::time::timeout(seconds(40), postrider.wait(id)).await;
        assert_eq!(status.unwrap().unwrap().state.as_str(), "delivered");
    }
}

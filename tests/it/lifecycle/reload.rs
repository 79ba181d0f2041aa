//! New relays and routes while mail is on its way: nothing is lost, nothing is sent twice, nothing
//! is stranded.

use postrider::delivery::{Outcome, Phase, Reply};
use postrider::{Clock, Dispatcher, Match, Reload, RouteRule, Weights, seconds};

use crate::common::{
    EventLog, ScriptedRelay, TestSpool, a_moment, becomes, engine, eventually, mail, steady, submit,
};

fn reload(relays: Vec<postrider::Relay>, routes: Vec<RouteRule>) -> Reload {
    Reload {
        relays,
        routes,
        weights: Weights::default(),
    }
}

fn all_to(relay: &str) -> RouteRule {
    RouteRule {
        matching: Match::default(),
        relays: vec![relay.to_owned()],
    }
}

#[tokio::test]
async fn mail_on_its_way_is_finished_and_the_rest_takes_the_relay_as_it_is_now() {
    for connections in [1, 4] {
        a_relay_is_configured_anew_with(connections).await;
    }
}

async fn a_relay_is_configured_anew_with(connections: usize) {
    let (before, after) = (ScriptedRelay::held(), ScriptedRelay::free());
    let postrider = engine(before.relay().connections(1), &Clock::fake())
        .start()
        .await
        .unwrap();
    let first = submit(&postrider, mail("first@example.org")).await;

    before.begins(1).await;
    let mails = (0..100)
        .map(|n| mail(&format!("user{n}@example.org")))
        .collect();
    let receipts = postrider.submit_many(mails).await;

    postrider
        .reload(reload(vec![after.relay().connections(connections)], vec![]))
        .await
        .unwrap();

    for receipt in receipts {
        assert_eq!(
            postrider
                .wait(receipt.unwrap().id)
                .await
                .unwrap()
                .state
                .as_str(),
            "delivered"
        );
    }

    assert_eq!(
        postrider.status(first).await.unwrap().state.as_str(),
        "sending",
        "it is not cut off"
    );

    before.let_go();
    let status = postrider.wait(first).await.unwrap();
    assert_eq!(
        (status.state.as_str(), status.deliveries[0].attempts.len()),
        ("delivered", 1)
    );

    assert_eq!((before.begun().len(), after.begun().len()), (1, 100));
    assert_eq!(
        postrider.relays().await.unwrap()[0].connections,
        connections
    );
}

/// An engine over `old` and `new`, of which mail takes `old`.
async fn old_and_new(old: &ScriptedRelay, new: &ScriptedRelay, clock: &Clock) -> Dispatcher {
    let builder = Dispatcher::builder()
        .relay(old.relay().name("old"))
        .relay(new.relay().name("new"));
    builder
        .route(Match::default(), ["old"])
        .clock(clock.clone())
        .retry(steady())
        .start()
        .await
        .unwrap()
}

#[tokio::test]
async fn mail_that_waits_for_a_relay_that_is_removed_takes_what_is_left() {
    let (old, new) = (ScriptedRelay::free(), ScriptedRelay::free());
    let postrider = old_and_new(&old, &new, &Clock::fake()).await;
    postrider.pause("old").await.unwrap();
    let receipts = postrider
        .submit_many(
            (0..5)
                .map(|n| mail(&format!("user{n}@example.org")))
                .collect(),
        )
        .await;

    postrider
        .reload(reload(vec![new.relay().name("new")], vec![all_to("new")]))
        .await
        .unwrap();

    for receipt in receipts {
        let status = postrider.wait(receipt.unwrap().id).await.unwrap();
        assert_eq!(status.state.as_str(), "delivered");
        assert_eq!(status.deliveries[0].attempts[0].relay, "new");
    }

    assert!(old.begun().is_empty());
}

#[tokio::test]
async fn mail_in_the_hands_of_a_relay_that_is_removed_takes_what_is_left_next_time() {
    let (clock, old, new) = (Clock::fake(), ScriptedRelay::held(), ScriptedRelay::free());
    let postrider = old_and_new(&old, &new, &clock).await;
    old.answer(|_| Outcome::Deferred(Phase::Data, Reply::new(451, "4.3.0 try later")));
    let id = submit(&postrider, mail("ada@example.org")).await;

    old.begins(1).await;
    postrider
        .reload(reload(vec![new.relay().name("new")], vec![all_to("new")]))
        .await
        .unwrap();
    old.let_go();
    becomes(&postrider, id, "deferred").await;
    clock.advance(seconds(60));

    let status = postrider.wait(id).await.unwrap();
    let relays: Vec<&str> = status.deliveries[0]
        .attempts
        .iter()
        .map(|attempt| attempt.relay.as_str())
        .collect();

    assert_eq!(
        (status.state.as_str(), relays),
        ("delivered", vec!["old", "new"])
    );
}

#[tokio::test]
async fn mail_of_a_removed_relay_is_not_stranded_by_a_router_that_died() {
    let (clock, old, new) = (Clock::fake(), ScriptedRelay::held(), ScriptedRelay::free());
    let postrider = old_and_new(&old, &new, &clock).await;
    old.answer(|_| Outcome::Unavailable(Phase::Connect, "gone".into()));
    let id = submit(&postrider, mail("ada@example.org")).await;

    old.begins(1).await;
    postrider
        .reload(reload(vec![new.relay().name("new")], vec![all_to("new")]))
        .await
        .unwrap();
    postrider.crash("router");
    old.let_go();

    assert_eq!(
        postrider.wait(id).await.unwrap().state.as_str(),
        "delivered"
    );

    assert_eq!(new.begun(), ["ada@example.org"]);
}

#[tokio::test]
async fn new_routes_hold_for_mail_from_then_on() {
    let (old, new) = (ScriptedRelay::free(), ScriptedRelay::free());
    let postrider = old_and_new(&old, &new, &Clock::fake()).await;
    let to_org = Match {
        recipient_domain: vec!["example.org".into()],
        ..Match::default()
    };

    let routes = vec![
        RouteRule {
            matching: to_org,
            relays: vec!["new".into()],
        },
        all_to("old"),
    ];

    let relays = vec![old.relay().name("old"), new.relay().name("new")];
    postrider.reload(reload(relays, routes)).await.unwrap();
    for (to, relay) in [("ada@example.org", "new"), ("ada@example.net", "old")] {
        let id = submit(&postrider, mail(to)).await;
        assert_eq!(
            postrider.wait(id).await.unwrap().deliveries[0].attempts[0].relay,
            relay
        );
    }
}

#[tokio::test]
async fn a_configuration_with_a_mistake_changes_nothing() {
    let (old, new) = (ScriptedRelay::free(), ScriptedRelay::free());
    let postrider = old_and_new(&old, &new, &Clock::fake()).await;
    let mistakes = [
        (reload(vec![], vec![]), "there is no relay"),
        (
            reload(vec![new.relay().name("new")], vec![all_to("odl")]),
            "names the relay `odl`, which does not exist",
        ),
        (
            reload(vec![new.relay().name("new").connections(0)], vec![]),
            "connections are 0",
        ),
        (
            reload(vec![new.relay(), new.relay()], vec![]),
            "two relays are named `primary`",
        ),
    ];

    for (mistake, why) in mistakes {
        let refused = postrider.reload(mistake).await.unwrap_err();
        assert!(refused.to_string().contains(why), "{refused}");
    }

    let mut told = EventLog::by(&postrider);
    submit(&postrider, mail("ada@example.org")).await;
    told.first("delivered").await;
    assert_eq!(
        (old.begun().len(), postrider.relays().await.unwrap().len()),
        (1, 2)
    );
}

#[tokio::test]
async fn a_mistaken_configuration_that_is_taken_back_moves_no_more_mail() {
    let (old, new) = (ScriptedRelay::free(), ScriptedRelay::free());
    let postrider = old_and_new(&old, &new, &Clock::fake()).await;
    for relay in ["old", "new"] {
        postrider.pause(relay).await.unwrap();
    }

    let mails = |n: usize| {
        (0..n)
            .map(|n| mail(&format!("user{n}@example.org")))
            .collect()
    };

    postrider.submit_many(mails(5000)).await;
    postrider
        .reload(reload(vec![new.relay().name("new")], vec![all_to("new")]))
        .await
        .unwrap();

    let both = vec![old.relay().name("old"), new.relay().name("new")];
    postrider
        .reload(reload(both, vec![all_to("old")]))
        .await
        .unwrap();
    postrider.submit_many(mails(2000)).await;

    let backlogs = async || {
        let relays = postrider.relays().await.unwrap();
        relays.iter().map(|relay| relay.backlog).collect::<Vec<_>>()
    };

    eventually("all is back", async || backlogs().await == [7000, 0]).await;
    a_moment().await;
    assert_eq!(backlogs().await, [7000, 0]);
}

#[tokio::test]
async fn what_befell_a_relay_as_it_was_is_not_held_against_it_as_it_is_now() {
    let (before, after) = (ScriptedRelay::held(), ScriptedRelay::free());
    let postrider = engine(before.relay().connections(4), &Clock::fake())
        .start()
        .await
        .unwrap();

    before.answer(|_| Outcome::Unavailable(Phase::Connect, "connection reset".into()));
    let mut told = EventLog::by(&postrider);
    for n in 1..=3 {
        submit(&postrider, mail(&format!("user{n}@example.org"))).await;
        before.begins(n).await;
    }

    postrider
        .reload(reload(vec![after.relay()], vec![]))
        .await
        .unwrap();
    before.let_go();
    eventually("all are delivered", async || postrider.delivered() == 3).await;

    let kinds: Vec<&str> = told
        .until("delivered")
        .await
        .iter()
        .map(|event| event.kind.as_str())
        .collect();

    assert!(!kinds.contains(&"relay_down"), "{kinds:?}");
    assert_eq!(postrider.relays().await.unwrap()[0].breaker, "closed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mail_of_the_longest_route_is_there_after_a_restart_and_a_longer_one_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let scripted = ScriptedRelay::free();
    let names: Vec<String> = (0..101).map(|n| format!("{n:x>64}")).collect();
    let over = |count: usize| {
        let builder = postrider::Dispatcher::builder()
            .test_spool_in(dir.path())
            .retry(steady());
        let relays = names
            .iter()
            .map(|name| scripted.relay().connections(1).name(name));
        let builder = relays.fold(builder, |builder, relay| builder.relay(relay));
        builder.route(Match::default(), names[..count].to_vec())
    };

    let refused = over(101).start().await.err().unwrap().to_string();
    assert!(
        refused.contains("route 0 names 101 relays; at most 100 are allowed"),
        "{refused}"
    );

    let postrider = over(100).start().await.unwrap();
    for name in &names {
        postrider.pause(name).await.unwrap();
    }

    let id = submit(&postrider, mail("ada@example.org")).await;
    let all = postrider.list(postrider::Query::default()).await.unwrap();
    assert_eq!(all.mails.len(), 1);
    postrider
        .shutdown(postrider::Drain::within(seconds(10)))
        .await
        .unwrap();

    let postrider = over(100).start().await.unwrap();
    // A pause holds until it is over, over restarts too.
    for name in &names {
        postrider.resume(name).await.unwrap();
    }
    becomes(&postrider, id, "delivered").await;
    let all = postrider.list(postrider::Query::default()).await.unwrap();
    assert_eq!(all.mails.len(), 1);
    assert_eq!(scripted.begun(), ["ada@example.org"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_holds_over_a_restart_until_the_relay_is_resumed() {
    let dir = tempfile::tempdir().unwrap();
    let (paused, other) = (ScriptedRelay::free(), ScriptedRelay::free());
    let start = async || {
        let builder = postrider::Dispatcher::builder().test_spool_in(dir.path());
        let builder = builder.relay(paused.relay().name("paused"));
        let builder = builder.relay(other.relay().name("other"));
        let builder = builder.route(Match::default(), ["paused", "other"]);
        builder.start().await.unwrap()
    };

    let postrider = start().await;
    postrider.pause("paused").await.unwrap();
    postrider.pause("other").await.unwrap();
    postrider.resume("other").await.unwrap();
    let drain = || postrider::Drain::within(seconds(10));
    postrider.shutdown(drain()).await.unwrap();

    let postrider = start().await;
    let relays = postrider.relays().await.unwrap();
    assert_eq!(relays[0].state, postrider::RelayState::Paused);
    submit(&postrider, mail("ada@example.org")).await;
    eventually("the other relay takes it", async || {
        postrider.delivered() == 1
    })
    .await;
    assert_eq!(other.begun(), ["ada@example.org"]);

    postrider.resume("paused").await.unwrap();
    postrider.shutdown(drain()).await.unwrap();
    let postrider = start().await;
    submit(&postrider, mail("bob@example.org")).await;
    eventually("it goes on", async || postrider.delivered() == 1).await;
    assert_eq!(paused.begun(), ["bob@example.org"]);
}

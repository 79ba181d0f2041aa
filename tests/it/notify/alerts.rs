//! Alerts: what happened, by mail.

use std::time::Duration;

use postrider::delivery::{Outcome, Phase, Reply};
use postrider::transport::{Capture, Transaction};
use postrider::{Alert, Clock, Dispatcher, Drain, Match, Notices, Relay, minutes, seconds};

use crate::common::{
    ScriptedRelay, TestSpool, a_moment, as_time_passes, engine, eventually, mail, submit,
};

const OPS: &str = "ops@example.com";

/// A relay that refuses every recipient but those who are told by alerts.
fn picky() -> ScriptedRelay {
    let scripted = ScriptedRelay::free();
    scripted.answer(|mail: &Transaction| {
        let is_alert = mail.recipients.iter().any(|to| to.to_string() == OPS);
        match is_alert {
            true => Outcome::Delivered(Reply::new(250, "2.0.0 taken")),
            false => Outcome::Rejected(Phase::RcptTo, Reply::new(550, "5.1.1 no such user")),
        }
    });
    scripted
}

async fn alerting(postrider: &Dispatcher, alert: Alert) -> Notices {
    let notices = Notices::of(postrider);
    notices.set_alerts(vec![alert]).await.unwrap();
    notices
}

/// The alerts that were sent, as text.
fn alerts(scripted: &ScriptedRelay) -> Vec<String> {
    let begun = scripted.transactions();
    let of_ops = begun
        .iter()
        .filter(|mail| mail.recipients[0].to_string() == OPS);
    of_ops
        .map(|mail| String::from_utf8_lossy(&mail.message).replace("=\r\n", ""))
        .collect()
}

async fn die(postrider: &Dispatcher, count: usize) {
    for n in 0..count {
        submit(postrider, mail(&format!("user{n}@example.org"))).await;
    }
    postrider.wait_idle().await;
}

#[tokio::test]
async fn many_dead_letters_are_one_mail_and_those_that_follow_are_the_next_in_its_time() {
    let (clock, scripted) = (Clock::fake(), picky());
    let postrider = engine(scripted.relay(), &clock).start().await.unwrap();
    let _notices = alerting(&postrider, Alert::new([OPS])).await;
    die(&postrider, 500).await;

    as_time_passes(
        &clock,
        eventually("an alert", async || !alerts(&scripted).is_empty()),
    )
    .await;

    let first = alerts(&scripted);
    assert_eq!(first.len(), 1);
    for said in [
        "500 x dead (rejected)",
        "user0@example.org",
        "550",
        "no such user",
        "and 490 more",
        "Auto-Submitted: auto-generated",
    ] {
        assert!(first[0].contains(said), "{said} is not in {}", first[0]);
    }

    die(&postrider, 7).await;
    clock.advance(seconds(60));
    a_moment().await;
    assert_eq!(alerts(&scripted).len(), 1, "one in ten minutes");
    die(&postrider, 5).await;
    clock.advance(minutes(10));
    eventually("the next", async || alerts(&scripted).len() == 2).await;

    assert!(
        alerts(&scripted)[1].contains("12 x dead (rejected)"),
        "{:?}",
        alerts(&scripted)[1]
    );
}

#[tokio::test]
async fn an_alert_that_dies_is_no_reason_for_an_alert() {
    let clock = Clock::fake();
    let scripted = ScriptedRelay::free();
    scripted.answer(|_| Outcome::Rejected(Phase::RcptTo, Reply::new(550, "5.1.1 no such user")));
    let postrider = engine(scripted.relay(), &clock).start().await.unwrap();
    let _notices = alerting(&postrider, Alert::new([OPS])).await;

    die(&postrider, 1).await;
    as_time_passes(
        &clock,
        eventually("an alert", async || alerts(&scripted).len() == 1),
    )
    .await;
    for _ in 0..5 {
        clock.advance(minutes(11));
        a_moment().await;
    }

    assert_eq!(alerts(&scripted).len(), 1);
}

#[tokio::test]
async fn a_relay_that_is_down_is_reported_over_another() {
    let (clock, scripted, capture) = (Clock::fake(), ScriptedRelay::free(), Capture::default());
    scripted.down(Some("connection refused"));
    let route = |builder: postrider::Builder| {
        let to_ops = Match {
            recipient_domain: vec!["example.com".to_owned()],
            ..Match::default()
        };
        builder
            .relay(Relay::capture(&capture).name("spare"))
            .route(to_ops, ["spare"])
            .route(Match::default(), ["primary"])
    };

    let postrider = route(engine(scripted.relay(), &clock))
        .start()
        .await
        .unwrap();
    let _notices = alerting(&postrider, Alert::new([OPS])).await;
    submit(&postrider, mail("ada@example.org")).await;
    as_time_passes(
        &clock,
        eventually("an alert", async || !capture.captured().is_empty()),
    )
    .await;

    let told = String::from_utf8_lossy(&capture.captured()[0].message).replace("=\r\n", "");
    assert!(told.contains("relay primary is down"), "{told}");
    assert!(told.contains("connection refused"), "{told}");
}

#[tokio::test]
async fn an_alert_that_waits_for_the_relay_which_is_down_is_one_however_long_that_lasts() {
    let (clock, scripted) = (Clock::fake(), ScriptedRelay::free());
    scripted.down(Some("connection refused"));
    let postrider = engine(scripted.relay(), &clock).start().await.unwrap();

    let mut alert = Alert::new([OPS]);
    alert.filter.events.push("relay_up".to_owned());
    let _notices = alerting(&postrider, alert).await;
    submit(&postrider, mail("ada@example.org")).await;

    let pending = async || {
        let stats = postrider.stats().await.unwrap();
        serde_json::to_value(&stats).unwrap()
    };

    let waiting = async || {
        postrider
            .list(Default::default())
            .await
            .unwrap()
            .mails
            .len()
    };

    as_time_passes(
        &clock,
        eventually("an alert waits", async || waiting().await == 2),
    )
    .await;

    // It goes down again and again, and nobody hears of it yet.
    for _ in 0..20 {
        clock.advance(minutes(5));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }

    assert_eq!(waiting().await, 2, "{}", pending().await);
    scripted.down(None);
    as_time_passes(
        &clock,
        eventually("it is heard", async || alerts(&scripted).len() == 1),
    )
    .await;
}

#[tokio::test]
async fn what_was_counted_before_a_restart_is_reported_after_it_once() {
    let dir = tempfile::tempdir().unwrap();
    let (clock, scripted) = (Clock::fake(), picky());
    for life in 0..3 {
        let builder = engine(scripted.relay(), &clock).test_spool_in(dir.path());
        let postrider = builder.start().await.unwrap();
        let notices = alerting(&postrider, Alert::new([OPS])).await;
        die(&postrider, 10).await;
        if life == 2 {
            as_time_passes(
                &clock,
                eventually("an alert", async || alerts(&scripted).len() == 1),
            )
            .await;
            clock.advance(minutes(30));
            a_moment().await;
        }
        notices.close(seconds(5)).await;
        drop(notices);
        postrider.shutdown(Drain::within(seconds(5))).await.unwrap();
    }

    let told = alerts(&scripted);
    assert_eq!(told.len(), 1);
    assert!(told[0].contains("30 x dead (rejected)"), "{}", told[0]);
}

//! What plots are made of: how much was accepted, delivered, deferred and dead, how much waited,
//! and how long it took.

use std::time::Duration;

use postrider::{
    Clock, Dispatcher, Drain, Error, Series, SeriesPoint, SeriesQuery, Timestamp, minutes, seconds,
};

use crate::common::{
    Act, EventLog, FakeSmtp, Rule, ScriptedRelay, Step, TestSpool, engine, eventually, mail,
    relay_at, submit,
};

async fn series(postrider: &Dispatcher, from: Timestamp, relay: Option<&str>) -> Series {
    let query = SeriesQuery {
        from: Some(from),
        to: None,
        step: Some(seconds(10)),
        relay: relay.map(str::to_owned),
    };
    postrider.series(query).await.unwrap()
}

/// Accepted, delivered, deferred and dead, of all points together.
fn sums(series: &Series) -> (u64, u64, u64, u64) {
    let sum = |of: fn(&SeriesPoint) -> u64| series.points.iter().map(of).sum();
    (
        sum(|point| point.accepted.unwrap_or(0)),
        sum(|point| point.delivered),
        sum(|point| point.deferred),
        sum(|point| point.dead),
    )
}

/// The point that a time is in.
fn at(series: &Series, at: Timestamp) -> &SeriesPoint {
    let mut points = series.points.iter().rev();
    points.find(|point| point.at <= at).unwrap()
}

#[tokio::test]
async fn what_happened_is_in_the_step_in_which_it_did_by_relay_too() {
    let later = Rule::at(Step::Rcpt)
        .to("later@")
        .first(1)
        .act(Act::reply(450, "4.2.1 busy"));
    let no = Rule::at(Step::Rcpt)
        .to("no@")
        .act(Act::reply(550, "5.1.1 no such user"));
    let server = FakeSmtp::builder().rule(later).rule(no).start().await;
    let clock = Clock::fake();
    let postrider = engine(relay_at(&server), &clock).start().await.unwrap();
    let begin = clock.now();
    let mut told = EventLog::by(&postrider);

    submit(&postrider, mail("now@example.org")).await;
    told.first("delivered").await;
    submit(&postrider, mail("no@example.org")).await;
    told.first("dead").await;
    submit(&postrider, mail("later@example.org")).await;
    told.first("deferred").await;

    // Where nodes share a spool it takes a moment until one of them counts for all.
    eventually("what waits is seen", async || {
        let waiting = series(&postrider, begin, None).await;
        at(&waiting, clock.now()).backlog == Some(1)
    })
    .await;
    // A count of what waits is used for ten times as long as it took.
    tokio::time::sleep(Duration::from_millis(300)).await;
    clock.advance(seconds(60));
    told.first("delivered").await;

    let end = clock.now();
    eventually("that nothing waits is seen", async || {
        let over = series(&postrider, begin, None).await;
        at(&over, end).backlog == Some(0)
    })
    .await;
    clock.advance(seconds(10));

    let all = series(&postrider, begin, None).await;
    assert_eq!(all.step, 10);
    assert_eq!(sums(&all), (3, 2, 1, 1));

    let first = at(&all, begin);
    assert_eq!(
        (first.accepted, first.delivered, first.deferred, first.dead),
        (Some(3), 1, 1, 1)
    );

    assert_eq!(first.backlog, Some(1));
    let between = at(&all, begin + seconds(30));
    assert_eq!((between.accepted, between.backlog), (Some(0), Some(1)));
    assert_eq!(between.p50, None);

    let last = at(&all, end);
    assert_eq!((last.delivered, last.backlog), (1, Some(0)));
    for took in [last.p50.unwrap(), last.p99.unwrap()] {
        assert!((took / 60.0 - 1.0).abs() < 0.1, "{took}");
    }
    assert_eq!(all.points.last().unwrap().backlog, Some(0));

    let of_relay = series(&postrider, begin, Some("primary")).await;
    assert_eq!(sums(&of_relay), (0, 2, 1, 1));
    assert_eq!(at(&of_relay, begin).backlog, Some(1));
    assert_eq!(at(&of_relay, end).backlog, Some(0));

    let query = SeriesQuery {
        relay: Some("nowhere".to_owned()),
        ..SeriesQuery::default()
    };

    let unknown = postrider.series(query).await;
    assert!(
        matches!(unknown, Err(Error::UnknownRelay(_))),
        "{unknown:?}"
    );

    clock.advance(minutes(24 * 60));
    let query = SeriesQuery {
        from: Some(begin),
        step: Some(seconds(10)),
        ..SeriesQuery::default()
    };

    let old = postrider.series(query).await.unwrap();
    assert_eq!((old.step, sums(&old)), (600, (3, 2, 1, 1)));
}

#[tokio::test]
async fn whoever_is_the_first_to_ask_hears_of_all_that_has_happened() {
    let scripted = ScriptedRelay::free();
    let clock = Clock::fake();
    let begin = clock.now();
    let postrider = engine(scripted.relay(), &clock).start().await.unwrap();
    for n in 0..5 {
        submit(&postrider, mail(&format!("user{n}@example.org"))).await;
    }
    postrider.wait_idle().await;

    let all = series(&postrider, begin, None).await;
    assert_eq!(sums(&all), (5, 5, 0, 0));
}

#[tokio::test]
async fn a_restart_leaves_no_hole_and_counts_nothing_twice() {
    let scripted = ScriptedRelay::free();
    let dir = tempfile::tempdir().unwrap();

    let clock = Clock::fake();
    let begin = clock.now();
    for life in 1..=4u64 {
        let builder = engine(scripted.relay(), &clock).test_spool_in(dir.path());
        let postrider = builder.start().await.unwrap();
        // In some lives nobody counts, or what is counted last is not written.
        if life != 2 {
            postrider.keep_series();
        }
        for n in 0..5 {
            submit(&postrider, mail(&format!("user{n}@example.org"))).await;
            clock.advance(seconds(3));
        }
        if life == 3 {
            let all = series(&postrider, begin, None).await;
            assert_eq!(sums(&all).0, 5 * life);
        }
        postrider.wait_idle().await;
        if life == 4 {
            let all = series(&postrider, begin, None).await;
            assert_eq!(sums(&all), (20, 20, 0, 0));
        }
        postrider.shutdown(Drain::within(seconds(5))).await.unwrap();
    }
}

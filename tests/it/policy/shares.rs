//! Whose turn it is: weights without starvation, critical mail first, and no faster than the rate.

use std::time::Duration;

use postrider::mail::Options;
use postrider::{Clock, Dispatcher, Envelope, Mail, Match, Priority, hours, minutes};

use crate::common::{ScriptedRelay, a_moment, engine, eventually, mail_to, submit};

fn mail_of(priority: Priority, n: usize) -> Mail {
    mail_to(&format!("{priority}{n}@example.org"))
        .priority(priority)
        .build()
        .unwrap()
}

/// Queues so many of each while nothing is sent, then lets them all go.
async fn queue(postrider: &Dispatcher, counts: &[(Priority, usize)]) {
    postrider.pause("primary").await.unwrap();
    for (priority, count) in counts {
        for receipt in postrider
            .submit_many((0..*count).map(|n| mail_of(*priority, n)).collect())
            .await
        {
            receipt.unwrap();
        }
    }
    postrider.resume("primary").await.unwrap();
}

fn count(begun: &[String], priority: Priority) -> usize {
    begun
        .iter()
        .filter(|to| to.starts_with(priority.as_str()))
        .count()
}

#[tokio::test]
async fn each_priority_has_its_share_of_one_connection_and_none_starves() {
    let scripted = ScriptedRelay::free();
    let postrider = engine(scripted.relay().connections(1), &Clock::fake())
        .start()
        .await
        .unwrap();
    queue(&postrider, &Priority::ALL.map(|priority| (priority, 200))).await;
    let begun = scripted.begins(200).await;
    let counts = Priority::ALL.map(|priority| count(&begun[..200], priority));
    for (counted, share) in counts.into_iter().zip([120, 60, 20]) {
        assert!(counted.abs_diff(share) <= 5, "{counts:?} of the first 200");
    }
}

#[tokio::test]
async fn a_stream_of_critical_mail_does_not_stop_the_rest() {
    let scripted = ScriptedRelay::free();
    let postrider = engine(scripted.relay().connections(2), &Clock::fake())
        .start()
        .await
        .unwrap();

    queue(
        &postrider,
        &[
            (Priority::Critical, 600),
            (Priority::Default, 60),
            (Priority::Bulk, 60),
        ],
    )
    .await;

    let begun = scripted.begins(400).await;
    for priority in [Priority::Default, Priority::Bulk] {
        let counted = count(&begun[..400], priority);
        assert!(
            counted >= 10,
            "{counted} {priority} mails among the first 400"
        );
    }
}

#[tokio::test]
async fn a_critical_mail_overtakes_a_hundred_thousand_bulk_mails() {
    let scripted = ScriptedRelay::held();
    let postrider = engine(scripted.relay().connections(2), &Clock::fake())
        .start()
        .await
        .unwrap();
    let to = vec!["reader@example.org".parse().unwrap()];
    let envelope = Envelope::new(Some("shop@example.com".parse().unwrap()), to).unwrap();
    let letter = "From: shop@example.com\r\nDate: Mon, 1 Jan 2024 00:00:00 +0000\r\n\
                  Message-ID: <1@example.com>\r\n\r\nHi\r\n";
    let options = Options {
        priority: Priority::Bulk,
        ..Options::default()
    };

    for _ in 0..100 {
        let copy = |_| {
            Mail::from_rfc5322(envelope.clone(), letter)
                .unwrap()
                .with_options(options.clone())
                .unwrap()
        };
        assert!(
            postrider
                .submit_many((0..1000).map(copy).collect())
                .await
                .iter()
                .all(Result::is_ok)
        );
    }

    scripted.begins(1).await;
    assert_eq!(postrider.stats().await.unwrap().pending, 100_000);
    let code = submit(&postrider, mail_of(Priority::Critical, 0)).await;

    // The one connection that is for everybody is held up by a letter; the other one was kept for
    // this.
    assert_eq!(scripted.begins(2).await[1], "critical0@example.org");
    scripted.let_through(2);

    assert_eq!(
        postrider.wait(code).await.unwrap().state.as_str(),
        "delivered"
    );
}

#[tokio::test]
async fn critical_mail_waits_for_one_batch_at_most_where_there_is_one_connection() {
    let scripted = ScriptedRelay::held();
    let postrider = engine(scripted.relay().connections(1), &Clock::fake())
        .start()
        .await
        .unwrap();

    queue(&postrider, &[(Priority::Bulk, 1000)]).await;
    scripted.begins(1).await;
    let code = submit(&postrider, mail_of(Priority::Critical, 0)).await;
    scripted.let_go();
    postrider.wait(code).await.unwrap();

    let position = scripted
        .begun()
        .iter()
        .position(|to| to == "critical0@example.org")
        .unwrap();

    assert!(position <= 32, "it was number {position}");
}

#[tokio::test]
async fn a_rate_is_kept_to_over_many_connections() {
    let (clock, scripted) = (Clock::fake(), ScriptedRelay::free());
    let relay = scripted.relay().rate("10/s".parse().unwrap());
    let postrider = engine(relay, &clock).start().await.unwrap();
    a_moment().await;
    queue(&postrider, &[(Priority::Default, 60)]).await;
    scripted.begins(1).await;

    for tenth in 1..=30 {
        a_moment().await;
        let begun = scripted.begun().len();
        assert!(
            begun <= tenth + 1,
            "{begun} mails in {} ms",
            (tenth - 1) * 100
        );
        clock.advance(Duration::from_millis(100));
        scripted.begins(tenth).await;
    }
}

#[tokio::test]
async fn a_slow_rate_is_used_and_not_saved_up() {
    let (clock, scripted) = (Clock::fake(), ScriptedRelay::free());
    let relay = scripted.relay().rate("60/h".parse().unwrap());
    let postrider = engine(relay, &clock).start().await.unwrap();
    for n in 0..20 {
        let id = submit(&postrider, mail_of(Priority::Default, n)).await;
        postrider.wait(id).await.unwrap();
        clock.advance(hours(1));
    }

    a_moment().await;
    queue(&postrider, &[(Priority::Bulk, 50)]).await;
    scripted.begins(21).await;
    a_moment().await;

    let begun = scripted.begun().len();
    assert!(begun <= 22, "{} at once after a quiet day", begun - 20);
    clock.advance(minutes(1));
    scripted.begins(begun + 1).await;
}

#[tokio::test]
async fn critical_mail_is_spread_over_the_connections_whatever_else_waits_beside_it() {
    let scripted = ScriptedRelay::held();
    let postrider = engine(scripted.relay().connections(16), &Clock::fake())
        .start()
        .await
        .unwrap();

    // Every connection has had a mail, and is free.
    for n in 1..=16 {
        submit(
            &postrider,
            mail_of(
                if n < 16 {
                    Priority::Default
                } else {
                    Priority::Critical
                },
                n,
            ),
        )
        .await;
        scripted.begins(n).await;
    }

    postrider.pause("primary").await.unwrap();
    scripted.let_through(16);
    eventually("all are free", async || {
        postrider.relays().await.unwrap()[0].busy == 0
    })
    .await;
    queue(&postrider, &[(Priority::Critical, 99), (Priority::Bulk, 1)]).await;

    let begun = scripted.begins(32).await;
    assert_eq!(
        (
            count(&begun[16..], Priority::Critical),
            count(&begun[16..], Priority::Bulk)
        ),
        (15, 1)
    );
}

#[tokio::test]
async fn routes_over_a_slow_relay_take_turns() {
    let (clock, scripted) = (Clock::fake(), ScriptedRelay::free());
    let relay = scripted.relay().rate("10/s".parse().unwrap());
    let to = |domain: &str| Match {
        recipient_domain: vec![domain.into()],
        ..Match::default()
    };

    let builder = engine(relay, &clock).relay(ScriptedRelay::held().relay().name("spare"));
    let builder = builder
        .route(to("many.example"), ["primary"])
        .route(to("one.example"), ["primary", "spare"]);
    let postrider = builder.start().await.unwrap();
    postrider.pause("primary").await.unwrap();
    postrider.pause("spare").await.unwrap();

    for n in 0..50 {
        submit(
            &postrider,
            mail_to(&format!("user{n}@many.example")).build().unwrap(),
        )
        .await;
    }

    let one = submit(&postrider, mail_to("ada@one.example").build().unwrap()).await;
    postrider.resume("primary").await.unwrap();
    for sent in 1..=3 {
        scripted.begins(sent).await;
        clock.advance(Duration::from_millis(100));
    }

    assert!(
        scripted.begun()[..3].contains(&"ada@one.example".to_owned()),
        "{:?}",
        scripted.begun()
    );

    assert_eq!(
        postrider.wait(one).await.unwrap().state.as_str(),
        "delivered"
    );
}

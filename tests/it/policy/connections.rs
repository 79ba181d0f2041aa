//! How connections are used: again, for so many mails, for so long; and what it means when one was
//! closed meanwhile.

use std::time::Duration;

use postrider::transport::TimeOuts;
use postrider::{Clock, Priority, seconds};

use crate::common::{
    Act, FakeSmtp, Rule, Step, a_moment, as_time_passes, becomes, engine, eventually, mail,
    mail_to, relay_at, submit,
};

#[tokio::test]
async fn a_421_on_a_reused_connection_costs_nothing_but_a_new_connection() {
    let server = FakeSmtp::builder()
        .rule(
            Rule::at(Step::Mail)
                .when(|moment| moment.connection == 1 && moment.transaction >= 1)
                .act(Act::ReplyThenCut(421, "4.4.2 idle for too long".into())),
        )
        .start()
        .await;
    let postrider = engine(relay_at(&server).connections(1), &Clock::fake())
        .start()
        .await
        .unwrap();

    for (n, to) in ["ada@example.org", "bob@example.org"]
        .into_iter()
        .enumerate()
    {
        let id = submit(&postrider, mail(to)).await;
        let status = postrider.wait(id).await.unwrap();
        assert_eq!(status.state.as_str(), "delivered");
        assert_eq!(
            status.deliveries[0].attempts.len(),
            1,
            "the first try is the one that counts"
        );
        assert_eq!((server.accepted(), server.connections()), (n + 1, n + 1));
    }

    assert_eq!(postrider.relays().await.unwrap()[0].last_failure, None);
}

#[tokio::test]
async fn a_connection_that_the_server_closed_while_it_was_unused_is_replaced() {
    let server = FakeSmtp::builder()
        .rule(Rule::at(Step::FinalDot).first(1).act(Act::ExtraLater(
            Duration::from_millis(2),
            "421 4.4.2 too long unused".into(),
        )))
        .start()
        .await;
    let postrider = engine(relay_at(&server).connections(1), &Clock::fake())
        .start()
        .await
        .unwrap();

    let first = submit(&postrider, mail("ada@example.org")).await;
    postrider.wait(first).await.unwrap();
    a_moment().await;

    let second = submit(&postrider, mail("bob@example.org")).await;
    let status = postrider.wait(second).await.unwrap();
    assert_eq!(
        (status.state.as_str(), status.deliveries[0].attempts.len()),
        ("delivered", 1)
    );

    assert_eq!((server.accepted(), server.connections()), (2, 2));
}

#[tokio::test]
async fn mails_begun_behind_one_another_arrive_once_each_when_the_server_closes_in_between() {
    let server = FakeSmtp::builder()
        .rule(
            Rule::at(Step::Mail)
                .when(|moment| moment.transaction >= 3)
                .act(Act::ReplyThenCut(421, "4.7.0 enough for now".into())),
        )
        .start()
        .await;
    let postrider = engine(relay_at(&server).connections(1), &Clock::fake())
        .start()
        .await
        .unwrap();

    let mails = (0..20)
        .map(|n| mail(&format!("user{n:02}@example.org")))
        .collect();
    let receipts = postrider.submit_many(mails).await;
    for receipt in receipts {
        let status = postrider.wait(receipt.unwrap().id).await.unwrap();
        assert_eq!(
            (status.state.as_str(), status.deliveries[0].attempts.len()),
            ("delivered", 1)
        );
    }

    let mut to: Vec<String> = server
        .transactions()
        .into_iter()
        .flat_map(|mail| mail.recipients)
        .collect();

    to.sort();
    assert_eq!(
        to,
        (0..20)
            .map(|n| format!("user{n:02}@example.org"))
            .collect::<Vec<_>>()
    );

    assert_eq!(server.connections(), 7);
    assert!(
        server.mails().iter().any(|mail| mail.overlapped),
        "they were pipelined"
    );
}

#[tokio::test]
async fn an_unused_connection_is_closed_politely_and_opened_again_when_needed() {
    let server = FakeSmtp::start().await;
    let relay = relay_at(&server)
        .connections(1)
        .idle_timeout(Duration::from_millis(40));
    let postrider = engine(relay, &Clock::fake()).start().await.unwrap();
    let first = submit(&postrider, mail("ada@example.org")).await;
    postrider.wait(first).await.unwrap();
    server.open_connections_fall_to(0).await;
    assert_eq!(server.commands().last().map(String::as_str), Some("QUIT"));
    let second = submit(&postrider, mail("bob@example.org")).await;
    postrider.wait(second).await.unwrap();
    assert_eq!(server.connections(), 2);
}

#[tokio::test]
async fn a_connection_that_is_used_is_not_closed_for_idleness() {
    let server = FakeSmtp::start().await;
    let relay = relay_at(&server)
        .connections(1)
        .idle_timeout(Duration::from_secs(30));
    let postrider = engine(relay, &Clock::fake()).start().await.unwrap();
    for n in 0..5 {
        let id = submit(&postrider, mail(&format!("user{n}@example.org"))).await;
        postrider.wait(id).await.unwrap();
    }
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn a_connection_carries_no_more_mails_than_it_may() {
    let server = FakeSmtp::start().await;
    let relay = relay_at(&server).connections(1).messages_per_connection(3);
    let postrider = engine(relay, &Clock::fake()).start().await.unwrap();
    let mails = (0..7)
        .map(|n| mail(&format!("user{n}@example.org")))
        .collect();
    for receipt in postrider.submit_many(mails).await {
        postrider.wait(receipt.unwrap().id).await.unwrap();
    }
    let connections: Vec<usize> = server.mails().iter().map(|mail| mail.connection).collect();
    assert_eq!(connections, [1, 1, 1, 2, 2, 2, 3]);
}

#[tokio::test]
async fn there_are_never_more_connections_than_allowed_and_the_last_is_for_critical_mail() {
    let server = FakeSmtp::builder()
        .turnaround(Duration::from_millis(1))
        .start()
        .await;
    let postrider = engine(relay_at(&server).connections(3), &Clock::fake())
        .start()
        .await
        .unwrap();

    let bulk = |n: usize| {
        mail_to(&format!("user{n}@example.org"))
            .priority(Priority::Bulk)
            .build()
            .unwrap()
    };

    let receipts = postrider.submit_many((0..200).map(bulk).collect()).await;
    for receipt in receipts {
        becomes(&postrider, receipt.unwrap().id, "delivered").await;
    }

    assert_eq!(
        server.peak_connections(),
        2,
        "two of three are for everybody"
    );

    let mixed = |n: usize| {
        let priority = Priority::ALL[n % 3];
        mail_to(&format!("user{n}@example.org"))
            .priority(priority)
            .build()
            .unwrap()
    };

    postrider.submit_many((0..400).map(mixed).collect()).await;
    eventually("all arrived", async || server.accepted() == 600).await;
    assert_eq!(server.peak_connections(), 3);
}

#[tokio::test]
async fn a_server_that_offers_pipelining_and_does_not_bear_it_is_spoken_to_in_lock_step() {
    let pipelined = |refusal: &'static str| {
        let rule = Rule::at(Step::Mail).first(1);
        FakeSmtp::builder().rule(rule.act(Act::ReplyThenCut(554, refusal.into())))
    };
    for server in [
        FakeSmtp::builder().drops_what_is_behind_mail(),
        pipelined("5.5.0 improper command pipelining"),
        pipelined("SMTP synchronization error"),
    ] {
        let server = server.start().await;
        let clock = Clock::fake();
        let relay = relay_at(&server).connections(1).timeouts(TimeOuts {
            command: Duration::from_millis(300),
            ..TimeOuts::all(seconds(10))
        });
        let postrider = engine(relay, &clock).start().await.unwrap();
        for n in 0..4 {
            let id = submit(&postrider, mail(&format!("to{n}@example.org"))).await;
            let status = as_time_passes(&clock, async { postrider.wait(id).await.unwrap() }).await;
            assert_eq!(status.state.as_str(), "delivered", "{status:#?}");
            assert_eq!(status.deliveries[0].attempts_counted, 0, "{status:#?}");
        }
        assert!(server.connections() <= 2, "{}", server.connections());
        assert!(server.mails().iter().all(|mail| !mail.pipelined));
    }
}

#[tokio::test]
async fn a_session_that_has_lost_its_login_is_followed_by_another() {
    for (code, text) in [
        (530, "5.7.0 Authentication required"),
        (535, "5.7.8 Error: the session has expired"),
        (454, "4.7.0 Temporary authentication failure"),
    ] {
        let server = FakeSmtp::builder()
            .rule(
                Rule::at(Step::Mail)
                    .on_connection(1)
                    .act(Act::reply(code, text)),
            )
            .start()
            .await;
        let relay = relay_at(&server).connections(1);
        let postrider = engine(relay, &Clock::fake()).start().await.unwrap();
        // No time passes: nothing has to wait for that.
        let id = submit(&postrider, mail("ada@example.org")).await;
        becomes(&postrider, id, "delivered").await;
        assert_eq!(server.connections(), 2, "{text}");
    }
}

#[tokio::test]
async fn a_recipient_over_whom_every_session_ends_teaches_nothing_of_sessions() {
    let server = FakeSmtp::builder()
        .rule(Rule::at(Step::Rcpt).to("bad"))
        .start()
        .await;
    let relay = relay_at(&server).connections(1);
    let postrider = engine(relay, &Clock::fake()).start().await.unwrap();
    for n in 0..6 {
        let good = submit(&postrider, mail(&format!("good{n}@example.org"))).await;
        becomes(&postrider, good, "delivered").await;
        let bad = submit(&postrider, mail(&format!("bad@d{n}.example"))).await;
        becomes(&postrider, bad, "deferred").await;
    }
    let relay = &postrider.relays().await.unwrap()[0];
    assert_eq!(relay.messages_per_session, None);
}

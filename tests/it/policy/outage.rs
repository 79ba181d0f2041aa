//! A relay that is down: its breaker opens, no mail is charged for it, the route's next relay is
//! taken meanwhile, and one connection finds out when it is up again.

use postrider::delivery::{Outcome, Phase, Reply};
use postrider::transport::TimeOuts;
use postrider::{Clock, Dispatcher, EventKind, Match, Priority, Relay, hours, seconds};

use crate::common::{
    Act, Cert, EventLog, FakeSmtp, Rule, ScriptedRelay, Step, a_moment, as_time_passes, becomes,
    engine, eventually, mail, mail_to, relay_at, steady, submit,
};

/// Sees a relay go down with mail waiting, and come back when `mend` was called.
async fn assert_costs_nothing(relay: Relay, reason: &str, mend: impl AsyncFnOnce()) {
    let clock = Clock::fake();
    let postrider = engine(relay.timeouts(TimeOuts::all(seconds(10))), &clock)
        .start()
        .await
        .unwrap();
    let mut told = EventLog::by(&postrider);
    let ids = [
        submit(&postrider, mail("ada@example.org")).await,
        submit(&postrider, mail("bob@example.org")).await,
    ];
    let down = told.first("relay_down").await;
    let EventKind::RelayDown { reason: why } = down.kind else {
        panic!("{down:?}")
    };

    assert!(why.contains(reason), "{why}");
    assert_eq!(down.relay.as_deref(), Some("primary"));
    let status = &postrider.relays().await.unwrap()[0];
    assert_eq!(
        (status.state.as_str(), status.breaker.as_str()),
        ("down", "open")
    );

    assert_eq!(status.last_failure.as_deref(), Some(why.as_str()));
    for id in ids {
        let status = becomes(&postrider, id, "queued").await;
        assert!(status.deliveries[0].attempts.is_empty());
        assert_eq!(status.deliveries[0].attempts_counted, 0);
    }

    mend().await;
    clock.advance(seconds(1));
    told.first("relay_up").await;
    for id in ids {
        let status = postrider.wait(id).await.unwrap();
        assert_eq!(
            (status.state.as_str(), status.deliveries[0].attempts.len()),
            ("delivered", 1),
            "{reason}"
        );
    }

    assert_eq!(postrider.relays().await.unwrap()[0].state, "up");
}

#[tokio::test]
async fn a_relay_that_refuses_connections_costs_no_attempt() {
    let stopped = FakeSmtp::start().await;
    let relay = relay_at(&stopped);
    let address = stopped.stop().await;
    let mut mended = None;
    assert_costs_nothing(relay, "connect", async || {
        mended = Some(FakeSmtp::builder().bind(address).start().await)
    })
    .await;
    assert_eq!(mended.unwrap().accepted(), 2);
}

#[tokio::test]
async fn a_relay_that_sends_us_away_costs_no_attempt() {
    let ways = [
        (
            Step::Greeting,
            Act::reply(421, "4.3.2 maintenance"),
            "421 4.3.2 maintenance",
        ),
        (
            Step::Greeting,
            Act::reply(554, "5.7.1 you are blocked"),
            "554 5.7.1 you are blocked",
        ),
        (Step::Greeting, Act::Cut, "greeting"),
        (Step::Ehlo, Act::reply(550, "5.7.1 go away"), "ehlo"),
        (Step::Ehlo, Act::Cut, "ehlo"),
        (
            Step::Mail,
            Act::ReplyThenCut(421, "4.7.0 too many".into()),
            "421 4.7.0 too many",
        ),
    ];

    for (step, act, reason) in ways {
        let server = FakeSmtp::builder().at(step, act).start().await;
        assert_costs_nothing(relay_at(&server), reason, async || server.behave()).await;
    }
}

#[tokio::test]
async fn a_relay_that_refuses_our_login_costs_no_attempt_and_the_secret_is_not_shown() {
    let server = FakeSmtp::builder()
        .login("user", "s3cret-pw")
        .mechanisms("PLAIN")
        .starttls(Cert::Good);
    let refusal = Act::reply(535, "5.7.8 wrong password");
    let server = server.rule(Rule::at(Step::Auth).act(refusal)).start().await;
    let url = server.url_with("smtp+starttls", "user:s3cret-pw");
    let relay = Relay::smtp(&url)
        .unwrap()
        .name("primary")
        .ca_file(server.ca_file());

    assert_costs_nothing(
        relay,
        "auth: the server refused: 535 5.7.8 wrong password",
        async || server.behave(),
    )
    .await;
}

#[tokio::test]
async fn each_attempt_says_how_it_was_secured() {
    let refusal = Act::reply(550, "5.1.1 no such user");
    let server = FakeSmtp::builder()
        .starttls(Cert::Good)
        .rule(Rule::at(Step::Rcpt).to("eve").act(refusal));
    let server = server.start().await;
    let plain = FakeSmtp::start().await;
    for (url, is_secured) in [
        (server.url_with("smtp+starttls", ""), true),
        (plain.url(), false),
    ] {
        let relay = Relay::smtp(&url).unwrap().name("primary");
        let relay = match is_secured {
            true => relay.ca_file(server.ca_file()),
            false => relay,
        };
        let postrider = engine(relay, &Clock::fake()).start().await.unwrap();
        for to in ["ada@example.org", "eve@example.org"] {
            let id = submit(&postrider, mail_to(to).text("t").build().unwrap()).await;
            let status = postrider.wait(id).await.unwrap();
            let tls = &status.deliveries[0].attempts[0].tls;
            let version = tls.as_ref().map(|tls| tls.version.as_str());
            assert_eq!(version, is_secured.then_some("TLSv1.3"));

            let told = serde_json::to_value(&status).unwrap();
            let told = &told["deliveries"][0]["attempts"][0]["tls"];
            assert_eq!(told.is_null(), !is_secured);
            assert_eq!(told["cipher"].is_string(), is_secured);
        }
    }
}

#[tokio::test]
async fn a_relay_whose_tls_is_broken_costs_no_attempt() {
    let server = FakeSmtp::builder()
        .starttls(Cert::Good)
        .at(Step::Handshake, Act::Cut)
        .start()
        .await;
    let url = server.url_with("smtp+starttls", "");
    let relay = Relay::smtp(&url)
        .unwrap()
        .name("primary")
        .ca_file(server.ca_file());
    assert_costs_nothing(relay, "tls", async || server.behave()).await;
    assert!(server.mails().iter().all(|mail| mail.encrypted));
}

#[tokio::test]
async fn a_relay_that_may_be_back_is_probed_by_one_connection_before_the_rest_follows() {
    let (clock, scripted) = (Clock::fake(), ScriptedRelay::held());
    scripted.down(Some("no route to host"));
    let postrider = engine(scripted.relay().connections(8), &clock)
        .start()
        .await
        .unwrap();
    let mut told = EventLog::by(&postrider);

    let mails = (0..40)
        .map(|n| mail(&format!("user{n}@example.org")))
        .collect();
    postrider.submit_many(mails).await;
    told.first("relay_down").await;
    scripted.down(None);
    a_moment().await;

    assert!(scripted.begun().is_empty(), "it rests first");
    clock.advance(seconds(1));
    scripted.begins(1).await;
    a_moment().await;

    assert_eq!(
        (scripted.begun().len(), scripted.open()),
        (1, 1),
        "one mail over one connection"
    );

    assert_eq!(postrider.relays().await.unwrap()[0].breaker, "half_open");
    scripted.let_through(1);
    told.first("relay_up").await;
    scripted.begins(8).await;

    assert_eq!(scripted.most_sending(), 7, "all that are for everybody");
    scripted.let_go();
    eventually("all delivered", async || postrider.delivered() == 40).await;
    assert_eq!(scripted.begun().len(), 40);
}

#[tokio::test]
async fn a_probe_that_fails_leaves_the_relay_alone_for_longer() {
    let (clock, scripted) = (Clock::fake(), ScriptedRelay::free());
    scripted.down(Some("no route to host"));
    let postrider = engine(scripted.relay(), &clock).start().await.unwrap();
    let mut told = EventLog::by(&postrider);
    let id = submit(&postrider, mail("ada@example.org")).await;

    told.first("relay_down").await;
    scripted.down(Some("still no route"));
    clock.advance(seconds(1));
    eventually("the probe has failed", async || {
        let relay = postrider.relays().await.unwrap().remove(0);
        relay.breaker == "open" && relay.last_failure.unwrap().contains("still")
    })
    .await;
    scripted.down(None);

    // Its second rest is one to two seconds.
    clock.advance(std::time::Duration::from_millis(999));
    a_moment().await;
    assert!(scripted.begun().is_empty());
    clock.advance(std::time::Duration::from_millis(1001));

    assert_eq!(
        postrider.wait(id).await.unwrap().state.as_str(),
        "delivered"
    );

    assert_eq!(
        told.until("delivered")
            .await
            .iter()
            .filter(|event| event.kind.as_str() == "relay_down")
            .count(),
        0
    );
}

/// Two relays, the second taken while the first cannot be.
async fn two(first: &FakeSmtp, second: &FakeSmtp, clock: &Clock) -> Dispatcher {
    let builder = Dispatcher::builder()
        .relay(relay_at(first))
        .relay(relay_at(second).name("backup"));
    let builder = builder
        .route(Match::default(), ["primary", "backup"])
        .clock(clock.clone())
        .retry(steady());
    builder.start().await.unwrap()
}

#[tokio::test]
async fn the_next_relay_is_taken_while_the_first_is_down_and_the_first_again_after() {
    let first = FakeSmtp::builder()
        .at(Step::Greeting, Act::reply(421, "4.3.2 maintenance"))
        .start()
        .await;
    let second = FakeSmtp::start().await;
    let clock = Clock::fake();
    let postrider = two(&first, &second, &clock).await;
    let mut told = EventLog::by(&postrider);

    for n in 0..5 {
        let id = submit(&postrider, mail(&format!("user{n}@example.org"))).await;
        let status = postrider.wait(id).await.unwrap();
        assert_eq!(status.deliveries[0].attempts[0].relay, "backup");
        assert_eq!(status.deliveries[0].attempts.len(), 1);
    }

    assert_eq!((first.accepted(), second.accepted()), (0, 5));
    first.behave();
    clock.advance(seconds(1));

    // Either relay may take the mail that finds the first one up again.
    eventually("the first is up again", async || {
        let id = submit(&postrider, mail("probe@example.org")).await;
        postrider.wait(id).await.unwrap();
        postrider.relays().await.unwrap()[0].state == "up"
    })
    .await;
    told.first("relay_up").await;

    let before = second.accepted();
    for n in 0..5 {
        let id = submit(&postrider, mail(&format!("user{n}@example.org"))).await;
        assert_eq!(
            postrider.wait(id).await.unwrap().deliveries[0].attempts[0].relay,
            "primary"
        );
    }

    assert_eq!(second.accepted(), before);
}

#[tokio::test]
async fn a_paused_relay_sends_nothing_and_the_next_one_is_taken_until_it_is_resumed() {
    let (first, second) = (FakeSmtp::start().await, FakeSmtp::start().await);
    let postrider = two(&first, &second, &Clock::fake()).await;
    for (paused, relay) in [(true, "backup"), (false, "primary")] {
        if paused {
            postrider.pause("primary").await.unwrap()
        } else {
            postrider.resume("primary").await.unwrap()
        }
        let id = submit(&postrider, mail("ada@example.org")).await;
        assert_eq!(
            postrider.wait(id).await.unwrap().deliveries[0].attempts[0].relay,
            relay
        );
        assert_eq!(
            postrider.relays().await.unwrap()[0].state,
            if paused { "paused" } else { "up" }
        );
    }

    let unknown = postrider.pause("tertiary").await.unwrap_err();
    assert_eq!(unknown.to_string(), "there is no relay named `tertiary`");
    postrider.pause("primary").await.unwrap();
    postrider.pause("backup").await.unwrap();

    let id = submit(&postrider, mail("bob@example.org")).await;
    a_moment().await;
    assert_eq!(postrider.status(id).await.unwrap().state.as_str(), "queued");
    postrider.resume("backup").await.unwrap();

    assert_eq!(
        postrider.wait(id).await.unwrap().state.as_str(),
        "delivered"
    );
}

#[tokio::test]
async fn mail_that_was_refused_for_itself_does_not_close_the_relay_to_others() {
    let server = FakeSmtp::builder()
        .rule(
            Rule::at(Step::Rcpt)
                .to("bad")
                .act(Act::reply(550, "5.1.1 no such user")),
        )
        .start()
        .await;
    let postrider = engine(relay_at(&server), &Clock::fake())
        .start()
        .await
        .unwrap();

    for n in 0..10 {
        let id = submit(&postrider, mail(&format!("bad{n}@example.org"))).await;
        assert_eq!(postrider.wait(id).await.unwrap().state.as_str(), "dead");
    }

    assert_eq!(postrider.relays().await.unwrap()[0].state, "up");
    let id = submit(&postrider, mail("ada@example.org")).await;
    assert_eq!(
        postrider.wait(id).await.unwrap().state.as_str(),
        "delivered"
    );
}

#[tokio::test]
async fn a_mail_over_which_a_relay_breaks_off_every_time_does_not_block_those_behind_it() {
    let (clock, scripted) = (Clock::fake(), ScriptedRelay::free());
    scripted.answer(|mail| match mail.recipients[0].as_str() {
        "poison@example.org" => {
            Outcome::Unavailable(Phase::MailFrom, "421 4.3.0 internal error".into())
        }
        _ => Outcome::Delivered(Reply::new(250, "2.0.0 taken")),
    });

    let postrider = engine(scripted.relay().connections(1), &clock)
        .start()
        .await
        .unwrap();

    let urgent = mail_to("poison@example.org")
        .priority(Priority::Critical)
        .expires_in(hours(9))
        .build()
        .unwrap();

    submit(&postrider, urgent).await;
    let poison = submit(&postrider, mail("poison@example.org")).await;

    let ada = submit(&postrider, mail("ada@example.org")).await;
    let status = as_time_passes(&clock, postrider.wait(ada)).await.unwrap();
    assert_eq!(status.state.as_str(), "delivered");

    let tried = eventually("it is held to be the mail's doing", async || {
        let delivery = postrider.status(poison).await.unwrap().deliveries.remove(0);
        delivery
            .attempts
            .first()
            .is_some_and(|first| first.phase == Phase::MailFrom && delivery.attempts_counted == 0)
    });
    as_time_passes(&clock, tried).await;
}

#[tokio::test]
async fn an_answer_that_does_not_come_does_not_keep_a_relay_from_being_probed() {
    let (clock, scripted) = (Clock::fake(), ScriptedRelay::held());
    let postrider = engine(scripted.relay().connections(3), &clock)
        .start()
        .await
        .unwrap();
    let mut told = EventLog::by(&postrider);

    submit(&postrider, mail("first@example.org")).await;
    scripted.begins(1).await;
    scripted.down(Some("no route to host"));
    submit(&postrider, mail("second@example.org")).await;
    told.first("relay_down").await;
    scripted.down(None);
    clock.advance(seconds(1));

    assert_eq!(
        scripted.begins(2).await[1],
        "second@example.org",
        "while the first still waits for its answer"
    );

    scripted.let_through(2);
    told.first("relay_up").await;
}

#[tokio::test]
async fn a_relay_that_is_down_uses_up_none_of_its_rate() {
    let (clock, first, second) = (Clock::fake(), ScriptedRelay::free(), ScriptedRelay::free());
    first.down(Some("no route to host"));
    let slow = first.relay().rate("1/h".parse().unwrap());
    let builder = Dispatcher::builder()
        .relay(slow)
        .relay(second.relay().name("backup"));
    let builder = builder
        .route(Match::default(), ["primary", "backup"])
        .clock(clock.clone())
        .retry(steady());
    let postrider = builder.start().await.unwrap();
    let id = submit(&postrider, mail("ada@example.org")).await;
    let status = tokio::time::timeout(seconds(30), postrider.wait(id))
        .await
        .expect("at once")
        .unwrap();

    assert_eq!(status.deliveries[0].attempts[0].relay, "backup");
}

#[tokio::test]
async fn a_pause_holds_back_what_senders_have_and_did_not_begin() {
    let scripted = ScriptedRelay::held();
    let postrider = engine(scripted.relay().connections(1), &Clock::fake())
        .start()
        .await
        .unwrap();

    postrider.pause("primary").await.unwrap();
    postrider
        .submit_many(
            (0..5)
                .map(|n| mail(&format!("user{n}@example.org")))
                .collect(),
        )
        .await;
    postrider.resume("primary").await.unwrap();
    scripted.begins(1).await;

    assert_eq!(postrider.relays().await.unwrap()[0].backlog, 5);
    postrider.pause("primary").await.unwrap();
    scripted.let_go();
    eventually("the first is delivered", async || {
        postrider.delivered() == 1
    })
    .await;
    a_moment().await;

    assert_eq!(scripted.begun().len(), 1);
    postrider.resume("primary").await.unwrap();
    eventually("all are delivered", async || postrider.delivered() == 5).await;
}

#[tokio::test]
async fn a_relay_that_cannot_take_anything_and_says_that_it_can_be_used_is_down() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let relay = Relay::smtp(&format!("capture://{}/", file.display()))
        .unwrap()
        .name("primary");
    let postrider = engine(relay, &Clock::fake()).start().await.unwrap();
    let mut told = EventLog::by(&postrider);

    submit(&postrider, mail("ada@example.org")).await;
    let down = told.first("relay_down").await;
    let EventKind::RelayDown { reason } = down.kind else {
        panic!("{down:?}")
    };

    assert!(reason.contains("cannot write to"), "{reason}");
}

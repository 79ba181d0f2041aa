//! Why a mail waits is in its record, and a mail is found by other names than its whole id.

use postrider::{Clock, Dispatcher, Error, Mail, MailId, Rate, Relay, Submitter, Waits, hours};

use crate::common::{
    Act, FakeSmtp, Rule, Step, TestSpool, as_time_passes, engine, eventually, mail, mail_to,
    relay_at, steady, submit,
};

async fn waits(postrider: &Dispatcher, id: MailId) -> Option<Waits> {
    postrider.status(id).await.unwrap().deliveries[0]
        .waits
        .clone()
}

/// Waits until the mail waits for this, and says how.
async fn comes_to_wait(postrider: &Dispatcher, id: MailId, reason: &str) -> Waits {
    let last = std::cell::RefCell::new(None);
    eventually(&format!("it waits: {reason}"), async || {
        let now = waits(postrider, id).await;
        let holds = now.as_ref().is_some_and(|waits| waits.because == reason);
        *last.borrow_mut() = now;
        holds
    })
    .await;
    last.into_inner().unwrap()
}

#[tokio::test]
async fn the_record_of_a_mail_that_waits_says_why() {
    let server = FakeSmtp::builder()
        .rule(
            Rule::at(Step::Rcpt)
                .to("later@")
                .act(Act::reply(450, "4.2.1 come back later")),
        )
        .rule(
            Rule::at(Step::Rcpt)
                .to("@slow.example")
                .act(Act::reply(451, "4.4.1 no answer from there")),
        )
        .start()
        .await;
    let clock = Clock::fake();
    let postrider = engine(relay_at(&server).connections(1), &clock)
        .start()
        .await
        .unwrap();

    let scheduled = mail_to("ada@example.org").delay(hours(1)).build().unwrap();
    let scheduled = submit(&postrider, scheduled).await;
    let why = waits(&postrider, scheduled).await.unwrap();
    assert!(why.because == "scheduled" && why.until == Some(clock.now() + hours(1)));

    let later = submit(&postrider, mail("later@example.org")).await;
    let why = comes_to_wait(&postrider, later, "retry").await;
    assert_eq!(why.text.as_deref(), Some("450 4.2.1 come back later"));
    assert_eq!(why.relay.as_deref(), Some("primary"));
    assert!(why.until.is_some_and(|until| until > clock.now()));

    let mut slow = Vec::new();
    for n in 0..6 {
        slow.push(submit(&postrider, mail(&format!("to{n}@slow.example"))).await);
    }

    let why = comes_to_wait(&postrider, slow[5], "domain_rests").await;
    assert!(why.text.unwrap().contains("451 4.4.1 no answer"));
    assert_eq!(why.since, Some(clock.now()));

    postrider.pause("primary").await.unwrap();
    let paused = submit(&postrider, mail("bob@example.org")).await;
    let why = comes_to_wait(&postrider, paused, "paused").await;
    assert_eq!(why.to_string(), "the relay primary is paused");
    postrider.resume("primary").await.unwrap();

    let status = as_time_passes(&clock, async { postrider.wait(paused).await.unwrap() }).await;
    assert_eq!(status.deliveries[0].waits, None, "what has ended does not");
}

#[tokio::test]
async fn a_mail_whose_relay_refuses_everything_says_so_and_so_does_readiness() {
    let server = FakeSmtp::builder()
        .at(
            Step::Mail,
            Act::reply(452, "4.3.1 Insufficient system storage"),
        )
        .start()
        .await;
    let clock = Clock::fake();

    let backup = FakeSmtp::start().await;
    let postrider = Dispatcher::builder()
        .relay(relay_at(&server).connections(1))
        .relay(Relay::smtp(&backup.url()).unwrap().name("backup"))
        .route(
            postrider::Match {
                tag: vec!["own".into()],
                ..Default::default()
            },
            ["primary"],
        )
        .route(postrider::Match::default(), ["primary", "backup"])
        .test_spool()
        .clock(clock.clone())
        .retry(steady())
        .start()
        .await
        .unwrap();
    assert_eq!(postrider.health().warnings, Vec::<String>::new());

    let own = mail_to("ada@example.org").tag("own").build().unwrap();
    let own = submit(&postrider, own).await;
    let why = comes_to_wait(&postrider, own, "relay_down").await;
    assert!(why.text.clone().unwrap().contains("452 4.3.1 Insufficient"));
    assert_eq!(why.since, Some(clock.now()));
    assert!(why.to_string().starts_with("the relay primary is down: "));

    let relay = postrider.relays().get("primary").await.unwrap();
    assert_eq!((relay.state.as_str(), relay.since), ("down", why.since));
    let health = postrider.health();
    assert!(health.ready, "what is accepted waits");
    assert_eq!(health.warnings.len(), 1, "{health:?}");
    assert!(health.warnings[0].contains("primary") && health.warnings[0].contains("452 4.3.1"));

    let other = submit(&postrider, mail("bob@example.org")).await;
    postrider.wait(other).await.unwrap();
    assert_eq!(backup.accepted(), 1);

    server.behave();
    as_time_passes(&clock, async { postrider.wait(own).await.unwrap() }).await;
    assert_eq!(postrider.health().warnings, Vec::<String>::new());
    assert_eq!(postrider.relays().get("primary").await.unwrap().since, None);
}

#[tokio::test]
async fn a_mail_that_waits_for_a_rate_or_a_busy_connection_says_so() {
    let server = FakeSmtp::builder()
        .at(Step::FinalDot, Act::Hang)
        .start()
        .await;

    let busy = engine(relay_at(&server).connections(1), &Clock::fake());
    let busy = busy.start().await.unwrap();
    submit(&busy, mail("ada@example.org")).await;
    server.connections_come(1).await;

    // The first is being sent, and the next may be claimed ahead: one of many waits in the queue.
    let mut last = None;
    for n in 0..200 {
        last = Some(submit(&busy, mail(&format!("to{n}@example.org"))).await);
    }
    comes_to_wait(&busy, last.unwrap(), "busy").await;

    let server = FakeSmtp::start().await;
    let rate: Rate = "1/h".parse().unwrap();

    let slow = engine(relay_at(&server).connections(2).rate(rate), &Clock::fake());
    let slow = slow.start().await.unwrap();
    let first = submit(&slow, mail("ada@example.org")).await;
    slow.wait(first).await.unwrap();

    let second = submit(&slow, mail("bob@example.org")).await;
    let why = comes_to_wait(&slow, second, "rate").await;
    assert_eq!(why.text.as_deref(), Some("1/h"));
}

fn keyed(key: &str, from: &str) -> Mail {
    let mail = Mail::builder()
        .from(from)
        .to("ada@example.org")
        .subject("s")
        .text("t")
        .idempotency_key(key);
    mail.build().unwrap()
}

#[tokio::test]
async fn a_mail_is_found_by_key_message_id_sender_and_the_first_characters_of_its_id() {
    let server = FakeSmtp::start().await;
    let postrider = engine(relay_at(&server), &Clock::fake());
    let postrider = postrider.start().await.unwrap();
    let one = submit(&postrider, keyed("order-1", "shop@example.com")).await;
    let two = submit(&postrider, keyed("order-2", "news@example.com")).await;
    let three = submit(&postrider, keyed("order-3", "news@example.com")).await;

    let message_id = postrider.status(one).await.unwrap().message_id;
    let whole = one.to_string();
    let bare = message_id.trim_matches(['<', '>']).to_owned();
    for name in [
        whole.as_str(),
        &whole.replace('-', "").to_uppercase(),
        &whole[..35],
        &whole.replace('-', "")[..31],
        "order-1",
        &message_id,
        &bare,
        "Shop@example.com",
    ] {
        assert_eq!(postrider.find(name, None).await, Ok(one), "{name}");
    }

    // They were made within the same moments.
    let common = &whole[..4];
    for name in ["news@example.com", common] {
        let Err(Error::Ambiguous { mails, .. }) = postrider.find(name, None).await else {
            panic!("{name} fits several")
        };
        assert!(mails.contains(&two) && mails.contains(&three), "{mails:?}");
    }

    for name in [
        "order",
        "",
        " ",
        "abc",
        "ffff",
        "nobody@example.com",
        "<x@y>",
    ] {
        let found = postrider.find(name, None).await;
        assert!(
            matches!(found, Err(Error::UnknownName(_))),
            "{name} {found:?}"
        );
    }
}

#[tokio::test]
async fn another_ones_mail_is_found_by_no_name() {
    let server = FakeSmtp::start().await;
    let postrider = engine(relay_at(&server), &Clock::fake());
    let postrider = postrider.start().await.unwrap();
    let (ada, bob) = (
        Submitter::Token("ada".into()),
        Submitter::Token("bob".into()),
    );

    let as_ada = postrider.on_behalf_of(ada.clone());
    let its = submit(&as_ada, keyed("order-1", "shop@example.com")).await;
    let as_bob = postrider.on_behalf_of(bob.clone());
    let his = submit(&as_bob, keyed("order-1", "shop@example.com")).await;

    assert_eq!(postrider.find("order-1", Some(&ada)).await, Ok(its));
    assert_eq!(postrider.find("order-1", Some(&bob)).await, Ok(his));
    assert!(matches!(
        postrider.find("order-1", None).await,
        Err(Error::Ambiguous { .. })
    ));
}

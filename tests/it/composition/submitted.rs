//! Every way in, through the engine to a server: what arrives is what was frozen; what is refused
//! is nowhere.

use lettre::{AsyncTransport, Message, message::header::ContentType};
use postrider::{
    Clock, Dispatcher, Durability, Envelope, Error, Mail, Match, Query, Receipt, minutes,
};

use super::minimal;
use crate::common::{FakeSmtp, TestSpool, engine, relay_at, steady};

fn lettre_message() -> Message {
    Message::builder()
        .from("Shop <shop@example.com>".parse().unwrap())
        .to("Ada <ada@example.org>".parse().unwrap())
        .cc("bob@example.org".parse().unwrap())
        .bcc("carl@example.org".parse().unwrap())
        .subject("Grüße")
        .header(ContentType::TEXT_PLAIN)
        .body(String::from("Hello.\r\n.leading dot\r\n"))
        .unwrap()
}

async fn running(server: &FakeSmtp) -> Dispatcher {
    engine(relay_at(server).connections(1), &Clock::fake())
        .start()
        .await
        .unwrap()
}

/// What a program that uses lettre does; it does not know which transport it was given.
async fn register<T>(mailer: &T) -> Result<T::Ok, T::Error>
where
    T: AsyncTransport + Sync,
    T::Error: std::fmt::Debug,
{
    mailer.send(lettre_message()).await
}

#[tokio::test]
async fn a_program_that_uses_lettre_gains_a_durable_queue() {
    let (server, dir) = (FakeSmtp::start().await, tempfile::tempdir().unwrap());

    let builder = engine(relay_at(&server), &Clock::fake()).test_spool_in(dir.path());
    let postrider = builder.start().await.unwrap();
    let receipt: Receipt = register(&postrider).await.unwrap();
    assert_eq!(
        (receipt.durability, receipt.duplicate),
        (Durability::Synced, false)
    );

    assert_eq!(
        postrider.wait(receipt.id).await.unwrap().state.as_str(),
        "delivered"
    );

    let arrived = server.mails_arrive(1).await.remove(0);
    assert_eq!(arrived.return_path, "shop@example.com");
    assert_eq!(
        arrived.recipients,
        ["ada@example.org", "bob@example.org", "carl@example.org"]
    );

    assert!(
        !arrived.text().contains("carl"),
        "a blind copy stays blind: {}",
        arrived.text()
    );

    assert!(
        arrived
            .text()
            .ends_with("\r\n\r\nHello.\r\n.leading dot\r\n"),
        "{}",
        arrived.text()
    );

    assert!(arrived.text().contains("\r\nMessage-ID: <"));
}

#[tokio::test]
async fn lettres_raw_way_in_takes_its_envelope_as_it_is() {
    let server = FakeSmtp::start().await;
    let postrider = running(&server).await;

    let to = vec!["ada@example.org".parse().unwrap()];
    let envelope = lettre::address::Envelope::new(None, to).unwrap();
    let receipt = postrider
        .send_raw(
            &envelope,
            b"From: a@example.com\nX-Postrider-Priority: critical\nSubject: bounce\n\nGone.\n",
        )
        .await
        .unwrap();

    let status = postrider.wait(receipt.id).await.unwrap();
    assert_eq!(status.priority, postrider::Priority::Critical);
    let arrived = server.mails_arrive(1).await.remove(0);
    assert!(!arrived.text().contains("X-Postrider"));
    assert_eq!(
        (arrived.return_path.as_str(), arrived.recipients.as_slice()),
        ("", ["ada@example.org".to_owned()].as_slice())
    );

    assert!(arrived.text().ends_with("\r\n\r\nGone.\r\n"));
}

#[tokio::test]
async fn what_arrives_is_what_was_frozen_to_the_byte() {
    let server = FakeSmtp::start().await;
    let postrider = running(&server).await;
    let envelope = Envelope::new(None, vec!["ada@example.org".parse().unwrap()]).unwrap();

    let written = "From: a@example.com\nDate: Mon, 1 Jan 2024 00:00:00 +0000\nSubject: x\n\
                   MIME-Version: 1.0\n\
                   Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: 8bit\n\n.\n\
                   ..\nnaïve\n\n.";
    let mails = [
        minimal()
            .html("<p>123456</p>")
            .text(".\n..\n\n.dots\n")
            .build()
            .unwrap(),
        Mail::from_lettre(&lettre_message()).unwrap(),
        Mail::from_rfc5322(envelope, written).unwrap(),
    ];

    for (at, mail) in mails.into_iter().enumerate() {
        let frozen = mail.message().clone();
        let id = postrider.submit(mail).await.unwrap().id;
        assert_eq!(
            postrider.wait(id).await.unwrap().state.as_str(),
            "delivered"
        );
        let arrived = server.mails_arrive(at + 1).await.remove(at);
        let mut expected = frozen.to_vec();
        if !expected.ends_with(b"\r\n") {
            expected.extend_from_slice(b"\r\n");
        }
        assert_eq!(arrived.message, expected);
        assert_eq!(postrider.raw(id).await.unwrap(), frozen);
    }
}

#[tokio::test]
async fn what_is_refused_names_its_field_and_is_nowhere() {
    let server = FakeSmtp::start().await;
    let clock = Clock::fake();
    let postrider = engine(relay_at(&server), &clock)
        .max_message_size(50_000)
        .start()
        .await
        .unwrap();

    let refused = [
        ("message", minimal().text("x".repeat(60_000)).build()),
        ("expires_at", minimal().expires_at(clock.now()).build()),
        (
            "expires_in",
            minimal().delay(minutes(5)).expires_in(minutes(5)).build(),
        ),
        ("to[1]", minimal().to("ada@example..org").build()),
        (
            "headers.X-A",
            minimal().header("X-A", "a\r\nBcc: eve@example.org").build(),
        ),
        (
            "headers.X-A\\r\\nBcc",
            minimal().header("X-A\r\nBcc", "eve@example.org").build(),
        ),
        ("subject", minimal().subject("a\nb").build()),
    ];

    for (field, built) in refused {
        let error = match built {
            Ok(mail) => match postrider.submit(mail).await {
                Err(Error::Mail(error)) => error,
                other => panic!("{field}: {other:?}"),
            },
            Err(error) => error,
        };
        assert_eq!(error.field(), field);
        assert!(
            error.to_string().len() > field.len() + 10,
            "it says why: {error}"
        );
    }

    let junk: [(&str, &[u8]); 2] = [
        (
            "headers.Subject",
            b"From: a@example.com\r\nSubject: \x1b\r\n\r\nx\r\n",
        ),
        (
            "body",
            b"DKIM-Signature: v=1; b=x\r\nFrom: a@example.com\r\n\r\nnul \0\r\n",
        ),
    ];

    for (field, message) in junk {
        let envelope =
            lettre::address::Envelope::new(None, vec!["ada@example.org".parse().unwrap()]).unwrap();
        match postrider.send_raw(&envelope, message).await {
            Err(Error::Mail(error)) => assert_eq!(error.field(), field, "{error}"),
            other => panic!("{field}: {other:?}"),
        }
    }

    assert!(
        postrider
            .list(Query::default())
            .await
            .unwrap()
            .mails
            .is_empty()
    );

    let stats = postrider.stats().await.unwrap();
    assert_eq!((stats.accepted, stats.pending), (0, 0));
    assert_eq!(server.connections(), 0);
}

#[tokio::test]
async fn a_recipient_without_a_route_is_named() {
    let server = FakeSmtp::start().await;
    let only_org = Match {
        recipient_domain: vec!["example.org".into()],
        ..Match::default()
    };

    let builder = Dispatcher::builder()
        .relay(relay_at(&server))
        .route(only_org, ["primary"])
        .retry(steady());
    let postrider = builder.start().await.unwrap();

    let stray = minimal().to("bob@example.net").build().unwrap();
    let error = postrider.submit(stray.clone()).await.unwrap_err();
    assert_eq!(error, Error::NoRoute("bob@example.net".into()));
    assert_eq!(postrider.send_now(stray).await.unwrap_err(), error);

    assert!(
        postrider
            .list(Query::default())
            .await
            .unwrap()
            .mails
            .is_empty()
    );
}

#[tokio::test]
async fn one_key_is_one_mail() {
    let server = FakeSmtp::start().await;
    let postrider = running(&server).await;
    let keyed = |text: &str| {
        minimal()
            .text(text)
            .idempotency_key("order-7")
            .build()
            .unwrap()
    };

    let first = postrider.submit(keyed("one")).await.unwrap();
    let again = postrider.submit(keyed("one")).await.unwrap();
    assert_eq!(
        (again.id, again.duplicate, first.duplicate),
        (first.id, true, false)
    );

    assert_eq!(
        postrider.submit(keyed("two")).await.unwrap_err(),
        Error::KeyReused(first.id)
    );

    let both = postrider
        .submit_many(vec![keyed("one"), keyed("two")])
        .await;
    assert!(both[0].as_ref().is_ok_and(|receipt| receipt.duplicate) && both[1].is_err());
    postrider.wait(first.id).await.unwrap();
    postrider.wait_idle().await;

    assert_eq!(server.accepted(), 1);
}

#[tokio::test]
async fn what_cannot_be_started_says_which_part_and_why() {
    let relay = || {
        postrider::Relay::smtp("smtp://127.0.0.1:2525")
            .unwrap()
            .name("primary")
    };

    let builder = Dispatcher::builder;
    let mistakes = [
        (builder(), "there is no relay"),
        (
            builder().relay(relay()).relay(relay()),
            "two relays are named `primary`",
        ),
        (
            builder().relay(relay()).route(Match::default(), ["backup"]),
            "route 0 names the relay `backup`",
        ),
        (
            builder()
                .relay(relay())
                .route(Match::default(), Vec::<String>::new()),
            "route 0 names no relay",
        ),
        (builder().relay(relay()).max_pending(0), "max_pending is 0"),
        (
            builder().relay(relay().name("a b")),
            "relay `a b`: the relay's name",
        ),
    ];

    for (builder, why) in mistakes {
        let error = builder.start().await.map(|_| ()).unwrap_err();
        assert!(error.to_string().contains(why), "{error}");
    }
}

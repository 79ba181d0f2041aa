//! What a relay says beforehand that it cannot take: size, bytes above 127, addresses beyond ASCII.
//! The message is converted where that helps, and else the route's next relay is asked before that
//! is final.

use mail_parser::MessageParser;
use postrider::delivery::Outcome;
use postrider::{Clock, Dispatcher, Envelope, Mail, Relay};

use crate::common::{FakeSmtp, TestSpool, mail_to, relay_at, steady, submit};

const EIGHT_BIT: &str = "From: shop@example.com\r\nSubject: x\r\nMIME-Version: 1.0\r\n\
    Content-Type: multipart/mixed; boundary=a\r\n\r\n\
    --a\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n\
    Grüße\r\n\
    --a\r\nContent-Type: message/rfc822\r\n\r\nFrom: b@example.org\r\nMIME-Version: 1.0\r\n\
    Content-Type: text/plain; charset=utf-8\r\n\r\ngrößer\r\n--a--\r\n";

const SIGNED: &str = "From: shop@example.com\r\nSubject: x\r\nMIME-Version: 1.0\r\n\
    Content-Type: multipart/signed; boundary=s\r\n\r\n\
    --s\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n\
    Grüße\r\n\
    --s\r\nContent-Type: application/pgp-signature\r\n\r\nxxxx\r\n--s--\r\n";

fn written(to: &[&str], message: impl Into<Vec<u8>>) -> Mail {
    let to = to.iter().map(|to| to.parse().unwrap()).collect();
    let envelope = Envelope::new("shop@example.com".parse().ok(), to).unwrap();
    Mail::from_rfc5322(envelope, message.into()).unwrap()
}

/// An engine over these relays, in this order; time stands still.
async fn over(servers: &[&FakeSmtp]) -> Dispatcher {
    let mut builder = Dispatcher::builder()
        .test_spool()
        .clock(Clock::fake())
        .retry(steady());
    for (n, server) in servers.iter().enumerate() {
        builder = builder.relay(relay_at(server).name(format!("relay-{n}")).connections(1));
    }
    builder.start().await.unwrap()
}

/// What became of each recipient: the state, and the relay and enhanced code of its last attempt.
async fn ended(postrider: &Dispatcher, mail: Mail) -> Vec<(String, String, String)> {
    let id = submit(postrider, mail).await;
    let status = postrider.wait(id).await.unwrap();
    let deliveries = status.deliveries.iter().map(|delivery| {
        let last = delivery.attempts.last().unwrap();
        (
            delivery.state.as_str().to_owned(),
            last.relay.clone(),
            last.enhanced.clone().unwrap_or_default(),
        )
    });
    deliveries.collect()
}

fn one(state: &str, relay: &str, enhanced: &str) -> (String, String, String) {
    (state.to_owned(), relay.to_owned(), enhanced.to_owned())
}

#[tokio::test]
async fn bytes_above_127_are_converted_for_a_relay_without_8bitmime() {
    let server = FakeSmtp::builder().without("8BITMIME").start().await;
    let postrider = over(&[&server]).await;
    // Twice, the second one begun behind the first where it can be.
    for _ in 0..2 {
        let ended = ended(&postrider, written(&["ada@example.org"], EIGHT_BIT)).await;
        assert_eq!(ended[0].0, "delivered");
    }

    let sent = server.mails();
    assert_eq!(sent.len(), 2);
    for mail in sent {
        assert!(mail.message.is_ascii());
        assert_eq!(mail.parameters, [format!("SIZE={}", mail.message.len())]);
        let read = MessageParser::default().parse(&mail.message).unwrap();
        assert_eq!(read.body_text(0).unwrap().trim_end(), "Grüße");
        let inner = read.attachments().next().unwrap().message().unwrap();
        assert_eq!(inner.body_text(0).unwrap().trim_end(), "größer");
    }
}

#[tokio::test]
async fn what_is_signed_goes_to_the_next_relay_as_it_is_and_is_refused_where_there_is_none() {
    let (plain, able) = (
        FakeSmtp::builder().without("8BITMIME").start().await,
        FakeSmtp::start().await,
    );

    let postrider = over(&[&plain, &able]).await;
    let mail = written(&["ada@example.org"], SIGNED);
    let message = mail.message().to_vec();
    assert_eq!(
        ended(&postrider, mail).await,
        [one("delivered", "relay-1", "2.0.0")]
    );

    assert_eq!(able.mails()[0].message, message);
    assert_eq!(plain.accepted(), 0);

    let postrider = over(&[&plain]).await;
    let ended = ended(&postrider, written(&["ada@example.org"], SIGNED)).await;
    assert_eq!(ended, [one("dead", "relay-0", "5.6.3")]);
}

#[tokio::test]
async fn a_mail_that_is_too_large_for_one_relay_goes_to_the_next() {
    let small = || FakeSmtp::builder().capabilities(["PIPELINING", "SIZE 500"]);
    let (small, smaller, able) = (
        small().start().await,
        small().start().await,
        FakeSmtp::start().await,
    );

    let large = || {
        mail_to("ada@example.org")
            .text("x".repeat(600))
            .build()
            .unwrap()
    };

    let postrider = over(&[&small, &smaller, &able]).await;
    assert_eq!(ended(&postrider, large()).await[0].1, "relay-2");
    assert_eq!(able.accepted(), 1);
    let relay = &postrider.relays().await.unwrap()[0];
    assert_eq!(relay.state.as_str(), "up", "it refuses one mail alone");

    let postrider = over(&[&small, &smaller]).await;
    assert_eq!(
        ended(&postrider, large()).await,
        [one("dead", "relay-1", "5.3.4")]
    );
}

#[tokio::test]
async fn recipients_beyond_ascii_take_no_others_with_them() {
    let (plain, able) = (
        FakeSmtp::builder().without("SMTPUTF8").start().await,
        FakeSmtp::start().await,
    );

    let to = ["ada@example.org", "jürgen@example.org", "bob@example.org"];
    let mail = || written(&to, "From: shop@example.com\r\nSubject: x\r\n\r\nhi\r\n");
    let postrider = over(&[&plain, &able]).await;
    let relays: Vec<String> = ended(&postrider, mail())
        .await
        .into_iter()
        .map(|(state, relay, _)| format!("{state} {relay}"))
        .collect();

    assert_eq!(
        relays,
        [
            "delivered relay-0",
            "delivered relay-1",
            "delivered relay-0"
        ]
    );

    assert_eq!(
        plain.mails()[0].recipients,
        ["ada@example.org", "bob@example.org"]
    );

    assert!(!plain.mails()[0].parameters.contains(&"SMTPUTF8".to_owned()));
    assert_eq!(able.mails()[0].recipients, ["jürgen@example.org"]);

    let postrider = over(&[&plain]).await;
    let ended = ended(&postrider, mail()).await;
    let states: Vec<&str> = ended.iter().map(|(state, ..)| &**state).collect();
    assert_eq!(states, ["delivered", "dead", "delivered"]);
    assert_eq!(ended[1].2, "5.6.7");
}

/// A header that names an address beyond ASCII: composed here, and written by another program.
#[tokio::test]
async fn an_address_beyond_ascii_in_the_header_costs_other_recipients_nothing() {
    let composed = |field: &str| {
        let mail = Mail::builder()
            .from("shop@example.com")
            .subject("Grüße")
            .text("Grüße");
        let mail = mail.to("ada@example.org");
        let mail = match field {
            "To" => mail.to("Jürgen <jürgen@bücher.example>"),
            "Cc" => mail.cc("jürgen@bücher.example"),
            _ => mail.reply_to("jürgen@bücher.example"),
        };
        mail.build().unwrap()
    };
    let others = ["From", "Sender"].map(|field| {
        let from = if field == "From" {
            ""
        } else {
            "From: shop@example.com\r\n"
        };
        let message = format!(
            "{from}{field}: Jürgen <jürgen@bücher.example>\r\nSubject: Grüße\r\n\r\nhi\r\n"
        );
        (field, written(&["ada@example.org"], message))
    });
    let mails = ["To", "Cc", "Reply-To"].map(|field| (field, composed(field)));

    for (field, mail) in mails.into_iter().chain(others) {
        let plain = FakeSmtp::builder().capabilities(["PIPELINING"]);
        let (plain, able) = (plain.start().await, FakeSmtp::start().await);
        let postrider = over(&[&plain, &able]).await;
        let as_written = mail.message().to_vec();
        let count = mail.envelope().recipients().len();

        let ended = ended(&postrider, mail).await;
        assert_eq!(ended[0], one("delivered", "relay-0", "2.0.0"), "{field}");
        let sent = plain.mails().remove(0);
        assert_eq!(sent.recipients, ["ada@example.org"]);
        assert!(sent.parameters.is_empty(), "{:?}", sent.parameters);
        assert!(sent.message.is_ascii(), "{}", sent.text());

        // Nobody's address, and told to whoever reads.
        let read = MessageParser::default().parse(&sent.message).unwrap();
        let said = format!("{:?}", read.header(field).unwrap());
        assert!(said.contains("jürgen@"), "{field}: {said}");
        let line = sent.text();
        assert!(line.contains("?=:;") || line.contains("?=: ;"), "{line}");
        assert_eq!(read.subject(), Some("Grüße"));
        assert_eq!(
            read.body_text(0).unwrap().trim_end(),
            if count == 1 && field != "Reply-To" {
                "hi"
            } else {
                "Grüße"
            }
        );

        if count == 2 {
            assert_eq!(ended[1], one("delivered", "relay-1", "2.0.0"), "{field}");
            assert_eq!(able.mails()[0].message, as_written);
        }
    }
}

#[tokio::test]
async fn a_signed_header_beyond_ascii_is_left_and_goes_to_the_next_relay() {
    let plain = || FakeSmtp::builder().without("SMTPUTF8");
    let (plain, able) = (plain().start().await, FakeSmtp::start().await);
    let postrider = over(&[&plain, &able]).await;
    let signed = "DKIM-Signature: v=1; a=rsa-sha256; d=example.com; s=s; h=to; bh=x; b=x\r\n\
        From: shop@example.com\r\nTo: jürgen@example.org\r\n\r\nhi\r\n";

    let mail = written(&["ada@example.org"], signed);
    let message = mail.message().to_vec();
    assert_eq!(
        ended(&postrider, mail).await,
        [one("delivered", "relay-1", "2.0.0")]
    );
    assert_eq!(able.mails()[0].message, message);
}

#[tokio::test]
async fn what_is_sent_past_the_queue_asks_the_next_relay_as_well() {
    let plain = FakeSmtp::builder()
        .capabilities(["PIPELINING"])
        .start()
        .await;
    let able = FakeSmtp::start().await;
    let postrider = over(&[&plain, &able]).await;

    let to = ["ada@example.org", "jürgen@example.org"];
    let sent = postrider.send_now(written(&to, "From: shop@example.com\r\n\r\nhi\r\n"));
    let sent = sent.await.unwrap();
    assert!(sent.all_delivered(), "{sent:?}");
    assert_eq!((plain.accepted(), able.accepted()), (1, 1));

    let alone = Dispatcher::builder()
        .relay(Relay::smtp(&plain.url()).unwrap())
        .test_spool()
        .start()
        .await
        .unwrap();

    let sent = alone.send_now(written(&to[1..], "From: shop@example.com\r\n\r\nhi\r\n"));
    let outcomes = sent.await.unwrap().outcomes;
    assert!(
        matches!(outcomes[0].1, Outcome::Rejected(..)),
        "{outcomes:?}"
    );
}

//! Mail that comes in, and mail that the engine refuses.

use std::time::Duration;

use postrider::{Match, Priority, Query, Relay, minutes};

use crate::common::door::{Door, settings};
use crate::common::{FakeSmtp, TestSpool};

const MESSAGE: &str = "From: shop@example.com\r\nSubject: Your code\r\n\r\n123456\r\n..dot\r\n";

#[tokio::test]
async fn what_is_acknowledged_is_in_the_spool_and_arrives() {
    let dir = tempfile::tempdir().unwrap();
    let door = Door::before(settings(), |engine| engine.test_spool_in(dir.path())).await;
    let mut client = door.client().await;
    assert_eq!(client.greeting, "220 door.example ESMTP Postrider\r\n");
    client.begin().await;

    let reply = client.data(MESSAGE).await;
    let id = reply
        .strip_prefix("250 2.0.0 queued as ")
        .expect("it is queued")
        .trim();

    let status = door.postrider.status(id.parse().unwrap()).await.unwrap();
    assert_eq!(status.return_path.unwrap().as_str(), "shop@example.com");
    client.expect("QUIT", "221 2.0.0").await;
    assert!(client.is_closed().await);

    let message = door.only().await;
    assert!(message.starts_with(
        "Received: from client.example ([127.0.0.1])\r\n by door.example with ESMTP; "
    ));
    assert!(message.ends_with("\r\n\r\n123456\r\n.dot\r\n"), "{message}");
    door.shut().await;
}

#[tokio::test]
async fn directives_are_obeyed_and_do_not_travel_on() {
    let door = Door::open().await;
    let mut client = door.client().await;
    client.begin().await;

    let directives = "X-Postrider-Priority: critical\r\nX-Postrider-Tag: otp, login\r\n\
                      X-Postrider-Expires-In: 5m\r\n";
    let reply = client.data(format!("{directives}{MESSAGE}")).await;
    let id = reply
        .strip_prefix("250 2.0.0 queued as ")
        .unwrap()
        .trim()
        .parse()
        .unwrap();

    let status = door.postrider.status(id).await.unwrap();
    assert_eq!(
        (status.priority, status.tags),
        (
            Priority::Critical,
            vec!["otp".to_owned(), "login".to_owned()]
        )
    );

    assert_eq!(status.expires_at, status.created_at + minutes(5));
    assert!(!door.only().await.contains("X-Postrider"));
    client.envelope().await;

    let reply = client
        .data(format!("X-Postrider-Priority: urgent\r\n{MESSAGE}"))
        .await;
    assert!(
        reply.starts_with("554 5.6.0 headers.X-Postrider-Priority"),
        "{reply}"
    );
}

#[tokio::test]
async fn one_key_is_one_mail_though_each_try_is_traced_anew() {
    let door = Door::open().await;
    let mut replies = Vec::new();
    for hello in ["first.example", "second.example"] {
        let mut client = door.client().await;
        client.expect(&format!("EHLO {hello}"), "250").await;
        client.envelope().await;
        replies.push(
            client
                .data(format!("X-Postrider-Key: order-7\r\n{MESSAGE}"))
                .await,
        );
    }

    assert!(
        replies[0].starts_with("250") && replies[0] == replies[1],
        "{replies:?}"
    );

    let mut client = door.client().await;
    client.begin().await;

    let reply = client
        .data(format!("X-Postrider-Key: order-7\r\n{MESSAGE}another\r\n"))
        .await;
    assert!(reply.starts_with("554 5.5.0"), "{reply}");
    assert_eq!(door.sent().await.len(), 1);
}

#[tokio::test]
async fn every_recipient_and_the_null_sender_are_kept() {
    let door = Door::open().await;
    let mut client = door.client().await;
    client.expect("EHLO x", "250").await;
    client
        .expect("MAIL FROM:<> BODY=8BITMIME SIZE=50", "250")
        .await;
    client.expect("RCPT TO:<ada@example.org>", "250").await;
    client
        .expect("RCPT TO:<\"grace hopper\"@example.org>", "250")
        .await;

    assert!(client.data(MESSAGE).await.starts_with("250"));
    let sent = door.sent().await;
    let to: Vec<&str> = sent
        .iter()
        .flat_map(|mail| &mail.recipients)
        .map(|to| to.as_str())
        .collect();

    assert_eq!(to, ["ada@example.org", "\"grace hopper\"@example.org"]);
    assert!(sent.iter().all(|mail| mail.return_path.is_none()));
}

#[tokio::test]
async fn the_postmaster_is_known_without_a_domain_and_a_size_of_many_digits_is_too_large() {
    let door = Door::open().await;
    let mut client = door.client().await;
    client.expect("EHLO x", "250").await;
    for digits in [19, 20, 21, 60, 400] {
        let line = format!("MAIL FROM:<a@example.org> SIZE={}", "9".repeat(digits));
        let reply = client.ask(&line).await;
        // RFC 1870 §3 knows at most 20 digits.
        let expected = if digits <= 20 { "552 5.3.4" } else { "5" };
        assert!(reply.starts_with(expected), "{digits} digits: {reply}");
    }

    client
        .expect("MAIL FROM:<a@example.org> SIZE=00000000000000000050", "250")
        .await;
    client.expect("RCPT TO:<Postmaster>", "250").await;

    assert!(client.data(MESSAGE).await.starts_with("250"));
    let sent = door.sent().await;
    let to = sent[0].recipients[0].as_str();
    assert!(to.to_lowercase().starts_with("postmaster@"), "{to}");
}

#[tokio::test]
async fn a_large_message_arrives_byte_for_byte_in_both_ways() {
    let door = Door::open().await;
    let lines: String = (0..60_000)
        .map(|n| format!(".line {n} {}\r\n", "x".repeat(n % 90)))
        .collect();

    let mut client = door.client().await;
    client.begin().await;
    assert!(
        client
            .data(format!(
                "{MESSAGE}{}",
                lines.replace("\r\n.", "\r\n..").replacen('.', "..", 1)
            ))
            .await
            .starts_with("250")
    );

    client.envelope().await;
    let message = format!("From: shop@example.com\r\n\r\n{lines}");
    let (first, rest) = message.split_at(1_000_000);
    client
        .send(format!("BDAT {}\r\n{first}", first.len()))
        .await;
    client
        .send(format!("BDAT {} LAST\r\n{rest}", rest.len()))
        .await;

    assert!(client.reply().await.starts_with("250 2.0.0 1000000 octets"));
    assert!(client.reply().await.starts_with("250 2.0.0 queued as "));
    let sent = door.sent().await;
    assert_eq!(sent.len(), 2);
    assert!(
        sent.iter()
            .all(|mail| mail.message.ends_with(lines.as_bytes()))
    );
}

#[tokio::test]
async fn a_pipelining_client_is_answered_in_order() {
    let door = Door::open().await;
    let mut client = door.client().await;
    client.send("EHLO x\r\n").await;
    client.reply().await;
    client
        .send(
            "MAIL FROM:<shop@example.com>\r\nRCPT TO:<nobody>\r\nRCPT TO:<ada@example.org>\r\n\
             DATA\r\n",
        )
        .await;
    for code in ["250 2.1.0", "501 5.1.3", "250 2.1.5", "354 "] {
        assert!(client.reply().await.starts_with(code));
    }
    client.send(format!("{MESSAGE}.\r\nRSET\r\nQUIT\r\n")).await;
    for code in ["250 2.0.0 queued", "250 2.0.0", "221"] {
        assert!(client.reply().await.starts_with(code));
    }

    assert_eq!(door.sent().await.len(), 1);
}

#[tokio::test]
async fn many_clients_at_once_each_get_the_id_of_their_own_mail() {
    let door = Door::open().await;
    let clients: Vec<_> = (0..32)
        .map(|n| {
            let address = door.address;
            let connect = async move {
                let mut client = crate::common::door::connect(address).await;
                let mut ids = Vec::new();
                client.expect("EHLO x", "250").await;
                for mail in 0..10 {
                    client.envelope().await;
                    let reply = client
                        .data(format!(
                            "From: shop@example.com\r\nSubject: {n}-{mail}\r\n\r\n"
                        ))
                        .await;
                    ids.push((
                        format!("{n}-{mail}"),
                        reply
                            .strip_prefix("250 2.0.0 queued as ")
                            .unwrap()
                            .trim()
                            .to_owned(),
                    ));
                }
                ids
            };
            tokio::spawn(connect)
        })
        .collect();

    for client in clients {
        for (subject, id) in client.await.unwrap() {
            assert_eq!(
                door.postrider
                    .status(id.parse().unwrap())
                    .await
                    .unwrap()
                    .subject,
                subject
            );
        }
    }

    assert_eq!(door.sent().await.len(), 320);
}

#[tokio::test]
async fn what_is_not_a_mail_is_refused_and_nothing_is_stored() {
    let door = Door::open().await;
    let mut client = door.client().await;
    client.expect("EHLO x", "250").await;

    let received = "Received: from a by b; Thu, 1 Jan 1970 00:00:00 +0000\r\n".repeat(51);
    for (message, expected) in [
        (
            format!("DKIM-Signature: v=1; b=x\r\n{MESSAGE}nul\0\r\n"),
            "554 5.6.0 body",
        ),
        (
            "Subject: a\rb\r\n\r\n".to_owned(),
            "554 5.6.0 headers.Subject",
        ),
        (
            "Subject: a\r\nSubject: b\r\n\r\n".to_owned(),
            "554 5.6.0 headers.Subject",
        ),
        (format!("{received}{MESSAGE}"), "554 5.4.6"),
    ] {
        client.envelope().await;
        let reply = client.data(&message).await;
        assert!(
            reply.starts_with(expected),
            "{message:?} was answered {reply:?}"
        );
    }

    assert!(
        door.postrider
            .list(Query::default())
            .await
            .unwrap()
            .mails
            .is_empty()
    );
}

#[tokio::test]
async fn what_other_programs_write_is_mended_before_it_is_read() {
    let door = Door::open().await;
    let mut client = door.client().await;
    client.expect("EHLO x", "250").await;
    for (message, seen, told) in [
        ("test1\r\n", "\r\n\r\ntest1\r\n", "had none"),
        (" folded\r\n", "\r\n\r\n folded\r\n", "had none"),
        (
            "\u{feff}Subject: bom\r\n\r\nhi\r\n",
            "\r\nSubject: bom\r\n",
            "byte order mark",
        ),
        ("Subject: Grüße\r\n\r\nhi\r\n", "=?utf-8?", "put in ASCII"),
        (
            "From : root (Cron Daemon)\r\n\r\nhi\r\n",
            "From : root@example.com (Cron",
            "domain",
        ),
        ("Subject: nul\r\n\r\na\0b\r\n", "a=00b", "quoted-printable"),
        ("", "Message-ID: <", "Message-ID: added"),
    ] {
        client.envelope().await;
        let reply = client.data(message).await;
        let id = reply
            .strip_prefix("250 2.0.0 queued as ")
            .unwrap_or_else(|| panic!("{reply}"));
        let id = id.trim().parse().unwrap();
        let status = door.postrider.status(id).await.unwrap();
        assert!(
            status.mended.iter().any(|act| act.contains(told)),
            "{:?}",
            status.mended
        );
        let raw = door.postrider.raw(id).await.unwrap();
        let raw = String::from_utf8(raw.to_vec()).unwrap();
        assert!(
            raw.starts_with("Received: from x ") && raw.contains("\r\nFrom"),
            "{raw}"
        );
        assert!(
            raw.contains(seen.replace("From :", "From:").as_str()),
            "{raw}"
        );
    }
}

#[tokio::test]
async fn a_full_queue_says_try_again_and_accepts_again_when_there_is_room() {
    let engine = |engine: postrider::Builder| {
        engine
            .test_spool()
            .max_pending(1)
            .accept_timeout(Duration::from_millis(10))
    };

    let door = Door::before(settings(), engine).await;
    door.postrider.pause("capture").await.unwrap();
    let mut client = door.client().await;
    client.begin().await;

    assert!(client.data(MESSAGE).await.starts_with("250"));
    client.envelope().await;
    let reply = client.data(MESSAGE).await;
    assert!(reply.starts_with("452 4.3.1"), "{reply}");
    door.postrider.resume("capture").await.unwrap();

    assert_eq!(door.sent().await.len(), 1);
    client.envelope().await;
    assert!(client.data(MESSAGE).await.starts_with("250"));
}

#[tokio::test]
async fn a_mail_that_waits_for_room_in_the_queue_keeps_its_memory() {
    let mut settings = settings();
    settings.limits.memory = 100_000;
    let engine = |engine: postrider::Builder| {
        engine
            .test_spool()
            .max_pending(1)
            .accept_timeout(minutes(1))
    };

    let door = Door::before(settings, engine).await;
    door.postrider.pause("capture").await.unwrap();
    let (mut waits, mut comes) = (door.client().await, door.client().await);
    waits.begin().await;

    assert!(waits.data(MESSAGE).await.starts_with("250"));
    waits.envelope().await;
    waits.expect("DATA", "354").await;

    let large = format!("{MESSAGE}{}\r\n", "x".repeat(60_000));
    waits.send(format!("{large}.\r\n")).await;
    comes.begin().await;

    let reply = comes.data(&large).await;
    assert!(
        reply.starts_with("452 4.3.1 too much mail is coming in"),
        "{reply}"
    );

    door.postrider.resume("capture").await.unwrap();
    assert!(waits.reply().await.starts_with("250"));
    comes.envelope().await;
    assert!(comes.data(&large).await.starts_with("250"));
}

#[tokio::test]
async fn what_the_engine_refuses_is_refused_for_good() {
    let only_org = Match {
        recipient_domain: vec!["example.org".into()],
        ..Match::default()
    };

    let engine = |engine: postrider::Builder| {
        engine
            .test_spool()
            .max_message_size(2000)
            .route(only_org, ["capture"])
    };

    let door = Door::before(settings(), engine).await;
    let mut client = door.client().await;
    assert!(client.ask("EHLO x").await.contains("250 SIZE 976\r\n"));
    client
        .expect("MAIL FROM:<shop@example.com> SIZE=977", "552 5.3.4")
        .await;
    client.expect("MAIL FROM:<shop@example.com>", "250").await;
    client
        .expect("RCPT TO:<ada@elsewhere.example>", "250")
        .await;

    let reply = client.data(MESSAGE).await;
    assert!(
        reply.starts_with("550 5.7.1") && reply.contains("ada@elsewhere.example"),
        "{reply}"
    );

    client.envelope().await;

    let reply = client
        .data(format!("{MESSAGE}{}\r\n", "x".repeat(1000)))
        .await;
    assert!(reply.starts_with("552 5.3.4"), "{reply}");
    client.envelope().await;

    // It grows beyond what the engine takes when its line ends are mended.
    let reply = client
        .data(format!("{MESSAGE}{}\r\n", "\n".repeat(900)))
        .await;

    assert!(reply.starts_with("552 5.3.4"), "{reply}");
}

#[tokio::test]
async fn a_stopped_engine_closes_the_dialogue() {
    let door = Door::open().await;
    let mut client = door.client().await;
    client.begin().await;
    door.postrider
        .shutdown(postrider::Drain::within(minutes(1)))
        .await
        .unwrap();
    assert!(client.data(MESSAGE).await.starts_with("421 4.3.2"));
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn nothing_that_is_smuggled_in_gets_out() {
    let relay = FakeSmtp::start().await;
    let url = relay.url();
    let engine = |_: postrider::Builder| {
        postrider::Dispatcher::builder()
            .relay(Relay::smtp(&url).unwrap())
            .test_spool()
    };

    let door = Door::before(settings(), engine).await;
    let tricks = [
        "\n.\n",
        "\r.\r",
        "\n.\r\n",
        "\r\n.\n",
        "\r\n.\r",
        "\r.\r\n",
        "\r\n.\r\r\n",
    ];

    let mut client = door.client().await;
    client.expect("EHLO x", "250").await;
    for trick in tricks {
        client.envelope().await;
        let evil = "MAIL FROM:<root@example.com>\r\nRCPT TO:<victim@example.org>\r\nDATA\r\n\
                    From: root\r\n\r\nevil\r\n";
        let reply = client.data(format!("{MESSAGE}hi{trick}{evil}")).await;
        assert!(
            reply.starts_with("250 2.0.0 queued as "),
            "{trick:?} was answered {reply:?}"
        );
    }

    let mails = relay.mails_arrive(tricks.len()).await;
    door.postrider.wait_idle().await;
    assert_eq!(relay.mails().len(), tricks.len());
    for mail in mails {
        assert!(mail.text().contains("evil"), "{}", mail.text());
    }

    assert!(
        !relay
            .commands()
            .iter()
            .any(|command| command.contains("victim"))
    );
}

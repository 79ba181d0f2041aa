//! Mail over SMTP, through the transport alone: what is said, how fast, and under which protection.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::common::real_servers::RealServer;
use crate::common::{Act, Cert, FakeSmtp, Rule, Step, open, server_at, transaction};
use bytes::Bytes;
use postrider::delivery::{Outcome, Phase, Reply};
use postrider::transport::smtp::Smtp;
use postrider::transport::{Auth, Connection, RelayError, Security, Transaction, Transport};
use secrecy::SecretString;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

fn delivered(outcomes: &[Outcome]) -> bool {
    !outcomes.is_empty()
        && outcomes
            .iter()
            .all(|outcome| matches!(outcome, Outcome::Delivered(_)))
}

async fn refused(transport: &Smtp) -> (Phase, String) {
    match transport.connect().await {
        Ok(_) => panic!("the connection should have been refused"),
        Err(Outcome::Unavailable(phase, reason)) => (phase, reason),
        Err(other) => panic!("{other:?} blames a mail"),
    }
}

fn password(user: &str, password: &str) -> Option<Auth> {
    Some(Auth::Password {
        user: user.into(),
        password: SecretString::from(password),
    })
}

#[tokio::test]
async fn a_mail_arrives_as_it_was_written() {
    for lock_step in [false, true] {
        let mut server = FakeSmtp::builder();
        if lock_step {
            server = server.without("PIPELINING");
        }
        let server = server.start().await;
        let mut connection = open(&server).await;
        let mut mail = transaction(&["ada@example.org", "bob@example.org"]);
        mail.message =
            Bytes::from_static(b".Subject: x\r\n\r\n.\r\n..\r\n\xff\xfe no utf-8\r\n.end");
        mail.eight_bit = true;
        let outcomes = connection.send(&mail, None).await;
        let taken = Reply {
            code: 250,
            enhanced: Some("2.0.0".into()),
            text: "taken".into(),
        };
        assert_eq!(outcomes, vec![Outcome::Delivered(taken); 2]);
        assert!(connection.is_usable());
        connection.close().await;
        let mails = server.mails();
        assert_eq!(
            mails[0].message,
            b".Subject: x\r\n\r\n.\r\n..\r\n\xff\xfe no utf-8\r\n.end\r\n"
        );
        assert_eq!(mails[0].return_path, "shop@example.com");
        assert_eq!(mails[0].recipients, ["ada@example.org", "bob@example.org"]);
        assert_eq!(
            mails[0].parameters,
            [
                format!("SIZE={}", mails[0].message.len()),
                "BODY=8BITMIME".into()
            ]
        );
        assert_eq!(mails[0].pipelined, !lock_step);
        assert_eq!(server.commands().last().unwrap(), "QUIT");
    }
}

#[tokio::test]
async fn a_bounce_has_the_null_reverse_path_and_nothing_is_promised_that_was_not_offered() {
    let server = FakeSmtp::builder().capabilities([]).start().await;
    let mut mail = transaction(&["ada@example.org"]);
    mail.return_path = None;
    assert!(delivered(&open(&server).await.send(&mail, None).await));
    assert!(
        server.commands().contains(&"MAIL FROM:<>".to_owned()),
        "{:?}",
        server.commands()
    );
}

#[tokio::test]
async fn an_internationalised_mail_is_announced_as_such() {
    let server = FakeSmtp::start().await;
    let mut mail = transaction(&["jürgen@example.org"]);
    (mail.smtputf8, mail.eight_bit) = (true, true);
    assert!(delivered(&open(&server).await.send(&mail, None).await));
    assert_eq!(server.mails()[0].recipients, ["jürgen@example.org"]);
    assert_eq!(
        server.mails()[0].parameters[1..],
        ["BODY=8BITMIME", "SMTPUTF8"]
    );
}

#[tokio::test]
async fn what_the_server_cannot_take_is_refused_here_and_the_connection_goes_on() {
    let server = FakeSmtp::builder()
        .capabilities(["PIPELINING", "SIZE 100"])
        .start()
        .await;
    let mut connection = open(&server).await;
    let plain = transaction(&["ada@example.org"]);
    let large = Transaction {
        message: Bytes::from(vec![b'x'; 99]),
        ..plain.clone()
    };

    let eight_bit = Transaction {
        eight_bit: true,
        ..plain.clone()
    };

    let utf8 = Transaction {
        smtputf8: true,
        eight_bit: true,
        ..plain.clone()
    };

    for (mail, code, enhanced) in [
        (&large, 552, "5.3.4"),
        (&eight_bit, 554, "5.6.3"),
        (&utf8, 550, "5.6.7"),
    ] {
        match &connection.send(mail, None).await[..] {
            [Outcome::Rejected(Phase::Local, reply)] => {
                assert_eq!(
                    (reply.code, reply.enhanced.as_deref()),
                    (code, Some(enhanced))
                );
            }
            other => panic!("{other:?}"),
        }
    }

    let fits = Transaction {
        message: Bytes::from(vec![b'x'; 98]),
        ..plain
    };

    assert!(delivered(&connection.send(&fits, Some(&large)).await));
    assert_eq!(
        server
            .commands()
            .iter()
            .filter(|line| line.starts_with("MAIL"))
            .count(),
        1
    );
}

#[tokio::test]
async fn each_recipient_has_a_verdict_of_his_own() {
    for lock_step in [false, true] {
        let mut builder = FakeSmtp::builder()
            .rule(
                Rule::at(Step::Rcpt)
                    .to("nobody@")
                    .act(Act::reply(550, "5.1.1 no such user")),
            )
            .rule(
                Rule::at(Step::Rcpt)
                    .to("full@")
                    .act(Act::reply(452, "4.2.2 mailbox full")),
            );
        if lock_step {
            builder = builder.without("PIPELINING");
        }
        let server = builder.start().await;
        let mut connection = open(&server).await;
        let mail = transaction(&[
            "ada@example.org",
            "nobody@example.org",
            "full@example.org",
            "bob@example.org",
        ]);
        let outcomes = connection.send(&mail, None).await;
        assert!(matches!(&outcomes[0], Outcome::Delivered(_)));
        assert!(
            matches!(&outcomes[1], Outcome::Rejected(Phase::RcptTo, reply) if reply.code == 550)
        );
        assert!(
            matches!(&outcomes[2], Outcome::Deferred(Phase::RcptTo, reply) if reply.code == 452)
        );
        assert!(matches!(&outcomes[3], Outcome::Delivered(_)));
        // Nobody is left of this one, and the connection still serves the next.
        let refused = connection
            .send(&transaction(&["nobody@example.org"]), None)
            .await;
        assert!(matches!(
            &refused[..],
            [Outcome::Rejected(Phase::RcptTo, _)]
        ));
        assert!(delivered(
            &connection
                .send(&transaction(&["ada@example.org"]), None)
                .await
        ));
        assert_eq!(server.mails().len(), 2);
        assert_eq!(server.connections(), 1);
    }
}

#[tokio::test]
async fn a_server_that_wants_a_message_for_nobody_gets_an_empty_one() {
    let server = FakeSmtp::builder()
        .rule(
            Rule::at(Step::Rcpt)
                .to("nobody@")
                .act(Act::reply(550, "5.1.1 no such user")),
        )
        .rule(
            Rule::at(Step::Data)
                .first(1)
                .act(Act::reply(354, "go on, then")),
        )
        .rule(
            Rule::at(Step::FinalDot)
                .first(1)
                .act(Act::reply(554, "5.5.1 no valid recipients")),
        )
        .start()
        .await;

    let mut connection = open(&server).await;
    let refused = connection
        .send(&transaction(&["nobody@example.org"]), None)
        .await;
    assert!(
        matches!(&refused[..], [Outcome::Rejected(Phase::RcptTo, reply)] if reply.code == 550),
        "{refused:?}"
    );

    assert!(delivered(
        &connection
            .send(&transaction(&["ada@example.org"]), None)
            .await
    ));

    let transactions = server.transactions();
    assert_eq!(
        (
            transactions[0].message.len(),
            transactions[0].recipients.len()
        ),
        (0, 0)
    );

    assert_eq!((transactions.len(), server.connections()), (2, 1));
}

#[tokio::test]
async fn a_mail_with_thousands_of_recipients_is_sent_in_groups() {
    for capabilities in [vec!["PIPELINING"], vec![]] {
        let server = FakeSmtp::builder()
            .capabilities(capabilities)
            .rule(
                Rule::at(Step::Rcpt)
                    .to("7@")
                    .act(Act::reply(550, "5.1.1 no such user")),
            )
            .start()
            .await;
        let addresses: Vec<String> = (0..3000).map(|n| format!("user-{n}@example.org")).collect();
        let mail = transaction(&addresses.iter().map(String::as_str).collect::<Vec<_>>());
        let outcomes = open(&server).await.send(&mail, None).await;
        for (address, outcome) in addresses.iter().zip(&outcomes) {
            assert_eq!(
                matches!(outcome, Outcome::Delivered(_)),
                !address.contains("7@"),
                "{address}: {outcome:?}"
            );
        }
        assert_eq!(server.mails()[0].recipients.len(), 2700);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_message_crosses_in_parts() {
    let server = FakeSmtp::start().await;
    let mut mail = transaction(&["ada@example.org"]);
    mail.message = Bytes::from(b".line of text, and a dot at its start\r\n".repeat(100_000));
    let mut connection = open(&server).await;
    let small = transaction(&["bob@example.org"]);
    assert!(delivered(&connection.send(&mail, Some(&small)).await));
    assert!(delivered(&connection.send(&small, None).await));
    assert_eq!(server.mails()[0].message, mail.message);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_link_has_time_for_each_part_of_a_message() {
    let server = FakeSmtp::builder()
        .turnaround(Duration::from_millis(20))
        .start()
        .await;

    let mut slow = server_at(&server);
    slow.timeouts.body = Duration::from_millis(500);
    let mut connection = Smtp::new(slow).unwrap().connect().await.unwrap();

    let mut mail = transaction(&["ada@example.org"]);
    // At most 64 KiB every 20 ms: the whole takes longer than any one wait may last.
    mail.message = Bytes::from(b"0123456789abcdef0123456789abcd\r\n".repeat(180_000));
    let begun = Instant::now();

    assert!(delivered(&connection.send(&mail, None).await));
    assert!(
        begun.elapsed() > Duration::from_millis(1500),
        "{:?} proves nothing",
        begun.elapsed()
    );
}

#[tokio::test]
async fn mail_after_mail_costs_one_round_trip_each() {
    let mut best: f64 = 0.0;
    // Only another program that takes the processor away can make it slower, and hardly three
    // times.
    for _ in 0..3 {
        let server = FakeSmtp::builder()
            .turnaround(Duration::from_millis(50))
            .start()
            .await;
        let mut connection = open(&server).await;
        let mails: Vec<Transaction> = (0..40)
            .map(|_| transaction(&["ada@example.org", "bob@example.org"]))
            .collect();
        let turnarounds = server.turnarounds();
        let begun = Instant::now();
        for (index, mail) in mails.iter().enumerate() {
            assert!(delivered(
                &connection.send(mail, mails.get(index + 1)).await
            ));
        }
        best = best.max(mails.len() as f64 / begun.elapsed().as_secs_f64());
        assert_eq!(server.turnarounds() - turnarounds, 41);
        assert!(server.mails()[1..].iter().all(|mail| mail.overlapped));
        if best >= 18.0 {
            return;
        }
    }

    panic!("{best:.1} mails a second over 50 ms");
}

#[tokio::test]
async fn a_mail_that_was_begun_and_is_not_sent_is_never_finished() {
    let begun_message = Arc::new(AtomicBool::new(false));
    let seen = begun_message.clone();
    let watch = Rule::at(Step::Body).when(move |_| {
        seen.store(true, Ordering::SeqCst);
        false
    });

    let server = FakeSmtp::builder().rule(watch).start().await;
    let (first, second, third) = (
        transaction(&["a@x.org"]),
        transaction(&["b@x.org"]),
        transaction(&["c@x.org"]),
    );

    let mut connection = open(&server).await;
    assert!(delivered(&connection.send(&first, Some(&second)).await));
    let outcomes = connection.send(&third, None).await;
    assert!(
        matches!(&outcomes[..], [Outcome::Unavailable(Phase::MailFrom, _)]),
        "{outcomes:?}"
    );

    assert!(!connection.is_usable());
    connection.close().await;

    let mut connection = open(&server).await;
    assert!(delivered(&connection.send(&first, Some(&second)).await));
    let others = Transaction {
        recipients: third.recipients.clone(),
        ..second.clone()
    };

    assert!(matches!(
        &connection.send(&others, None).await[..],
        [Outcome::Unavailable(Phase::MailFrom, _)]
    ));
    connection.close().await;

    // Closed before the server has said a word about the second mail, and so before anything could
    // warn us.
    server.rule(
        Rule::at(Step::Mail)
            .after(1)
            .act(Act::Delay(Duration::from_millis(50))),
    );

    let mut connection = open(&server).await;
    assert!(delivered(&connection.send(&first, Some(&second)).await));
    connection.close().await;
    server.open_connections_fall_to(0).await;

    assert_eq!(server.transactions().len(), 3);
    // Not even QUIT: where a message is awaited, it would be its first line.
    assert!(
        !server.commands().contains(&"QUIT".to_owned()) && !begun_message.load(Ordering::SeqCst)
    );
}

#[tokio::test]
async fn a_refused_mail_does_not_disturb_the_one_that_was_begun_behind_it() {
    let server = FakeSmtp::builder()
        .rule(
            Rule::at(Step::FinalDot)
                .first(1)
                .act(Act::reply(554, "5.6.0 not this one")),
        )
        .rule(
            Rule::at(Step::Mail)
                .to("bad@")
                .act(Act::reply(550, "5.1.8 bad sender")),
        )
        .rule(
            Rule::at(Step::Data)
                .after(2)
                .first(1)
                .act(Act::reply(451, "4.3.0 later")),
        )
        .start()
        .await;
    let mut connection = open(&server).await;
    let good = transaction(&["ada@example.org"]);
    let bad = Transaction {
        return_path: Some("bad@example.com".parse().unwrap()),
        ..transaction(&["a@x.org"])
    };

    let rejected = connection.send(&good, Some(&bad)).await;
    assert!(
        matches!(&rejected[..], [Outcome::Rejected(Phase::FinalDot, reply)] if reply.code == 554)
    );

    let rejected = connection.send(&bad, Some(&good)).await;
    assert!(
        matches!(&rejected[..], [Outcome::Rejected(Phase::MailFrom, reply)] if reply.code == 550),
        "{rejected:?}"
    );

    let deferred = connection.send(&good, None).await;
    assert!(
        matches!(&deferred[..], [Outcome::Deferred(Phase::Data, reply)] if reply.code == 451),
        "{deferred:?}"
    );

    assert!(delivered(&connection.send(&good, None).await));
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn a_connection_is_used_up_after_so_many_mails() {
    let server = FakeSmtp::start().await;
    let mut settings = server_at(&server);
    settings.messages_per_connection = 2;
    let mut connection = Smtp::new(settings).unwrap().connect().await.unwrap();

    let mails = [
        transaction(&["a@x.org"]),
        transaction(&["b@x.org"]),
        transaction(&["c@x.org"]),
    ];

    assert!(delivered(
        &connection.send(&mails[0], Some(&mails[1])).await
    ));
    assert!(connection.is_usable());
    assert!(delivered(
        &connection.send(&mails[1], Some(&mails[2])).await
    ));
    assert!(!connection.is_usable());
    assert!(matches!(
        &connection.send(&mails[2], None).await[..],
        [Outcome::Unavailable(Phase::MailFrom, _)]
    ));
    connection.close().await;
    server.open_connections_fall_to(0).await;

    assert_eq!(
        server
            .commands()
            .iter()
            .filter(|line| line.starts_with("MAIL"))
            .count(),
        2
    );

    assert_eq!(server.commands().last().unwrap(), "QUIT");
}

#[tokio::test]
async fn a_send_that_was_dropped_midway_leaves_an_unusable_connection() {
    let server = FakeSmtp::builder()
        .at(Step::FinalDot, Act::Hang)
        .start()
        .await;
    let mut connection = open(&server).await;
    let mail = transaction(&["ada@example.org"]);

    assert!(connection.is_usable());
    let sent = tokio::time::timeout(Duration::from_millis(100), connection.send(&mail, None)).await;
    assert!(sent.is_err());
    assert!(!connection.is_usable());
    assert!(matches!(
        &connection.send(&mail, None).await[..],
        [Outcome::Unavailable(Phase::MailFrom, _)]
    ));

    let begun = Instant::now();
    connection.close().await;
    assert!(begun.elapsed() < Duration::from_millis(100));
}

#[tokio::test]
async fn a_farewell_is_short_even_if_nobody_answers_it() {
    let server = FakeSmtp::builder().at(Step::Quit, Act::Hang).start().await;
    let connection = open(&server).await;
    let begun = Instant::now();
    connection.close().await;
    assert!(
        begun.elapsed() < Duration::from_millis(2500),
        "{:?}",
        begun.elapsed()
    );
}

#[tokio::test]
async fn a_connection_that_the_server_closed_while_it_was_idle_costs_nothing() {
    let server = FakeSmtp::builder()
        .rule(Rule::at(Step::FinalDot).act(Act::ExtraLater(
            Duration::ZERO,
            "421 4.4.2 idle too long".into(),
        )))
        .start()
        .await;

    let mut connection = open(&server).await;
    assert!(delivered(
        &connection.send(&transaction(&["a@x.org"]), None).await
    ));
    tokio::time::sleep(Duration::from_millis(50)).await;

    match &connection.send(&transaction(&["b@x.org"]), None).await[..] {
        [Outcome::Unavailable(Phase::MailFrom, reason)] => {
            assert!(reason.contains("421 4.4.2 idle too long"))
        }
        other => panic!("{other:?}"),
    }
    assert!(!connection.is_usable());

    let server = FakeSmtp::start().await;
    let mut connection = open(&server).await;
    server.stop().await;
    assert!(matches!(
        &connection.send(&transaction(&["b@x.org"]), None).await[..],
        [Outcome::Unavailable(Phase::MailFrom, _)]
    ));
}

#[tokio::test]
async fn a_host_that_refuses_is_named_and_every_address_is_tried() {
    let server = FakeSmtp::start().await;
    let mut settings = server_at(&server);
    settings.host = "localhost".into();

    // Where localhost is ::1 as well, nobody listens there.
    assert!(Smtp::new(settings.clone()).unwrap().connect().await.is_ok());
    settings.port = server.stop().await.port();

    let (phase, reason) = refused(&Smtp::new(settings.clone()).unwrap()).await;
    assert_eq!(phase, Phase::Connect);
    assert!(
        reason.contains(&format!("localhost:{}", settings.port)) && reason.contains("refused"),
        "{reason}"
    );

    settings.host = "no-such-host.invalid".into();
    let (phase, reason) = refused(&Smtp::new(settings).unwrap()).await;
    assert!(
        phase == Phase::Connect && reason.contains("no-such-host.invalid"),
        "{reason}"
    );
}

#[tokio::test]
async fn mail_crosses_under_tls_in_both_ways() {
    for implicit in [false, true] {
        let builder = FakeSmtp::builder().login("shop", "s3cret");
        let builder = if implicit {
            builder.implicit_tls(Cert::Good)
        } else {
            builder.starttls(Cert::Good)
        };
        let server = builder.start().await;
        let mut settings = server_at(&server);
        settings.security = if implicit {
            Security::Tls
        } else {
            Security::StartTls
        };
        settings.auth = password("shop", "s3cret");
        for host in ["localhost", "127.0.0.1"] {
            settings.host = host.into();
            let mut connection = Smtp::new(settings.clone())
                .unwrap()
                .connect()
                .await
                .unwrap();
            let tls = connection.tls().unwrap();
            assert_eq!(tls.version, "TLSv1.3");
            assert!(tls.cipher.starts_with("TLS_"), "{tls:?}");
            let (first, second) = (
                transaction(&["ada@example.org"]),
                transaction(&["bob@example.org"]),
            );
            assert!(delivered(&connection.send(&first, Some(&second)).await));
            assert!(delivered(&connection.send(&second, None).await));
            connection.close().await;
        }
        let mails = server.mails();
        assert_eq!(mails.len(), 4);
        assert!(
            mails
                .iter()
                .all(|mail| mail.encrypted && mail.user.as_deref() == Some("shop"))
        );
        assert!(mails[1].overlapped);
    }
}

/// As most tools make one, with and without saying that it is an authority.
#[tokio::test]
async fn a_certificate_that_signs_itself_is_trusted_where_it_is_the_ca_file() {
    for cert in [Cert::SelfSigned, Cert::SelfSignedAuthority] {
        let server = FakeSmtp::builder().implicit_tls(cert).start().await;
        let mut settings = server_at(&server);
        settings.security = Security::Tls;
        settings.host = "localhost".into();
        let opened = Smtp::new(settings.clone()).unwrap().connect().await;
        let mut connection = opened.unwrap_or_else(|e| panic!("{cert:?}: {e:?}"));
        let mail = transaction(&["ada@example.org"]);
        assert!(delivered(&connection.send(&mail, None).await));
        connection.close().await;

        // Another one of the same name is not.
        let other = FakeSmtp::builder().implicit_tls(cert).start().await;
        settings.port = server_at(&other).port;
        let (phase, _) = refused(&Smtp::new(settings).unwrap()).await;
        assert_eq!(phase, Phase::Tls, "{cert:?}");
    }
}

#[tokio::test]
async fn a_server_that_cannot_prove_its_name_is_not_talked_to() {
    let cases = [
        (Cert::Expired, "expired"),
        (Cert::OtherName, "not valid for name"),
        (Cert::Untrusted, "from none of those in the ca_file"),
        (Cert::SelfSignedExpired, "expired"),
        (Cert::SelfSignedOtherName, "not valid for name"),
    ];

    for (cert, expected) in cases {
        for implicit in [false, true] {
            let builder = FakeSmtp::builder();
            let builder = if implicit {
                builder.implicit_tls(cert)
            } else {
                builder.starttls(cert)
            };
            let server = builder.start().await;
            let mut settings = server_at(&server);
            settings.security = if implicit {
                Security::Tls
            } else {
                Security::StartTls
            };
            settings.host = "localhost".into();
            let (phase, reason) = refused(&Smtp::new(settings).unwrap()).await;
            assert_eq!(phase, Phase::Tls);
            assert!(
                reason.contains(expected) && reason.contains("localhost"),
                "{reason}"
            );
        }
    }
}

#[tokio::test]
async fn without_a_ca_file_only_the_public_authorities_are_trusted() {
    let server = FakeSmtp::builder().implicit_tls(Cert::Good).start().await;
    let mut settings = server_at(&server);
    settings.security = Security::Tls;
    settings.ca_file = None;
    let (phase, reason) = refused(&Smtp::new(settings).unwrap()).await;
    assert!(
        phase == Phase::Tls
            && reason.contains("UnknownIssuer")
            && reason.contains("name that certificate's PEM file as ca_file"),
        "{reason}"
    );
}

#[tokio::test]
async fn advice_on_tls_is_not_what_is_done_already() {
    // It agrees, and goes on as if it had not.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut heard = [0; 4096];
            for said in [
                "220 x\r\n",
                "250-x\r\n250 STARTTLS\r\n",
                "220 go\r\n",
                "500 what\r\n",
            ] {
                stream.write_all(said.as_bytes()).await.unwrap();
                let _ = stream.read(&mut heard).await;
            }
        }
    });

    let server = FakeSmtp::start().await;
    let mut settings = server_at(&server);
    settings.port = port;
    settings.security = Security::StartTls;
    let (phase, reason) = refused(&Smtp::new(settings.clone()).unwrap()).await;
    assert_eq!(phase, Phase::Tls, "{reason}");
    assert!(!reason.contains("smtp+starttls://"), "{reason}");
    assert!(reason.contains("then spoke no TLS"), "{reason}");

    settings.security = Security::Tls;
    let (_, reason) = refused(&Smtp::new(settings).unwrap()).await;
    assert!(reason.contains("smtp+starttls://"), "{reason}");

    let server = FakeSmtp::builder().implicit_tls(Cert::NoName).start().await;
    let mut settings = server_at(&server);
    settings.security = Security::Tls;
    settings.host = "localhost".into();
    let (_, reason) = refused(&Smtp::new(settings).unwrap()).await;
    assert!(
        reason.contains("needs the name as a subjectAltName"),
        "{reason}"
    );
}

#[tokio::test]
async fn a_ca_file_that_cannot_be_used_is_named() {
    let server = FakeSmtp::start().await;
    let mut settings = server_at(&server);
    settings.security = Security::StartTls;
    settings.ca_file = Some("/nowhere/ca.pem".into());

    let error = Smtp::new(settings.clone()).unwrap_err();
    assert!(
        matches!(&error, RelayError::CaFile { .. })
            && error.to_string().contains("/nowhere/ca.pem"),
        "{error}"
    );

    let empty = tempfile::NamedTempFile::new().unwrap();
    settings.ca_file = Some(empty.path().to_owned());
    let error = Smtp::new(settings).unwrap_err().to_string();
    assert!(error.contains("holds no certificate"), "{error}");
}

#[tokio::test]
async fn starttls_that_is_not_offered_ends_the_connection_before_any_secret() {
    let server = FakeSmtp::builder().login("shop", "s3cret").start().await;
    let mut settings = server_at(&server);
    settings.security = Security::StartTls;
    settings.auth = password("shop", "s3cret");

    let (phase, reason) = refused(&Smtp::new(settings).unwrap()).await;
    assert!(
        phase == Phase::Tls && reason.contains("does not offer STARTTLS"),
        "{reason}"
    );

    server.open_connections_fall_to(0).await;
    assert!(
        server
            .commands()
            .iter()
            .all(|line| !line.starts_with("AUTH") && !line.starts_with("MAIL"))
    );
}

#[tokio::test]
async fn plaintext_injected_behind_the_starttls_reply_is_not_believed() {
    let lines = "250-injected.example\r\n250-SIZE 1\r\n250 AUTH PLAIN";
    for act in [
        Act::extra(lines),
        Act::ExtraLater(Duration::from_millis(1), lines.to_owned()),
    ] {
        let server = FakeSmtp::builder()
            .starttls(Cert::Good)
            .at(Step::StartTls, act)
            .start()
            .await;
        let mut settings = server_at(&server);
        settings.security = Security::StartTls;
        let (phase, reason) = refused(&Smtp::new(settings).unwrap()).await;
        assert_eq!(phase, Phase::Tls, "{reason}");
    }
}

#[tokio::test]
async fn what_was_offered_in_the_clear_is_forgotten_under_tls() {
    // The offer in the clear differs from the one under TLS: only the latter counts.
    let server = FakeSmtp::builder()
        .starttls(Cert::Good)
        .rule(
            Rule::at(Step::Ehlo)
                .first(1)
                .act(Act::reply(250, "x\nSIZE 1\nPIPELINING\nSTARTTLS")),
        )
        .capabilities(["SIZE 1000"])
        .start()
        .await;

    let mut settings = server_at(&server);
    settings.security = Security::StartTls;
    let mut connection = Smtp::new(settings).unwrap().connect().await.unwrap();
    assert!(delivered(
        &connection
            .send(&transaction(&["ada@example.org"]), None)
            .await
    ));

    assert!(!server.mails()[0].pipelined);
}

#[tokio::test]
async fn a_login_works_by_every_mechanism() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let token = Auth::OAuth2 {
        user: "shop@example.com".into(),
        token: Arc::new(move || {
            let number = count.fetch_add(1, Ordering::SeqCst);
            Box::pin(async move { Ok(SecretString::from(format!("token-{number}"))) })
        }),
    };

    let builder = || {
        FakeSmtp::builder()
            .login("shop", "pässword")
            .login("shop@example.com", "token-0")
    };

    for (mechanisms, auth) in [
        ("PLAIN LOGIN", password("shop", "pässword")),
        ("LOGIN", password("shop", "pässword")),
        ("XOAUTH2", Some(token)),
    ] {
        let server = builder().mechanisms(mechanisms).start().await;
        let mut settings = server_at(&server);
        settings.auth = auth;
        let transport = Smtp::new(settings).unwrap();
        let mut connection = transport.connect().await.unwrap();
        assert!(delivered(
            &connection
                .send(&transaction(&["ada@example.org"]), None)
                .await
        ));
        assert!(
            server.mails()[0]
                .user
                .as_deref()
                .unwrap()
                .starts_with("shop")
        );
        if mechanisms == "XOAUTH2" {
            // The second connection asks for a second token, which this server does not know.
            let (phase, reason) = refused(&transport).await;
            assert!(
                phase == Phase::Auth && reason.contains("535 5.7.8"),
                "{reason}"
            );
            assert_eq!(asked.load(Ordering::SeqCst), 2);
        }
    }
}

#[tokio::test]
async fn a_login_is_offered_and_asked_for_in_many_ways() {
    let builder = || FakeSmtp::builder().login("shop", "s3cret");
    let servers = [
        builder().mechanisms("LOGIN").prompts("", ""),
        builder()
            .mechanisms("LOGIN")
            .prompts("Please", "not base64"),
        builder()
            .mechanisms("LOGIN")
            .prompts("UGFzc3dvcmQ6", "VXNlcm5hbWU6"),
        builder().mechanisms("plain login"),
        builder().mechanisms("Login"),
        // EHLO's line is then `AUTH =LOGIN`, or `AUTH=LOGIN` alone.
        builder().mechanisms("=LOGIN"),
        builder().mechanisms("LOGIN").at(
            Step::Ehlo,
            Act::reply(250, "fake.example\nPIPELINING\nAUTH=LOGIN"),
        ),
        builder()
            .mechanisms("PLAIN LOGIN")
            .refused_mechanism("PLAIN"),
    ];

    for (index, server) in servers.into_iter().enumerate() {
        let server = server.start().await;
        let mut settings = server_at(&server);
        settings.auth = password("shop", "s3cret");
        let connected = Smtp::new(settings).unwrap().connect().await;
        let mut connection = connected.unwrap_or_else(|refused| panic!("{index}: {refused:?}"));
        let outcomes = connection.send(&transaction(&["a@x.org"]), None).await;
        assert!(delivered(&outcomes), "{index}: {outcomes:?}");
        assert_eq!(server.mails()[0].user.as_deref(), Some("shop"), "{index}");
    }
}

#[tokio::test]
async fn a_server_that_does_not_know_ehlo_is_greeted_with_helo() {
    for code in [500, 502] {
        let builder = || FakeSmtp::builder().at(Step::Ehlo, Act::reply(code, "5.5.1 what?"));
        let server = builder().start().await;
        let mut connection = open(&server).await;
        let mails = [transaction(&["a@x.org"]), transaction(&["b@x.org"])];
        assert!(delivered(
            &connection.send(&mails[0], Some(&mails[1])).await
        ));
        assert!(delivered(&connection.send(&mails[1], None).await));
        assert!(
            server
                .mails()
                .iter()
                .all(|mail| !mail.pipelined && mail.parameters.is_empty())
        );
        assert_eq!(
            server.commands()[..2],
            ["EHLO client.example", "HELO client.example"]
        );
        assert_eq!(server.connections(), 1);

        // Neither TLS nor a login can be had without EHLO.
        let server = builder().login("shop", "s3cret").start().await;
        let mut settings = server_at(&server);
        settings.auth = password("shop", "s3cret");
        assert_eq!(refused(&Smtp::new(settings).unwrap()).await.0, Phase::Ehlo);
        let server = builder().starttls(Cert::Good).start().await;
        let mut settings = server_at(&server);
        settings.security = Security::StartTls;
        assert_eq!(refused(&Smtp::new(settings).unwrap()).await.0, Phase::Ehlo);
        assert!(
            server
                .commands()
                .iter()
                .all(|line| !line.starts_with("HELO"))
        );
    }

    // Refused for another reason, it is refused.
    let server = FakeSmtp::builder()
        .at(Step::Ehlo, Act::reply(550, "5.7.1 not you"))
        .start()
        .await;

    assert_eq!(
        refused(&Smtp::new(server_at(&server)).unwrap()).await.0,
        Phase::Ehlo
    );
}

#[tokio::test]
async fn a_server_that_ends_its_lines_with_lf_alone_is_understood() {
    let server = FakeSmtp::builder()
        .login("shop", "s3cret")
        .bare_line_feeds()
        .rule(
            Rule::at(Step::Rcpt)
                .to("nobody@")
                .act(Act::reply(550, "5.1.1 no such user\n5.1.1 really")),
        )
        .start()
        .await;

    let mut settings = server_at(&server);
    settings.auth = password("shop", "s3cret");
    let mut connection = Smtp::new(settings).unwrap().connect().await.unwrap();
    let mails = [
        transaction(&["a@x.org", "nobody@x.org"]),
        transaction(&["b@x.org"]),
    ];

    let outcomes = connection.send(&mails[0], Some(&mails[1])).await;
    assert!(matches!(
        &outcomes[..],
        [Outcome::Delivered(_), Outcome::Rejected(Phase::RcptTo, _)]
    ));
    assert!(delivered(&connection.send(&mails[1], None).await));

    assert!(server.mails()[1].overlapped && connection.is_usable());
}

#[tokio::test]
async fn a_login_that_fails_says_why_and_never_the_password() {
    let quoting = |word: &str| {
        FakeSmtp::builder().at(Step::Auth, Act::reply(535, &format!("5.7.8 no: {word}")))
    };

    let server = FakeSmtp::builder().login("shop", "right").start().await;
    let mut settings = server_at(&server);
    settings.auth = password("shop", "s3cret-word");

    let (phase, reason) = refused(&Smtp::new(settings.clone()).unwrap()).await;
    assert!(
        phase == Phase::Auth && reason.contains("535 5.7.8 wrong user or password"),
        "{reason}"
    );

    // base64 of the password, and of NUL shop NUL password.
    for (mechanism, word) in [
        ("PLAIN", "s3cret-word"),
        ("LOGIN", "czNjcmV0LXdvcmQ="),
        ("PLAIN", "AHNob3AAczNjcmV0LXdvcmQ="),
    ] {
        let server = quoting(word)
            .login("shop", "right")
            .mechanisms(mechanism)
            .start()
            .await;
        settings.port = server.port();
        let (phase, reason) = refused(&Smtp::new(settings.clone()).unwrap()).await;
        assert!(
            phase == Phase::Auth && !reason.contains(word) && reason.contains("refused"),
            "{reason}"
        );
    }

    let server = FakeSmtp::start().await;
    settings.port = server.port();
    let (phase, reason) = refused(&Smtp::new(settings.clone()).unwrap()).await;
    assert!(
        phase == Phase::Auth && reason.contains("does not offer AUTH PLAIN or LOGIN"),
        "{reason}"
    );

    assert!(
        server
            .commands()
            .iter()
            .all(|line| !line.starts_with("AUTH"))
    );

    assert!(!format!("{:?}", Smtp::new(settings).unwrap()).contains("s3cret"));
}

#[tokio::test]
async fn a_token_that_cannot_be_had_is_the_relays_trouble() {
    let server = FakeSmtp::builder().login("shop", "token").start().await;
    let mut settings = server_at(&server);
    settings.timeouts.auth = Duration::from_millis(100);
    let failing: postrider::transport::TokenSource =
        Arc::new(|| Box::pin(async { Err("no network".to_owned()) }));

    let hanging: postrider::transport::TokenSource = Arc::new(|| Box::pin(std::future::pending()));
    for (token, expected) in [(failing, "no network"), (hanging, "in time")] {
        settings.auth = Some(Auth::OAuth2 {
            user: "shop".into(),
            token,
        });
        let (phase, reason) = refused(&Smtp::new(settings.clone()).unwrap()).await;
        assert!(
            phase == Phase::Auth && reason.contains(expected),
            "{reason}"
        );
    }
}

#[tokio::test]
async fn we_introduce_ourselves_as_configured_and_a_name_cannot_break_out_of_its_line() {
    let server = FakeSmtp::start().await;
    let mut settings = server_at(&server);
    for (name, line) in [
        ("mail.shop.example", "EHLO mail.shop.example"),
        ("192.0.2.1", "EHLO [192.0.2.1]"),
    ] {
        settings.client_name = Some(name.into());
        Smtp::new(settings.clone())
            .unwrap()
            .connect()
            .await
            .unwrap();
        assert_eq!(server.commands().last().unwrap(), line);
    }

    for name in ["", "two words", "a\r\nMAIL FROM:<x@y>", "b\u{fc}cher"] {
        settings.client_name = Some(name.into());
        assert!(
            matches!(Smtp::new(settings.clone()), Err(RelayError::ClientName(_))),
            "{name:?}"
        );
    }
}

#[tokio::test]
async fn replies_that_are_only_sloppy_are_understood() {
    let server = FakeSmtp::builder()
        .at(Step::Mail, Act::Raw(b"250\r\n".to_vec()))
        .at(
            Step::FinalDot,
            Act::Raw(b"250-2.0.0 gr\xfc\xdfe\r\n250 2.0.0 ID-7\r\n".to_vec()),
        )
        .start()
        .await;

    match &open(&server)
        .await
        .send(&transaction(&["ada@example.org"]), None)
        .await[..]
    {
        [Outcome::Delivered(reply)] => assert_eq!(reply.text, "gr??e ID-7"),
        other => panic!("{other:?}"),
    }
}

async fn real_server(server: &RealServer) {
    let mut settings = crate::common::server_on(server.address());
    settings.messages_per_connection = 50;
    let transport = Smtp::new(settings).unwrap();
    for _ in 0..2 {
        let mut connection: Box<dyn Connection> = transport.connect().await.unwrap();
        let mails: Vec<Transaction> = (0..10)
            .map(|_| transaction(&["ada@example.org", "bob@example.org"]))
            .collect();
        for (index, mail) in mails.iter().enumerate() {
            let outcomes = connection.send(mail, mails.get(index + 1)).await;
            assert!(delivered(&outcomes), "{outcomes:?}");
        }
        connection.close().await;
    }
}

#[tokio::test]
async fn smtp_sink_takes_our_mail_pipelined_and_not() {
    real_server(&RealServer::smtp_sink(&[])).await;
    real_server(&RealServer::smtp_sink(&["-p"])).await;
}

#[tokio::test]
async fn aiosmtpd_takes_our_mail() {
    real_server(&RealServer::aiosmtpd()).await;
}

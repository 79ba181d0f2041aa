//! Limits, deadlines, clients that vanish, and how the door is shut.

use std::time::Duration;

use postrider::Query;
use tokio::net::TcpStream;

use crate::common::FaultySpool;
use crate::common::door::{APP_PLAIN, Door, app, settings};

const MESSAGE: &str = "From: shop@example.com\r\nSubject: hello\r\n\r\nHello.\r\n";

#[tokio::test]
async fn a_mail_is_not_queued_before_the_spool_says_so() {
    let spool = FaultySpool::new();
    let door = Door::before(settings(), |engine| engine.spool_custom(spool.clone())).await;
    let mut client = door.client().await;
    client.begin().await;
    client.expect("DATA", "354").await;
    spool.hold();
    client.send(format!("{MESSAGE}.\r\n")).await;
    let early = tokio::time::timeout(Duration::from_millis(200), client.reply()).await;
    assert!(early.is_err(), "answered too early: {early:?}");
    spool.let_go();
    assert!(client.reply().await.starts_with("250 2.0.0 queued as "));
}

#[tokio::test]
async fn while_the_spool_is_broken_mail_is_put_off() {
    let spool = FaultySpool::new();
    let door = Door::before(settings(), |engine| engine.spool_custom(spool.clone())).await;
    let mut client = door.client().await;
    client.begin().await;
    spool.break_down();

    let answer = client.data(MESSAGE).await;
    assert!(answer.starts_with("452 4.3.1"), "{answer}");
    spool.mend();
    client.envelope().await;

    assert!(
        client
            .data(MESSAGE)
            .await
            .starts_with("250 2.0.0 queued as ")
    );
}

#[tokio::test]
async fn connections_are_limited_and_a_place_that_is_left_is_free_again() {
    let mut settings = settings();
    settings.limits.connections_per_peer = 2;
    let door = Door::with(settings).await;
    let mut first = door.client().await;
    let _second = door.client().await;

    let mut third = door.client().await;
    assert!(
        third.greeting.starts_with("421 4.7.0"),
        "{}",
        third.greeting
    );

    assert!(third.is_closed().await);
    first.expect("QUIT", "221").await;
    assert!(first.is_closed().await);
    drop(first);
    while !door.client().await.greeting.starts_with("220") {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_client_that_does_not_log_in_is_sent_away_however_busy_it_is() {
    let mut settings = settings();
    settings.limits.login = Duration::from_millis(300);
    settings.limits.commands_before_login = u32::MAX;
    settings.users = vec![app()];

    let door = Door::with(settings).await;
    let mut stranger = door.client().await;
    stranger.expect("EHLO client.example", "250").await;
    let talks = async {
        loop {
            let answer = stranger.ask("NOOP").await;
            if answer.starts_with("421 4.4.2") {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };

    tokio::time::timeout(Duration::from_secs(10), talks)
        .await
        .expect("it stays");

    let mut client = door.client().await;
    client.expect("EHLO client.example", "250").await;
    client
        .expect(&format!("AUTH PLAIN {APP_PLAIN}"), "235")
        .await;
    tokio::time::sleep(Duration::from_millis(400)).await;

    client.expect("NOOP", "250").await;
}

#[tokio::test]
async fn an_idle_client_is_sent_away_though_it_drips_bytes() {
    let mut settings = settings();
    settings.limits.idle = Duration::from_millis(150);

    let door = Door::with(settings).await;
    let mut idle = door.client().await;
    assert!(idle.reply().await.starts_with("421 4.4.2"));
    assert!(idle.is_closed().await);

    let mut dripping = door.client().await;
    let dripped = async {
        for _ in 0..100 {
            dripping.send("N").await;
            tokio::select! {
                reply = dripping.reply() => return reply,
                () = tokio::time::sleep(Duration::from_millis(20)) => {}
            }
        }
        panic!("a line may take for ever");
    };

    assert!(dripped.await.starts_with("421 4.4.2"));
}

#[tokio::test]
async fn a_message_has_to_come_at_a_pace() {
    let mut settings = settings();
    settings.limits.data = Duration::from_millis(150);
    settings.limits.data_rate = 1_000_000;

    let door = Door::with(settings).await;
    let mut client = door.client().await;
    client.begin().await;
    client.expect("DATA", "354").await;

    let dripped = async {
        for _ in 0..100 {
            client.send("drip\r\n").await;
            tokio::select! {
                reply = client.reply() => return reply,
                () = tokio::time::sleep(Duration::from_millis(20)) => {}
            }
        }
        panic!("a message may take for ever");
    };

    assert!(dripped.await.starts_with("421 4.4.2"));
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
async fn a_client_that_vanishes_leaves_nothing_behind() {
    let mut settings = settings();
    settings.limits.memory = 100_000;
    settings.limits.connections_per_peer = 1;

    let door = Door::with(settings).await;
    for (begin, cut) in [
        ("DATA\r\n", "From: a@example.com\r\n\r\n"),
        ("BDAT 70000 LAST\r\n", "From: a@example.com\r\n\r\n"),
    ] {
        let mut client = door.client().await;
        client.begin().await;
        client
            .send(format!("{begin}{cut}{}\r\n.", "x".repeat(60_000)))
            .await;
        drop(client);
        // There is one place, and memory for one such message: both come back.
        let mut next = door.client().await;
        while next.greeting.starts_with("421") {
            next = door.client().await;
        }
        next.begin().await;
        let reply = next
            .data(format!("{MESSAGE}{}\r\n", "y".repeat(60_000)))
            .await;
        assert!(reply.starts_with("250"), "{reply}");
        next.expect("QUIT", "221").await;
        assert!(next.is_closed().await);
        drop(next);
        while door.client().await.greeting.starts_with("421") {}
    }

    let sent = door.sent().await;
    assert_eq!(sent.len(), 2);
    assert!(sent.iter().all(|mail| mail.message.ends_with(b"yyy\r\n")));
    assert_eq!(
        door.postrider
            .list(Query::default())
            .await
            .unwrap()
            .mails
            .len(),
        2
    );
}

#[tokio::test]
async fn messages_share_a_budget_of_memory() {
    let mut settings = settings();
    settings.limits.memory = 100_000;

    let door = Door::with(settings).await;
    let (mut holds, mut comes) = (door.client().await, door.client().await);
    for client in [&mut holds, &mut comes] {
        client.begin().await;
    }

    let message = format!("{MESSAGE}{}", "x".repeat(60_000));
    holds
        .send(format!("BDAT {}\r\n{message}", message.len()))
        .await;

    assert!(holds.reply().await.starts_with("250 2.0.0 60"));

    let reply = comes
        .data(format!("{MESSAGE}{}\r\n", "y".repeat(60_000)))
        .await;
    assert!(reply.starts_with("452 4.3.1"), "{reply}");
    holds.expect("BDAT 0 LAST", "250 2.0.0 queued").await;
    comes.envelope().await;

    assert!(
        comes
            .data(format!("{MESSAGE}{}\r\n", "y".repeat(60_000)))
            .await
            .starts_with("250")
    );
}

#[tokio::test]
async fn a_shutdown_sends_the_idle_away_and_lets_a_message_come_to_its_end() {
    let door = Door::open().await;
    let mut idle = door.client().await;
    let mut begun = door.client().await;
    begun.begin().await;

    let mut sending = door.client().await;
    sending.begin().await;
    sending.expect("DATA", "354").await;
    sending.send(MESSAGE).await;
    door.begin_shutdown();
    for client in [&mut idle, &mut begun] {
        assert!(client.reply().await.starts_with("421 4.3.2"));
        assert!(client.is_closed().await);
    }

    while TcpStream::connect(door.address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    assert!(sending.ask(".").await.starts_with("250 2.0.0 queued as "));
    assert!(sending.reply().await.starts_with("421 4.3.2"));
    assert_eq!(door.sent().await.len(), 1);

    door.shut().await;
}

#[tokio::test]
async fn a_shutdown_does_not_wait_for_ever() {
    let mut settings = settings();
    settings.limits.drain = Duration::from_millis(100);
    let door = Door::with(settings).await;
    let mut hangs = door.client().await;
    hangs.begin().await;
    hangs.expect("DATA", "354").await;
    let sent = door.sent().await;
    door.shut().await;
    assert!(hangs.is_closed().await);
    assert!(sent.is_empty());
}

#[tokio::test]
async fn a_client_that_does_not_read_is_given_up() {
    let mut settings = settings();
    settings.limits.write = Duration::from_millis(100);
    settings.limits.connections_per_peer = 1;
    settings.limits.errors = u32::MAX;

    let door = Door::with(settings).await;
    let mut deaf = TcpStream::connect(door.address).await.unwrap();
    let lines = format!("EHLO x\r\n{}", "HELP\r\n".repeat(20_000));
    let given_up = async {
        while tokio::io::AsyncWriteExt::write_all(&mut deaf, lines.as_bytes())
            .await
            .is_ok()
        {}
    };

    tokio::time::timeout(Duration::from_secs(20), given_up)
        .await
        .expect("the door reads for ever");
    while door.client().await.greeting.starts_with("421") {
        tokio::task::yield_now().await;
    }
}

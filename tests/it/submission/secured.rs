//! TLS, and who may send.

use std::time::Duration;

use postrider::ingress::smtp::{SmtpDoor, User};
use postrider::{Builder, Clock, Quota, Submitter, seconds};

use crate::common::TestSpool;
use crate::common::door::{APP_PLAIN, Certificate, Client, Door, app, secured, settings};

const APP: &str = "app@example.com";
const MESSAGE: &str = "From: shop@example.com\r\nSubject: hello\r\n\r\nHello.\r\n";

#[tokio::test]
async fn a_mail_comes_in_over_starttls_with_a_login() {
    let certificate = Certificate::new();
    let door = Door::with(secured(&certificate)).await;
    let mut client = door.client().await;
    assert!(client.ask("EHLO x").await.contains("STARTTLS"));

    let mut client = client.start_tls(&certificate).await;
    client.expect("MAIL FROM:<shop@example.com>", "503").await;
    assert!(client.ask("EHLO x").await.contains("250 AUTH PLAIN LOGIN"));
    client
        .expect("MAIL FROM:<shop@example.com>", "530 5.7.0")
        .await;
    client
        .expect(&format!("AUTH PLAIN {APP_PLAIN}"), "235 2.7.0")
        .await;
    client.envelope().await;

    assert!(client.data(MESSAGE).await.starts_with("250"));
    assert!(door.only().await.contains(" with ESMTPSA; "));
}

#[tokio::test]
async fn a_mail_comes_in_over_implicit_tls() {
    let certificate = Certificate::new();
    let door = Door::with(secured(&certificate)).await;
    let mut client = Client::over_tls(door.tls_address.unwrap(), &certificate)
        .await
        .unwrap();
    assert_eq!(client.greeting, "220 door.example ESMTP Postrider\r\n");

    let offer = client.ask("EHLO x").await;
    assert!(
        !offer.contains("STARTTLS") && offer.contains("AUTH"),
        "{offer}"
    );

    client.expect("AUTH LOGIN YXBw", "334").await;
    client.expect("c2U6Y3IgZXQ=", "235").await;
    client.envelope().await;
    assert!(client.data(MESSAGE).await.starts_with("250"));
    client.expect("QUIT", "221").await;

    assert!(client.is_closed().await);
}

#[tokio::test]
async fn what_is_sent_in_the_clear_with_starttls_is_never_obeyed() {
    let certificate = Certificate::new();
    let door = Door::with(secured(&certificate)).await;
    let mut client = door.client().await;
    client.expect("EHLO x", "250").await;
    client
        .send("STARTTLS\r\nEHLO evil\r\nMAIL FROM:<evil@example.com>\r\n")
        .await;
    assert!(client.reply().await.starts_with("554 5.5.1"));
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn a_handshake_that_does_not_come_ends_the_connection() {
    let certificate = Certificate::new();
    let mut settings = secured(&certificate);
    settings.limits.handshake = std::time::Duration::from_millis(50);

    let door = Door::with(settings).await;
    let mut client = door.client().await;
    client.expect("EHLO x", "250").await;
    client.expect("STARTTLS", "220").await;

    assert!(client.is_closed().await);
    let mut client = door.client().await;
    client.expect("EHLO x", "250").await;
    client.expect("STARTTLS", "220").await;
    client
        .send("this is no handshake, but a line that goes on in the clear\r\n")
        .await;

    let alert = client.reply().await;
    assert!(
        !alert.starts_with(|c: char| c.is_ascii_digit()),
        "it was answered {alert:?}"
    );
}

#[tokio::test]
async fn users_and_certificate_are_replaced_while_the_door_is_open() {
    let (old, new) = (Certificate::new(), Certificate::new());

    let door = Door::with(secured(&old)).await;
    let tls = door.tls_address.unwrap();
    let mut open = Client::over_tls(tls, &old).await.unwrap();
    open.expect("EHLO x", "250").await;

    let somebody = User {
        name: "other".into(),
        password: "new".into(),
    };

    door.reloader
        .reload(vec![somebody], Some(new.files()))
        .unwrap();
    open.expect(&format!("AUTH PLAIN {APP_PLAIN}"), "535 5.7.8")
        .await;
    open.expect("AUTH PLAIN AG90aGVyAG5ldw==", "235").await;

    assert!(
        Client::over_tls(tls, &old).await.is_err(),
        "the old certificate is shown still"
    );

    Client::over_tls(tls, &new).await.unwrap();
    // What cannot be used changes nothing.
    std::fs::write(new.cert(), "rubbish").unwrap();
    let error = door
        .reloader
        .reload(vec![app()], Some(new.files()))
        .unwrap_err()
        .to_string();

    assert!(error.contains("smtp.tls.cert"), "{error}");
    assert!(
        door.reloader
            .reload(vec![app()], None)
            .unwrap_err()
            .to_string()
            .contains("smtp.tls")
    );

    let mut client = door.client().await;
    client.expect("EHLO x", "250").await;
    client.expect("AUTH PLAIN AG90aGVyAG5ldw==", "235").await;
}

#[tokio::test]
async fn a_failed_login_has_to_wait() {
    let mut settings = settings();
    settings.users = vec![app()];
    settings.limits.login_penalty = std::time::Duration::from_millis(150);
    let door = Door::with(settings).await;
    let mut client = door.client().await;
    client.expect("EHLO x", "250").await;
    let asked = std::time::Instant::now();
    client
        .expect("AUTH PLAIN AGFwcAB3cm9uZw==", "535 5.7.8")
        .await;
    assert!(asked.elapsed() >= std::time::Duration::from_millis(150));
}

#[tokio::test]
async fn the_door_does_not_open_to_everybody_nor_on_a_port_that_is_taken() {
    let mut open = settings();
    open.listen = ([0, 0, 0, 0], 0).into();
    let error = SmtpDoor::bind(open).await.err().unwrap().to_string();
    assert!(error.contains("smtp.users"), "{error}");
    let door = Door::open().await;
    let mut taken = settings();
    taken.listen = door.address;
    let error = SmtpDoor::bind(taken).await.err().unwrap().to_string();
    assert!(error.contains(&door.address.to_string()), "{error}");
}

#[tokio::test(flavor = "current_thread")]
async fn no_password_and_no_control_character_reaches_the_log() {
    let log = crate::common::door::Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);

    let mut settings = settings();
    settings.users = vec![app()];

    let door = Door::with(settings).await;
    let mut client = door.client().await;
    client.expect("EHLO \u{202e}(evil)", "250").await;

    // The user `a\r\nb\x1b[2J`, and the password `hunter2`.
    client
        .expect("AUTH PLAIN AGENCmIbWzJKAGh1bnRlcjI=", "535")
        .await;
    client
        .expect(&format!("AUTH PLAIN {APP_PLAIN}"), "235")
        .await;
    client.envelope().await;

    assert!(client.data(MESSAGE).await.starts_with("250"));
    client.expect("QUIT", "221").await;
    drop(client);
    door.sent().await;

    let text = log.text();
    assert!(
        text.contains("smtp login refused") && text.contains("a\\r\\nb"),
        "{text}"
    );

    for secret in [
        "hunter2",
        "aHVudGVyMg",
        "AGENCmIb",
        "se:cr et",
        APP_PLAIN,
        "Hello.",
    ] {
        assert!(!text.contains(secret), "{secret} is in the log:\n{text}");
    }

    assert!(
        !text.chars().any(|c| c.is_control() && c != '\n'),
        "{text:?}"
    );

    door.postrider
        .shutdown(postrider::Drain::within(seconds(1)))
        .await
        .unwrap();
}

#[tokio::test]
async fn the_record_keeps_which_user_handed_a_mail_in_and_a_key_is_theirs() {
    let mut settings = settings();
    let other = User {
        name: "other".into(),
        password: "secret".into(),
    };

    settings.users = vec![app(), other];
    let door = Door::with(settings).await;
    let mut ids = Vec::new();
    for login in [APP_PLAIN, "AG90aGVyAHNlY3JldA=="] {
        let mut client = door.client().await;
        client.expect("EHLO x", "250").await;
        client.expect(&format!("AUTH PLAIN {login}"), "235").await;
        client.envelope().await;
        let queued = client
            .data(format!("X-Postrider-Key: order-1\r\n{MESSAGE}"))
            .await;
        let id = queued.split("queued as ").nth(1).unwrap().trim();
        ids.push(id.parse().unwrap());
    }

    assert_ne!(
        ids[0], ids[1],
        "the same key of another user is another key"
    );

    for (id, who) in ids.into_iter().zip(["user:app", "user:other"]) {
        let record = door.postrider.status(id).await.unwrap();
        assert_eq!(record.submitter.unwrap().to_string(), who);
    }
}

#[tokio::test]
async fn a_user_learns_when_to_come_back_and_which_address_is_not_theirs() {
    let mut settings = settings();
    settings.users = vec![app()];
    let door = Door::with(settings).await;
    let quota = Quota {
        rate: Some("2/h".parse().unwrap()),
        from: vec!["example.com".parse().unwrap()],
        ..Quota::default()
    };

    door.postrider.set_quotas([(Submitter::user("app"), quota)]);
    let mut client = door.client().await;
    client.expect("EHLO x", "250").await;
    client
        .expect(&format!("AUTH PLAIN {APP_PLAIN}"), "235")
        .await;

    let foreign = "From: boss@example.org\r\nSubject: hello\r\n\r\nHello.\r\n";
    client.envelope().await;
    let refused = client.data(foreign).await;
    assert!(refused.starts_with("550 5.7.1"), "{refused}");
    assert!(refused.contains("boss@example.org"), "{refused}");
    for _ in 0..2 {
        client.envelope().await;
        assert!(client.data(MESSAGE).await.starts_with("250"));
    }

    client.envelope().await;
    let refused = client.data(MESSAGE).await;
    assert!(refused.starts_with("450 4.7.1"), "{refused}");
    assert!(refused.contains("again in"), "{refused}");

    // What is not sent yet stands in the way for a while.
    let quota = Quota {
        max_pending: Some(0),
        ..Quota::default()
    };
    door.postrider.set_quotas([(Submitter::user("app"), quota)]);
    client.envelope().await;
    let refused = client.data(MESSAGE).await;
    assert!(refused.starts_with("450 4.7.1"), "{refused}");
    assert!(refused.contains("again in"), "{refused}");
}

#[tokio::test]
async fn a_day_used_up_is_answered_over_smtp_with_the_time_until_the_next() {
    let mut settings = settings();
    settings.users = vec![app()];
    let clock = Clock::fake();
    let engine = |builder: Builder| builder.test_spool().clock(clock.clone());
    let door = Door::before(settings, engine).await;
    let quota = Quota {
        max_per_day: Some(3),
        from: vec!["*.example.com".parse().unwrap(), APP.parse().unwrap()],
        ..Quota::default()
    };
    door.postrider.set_quotas([(Submitter::user("app"), quota)]);

    let mut client = door.client().await;
    client.expect("EHLO x", "250").await;
    let login = format!("AUTH PLAIN {APP_PLAIN}");
    client.expect(&login, "235").await;
    let from = async |client: &mut Client, path: &str, author: &str, to: &[&str]| {
        client.expect(&format!("MAIL FROM:<{path}>"), "250").await;
        for to in to {
            client.expect(&format!("RCPT TO:<{to}>"), "250").await;
        }
        let message = format!("From: {author}\r\nSubject: hello\r\n\r\nHello.\r\n");
        client.data(message).await
    };

    // Neither the envelope nor the header names somebody else.
    let ada = ["ada@example.org"];
    for (path, author, foreign) in [
        ("boss@example.com", APP, "boss@example.com"),
        (APP, "Boss <boss@example.com>", "boss@example.com"),
        (APP, "a@mail.example.com, b@example.org", "b@example.org"),
    ] {
        let refused = from(&mut client, path, author, &ada).await;
        assert!(refused.starts_with("550 5.7.1"), "{refused}");
        assert!(refused.contains(foreign), "{refused}");
    }

    // Each recipient counts, and what was refused does not.
    let two = ["ada@example.org", "bob@example.org"];
    let taken = from(&mut client, APP, "a@mail.example.com", &two).await;
    assert!(taken.starts_with("250"), "{taken}");
    let refused = from(&mut client, APP, APP, &two).await;
    let span = refused.trim().split("again in ").nth(1).unwrap();
    let until = humantime::parse_duration(span).unwrap();
    assert!(refused.starts_with("450 4.7.1"), "{refused}");
    assert!(refused.contains("max_per_day"), "{refused}");
    assert!(until <= Duration::from_secs(24 * 60 * 60), "{refused}");
    let taken = from(&mut client, APP, APP, &ada).await;
    assert!(taken.starts_with("250"), "{taken}");

    clock.advance(until - Duration::from_secs(1));
    let refused = from(&mut client, APP, APP, &ada).await;
    assert!(refused.ends_with("again in 1s\r\n"), "{refused}");
    clock.advance(Duration::from_secs(1));
    let taken = from(&mut client, APP, APP, &two).await;
    assert!(taken.starts_with("250"), "{taken}");
}

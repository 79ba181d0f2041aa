//! The log: INFO delivered, WARN will retry or refused, ERROR gave up, with fields; nothing hostile
//! and no secret gets in.

use std::io::Write;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use postrider::mail::Timestamp;
use postrider::{Clock, Dispatcher, Drain, MailId, Relay, days, hours, seconds};
use serde_json::Value;
use tracing_subscriber::fmt::MakeWriter;

use crate::common::{
    Act, Cert, EventLog, FakeSmtp, Rule, ScriptedRelay, Step, TestSpool, engine, mail, mail_to,
    relay_at, submit,
};

/// Everything that is logged from its first use on.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Log;
    fn make_writer(&'a self) -> Log {
        self.clone()
    }
}

impl Log {
    /// One for the whole process: what a subscriber of one thread gets to see depends on what the
    /// others do.
    fn begin() -> &'static Log {
        static LOG: OnceLock<Log> = OnceLock::new();
        LOG.get_or_init(|| {
            let log = Log::default();
            let subscriber = tracing_subscriber::fmt()
                .json()
                .with_max_level(tracing::Level::TRACE);
            tracing::subscriber::set_global_default(subscriber.with_writer(log.clone()).finish())
                .unwrap();
            log
        })
    }

    fn text(&self) -> String {
        String::from_utf8(self.0.lock().clone()).unwrap()
    }

    /// The lines about a mail with this message: level and fields.
    fn about(&self, id: MailId, message: &str) -> Vec<(String, Value)> {
        let lines = self.text();
        let lines = lines
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap());
        let ours = lines.filter(|line| {
            line["fields"]["mail.id"] == id.to_string() && line["fields"]["message"] == message
        });
        ours.map(|line| {
            (
                line["level"].as_str().unwrap().to_owned(),
                line["fields"].clone(),
            )
        })
        .collect()
    }
}

#[tokio::test]
async fn delivered_is_info_and_what_is_deferred_or_refused_is_a_warning() {
    let log = Log::begin();
    let server = FakeSmtp::builder()
        .rule(
            Rule::at(Step::Rcpt)
                .to("ada@")
                .first(1)
                .act(Act::reply(450, "4.2.1 mailbox busy")),
        )
        .rule(
            Rule::at(Step::Rcpt)
                .to("bob@")
                .act(Act::reply(550, "5.1.1 no such user")),
        )
        .start()
        .await;
    let clock = Clock::fake();
    let postrider = engine(relay_at(&server), &clock).start().await.unwrap();
    let mut told = EventLog::by(&postrider);
    let ada = submit(&postrider, mail("ada@example.org")).await;

    told.first("deferred").await;
    clock.advance(seconds(60));

    // Who waits may know it from the disk a moment before it is told; the log tells before the
    // events do.
    told.first("delivered").await;
    let bob = submit(&postrider, mail("bob@example.org")).await;

    told.first("dead").await;
    let lines = [
        (
            ada,
            "ada@example.org",
            "deferred, will retry",
            "WARN",
            450,
            "mailbox busy",
        ),
        (ada, "ada@example.org", "delivered", "INFO", 250, "taken"),
        (
            bob,
            "bob@example.org",
            "gave up",
            "WARN",
            550,
            "no such user",
        ),
    ];

    for (id, recipient, message, level, code, text) in lines {
        let logged = log.about(id, message);
        assert_eq!(logged.len(), 1, "{message}: {logged:?}");
        let (logged_level, fields) = &logged[0];
        assert_eq!(logged_level, level, "{message}");
        assert_eq!(fields["recipient"], recipient);
        assert_eq!(
            (&fields["relay"], &fields["code"], &fields["text"]),
            (&"primary".into(), &code.into(), &text.into())
        );
    }

    let gave_up = &log.about(bob, "gave up")[0].1;
    assert_eq!(
        (
            &gave_up["reason"],
            &gave_up["enhanced"],
            &gave_up["subject"]
        ),
        (&"rejected".into(), &"5.1.1".into(), &"Your code".into())
    );
    assert!(log.about(ada, "deferred, will retry")[0].1["next_attempt_at"].is_string());
}

#[tokio::test]
async fn what_a_relay_says_reaches_no_log_and_no_event_raw() {
    let log = Log::begin();
    let hostile = "4.2.1 \u{1b}[2Jclear \u{202e}desrever \u{7}";
    let server = FakeSmtp::builder()
        .at(Step::Rcpt, Act::reply(450, hostile))
        .start()
        .await;
    let postrider = engine(relay_at(&server), &Clock::fake())
        .start()
        .await
        .unwrap();
    let mut told = EventLog::by(&postrider);
    let id = submit(&postrider, mail("ada@example.org")).await;
    let mut events = told.until("deferred").await;

    let scripted = ScriptedRelay::free();
    scripted.down(Some("\u{1b}]0;title\u{7} gone"));
    let other: Dispatcher = engine(scripted.relay(), &Clock::fake())
        .start()
        .await
        .unwrap();
    let mut told = EventLog::by(&other);

    submit(&other, mail("ada@example.org")).await;
    events.extend(told.until("relay_down").await);
    let logged = &log.about(id, "deferred, will retry")[0].1;
    assert!(logged["text"].as_str().unwrap().contains("clear"));

    let told = format!("{}", serde_json::to_value(&events).unwrap());
    let logged = log.text();
    for raw in ["\\u001b", "\\u0007", "\u{202e}", "\u{1b}", "\u{7}"] {
        assert!(!told.contains(raw) && !logged.contains(raw), "{raw:?}");
    }

    assert!(logged.contains("the relay is down") && logged.contains("gone"));
}

#[tokio::test]
async fn no_secret_reaches_a_log_an_event_or_a_debug_print() {
    let log = Log::begin();
    let (secret, in_base64) = ("s3cret-pw", "AHVzZXIAczNjcmV0LXB3");
    let server = FakeSmtp::builder()
        .login("user", secret)
        .mechanisms("PLAIN")
        .starttls(Cert::Good);

    // A server that quotes what it was sent, as some do.
    let quotes = Act::reply(
        535,
        &format!("5.7.8 bad login: AUTH PLAIN {in_base64} {secret}"),
    );

    let server = server
        .rule(Rule::at(Step::Auth).first(3).act(quotes))
        .start()
        .await;
    let url = server.url_with("smtp+starttls", &format!("user:{secret}"));
    let relay = Relay::smtp(&url)
        .unwrap()
        .name("primary")
        .ca_file(server.ca_file());
    let clock = Clock::fake();
    let builder = engine(relay.clone(), &clock);
    let printed = format!("{relay:?} {builder:?}");
    let postrider = builder.start().await.unwrap();
    let mut told = EventLog::by(&postrider);

    let id = submit(
        &postrider,
        mail_to("ada@example.org")
            .text("for your eyes only")
            .build()
            .unwrap(),
    )
    .await;
    let mut events = told.until("relay_down").await;

    clock.advance(seconds(1));
    events.extend(told.until("delivered").await);
    let told = format!(
        "{events:?} {:?} {:?}",
        postrider.status(id).await,
        postrider.relays().await
    );

    assert!(
        server
            .commands()
            .contains(&format!("AUTH PLAIN {in_base64}")),
        "the test knows what it looks for"
    );

    for hidden in [secret, in_base64] {
        for place in [&printed, &told, &log.text()] {
            assert!(!place.contains(hidden), "{place}");
        }
    }

    assert!(
        !log.text().contains("for your eyes"),
        "nor does what the mail says"
    );
}

#[tokio::test]
async fn a_clock_that_is_behind_what_the_spool_has_seen_is_reported() {
    let log = Log::begin();
    let server = FakeSmtp::start().await;
    let dir = tempfile::tempdir().unwrap();
    let now = Timestamp::now();
    let at = async |clock: Timestamp| {
        let clock = Clock::fake_at(clock);
        let builder = Dispatcher::builder().relay(relay_at(&server)).clock(clock);
        let postrider = builder.test_spool_in(dir.path()).start().await.unwrap();
        let id = submit(&postrider, mail("ada@example.org")).await;
        postrider.wait(id).await.unwrap();
        postrider.shutdown(Drain::within(seconds(5))).await.unwrap();
    };
    // Others write into this log too, and none of them is so late.
    let is_told = || log.text().contains("9days 23h") && log.text().contains("clock is behind");

    at(now + days(10)).await;
    at(now + days(10) + hours(1)).await;
    assert!(!is_told());
    at(now + hours(2)).await;
    assert!(is_told());
}

//! A whole Postfix as the relay: STARTTLS, a login, and what it hands on. Fails where Postfix or
//! sasl2-bin is missing.
#![cfg(target_os = "linux")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::common::postfix::{LoginRequirement, Postfix};
use crate::common::real_servers::RealServer;
use crate::common::{mail, mail_to};
use futures::StreamExt;
use postrider::mail::MailId;
use postrider::transport::Auth;
use postrider::{Dispatcher, Drain, EventItem, EventKind, MailStatus, Relay, seconds};

/// Nothing here takes this long unless it hangs.
const WAIT_LIMIT: Duration = Duration::from_secs(40);
const USER: &str = "app@relay.example";
pub(crate) const PASSWORD: &str = "se:cr et";

/// Where Postfix hands everything on to: `smtp-sink`, which keeps each message in a file.
pub(crate) struct Sink {
    server: RealServer,
    kept: tempfile::TempDir,
}

impl Sink {
    pub(crate) fn start() -> Self {
        let kept = tempfile::tempdir().unwrap();
        std::fs::set_permissions(
            kept.path(),
            std::os::unix::fs::PermissionsExt::from_mode(0o777),
        )
        .unwrap();
        let server = RealServer::smtp_sink(&["-d", &format!("{}/mail.", kept.path().display())]);
        Sink { server, kept }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.server.address()
    }

    fn messages(&self) -> Vec<String> {
        let read = |entry: std::io::Result<std::fs::DirEntry>| {
            std::fs::read(entry.unwrap().path()).unwrap()
        };
        let messages = std::fs::read_dir(self.kept.path()).unwrap().map(read);
        messages
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .collect()
    }

    /// Waits until so many messages have come whole, which is when their files grow no more.
    pub(crate) async fn settled(&self, count: usize) -> Vec<String> {
        let begun = Instant::now();
        let mut before: Vec<String> = Vec::new();
        loop {
            let messages = self.messages();
            if messages.len() == count && messages == before {
                return messages;
            }
            let came = messages.len();
            assert!(begun.elapsed() < WAIT_LIMIT, "{came} of {count} came");
            before = messages;
            tokio::time::sleep(Duration::from_millis(1000)).await;
        }
    }

    /// Waits until mail with each of these subjects has come whole, and counts how often each came.
    async fn counts(&self, subjects: &[String], last_line: &str) -> BTreeMap<String, usize> {
        let begun = Instant::now();
        loop {
            let messages = self.messages();
            let came = |subject: &String| {
                let line = format!("\nSubject: {subject}\n");
                let whole = |m: &&String| {
                    let text = m.replace("\r\n", "\n");
                    text.contains(&line) && text.trim_end().ends_with(last_line)
                };
                (subject.clone(), messages.iter().filter(whole).count())
            };
            let counts: BTreeMap<_, _> = subjects.iter().map(came).collect();
            if counts.values().all(|count| *count > 0) {
                return counts;
            }
            assert!(
                begun.elapsed() < WAIT_LIMIT,
                "of {} messages: {counts:?}",
                messages.len()
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// A relay that logs in at this Postfix.
pub(crate) fn relay(url_scheme: &str, postfix: &Postfix, password: &str) -> Relay {
    let auth = Auth::Password {
        user: USER.into(),
        password: password.to_owned().into(),
    };

    let relay = Relay::smtp(&format!(
        "{url_scheme}://127.0.0.1:{}",
        postfix.address().port()
    ))
    .unwrap();

    relay
        .auth(auth)
        .ca_file(postfix.ca())
        .name("postfix")
        .connections(4)
}

async fn start(relay: Relay, spool: &Path) -> Dispatcher {
    Dispatcher::builder()
        .relay(relay)
        .spool(spool)
        .start()
        .await
        .unwrap()
}

/// It waits, unless the relay is just being tried again with it, and nothing is held against it.
#[track_caller]
fn waits_as_it_was(status: &MailStatus) {
    let delivery = &status.deliveries[0];
    assert!(
        ["queued", "sending"].contains(&delivery.state.as_str()),
        "{status:#?}"
    );
    assert_eq!(delivery.attempts_counted, 0, "{status:#?}");
}

/// Waits until the relay is down, and returns the reason.
async fn why_down(postrider: &Dispatcher) -> String {
    let mut events = postrider.events_after(0);
    let waiting = async {
        loop {
            if let Some(EventItem::Event(event)) = events.next().await
                && let EventKind::RelayDown { reason } = event.kind
            {
                return reason;
            }
        }
    };

    tokio::time::timeout(WAIT_LIMIT, waiting)
        .await
        .expect("the relay is never down")
}

#[tokio::test(flavor = "multi_thread")]
async fn mail_goes_through_a_real_postfix_under_tls_and_a_login_and_arrives_once() {
    let sink = Sink::start();
    let postfix = Postfix::start(
        LoginRequirement::LoginUnderTls,
        "app",
        PASSWORD,
        sink.address(),
    );
    let spool = tempfile::tempdir().unwrap();

    // As it is written in a configuration, percent signs included.
    let url = format!(
        "smtp+starttls://app%40relay.example:se%3Acr%20et@127.0.0.1:{}",
        postfix.address().port()
    );

    let relay = Relay::smtp(&url)
        .unwrap()
        .ca_file(postfix.ca())
        .connections(4);
    let postrider = start(relay, spool.path()).await;
    let subjects: Vec<String> = (0..60).map(|n| format!("through postfix {n}")).collect();

    let mut ids = Vec::new();
    for (n, subject) in subjects.iter().enumerate() {
        // Some larger than any buffer on the way, and all with lines that begin with a dot.
        let body = format!(
            "{}\n.\n..dots\nthe end",
            "x".repeat(70).repeat(if n % 20 == 0 { 10_000 } else { 5 })
        );
        let mail = mail_to("ada@example.org")
            .to("bob@example.org")
            .subject(subject)
            .text(body)
            .build()
            .unwrap();
        ids.push(postrider.submit(mail).await.unwrap().id);
    }

    for id in &ids {
        let status = tokio::time::timeout(WAIT_LIMIT, postrider.wait(*id))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(
            status.state.as_str(),
            "delivered",
            "{status:#?}\n{}",
            postfix.log()
        );
        assert!(
            status
                .deliveries
                .iter()
                .all(|delivery| delivery.attempts.len() == 1),
            "{status:#?}"
        );
    }

    let counts = sink.counts(&subjects, "\n.\n..dots\nthe end").await;
    assert!(
        counts.values().all(|count| *count == 1),
        "each came once: {counts:?}"
    );

    for message in sink.messages() {
        assert!(
            message.contains("with ESMTPSA id "),
            "secured and logged in: {message}"
        );
        assert!(
            message.contains("ada@example.org") && message.contains("bob@example.org"),
            "{message}"
        );
    }

    postrider.shutdown(Drain::within(seconds(5))).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_at_a_real_postfix_costs_no_attempt_and_no_mail() {
    let sink = Sink::start();
    let postfix = Postfix::start(
        LoginRequirement::LoginUnderTls,
        "app",
        PASSWORD,
        sink.address(),
    );
    let spool = tempfile::tempdir().unwrap();
    let wrong = start(
        relay("smtp+starttls", &postfix, "not the password"),
        spool.path(),
    )
    .await;
    let id = wrong.submit(mail("ada@example.org")).await.unwrap().id;

    let reason = why_down(&wrong).await;
    assert!(reason.contains("535 5.7.8"), "{reason}");
    assert!(!reason.contains("not the password"), "{reason}");

    let status = wrong.status(id).await.unwrap();
    waits_as_it_was(&status);
    wrong.shutdown(Drain::within(seconds(5))).await.unwrap();
    drop(wrong);

    let right = start(relay("smtp+starttls", &postfix, PASSWORD), spool.path()).await;
    let status = tokio::time::timeout(WAIT_LIMIT, right.wait(id))
        .await
        .unwrap()
        .unwrap();

    assert_eq!(status.state.as_str(), "delivered");
    let counts = sink.counts(&["Your code".to_owned()], "123456").await;
    assert_eq!(counts["Your code"], 1);
    right.shutdown(Drain::within(seconds(5))).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn no_login_is_sent_to_a_real_postfix_that_offers_no_starttls() {
    let sink = Sink::start();
    let postfix = Postfix::start(
        LoginRequirement::LoginInTheClear,
        "app",
        PASSWORD,
        sink.address(),
    );
    let spool = tempfile::tempdir().unwrap();
    let postrider = start(relay("smtp+starttls", &postfix, PASSWORD), spool.path()).await;
    let id = no_login_is_shown(postrider, &postfix, "does not offer STARTTLS").await;

    // The same server takes the login of those who ask for plain SMTP, so it could have been sent.
    let plain = start(relay("smtp", &postfix, PASSWORD), spool.path()).await;
    let status = tokio::time::timeout(WAIT_LIMIT, plain.wait(id))
        .await
        .unwrap()
        .unwrap();

    assert_eq!(status.state.as_str(), "delivered");
    plain.shutdown(Drain::within(seconds(5))).await.unwrap();
    drop(plain);
    assert!(
        log_once_gone(&postfix).await.contains(" auth=1"),
        "{}",
        postfix.log()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_postfix_that_wants_tls_is_shown_no_login_without_it() {
    let sink = Sink::start();
    let postfix = Postfix::start(
        LoginRequirement::LoginUnderTls,
        "app",
        PASSWORD,
        sink.address(),
    );
    let spool = tempfile::tempdir().unwrap();
    let postrider = start(relay("smtp", &postfix, PASSWORD), spool.path()).await;
    no_login_is_shown(postrider, &postfix, "does not offer AUTH").await;
}

/// A mail that is submitted waits, for this reason, and Postfix has seen no login.
async fn no_login_is_shown(postrider: Dispatcher, postfix: &Postfix, why: &str) -> MailId {
    let id = postrider.submit(mail("ada@example.org")).await.unwrap().id;
    let reason = why_down(&postrider).await;
    assert!(reason.contains(why), "{reason}");
    waits_as_it_was(&postrider.status(id).await.unwrap());
    postrider.shutdown(Drain::within(seconds(5))).await.unwrap();
    drop(postrider);
    assert!(
        !log_once_gone(postfix).await.contains(" auth="),
        "{}",
        postfix.log()
    );
    id
}

/// Postfix's log with the line that counts the commands of the last connection.
async fn log_once_gone(postfix: &Postfix) -> String {
    let begun = Instant::now();
    loop {
        let log = postfix.log();
        let count = |words: &str| log.lines().filter(|line| line.contains(words)).count();
        if count(": connect from ") > 0 && count(": connect from ") == count(": disconnect from ") {
            return log;
        }
        assert!(
            begun.elapsed() < WAIT_LIMIT,
            "somebody stays connected: {log}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

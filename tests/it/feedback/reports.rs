//! Reports that come in by each way, and what becomes of the mail that they are about.

use std::time::Duration;

use postrider::ingress::http::{HttpDoor, HttpSettings, Limits};
use postrider::ingress::smtp::{SmtpSettings, User};
use postrider::transport::Captured;
use postrider::{
    DeliveryStatus, EventKind, FeedbackKind, Mail, MailId, Priority, ReportError, Returns,
    SuppressionQuery,
};
use tokio::sync::watch;

use super::corpus::report;
use crate::common::TestSpool;
use crate::common::door::{Client, Door, settings};

const SECRET: &[u8] = b"0123456789abcdef";

fn returns() -> Returns {
    Returns::new("bounces.example.com", SECRET).unwrap()
}

/// A door that needs a login, before an engine whose mail comes back to it.
async fn door() -> Door {
    let user = User {
        name: "app".into(),
        password: "secret".into(),
    };
    let users = vec![user];
    door_with(SmtpSettings {
        users,
        ..settings()
    })
    .await
}

async fn door_with(settings: SmtpSettings) -> Door {
    let engine = |engine: postrider::Builder| engine.test_spool().returns(returns());
    Door::before(settings, engine).await
}

/// Sends a mail and waits until it has left.
async fn send(door: &Door, to: &[&str]) -> (MailId, Vec<Captured>) {
    let before = door.sent().await.len();
    let mail = Mail::builder()
        .from("shop@example.com")
        .text("Thank you.")
        .tag("order");
    let mail = to.iter().fold(mail, |mail, to| mail.to(*to));
    let receipt = door.postrider.submit(mail.build().unwrap()).await.unwrap();
    (receipt.id, door.sent().await.split_off(before))
}

fn return_path(sent: &Captured) -> String {
    sent.return_path.as_ref().unwrap().to_string()
}

fn message_id(sent: &Captured) -> String {
    let text = String::from_utf8_lossy(&sent.message).into_owned();
    let (_, rest) = text.split_once("Message-ID: <").unwrap();
    rest.split('>').next().unwrap().to_owned()
}

async fn delivery(door: &Door, mail: MailId, place: usize) -> DeliveryStatus {
    let record = door.postrider.status(mail).await.unwrap();
    record.deliveries.into_iter().nth(place).unwrap()
}

async fn suppressed(door: &Door) -> Vec<(String, String)> {
    let query = SuppressionQuery {
        limit: 100,
        ..SuppressionQuery::default()
    };
    let page = door.postrider.suppressions().list(query).await.unwrap();
    let entries = page.suppressions.into_iter();
    entries
        .map(|one| (one.address.to_string(), one.reason.to_string()))
        .collect()
}

/// Brings a message to this address, as a server of the world does.
async fn bring(client: &mut Client, to: &str, message: &str) -> String {
    client.expect("MAIL FROM:<>", "250").await;
    client.expect(&format!("RCPT TO:<{to}>"), "250").await;
    client.data(message).await
}

#[tokio::test]
async fn each_recipient_has_a_return_path_and_a_bounce_finds_its_delivery() {
    let door = door().await;
    let (mail, sent) = send(&door, &["ada@example.org", "ben@example.org"]).await;
    assert_eq!(sent.len(), 2, "a transaction for each");

    let paths: Vec<String> = sent.iter().map(return_path).collect();
    assert_ne!(paths[0], paths[1]);
    let ada = sent
        .iter()
        .find(|one| one.recipients[0].as_str() == "ada@example.org");
    let ada = return_path(ada.unwrap());

    // Nobody has to log in to say that mail came back.
    let mut client = door.client().await;
    client.expect("EHLO mx.example.net", "250").await;
    let text = report("postfix-unknown", &ada, "1@example.com");
    let answer = bring(&mut client, &ada, &text).await;
    assert!(answer.starts_with("250 "), "{answer}");

    let told = delivery(&door, mail, 0).await.feedback;
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0].kind, FeedbackKind::Bounced);
    assert_eq!(told[0].status.as_deref(), Some("5.1.1"));
    assert_eq!(told[0].by, "report");
    assert!(told[0].text.contains("User unknown"), "{told:?}");
    assert!(
        delivery(&door, mail, 1).await.feedback.is_empty(),
        "ben's is as it was"
    );

    let expected = ("ada@example.org".to_owned(), "bounce".to_owned());
    assert_eq!(suppressed(&door).await, std::slice::from_ref(&expected));

    // The same again is harmless.
    let answer = bring(&mut client, &ada.to_uppercase(), &text).await;
    assert!(answer.starts_with("250 "), "{answer}");
    assert_eq!(delivery(&door, mail, 0).await.feedback.len(), 1);

    let metrics = door.postrider.metrics().await.unwrap();
    let counted = "postrider_feedback_total{by=\"report\",result=\"bounced\"} 1";
    assert!(metrics.contains(counted), "{metrics}");
    assert!(metrics.contains("result=\"known\"} 1"), "{metrics}");
}

#[tokio::test]
async fn the_journal_says_whose_mail_bounced_and_why() {
    let door = door().await;
    let (mail, sent) = send(&door, &["ada@example.org"]).await;
    let mut reader = door
        .postrider
        .journal()
        .reader("test", Some(0))
        .await
        .unwrap();
    let path = return_path(&sent[0]);
    let text = report("exchange-policy", &path, "1@example.com").into_bytes();
    let to = [path.parse().unwrap()];

    let feedback = door.postrider.feedback();
    let taken = feedback.take_report(text.into(), &to, false).await.unwrap();
    assert!(
        !taken[0].suppressed,
        "a refusal by policy is not about the address"
    );

    let mut bounced = None;
    while bounced.is_none() {
        let page = tokio::time::timeout(Duration::from_secs(20), reader.next()).await;
        let events = page.unwrap().unwrap().events;
        bounced = events
            .into_iter()
            .find(|one| matches!(one.kind, EventKind::Bounced { .. }));
    }

    let event = bounced.unwrap();
    assert_eq!(event.mail, Some(mail));
    assert_eq!(
        event.recipient.as_ref().unwrap().as_str(),
        "ada@example.org"
    );

    assert_eq!(event.tags, ["order"]);
    let EventKind::Bounced {
        status,
        permanent,
        by,
        ..
    } = &event.kind
    else {
        unreachable!()
    };

    assert_eq!(
        (status.as_deref(), *permanent, by.as_str()),
        (Some("5.7.1"), true, "report")
    );

    assert!(suppressed(&door).await.is_empty());
}

#[tokio::test]
async fn a_complaint_finds_its_mail_by_the_copy_and_ends_everything_but_codes() {
    let door = door().await;
    let (mail, sent) = send(&door, &["ada@example.org"]).await;
    // The provider has taken out whom it is about; the mail's own token is left.
    let copy = String::from_utf8_lossy(&sent[0].message).into_owned();

    let token = copy
        .split_once("X-Return-Token: ")
        .unwrap()
        .1
        .split("\r\n")
        .next()
        .unwrap();
    let text = report("arf-redacted", token, "1@example.com").into_bytes();

    let feedback = door.postrider.feedback();
    let taken = feedback.take_report(text.into(), &[], false).await.unwrap();
    assert_eq!(
        (taken[0].mail, taken[0].kind),
        (mail, FeedbackKind::Complained)
    );

    let expected = ("ada@example.org".to_owned(), "complaint".to_owned());
    assert_eq!(suppressed(&door).await, [expected]);

    let again = |priority| {
        Mail::builder()
            .from("shop@example.com")
            .to("ada@example.org")
            .text("t")
            .priority(priority)
            .build()
            .unwrap()
    };

    let bulk = door.postrider.submit(again(Priority::Bulk)).await.unwrap();
    assert_eq!(bulk.suppressed.len(), 1);
    let code = door
        .postrider
        .submit(again(Priority::Critical))
        .await
        .unwrap();

    assert!(code.suppressed.is_empty(), "a code passes a complaint");
}

#[tokio::test]
async fn the_world_may_bring_reports_and_nothing_else() {
    let door = door().await;
    let (mail, sent) = send(&door, &["ada@example.org"]).await;
    let path = return_path(&sent[0]);
    let forged = path.replace("b-0", "b-1").replacen("@", "0@", 1);

    let mut client = door.client().await;
    client.expect("MAIL FROM:<>", "503").await;
    client.expect("EHLO mx.example.net", "250").await;
    client.expect("MAIL FROM:<>", "250").await;
    client
        .expect(&format!("RCPT TO:<{forged}>"), "550 5.1.1")
        .await;
    client
        .expect("RCPT TO:<b-1@bounces.example.com>", "550 5.1.1")
        .await;
    client
        .expect("RCPT TO:<postmaster@bounces.example.com>", "550 5.1.1")
        .await;
    client
        .expect("RCPT TO:<ben@example.org>", "530 5.7.0")
        .await;
    client.expect("DATA", "554").await;
    client.expect(&format!("RCPT TO:<{path}>"), "250").await;
    client
        .expect("RCPT TO:<ben@example.org>", "530 5.7.0")
        .await;

    let answer = client
        .data(report("vacation", &path, "1@example.com"))
        .await;
    assert!(
        answer.starts_with("554 5.6.0"),
        "an answer is no report: {answer}"
    );

    assert!(delivery(&door, mail, 0).await.feedback.is_empty());
    assert_eq!(door.sent().await.len(), 1, "nothing was passed on");

    // One who has logged in keeps reports and mail apart.
    let door = door_with(settings()).await;
    let (_, sent) = send(&door, &["ada@example.org"]).await;
    let path = return_path(&sent[0]);

    let mut client = door.client().await;
    client.begin().await;
    client
        .expect(&format!("RCPT TO:<{path}>"), "452 4.5.3")
        .await;
}

#[tokio::test]
async fn a_report_reaches_its_own_delivery_alone_whatever_it_says() {
    let door = door().await;
    let (mail, sent) = send(&door, &["ada@example.org"]).await;
    let (other, others) = send(&door, &["ben@example.org"]).await;
    let path = return_path(&sent[0]);
    let feedback = door.postrider.feedback();
    let hostile = report("postfix-unknown", &path, "1@example.com");
    let hostile = hostile.replace("ada@example.org", "ben@example.org");
    let to = [path.parse().unwrap()];
    let taken = feedback
        .take_report(hostile.into(), &to, false)
        .await
        .unwrap();

    assert_eq!((taken.len(), taken[0].mail), (1, mail));
    assert_eq!(taken[0].recipient.as_str(), "ada@example.org");
    assert!(delivery(&door, other, 0).await.feedback.is_empty());
    assert!(
        suppressed(&door)
            .await
            .iter()
            .all(|(address, _)| address == "ada@example.org")
    );

    // Whoever has seen a mail knows its Message-ID: that alone is believed only of who is trusted.
    let id = message_id(&others[0]);

    let named = report("postfix-unknown", "nobody@example.com", &id).replace("ada@", "ben@");
    let refused = feedback.take_report(named.clone().into(), &[], false).await;
    assert_eq!(refused, Err(ReportError::NotOurs));

    let taken = feedback.take_report(named.into(), &[], true).await.unwrap();
    assert_eq!(
        (taken[0].mail, taken[0].recipient.as_str()),
        (other, "ben@example.org")
    );
}

#[tokio::test]
async fn hostile_reports_are_bounded() {
    let door = door().await;
    let (mail, sent) = send(&door, &["ada@example.org"]).await;
    let path = return_path(&sent[0]);
    let to = [path.parse().unwrap()];
    let feedback = door.postrider.feedback();

    let mut nested = String::new();
    for depth in 0..5_000 {
        nested.push_str(&format!(
            "Content-Type: multipart/mixed; boundary=\"{depth}\"\r\n\r\n--{depth}\r\n"
        ));
    }

    let rfc822 = "Content-Type: message/rfc822\r\n\r\n".repeat(20_000);
    let groups =
        "Final-Recipient: rfc822; x@example.org\r\nAction: failed\r\nStatus: 5.1.1\r\n\r\n"
            .repeat(100_000);
    let many = report("postfix-unknown", &path, "1@example.com");
    let many = many.replace(
        "Reporting-MTA: dns; mx.example.net\r\n",
        &format!("Reporting-MTA: x\r\n\r\n{groups}"),
    );

    let tokens = format!("b-{} ", "0".repeat(56)).repeat(100_000);
    let long = report("qmail", &path, "1@example.com")
        .replace("Sorry, no mailbox", &"x".repeat(3_000_000));
    let began = std::time::Instant::now();

    for hostile in [
        nested,
        rfc822,
        many,
        tokens,
        long,
        String::new(),
        "\0".repeat(100_000),
    ] {
        let _ = feedback.take_report(hostile.into(), &to, false).await;
    }

    assert!(
        began.elapsed() < Duration::from_secs(20),
        "{:?}",
        began.elapsed()
    );

    for one in delivery(&door, mail, 0).await.feedback {
        assert!(one.text.chars().count() <= 500, "{one:?}");
    }

    // However many different ones come, a delivery keeps no more than twenty.
    for detail in 10..60 {
        let text = report("postfix-unknown", &path, "1@example.com")
            .replace("5.1.1", &format!("5.4.{detail}"));
        feedback.take_report(text.into(), &to, false).await.unwrap();
    }

    assert!(delivery(&door, mail, 0).await.feedback.len() <= 20);
}

#[tokio::test]
async fn a_pipe_and_http_take_reports_too() {
    let door = door().await;
    let (mail, sent) = send(&door, &["ada@example.org"]).await;
    let http = HttpDoor::bind(HttpSettings {
        listen: "127.0.0.1:0".parse().unwrap(),
        tokens: Vec::new(),
        limits: Limits::default(),
    });

    let http = http.await.unwrap();
    let url = format!("http://{}", http.local_addr());
    let (_stop, stopping) = watch::channel(false);
    tokio::spawn(http.serve(door.postrider.clone(), stopping));

    let path = return_path(&sent[0]);
    let text = report("qmail", &path, "1@example.com");
    let bounce = move |text: String| {
        let url = url.clone();
        tokio::task::spawn_blocking(move || {
            use std::io::Write;
            use std::process::{Command, Stdio};
            let mut child = Command::new(env!("CARGO_BIN_EXE_postrider"))
                .args(["bounce", "--url", &url])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            child
                .stdin
                .take()
                .unwrap()
                .write_all(text.as_bytes())
                .unwrap();
            let done = child.wait_with_output().unwrap();
            let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
            (done.status.code(), text(done.stdout), text(done.stderr))
        })
    };

    let (code, out, error) = bounce(text).await.unwrap();
    assert_eq!(code, Some(0), "{error}");
    assert!(
        out.contains("bounced 5.1.1") && out.contains(&mail.to_string()),
        "{out}"
    );

    assert_eq!(delivery(&door, mail, 0).await.feedback.len(), 1);

    let (code, _, error) = bounce("Subject: hello\r\n\r\nhello\r\n".to_owned())
        .await
        .unwrap();
    assert_eq!(code, Some(1), "{error}");
    assert!(error.contains("neither a delivery report"), "{error}");
}

#[tokio::test]
async fn mail_from_nobody_comes_back_to_nobody() {
    let door = door().await;
    let envelope = postrider::Envelope::new(None, vec!["ada@example.org".parse().unwrap()]);
    let message = b"From: a@example.com\r\n\r\nx\r\n".to_vec();
    let mail = Mail::from_rfc5322(envelope.unwrap(), message).unwrap();
    door.postrider.submit(mail).await.unwrap();
    let sent = door.sent().await;
    assert_eq!(sent[0].return_path, None);
}

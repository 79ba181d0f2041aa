//! Leaving a list by mail: what is written to the address beside the link, through the open door.

use postrider::ingress::smtp::{SmtpSettings, User};
use postrider::mail::MailBuilder;
use postrider::transport::Captured;
use postrider::{Mail, MailId, ReportError, Returns, SuppressionQuery, Unsubscribing};

use super::corpus::report;
use crate::common::TestSpool;
use crate::common::door::{Client, Door, settings};

/// A door that needs a login, before an engine whose lists are left by a link and by mail.
async fn door() -> Door {
    let user = User {
        name: "app".into(),
        password: "secret".into(),
    };
    let settings = SmtpSettings {
        users: vec![user],
        ..settings()
    };

    Door::before(settings, |engine| {
        let returns = Returns::new("bounces.example.com", b"0123456789abcdef");
        let unsubscribing = Unsubscribing::new("https://mail.example.com", b"0123456789abcdef");
        engine
            .test_spool()
            .returns(returns.unwrap())
            .unsubscribing(unsubscribing.unwrap())
    })
    .await
}

fn news() -> MailBuilder {
    Mail::builder()
        .from("shop@example.com")
        .text("News.")
        .list("news")
}

async fn send(door: &Door, to: &[&str]) -> (MailId, Vec<Captured>) {
    let before = door.sent().await.len();
    let mail = to.iter().fold(news(), |mail, to| mail.to(*to));
    let receipt = door.postrider.submit(mail.build().unwrap()).await.unwrap();
    (receipt.id, door.sent().await.split_off(before))
}

/// The address that a message names for leaving its list, and the subject to write.
fn mailto(sent: &Captured) -> (String, String) {
    let message = String::from_utf8(sent.message.to_vec()).unwrap();
    let parsed = mail_parser::MessageParser::default()
        .parse(sent.message.as_ref())
        .unwrap();
    let ways: Vec<String> = match parsed.header("List-Unsubscribe").unwrap() {
        mail_parser::HeaderValue::Address(ways) => ways
            .iter()
            .map(|way| way.address().unwrap().to_owned())
            .collect(),
        other => panic!("{other:?}"),
    };

    assert_eq!(ways.len(), 2, "{ways:?}");
    assert!(ways[0].starts_with("https://mail.example.com/u/"));
    assert!(
        message.contains("List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n"),
        "{message}"
    );

    let (address, subject) = ways[1]
        .strip_prefix("mailto:")
        .unwrap()
        .split_once("?subject=")
        .unwrap();
    (address.to_owned(), subject.to_owned())
}

async fn left(door: &Door) -> Vec<(String, Option<String>)> {
    let query = SuppressionQuery {
        limit: 100,
        ..SuppressionQuery::default()
    };
    let page = door.postrider.suppressions().list(query).await.unwrap();
    let entries = page.suppressions.into_iter();
    entries
        .map(|one| (one.address.to_string(), one.list))
        .collect()
}

/// Writes to an address, as a reader's program has its server do.
async fn write(client: &mut Client, to: &str, message: &str) -> String {
    client.expect("MAIL FROM:<ada@example.org>", "250").await;
    client.expect(&format!("RCPT TO:<{to}>"), "250").await;
    client.data(message).await
}

fn letter(to: &str, subject: &str) -> String {
    format!(
        "From: Ada <ada@example.org>\r\nTo: <{to}>\r\nSubject: {subject}\r\n\r\nunsubscribe\r\n"
    )
}

#[tokio::test]
async fn who_writes_to_the_address_leaves_that_list_and_no_other() {
    let door = door().await;
    let (_, sent) = send(&door, &["ada@example.org", "ben@example.org"]).await;
    let of = |to: &str| {
        let found = sent
            .iter()
            .find(|one| one.recipients[0].as_str() == to)
            .unwrap();
        mailto(found)
    };

    let ((ada, subject), (ben, _)) = (of("ada@example.org"), of("ben@example.org"));
    assert_ne!(ada, ben);

    let mut client = door.client().await;
    client.expect("EHLO mx.example.net", "250").await;
    let answer = write(&mut client, &ada, &letter(&ada, &subject)).await;
    assert!(answer.starts_with("250 "), "{answer}");
    let expected = ("ada@example.org".to_owned(), Some("news".to_owned()));
    assert_eq!(left(&door).await, std::slice::from_ref(&expected));

    // The same again is harmless, however it was broken and shouted on its way.
    let broken = format!("{}\r\n =?utf-8?Q?{}?=", &subject[..40], &subject[40..]);
    let again = letter(&ada, &broken);
    let answer = write(&mut client, &ada.to_uppercase(), &again).await;
    assert!(answer.starts_with("250 "), "{answer}");
    assert_eq!(left(&door).await, [expected]);

    let (_, sent) = send(&door, &["ada@example.org", "ben@example.org"]).await;
    assert_eq!(sent.len(), 1, "the list goes on without her");
    assert_eq!(sent[0].recipients[0].as_str(), "ben@example.org");

    let metrics = door.postrider.metrics().await.unwrap();
    for counted in ["result=\"unsubscribed\"} 1", "result=\"known\"} 1"] {
        assert!(metrics.contains(counted), "{counted}: {metrics}");
    }
}

#[tokio::test]
async fn the_address_leads_to_a_kept_mail_and_the_subject_needs_none() {
    let door = door().await;
    let (_, sent) = send(&door, &["ada@example.org"]).await;
    let (address, _) = mailto(&sent[0]);
    let mut client = door.client().await;
    client.expect("EHLO mx.example.net", "250").await;

    let answer = write(&mut client, &address, &letter(&address, "unsubscribe")).await;
    assert!(answer.starts_with("250 "), "{answer}");
    assert_eq!(left(&door).await.len(), 1);

    // Mail is forgotten after a while, and what is sent past the queue never was kept.
    let query = SuppressionQuery::default();
    door.postrider.suppressions().remove(query).await.unwrap();
    let unkept = news().to("ada@example.org").build().unwrap();
    door.postrider.send_now(unkept).await.unwrap();
    let (address, subject) = mailto(&door.sent().await[1]);

    let answer = write(&mut client, &address, &letter(&address, "unsubscribe")).await;
    assert!(answer.starts_with("554 5.6.0"), "{answer}");
    assert!(left(&door).await.is_empty());
    let answer = write(&mut client, &address, &letter(&address, &subject)).await;
    assert!(answer.starts_with("250 "), "{answer}");
    assert_eq!(left(&door).await.len(), 1);
}

#[tokio::test]
async fn forged_addresses_and_what_programs_answer_unsubscribe_nobody() {
    let door = door().await;
    let (_, sent) = send(&door, &["ada@example.org"]).await;
    let (address, subject) = mailto(&sent[0]);
    let path = sent[0].return_path.as_ref().unwrap().to_string();
    let mut client = door.client().await;
    client.expect("EHLO mx.example.net", "250").await;

    let digit = if &address[2..3] == "0" { "1" } else { "0" };
    let changed = format!("u-{digit}{}", &address[3..]);
    // Neither kind of address makes one of the other.
    for forged in [
        path.replacen("b-", "u-", 1),
        address.replacen("u-", "b-", 1),
        changed,
        "u-@bounces.example.com".to_owned(),
        "unsubscribe@bounces.example.com".to_owned(),
    ] {
        client.expect("MAIL FROM:<ada@example.org>", "250").await;
        let command = format!("RCPT TO:<{forged}>");
        client.expect(&command, "550 5.1.1").await;
        client.expect("RSET", "250").await;
    }

    let whole = letter(&address, &subject);
    for says in ["Auto-Submitted: auto-replied", "Precedence: auto_reply"] {
        let answer = write(&mut client, &address, &format!("{says}\r\n{whole}")).await;
        assert!(answer.starts_with("250 "), "{says}: {answer}");
    }
    let text = report("postfix-unknown", &address, "1@example.com");
    write(&mut client, &address, &text).await;
    assert!(left(&door).await.is_empty(), "{:?}", left(&door).await);
    assert_eq!(door.sent().await.len(), 1, "nobody was written back to");

    // To a return path it is no wish either, whatever its subject.
    let answer = write(&mut client, &path, &letter(&path, &subject)).await;
    assert!(answer.starts_with("554 "), "{answer}");
    assert!(left(&door).await.is_empty());
}

#[tokio::test]
async fn a_pipe_that_knows_no_address_reads_it_in_the_header() {
    let door = door().await;
    let (mail, sent) = send(&door, &["ada@example.org"]).await;
    let (address, subject) = mailto(&sent[0]);
    let feedback = door.postrider.feedback();
    let text = letter(&address, &subject);

    let refused = feedback.take_report(text.clone().into(), &[], false).await;
    assert_eq!(
        refused,
        Err(ReportError::NoReport),
        "only of who is trusted"
    );

    let taken = feedback.take_report(text.into(), &[], true).await.unwrap();
    assert_eq!((taken[0].mail, taken[0].known), (mail, false));
    assert_eq!(left(&door).await.len(), 1);
}

//! The engine through its public door: accept, route, send, retry, tell.

use std::collections::HashSet;

use crate::common::TestSpool;
use futures::StreamExt;
use postrider::transport::Capture;
use postrider::{
    Clock, Dispatcher, Drain, Durability, EventItem, EventKind, Mail, Relay, minutes, seconds,
};

fn mail(to: &str) -> Mail {
    let built = Mail::builder()
        .from("Shop <shop@example.com>")
        .to(to)
        .subject("Your code")
        .text("123456")
        .build();
    built.unwrap()
}

#[tokio::test]
async fn a_mail_is_accepted_sent_and_reported() {
    let capture = Capture::default();
    let dir = tempfile::tempdir().unwrap();
    let postrider = Dispatcher::builder()
        .relay(Relay::capture(&capture))
        .test_spool_in(dir.path())
        .start()
        .await
        .unwrap();
    let mut events = postrider.events();

    let receipt = postrider.submit(mail("ada@example.org")).await.unwrap();
    assert_eq!(
        (receipt.durability, receipt.duplicate),
        (Durability::Synced, false)
    );

    let status = postrider.wait(receipt.id).await.unwrap();
    assert_eq!(status.state.as_str(), "delivered");
    assert_eq!(status.deliveries[0].attempts[0].code, Some(250));
    assert_eq!(
        capture.captured()[0].recipients[0].as_str(),
        "ada@example.org"
    );

    let mut kinds = Vec::new();
    while kinds.last() != Some(&"delivered") {
        let Some(EventItem::Event(event)) = events.next().await else {
            panic!("no lag, no end")
        };
        kinds.push(event.kind.as_str());
    }

    assert_eq!(kinds, ["accepted", "attempted", "delivered"]);
    assert!(postrider.shutdown(Drain::within(seconds(5))).await.unwrap());
    assert!(postrider.submit(mail("ada@example.org")).await.is_err());
}

#[tokio::test]
async fn a_mail_that_is_handed_in_again_is_sent_once() {
    let capture = Capture::default();
    let postrider = Dispatcher::builder()
        .relay(Relay::capture(&capture))
        .test_spool()
        .start()
        .await
        .unwrap();
    let mail = mail("ada@example.org");
    let (first, second) = tokio::join!(
        postrider.submit(mail.clone()),
        postrider.submit(mail.clone())
    );

    let (first, second) = (first.unwrap(), second.unwrap());
    assert_eq!(
        (first.id, second.id, first.duplicate != second.duplicate),
        (mail.id(), mail.id(), true)
    );

    postrider.wait(mail.id()).await.unwrap();
    assert!(postrider.submit(mail).await.unwrap().duplicate);
    postrider.wait_idle().await;
    assert_eq!(capture.captured().len(), 1);
}

#[tokio::test]
async fn a_mail_with_a_delay_waits_for_its_time() {
    let capture = Capture::default();
    let clock = Clock::fake();
    let relay = Relay::capture(&capture);
    let postrider = Dispatcher::builder()
        .relay(relay)
        .test_spool()
        .clock(clock.clone())
        .start()
        .await
        .unwrap();

    let later = Mail::builder()
        .from("a@example.com")
        .to("b@example.org")
        .text("x")
        .delay(minutes(5))
        .build()
        .unwrap();
    let receipt = postrider.submit(later).await.unwrap();

    postrider.wait_idle().await;
    assert_eq!(
        postrider.status(receipt.id).await.unwrap().state.as_str(),
        "scheduled"
    );

    assert!(capture.captured().is_empty());
    clock.advance(minutes(5));
    assert_eq!(
        postrider.wait(receipt.id).await.unwrap().state.as_str(),
        "delivered"
    );
}

#[tokio::test]
async fn a_thousand_mails_all_arrive_once() {
    let capture = Capture::default();
    let postrider = Dispatcher::builder()
        .relay(Relay::capture(&capture))
        .test_spool()
        .start()
        .await
        .unwrap();
    let mut events = postrider.events();

    let mails = (0..1000)
        .map(|n| mail(&format!("user{n}@example.org")))
        .collect();
    let receipts = postrider.submit_many(mails).await;
    for receipt in receipts {
        postrider.wait(receipt.unwrap().id).await.unwrap();
    }

    let mut to: Vec<String> = capture
        .captured()
        .iter()
        .map(|mail| mail.recipients[0].to_string())
        .collect();

    to.sort();
    to.dedup();
    assert_eq!((to.len(), capture.captured().len()), (1000, 1000));

    let mut accepted = HashSet::new();
    for _ in 0..1000 {
        let Some(EventItem::Event(event)) = events.next().await else {
            panic!("so few are not missed")
        };
        let mail = event.mail.unwrap();
        assert_eq!(
            accepted.insert(mail),
            event.kind == EventKind::Accepted,
            "{:?} of {mail}",
            event.kind
        );
    }
}

#[tokio::test]
async fn addresses_whose_domains_differ_in_case_are_one_recipient_and_one_mail_under_one_key() {
    let capture = Capture::default();
    let postrider = Dispatcher::builder()
        .relay(Relay::capture(&capture))
        .test_spool()
        .start()
        .await
        .unwrap();

    let built = |to: &str, from: &str| {
        Mail::builder()
            .from(format!("Shop <shop@{from}>"))
            .to(format!("Ada <{to}>"))
            .subject("Your code")
            .text("123456")
            .idempotency_key("otp-42")
            .build()
            .unwrap()
    };

    let first = postrider
        .submit(built("ada@example.org", "example.com"))
        .await
        .unwrap();
    let again = postrider
        .submit(built("ada@EXAMPLE.org", "Example.COM"))
        .await
        .unwrap();

    assert_eq!((again.id, again.duplicate), (first.id, true));

    let other = postrider
        .submit(built("Ada@example.org", "example.com"))
        .await;
    assert!(
        other.is_err(),
        "what stands before the @ has its own case: {other:?}"
    );

    let finished = |domain: &str| {
        let message = format!("From: Shop <shop@{domain}>\r\nSubject: x\r\n\r\nhi\r\n");
        let address = format!("ada@{domain}").parse().unwrap();
        let envelope = postrider::Envelope::new(None, vec![address]).unwrap();
        Mail::from_rfc5322(envelope, message.into_bytes()).unwrap()
    };

    assert_eq!(
        finished("example.org").fingerprint(),
        finished("EXAMPLE.org").fingerprint()
    );

    assert_ne!(
        finished("example.org").fingerprint(),
        finished("example.net").fingerprint()
    );

    let twice = Mail::builder()
        .from("shop@example.com")
        .to("bob@example.org")
        .to("bob@EXAMPLE.ORG")
        .subject("once")
        .text("x")
        .build()
        .unwrap();

    let id = postrider.submit(twice).await.unwrap().id;
    assert_eq!(postrider.wait(id).await.unwrap().deliveries.len(), 1);
}

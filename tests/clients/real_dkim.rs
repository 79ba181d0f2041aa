//! Signatures after a way through a whole Postfix, as dkimpy sees them at its end.
#![cfg(target_os = "linux")]

use std::sync::Arc;

use postrider::transport::dkim::Dkim;
use postrider::{Dispatcher, Envelope, Mail};

use crate::common::dkim::{generate, odd_messages, signer, verified};
use crate::common::postfix::{LoginRequirement, Postfix};
use crate::real_relay::{PASSWORD, Sink, relay};

#[tokio::test(flavor = "multi_thread")]
async fn signatures_hold_after_a_way_through_postfix() {
    let dir = tempfile::tempdir().unwrap();
    let rsa = generate(dir.path(), "rsa", "s1");
    let ed25519 = generate(dir.path(), "ed25519", "s2");
    let both = Dkim::new(vec![signer(&rsa, "s1"), signer(&ed25519, "s2")]);

    let sink = Sink::start();
    let postfix = Postfix::start(
        LoginRequirement::LoginUnderTls,
        "app",
        PASSWORD,
        sink.address(),
    );
    let engine = Dispatcher::builder()
        .relay(relay("smtp+starttls", &postfix, PASSWORD).dkim(Arc::new(both)))
        .spool_in_memory()
        .start()
        .await
        .unwrap();

    // Each ends in a line that says it has come whole.
    let messages: Vec<String> = odd_messages()
        .into_iter()
        .filter(|message| message.contains("\r\n\r\n"))
        .collect();

    for (n, message) in messages.iter().enumerate() {
        let to = vec!["ada@example.org".parse().unwrap()];
        let envelope = Envelope::new(Some("bounce@example.com".parse().unwrap()), to).unwrap();
        let numbered = format!("X-Number: {n}\r\n{message}");
        let mail = Mail::from_rfc5322(envelope, numbered.into_bytes()).unwrap();
        let id = engine.submit(mail).await.unwrap().id;
        let status = engine.wait(id).await.unwrap();
        assert_eq!(
            status.state.as_str(),
            "delivered",
            "{status:#?}\n{}",
            postfix.log()
        );
    }

    let arrived = sink.settled(messages.len()).await;
    let arrived: Vec<Vec<u8>> = arrived
        .iter()
        .map(|message| {
            message
                .replace("\r\n", "\n")
                .replace('\n', "\r\n")
                .into_bytes()
        })
        .collect();

    let counts = verified(dir.path(), &arrived, &[&rsa, &ed25519]);
    let broken: Vec<String> = counts
        .iter()
        .zip(&arrived)
        .filter(|(count, _)| **count != 2)
        .map(|(_, message)| {
            String::from_utf8_lossy(&message[..message.len().min(3000)]).into_owned()
        })
        .collect();

    assert!(
        broken.is_empty(),
        "{} of {}: {:#?}",
        broken.len(),
        counts.len(),
        broken.first()
    );
}

//! Signatures that a verifier nobody here wrote believes: dkimpy, over whatever a message may look
//! like, with keys that the command line made.
#![cfg(feature = "server")]

use std::sync::Arc;
use std::time::Duration;

use postrider::transport::Capture;
use postrider::transport::dkim::Dkim;
use postrider::{Dispatcher, Drain, Envelope, Mail, Relay, Unsubscribing};
use tempfile::TempDir;

use crate::common::dkim::{generate, odd_messages, postrider, signer, verified};
#[cfg(target_os = "linux")]
use crate::common::service::{Service, configured};
use crate::common::{FakeSmtp, TestSpool};

/// Sends these messages through the engine and returns what left it.
async fn sent(dkim: Dkim, messages: &[String]) -> Vec<Vec<u8>> {
    let capture = Capture::new(None);
    let engine = Dispatcher::builder()
        .relay(Relay::capture(&capture).connections(1).dkim(Arc::new(dkim)))
        .test_spool()
        .start()
        .await
        .unwrap();

    let mut sent = Vec::new();
    for message in messages {
        let envelope = Envelope::new(
            Some("bounce@example.com".parse().unwrap()),
            vec!["ada@example.org".parse().unwrap()],
        )
        .unwrap();
        let mail = Mail::from_rfc5322(envelope, message.clone().into_bytes()).unwrap();
        let receipt = engine.submit(mail).await.unwrap();
        engine.wait(receipt.id).await.unwrap();
        sent.push(capture.captured().last().unwrap().message.to_vec());
    }

    let drain = Drain::within(Duration::from_secs(5));
    engine.shutdown(drain).await.unwrap();
    sent
}

/// What a relay without 8BITMIME is given.
async fn converted(dkim: Dkim, message: &str) -> Vec<u8> {
    let server = FakeSmtp::builder().without("8BITMIME").start().await;
    let relay = Relay::smtp(&server.url()).unwrap().connections(1);
    let engine = Dispatcher::builder()
        .relay(relay.dkim(Arc::new(dkim)))
        .test_spool()
        .start()
        .await
        .unwrap();

    let to = vec!["ada@example.org".parse().unwrap()];
    let envelope = Envelope::new("bounce@example.com".parse().ok(), to).unwrap();
    let mail = Mail::from_rfc5322(envelope, message.to_owned().into_bytes()).unwrap();
    engine.submit(mail).await.unwrap();
    server.mails_arrive(1).await.remove(0).message
}

#[tokio::test]
async fn what_is_converted_for_a_relay_is_signed_afterwards() {
    let dir = tempfile::tempdir().unwrap();
    let key = generate(dir.path(), "ed25519", "s1");
    let message = "From: ada@example.com\r\nTo: b@example.org\r\nMIME-Version: 1.0\r\n\
        Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n\
        Grüße\r\n";
    let message = converted(Dkim::new(vec![signer(&key, "s1")]), message).await;
    let text = String::from_utf8(message.clone()).unwrap();
    assert!(text.contains("Gr=C3=BC=C3=9Fe"), "{text}");
    assert_eq!(verified(dir.path(), &[message], &[&key]), [1]);
}

#[tokio::test]
async fn a_verifier_that_nobody_here_wrote_believes_every_signature() {
    let dir = tempfile::tempdir().unwrap();
    let rsa = generate(dir.path(), "rsa", "s1");
    let ed25519 = generate(dir.path(), "ed25519", "s2");

    let both = Dkim::new(vec![signer(&rsa, "s1"), signer(&ed25519, "s2")]);
    let messages = odd_messages();
    let signed = sent(both, &messages).await;

    let counts = verified(dir.path(), &signed, &[&rsa, &ed25519]);
    assert_eq!(counts, vec![2; messages.len()]);
}

#[tokio::test]
async fn what_each_recipient_of_a_list_leaves_it_with_is_signed() {
    let dir = tempfile::tempdir().unwrap();
    let rsa = generate(dir.path(), "rsa", "s1");
    let capture = Capture::new(None);
    let dkim = Arc::new(Dkim::new(vec![signer(&rsa, "s1")]));

    let unsubscribing = Unsubscribing::new("https://mail.example.com", b"0123456789abcdef");
    let engine = Dispatcher::builder()
        .relay(Relay::capture(&capture).dkim(dkim))
        .unsubscribing(unsubscribing.unwrap())
        .test_spool()
        .start()
        .await
        .unwrap();

    for to in [
        vec!["ada@example.org"],
        vec!["ben@example.org", "cy@example.org"],
    ] {
        let mail = Mail::builder()
            .from("shop@example.com")
            .text("News.")
            .list("news");
        let mail = to.into_iter().fold(mail, |mail, to| mail.to(to));
        engine.submit(mail.build().unwrap()).await.unwrap();
    }

    engine.wait_idle().await;
    let sent: Vec<Vec<u8>> = capture
        .captured()
        .iter()
        .map(|one| one.message.to_vec())
        .collect();

    assert_eq!(sent.len(), 3);
    for message in &sent {
        let text = String::from_utf8(message.clone()).unwrap();
        let (signature, _) = text.split_once("bh=").unwrap();
        let signed: String = signature.split_whitespace().collect();
        for field in ["List-Id", "List-Unsubscribe", "List-Unsubscribe-Post"] {
            assert!(signed.contains(&format!(":{field}:")), "{field}: {signed}");
        }
    }

    assert_eq!(verified(dir.path(), &sent, &[&rsa]), vec![1; 3]);
}

#[tokio::test]
async fn what_is_added_changed_or_taken_away_breaks_every_signature() {
    let dir = tempfile::tempdir().unwrap();
    let rsa = generate(dir.path(), "rsa", "s1");
    let ed25519 = generate(dir.path(), "ed25519", "s2");
    let both = Dkim::new(vec![signer(&rsa, "s1"), signer(&ed25519, "s2")]);
    let message = "From: Ada <ada@example.com>\r\nTo: b@example.org\r\nSubject: x\r\n\
                   Reply-To: c@example.com\r\n\
                   List-Unsubscribe: <https://example.com/u>\r\n\
                   List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n\
                   MIME-Version: 1.0\r\nContent-Type: text/plain\r\n\r\nhello\r\n";
    let signed = sent(both, &[message.to_owned()]).await.remove(0);
    let signed = String::from_utf8(signed).unwrap();

    let changed: Vec<Vec<u8>> = [
        signed.replace("hello", "hallo"),
        signed.replace("Subject: x", "Subject: y"),
        signed.replace("Reply-To: c@example.com\r\n", ""),
        // Each field is signed once more than it is there, so that none can be added.
        format!("From: eve@example.com\r\n{signed}"),
        format!("Subject: another\r\n{signed}"),
        format!("To: eve@example.org\r\n{signed}"),
        format!("Reply-To: eve@example.org\r\n{signed}"),
        format!("Content-Type: text/html\r\n{signed}"),
        format!("List-Unsubscribe: <https://evil.example/>\r\n{signed}"),
        format!("Date: Wed, 25 Nov 2026 10:00:00 +0000\r\n{signed}"),
    ]
    .map(String::into_bytes)
    .to_vec();

    let keys = [&rsa, &ed25519];
    assert_eq!(
        verified(dir.path(), &changed, &keys),
        vec![0; changed.len()]
    );

    assert_eq!(verified(dir.path(), &[signed.into_bytes()], &keys)[0], 2);
}

#[tokio::test]
async fn ses_may_write_anew_what_it_does() {
    let dir = tempfile::tempdir().unwrap();
    let rsa = generate(dir.path(), "rsa", "s1");
    let server =
        crate::common::provider::Provider::new(vec![crate::common::provider::Act::Take]).await;

    let relay = Relay::smtp("ses+api://eu-west-1").unwrap();
    let relay =
        relay
            .endpoint(&server.address)
            .credentials(postrider::transport::Credentials::AccessKey {
                id: "AKIDEXAMPLE".into(),
                secret: "key".to_owned().into(),
            });

    let engine = Dispatcher::builder()
        .relay(relay.dkim(Arc::new(Dkim::new(vec![signer(&rsa, "s1")]))))
        .test_spool()
        .start()
        .await
        .unwrap();
    let mail = Mail::builder().from("ada@example.com").to("b@example.org");
    let mail = mail.subject("x").text("hello").build().unwrap();
    let id = engine.submit(mail).await.unwrap().id;
    engine.wait(id).await.unwrap();

    let asked = server.asked().remove(0).json();
    let raw = asked["Content"]["Raw"]["Data"].as_str().unwrap().to_owned();
    let raw = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, raw).unwrap();
    let anew: String = String::from_utf8(raw)
        .unwrap()
        .split_inclusive("\r\n")
        .map(|line| match line {
            line if line.starts_with("Date: ") => "Date: Thu, 1 Jan 2026 00:00:00 +0000\r\n",
            line if line.starts_with("Message-ID: ") => {
                "Message-ID: <1@eu-west-1.amazonses.com>\r\n"
            }
            line => line,
        })
        .collect();

    assert!(
        anew.contains("amazonses") && anew.contains("Jan 2026"),
        "{anew}"
    );

    assert_eq!(verified(dir.path(), &[anew.into_bytes()], &[&rsa]), [1]);
}

#[cfg(target_os = "linux")]
#[test]
fn a_reload_reads_the_keys_again() {
    let dir = tempfile::tempdir().unwrap();
    let old = generate(dir.path(), "ed25519", "old");
    let new = generate(dir.path(), "rsa", "new");

    let key = dir.path().join("key.pem");
    std::fs::copy(&old.file, &key).unwrap();
    let config = format!(
        "[http]\nlisten = \"127.0.0.1:0\"\n[smtp]\nlisten = \"127.0.0.1:0\"\n[spool]\n\
         path = \"spool\"\n\
         [[relays]]\nurl = \"capture://{}/sent\"\n\
         [[dkim]]\ndomain = \"example.com\"\nselector = \"s1\"\nkey_file = \"key.pem\"\n",
        dir.path().display()
    );

    let mut service = Service::start(configured(dir.path(), &config));
    let first = service.hand_in_many("first", 1, "text");
    service.become_all(&first, "delivered");

    std::fs::copy(&new.file, &key).unwrap();
    service.signal("HUP");
    service.says("the configuration was read again");
    let second = service.hand_in_many("second", 1, "text");
    service.become_all(&second, "delivered");

    let sent = |id: &str| {
        let files = std::fs::read_dir(dir.path().join("sent")).unwrap();
        let mut bodies = files.map(|file| std::fs::read(file.unwrap().path()).unwrap());
        bodies
            .find(|body| String::from_utf8_lossy(body).contains(id))
            .unwrap()
    };

    // Both are published under the one name, one after the other.
    for (to, key) in [("first0@", &old), ("second0@", &new)] {
        let work = tempfile::tempdir().unwrap();
        let published = crate::common::dkim::Key {
            file: key.file.clone(),
            name: "s1._domainkey.example.com".into(),
            record: key.record.clone(),
        };
        assert_eq!(
            verified(work.path(), &[sent(to)], &[&published]),
            [1],
            "{to}"
        );
    }
}

#[tokio::test]
async fn a_key_is_printed_again_and_never_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let key = generate(dir.path(), "ed25519", "s1");
    let file = key.file.to_str().unwrap();

    let (done, printed, _) = postrider(&["dkim", "record", file]);
    assert!(done);
    assert_eq!(printed.trim(), key.record);

    let before = std::fs::read(&key.file).unwrap();
    let again = ["dkim", "generate", "example.com", "s1", "--out", file];
    let (done, _, error) = postrider(&again);
    assert!(!done && error.contains(file), "{error}");
    assert_eq!(std::fs::read(&key.file).unwrap(), before);
}

#[test]
fn a_key_that_cannot_sign_is_a_mistake_of_check() {
    let dir: TempDir = tempfile::tempdir().unwrap();
    let (config, key) = (dir.path().join("p.toml"), dir.path().join("key.pem"));
    let relay = "[[relays]]\nurl = \"capture://\"\n";
    let block = format!(
        "[[dkim]]\ndomain = \"example.com\"\nselector = \"s1\"\nkey_file = \"{}\"\n",
        key.display()
    );
    std::fs::write(&config, format!("{relay}{block}")).unwrap();

    for (content, reason) in [
        (None, "cannot read"),
        (Some("nonsense"), "no private key in PEM form"),
        (
            Some("-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n"),
            "neither RSA nor Ed25519",
        ),
    ] {
        if let Some(content) = content {
            std::fs::write(&key, content).unwrap();
        }
        let (done, _, error) = postrider(&["check", "--config", config.to_str().unwrap()]);
        assert!(!done, "{reason}");
        assert!(
            error.contains("dkim[0].key_file") && error.contains(reason),
            "{error}"
        );
    }
}

//! Signatures that a verifier nobody here wrote believes: dkimpy, over whatever a message may look
//! like, with keys that the command line made.
#![cfg(feature = "server")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use postrider::transport::Capture;
use postrider::transport::dkim::{Dkim, Signer, SigningKey};
use postrider::{Dispatcher, Drain, Envelope, Mail, Relay, Unsubscribing};
use tempfile::TempDir;

use crate::common::FakeSmtp;

/// A key that `postrider dkim generate` made, and what it told to publish.
struct Key {
    file: PathBuf,
    name: String,
    record: String,
}

fn postrider(arguments: &[&str]) -> (bool, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_postrider"))
        .args(arguments)
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (
        output.status.success(),
        text(output.stdout),
        text(output.stderr),
    )
}

fn generate(dir: &Path, algorithm: &str, selector: &str) -> Key {
    let file = dir.join(format!("{selector}.pem"));
    let out = file.to_str().unwrap();
    let (done, printed, error) = postrider(&[
        "dkim",
        "generate",
        "example.com",
        selector,
        "--out",
        out,
        "--algorithm",
        algorithm,
    ]);
    assert!(done, "{error}");
    let mut lines = printed.lines();
    let name = lines.next().unwrap().trim_end_matches(" TXT").to_owned();
    let record = lines.next().unwrap().to_owned();
    Key { file, name, record }
}

fn signer(key: &Key, selector: &str) -> Signer {
    Signer {
        domain: "example.com".into(),
        selector: selector.into(),
        key: Arc::new(SigningKey::read(&key.file).unwrap()),
        skip_signed: false,
    }
}

/// How many good signatures each message has, as dkimpy says.
fn verified(dir: &Path, messages: &[Vec<u8>], keys: &[&Key]) -> Vec<usize> {
    let eml = dir.join("eml");
    std::fs::create_dir_all(&eml).unwrap();
    for (n, message) in messages.iter().enumerate() {
        std::fs::write(eml.join(format!("{n:04}.eml")), message).unwrap();
    }
    let records: serde_json::Map<String, serde_json::Value> = keys
        .iter()
        .map(|key| (key.name.clone(), key.record.clone().into()))
        .collect();
    let file = dir.join("records.json");
    std::fs::write(&file, serde_json::to_string(&records).unwrap()).unwrap();

    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/dkim/verify.py");
    let output = Command::new("python3")
        .arg(script)
        .args([&eml, &file])
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{error}");
    let printed = String::from_utf8(output.stdout).unwrap();
    printed.lines().map(|line| line.parse().unwrap()).collect()
}

/// Sends these messages through the engine and returns what left it.
async fn sent(dkim: Dkim, messages: &[String]) -> Vec<Vec<u8>> {
    let capture = Capture::new(None);
    let engine = Dispatcher::builder()
        .relay(Relay::capture(&capture).connections(1).dkim(Arc::new(dkim)))
        .spool_in_memory()
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
        .spool_in_memory()
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
        Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\nGrüße\r\n";
    let message = converted(Dkim::new(vec![signer(&key, "s1")]), message).await;
    let text = String::from_utf8(message.clone()).unwrap();
    assert!(text.contains("Gr=C3=BC=C3=9Fe"), "{text}");
    assert_eq!(verified(dir.path(), &[message], &[&key]), [1]);
}

/// Messages whose white space, fields and ends are all that a canonical form may stumble over.
fn odd_messages() -> Vec<String> {
    let header = "From: Ada <ada@example.com>\r\nTo: b@example.org\r\nSubject: x\r\n";
    let mut messages: Vec<String> = [
        "\r\n",
        "\r\nhello\r\n",
        "\r\nhello",
        "\r\nhello\r\n\r\n\r\n\r\n",
        "\r\n\r\n\r\n",
        "\r\n \t \r\n",
        "\r\n a \t b  \r\n\tc\t\r\n\r\n  \r\nd\r\n",
        "\r\n.\r\n..\r\n.dot\r\n",
    ]
    .iter()
    .map(|body| format!("{header}{body}"))
    .collect();
    for more in [
        "Subject:\r\n",
        "SUBJECT:  a\t\tb  \r\n",
        "Subject: a\r\n   b\r\n\tc\r\n",
        "X-Empty:\r\nX-Twice: 1\r\nX-Twice: 2\r\n",
        "References: <1@x>\r\n <2@x>\r\n\t<3@x>\r\n",
        "List-Unsubscribe: <https://example.com/u?a=b;c=d>\r\nList-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n",
        "Reply-To: c@example.net\r\nCc: d@example.net\r\nSender: e@example.net\r\nIn-Reply-To: <1@x>\r\n",
    ] {
        messages.push(format!(
            "{more}From: ada@example.com\r\nTo: b@example.org\r\n\r\nhello\r\n"
        ));
    }
    messages
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
        .spool_in_memory()
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
async fn a_key_is_told_again_and_never_overwritten() {
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

//! What must hold whatever a relay says, for the fuzz target and for the plain test over its
//! corpus.

use std::time::Duration;

use bytes::Bytes;
use postrider::delivery::Outcome;
use postrider::transport::smtp::Smtp;
use postrider::transport::{Recall, Security, Server, TimeOuts, Transaction, Transport};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// The relay says what stands before the first NUL as its greeting, and each further part once it
/// has heard something; then it hangs up. Two mails are sent: each has an outcome for each
/// recipient, and none is delivered unless a reply of success was said.
pub async fn smtp_reply(listener: &TcpListener, said: &[u8]) {
    let relay = async {
        let (mut stream, _) = listener.accept().await.expect("a client comes");
        let mut heard = [0; 4096];
        for (turn, part) in said.split(|byte| *byte == 0).enumerate() {
            // A client that says nothing waits for more: it would do so until its time-out.
            let hears = tokio::time::timeout(Duration::from_millis(20), stream.read(&mut heard));
            if turn > 0 && !matches!(hears.await, Ok(Ok(1..))) {
                return;
            }
            if stream.write_all(part).await.is_err() {
                return;
            }
        }
    };
    let address = listener.local_addr().expect("it listens");
    let client = async {
        let smtp = Smtp::new(server(address.port())).expect("valid settings");
        let mut connection = match smtp.connect().await {
            Ok(connection) => connection,
            Err(outcome) => {
                return assert!(matches!(outcome, Outcome::Unavailable(..)), "{outcome:?}");
            }
        };
        let mails = [
            transaction(&["ada@example.org", "bob@example.org"]),
            transaction(&["eve@example.org"]),
        ];
        for (place, mail) in mails.iter().enumerate() {
            if place > 0 && !connection.is_usable() {
                break;
            }
            let outcomes = connection.send(mail, mails.get(place + 1)).await;
            assert_eq!(outcomes.len(), mail.recipients.len());
            for outcome in &outcomes {
                check(outcome, said);
            }
        }
        connection.close().await;
    };
    let both = async { tokio::join!(client, relay) };
    tokio::time::timeout(Duration::from_secs(20), both)
        .await
        .expect("every dialogue ends");
}

fn check(outcome: &Outcome, said: &[u8]) {
    match outcome {
        Outcome::Delivered(reply) => {
            // Whatever its other digits are (RFC 5321 §4.2.1).
            let code = reply.code.to_string();
            assert!((200..300).contains(&reply.code), "{code}");
            assert!(
                said.windows(3).any(|word| word == code.as_bytes()),
                "delivered, and nobody said so"
            );
            printable(&reply.text);
        }
        Outcome::Deferred(_, reply) | Outcome::Rejected(_, reply) => {
            printable(&reply.text);
        }
        Outcome::Unavailable(_, reason) | Outcome::Lost(_, reason) | Outcome::InDoubt(reason) => {
            printable(reason)
        }
        Outcome::Withdrawn | Outcome::Crashed => {
            panic!("{outcome:?} of a mail that nobody wanted back")
        }
    }
}

/// It goes to logs and terminals.
fn printable(text: &str) {
    assert!(
        text.chars().count() <= 600,
        "{} characters are kept",
        text.chars().count()
    );
    assert!(!text.chars().any(char::is_control), "{text:?}");
}

fn server(port: u16) -> Server {
    Server {
        host: "127.0.0.1".into(),
        port,
        security: Security::Plain,
        auth: None,
        ca_file: None,
        client_name: Some("client.example".into()),
        messages_per_connection: 1000,
        timeouts: TimeOuts::all(Duration::from_secs(2)),
    }
}

fn transaction(recipients: &[&str]) -> Transaction {
    Transaction {
        mail: "01a202c6-c270-7336-80b1-2e2f57ef5f62"
            .parse()
            .expect("an id"),
        return_path: "shop@example.com".parse().ok(),
        recipients: recipients
            .iter()
            .map(|address| address.parse().expect("an address"))
            .collect(),
        message: Bytes::from_static(b"Subject: hello\r\n\r\nHello.\r\n..\r\n"),
        eight_bit: false,
        smtputf8: false,
        recall: Recall::default(),
    }
}

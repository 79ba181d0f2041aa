//! What the tests share: a scripted fake SMTP server, certificates to try it with, and servers
//! nobody here wrote.
//!
//! Each test binary takes what it needs of it.
#![allow(dead_code, unused_imports, missing_docs, clippy::unwrap_used)]

pub mod agreement;
pub mod certificates;
#[cfg(feature = "server")]
pub mod dkim;
#[cfg(feature = "server")]
pub mod door;
pub mod engine;
pub mod erratic_relay;
pub mod fake_smtp;
pub mod faulty_spool;
pub mod names;
#[cfg(target_os = "linux")]
pub mod postfix;
#[cfg(feature = "postgres")]
pub mod postgres;
#[cfg(feature = "server")]
pub mod provider;
pub mod proxy;
pub mod real_servers;
#[cfg(feature = "notify")]
pub mod receiver;
pub mod scripted_relay;
#[cfg(all(feature = "server", target_os = "linux"))]
pub mod service;
pub mod test_spool;

pub use certificates::Cert;
pub use engine::{
    EventLog, a_moment, as_time_passes, becomes, engine, eventually, mail, mail_to, relay_at,
    steady, submit,
};
pub use erratic_relay::erratic_relay;
pub use fake_smtp::{Act, FakeSmtp, Moment, Received, Rule, Step};
pub use faulty_spool::FaultySpool;
pub use names::Names;
#[cfg(feature = "notify")]
pub use receiver::{ReceivedCall, Receiver, Response};
pub use scripted_relay::ScriptedRelay;
pub use test_spool::TestSpool;

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use postrider::MailId;
use postrider::transport::smtp::Smtp;
use postrider::transport::{
    Connection, Recall, Security, Server, TimeOuts, Transaction, Transport,
};

/// The settings of a relay at this address: plain, without a login, each step within ten seconds.
pub fn server_on(address: SocketAddr) -> Server {
    Server {
        host: address.ip().to_string(),
        port: address.port(),
        security: Security::Plain,
        auth: None,
        ca_file: None,
        client_name: Some("client.example".into()),
        messages_per_connection: 1000,
        timeouts: TimeOuts::all(Duration::from_secs(10)),
    }
}

/// The settings of a relay that trusts this server's authority, if it has one.
pub fn server_at(server: &FakeSmtp) -> Server {
    Server {
        ca_file: server.has_certificate().then(|| server.ca_file()),
        ..server_on(server.address())
    }
}

/// A plain connection to this server.
pub async fn open(server: &FakeSmtp) -> Box<dyn Connection> {
    Smtp::new(server_at(server))
        .unwrap()
        .connect()
        .await
        .unwrap()
}

/// A small mail of its own name to these recipients.
pub fn transaction(recipients: &[&str]) -> Transaction {
    Transaction {
        mail: MailId::from_bytes(*uuid::Uuid::now_v7().as_bytes()),
        return_path: Some("shop@example.com".parse().unwrap()),
        recipients: recipients
            .iter()
            .map(|address| address.parse().unwrap())
            .collect(),
        message: Bytes::from_static(b"Subject: hello\r\n\r\nHello.\r\n"),
        eight_bit: false,
        smtputf8: false,
        recall: Recall::default(),
    }
}

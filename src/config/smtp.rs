//! `[smtp]`: the SMTP submission door.

use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use super::http::check_name;
use super::mistake::Report;
use super::units::bytes;
use super::{Listen, pem, secret, units};
use crate::ingress::smtp::{self, SmtpSettings, TlsFiles};

/// The longest password, in bytes, that AUTH is sure to carry.
const LONGEST_PASSWORD: usize = 255;

/// The SMTP submission door.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Smtp {
    /// Where it listens.
    pub listen: Listen,
    /// Where it listens for connections that are TLS from the first byte (RFC 8314 §3.3).
    pub tls_listen: Listen,
    /// What the door calls itself; this machine's name when absent.
    pub hostname: Option<String>,
    /// Who may come in; nobody need log in where there is none.
    pub users: Vec<User>,
    /// What TLS is done with.
    pub tls: Option<Tls>,
    /// The most connections at once.
    pub max_connections: usize,
    /// The most connections at once from one address.
    pub max_connections_per_peer: usize,
    /// The most recipients of one mail.
    pub max_recipients: usize,
    /// The most that mails on their way in take.
    #[serde(deserialize_with = "units::size")]
    pub max_memory: ByteSize,
    /// How long the next command may take to come.
    #[serde(deserialize_with = "units::duration")]
    pub idle_timeout: Duration,
    /// How long a message may take to come.
    #[serde(deserialize_with = "units::duration")]
    pub data_timeout: Duration,
}

/// Somebody who may come in.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct User {
    /// What AUTH calls them.
    pub name: String,
    /// Their password.
    pub password: Option<SecretString>,
    /// The file that it is in.
    pub password_file: Option<PathBuf>,
}

/// A certificate and its key, in PEM files.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tls {
    /// The certificate, and those that vouch for it.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

impl Default for Smtp {
    fn default() -> Self {
        let limits = smtp::Limits::default();
        Smtp {
            listen: Listen::At(([127, 0, 0, 1], 2525).into()),
            tls_listen: Listen::Off,
            hostname: None,
            users: Vec::new(),
            tls: None,
            max_connections: limits.connections,
            max_connections_per_peer: limits.connections_per_peer,
            max_recipients: limits.recipients,
            max_memory: ByteSize::b(limits.memory as u64),
            idle_timeout: limits.idle,
            data_timeout: limits.data,
        }
    }
}

impl Smtp {
    /// What the door is made from, if it is to be opened, for messages of at most `message_size`;
    /// when it closes, mail that is coming in may go on for `drain`.
    pub fn door(&self, message_size: ByteSize, drain: Duration) -> Option<SmtpSettings> {
        let mut door = SmtpSettings::new(self.listen.address()?);
        door.tls_listen = self.tls_listen.address();
        door.tls = self.certificate();
        door.users = self.users();
        if let Some(hostname) = &self.hostname {
            door.hostname = hostname.clone();
        }
        door.limits = smtp::Limits {
            connections: self.max_connections,
            connections_per_peer: self.max_connections_per_peer,
            message_size: bytes(message_size),
            memory: bytes(self.max_memory),
            recipients: self.max_recipients,
            idle: self.idle_timeout,
            data: self.data_timeout,
            drain,
            ..smtp::Limits::default()
        };
        Some(door)
    }

    /// Who may come in.
    pub fn users(&self) -> Vec<smtp::User> {
        let door_user = |user: &User| {
            Some(smtp::User {
                name: user.name.clone(),
                password: user.password.clone()?,
            })
        };
        self.users.iter().filter_map(door_user).collect()
    }

    /// What TLS is done with.
    pub fn certificate(&self) -> Option<TlsFiles> {
        self.tls.as_ref().map(|tls| TlsFiles {
            cert: tls.cert.clone(),
            key: tls.key.clone(),
        })
    }

    pub(super) fn check(&mut self, report: &mut Report<'_>) {
        self.check_listeners(report);
        if self
            .hostname
            .as_ref()
            .is_some_and(|name| name.is_empty() || !name.bytes().all(|b| b.is_ascii_graphic()))
        {
            report.add(
                "smtp.hostname",
                "must be a host's name: printable ASCII, without spaces",
            );
        }
        for (key, is_zero) in [
            ("max_connections", self.max_connections == 0),
            (
                "max_connections_per_peer",
                self.max_connections_per_peer == 0,
            ),
            ("max_recipients", self.max_recipients == 0),
            ("max_memory", self.max_memory.as_u64() == 0),
            ("idle_timeout", self.idle_timeout.is_zero()),
            ("data_timeout", self.data_timeout.is_zero()),
        ] {
            if is_zero {
                report.add(
                    format!("smtp.{key}"),
                    "is zero, so that nobody could come in",
                );
            }
        }
        for n in 0..self.users.len() {
            let at = format!("smtp.users[{n}]");
            let (earlier, rest) = self.users.split_at_mut(n);
            rest[0].check(&at, report);
            check_name(
                &rest[0].name,
                earlier.iter().map(|other| other.name.as_str()),
                &at,
                report,
            );
        }
        if let Some(tls) = &self.tls {
            tls.check("smtp.tls", report);
        }
    }

    fn check_listeners(&self, report: &mut Report<'_>) {
        for (key, listen) in [
            ("smtp.listen", self.listen),
            ("smtp.tls_listen", self.tls_listen),
        ] {
            if listen.is_private() {
                continue;
            }
            if self.users.is_empty() {
                report.add(
                    "smtp.users",
                    format!(
                        "is missing, and {key} is not a loopback address: everybody could send mail; add a user, \
                         or listen on 127.0.0.1"
                    ),
                );
            }
            if self.tls.is_none() {
                report.add(
                    "smtp.tls",
                    format!(
                        "is missing, and {key} is not a loopback address: passwords would be sent in the clear; \
                         add `tls`, or listen on 127.0.0.1"
                    ),
                );
            }
        }
        if self.tls_listen != Listen::Off && self.tls.is_none() {
            report.add("smtp.tls", "is missing, and smtp.tls_listen needs it");
        }
        if self.tls_listen != Listen::Off && self.listen == Listen::Off {
            report.add(
                "smtp.listen",
                "is off, and smtp.tls_listen is not; let it listen on 127.0.0.1 at least",
            );
        }
    }
}

impl User {
    fn check(&mut self, at: &str, report: &mut Report<'_>) {
        secret::settle(
            &mut self.password,
            self.password_file.as_deref(),
            (at, "password"),
            report,
        );
        match &self.password {
            None => report.add(
                format!("{at}.password_file"),
                "is missing; or add `password`",
            ),
            Some(secret) => {
                let password = secret.expose_secret();
                if password.len() > LONGEST_PASSWORD || password.contains('\0') {
                    report.add(at, "has a password that AUTH cannot carry: at most 255 bytes, none of them NUL");
                }
            }
        }
    }
}

impl Tls {
    fn check(&self, at: &str, report: &mut Report<'_>) {
        for (key, path) in [("cert", &self.cert), ("key", &self.key)] {
            if path.as_os_str().is_empty() {
                report.add(format!("{at}.{key}"), "is missing; name a PEM file");
            }
        }
        pem::check_certificates(&self.cert, format!("{at}.cert"), report);
        pem::check_key(&self.key, format!("{at}.key"), report);
    }
}

//! The listener's settings: addresses, users, TLS, and limits.

use std::net::SocketAddr;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};

use super::auth::LONGEST_CREDENTIAL;
use crate::ingress::tls::{self, TlsError, TlsFiles};
use crate::ingress::{Networks, limits};
use crate::mail::{minutes, seconds};

/// The settings of the submission listener.
#[derive(Clone, Debug)]
pub struct SmtpSettings {
    /// The address to listen on; STARTTLS is offered if there is `tls`.
    pub listen: SocketAddr,
    /// The address to listen on for connections with TLS from the first byte (RFC 8314 §3.3), if
    /// any.
    pub tls_listen: Option<SocketAddr>,
    /// The certificate, if there is one.
    pub tls: Option<TlsFiles>,
    /// The users. Without any, every client may send; so the listener must be on loopback, or serve
    /// only `trusted_networks`.
    pub users: Vec<User>,
    /// Networks whose programs may send without a login and without TLS. With such a list and no
    /// users, nobody else is served.
    pub trusted_networks: Networks,
    /// The listener's name in its greeting and in Received fields; this machine's name by default.
    pub hostname: String,
    /// The limits.
    pub limits: Limits,
}

/// A user who may send.
#[derive(Clone, Debug)]
pub struct User {
    /// The name to log in with.
    pub name: String,
    /// The password.
    pub password: SecretString,
}

/// The limits of the listener. The defaults suit one machine that sends for a company.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections open at once: 2,000.
    pub connections: usize,
    /// Connections open at once from one address (for IPv6, one /64 network): 250; at most three
    /// quarters of all.
    pub connections_per_peer: usize,
    /// The largest message, in bytes: 25 MiB.
    pub message_size: usize,
    /// Bytes of messages held for all connections together, while they come in and until they are
    /// on disk: 256 MiB.
    pub memory: usize,
    /// Recipients of one mail: 1,000.
    pub recipients: usize,
    /// Wrong commands of a connection between two accepted mails: 10.
    pub errors: u32,
    /// Failed logins a connection may have: 3.
    pub failed_logins: u32,
    /// Commands before the login, where a login is needed: 20.
    pub commands_before_login: u32,
    /// The delay after a failed login: 1 s, and longer after further ones.
    pub login_penalty: Duration,
    /// The number of failed logins after which an address is banned for `ban_time`: 20; 0 for
    /// never.
    pub ban_after: u32,
    /// How long an address is banned: 10 minutes.
    pub ban_time: Duration,
    /// How long a connection may be open before a login, or before EHLO if none is needed: 30 s.
    pub login: Duration,
    /// The time-out for the next command: 5 minutes (RFC 5321 §4.5.3.2.7).
    pub idle: Duration,
    /// How long a TLS handshake may take: 30 s.
    pub handshake: Duration,
    /// The time-out for a message, besides what its size allows: 5 minutes.
    pub data: Duration,
    /// A message that takes longer than `data` must arrive at this rate in bytes per second: 8 KiB.
    pub data_rate: usize,
    /// The time-out for a client to read our replies: 1 minute.
    pub write: Duration,
    /// How long mails that are being received at a shutdown may take: 30 s.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connections: 2_000,
            connections_per_peer: 250,
            message_size: 25 * 1024 * 1024,
            memory: 256 * 1024 * 1024,
            recipients: 1_000,
            errors: 10,
            failed_logins: 3,
            commands_before_login: 20,
            login_penalty: seconds(1),
            ban_after: 20,
            ban_time: minutes(10),
            login: seconds(30),
            idle: minutes(5),
            handshake: seconds(30),
            data: minutes(5),
            data_rate: 8 * 1024,
            write: minutes(1),
            drain: seconds(30),
        }
    }
}

impl SmtpSettings {
    /// A listener on `listen` without TLS or users, named after this machine, with the default
    /// limits.
    pub fn new(listen: SocketAddr) -> Self {
        let hostname = lettre::transport::smtp::extension::ClientId::default().to_string();
        SmtpSettings {
            listen,
            tls_listen: None,
            tls: None,
            users: Vec::new(),
            trusted_networks: Networks::default(),
            hostname,
            limits: Limits::default(),
        }
    }

    /// Refuses settings of an open relay, and passwords in cleartext.
    pub(super) fn check(&self) -> Result<(), SmtpError> {
        match self.mistakes().into_iter().next() {
            Some(mistake) => Err(mistake),
            None => Ok(()),
        }
    }

    /// All mistakes in these settings, those in the certificate's files included. Settings without
    /// one can be bound, if the address is free.
    pub fn mistakes(&self) -> Vec<SmtpError> {
        let mut mistakes = self.listener_mistakes();
        if self.hostname.is_empty() || !self.hostname.bytes().all(|b| b.is_ascii_graphic()) {
            mistakes.push(SmtpError::Hostname(
                self.hostname.escape_debug().to_string(),
            ));
        }

        mistakes.extend(self.limits.mistakes());
        for index in 0..self.users.len() {
            mistakes.extend(self.user_mistakes(index));
        }
        if let Some(files) = &self.tls {
            mistakes.extend(tls::acceptor(files, &[]).err().map(SmtpError::from));
        }

        mistakes
    }

    fn listener_mistakes(&self) -> Vec<SmtpError> {
        let listeners = [
            ("listen", Some(self.listen)),
            ("tls_listen", self.tls_listen),
        ];

        let mut mistakes = Vec::new();
        for (key, listen) in listeners {
            let Some(listen) = listen else { continue };
            let is_open =
                !listen.ip().to_canonical().is_loopback() && self.trusted_networks.is_empty();
            if is_open && self.users.is_empty() {
                mistakes.push(SmtpError::NoUsers { key, listen });
            }
            if self.tls.is_none() && (is_open || key == "tls_listen") {
                mistakes.push(SmtpError::NoTls { key, listen });
            }
        }

        mistakes
    }

    fn user_mistakes(&self, index: usize) -> Vec<SmtpError> {
        let User { name, password } = &self.users[index];
        let password = password.expose_secret();
        let mut mistakes = Vec::new();
        let mut wrong = |part, reason: String| {
            mistakes.push(SmtpError::User {
                index,
                part,
                reason,
            });
        };

        let earlier = self.users[..index].iter();
        if name.is_empty() {
            wrong("name", "is missing".to_owned());
        } else if earlier.into_iter().any(|user| user.name == *name) {
            let name = name.escape_debug();
            wrong(
                "name",
                format!("`{name}` is there twice; give each its own"),
            );
        } else if !can_be_carried(name) {
            wrong(
                "name",
                "is one that AUTH cannot carry: at most 255 bytes, none of them NUL".to_owned(),
            );
        }

        if password.is_empty() {
            wrong("password", "is empty".to_owned());
        } else if !can_be_carried(password) {
            wrong(
                "password",
                "AUTH cannot carry: at most 255 bytes, none of them NUL".to_owned(),
            );
        }

        mistakes
    }
}

/// Whether AUTH can transmit this name or password (RFC 4616 §2).
fn can_be_carried(credential: &str) -> bool {
    credential.len() <= LONGEST_CREDENTIAL && !credential.contains('\0')
}

impl Limits {
    fn mistakes(&self) -> impl Iterator<Item = SmtpError> {
        let counts = [
            ("max_connections", self.connections),
            ("max_connections_per_peer", self.connections_per_peer),
            ("max_recipients", self.recipients),
        ];
        let others = [
            ("max_memory", self.memory == 0),
            ("login_timeout", self.login.is_zero()),
            ("idle_timeout", self.idle.is_zero()),
            ("data_timeout", self.data.is_zero()),
        ];

        let mistakes = limits::mistakes(counts, others).into_iter();
        mistakes.map(|(key, reason)| SmtpError::Limit { key, reason })
    }
}

/// Why the listener cannot be opened. Each names the key of the section `smtp` that must be
/// corrected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.message())]
pub enum SmtpError {
    /// Every client could send.
    NoUsers {
        /// The key of the address.
        key: &'static str,
        /// The address.
        listen: SocketAddr,
    },
    /// There is no certificate.
    NoTls {
        /// The key of the address.
        key: &'static str,
        /// The address.
        listen: SocketAddr,
    },
    /// A user is not valid.
    User {
        /// Which one, counted from 0.
        index: usize,
        /// The wrong part: `name` or `password`.
        part: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// The name is not valid in a greeting.
    Hostname(String),
    /// A limit is out of range.
    Limit {
        /// Which one.
        key: &'static str,
        /// What is wrong.
        reason: &'static str,
    },
    /// A certificate or key cannot be used.
    Tls {
        /// Which of the two, `cert` or `key`.
        key: &'static str,
        /// What is wrong; names the file.
        reason: String,
    },
    /// The address cannot be bound.
    Listen {
        /// The key of the address.
        key: &'static str,
        /// The address.
        listen: SocketAddr,
        /// The system's error.
        reason: String,
    },
}

impl SmtpError {
    /// The key that must be corrected, below `smtp`.
    pub fn key(&self) -> String {
        match self {
            SmtpError::NoUsers { .. } => "users".to_owned(),
            SmtpError::NoTls { .. } => "tls".to_owned(),
            // A password may be in a file, so the user is named instead of the key.
            SmtpError::User { index, part, .. } if *part == "password" => format!("users[{index}]"),
            SmtpError::User { index, part, .. } => format!("users[{index}].{part}"),
            SmtpError::Hostname(_) => "hostname".to_owned(),
            SmtpError::Limit { key, .. } | SmtpError::Listen { key, .. } => (*key).to_owned(),
            SmtpError::Tls { key, .. } => format!("tls.{key}"),
        }
    }

    /// What is wrong, and what to do.
    pub fn reason(&self) -> String {
        match self {
            SmtpError::NoUsers { key, listen } => format!(
                "is missing, and smtp.{key} ({listen}) is not a loopback address: everybody could \
                 send mail; add a user, name \
                 trusted_networks, or listen on 127.0.0.1"
            ),
            SmtpError::NoTls { key, .. } if *key == "tls_listen" => {
                format!("is missing, and smtp.{key} needs it; add `cert` and `key`")
            }
            SmtpError::NoTls { key, listen } => format!(
                "is missing, and smtp.{key} ({listen}) is not a loopback address: passwords would \
                 be sent in the clear; add `cert` and `key`, name trusted_networks, or listen on \
                 127.0.0.1"
            ),
            SmtpError::User { part, reason, .. } if *part == "password" => {
                format!("has a password that {reason}")
            }
            SmtpError::User { reason, .. } | SmtpError::Tls { reason, .. } => reason.clone(),
            SmtpError::Hostname(name) => {
                format!("`{name}` must be a host's name: printable ASCII, without spaces")
            }
            SmtpError::Limit { reason, .. } => (*reason).to_owned(),
            SmtpError::Listen {
                key,
                listen,
                reason,
            } => {
                format!("cannot listen on `smtp.{key}` = {listen}: {reason}")
            }
        }
    }

    fn message(&self) -> String {
        match self {
            SmtpError::Listen { .. } => self.reason(),
            _ => format!("`smtp.{}` {}", self.key(), self.reason()),
        }
    }
}

impl From<TlsError> for SmtpError {
    fn from(TlsError { key, reason }: TlsError) -> Self {
        SmtpError::Tls { key, reason }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(address: &str) -> SmtpSettings {
        SmtpSettings::new(address.parse().expect("an address"))
    }

    fn user(name: &str, password: &str) -> User {
        User {
            name: name.into(),
            password: password.into(),
        }
    }

    fn files() -> Option<TlsFiles> {
        Some(TlsFiles {
            cert: "cert.pem".into(),
            key: "key.pem".into(),
        })
    }

    /// What is wrong with the settings, whatever is in the files.
    fn wrong(settings: &SmtpSettings) -> Vec<SmtpError> {
        let mut mistakes = settings.mistakes();
        mistakes.retain(|mistake| !matches!(mistake, SmtpError::Tls { .. }));
        mistakes
    }

    #[test]
    fn without_users_it_listens_on_loopback_only() {
        assert_eq!(at("127.0.0.1:0").check(), Ok(()));
        assert_eq!(at("[::ffff:127.0.0.1]:0").check(), Ok(()));
        assert_eq!(at("[::1]:0").check(), Ok(()));
        for open in ["0.0.0.0:25", "[::]:25", "192.0.2.1:25"] {
            let mut settings = at(open);
            settings.tls = files();
            let error = wrong(&settings)[0].to_string();
            assert!(
                error.contains("smtp.users") && error.contains(open),
                "{error}"
            );
        }
    }

    #[test]
    fn an_implicit_tls_address_is_looked_at_too() {
        let mut settings = at("127.0.0.1:0");
        settings.tls_listen = Some("127.0.0.1:0".parse().expect("an address"));
        assert!(matches!(settings.check(), Err(SmtpError::NoTls { .. })));
        settings.tls = files();
        assert_eq!(wrong(&settings), []);
        settings.tls_listen = Some("0.0.0.0:465".parse().expect("an address"));
        assert!(matches!(wrong(&settings)[..], [SmtpError::NoUsers { .. }]));
    }

    #[test]
    fn off_loopback_it_needs_tls_too() {
        let mut settings = at("0.0.0.0:587");
        settings.users = vec![user("app", "secret")];
        assert!(
            settings
                .check()
                .expect_err("passwords in the clear")
                .to_string()
                .contains("smtp.tls")
        );
        settings.tls = files();
        assert_eq!(wrong(&settings), []);
    }

    #[test]
    fn users_that_cannot_log_in_are_refused() {
        let long = "x".repeat(256);
        for wrong in [
            user("", "x"),
            user("a", ""),
            user("ok", "again"),
            user("a", &long),
            user("a\0b", "x"),
        ] {
            let mut settings = at("127.0.0.1:0");
            settings.users = vec![user("ok", "secret"), wrong];
            assert!(
                matches!(settings.check(), Err(SmtpError::User { index: 1, .. })),
                "{settings:?}"
            );
        }
    }

    #[test]
    fn no_password_is_shown() {
        let mut settings = at("127.0.0.1:0");
        settings.users = vec![user("app", "hunter2")];
        assert!(!format!("{settings:?}").contains("hunter2"));
    }
}

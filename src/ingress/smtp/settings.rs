//! What the door is given: where it listens, who may come in, and how much of everything it bears.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};

use super::auth::LONGEST_CREDENTIAL;
use crate::mail::{minutes, seconds};

/// What the submission door is made from.
#[derive(Clone, Debug)]
pub struct SmtpSettings {
    /// Where it listens; STARTTLS is offered here when there is `tls`.
    pub listen: SocketAddr,
    /// Where it listens for connections that are TLS from the first byte (RFC 8314 §3.3), if
    /// anywhere.
    pub tls_listen: Option<SocketAddr>,
    /// The certificate, if there is one.
    pub tls: Option<TlsFiles>,
    /// Who may send. With nobody here everybody may, and so it listens on loopback only.
    pub users: Vec<User>,
    /// What the door calls itself, in its greeting and in Received fields; this machine's name
    /// unless said.
    pub hostname: String,
    /// How much of everything it bears.
    pub limits: Limits,
}

/// PEM files that TLS needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate, followed by those that lead to the authority.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// Somebody who may send.
#[derive(Clone, Debug)]
pub struct User {
    /// The name to log in with.
    pub name: String,
    /// The password.
    pub password: SecretString,
}

/// How much of everything the door bears. The defaults suit one machine that sends for a company.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections open at once: 2,000.
    pub connections: usize,
    /// Connections open at once from one address (for IPv6, one /64 network): 500.
    pub connections_per_peer: usize,
    /// The largest message, in bytes: 25 MiB.
    pub message_size: usize,
    /// Bytes of messages held for all connections together, while they come in and until they are
    /// on disk: 256 MiB.
    pub memory: usize,
    /// Recipients of one mail: 1,000.
    pub recipients: usize,
    /// Mistakes a connection may make between two accepted mails: 10.
    pub errors: u32,
    /// Failed logins a connection may have: 3.
    pub failed_logins: u32,
    /// Commands before the login, where a login is needed: 20.
    pub commands_before_login: u32,
    /// How long a failed login is left waiting: 1 s.
    pub login_penalty: Duration,
    /// How long the next command may take to come: 5 minutes (RFC 5321 §4.5.3.2.7).
    pub idle: Duration,
    /// How long a TLS handshake may take: 30 s.
    pub handshake: Duration,
    /// How long a message may take to come, apart from what its size allows: 5 minutes.
    pub data: Duration,
    /// A message that takes longer than `data` must have come at this many bytes a second: 8 KiB.
    pub data_rate: usize,
    /// How long a client may take to read our replies: 1 minute.
    pub write: Duration,
    /// How long mails that are coming in at a shutdown may take: 30 s.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connections: 2_000,
            connections_per_peer: 500,
            message_size: 25 * 1024 * 1024,
            memory: 256 * 1024 * 1024,
            recipients: 1_000,
            errors: 10,
            failed_logins: 3,
            commands_before_login: 20,
            login_penalty: seconds(1),
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
    /// A door on `listen` without TLS or users, named after this machine, with the default limits.
    pub fn new(listen: SocketAddr) -> Self {
        let hostname = lettre::transport::smtp::extension::ClientId::default().to_string();
        SmtpSettings {
            listen,
            tls_listen: None,
            tls: None,
            users: Vec::new(),
            hostname,
            limits: Limits::default(),
        }
    }

    /// Refuses what would be an open door, or would send passwords in the clear.
    pub(super) fn check(&self) -> Result<(), SmtpError> {
        let open = [Some(self.listen), self.tls_listen]
            .into_iter()
            .flatten()
            .find(|at| !at.ip().is_loopback());
        if let Some(listen) = open {
            if self.users.is_empty() {
                return Err(SmtpError::NoUsers { listen });
            }
            if self.tls.is_none() {
                return Err(SmtpError::NoTls { listen });
            }
        }
        if let (Some(listen), None) = (self.tls_listen, &self.tls) {
            return Err(SmtpError::NoTls { listen });
        }
        if self.hostname.is_empty() || !self.hostname.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(SmtpError::Hostname(
                self.hostname.escape_debug().to_string(),
            ));
        }
        for (index, user) in self.users.iter().enumerate() {
            let reason = match (user.name.as_str(), user.password.expose_secret()) {
                ("", _) => "has an empty name",
                (_, "") => "has an empty password",
                (name, _) if self.users.iter().take(index).any(|u| u.name == name) => {
                    "has the name of one before it"
                }
                (name, password) if name.len().max(password.len()) > LONGEST_CREDENTIAL => {
                    "has a name or password of more than 255 bytes"
                }
                (name, password) if name.contains('\0') || password.contains('\0') => {
                    "has a NUL in it"
                }
                _ => continue,
            };
            return Err(SmtpError::User { index, reason });
        }
        Ok(())
    }
}

/// Why the door cannot be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SmtpError {
    /// Everybody could send.
    #[error(
        "`smtp.users` is empty, and {listen} is not a loopback address: everybody could send mail; add a user, or listen on 127.0.0.1"
    )]
    NoUsers {
        /// Where it would have listened.
        listen: SocketAddr,
    },
    /// There is no certificate.
    #[error(
        "`smtp.tls` is missing, and {listen} needs it: no password is taken in the clear; add `cert` and `key`, or listen on 127.0.0.1"
    )]
    NoTls {
        /// Where it would have listened.
        listen: SocketAddr,
    },
    /// A user cannot be.
    #[error("`smtp.users[{index}]` {reason}")]
    User {
        /// Which one, counted from 0.
        index: usize,
        /// What is wrong.
        reason: &'static str,
    },
    /// The name cannot stand in a greeting.
    #[error(
        "`{0}` cannot be the SMTP door's host name: it is empty, or has a character beyond printable ASCII"
    )]
    Hostname(String),
    /// A certificate or key cannot be used.
    #[error("`smtp.tls.{key}`, {}: {reason}", .path.display())]
    Tls {
        /// Which of the two, `cert` or `key`.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {listen} for SMTP: {reason}")]
    Listen {
        /// The address.
        listen: SocketAddr,
        /// What the system says.
        reason: String,
    },
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

    #[test]
    fn without_users_it_listens_on_loopback_only() {
        assert_eq!(at("127.0.0.1:0").check(), Ok(()));
        assert_eq!(at("[::1]:0").check(), Ok(()));
        for open in ["0.0.0.0:25", "[::]:25", "192.0.2.1:25"] {
            let mut settings = at(open);
            settings.tls = files();
            let error = settings.check().expect_err("an open door").to_string();
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
        assert_eq!(settings.check(), Ok(()));
        settings.tls_listen = Some("0.0.0.0:465".parse().expect("an address"));
        assert!(matches!(settings.check(), Err(SmtpError::NoUsers { .. })));
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
        assert_eq!(settings.check(), Ok(()));
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

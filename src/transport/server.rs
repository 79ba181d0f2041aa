//! An SMTP server as it is configured: where it is, how the connection is secured, how we log in,
//! and how long each step may take.

use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;

use crate::mail::{minutes, seconds};

/// An SMTP server.
#[derive(Clone, Debug)]
pub struct Server {
    /// Its name or address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// How the connection is secured.
    pub security: Security,
    /// How we log in, if at all.
    pub auth: Option<Auth>,
    /// A PEM file with the certificate authority to trust instead of the public ones.
    pub ca_file: Option<PathBuf>,
    /// What we call ourselves in EHLO; this machine's name when absent.
    pub client_name: Option<String>,
    /// Close a connection after so many mails.
    pub messages_per_connection: u32,
    /// How long each step may take.
    pub timeouts: TimeOuts,
}

/// How a connection is secured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Security {
    /// Not at all: `smtp://`.
    Plain,
    /// By STARTTLS, which the server must offer: `smtp+starttls://` (RFC 3207).
    StartTls,
    /// From the first byte: `smtps://` (RFC 8314 §3.3).
    Tls,
}

/// Where an OAuth 2 access token comes from; asked anew for each connection.
pub type TokenSource = Arc<
    dyn Fn() -> Pin<Box<dyn Future<Output = Result<SecretString, String>> + Send>> + Send + Sync,
>;

/// How we log in. PLAIN is taken where it is offered, LOGIN otherwise.
#[derive(Clone)]
pub enum Auth {
    /// With a password.
    Password {
        /// The user.
        user: String,
        /// The password.
        password: SecretString,
    },
    /// With XOAUTH2.
    OAuth2 {
        /// The user.
        user: String,
        /// Where the token comes from.
        token: TokenSource,
    },
    /// With XOAUTH2, and tokens that are fetched as they are needed. One that the server refuses is
    /// fetched anew, once.
    #[cfg(feature = "providers")]
    Tokens {
        /// The user.
        user: String,
        /// Where the tokens come from.
        source: Arc<super::oauth2::OAuth2>,
    },
}

impl Auth {
    /// The user who logs in.
    pub fn user(&self) -> &str {
        match self {
            Auth::Password { user, .. } | Auth::OAuth2 { user, .. } => user,
            #[cfg(feature = "providers")]
            Auth::Tokens { user, .. } => user,
        }
    }
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Auth::Password { user, .. } => write!(f, "Password {{ user: {user:?} }}"),
            Auth::OAuth2 { user, .. } => write!(f, "OAuth2 {{ user: {user:?} }}"),
            #[cfg(feature = "providers")]
            Auth::Tokens { user, .. } => write!(f, "Tokens {{ user: {user:?} }}"),
        }
    }
}

/// How long each step of a connection may take. The defaults are those of RFC 5321 §4.5.3.2 where
/// it names one that a queue can live with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeOuts {
    /// TCP connect, DNS included: 10 s.
    pub connect: Duration,
    /// The greeting, and EHLO: 30 s each.
    pub greeting: Duration,
    /// STARTTLS and the TLS handshake: 30 s.
    pub tls: Duration,
    /// AUTH: 30 s.
    pub auth: Duration,
    /// MAIL, RCPT, RSET: 60 s each.
    pub command: Duration,
    /// DATA: 60 s.
    pub data: Duration,
    /// Each part of the message that is written: 120 s.
    pub body: Duration,
    /// The answer to the final dot: 600 s. A short wait here is how one mail is sent five times.
    pub final_dot: Duration,
}

impl Default for TimeOuts {
    fn default() -> Self {
        TimeOuts {
            connect: seconds(10),
            greeting: seconds(30),
            tls: seconds(30),
            auth: seconds(30),
            command: seconds(60),
            data: seconds(60),
            body: minutes(2),
            final_dot: minutes(10),
        }
    }
}

impl TimeOuts {
    /// The same span for every step, for tests.
    pub fn all(span: Duration) -> Self {
        TimeOuts {
            connect: span,
            greeting: span,
            tls: span,
            auth: span,
            command: span,
            data: span,
            body: span,
            final_dot: span,
        }
    }
}

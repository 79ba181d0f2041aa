//! A relay as it is configured: where it is, how it is secured, how fast it may be used.

use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;
use url::Url;

use super::smtp::Smtp;
use super::{Capture, Transport};
use crate::mail::{minutes, seconds};
use crate::policy::Rate;

/// A relay: a smarthost, a capture for tests, or a transport of your own.
#[derive(Clone)]
pub struct Relay {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) connections: usize,
    pub(crate) rate: Option<Rate>,
    pub(crate) idle_timeout: Duration,
}

/// How mail gets there.
#[derive(Clone)]
pub(crate) enum Kind {
    Smtp(Server),
    Capture(Capture),
    Custom(Arc<dyn Transport>),
}

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
pub type TokenSource =
    Arc<dyn Fn() -> Pin<Box<dyn Future<Output = Result<SecretString, String>> + Send>> + Send + Sync>;

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
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Auth::Password { user, .. } => write!(f, "Password {{ user: {user:?} }}"),
            Auth::OAuth2 { user, .. } => write!(f, "OAuth2 {{ user: {user:?} }}"),
        }
    }
}

/// How long each step of a connection may take. The defaults are those of RFC 5321 §4.5.3.2 where it names one that a
/// queue can live with.
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

/// What is wrong with a relay's configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RelayError {
    /// The URL cannot be used. The message never holds the URL's password.
    #[error("the relay's url {0}")]
    Url(String),
    /// The name cannot be used.
    #[error("the relay's name `{}` must have 1 to 64 of the characters a-z, A-Z, 0-9, `.`, `_` and `-`", .0.escape_debug())]
    Name(String),
    /// A number is out of range.
    #[error("the relay's {0}")]
    Range(String),
    /// The file with the certificate authority cannot be used.
    #[error("the relay's ca_file {} {reason}", .path.display())]
    CaFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The name that we are to give in EHLO cannot be used.
    #[error("the relay's client_name `{}` must be a host name or an address, without spaces", .0.escape_debug())]
    ClientName(String),
}

impl Relay {
    /// A relay from its URL: `smtp://host:port` (plain), `smtp+starttls://user:password@host:587`, `smtps://host:465`, or
    /// `capture://`, which keeps mail in memory instead of sending it (`capture:///dir` writes it to files there).
    ///
    /// Its name is the host's; see [`Relay::name`].
    ///
    /// # Errors
    /// An unknown scheme, no host, or a user without AUTH's needs.
    pub fn smtp(url: &str) -> Result<Self, RelayError> {
        let fail = |reason: &str| RelayError::Url(reason.to_owned());
        let parsed = Url::parse(url).map_err(|e| RelayError::Url(format!("cannot be read: {e}")))?;
        if parsed.scheme() == "capture" {
            let dir = Some(parsed.path()).filter(|path| path.len() > 1).map(PathBuf::from);
            return Ok(Relay::of("capture", Kind::Capture(Capture::new(dir))));
        }
        let (security, default_port) = match parsed.scheme() {
            "smtp" => (Security::Plain, 25),
            "smtp+starttls" => (Security::StartTls, 587),
            "smtps" => (Security::Tls, 465),
            other => {
                let reason = format!("has the scheme `{other}`; use smtp, smtp+starttls, smtps or capture");
                return Err(RelayError::Url(reason));
            }
        };
        let host = parsed.host_str().filter(|host| !host.is_empty()).ok_or_else(|| fail("names no host"))?;
        if !matches!(parsed.path(), "" | "/") || parsed.query().is_some() || parsed.fragment().is_some() {
            return Err(fail("has something after the port; only scheme, user, password, host and port are meant"));
        }
        let decode = |text: &str| {
            percent_decode(text).ok_or_else(|| fail("has a user or password whose percent signs encode no UTF-8"))
        };
        let auth = match (parsed.username(), parsed.password()) {
            ("", None) => None,
            ("", Some(_)) => return Err(fail("has a password and no user")),
            (user, password) => Some(Auth::Password {
                user: decode(user)?,
                password: SecretString::from(decode(password.unwrap_or_default())?),
            }),
        };
        let server = Server {
            host: host.trim_start_matches('[').trim_end_matches(']').to_owned(),
            port: parsed.port().unwrap_or(default_port),
            security,
            auth,
            ca_file: None,
            client_name: None,
            messages_per_connection: 1000,
            timeouts: TimeOuts::default(),
        };
        let name: String =
            host.chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' || c == '-' { c } else { '-' }).collect();
        Ok(Relay::of(&name, Kind::Smtp(server)))
    }

    /// A relay that keeps mail in memory; [`Capture::captured`] shows it.
    pub fn capture(capture: &Capture) -> Self {
        Relay::of("capture", Kind::Capture(capture.clone()))
    }

    /// A relay over a transport of your own.
    pub fn custom(name: &str, transport: Arc<dyn Transport>) -> Self {
        Relay::of(name, Kind::Custom(transport))
    }

    fn of(name: &str, kind: Kind) -> Self {
        Relay { name: name.to_owned(), kind, connections: 16, rate: None, idle_timeout: seconds(60) }
    }

    /// What routes, metrics and the command line call it.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// How many connections it may have at once; 16 unless said. With two or more, one is kept for critical mail.
    pub fn connections(mut self, connections: usize) -> Self {
        self.connections = connections;
        self
    }

    /// How fast it may be used; without limit unless said.
    pub fn rate(mut self, rate: Rate) -> Self {
        self.rate = Some(rate);
        self
    }

    /// How long an unused connection stays open; 60 s unless said.
    pub fn idle_timeout(mut self, span: Duration) -> Self {
        self.idle_timeout = span;
        self
    }

    /// Close a connection after so many mails; 1000 unless said.
    pub fn messages_per_connection(self, count: u32) -> Self {
        self.server(|server| server.messages_per_connection = count)
    }

    /// How long each step may take.
    pub fn timeouts(self, timeouts: TimeOuts) -> Self {
        self.server(|server| server.timeouts = timeouts)
    }

    /// A PEM file with the certificate authority to trust instead of the public ones.
    pub fn ca_file(self, path: impl Into<PathBuf>) -> Self {
        self.server(|server| server.ca_file = Some(path.into()))
    }

    /// What we call ourselves in EHLO.
    pub fn client_name(self, name: impl Into<String>) -> Self {
        self.server(|server| server.client_name = Some(name.into()))
    }

    /// How we log in.
    pub fn auth(self, auth: Auth) -> Self {
        self.server(|server| server.auth = Some(auth))
    }

    fn server(mut self, change: impl FnOnce(&mut Server)) -> Self {
        if let Kind::Smtp(server) = &mut self.kind {
            change(server);
        }
        self
    }

    /// Whether everything about it can be used.
    ///
    /// # Errors
    /// Names what cannot.
    pub fn validate(&self) -> Result<(), RelayError> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if !(1..=64).contains(&self.name.len()) || !self.name.chars().all(allowed) {
            return Err(RelayError::Name(self.name.clone()));
        }
        if !(1..=1024).contains(&self.connections) {
            return Err(RelayError::Range(format!("connections are {}, and must be 1 to 1024", self.connections)));
        }
        if let Kind::Smtp(server) = &self.kind {
            if server.messages_per_connection == 0 {
                return Err(RelayError::Range("messages_per_connection is 0, and must be at least 1".into()));
            }
            Smtp::new(server.clone())?;
        }
        Ok(())
    }

    /// What sends its mail.
    ///
    /// # Errors
    /// As [`Relay::validate`], for what only the making of it shows: the `ca_file` and the names.
    pub(crate) fn transport(&self) -> Result<Arc<dyn Transport>, RelayError> {
        Ok(match &self.kind {
            Kind::Smtp(server) => Arc::new(Smtp::new(server.clone())?),
            Kind::Capture(capture) => Arc::new(capture.clone()),
            Kind::Custom(transport) => transport.clone(),
        })
    }
}

impl fmt::Debug for Relay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Relay");
        shown.field("name", &self.name);
        if let Kind::Smtp(server) = &self.kind {
            shown.field("server", server);
        }
        shown.field("connections", &self.connections).finish()
    }
}

fn percent_decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first == b'%' && tail.len() >= 2 {
            let hex = std::str::from_utf8(&tail[..2]).ok()?;
            bytes.push(u8::from_str_radix(hex, 16).ok()?);
            rest = &tail[2..];
        } else {
            bytes.push(*first);
        }
    }
    String::from_utf8(bytes).ok()
}

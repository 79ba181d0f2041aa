//! The listener's settings: address, tokens, TLS, and limits.

use std::net::SocketAddr;
use std::time::Duration;

use secrecy::ExposeSecret;
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

use super::token::{MAX_SECRET, Token};
use crate::ingress::tls::{self, TlsError};
use crate::ingress::{Networks, TlsFiles, limits};

/// The settings of the HTTP listener.
#[derive(Clone, Debug)]
pub struct HttpSettings {
    /// The address to listen on; port 0 selects a free one.
    pub listen: SocketAddr,
    /// The tokens. None are permitted only on loopback and for trusted networks; every program
    /// there may then do everything.
    pub tokens: Vec<Token>,
    /// The limits for clients.
    pub limits: Limits,
}

/// The limits for clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The most connections; a further one is refused with the advice to come back later.
    pub connections: usize,
    /// The most connections from one address (for IPv6, one /64 network); at most three quarters of
    /// all.
    pub connections_per_peer: usize,
    /// The number of wrong tokens after which an address is banned for `ban_time`; 0 for never.
    pub ban_after: u32,
    /// How long an address is banned that presented too many wrong tokens.
    pub ban_time: Duration,
    /// How long a request's head may take to arrive, and a connection may stay idle.
    pub header_timeout: Duration,
    /// How long a request's body may take to arrive.
    pub body_timeout: Duration,
    /// How long an answer may take from the request's head on, the body's arrival included.
    pub answer_timeout: Duration,
    /// How long a client may stop reading an answer.
    pub write_timeout: Duration,
    /// How long requests that have begun may continue at a shutdown.
    pub drain_timeout: Duration,
    /// The most bytes that the bodies of all requests together take; the same again for answers.
    pub held_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connections: 8192,
            connections_per_peer: 1024,
            ban_after: 20,
            ban_time: Duration::from_secs(600),
            header_timeout: Duration::from_secs(30),
            body_timeout: Duration::from_secs(60),
            answer_timeout: Duration::from_secs(90),
            write_timeout: Duration::from_secs(30),
            drain_timeout: Duration::from_secs(10),
            held_bytes: 256 * 1024 * 1024,
        }
    }
}

/// TLS and trusted networks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Security {
    /// The certificate; with one, the listener speaks only TLS.
    pub tls: Option<TlsFiles>,
    /// Networks whose programs need no token and may do everything. With such a list and no tokens,
    /// nobody else is served.
    pub trusted_networks: Networks,
}

impl Security {
    pub(super) fn acceptor(&self) -> Result<Option<TlsAcceptor>, HttpError> {
        acceptor(self.tls.as_ref())
    }
}

pub(super) fn acceptor(files: Option<&TlsFiles>) -> Result<Option<TlsAcceptor>, HttpError> {
    Ok(files
        .map(|files| tls::acceptor(files, &[b"http/1.1"]))
        .transpose()?)
}

impl HttpSettings {
    /// All mistakes in these settings, those in the certificate's files included. Settings without
    /// one can be bound, if the address is free.
    pub fn mistakes(&self, security: &Security) -> Vec<HttpError> {
        let is_open = security.trusted_networks.is_empty();
        let mut mistakes = token_mistakes(self.listen, &self.tokens, is_open);
        mistakes.extend(self.limits.mistakes());
        mistakes.extend(security.acceptor().err());
        mistakes
    }
}

/// The mistakes in the tokens of a listener on `listen`. `is_open` means that clients outside
/// trusted networks are served without a token.
pub(super) fn token_mistakes(
    listen: SocketAddr,
    tokens: &[Token],
    is_open: bool,
) -> Vec<HttpError> {
    let mut mistakes = Vec::new();
    if is_open && tokens.is_empty() && !listen.ip().to_canonical().is_loopback() {
        mistakes.push(HttpError::OpenDoor(listen));
    }

    for (index, token) in tokens.iter().enumerate() {
        let secret = token.secret.expose_secret();
        let earlier = &tokens[..index];
        // It must fit into `Authorization: Bearer` (RFC 6750 §2.1).
        if !(1..=MAX_SECRET).contains(&secret.len())
            || !secret.bytes().all(|byte| byte.is_ascii_graphic())
        {
            mistakes.push(HttpError::BadToken(index, token.name.clone()));
        } else if let Some(twin) = earlier
            .iter()
            .position(|other| other.secret.expose_secret() == secret)
        {
            mistakes.push(HttpError::SameSecret(index, twin));
        }
        if token.name.is_empty() || earlier.iter().any(|other| other.name == token.name) {
            mistakes.push(HttpError::TokenName(index, token.name.clone()));
        }
    }

    mistakes
}

impl Limits {
    /// `held_bytes` as the permits of a semaphore.
    pub(super) fn permits(&self) -> usize {
        self.held_bytes.min(Semaphore::MAX_PERMITS)
    }

    fn mistakes(&self) -> impl Iterator<Item = HttpError> {
        let counts = [
            ("max_connections", self.connections),
            ("max_connections_per_peer", self.connections_per_peer),
        ];
        let others = [
            ("max_memory", self.held_bytes == 0),
            ("header_timeout", self.header_timeout.is_zero()),
            ("body_timeout", self.body_timeout.is_zero()),
            ("answer_timeout", self.answer_timeout.is_zero()),
        ];

        let mistakes = limits::mistakes(counts, others).into_iter();
        mistakes.map(|(key, reason)| HttpError::Limit(key, reason))
    }
}

/// Why the listener cannot be opened, or its tokens cannot be replaced. Each names the key of the
/// section `http` that must be corrected.
#[derive(Debug, thiserror::Error)]
#[error("{}", self.message())]
pub enum HttpError {
    /// Other machines could submit mail without a token.
    OpenDoor(SocketAddr),
    /// A secret that a header field cannot contain: the token's index, and its name.
    BadToken(usize, String),
    /// A token whose secret is that of an earlier one: both indices.
    SameSecret(usize, usize),
    /// A token without a name of its own: its index, and the name.
    TokenName(usize, String),
    /// A limit that is out of range: its key, and what is wrong.
    Limit(&'static str, &'static str),
    /// A certificate or key that cannot be used.
    Tls {
        /// Which of the two, `cert` or `key`.
        key: &'static str,
        /// What is wrong; names the file.
        reason: String,
    },
    /// The address cannot be bound.
    Listen {
        /// The address.
        listen: SocketAddr,
        /// Why not.
        error: std::io::Error,
    },
}

impl HttpError {
    /// The key that must be corrected, below `http`.
    pub fn key(&self) -> String {
        match self {
            HttpError::OpenDoor(_) => "tokens".to_owned(),
            HttpError::BadToken(index, _) | HttpError::SameSecret(index, _) => {
                format!("tokens[{index}]")
            }
            HttpError::TokenName(index, _) => format!("tokens[{index}].name"),
            HttpError::Limit(key, _) => (*key).to_owned(),
            HttpError::Tls { key, .. } => format!("tls.{key}"),
            HttpError::Listen { .. } => "listen".to_owned(),
        }
    }

    /// What is wrong, and what to do.
    pub fn reason(&self) -> String {
        match self {
            HttpError::OpenDoor(listen) => format!(
                "is missing, and http.listen is not a loopback address ({listen}): everybody could \
                 send mail; add a token, name trusted_networks, or listen on 127.0.0.1"
            ),
            HttpError::BadToken(_, name) => format!(
                "has a token that no header can carry (`{}`): 1 to {MAX_SECRET} visible ASCII \
                 characters, no spaces",
                name.escape_debug()
            ),
            HttpError::SameSecret(_, twin) => format!(
                "has the secret of tokens[{twin}], so that nobody could tell them apart; give each \
                 its own"
            ),
            HttpError::TokenName(_, name) if name.is_empty() => "is missing".to_owned(),
            HttpError::TokenName(_, name) => {
                let name = name.escape_debug();
                format!("`{name}` is there twice; give each its own")
            }
            HttpError::Limit(_, reason) => (*reason).to_owned(),
            HttpError::Tls { reason, .. } => reason.clone(),
            HttpError::Listen { listen, error } => {
                format!("cannot listen on `http.listen` = {listen}: {error}")
            }
        }
    }

    fn message(&self) -> String {
        match self {
            HttpError::Listen { .. } => self.reason(),
            _ => format!("`http.{}` {}", self.key(), self.reason()),
        }
    }
}

impl From<TlsError> for HttpError {
    fn from(TlsError { key, reason }: TlsError) -> Self {
        HttpError::Tls { key, reason }
    }
}

//! `[http]`: the HTTP door.

use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use super::mistake::Report;
use super::units::bytes;
use super::{Listen, secret, units};
use crate::ingress::http::{self, HttpSettings, Scope};

/// The HTTP door.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Http {
    /// Where it listens.
    pub listen: Listen,
    /// Who may come in; nobody need show a token where there is none.
    pub tokens: Vec<Token>,
    /// The most connections at once.
    pub max_connections: usize,
    /// The most that the bodies of all requests together take.
    #[serde(deserialize_with = "units::size")]
    pub max_memory: ByteSize,
    /// How long a request's head may take to arrive, and a connection may stay idle.
    #[serde(deserialize_with = "units::duration")]
    pub header_timeout: Duration,
    /// How long a request's body may take to arrive.
    #[serde(deserialize_with = "units::duration")]
    pub body_timeout: Duration,
    /// How long an answer may take, the body's arrival included.
    #[serde(deserialize_with = "units::duration")]
    pub answer_timeout: Duration,
}

/// Somebody who may come in.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Token {
    /// Whose it is, for logs.
    pub name: String,
    /// The token.
    pub token: Option<SecretString>,
    /// The file that it is in.
    pub token_file: Option<PathBuf>,
    /// What it allows.
    pub scope: Scope,
}

impl Default for Token {
    fn default() -> Self {
        Token {
            name: String::new(),
            token: None,
            token_file: None,
            scope: Scope::Send,
        }
    }
}

impl Default for Http {
    fn default() -> Self {
        let http::Limits {
            connections,
            header_timeout,
            body_timeout,
            answer_timeout,
            held_bytes,
            ..
        } = Default::default();
        Http {
            listen: Listen::At(([127, 0, 0, 1], 8025).into()),
            tokens: Vec::new(),
            max_connections: connections,
            max_memory: ByteSize::b(held_bytes as u64),
            header_timeout,
            body_timeout,
            answer_timeout,
        }
    }
}

impl Http {
    /// What the door is made from, if it is to be opened; when it closes, requests may go on for
    /// `drain`.
    pub fn door(&self, drain: Duration) -> Option<HttpSettings> {
        let listen = self.listen.address()?;
        let limits = http::Limits {
            connections: self.max_connections,
            header_timeout: self.header_timeout,
            body_timeout: self.body_timeout,
            answer_timeout: self.answer_timeout,
            held_bytes: bytes(self.max_memory),
            drain_timeout: drain,
            ..http::Limits::default()
        };
        Some(HttpSettings {
            listen,
            tokens: self.tokens(),
            limits,
        })
    }

    /// Who may come in.
    pub fn tokens(&self) -> Vec<http::Token> {
        let door_token = |token: &Token| {
            let secret = token.token.clone()?;
            Some(http::Token {
                name: token.name.clone(),
                secret,
                scope: token.scope,
            })
        };
        self.tokens.iter().filter_map(door_token).collect()
    }

    pub(super) fn check(&mut self, report: &mut Report<'_>) {
        if self.tokens.is_empty() && !self.listen.is_private() {
            report.add(
                "http.tokens",
                "is missing, and http.listen is not a loopback address: everybody could send mail; add a token, or \
                 listen on 127.0.0.1",
            );
        }
        for (key, is_zero) in [
            ("max_connections", self.max_connections == 0),
            ("max_memory", self.max_memory.as_u64() == 0),
            ("header_timeout", self.header_timeout.is_zero()),
            ("body_timeout", self.body_timeout.is_zero()),
            ("answer_timeout", self.answer_timeout.is_zero()),
        ] {
            if is_zero {
                report.add(
                    format!("http.{key}"),
                    "is zero, so that nobody could come in",
                );
            }
        }
        for n in 0..self.tokens.len() {
            let at = format!("http.tokens[{n}]");
            let (earlier, rest) = self.tokens.split_at_mut(n);
            let token = &mut rest[0];
            secret::settle(
                &mut token.token,
                token.token_file.as_deref(),
                (&at, "token"),
                report,
            );
            match &token.token {
                None => report.add(format!("{at}.token_file"), "is missing; or add `token`"),
                Some(secret) if !can_be_sent(secret) => {
                    report
                        .add(&at, "has a token that no header can carry: 1 to 256 visible ASCII characters, no spaces");
                }
                Some(_) => {}
            }
            check_name(
                &token.name,
                earlier.iter().map(|other| other.name.as_str()),
                &at,
                report,
            );
        }
    }
}

/// Whether `Authorization: Bearer` can carry it (RFC 6750 §2.1).
fn can_be_sent(token: &SecretString) -> bool {
    let token = token.expose_secret();
    (1..=256).contains(&token.len()) && token.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Whether somebody who may come in has a name of their own.
pub(super) fn check_name<'a>(
    name: &str,
    mut earlier: impl Iterator<Item = &'a str>,
    at: &str,
    report: &mut Report<'_>,
) {
    if name.is_empty() {
        report.add(format!("{at}.name"), "is missing");
    } else if earlier.any(|other| other == name) {
        report.add(
            format!("{at}.name"),
            format!(
                "`{}` is there twice; give each its own",
                name.escape_debug()
            ),
        );
    }
}

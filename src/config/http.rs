//! `[http]`: the HTTP listener.

use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use ipnet::IpNet;
use secrecy::SecretString;
use serde::Deserialize;

use super::mistake::MistakeReport;
use super::quota::QuotaSettings;
use super::units::bytes;
use super::{Listen, Tls, secret, units};
use crate::ingress::http::{self, HttpSettings, Scope, Security};
use crate::ingress::{Networks, TlsFiles};
use crate::mail::Submitter;
use crate::policy::{Quota, Rate};

/// The HTTP listener.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Http {
    /// The address that it listens on.
    pub listen: Listen,
    /// Whether it serves the page for browsers at `/`.
    pub page: bool,
    /// The clients' tokens. If there is none, no token is needed.
    pub tokens: Vec<Token>,
    /// Networks whose programs need no token.
    #[serde(deserialize_with = "units::networks")]
    pub trusted_networks: Vec<IpNet>,
    /// The certificate for TLS; without it, the listener speaks plain HTTP.
    pub tls: Option<Tls>,
    /// The most connections at once.
    pub max_connections: usize,
    /// The most connections at once from one address.
    pub max_connections_per_peer: usize,
    /// After how many wrong tokens an address is refused for [`Self::ban_time`]; 0 for never.
    pub ban_after: u32,
    /// How long such an address is refused.
    #[serde(deserialize_with = "units::duration")]
    pub ban_time: Duration,
    /// The most memory for the bodies of all requests together, and as much for answers.
    #[serde(deserialize_with = "units::size")]
    pub max_memory: ByteSize,
    /// How long a request's head may take to arrive, and a connection may stay idle.
    #[serde(deserialize_with = "units::duration")]
    pub header_timeout: Duration,
    /// How long a request's body may take to arrive.
    #[serde(deserialize_with = "units::duration")]
    pub body_timeout: Duration,
    /// How long a request may take until its answer, the arrival of its body included.
    #[serde(deserialize_with = "units::duration")]
    pub answer_timeout: Duration,
}

/// A client's token.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Token {
    /// Its name, for logs.
    pub name: String,
    /// The token.
    pub token: Option<SecretString>,
    /// The file with the token.
    pub token_file: Option<PathBuf>,
    /// What it permits.
    pub scope: Scope,
    /// How many of its deliveries may be pending.
    pub max_pending: Option<u64>,
    /// How many mails it may submit per time.
    #[serde(deserialize_with = "units::rate")]
    pub rate: Option<Rate>,
    /// How many recipients its mails may have on one day.
    pub max_per_day: Option<u64>,
    /// The addresses and domains that it may send from; all when absent.
    pub from: Option<Vec<String>>,
    /// How long after it is submitted a mail may be sent.
    #[serde(deserialize_with = "units::duration")]
    pub max_delay: Duration,
    /// How long after that time a mail may expire.
    #[serde(deserialize_with = "units::duration")]
    pub max_lifetime: Duration,
}

impl Token {
    /// Its quota as it is in the file.
    fn asked(&self) -> QuotaSettings<'_> {
        QuotaSettings {
            max_pending: self.max_pending,
            rate: self.rate,
            max_per_day: self.max_per_day,
            from: self.from.as_deref(),
            max_delay: self.max_delay,
            max_lifetime: self.max_lifetime,
        }
    }
}

impl Default for Token {
    fn default() -> Self {
        let quota = Quota::default();
        Token {
            name: String::new(),
            token: None,
            token_file: None,
            scope: Scope::Send,
            max_pending: None,
            rate: None,
            max_per_day: None,
            from: None,
            max_delay: quota.max_delay,
            max_lifetime: quota.max_lifetime,
        }
    }
}

impl Default for Http {
    fn default() -> Self {
        let http::Limits {
            connections,
            connections_per_peer,
            ban_after,
            ban_time,
            header_timeout,
            body_timeout,
            answer_timeout,
            held_bytes,
            ..
        } = Default::default();

        Http {
            listen: Listen::At(([127, 0, 0, 1], 8025).into()),
            page: true,
            tokens: Vec::new(),
            trusted_networks: Vec::new(),
            tls: None,
            max_connections: connections,
            max_connections_per_peer: connections_per_peer,
            ban_after,
            ban_time,
            max_memory: ByteSize::b(held_bytes as u64),
            header_timeout,
            body_timeout,
            answer_timeout,
        }
    }
}

impl Http {
    /// The settings of the listener; `None` if it is off. When it closes, requests may go on for
    /// `drain`.
    pub fn door(&self, drain: Duration) -> Option<HttpSettings> {
        let listen = self.listen.address()?;
        let limits = http::Limits {
            connections: self.max_connections,
            connections_per_peer: self.max_connections_per_peer,
            ban_after: self.ban_after,
            ban_time: self.ban_time,
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

    /// The listener's settings of security besides the tokens.
    pub fn security(&self) -> Security {
        Security {
            tls: self.certificate(),
            trusted_networks: Networks::new(self.trusted_networks.clone()),
        }
    }

    /// The certificate for TLS.
    pub fn certificate(&self) -> Option<TlsFiles> {
        self.tls.as_ref().map(Tls::files)
    }

    /// The tokens, with their secrets.
    pub fn tokens(&self) -> Vec<http::Token> {
        let door_token = |token: &Token| http::Token {
            name: token.name.clone(),
            secret: token.token.clone().unwrap_or_default(),
            scope: token.scope,
        };
        self.tokens.iter().map(door_token).collect()
    }

    /// The quota of each token that may submit mail.
    pub fn quotas(&self) -> impl Iterator<Item = (Submitter, Quota)> {
        let senders = self
            .tokens
            .iter()
            .filter(|token| token.scope != Scope::Read);
        senders.map(|token| (Submitter::token(&token.name), token.asked().quota()))
    }

    /// Reads the secrets, and has the listener check the rest.
    pub(super) fn check(&mut self, report: &mut MistakeReport<'_>) {
        for (n, token) in self.tokens.iter_mut().enumerate() {
            let at = format!("http.tokens[{n}]");
            let file = token.token_file.as_deref();
            secret::settle(&mut token.token, file, (&at, "token"), report);
            token.asked().check(&at, report);
            if token.token.is_none() {
                report.add(format!("{at}.token_file"), "is missing; or add `token`");
            }
        }

        if let Some(tls) = &self.tls {
            secret::keep("http.tls.key", &tls.key, report);
        }

        // The settings of a listener that is off are checked too.
        let listen = Listen::At(([127, 0, 0, 1], 0).into());
        let mut asked = self.clone();
        if asked.listen == Listen::Off {
            asked.listen = listen;
        }

        let Some(door) = asked.door(Duration::ZERO) else {
            return;
        };
        for mistake in door.mistakes(&self.security()) {
            report.add(format!("http.{}", mistake.key()), mistake.reason());
        }
    }
}

//! `[[relays]]`: where mail is sent.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;
use serde::Deserialize;
use url::Url;

use super::mistake::MistakeReport;
use super::oauth2::OAuth2Settings;
use super::{engine, pem, secret, units};
use crate::mail::seconds;
use crate::policy::Rate;
use crate::transport::{self, RelayError};

/// Where mail is sent.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Relay {
    /// Its name for routes, metrics and the command line; the host's name when absent.
    pub name: Option<String>,
    /// Scheme, user, host and port.
    pub url: RelayUrl,
    /// The user's password.
    pub password: Option<SecretString>,
    /// The file with the password.
    pub password_file: Option<PathBuf>,
    /// A provider's key.
    pub api_key: Option<SecretString>,
    /// The file with the key.
    pub api_key_file: Option<PathBuf>,
    /// The id of the key that signs requests to SES.
    pub access_key_id: Option<String>,
    /// The key that signs requests to SES.
    pub secret_access_key: Option<SecretString>,
    /// The file with this key.
    pub secret_access_key_file: Option<PathBuf>,
    /// A provider's address, instead of its own.
    pub endpoint: Option<String>,
    /// Where access tokens come from.
    pub oauth2: Option<OAuth2Settings>,
    /// Whether the password may be sent without TLS to a remote host.
    pub allow_plaintext_password: bool,
    /// The certificate authority to trust instead of the public ones.
    pub ca_file: Option<PathBuf>,
    /// The host's addresses, instead of those in DNS, each with a port if it is not the URL's.
    pub addresses: Vec<String>,
    /// The name to send in EHLO; this machine's name when absent.
    pub client_name: Option<String>,
    /// The most connections at once.
    pub connections: usize,
    /// Close a connection after this many mails.
    pub messages_per_connection: u32,
    /// Close a connection that has been idle for this long.
    #[serde(deserialize_with = "units::duration")]
    pub idle_timeout: Duration,
    /// The most mails per time; no limit when absent.
    #[serde(deserialize_with = "units::rate")]
    pub rate: Option<Rate>,
    /// How long each step may take.
    pub timeouts: TimeOuts,
}

/// A relay's URL, which may hold a password: shown without it.
#[derive(Clone, Default, Deserialize)]
#[serde(transparent)]
pub struct RelayUrl(String);

impl RelayUrl {
    /// The whole URL, with its password.
    pub(super) fn expose(&self) -> &str {
        &self.0
    }

    pub(crate) fn parsed(&self) -> Option<Url> {
        Url::parse(&self.0).ok()
    }
}

impl From<String> for RelayUrl {
    fn from(url: String) -> Self {
        RelayUrl(url)
    }
}

impl fmt::Display for RelayUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(mut url) = self.parsed() else {
            return f.write_str("(not a url)");
        };
        if url.password().is_some() && url.set_password(Some("***")).is_err() {
            return f.write_str("(not a url)");
        }
        write!(f, "{url}")
    }
}

impl fmt::Debug for RelayUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// How long each step of a connection may take (RFC 5321 §4.5.3.2).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TimeOuts {
    /// TCP connect, DNS included.
    #[serde(deserialize_with = "units::duration")]
    pub connect: Duration,
    /// The greeting, and EHLO.
    #[serde(deserialize_with = "units::duration")]
    pub greeting: Duration,
    /// STARTTLS and the TLS handshake.
    #[serde(deserialize_with = "units::duration")]
    pub tls: Duration,
    /// AUTH.
    #[serde(deserialize_with = "units::duration")]
    pub auth: Duration,
    /// MAIL, RCPT, RSET.
    #[serde(deserialize_with = "units::duration")]
    pub command: Duration,
    /// DATA.
    #[serde(deserialize_with = "units::duration")]
    pub data: Duration,
    /// Each part of the message that is written.
    #[serde(deserialize_with = "units::duration")]
    pub body: Duration,
    /// The answer to the final dot.
    #[serde(deserialize_with = "units::duration")]
    pub final_dot: Duration,
}

impl Default for TimeOuts {
    fn default() -> Self {
        let transport::TimeOuts {
            connect,
            greeting,
            tls,
            auth,
            command,
            data,
            body,
            final_dot,
        } = Default::default();

        TimeOuts {
            connect,
            greeting,
            tls,
            auth,
            command,
            data,
            body,
            final_dot,
        }
    }
}

impl TimeOuts {
    fn named(&self) -> [(&'static str, Duration); 8] {
        let TimeOuts {
            connect,
            greeting,
            tls,
            auth,
            command,
            data,
            body,
            final_dot,
        } = *self;

        [
            ("connect", connect),
            ("greeting", greeting),
            ("tls", tls),
            ("auth", auth),
            ("command", command),
            ("data", data),
            ("body", body),
            ("final_dot", final_dot),
        ]
    }
}

impl Default for Relay {
    fn default() -> Self {
        Relay {
            name: None,
            url: RelayUrl::default(),
            password: None,
            password_file: None,
            api_key: None,
            api_key_file: None,
            access_key_id: None,
            secret_access_key: None,
            secret_access_key_file: None,
            endpoint: None,
            oauth2: None,
            allow_plaintext_password: false,
            ca_file: None,
            addresses: Vec::new(),
            client_name: None,
            connections: 16,
            messages_per_connection: 1000,
            idle_timeout: seconds(60),
            rate: None,
            timeouts: TimeOuts::default(),
        }
    }
}

impl Relay {
    /// Its name, or else its host's.
    pub fn name(&self) -> String {
        engine::relay(self)
            .map(|relay| relay.name)
            .unwrap_or_else(|_| self.name.clone().unwrap_or_default())
    }

    fn check(&mut self, at: &str, report: &mut MistakeReport<'_>) {
        secret::settle(
            &mut self.password,
            self.password_file.as_deref(),
            (at, "password"),
            report,
        );

        secret::settle(
            &mut self.api_key,
            self.api_key_file.as_deref(),
            (at, "api_key"),
            report,
        );

        secret::settle(
            &mut self.secret_access_key,
            self.secret_access_key_file.as_deref(),
            (at, "secret_access_key"),
            report,
        );

        if let Some(oauth2) = &mut self.oauth2 {
            oauth2.check(&format!("{at}.oauth2"), report);
        }
        if let Some(path) = &self.ca_file {
            pem::check_certificates(path, format!("{at}.ca_file"), report);
        }
        self.check_url(at, report);

        if !(1..=1024).contains(&self.connections) {
            report.add(
                format!("{at}.connections"),
                format!("is {}, and must be 1 to 1024", self.connections),
            );
        }

        if self.messages_per_connection == 0 {
            report.add(
                format!("{at}.messages_per_connection"),
                "is 0, and must be at least 1",
            );
        }

        for (key, span) in self.timeouts.named() {
            if span.is_zero() {
                report.add(
                    format!("{at}.timeouts.{key}"),
                    "is zero, so that everything would be too late",
                );
            }
        }
    }

    fn check_url(&self, at: &str, report: &mut MistakeReport<'_>) {
        let key = format!("{at}.url");
        if self.url.expose().is_empty() {
            return report.add(
                key,
                "is missing; such as smtp+starttls://user@smtp.example.com:587, or capture://",
            );
        }

        match engine::relay(self).and_then(|relay| relay.validate()) {
            Err(RelayError::Url(reason)) => return report.add(key, reason),
            Err(error @ RelayError::Name(_)) => report.add(format!("{at}.name"), error),
            Err(RelayError::CaFile { path, reason }) => {
                report.add(
                    format!("{at}.ca_file"),
                    format!("{} {reason}", path.display()),
                );
            }
            Err(RelayError::ClientName(name)) => {
                let reason = format!(
                    "`{}` is neither a host's name nor an address",
                    name.escape_debug()
                );
                report.add(format!("{at}.client_name"), reason);
            }
            Err(RelayError::Address { address, reason }) => report.add(
                format!("{at}.addresses"),
                format!("has `{}`, which {reason}", address.escape_debug()),
            ),
            Err(error @ RelayError::Endpoint(_)) => report.add(format!("{at}.endpoint"), error),
            Err(RelayError::Credentials(reason)) => report.add(&key, reason),
            // Reported at its own key.
            Err(RelayError::Range(_) | RelayError::OAuth2(_)) | Ok(()) => {}
        }

        let Some(url) = self.url.parsed() else { return };
        if url.port() == Some(0) {
            report.add(&key, "has the port 0, at which nobody listens");
        }
        if url.scheme().ends_with("+api") {
            return;
        }

        if url.scheme() == "smtp"
            && !url.username().is_empty()
            && !is_near(&url)
            && !self.allow_plaintext_password
        {
            report.add(
                &key,
                "would send the password over the network in the clear; use smtp+starttls:// or \
                 smtps://, or set allow_plaintext_password = true where the way there is secured",
            );
        }

        let (user, inside) = (!url.username().is_empty(), url.password().is_some());
        if user && !inside && self.password.is_none() && self.oauth2.is_none() {
            report.add(
                format!("{at}.password_file"),
                "is missing, and the url names a user; or add `password`",
            );
        }

        if !user && self.password.is_some() {
            report.add(
                key,
                "names no user for the password, such as smtps://user@smtp.example.com",
            );
        } else if inside && self.password.is_some() {
            report.add(
                key,
                "has a password, and another one is given beside it; keep one of them",
            );
        }
    }
}

/// Whether the host is this machine or in a private network, as far as its address or name shows: a
/// name that the public DNS cannot have.
fn is_near(url: &Url) -> bool {
    // The url crate parses hosts of schemes it does not know as opaque text.
    let host = url.host_str().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');

    match host.parse::<IpAddr>().map(|ip| ip.to_canonical()) {
        Ok(IpAddr::V4(ip)) => ip.is_loopback() || ip.is_private() || ip.is_link_local(),
        Ok(IpAddr::V6(ip)) => {
            ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local()
        }
        Err(_) => match host.trim_end_matches('.').rsplit_once('.') {
            None => true,
            Some((_, last)) => ["localhost", "local", "internal", "lan", "test"]
                .iter()
                .any(|private| last.eq_ignore_ascii_case(private)),
        },
    }
}

pub(super) fn check(relays: &mut [Relay], report: &mut MistakeReport<'_>) {
    if relays.is_empty() {
        report.add(
            "relays",
            "is missing, so that mail could go nowhere; add one [[relays]] with a `url` \
             (capture:// sends nothing)",
        );
    }

    let mut names: Vec<String> = Vec::new();
    for (n, relay) in relays.iter_mut().enumerate() {
        let at = format!("relays[{n}]");
        relay.check(&at, report);
        let name = relay.name();
        if let Some(first) = names
            .iter()
            .position(|earlier| *earlier == name && !name.is_empty())
        {
            report.add(
                format!("{at}.name"),
                format!("`{name}` is the name of relays[{first}] too; give each its own"),
            );
        }
        names.push(name);
    }
}

//! `[[webhooks]]`: endpoints to which events are reported.

use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;
use serde::Deserialize;
use url::Url;

use super::mistake::MistakeReport;
use super::{pem, secret, units};
use crate::notify::{self, Filter};

/// An endpoint to which events are reported.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Webhook {
    /// Its name; its position in the journal is kept under it.
    pub name: String,
    /// Where its messages are sent.
    pub url: WebhookUrl,
    /// The secret that signs them.
    pub secret: Option<SecretString>,
    /// The file with the secret.
    pub secret_file: Option<PathBuf>,
    /// The events to report.
    pub events: Vec<String>,
    /// Only events of mail that has one of these tags; if empty, of all mail.
    pub tags: Vec<String>,
    /// Whether the address may be a private one.
    pub allow_private: bool,
    /// The certificate authority to trust instead of the public ones.
    pub ca_file: Option<PathBuf>,
    /// How long a call may take.
    #[serde(deserialize_with = "units::duration")]
    pub timeout: Duration,
    /// The most calls at once.
    pub connections: usize,
    /// The delays before a message that failed is sent again.
    #[serde(deserialize_with = "units::durations")]
    pub retry: Vec<Duration>,
    /// How long a failed message is sent again; after this long without a success, the webhook is
    /// switched off.
    #[serde(deserialize_with = "units::duration")]
    pub give_up_after: Duration,
}

/// A webhook's URL, which may hold a secret: shown without it.
#[derive(Clone, Default, Deserialize)]
#[serde(transparent)]
pub struct WebhookUrl(String);

impl std::fmt::Debug for WebhookUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let host = Url::parse(&self.0).ok();
        let host = host.as_ref().and_then(Url::host_str).unwrap_or("(no host)");
        // A hash, so that two URLs that differ only in their secrets are shown differently.
        let told_apart = twox_hash::XxHash3_64::oneshot(self.0.as_bytes());
        write!(f, "{host} {told_apart:x}")
    }
}

impl Default for Webhook {
    fn default() -> Self {
        let usual = notify::Webhook::new("", "", "");
        Webhook {
            name: String::new(),
            url: WebhookUrl::default(),
            secret: None,
            secret_file: None,
            events: usual.filter.events,
            tags: Vec::new(),
            allow_private: false,
            ca_file: None,
            timeout: usual.timeout,
            connections: usual.connections,
            retry: usual.retry,
            give_up_after: usual.give_up_after,
        }
    }
}

impl Webhook {
    /// The webhook that [`Notices`](notify::Notices) runs.
    fn endpoint(&self) -> notify::Webhook {
        let secret = self.secret.clone().unwrap_or_default();
        notify::Webhook {
            filter: Filter {
                events: self.events.clone(),
                tags: self.tags.clone(),
            },
            allow_private: self.allow_private,
            ca_file: self.ca_file.clone(),
            timeout: self.timeout,
            connections: self.connections,
            retry: self.retry.clone(),
            give_up_after: self.give_up_after,
            ..notify::Webhook::new(&self.name, &self.url.0, secret)
        }
    }

    fn check(&mut self, at: &str, report: &mut MistakeReport<'_>) {
        let file = self.secret_file.as_deref();
        secret::settle(&mut self.secret, file, (at, "secret"), report);
        if self.secret.is_none() {
            report.add(format!("{at}.secret_file"), "is missing; or add `secret`");
        }
        if let Some(path) = &self.ca_file {
            pem::check_certificates(path, format!("{at}.ca_file"), report);
        }

        for mistake in self.endpoint().mistakes() {
            let key = match mistake.key {
                "secret" if self.secret.is_none() => continue,
                "secret" if self.secret_file.is_some() => "secret_file",
                key => key,
            };
            report.add(format!("{at}.{key}"), mistake.reason);
        }

        if self.url.0.starts_with("http://") && !self.allow_private {
            let reason = "is not https: everybody on the way can read what is sent to it";
            report.warn(format!("{at}.url"), reason);
        }
    }
}

/// The webhooks that [`Notices`](notify::Notices) runs.
pub fn webhooks(webhooks: &[Webhook]) -> Vec<notify::Webhook> {
    webhooks.iter().map(Webhook::endpoint).collect()
}

pub(super) fn check(webhooks: &mut [Webhook], report: &mut MistakeReport<'_>) {
    for n in 0..webhooks.len() {
        let at = format!("webhooks[{n}]");
        webhooks[n].check(&at, report);
        let name = &webhooks[n].name;
        if webhooks[..n].iter().any(|earlier| earlier.name == *name) {
            let reason = format!("`{}` is the name of another", name.escape_debug());
            report.add(format!("{at}.name"), reason);
        }
    }
}

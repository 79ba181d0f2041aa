//! `[status]`: what an end user may see of a mail, without a token of the API.

use std::path::PathBuf;

use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use url::Url;

use super::mistake::MistakeReport;
use super::secret;
use crate::ingress::http::{MIN_STATUS_SECRET, StatusSettings};

/// What an end user may see of a mail: its status.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Status {
    /// Whether receipts carry the URL of the mail's status.
    pub enabled: bool,
    /// The secret that those URLs are made with.
    pub secret: Option<SecretString>,
    /// The file with the secret.
    pub secret_file: Option<PathBuf>,
    /// The public address of the HTTP listener; its own address when absent.
    pub base_url: Option<String>,
}

impl Status {
    /// The settings for the HTTP listener; `None` if this is not enabled.
    pub fn settings(&self) -> Option<StatusSettings> {
        let secret = self.secret.clone().filter(|_| self.enabled)?;
        Some(StatusSettings {
            secret,
            base_url: self.base_url.clone(),
        })
    }

    /// Whether the URLs or their contents differ under the other settings, so that a restart is
    /// needed.
    pub fn is_other_than(&self, other: &Status) -> bool {
        let secret = |status: &Status| {
            let secret = status.secret.as_ref();
            secret.map(|secret| secret.expose_secret().to_owned())
        };
        self.enabled != other.enabled
            || self.base_url != other.base_url
            || secret(self) != secret(other)
    }

    pub(super) fn check(&mut self, report: &mut MistakeReport<'_>) {
        let file = self.secret_file.as_deref();
        secret::settle(&mut self.secret, file, ("status", "secret"), report);
        match &self.secret {
            None if self.enabled && self.secret_file.is_none() => report.add(
                "status.secret_file",
                "is missing; make one with `head -c 32 /dev/urandom | base64`, or add `secret`",
            ),
            Some(secret) if secret.expose_secret().len() < MIN_STATUS_SECRET => report.add(
                "status.secret",
                format!(
                    "is shorter than {MIN_STATUS_SECRET} characters, so that it could be guessed"
                ),
            ),
            _ => {}
        }

        let is_base = |url: Url| {
            let is_web = matches!(url.scheme(), "http" | "https") && url.has_host();
            is_web && url.query().is_none() && url.fragment().is_none()
        };

        let base_url = self.base_url.as_deref();
        if base_url.is_some_and(|url| !url.parse().is_ok_and(is_base)) {
            let reason = "is not an address such as https://mail.example.com, without `?` and `#`";
            report.add("status.base_url", reason);
        }
    }
}

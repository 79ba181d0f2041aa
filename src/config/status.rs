//! `[status]`: what an end user may see of a mail, without a token of the API.

use std::path::PathBuf;

use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use url::Url;

use super::mistake::MistakeReport;
use super::secret;
use crate::ingress::http::{MIN_STATUS_SECRET, StatusSettings};

/// What an end user may see of a mail.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Status {
    /// Whether receipts carry an address at which the mail's status can be seen.
    pub enabled: bool,
    /// What those addresses are made with.
    pub secret: Option<SecretString>,
    /// The file that it is in.
    pub secret_file: Option<PathBuf>,
    /// Where the world reaches the HTTP door; the door's own address when absent.
    pub base_url: Option<String>,
}

impl Status {
    /// What the door is given, if end users may ask.
    pub fn settings(&self) -> Option<StatusSettings> {
        let secret = self.secret.clone().filter(|_| self.enabled)?;
        Some(StatusSettings {
            secret,
            base_url: self.base_url.clone(),
        })
    }

    /// Whether end users would be told something else, or elsewhere.
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

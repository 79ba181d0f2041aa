//! `[unsubscribe]`: the links by which recipients unsubscribe.

use std::path::PathBuf;

use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use super::mistake::MistakeReport;
use super::secret;
use crate::dispatch::Unsubscribing;

/// Where recipients unsubscribe.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Unsubscribe {
    /// The public address of the HTTP listener: links in mail begin with it.
    pub base_url: Option<String>,
    /// The file with the secret that signs links.
    pub secret_file: Option<PathBuf>,
    /// The secret itself, instead of a file.
    pub secret: Option<SecretString>,
}

impl Unsubscribe {
    /// The links as configured; `None` if the section is empty.
    ///
    /// # Errors
    /// The reason why the section cannot be used.
    pub fn unsubscribing(&self) -> Result<Option<Unsubscribing>, String> {
        match (&self.base_url, &self.secret) {
            (Some(base_url), Some(secret)) => {
                Unsubscribing::new(base_url, secret.expose_secret().as_bytes()).map(Some)
            }
            _ => Ok(None),
        }
    }

    pub(super) fn check(&mut self, report: &mut MistakeReport<'_>) {
        let file = self.secret_file.as_deref();
        secret::settle(&mut self.secret, file, ("unsubscribe", "secret"), report);

        match (&self.base_url, &self.secret) {
            (Some(_), None) if self.secret_file.is_none() => {
                report.add("unsubscribe.secret_file", "is missing beside base_url")
            }
            (None, Some(_)) => report.add("unsubscribe.base_url", "is missing beside the secret"),
            _ => {
                if let Err(reason) = self.unsubscribing() {
                    report.add("unsubscribe.base_url", reason);
                }
            }
        }
    }
}

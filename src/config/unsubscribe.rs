//! `[unsubscribe]`: the page on which recipients leave lists.

use std::path::PathBuf;

use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use super::mistake::MistakeReport;
use super::secret;
use crate::dispatch::Unsubscribing;

/// Where recipients leave lists.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Unsubscribe {
    /// How recipients reach the HTTP door: links in mail begin with it.
    pub base_url: Option<String>,
    /// The file that holds what links are signed with.
    pub secret_file: Option<PathBuf>,
    /// What links are signed with, instead of a file.
    pub secret: Option<SecretString>,
}

impl Unsubscribe {
    /// What it says, where it says anything.
    ///
    /// # Errors
    /// What is wrong with it.
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

//! `[bounces]`: the domain that bounces come back to.

use std::path::PathBuf;

use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use super::mistake::MistakeReport;
use super::secret;
use crate::dispatch::Returns;

/// Where mail comes back to.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Bounces {
    /// Return paths are addresses of this domain, one for each delivery; the SMTP door takes
    /// reports for it without a login.
    pub domain: Option<String>,
    /// The file that holds what return paths are signed with.
    pub secret_file: Option<PathBuf>,
    /// What return paths are signed with, instead of a file.
    pub secret: Option<SecretString>,
}

impl Bounces {
    /// What it says, where it says anything.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn returns(&self) -> Result<Option<Returns>, String> {
        match (&self.domain, &self.secret) {
            (Some(domain), Some(secret)) => {
                Returns::new(domain, secret.expose_secret().as_bytes()).map(Some)
            }
            _ => Ok(None),
        }
    }

    pub(super) fn check(&mut self, report: &mut MistakeReport<'_>) {
        let file = self.secret_file.as_deref();
        secret::settle(&mut self.secret, file, ("bounces", "secret"), report);

        match (&self.domain, &self.secret) {
            (Some(_), None) if self.secret_file.is_none() => {
                report.add("bounces.secret_file", "is missing beside the domain");
            }
            (None, Some(_)) => report.add("bounces.domain", "is missing beside the secret"),
            _ => {
                if let Err(reason) = self.returns() {
                    report.add("bounces.domain", reason);
                }
            }
        }
    }
}

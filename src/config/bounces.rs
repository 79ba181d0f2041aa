//! `[bounces]`: the domain of the return paths, to which bounces are sent.

use std::path::PathBuf;

use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use super::mistake::MistakeReport;
use super::secret;
use crate::dispatch::Returns;

/// The domain of the return paths.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Bounces {
    /// Return paths are addresses in this domain, one for each delivery; the SMTP listener accepts
    /// reports for it without a login.
    pub domain: Option<String>,
    /// The file with the secret that signs return paths.
    pub secret_file: Option<PathBuf>,
    /// The secret itself, instead of a file.
    pub secret: Option<SecretString>,
}

impl Bounces {
    /// The return paths as configured; `None` if the section is empty.
    ///
    /// # Errors
    /// The reason why the section cannot be used.
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

//! `[[dkim]]`: the keys that sign mail.

use std::path::PathBuf;
use std::sync::Arc;

use serde::Deserialize;

use super::mistake::MistakeReport;
use super::secret;
use crate::mail::Address;
use crate::transport::dkim::{Dkim, KeyError, Signer, SigningKey};

/// One key of one domain. Several keys of one domain sign together.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DkimKey {
    /// The authors' domain; the key also signs for those of its subdomains that have no key.
    pub domain: String,
    /// The name of the key in the domain's DNS, below `_domainkey`.
    pub selector: String,
    /// The private key, RSA or Ed25519, as PEM.
    pub key_file: PathBuf,
    /// Whether a message that already has a signature of this domain is left unsigned.
    pub skip_signed: bool,
}

impl DkimKey {
    fn check(&self, at: &str, report: &mut MistakeReport<'_>) {
        if Address::parse(&format!("x@{}", self.domain)).is_err() || !self.domain.is_ascii() {
            report.add(
                format!("{at}.domain"),
                format!(
                    "`{}` is not a domain such as example.com (an international one in its xn-- \
                     form)",
                    self.domain.escape_debug()
                ),
            );
        }

        let label = |part: &str| {
            !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        };
        if !self.selector.split('.').all(label) || self.selector.len() > 63 {
            report.add(
                format!("{at}.selector"),
                format!(
                    "`{}` must be letters, digits and hyphens, such as s1",
                    self.selector.escape_debug()
                ),
            );
        }

        if self.key_file.as_os_str().is_empty() {
            return report.add(
                format!("{at}.key_file"),
                "is missing; `postrider dkim generate` makes one",
            );
        }

        match SigningKey::read(&self.key_file) {
            Ok(_) => secret::keep(&format!("{at}.key_file"), &self.key_file, report),
            Err(error @ KeyError::File { .. }) => report.add(format!("{at}.key_file"), error),
            Err(error) => report.add(
                format!("{at}.key_file"),
                format!("{}: {error}", self.key_file.display()),
            ),
        }
    }
}

pub(super) fn check(keys: &[DkimKey], report: &mut MistakeReport<'_>) {
    for (n, key) in keys.iter().enumerate() {
        let at = format!("dkim[{n}]");
        key.check(&at, report);
        let first = keys[..n].iter().position(|earlier| {
            earlier.domain.eq_ignore_ascii_case(&key.domain) && earlier.selector == key.selector
        });
        if let Some(first) = first {
            report.add(
                format!("{at}.selector"),
                format!("is the selector of dkim[{first}] too; give each key its own"),
            );
        }
    }
}

/// Reads the keys.
pub(super) fn read(keys: &[DkimKey]) -> Result<Arc<Dkim>, KeyError> {
    let mut signers = Vec::new();
    for key in keys {
        signers.push(Signer {
            domain: key.domain.to_ascii_lowercase(),
            selector: key.selector.clone(),
            key: Arc::new(SigningKey::read(&key.key_file)?),
            skip_signed: key.skip_signed,
        });
    }
    Ok(Arc::new(Dkim::new(signers)))
}

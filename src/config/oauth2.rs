//! `[relays.oauth2]`: where a relay's access tokens come from.

use std::path::PathBuf;
use std::sync::Arc;

use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use super::mistake::MistakeReport;
use super::secret;
use crate::transport::RelayError;
use crate::transport::oauth2::{Grant, OAuth2, TokenRequest};

/// How an access token is requested.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GrantKind {
    /// By the application's own secret.
    #[default]
    ClientCredentials,
    /// By a refresh token that a user has consented to.
    RefreshToken,
    /// By an assertion that a service account's private key signs.
    ServiceAccount,
}

/// Access tokens for a relay.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OAuth2Settings {
    /// How an access token is requested.
    pub grant: GrantKind,
    /// The token endpoint.
    pub token_url: String,
    /// The client's id at that server.
    pub client_id: Option<String>,
    /// The client's secret.
    pub client_secret: Option<SecretString>,
    /// The file with the secret.
    pub client_secret_file: Option<PathBuf>,
    /// The scope of the token.
    pub scope: Option<String>,
    /// The file that the refresh token is in; a new one is written into it.
    pub refresh_token_file: Option<PathBuf>,
    /// A service account's key: Google's JSON file, or the private key as PEM.
    pub key_file: Option<PathBuf>,
    /// The user for whom a service account acts.
    pub subject: Option<String>,
}

/// Google's file for a service account.
#[derive(Deserialize)]
struct AccountFile {
    client_email: String,
    private_key: String,
}

impl OAuth2Settings {
    pub(super) fn check(&mut self, at: &str, report: &mut MistakeReport<'_>) {
        let file = self.client_secret_file.as_deref();
        secret::settle(&mut self.client_secret, file, (at, "client_secret"), report);
        for (key, file) in [
            ("refresh_token_file", &self.refresh_token_file),
            ("key_file", &self.key_file),
        ] {
            if let Some(file) = file {
                secret::keep(&format!("{at}.{key}"), file, report);
            }
        }

        match self.grant {
            GrantKind::ClientCredentials if self.client_id.is_none() => {
                report.add(format!("{at}.client_id"), "is missing");
            }
            GrantKind::RefreshToken if self.refresh_token_file.is_none() => {
                report.add(format!("{at}.refresh_token_file"), "is missing");
            }
            GrantKind::ServiceAccount if self.key_file.is_none() => {
                report.add(format!("{at}.key_file"), "is missing");
            }
            _ => match self.source(None) {
                Ok(_) | Err(RelayError::CaFile { .. }) => {}
                Err(RelayError::OAuth2(reason)) => report.add(at, reason),
                Err(error) => report.add(at, error),
            },
        }
    }

    /// The source of tokens.
    pub(super) fn source(&self, ca_file: Option<PathBuf>) -> Result<Arc<OAuth2>, RelayError> {
        let missing = |key: &str| RelayError::OAuth2(format!("{key} is missing"));
        let read = |path: &PathBuf| {
            std::fs::read_to_string(path)
                .map_err(|e| RelayError::OAuth2(format!("cannot read {}: {e}", path.display())))
        };

        let grant = match self.grant {
            GrantKind::ClientCredentials => Grant::ClientCredentials,
            GrantKind::RefreshToken => {
                let path = self.refresh_token_file.as_ref();
                let path = path.ok_or_else(|| missing("refresh_token_file"))?;
                Grant::RefreshToken {
                    token: SecretString::from(read(path)?.trim().to_owned()),
                    file: Some(path.clone()),
                }
            }
            GrantKind::ServiceAccount => {
                let path = self.key_file.as_ref().ok_or_else(|| missing("key_file"))?;
                let text = SecretString::from(read(path)?);
                let (issuer, key) = match serde_json::from_str(text.expose_secret()) {
                    Ok(AccountFile {
                        client_email,
                        private_key,
                    }) => (client_email, private_key.into()),
                    Err(_) => {
                        let issuer = self.client_id.clone();
                        (issuer.ok_or_else(|| missing("client_id"))?, text)
                    }
                };
                Grant::ServiceAccount {
                    issuer,
                    key,
                    subject: self.subject.clone(),
                }
            }
        };

        let request = TokenRequest {
            token_url: self.token_url.clone(),
            grant,
            client_id: self.client_id.clone(),
            client_secret: self.client_secret.clone(),
            scope: self.scope.clone(),
            ca_file,
        };

        OAuth2::new(request).map(Arc::new)
    }
}

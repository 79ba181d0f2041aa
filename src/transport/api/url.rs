//! A provider's relay as it is configured: which one, whose account, and where.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use secrecy::{ExposeSecret, SecretString};
use url::Url;

use super::brevo::Brevo;
use super::gmail::Gmail;
use super::graph::Graph;
use super::mailgun::Mailgun;
use super::postmark::Postmark;
use super::resend::Resend;
use super::sendgrid::SendGrid;
use super::ses::Ses;
use super::{Api, ProviderApi};
use crate::transport::oauth2::OAuth2;
use crate::transport::{RelayError, TimeOuts, Transport};

/// A provider that is reached over HTTPS.
#[derive(Clone)]
pub struct ApiServer {
    kind: Kind,
    /// The provider's address, instead of its own; for proxies and tests.
    pub endpoint: Option<String>,
    /// What proves who we are.
    pub credentials: Option<Credentials>,
    /// Where access tokens come from, for the providers that want them.
    pub token: Option<Arc<OAuth2>>,
    /// A PEM file with the certificate authority to trust instead of the public ones.
    pub ca_file: Option<PathBuf>,
    /// How long each step may take.
    pub timeouts: TimeOuts,
}

/// What proves who we are to a provider.
#[derive(Clone)]
pub enum Credentials {
    /// A key that is sent along.
    ApiKey(SecretString),
    /// A pair that signs (AWS).
    AccessKey {
        /// Names the key.
        id: String,
        /// The key.
        secret: SecretString,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Ses { region: String },
    Mailgun { domain: String, eu: bool },
    Graph { tenant: String, user: String },
    Gmail { user: String },
    Brevo,
    SendGrid { eu: bool },
    Postmark,
    Resend,
}

impl fmt::Debug for ApiServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiServer")
            .field("kind", &self.kind)
            .field("endpoint", &self.endpoint)
            .finish()
    }
}

impl ApiServer {
    /// Whether this is the scheme of such a relay.
    pub(in crate::transport) fn is_scheme(scheme: &str) -> bool {
        scheme.ends_with("+api")
    }

    /// A provider from its URL, such as `ses+api://eu-west-1`.
    pub(in crate::transport) fn from_url(url: &Url) -> Result<Self, RelayError> {
        let fail = |reason: String| RelayError::Url(reason);
        let host = url.host_str().unwrap_or_default();
        let needs = |what: &str, example: &str| match host {
            "" => Err(fail(format!("names no {what}; write {example}"))),
            host => Ok(host.to_owned()),
        };

        let eu = match url.query() {
            None => false,
            Some("region=eu") => true,
            Some("region=us") => false,
            Some(other) => {
                return Err(fail(format!(
                    "has `?{other}`, where only ?region=eu and ?region=us are known"
                )));
            }
        };

        if url.password().is_some() || url.port().is_some() {
            return Err(fail(
                "has a password or a port; the key goes into api_key_file, an address into endpoint"
                    .into(),
            ));
        }

        let kind = match url.scheme() {
            "ses+api" => Kind::Ses {
                region: needs("region", "ses+api://eu-west-1")?,
            },
            "mailgun+api" => Kind::Mailgun {
                domain: needs("domain", "mailgun+api://mg.example.com")?,
                eu,
            },
            "graph+api" => Kind::Graph {
                tenant: needs("tenant", "graph+api://TENANT/mail@example.com")?,
                user: match percent_encoding::percent_decode_str(url.path().trim_matches('/'))
                    .decode_utf8()
                {
                    Ok(user) if !user.is_empty() && !user.contains('/') => user.into_owned(),
                    _ => {
                        return Err(fail(
                            "names no user; write graph+api://TENANT/mail@example.com".into(),
                        ));
                    }
                },
            },
            "gmail+api" => Kind::Gmail {
                user: match (url.username(), host) {
                    (_, "") => {
                        return Err(fail(
                            "names no user; write gmail+api://mail@example.com".into(),
                        ));
                    }
                    ("", host) => host.to_owned(),
                    (user, host) => format!("{user}@{host}"),
                },
            },
            "brevo+api" => Kind::Brevo,
            "sendgrid+api" => Kind::SendGrid { eu },
            "postmark+api" => Kind::Postmark,
            "resend+api" => Kind::Resend,
            other => {
                return Err(fail(format!(
                    "has the scheme `{other}`; the providers are ses+api, mailgun+api, graph+api, \
                     gmail+api, brevo+api, sendgrid+api, postmark+api and resend+api"
                )));
            }
        };

        Ok(ApiServer {
            kind,
            endpoint: None,
            credentials: None,
            token: None,
            ca_file: None,
            timeouts: TimeOuts::default(),
        })
    }

    /// What the relay is called unless it has a name.
    pub(in crate::transport) fn name(&self) -> &'static str {
        match self.kind {
            Kind::Ses { .. } => "ses",
            Kind::Mailgun { .. } => "mailgun",
            Kind::Graph { .. } => "graph",
            Kind::Gmail { .. } => "gmail",
            Kind::Brevo => "brevo",
            Kind::SendGrid { .. } => "sendgrid",
            Kind::Postmark => "postmark",
            Kind::Resend => "resend",
        }
    }

    /// Whether the provider wants access tokens.
    pub fn wants_token(&self) -> bool {
        matches!(self.kind, Kind::Graph { .. } | Kind::Gmail { .. })
    }

    /// Whether the provider wants a pair of keys that signs.
    pub fn wants_access_key(&self) -> bool {
        matches!(self.kind, Kind::Ses { .. })
    }

    /// Whether it writes Date and Message-ID anew.
    pub(in crate::transport) fn is_ses(&self) -> bool {
        matches!(self.kind, Kind::Ses { .. })
    }

    /// Whether it takes the message as it is; the others build their own.
    pub(in crate::transport) fn takes_the_message(&self) -> bool {
        !matches!(
            self.kind,
            Kind::Brevo | Kind::SendGrid { .. } | Kind::Postmark | Kind::Resend
        )
    }

    /// The address below which its calls are, without a slash at its end.
    pub(super) fn base(&self) -> String {
        if let Some(endpoint) = &self.endpoint {
            return endpoint.trim_end_matches('/').to_owned();
        }

        match &self.kind {
            Kind::Ses { region } => format!("https://email.{region}.amazonaws.com"),
            Kind::Mailgun { eu: true, .. } => "https://api.eu.mailgun.net".into(),
            Kind::Mailgun { eu: false, .. } => "https://api.mailgun.net".into(),
            Kind::Graph { .. } => "https://graph.microsoft.com".into(),
            Kind::Gmail { .. } => "https://gmail.googleapis.com".into(),
            Kind::Brevo => "https://api.brevo.com".into(),
            Kind::SendGrid { eu: true } => "https://api.eu.sendgrid.com".into(),
            Kind::SendGrid { eu: false } => "https://api.sendgrid.com".into(),
            Kind::Postmark => "https://api.postmarkapp.com".into(),
            Kind::Resend => "https://api.resend.com".into(),
        }
    }

    /// What sends its mail.
    ///
    /// # Errors
    /// What is missing or cannot be used.
    pub(in crate::transport) fn transport(&self) -> Result<Arc<dyn Transport>, RelayError> {
        if let Some(endpoint) = &self.endpoint {
            let usable = Url::parse(endpoint)
                .is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
            if !usable {
                return Err(RelayError::Endpoint(endpoint.clone()));
            }
        }

        if self.wants_token() && self.token.is_none() {
            return Err(RelayError::Credentials(
                "needs [relays.oauth2], which says where access tokens come from".into(),
            ));
        }

        Ok(Arc::new(Api::new(self.clone())?))
    }

    pub(super) fn provider(&self) -> Result<Box<dyn ProviderApi>, RelayError> {
        Ok(match self.kind.clone() {
            Kind::Ses { region } => {
                let Some(Credentials::AccessKey { id, secret }) = self.credentials.clone() else {
                    return Err(RelayError::Credentials(
                        "needs access_key_id and secret_access_key_file".into(),
                    ));
                };
                Box::new(Ses::new(region, id, secret, self.base()))
            }
            Kind::Mailgun { domain, .. } => Box::new(Mailgun::new(domain, self.key()?)),
            Kind::Graph { user, .. } => Box::new(Graph::new(user)),
            Kind::Gmail { user } => Box::new(Gmail::new(user)),
            Kind::Brevo => Box::new(Brevo::new(self.key()?)),
            Kind::SendGrid { .. } => Box::new(SendGrid::new(self.key()?)),
            Kind::Postmark => Box::new(Postmark::new(self.key()?)),
            Kind::Resend => Box::new(Resend::new(self.key()?)),
        })
    }

    fn key(&self) -> Result<String, RelayError> {
        match &self.credentials {
            Some(Credentials::ApiKey(key)) => Ok(key.expose_secret().to_owned()),
            _ => Err(RelayError::Credentials("needs api_key_file".into())),
        }
    }

    /// The tenant whose directory the user is in, for a token endpoint's address.
    pub fn tenant(&self) -> Option<&str> {
        match &self.kind {
            Kind::Graph { tenant, .. } => Some(tenant),
            _ => None,
        }
    }
}

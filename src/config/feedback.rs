//! `[feedback]`: the providers whose events are accepted, and how they are authenticated.

use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use secrecy::SecretString;
use serde::Deserialize;

use super::mistake::MistakeReport;
use super::{secret, units};
use crate::ingress::Networks;
use crate::ingress::http::{Provider, ProviderSettings};

/// The providers whose events are accepted.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Feedback {
    /// Brevo.
    pub brevo: Option<ProviderSecret>,
    /// SendGrid.
    pub sendgrid: Option<SigningSecret>,
    /// Mailgun.
    pub mailgun: Option<SigningSecret>,
    /// Amazon SES.
    pub ses: Option<Ses>,
    /// Postmark.
    pub postmark: Option<ProviderSecret>,
    /// Resend.
    pub resend: Option<SigningSecret>,
}

/// A password or token that a provider sends with each request.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProviderSecret {
    /// The file with the password or token.
    pub secret_file: Option<PathBuf>,
    /// The secret itself, instead of a file.
    pub secret: Option<SecretString>,
    /// The networks that its requests must come from.
    pub networks: Vec<IpNet>,
}

/// The key that verifies a provider's signatures.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SigningSecret {
    /// The file with the key.
    pub secret_file: Option<PathBuf>,
    /// The secret itself, instead of a file.
    pub secret: Option<SecretString>,
    /// How old a signed request may be.
    #[serde(deserialize_with = "units::duration")]
    pub max_age: Duration,
}

impl Default for SigningSecret {
    fn default() -> Self {
        SigningSecret {
            secret_file: None,
            secret: None,
            max_age: ProviderSettings::new(Provider::Resend).max_age,
        }
    }
}

/// Amazon SES, whose events arrive through SNS.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ses {
    /// The SNS topics that bring the events.
    pub topics: Vec<String>,
    /// How old a signed request may be.
    #[serde(deserialize_with = "units::duration")]
    pub max_age: Duration,
}

impl Default for Ses {
    fn default() -> Self {
        Ses {
            topics: Vec::new(),
            max_age: ProviderSettings::new(Provider::Ses).max_age,
        }
    }
}

impl ProviderSecret {
    fn settings(&self, provider: Provider) -> ProviderSettings {
        ProviderSettings {
            secret: self.secret.clone(),
            networks: Networks::new(self.networks.clone()),
            ..ProviderSettings::new(provider)
        }
    }
}

impl SigningSecret {
    fn settings(&self, provider: Provider) -> ProviderSettings {
        ProviderSettings {
            secret: self.secret.clone(),
            max_age: self.max_age,
            ..ProviderSettings::new(provider)
        }
    }
}

impl Feedback {
    /// The providers' settings for the listener.
    pub fn providers(&self) -> Vec<ProviderSettings> {
        let shown = [
            (Provider::Brevo, &self.brevo),
            (Provider::Postmark, &self.postmark),
        ];
        let signed = [
            (Provider::Sendgrid, &self.sendgrid),
            (Provider::Mailgun, &self.mailgun),
            (Provider::Resend, &self.resend),
        ];
        let ses = self.ses.as_ref().map(|ses| ProviderSettings {
            topics: ses.topics.clone(),
            max_age: ses.max_age,
            ..ProviderSettings::new(Provider::Ses)
        });

        let shown = shown.into_iter();
        let shown = shown.filter_map(|(name, of)| Some(of.as_ref()?.settings(name)));
        let signed = signed.into_iter();
        let signed = signed.filter_map(|(name, of)| Some(of.as_ref()?.settings(name)));
        shown.chain(signed).chain(ses).collect()
    }

    pub(super) fn check(&mut self, report: &mut MistakeReport<'_>) {
        type Secret<'a> = (&'a mut Option<SecretString>, &'a Option<PathBuf>);
        let mut secrets: Vec<(Provider, Secret<'_>)> = Vec::new();
        for (provider, of) in [
            (Provider::Brevo, &mut self.brevo),
            (Provider::Postmark, &mut self.postmark),
        ] {
            let of = of.as_mut();
            secrets.extend(of.map(|of| (provider, (&mut of.secret, &of.secret_file))));
        }
        for (provider, of) in [
            (Provider::Sendgrid, &mut self.sendgrid),
            (Provider::Mailgun, &mut self.mailgun),
            (Provider::Resend, &mut self.resend),
        ] {
            let of = of.as_mut();
            secrets.extend(of.map(|of| (provider, (&mut of.secret, &of.secret_file))));
        }

        let mut files = Vec::new();
        for (provider, (secret, file)) in secrets {
            let at = format!("feedback.{}", provider.as_str());
            let file = file.as_deref();
            secret::settle(secret, file, (&at, "secret"), report);
            if file.is_some() {
                files.push((provider, secret.is_some()));
            }
        }

        for settings in self.providers() {
            let at = format!("feedback.{}", settings.provider.as_str());
            let file = files.iter().find(|(of, _)| *of == settings.provider);
            for (key, reason) in settings.mistakes() {
                let key = match (key, file) {
                    // That the file cannot be read was reported already.
                    ("secret_file", Some((_, false))) => continue,
                    ("secret", Some(_)) => "secret_file",
                    (key, _) => key,
                };
                report.add(format!("{at}.{key}"), reason);
            }
        }
    }
}

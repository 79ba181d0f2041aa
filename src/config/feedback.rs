//! `[feedback]`: the providers whose events are heard, and what these prove themselves with.

use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use secrecy::SecretString;
use serde::Deserialize;

use super::mistake::MistakeReport;
use super::{secret, units};
use crate::ingress::Networks;
use crate::ingress::http::{Provider, ProviderSettings};

/// The providers whose events are heard.
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

/// What a provider shows as it is.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProviderSecret {
    /// The file that its password or token is in.
    pub secret_file: Option<PathBuf>,
    /// Itself, instead of a file.
    pub secret: Option<SecretString>,
    /// The networks that its requests come from.
    pub networks: Vec<IpNet>,
}

/// What a provider signs with.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SigningSecret {
    /// The file that it is in.
    pub secret_file: Option<PathBuf>,
    /// Itself, instead of a file.
    pub secret: Option<SecretString>,
    /// How old what was signed may be.
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

/// Amazon SES, whose events come by SNS.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ses {
    /// The topics that bring them.
    pub topics: Vec<String>,
    /// How old what was signed may be.
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
    /// What the door is given.
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
                    // It was told that the file cannot be read.
                    ("secret_file", Some((_, false))) => continue,
                    ("secret", Some(_)) => "secret_file",
                    (key, _) => key,
                };
                report.add(format!("{at}.{key}"), reason);
            }
        }
    }
}

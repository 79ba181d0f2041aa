//! The service's settings: read from the file and the environment, checked, and turned into what
//! the engine and the listeners take.
//!
//! ```text
//! defaults < file < environment ─▶ layers (one tree) ─▶ read (Settings) ─▶ check (each section)
//!                                                  ─▶ engine (Builder, Reload)
//! ```
//!
//! Only the command line calls this; an embedding application uses
//! [`Dispatcher::builder`](crate::Dispatcher::builder).
//!
//! *Invariants:* settings that were loaded are valid as far as that can be checked without a
//! network; all mistakes are reported at once, each with its file or variable, its key and its
//! reason; no secret is ever shown.
//!
//! There is one file for each section, with its keys, their defaults, and its `check`.

mod alerts;
mod bounces;
mod client;
mod dkim;
mod engine;
mod feedback;
mod http;
mod journal;
mod layers;
mod listeners;
mod log;
mod machine;
mod mistake;
mod oauth2;
mod pem;
mod quota;
mod read;
mod relays;
mod retry;
mod routes;
mod schedules;
mod secret;
mod service;
mod shown_settings;
mod smtp;
mod spool;
mod status;
mod suppression;
mod templates;
mod units;
mod unsubscribe;
mod webhooks;

pub use alerts::{Alert, alerts};
pub use bounces::Bounces;
pub use client::ClientFile;
pub use dkim::DkimKey;
pub use engine::{builder, quotas, reload};
pub use feedback::{Feedback, ProviderSecret, Ses, SigningSecret};
pub use http::{Http, Token};
pub use journal::Journal;
pub use layers::{Sources, default_file};
pub use log::{Log, LogFormat};
pub use mistake::{Mistake, Mistakes};
pub use oauth2::{GrantKind, OAuth2Settings};
pub use relays::{Relay, RelayUrl, TimeOuts};
pub use retry::{Priorities, Retry};
pub use routes::{RelayMatch, Route};
pub use schedules::{Schedule, schedules};
pub use service::Service;
pub use smtp::{Smtp, Tls, User};
pub use spool::{Spool, Sync};
pub use status::Status;
pub use suppression::Suppression;
pub use templates::Templates;
pub use units::Listen;
pub use unsubscribe::Unsubscribe;
pub use webhooks::{Webhook, WebhookUrl, webhooks};

pub use crate::dispatch::OnSpoolFailure;
pub use crate::policy::Jitter;
pub use crate::spool::postgres::Migrate;

use std::fmt::Display;

use serde::Deserialize;

use layers::Origins;
use mistake::MistakeReport;
use shown_settings::ShownSettings;

/// The file that `postrider init` writes: every key with its default and a comment.
pub const TEMPLATE: &str = include_str!("../../config/postrider.toml");

/// All settings of the service.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The process as a whole.
    pub service: Service,
    /// Where accepted mail is stored.
    pub spool: Spool,
    /// How long events are kept.
    pub journal: Journal,
    /// Where mail is sent.
    pub relays: Vec<Relay>,
    /// The keys that sign mail.
    pub dkim: Vec<DkimKey>,
    /// Which mail takes which relays.
    pub routes: Vec<Route>,
    /// When deferred mail is attempted again.
    pub retry: Retry,
    /// The shares of the priorities.
    pub priorities: Priorities,
    /// The templates of mail.
    pub templates: Templates,
    /// The domain of the return paths.
    pub bounces: Bounces,
    /// The providers whose events are accepted.
    pub feedback: Feedback,
    /// Where recipients unsubscribe.
    pub unsubscribe: Unsubscribe,
    /// How long addresses are suppressed.
    pub suppression: Suppression,
    /// What an end user may see of a mail.
    pub status: Status,
    /// Webhooks: endpoints to which events are reported.
    pub webhooks: Vec<Webhook>,
    /// Alerts: events that are reported by mail.
    pub alerts: Vec<Alert>,
    /// Schedules: mail that is sent at set times.
    pub schedules: Vec<Schedule>,
    /// The HTTP listener.
    pub http: Http,
    /// The SMTP submission listener.
    pub smtp: Smtp,
    /// What is logged, and how.
    pub log: Log,
    /// Where each setting came from.
    #[serde(skip)]
    origins: Origins,
    /// The given settings, without secrets.
    #[serde(skip)]
    shown: ShownSettings,
    /// What works but should be corrected.
    #[serde(skip)]
    warnings: Vec<Mistake>,
}

impl Settings {
    /// Reads, merges and checks the settings. Files with secrets are read too, so that no file is
    /// needed afterwards, except those of certificates.
    ///
    /// # Errors
    /// All mistakes.
    pub fn load(sources: &Sources) -> Result<Self, Mistakes> {
        let layers = layers::gather(sources)?;
        let mut report = MistakeReport::new(&layers.origins);
        let mut settings = read::read(&layers, &mut report);
        settings.check(&mut report);
        settings.warnings = report.take_warnings();
        report.finish()?;
        settings.shown = ShownSettings::of(&layers.tree);
        settings.origins = layers.origins;
        Ok(settings)
    }

    /// Only the section `spool`, for commands that need nothing else: mistakes elsewhere are
    /// ignored.
    ///
    /// # Errors
    /// The mistakes in the file, or in the section `spool`.
    pub fn spool(sources: &Sources) -> Result<Spool, Mistakes> {
        let layers = layers::gather(sources)?;
        let mut report = MistakeReport::new(&layers.origins);
        let mut settings = read::read(&layers, &mut report);
        settings.spool.check(&mut report);
        report.only("spool").finish()?;
        Ok(settings.spool)
    }

    /// Only the section `templates`, for commands that need nothing else: mistakes elsewhere, and
    /// in the templates themselves, are ignored.
    ///
    /// # Errors
    /// The mistakes in the file, or in the section `templates`.
    pub fn templates(sources: &Sources) -> Result<Templates, Mistakes> {
        let layers = layers::gather(sources)?;
        let mut report = MistakeReport::new(&layers.origins);
        let settings = read::read(&layers, &mut report);
        report.only("templates").finish()?;
        Ok(settings.templates)
    }

    /// Whether this machine can do what the settings ask for, as far as that can be tried: the
    /// spool's directory can be created and written, and the listeners' addresses belong to this
    /// machine. `check` and `run` both ask.
    ///
    /// # Errors
    /// What it cannot do, each with the key of the setting.
    pub fn try_on_this_machine(&self) -> Result<(), Mistakes> {
        let mut report = MistakeReport::new(&self.origins);
        machine::check(self, &mut report);
        report.finish()
    }

    /// What works but should be corrected, such as secrets that everybody can read.
    pub fn warnings(&self) -> &[Mistake] {
        &self.warnings
    }

    /// The settings of the file and the environment, without any secret.
    pub fn given(&self) -> &serde_json::Value {
        self.shown.shown()
    }

    /// A mistake in this key that was found later, in the form of all others.
    pub fn mistake(&self, key: &str, reason: impl Display) -> Mistake {
        Mistake {
            source: self.origins.source_of(key),
            path: key.to_owned(),
            reason: reason.to_string(),
        }
    }

    fn check(&mut self, report: &mut MistakeReport<'_>) {
        self.service.check(report);
        self.spool.check(report);
        self.journal.check(report);
        relays::check(&mut self.relays, report);
        dkim::check(&self.dkim, report);
        routes::check(&self.routes, &self.relays, report);
        self.retry.check(report);
        self.priorities.check(report);
        self.templates.check(report);
        self.bounces.check(report);
        self.feedback.check(report);
        self.unsubscribe.check(report);
        self.suppression.check(report);
        self.status.check(report);
        webhooks::check(&mut self.webhooks, report);
        alerts::check(&self.alerts, report);
        schedules::check(&self.schedules, self.templates.usable(), report);
        self.http.check(report);
        self.smtp.check(report);
        listeners::check(self, report);
        self.log.check(report);

        for (key, memory) in [
            ("http.max_memory", self.http.max_memory),
            ("smtp.max_memory", self.smtp.max_memory),
        ] {
            if memory < self.spool.max_message_size {
                report.add(
                    key,
                    "is less than spool.max_message_size, so that the largest mails \
                     could not come in",
                );
            }
        }
    }
}

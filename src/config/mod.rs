//! The service's settings: what every part can be told, from where, and what is wrong with it.
//!
//! ```text
//! defaults < file < environment ─▶ layers (one tree) ─▶ read (Settings) ─▶ check (each section)
//!                                                  ─▶ engine (Builder, Reload)
//! ```
//!
//! Only the command line calls this; an embedding application uses
//! [`Dispatcher::builder`](crate::Dispatcher::builder).
//!
//! *Invariants made here:* settings that were loaded are valid in every part that can be judged
//! without a network; all mistakes are told at once, each with its file or variable, its key and
//! its reason; no secret is ever shown.
//!
//! One file a section: each has the section's keys with their defaults, and its `check`.

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
pub use retry::{Jitter, Priorities, Retry};
pub use routes::{RelayMatch, Route};
pub use schedules::{Schedule, schedules};
pub use service::Service;
pub use smtp::{Smtp, Tls, User};
pub use spool::{Migrate, OnSpoolFailure, Spool, Sync};
pub use status::Status;
pub use suppression::Suppression;
pub use templates::Templates;
pub use units::Listen;
pub use unsubscribe::Unsubscribe;
pub use webhooks::{Webhook, WebhookUrl, webhooks};

use std::fmt::Display;

use serde::Deserialize;

use layers::Origins;
use mistake::MistakeReport;
use shown_settings::ShownSettings;

/// The file that `postrider init` writes: every key with its default and a comment.
pub const TEMPLATE: &str = include_str!("../../config/postrider.toml");

/// Everything that the service can be told.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The process as a whole.
    pub service: Service,
    /// Where accepted mail is kept.
    pub spool: Spool,
    /// How long what happened is kept.
    pub journal: Journal,
    /// Where mail is sent.
    pub relays: Vec<Relay>,
    /// What mail is signed with.
    pub dkim: Vec<DkimKey>,
    /// Which mail takes which relays.
    pub routes: Vec<Route>,
    /// When deferred mail is tried again.
    pub retry: Retry,
    /// Whose turn it is.
    pub priorities: Priorities,
    /// What mail is made from.
    pub templates: Templates,
    /// Where mail comes back to.
    pub bounces: Bounces,
    /// The providers whose events are heard.
    pub feedback: Feedback,
    /// Where recipients leave lists.
    pub unsubscribe: Unsubscribe,
    /// Who is not to get mail, and how long.
    pub suppression: Suppression,
    /// What an end user may see of a mail.
    pub status: Status,
    /// Endpoints that are sent the events.
    pub webhooks: Vec<Webhook>,
    /// Digests of events, sent by mail.
    pub alerts: Vec<Alert>,
    /// Mail that is sent by the clock.
    pub schedules: Vec<Schedule>,
    /// The HTTP door.
    pub http: Http,
    /// The SMTP submission door.
    pub smtp: Smtp,
    /// What is logged, and how.
    pub log: Log,
    /// Who said what.
    #[serde(skip)]
    origins: Origins,
    /// What was set, without secrets.
    #[serde(skip)]
    shown: ShownSettings,
    /// What had better be mended.
    #[serde(skip)]
    warnings: Vec<Mistake>,
}

impl Settings {
    /// Reads, layers and checks the settings. Files that hold secrets are read, too: what was
    /// loaded needs no file any more, except certificates.
    ///
    /// # Errors
    /// Everything that is wrong.
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

    /// The section `spool`, for whoever wants nothing else: what is wrong elsewhere does not
    /// matter.
    ///
    /// # Errors
    /// What is wrong with the file, or with the section `spool`.
    pub fn spool(sources: &Sources) -> Result<Spool, Mistakes> {
        let layers = layers::gather(sources)?;
        let mut report = MistakeReport::new(&layers.origins);
        let mut settings = read::read(&layers, &mut report);
        settings.spool.check(&mut report);
        report.only("spool").finish()?;
        Ok(settings.spool)
    }

    /// Where the templates are, for whoever wants nothing else: what is wrong elsewhere does not
    /// matter, nor whether they are in order.
    ///
    /// # Errors
    /// What is wrong with the file, or with the section `templates`.
    pub fn templates(sources: &Sources) -> Result<Templates, Mistakes> {
        let layers = layers::gather(sources)?;
        let mut report = MistakeReport::new(&layers.origins);
        let settings = read::read(&layers, &mut report);
        report.only("templates").finish()?;
        Ok(settings.templates)
    }

    /// Whether this machine can do what the settings say, as far as that can be tried without
    /// doing it: the spool's directory can be made and written, and the doors' addresses are
    /// addresses of this machine. `check` and `run` both ask.
    ///
    /// # Errors
    /// Everything that it cannot do.
    pub fn try_on_this_machine(&self) -> Result<(), Mistakes> {
        let mut report = MistakeReport::new(&self.origins);
        machine::check(self, &mut report);
        report.finish()
    }

    /// What is no mistake and had better be mended, such as secrets that everybody can read.
    pub fn warnings(&self) -> &[Mistake] {
        &self.warnings
    }

    /// What the file and the environment set, without any secret.
    pub fn given(&self) -> &serde_json::Value {
        self.shown.shown()
    }

    /// What turned out to be wrong with this key, told as everything else is.
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

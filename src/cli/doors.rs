//! The listeners (*doors*) of the running service, with webhooks, alerts and schedules: opens them,
//! reloads their settings, and closes them together. `run` calls it.

use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{Failure, descriptors};
use crate::config::{self, Settings};
use crate::dispatch::Dispatcher;
use crate::ingress::http::{
    Certificate, Configuration, HttpDoor, HttpError, Providers, TokenTable, serve_outbox,
};
use crate::ingress::smtp::{Reloader, SmtpDoor, SmtpError};
use crate::notify::{Notices, WebhookError};

/// The open listeners.
pub(super) struct Doors {
    close: watch::Sender<bool>,
    open: JoinSet<()>,
    tokens: Option<TokenTable>,
    certificate: Option<Certificate>,
    configuration: Option<Configuration>,
    providers: Option<Providers>,
    users: Option<Reloader>,
    notices: Notices,
}

/// Listeners that have bound their addresses and accept nothing yet.
pub(super) struct BoundDoors {
    http: Option<HttpDoor>,
    smtp: Option<SmtpDoor>,
}

impl BoundDoors {
    /// Opens the listeners.
    pub(super) async fn open(
        self,
        dispatcher: &Dispatcher,
        settings: &Settings,
    ) -> Result<Doors, Failure> {
        let BoundDoors { http, smtp } = self;
        let (close, closing) = watch::channel(false);
        let users = smtp.as_ref().map(SmtpDoor::reloader);
        let tokens = http.as_ref().map(HttpDoor::tokens);
        let certificate = http.as_ref().map(HttpDoor::certificate);

        let configuration = http.as_ref().map(HttpDoor::configuration);
        if let Some(configuration) = &configuration {
            configuration.replace(settings.given().clone());
        }

        let providers = http.as_ref().map(HttpDoor::providers);
        if let Some(providers) = &providers {
            providers.replace(settings.feedback.providers());
        }

        let mut open = JoinSet::new();
        // Before any mail is accepted, so that no event is missed.
        let notices = Notices::of(dispatcher);
        set_notices(&notices, settings).await?;
        open.spawn(serve_outbox(dispatcher.clone(), closing.clone()));
        if let Some(door) = http {
            let door = door.with_notices(notices.clone());
            open.spawn(door.serve(dispatcher.clone(), closing.clone()));
        }

        if let Some(door) = smtp {
            tracing::info!(listen = %door.local_addr(), "SMTP door open");
            open.spawn(door.serve(dispatcher.clone(), closing));
        }

        Ok(Doors {
            close,
            open,
            tokens,
            certificate,
            configuration,
            providers,
            users,
            notices,
        })
    }
}

impl Doors {
    /// Binds the addresses of the configured listeners, for no more connections than `open_files`
    /// allows. All are bound before the first is opened.
    pub(super) async fn bind(
        settings: &Settings,
        open_files: Option<usize>,
    ) -> Result<BoundDoors, Failure> {
        let time_limit = time_limit(settings);
        let mut http = settings.http.door(time_limit);

        let mut smtp = settings
            .smtp
            .door(settings.spool.max_message_size, time_limit);
        if let Some(all) = open_files {
            let http = http.as_mut().map(|door| &mut door.limits);
            let smtp = smtp.as_mut().map(|door| &mut door.limits);
            descriptors::share(all, settings, http, smtp);
        }

        let http = match http {
            Some(door) => {
                let security = settings.http.security();
                let bound = HttpDoor::bind_secured(door, security).await;
                let mut door = bound.map_err(|error| http_failure(error, settings))?;
                if !settings.http.page {
                    door = door.without_page();
                }
                if let Some(status) = settings.status.settings() {
                    door = door.with_status(&status);
                }
                Some(door)
            }
            None => None,
        };

        let smtp = match smtp {
            Some(door) => {
                let bound = SmtpDoor::bind(door).await;
                Some(bound.map_err(|error| smtp_failure(error, settings))?)
            }
            None => None,
        };

        Ok(BoundDoors { http, smtp })
    }

    /// Applies new settings to webhooks, alerts and schedules.
    pub(super) async fn reload_notices(&self, settings: &Settings) -> Result<(), Failure> {
        set_notices(&self.notices, settings).await
    }

    /// Applies new tokens, users and certificates. After an error one listener may have the new
    /// settings and another the old ones: apply the old settings again.
    pub(super) fn reload(&self, settings: &Settings) -> Result<(), Failure> {
        if let Some(users) = &self.users {
            let (users_now, files) = (settings.smtp.users(), settings.smtp.certificate());
            let reloaded = users.reload(users_now, files);
            reloaded.map_err(|error| smtp_failure(error, settings))?;
        }

        if let Some(tokens) = &self.tokens {
            let replaced = tokens.replace(settings.http.tokens());
            replaced.map_err(|error| http_failure(error, settings))?;
        }

        if let Some(certificate) = &self.certificate {
            let replaced = certificate.replace(settings.http.certificate().as_ref());
            replaced.map_err(|error| http_failure(error, settings))?;
        }

        if let Some(configuration) = &self.configuration {
            configuration.replace(settings.given().clone());
        }
        if let Some(providers) = &self.providers {
            providers.replace(settings.feedback.providers());
        }
        Ok(())
    }

    /// Waits until a listener fails, and returns the reason. Does not return while all is well.
    pub(super) async fn failed(&mut self) -> Failure {
        match self.open.join_next().await {
            Some(Ok(())) => Failure::Failed("a listener has closed".to_owned()),
            Some(Err(e)) => Failure::Failed(format!("a listener was aborted: {e}")),
            None => std::future::pending().await,
        }
    }

    /// Closes the listeners: new connections are refused, and open ones may finish within
    /// [`time_limit`].
    pub(super) async fn close(mut self, settings: &Settings) {
        let _ = self.close.send(true);
        let within = time_limit(settings);
        let all_ended = async { while self.open.join_next().await.is_some() {} };
        let doors_closed = timeout(within, all_ended);
        let _ = tokio::join!(doors_closed, self.notices.close(within));
    }
}

/// Starts webhooks, alerts and schedules as configured.
async fn set_notices(notices: &Notices, settings: &Settings) -> Result<(), Failure> {
    let webhooks = notices.set_webhooks(config::webhooks(&settings.webhooks));
    let failed = |error: WebhookError| Failure::Failed(error.to_string());
    webhooks.await.map_err(failed)?;
    notices.set_alerts(config::alerts(&settings.alerts)).await?;
    let schedules = config::schedules(&settings.schedules);
    Ok(notices.set_schedules(schedules).await?)
}

/// How long open connections may go on when the listeners close: half of the drain time, so that
/// the engine has the other half.
fn time_limit(settings: &Settings) -> Duration {
    settings.service.drain_timeout / 2
}

/// A mistake with its file and key. An address in use is no mistake: it may be free the next time.
fn http_failure(error: HttpError, settings: &Settings) -> Failure {
    let mistake = settings.mistake(&format!("http.{}", error.key()), error.reason());
    match error {
        HttpError::Listen { .. } => Failure::Failed(mistake.to_string()),
        _ => mistake.into(),
    }
}

fn smtp_failure(error: SmtpError, settings: &Settings) -> Failure {
    let mistake = settings.mistake(&format!("smtp.{}", error.key()), error.reason());
    match error {
        SmtpError::Listen { .. } => Failure::Failed(mistake.to_string()),
        _ => mistake.into(),
    }
}

//! The doors of the running service: which ones are open, what they are given anew, and how they
//! are closed together.

use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::Failure;
use crate::config::Settings;
use crate::dispatch::Dispatcher;
use crate::ingress::http::{HttpDoor, HttpError, TokenTable};
use crate::ingress::smtp::{Reloader, SmtpDoor, SmtpError};

/// The doors that are open.
pub(super) struct Doors {
    close: watch::Sender<bool>,
    open: JoinSet<()>,
    tokens: Option<TokenTable>,
    users: Option<Reloader>,
}

impl Doors {
    /// Opens the doors that are configured. All take their addresses before any of them opens.
    pub(super) async fn open(
        dispatcher: &Dispatcher,
        settings: &Settings,
    ) -> Result<Self, Failure> {
        let (close, closing) = watch::channel(false);
        let http = match settings.http.door(patience(settings)) {
            Some(door) => Some(HttpDoor::bind(door).await?),
            None => None,
        };
        let smtp = match settings
            .smtp
            .door(settings.spool.max_message_size, patience(settings))
        {
            Some(door) => Some(SmtpDoor::bind(door).await?),
            None => None,
        };
        let users = smtp.as_ref().map(SmtpDoor::reloader);
        let tokens = http.as_ref().map(HttpDoor::tokens);
        let mut open = JoinSet::new();
        if let Some(door) = http {
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
            users,
        })
    }

    /// Gives them what changed: who may come in, and certificates. After an error one may have it
    /// and another not: give them the old settings again.
    pub(super) fn reload(&self, settings: &Settings) -> Result<(), Failure> {
        if let Some(users) = &self.users {
            users.reload(settings.smtp.users(), settings.smtp.certificate())?;
        }
        if let Some(tokens) = &self.tokens {
            tokens.replace(settings.http.tokens())?;
        }
        Ok(())
    }

    /// Waits until a door ends that nobody closed, and says why. For ever, while all is well.
    pub(super) async fn failed(&mut self) -> Failure {
        match self.open.join_next().await {
            Some(Ok(())) => Failure::Failed("a door closed by itself".to_owned()),
            Some(Err(e)) => Failure::Failed(format!("a door was broken off: {e}")),
            None => std::future::pending().await,
        }
    }

    /// Closes them: nobody new comes in, and what has begun may go on for a while.
    pub(super) async fn close(mut self, settings: &Settings) {
        let _ = self.close.send(true);
        let all_ended = async { while self.open.join_next().await.is_some() {} };
        let _ = timeout(patience(settings), all_ended).await;
    }
}

/// How long what has begun may go on when the doors close: half of the drain, so that the engine
/// has the other half.
fn patience(settings: &Settings) -> Duration {
    settings.service.drain_timeout / 2
}

impl From<HttpError> for Failure {
    fn from(error: HttpError) -> Self {
        match error {
            HttpError::OpenDoor(_) | HttpError::BadToken(_) => Failure::Usage(error.to_string()),
            HttpError::Listen { .. } => Failure::Failed(error.to_string()),
        }
    }
}

impl From<SmtpError> for Failure {
    fn from(error: SmtpError) -> Self {
        match error {
            SmtpError::Listen { .. } => Failure::Failed(error.to_string()),
            _ => Failure::Usage(error.to_string()),
        }
    }
}

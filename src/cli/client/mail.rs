//! The commands about one mail: `status`, `show`, `cancel` and `retry`.

use std::process::ExitCode;

use clap::Args;

use super::job::BulkArgs;
use super::service::{Client, Payload};
use super::{Failure, ServiceArgs, letter, record};
use crate::cli::screen::Screen;
use crate::dispatch::MailStatus;
use crate::mail::MailId;

/// `postrider status`.
#[derive(Args)]
pub struct Status {
    /// The mail's id
    id: MailId,
    #[command(flatten)]
    asking: ServiceArgs,
}

impl Status {
    pub(super) fn run(self, screen: &mut Screen) -> Result<ExitCode, Failure> {
        let answer = self
            .asking
            .service
            .client()?
            .get(&["v1", "mails", &self.id.to_string()], &vec![])?;
        if self.asking.json {
            screen.json(&answer.body)?;
        } else {
            record::summary(&answer.decode()?, screen)?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// `postrider show`.
#[derive(Args)]
pub struct Show {
    /// The mail's id
    id: MailId,
    /// Print the message itself, byte by byte; to a terminal, with control characters escaped
    #[arg(long, conflicts_with = "json")]
    raw: bool,
    #[command(flatten)]
    asking: ServiceArgs,
}

impl Show {
    pub(super) fn run(self, screen: &mut Screen) -> Result<ExitCode, Failure> {
        let client = self.asking.service.client()?;
        let id = self.id.to_string();
        if self.raw {
            screen.message(&raw(&client, &id)?)?;
            return Ok(ExitCode::SUCCESS);
        }
        let answer = client.get(&["v1", "mails", &id], &vec![])?;
        if self.asking.json {
            screen.json(&answer.body)?;
            return Ok(ExitCode::SUCCESS);
        }
        let mail: MailStatus = answer.decode()?;
        let message = raw(&client, &id)?;
        record::summary(&mail, screen)?;
        record::attempts(&mail, screen)?;
        letter::print(&message, screen)?;
        Ok(ExitCode::SUCCESS)
    }
}

fn raw(client: &Client, id: &str) -> Result<Vec<u8>, Failure> {
    Ok(client.get(&["v1", "mails", id, "raw"], &vec![])?.body)
}

/// `postrider cancel` and `postrider retry`: of one mail, or of all that a search finds.
#[derive(Args)]
pub struct Act {
    /// The mail's id
    #[arg(required_unless_present = "query", conflicts_with = "query")]
    id: Option<MailId>,
    #[command(flatten)]
    many: BulkArgs,
    #[command(flatten)]
    asking: ServiceArgs,
}

impl Act {
    pub(super) fn run(self, what: &str, screen: &mut Screen) -> Result<ExitCode, Failure> {
        match self.id {
            Some(id) => act(what, id, &self.asking, screen),
            None => self.many.act(what, &self.asking, screen),
        }
    }
}

fn act(
    what: &str,
    id: MailId,
    asking: &ServiceArgs,
    screen: &mut Screen,
) -> Result<ExitCode, Failure> {
    let path = ["v1", "mails", &id.to_string(), what];
    let answer = asking
        .service
        .client()?
        .post(&path, &vec![], Payload::None)?;
    if asking.json {
        screen.json(&answer.body)?;
    } else {
        record::line(&answer.decode()?, screen)?;
    }
    Ok(ExitCode::SUCCESS)
}

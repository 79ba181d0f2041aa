//! The commands about one mail: `status`, `show`, `cancel` and `retry`.

use std::process::ExitCode;

use clap::Args;

use super::job::BulkArgs;
use super::service::{Payload, ServiceAnswer, ServiceClient};
use super::{Failure, ServiceArgs, letter, record, search_progress};
use crate::cli::screen::Screen;
use crate::dispatch::MailStatus;

/// Shorter text is more likely a mistake than the name of a mail.
const SHORTEST_NAME: usize = 4;

/// Checks the name of a mail; the service finds the mail.
fn mail_name(text: &str) -> Result<String, String> {
    match text.trim().chars().count() < SHORTEST_NAME {
        true => Err(format!(
            "`{text}` is not a mail id, and too short to name a mail otherwise: by the first \
             {SHORTEST_NAME} or more \
             characters of its id, its key, its Message-ID or its sender"
        )),
        false => Ok(text.to_owned()),
    }
}

/// `postrider status`.
#[derive(Args)]
pub struct StatusCommand {
    /// The mail: its id or the beginning of it, its key, its Message-ID, or its sender
    #[arg(value_name = "MAIL", value_parser = mail_name)]
    id: String,
    #[command(flatten)]
    asking: ServiceArgs,
}

impl StatusCommand {
    pub(super) fn run(self, screen: &mut Screen) -> Result<ExitCode, Failure> {
        let client = self.asking.service.client()?;
        let answer = record_of(&client, &self.id)?;
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
    /// The mail: its id or the beginning of it, its key, its Message-ID, or its sender
    #[arg(value_name = "MAIL", value_parser = mail_name)]
    id: String,
    /// Print the message itself, unchanged; on a terminal, with control characters escaped
    #[arg(long, conflicts_with = "json")]
    raw: bool,
    #[command(flatten)]
    asking: ServiceArgs,
}

impl Show {
    pub(super) fn run(self, screen: &mut Screen) -> Result<ExitCode, Failure> {
        let client = self.asking.service.client()?;
        let id = self.id.as_str();
        if self.raw {
            screen.message(&raw(&client, id)?)?;
            return Ok(ExitCode::SUCCESS);
        }

        let answer = record_of(&client, id)?;
        if self.asking.json {
            screen.json(&answer.body)?;
            return Ok(ExitCode::SUCCESS);
        }

        let mail: MailStatus = answer.decode()?;
        let message = raw(&client, &mail.id.to_string())?;
        record::summary(&mail, screen)?;
        record::attempts(&mail, screen)?;
        letter::print(&message, screen)?;
        Ok(ExitCode::SUCCESS)
    }
}

fn raw(client: &ServiceClient, id: &str) -> Result<Vec<u8>, Failure> {
    let raw = |id: &str| client.get(&["v1", "mails", id, "raw"], &vec![]);
    Ok(search_progress::about(client, id, raw)?.body)
}

fn record_of(client: &ServiceClient, name: &str) -> Result<ServiceAnswer, Failure> {
    search_progress::about(client, name, |id| client.get(&["v1", "mails", id], &vec![]))
}

/// `postrider cancel` and `postrider retry`: for one mail, or for all that a search finds.
#[derive(Args)]
pub struct ActCommand {
    /// The mail: its id or the beginning of it, its key, its Message-ID, or its sender
    #[arg(
        value_name = "MAIL",
        required_unless_present = "query",
        conflicts_with_all = ["query", "dry_run", "limit", "per_minute"]
    )]
    id: Option<String>,
    #[command(flatten)]
    many: BulkArgs,
    #[command(flatten)]
    asking: ServiceArgs,
}

impl ActCommand {
    pub(super) fn run(self, what: &str, screen: &mut Screen) -> Result<ExitCode, Failure> {
        match self.id {
            Some(id) => act(what, &id, &self.asking, screen),
            None => self.many.act(what, &self.asking, screen),
        }
    }
}

fn act(
    what: &str,
    id: &str,
    asking: &ServiceArgs,
    screen: &mut Screen,
) -> Result<ExitCode, Failure> {
    let client = asking.service.client()?;
    let answer = search_progress::about(&client, id, |id| {
        client.post(&["v1", "mails", id, what], &vec![], Payload::None)
    })?;
    if asking.json {
        screen.json(&answer.body)?;
    } else {
        record::line(&answer.decode()?, screen)?;
    }
    Ok(ExitCode::SUCCESS)
}

//! `postrider dead`: lists, retries and purges dead letters, mail that failed for good.

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Subcommand;
use serde::Deserialize;

use super::filter::FilterOptions;
use super::list::{ListLength, pages};
use super::service::{Parameters, Payload, ServiceAnswer, ServiceClient};
use super::times::relative;
use super::{Failure, ServiceArgs, record};
use crate::cli::screen::{Screen, TextStyle, counted, note, plain, tinted};
use crate::delivery::State;
use crate::dispatch::MailStatus;
use crate::mail::Timestamp;

/// `postrider dead`.
#[derive(Subcommand)]
pub enum Dead {
    /// List the mails that failed for good, and why
    List {
        #[command(flatten)]
        filter: FilterOptions,
        #[command(flatten)]
        length: ListLength,
        #[command(flatten)]
        asking: ServiceArgs,
    },
    /// Send them again, with a full count of attempts and a new lifetime
    Retry {
        #[command(flatten)]
        filter: FilterOptions,
        /// Only count them
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        asking: ServiceArgs,
    },
    /// Delete them for good, with all their records, including those of recipients who got them
    Purge {
        #[command(flatten)]
        filter: FilterOptions,
        /// Delete all of them; required if there is no filter
        #[arg(long)]
        all: bool,
        /// Only count them
        #[arg(long)]
        dry_run: bool,
        /// Do not ask for confirmation
        #[arg(long, short)]
        yes: bool,
        #[command(flatten)]
        asking: ServiceArgs,
    },
}

/// How many mails were changed or would be.
#[derive(Deserialize)]
struct DeadLetterCount {
    count: u64,
    /// How many recipients of the deleted mails got them.
    #[serde(default)]
    delivered: u64,
}

impl DeadLetterCount {
    /// `2 mails`, and how many records of delivered mail are deleted with them.
    fn sentence(&self, what: &str) -> String {
        let mails = counted(self.count, "mail");
        match self.delivered {
            0 => format!("{mails} {what}"),
            delivered => format!(
                "{mails} {what}, and the record of {} who got it",
                counted(delivered, "recipient")
            ),
        }
    }
}

impl Dead {
    pub(super) fn run(self, screen: &mut Screen) -> Result<ExitCode, Failure> {
        match self {
            Dead::List {
                filter,
                length,
                asking,
            } => list(&filter, length, &asking, screen),
            Dead::Retry {
                filter,
                dry_run,
                asking,
            } => {
                let parameters = parameters(&filter, dry_run);
                let answer = asking.service.client()?.post(
                    &["v1", "dead", "retry"],
                    &parameters,
                    Payload::None,
                )?;
                print_count(
                    &answer,
                    if dry_run {
                        "would be sent again"
                    } else {
                        "sent again"
                    },
                    &asking,
                    screen,
                )
            }
            Dead::Purge {
                filter,
                all,
                dry_run,
                yes,
                asking,
            } => {
                if filter.is_empty() && !all && !dry_run {
                    return Err(Failure::Usage(
                        "without a filter every dead mail would be deleted: add --all and --yes to \
                         mean it, or --dry-run to count"
                            .into(),
                    ));
                }
                let client = asking.service.client()?;
                if !dry_run && !yes && !confirmed(&client, &filter)? {
                    return Ok(ExitCode::FAILURE);
                }
                let answer = client.delete(&["v1", "dead"], &parameters(&filter, dry_run))?;
                print_count(
                    &answer,
                    if dry_run {
                        "would be deleted"
                    } else {
                        "deleted"
                    },
                    &asking,
                    screen,
                )
            }
        }
    }
}

fn list(
    filter: &FilterOptions,
    length: ListLength,
    asking: &ServiceArgs,
    screen: &mut Screen,
) -> Result<ExitCode, Failure> {
    let mut parameters = filter.parameters();
    parameters.push(("state", State::Dead.to_string()));
    pages(
        asking,
        length,
        parameters,
        screen,
        &["ID", "DIED", "WHY", "TO", "LAST ANSWER"],
        |mail, now| {
            let (died, why, to, answer) = why_dead(mail, now);
            vec![
                plain(mail.id),
                plain(died),
                tinted(why, TextStyle::Bad),
                plain(to),
                plain(answer),
            ]
        },
    )
}

/// Time, reason, recipient and the relay's last answer of the mail's first dead delivery.
fn why_dead(mail: &MailStatus, now: Timestamp) -> (String, String, String, String) {
    let mut dead = mail
        .deliveries
        .iter()
        .filter(|delivery| delivery.state == State::Dead);
    let Some(first) = dead.next() else {
        return Default::default();
    };
    let died = first
        .finished_at
        .map(|at| relative(at, now))
        .unwrap_or_default();
    let why = first
        .reason
        .map(|reason| reason.as_str().replace('_', " "))
        .unwrap_or_default();
    let others = dead.count();
    let to = match others {
        0 => first.recipient.to_string(),
        _ => format!("{} and {others} more", first.recipient),
    };

    (
        died,
        why,
        to,
        first.attempts.last().map(record::said).unwrap_or_default(),
    )
}

fn parameters(filter: &FilterOptions, dry_run: bool) -> Parameters {
    let mut parameters = filter.parameters();
    if dry_run {
        parameters.push(("dry_run", "true".to_owned()));
    }
    parameters
}

fn print_count(
    answer: &ServiceAnswer,
    what: &str,
    asking: &ServiceArgs,
    screen: &mut Screen,
) -> Result<ExitCode, Failure> {
    if asking.json {
        screen.json(&answer.body)?;
    } else {
        let count: DeadLetterCount = answer.decode()?;
        screen.line(&[plain(count.sentence(what))])?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Asks the user at the terminal for confirmation.
fn confirmed(client: &ServiceClient, filter: &FilterOptions) -> Result<bool, Failure> {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::Usage(
            "purging deletes mail for good: add --yes to confirm, or --dry-run to count".into(),
        ));
    }

    let count: DeadLetterCount = client
        .delete(&["v1", "dead"], &parameters(filter, true))?
        .decode()?;
    note(format_args!(
        "{}.",
        count.sentence("would be deleted for good")
    ));
    Screen::for_notes().ask("Delete? [y/N] ")?;

    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    let yes = matches!(answer.trim().to_lowercase().as_str(), "y" | "yes");
    if !yes {
        note("Nothing was deleted.");
    }

    Ok(yes)
}

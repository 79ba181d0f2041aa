//! `postrider audit`: who did what, when, and to how many.

use std::process::ExitCode;

use clap::Args;

use super::list::ListLength;
use super::service::Parameters;
use super::times::{local, past_time};
use super::{Failure, ServiceArgs};
use crate::cli::screen::{
    ColumnFit, Screen, StyledText, TextStyle, counted, grouped, note, plain, tinted,
};
use crate::dispatch::{AuditEntry, AuditPage};
use crate::mail::{MailId, Timestamp};

/// The most operations in one page of the service's answer.
const LARGEST_PAGE: usize = 1000;

/// `postrider audit`.
#[derive(Args)]
pub struct Audit {
    /// Only operations of this client: token:NAME, user:NAME, local, or the name alone
    #[arg(long)]
    who: Option<String>,
    /// Only this operation: cancel, retry, purge, pause, resume, reload, start, stop, login_refused
    #[arg(long)]
    act: Option<String>,
    /// Only operations on this mail
    #[arg(long, value_name = "ID")]
    mail: Option<MailId>,
    /// Only operations on this relay
    #[arg(long, value_name = "NAME")]
    relay: Option<String>,
    /// Only operations since: a span such as 1h, or a time such as 2026-01-31T12:00:00Z
    #[arg(long, value_name = "WHEN", value_parser = past_time)]
    since: Option<Timestamp>,
    /// Only operations before this time
    #[arg(long, value_name = "WHEN", value_parser = past_time)]
    until: Option<Timestamp>,
    #[command(flatten)]
    length: ListLength,
    #[command(flatten)]
    asking: ServiceArgs,
}

impl Audit {
    pub(super) fn run(self, screen: &mut Screen) -> Result<ExitCode, Failure> {
        let client = self.asking.service.client()?;
        let mut parameters: Parameters = [
            self.who.map(|who| ("who", who)),
            self.act.map(|act| ("act", act)),
            self.mail.map(|mail| ("mail", mail.to_string())),
            self.relay.map(|relay| ("relay", relay)),
            self.since.map(|since| ("since", since.to_string())),
            self.until.map(|until| ("until", until.to_string())),
        ]
        .into_iter()
        .flatten()
        .collect();
        let fixed = parameters.len();
        let mut wanted = self.length.most();

        let mut rows = Vec::new();
        let more = loop {
            parameters.push(("limit", wanted.min(LARGEST_PAGE).to_string()));
            let answer = client.get(&["v1", "audit"], &parameters)?;
            let page: AuditPage = answer.decode()?;
            wanted = wanted.saturating_sub(page.entries.len());
            if self.asking.json {
                screen.json(&answer.body)?;
            } else {
                rows.extend(page.entries.iter().map(row));
            }
            match page.next {
                Some(next) if wanted > 0 => {
                    parameters.truncate(fixed);
                    parameters.push(("cursor", next));
                }
                next => break next.is_some(),
            }
        };

        if self.asking.json {
            return Ok(ExitCode::SUCCESS);
        }
        if rows.is_empty() {
            screen.line(&[tinted("no operations", TextStyle::Faint)])?;
        } else {
            let heads = ["WHEN", "WHO", "FROM", "ACT", "TO"];
            screen.table(&heads, rows, ColumnFit::Wrap)?;
        }

        if more {
            note("There is more: list it with --limit N, or with --all.");
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn row(entry: &AuditEntry) -> Vec<StyledText> {
    vec![
        plain(local(entry.at)),
        plain(entry.who.as_deref().unwrap_or("-")),
        plain(entry.from.as_deref().unwrap_or("-")),
        plain(entry.act.replace('_', " ")),
        plain(to(entry)),
    ]
}

/// The object of an operation, in words.
fn to(entry: &AuditEntry) -> String {
    let mut words = Vec::new();
    if let Some(relay) = &entry.relay {
        words.push(relay.clone());
    }

    match (entry.mail, &entry.filter) {
        (Some(mail), _) => words.push(mail.to_string()),
        (None, Some(filter)) => words.push(done_to(&entry.act, entry.count, filter)),
        (None, None) if entry.count > 1 => words.push(format!("{} times", grouped(entry.count))),
        (None, None) => {}
    }

    words.extend(entry.version.clone());
    words.extend(entry.reason.clone());
    words.extend(entry.error.as_ref().map(|error| format!("failed: {error}")));
    words.join(" ")
}

/// How many mails an operation changed, and by which filter; empty for operations on other things.
pub(super) fn done_to(act: &str, count: u64, filter: &str) -> String {
    match act {
        "cancel" | "retry" | "purge" => format!("{} of {filter}", counted(count, "mail")),
        _ => filter.to_owned(),
    }
}

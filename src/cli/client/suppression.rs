//! `postrider suppression`: the addresses that get no mail.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde::Deserialize;
use serde_json::json;

use super::service::{Parameters, Payload};
use super::{Failure, ServiceArgs, send, times};
use crate::cli::screen::{ColumnFit, Screen, plain};
use crate::mail::Timestamp;
use crate::spool::{SuppressionPage, SuppressionReason};

/// `postrider suppression`.
#[derive(Subcommand)]
pub enum SuppressionCommand {
    /// List suppressed addresses
    List(ListSuppressions),
    /// Add an address
    Add(Add),
    /// Remove entries
    Remove(Remove),
    /// Add the entries of a CSV file
    Import(Import),
    /// Print all entries as CSV
    Export(ExportSuppressions),
}

/// A selection of entries.
#[derive(Args)]
struct EntryArgs {
    /// Entries for this reason: bounce, complaint, unsubscribe, manual
    #[arg(long)]
    reason: Option<SuppressionReason>,
    /// Entries of this list
    #[arg(long, value_name = "NAME")]
    list: Option<String>,
}

/// `postrider suppression list`.
#[derive(Args)]
pub struct ListSuppressions {
    /// Entries of this address
    #[arg(long, value_name = "ADDRESS")]
    address: Option<String>,
    #[command(flatten)]
    which: EntryArgs,
    /// The most entries
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=1000))]
    limit: u16,
    /// Continue after the page that returned this cursor
    #[arg(long)]
    cursor: Option<String>,
    #[command(flatten)]
    asking: ServiceArgs,
}

/// `postrider suppression add`.
#[derive(Args)]
pub struct Add {
    /// The address that is to get no mail
    address: String,
    #[command(flatten)]
    which: EntryArgs,
    /// When it expires; never when absent, or for a bounce as the configuration says
    #[arg(long, value_name = "TIME", value_parser = times::time_to_come)]
    until: Option<Timestamp>,
    /// A note
    #[arg(long, value_name = "TEXT")]
    note: Option<String>,
    #[command(flatten)]
    asking: ServiceArgs,
}

/// `postrider suppression remove`.
#[derive(Args)]
pub struct Remove {
    /// The address; all addresses when absent, and then a reason or a list is needed
    #[arg(required_unless_present_any = ["reason", "list"])]
    address: Option<String>,
    #[command(flatten)]
    which: EntryArgs,
    #[command(flatten)]
    asking: ServiceArgs,
}

/// `postrider suppression import`.
#[derive(Args)]
pub struct Import {
    /// The file; `-` is standard input. Its first line may name the columns: address, reason, list,
    /// since, until, note
    file: PathBuf,
    #[command(flatten)]
    asking: ServiceArgs,
}

/// `postrider suppression export`.
#[derive(Args)]
pub struct ExportSuppressions {
    #[command(flatten)]
    which: EntryArgs,
    #[command(flatten)]
    asking: ServiceArgs,
}

#[derive(Deserialize)]
struct Removed {
    count: u64,
}

#[derive(Deserialize)]
struct Imported {
    imported: u64,
    refused: u64,
    errors: Vec<WrongLine>,
}

#[derive(Deserialize)]
struct WrongLine {
    line: u64,
    detail: String,
}

impl SuppressionCommand {
    pub(super) fn run(self, screen: &mut Screen) -> Result<ExitCode, Failure> {
        match self {
            SuppressionCommand::List(list) => list.run(screen),
            SuppressionCommand::Add(add) => add.run(screen),
            SuppressionCommand::Remove(remove) => remove.run(screen),
            SuppressionCommand::Import(import) => import.run(screen),
            SuppressionCommand::Export(export) => export.run(screen),
        }
    }
}

impl EntryArgs {
    fn parameters(self, address: Option<String>) -> Parameters {
        let mut parameters = Parameters::new();
        parameters.extend(address.map(|address| ("address", address)));
        parameters.extend(self.reason.map(|reason| ("reason", reason.to_string())));
        parameters.extend(self.list.map(|list| ("list", list)));
        parameters
    }
}

impl ListSuppressions {
    fn run(self, screen: &mut Screen) -> Result<ExitCode, Failure> {
        let mut parameters = self.which.parameters(self.address);
        parameters.push(("limit", self.limit.to_string()));
        parameters.extend(self.cursor.map(|cursor| ("cursor", cursor)));

        let client = self.asking.service.client()?;
        let answer = client.get(&["v1", "suppressions"], &parameters)?;
        if self.asking.json {
            screen.json(&answer.body)?;
            return Ok(ExitCode::SUCCESS);
        }

        let page: SuppressionPage = answer.decode()?;
        let mut rows = Vec::new();
        for one in page.suppressions {
            rows.push(vec![
                plain(one.address),
                plain(one.reason),
                plain(one.list.unwrap_or_default()),
                plain(one.since),
                plain(one.until.map(|until| until.to_string()).unwrap_or_default()),
                plain(one.note.unwrap_or_default()),
            ]);
        }

        let heads = ["ADDRESS", "REASON", "LIST", "SINCE", "UNTIL", "NOTE"];
        screen.table(&heads, rows, ColumnFit::Cut)?;
        if let Some(next) = page.next {
            screen.line(&[plain(format_args!("more: --cursor {next}"))])?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Add {
    fn run(self, screen: &mut Screen) -> Result<ExitCode, Failure> {
        let mut entry = json!({"address": self.address});
        let given = [
            ("reason", self.which.reason.map(|reason| reason.to_string())),
            ("list", self.which.list),
            ("until", self.until.map(|until| until.to_string())),
            ("note", self.note),
        ];

        for (name, value) in given {
            if let Some(value) = value {
                entry[name] = value.into();
            }
        }

        let client = self.asking.service.client()?;
        let answer = client.post(&["v1", "suppressions"], &vec![], Payload::Json(entry))?;
        if self.asking.json {
            screen.json(&answer.body)?;
        } else {
            let added: crate::Suppression = answer.decode()?;
            screen.line(&[plain(format_args!(
                "{} gets no mail ({})",
                added.address, added.reason
            ))])?;
        }

        Ok(ExitCode::SUCCESS)
    }
}

impl Remove {
    fn run(self, screen: &mut Screen) -> Result<ExitCode, Failure> {
        let parameters = self.which.parameters(self.address);
        let client = self.asking.service.client()?;
        let answer = client.delete(&["v1", "suppressions"], &parameters)?;
        if self.asking.json {
            screen.json(&answer.body)?;
            return Ok(ExitCode::SUCCESS);
        }
        let Removed { count } = answer.decode()?;
        screen.line(&[plain(format_args!("entries removed: {count}"))])?;
        Ok(ExitCode::SUCCESS)
    }
}

impl Import {
    fn run(self, screen: &mut Screen) -> Result<ExitCode, Failure> {
        let client = self.asking.service.client()?;
        let path = ["v1", "suppressions", "import"];
        let answer = match self.file.as_os_str() == "-" {
            true => client.upload(&path, io::stdin())?,
            false => {
                let file = File::open(&self.file);
                let file = file.map_err(|error| send::unreadable(&self.file, &error))?;
                client.upload(&path, file)?
            }
        };
        let done: Imported = answer.decode()?;
        if self.asking.json {
            screen.json(&answer.body)?;
        } else {
            let (imported, refused) = (done.imported, done.refused);
            screen.line(&[plain(format_args!(
                "imported: {imported}, refused: {refused}"
            ))])?;
            for WrongLine { line, detail } in &done.errors {
                screen.line(&[plain(format_args!("line {line}: {detail}"))])?;
            }
        }

        Ok(match done.refused {
            0 => ExitCode::SUCCESS,
            _ => ExitCode::FAILURE,
        })
    }
}

impl ExportSuppressions {
    fn run(self, screen: &mut Screen) -> Result<ExitCode, Failure> {
        let parameters = self.which.parameters(None);
        let client = self.asking.service.client()?;
        let stream = client.stream(&["v1", "suppressions", "export"], &parameters)?;
        screen.copy(stream)?;
        Ok(ExitCode::SUCCESS)
    }
}

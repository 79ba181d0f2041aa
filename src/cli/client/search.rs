//! `postrider count`, `export` and `failures`: the mails that a search finds, as counts, as a table
//! for other programs, and grouped by what went wrong.

use std::process::ExitCode;

use clap::Args;
use clap::builder::PossibleValuesParser;

use super::filter::FilterOptions;
use super::search_progress::SearchProgress;
use super::service::{Parameters, ServiceClient};
use super::times::relative;
use super::{Failure, ServiceArgs};
use crate::cli::screen::{ColumnFit, Screen, TextStyle, grouped, note, plain, state, tinted};
use crate::dispatch::{Counted, Failures};
use crate::mail::Timestamp;

/// A selection of mails: by a search, by filters, or both.
#[derive(Args, Clone, Debug)]
pub struct SearchOptions {
    /// Only mails that this search finds: `to:ada state:deferred code:451 welcome`
    #[arg(short, long, value_name = "SEARCH", allow_hyphen_values = true)]
    query: Option<String>,
    #[command(flatten)]
    filter: FilterOptions,
}

impl SearchOptions {
    /// The search as the service reads it.
    fn parameters(&self) -> Parameters {
        let mut parameters = self.filter.parameters();
        parameters.extend(self.query.clone().map(|query| ("q", query)));
        parameters
    }
}

/// `postrider count`.
#[derive(Args)]
pub struct Count {
    #[command(flatten)]
    search: SearchOptions,
    #[command(flatten)]
    asking: ServiceArgs,
}

impl Count {
    pub(super) fn run(self, screen: &mut Screen) -> Result<ExitCode, Failure> {
        let client = self.asking.service.client()?;
        let counted = self.counted(&client)?;
        if self.asking.json {
            screen.json(&serde_json::to_vec(&counted).unwrap_or_default())?;
            return Ok(ExitCode::SUCCESS);
        }

        let mut rows = Vec::new();
        for (name, count) in &counted.by_state {
            rows.push(vec![state(name), plain(grouped(*count))]);
        }
        rows.push(vec![
            tinted("all", TextStyle::Strong),
            plain(grouped(counted.count)),
        ]);
        screen.table(&["STATE", "MAILS"], rows, ColumnFit::Cut)?;

        Ok(ExitCode::SUCCESS)
    }
}

impl Count {
    /// Repeats the call until all mails were searched, and adds the counts.
    fn counted(&self, client: &ServiceClient) -> Result<Counted, Failure> {
        let mut all = Counted::default();
        let mut progress = SearchProgress::new();
        loop {
            let mut parameters = self.search.parameters();
            parameters.extend(all.next.take().map(|next| ("cursor", next)));
            let answer = client.get(&["v1", "mails", "count"], &parameters)?;
            let some: Counted = answer.decode()?;

            all.count += some.count;
            all.looked_at += some.looked_at;
            for (state, count) in some.by_state {
                *all.by_state.entry(state).or_default() += count;
            }
            all.next = some.next;
            if all.next.is_none() {
                return Ok(all);
            }
            progress.goes_on(some.looked_at);
        }
    }
}

/// `postrider export`.
#[derive(Args)]
pub struct ExportCommand {
    #[command(flatten)]
    search: SearchOptions,
    /// The format: csv has one row per recipient, ndjson one record per line
    #[arg(long, default_value = "csv", value_parser = PossibleValuesParser::new(["csv", "ndjson"]))]
    format: String,
    #[command(flatten)]
    service: super::place::ServiceOptions,
}

impl ExportCommand {
    pub(super) fn run(self, screen: &mut Screen) -> Result<ExitCode, Failure> {
        let mut parameters = self.search.parameters();
        parameters.push(("format", self.format));
        let client = self.service.client()?;
        let stream = client.stream(&["v1", "mails", "export"], &parameters)?;
        screen.copy(stream)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// `postrider failures`.
#[derive(Args)]
pub struct FailureGroups {
    /// Group by what the relays said, or by the recipients' domain
    #[arg(
        long,
        default_value = "error",
        value_parser = PossibleValuesParser::new(["error", "domain"])
    )]
    by: String,
    #[command(flatten)]
    search: SearchOptions,
    #[command(flatten)]
    asking: ServiceArgs,
}

impl FailureGroups {
    pub(super) fn run(self, screen: &mut Screen) -> Result<ExitCode, Failure> {
        let mut parameters = self.search.parameters();
        parameters.push(("by", self.by));

        let client = self.asking.service.client()?;
        let answer = client.get(&["v1", "failures"], &parameters)?;
        if self.asking.json {
            screen.json(&answer.body)?;
            return Ok(ExitCode::SUCCESS);
        }

        let failures: Failures = answer.decode()?;
        if failures.groups.is_empty() {
            screen.line(&[tinted("nothing failed", TextStyle::Faint)])?;
            return Ok(ExitCode::SUCCESS);
        }

        let now = Timestamp::now();
        let rows = failures.groups.iter().map(|group| {
            let last = group.last_at.map(|at| relative(at, now));
            vec![
                plain(grouped(group.dead)),
                plain(grouped(group.deferred)),
                plain(last.unwrap_or_default()),
                plain(&group.name),
                plain(group.example),
            ]
        });

        let heads = ["DEAD", "DEFERRED", "LAST", "WHAT", "FOR EXAMPLE"];
        screen.table(&heads, rows.collect(), ColumnFit::Wrap)?;
        if !failures.complete {
            note("Only the newest mails were searched: narrow the search with -q or --since.");
        }
        Ok(ExitCode::SUCCESS)
    }
}

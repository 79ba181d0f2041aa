//! `postrider list`, and the paging that it shares with `postrider dead list`.

use std::process::ExitCode;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};

use super::filter::FilterOptions;
use super::search_progress::SearchProgress;
use super::service::Parameters;
use super::times::rough;
use super::{Failure, ServiceArgs, record};
use crate::cli::screen::{ColumnFit, Screen, StyledText, TextStyle, note, plain, state, tinted};
use crate::delivery::State;
use crate::dispatch::{MailStatus, StatusPage};
use crate::mail::Timestamp;

/// The most mails in one page of the service's answer.
const LARGEST_PAGE: usize = 1000;

/// `postrider list`.
#[derive(Args)]
pub struct ListCommand {
    /// Only mails with a delivery in this state
    #[arg(long, value_parser = any_state())]
    state: Option<State>,
    /// Only mails that this search finds: `to:ada state:deferred code:451 welcome`
    #[arg(short, long, value_name = "SEARCH", allow_hyphen_values = true)]
    query: Option<String>,
    #[command(flatten)]
    filter: FilterOptions,
    #[command(flatten)]
    length: ListLength,
    #[command(flatten)]
    asking: ServiceArgs,
}

/// How many entries of a list are printed.
#[derive(Args, Clone, Copy)]
pub struct ListLength {
    /// List at most this many
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = at_least_one())]
    limit: u64,
    /// List all, however many there are
    #[arg(long, conflicts_with = "limit")]
    all: bool,
}

impl ListLength {
    /// The most entries to print.
    pub fn most(self) -> usize {
        if self.all {
            usize::MAX
        } else {
            usize::try_from(self.limit).unwrap_or(usize::MAX)
        }
    }
}

fn at_least_one() -> clap::builder::RangedU64ValueParser {
    clap::value_parser!(u64).range(1..)
}

fn any_state() -> impl TypedValueParser<Value = State> {
    PossibleValuesParser::new(State::ALL.map(State::as_str)).try_map(|name| name.parse::<State>())
}

impl ListCommand {
    pub(super) fn run(self, screen: &mut Screen) -> Result<ExitCode, Failure> {
        let mut parameters = self.filter.parameters();
        parameters.extend(self.state.map(|state| ("state", state.to_string())));
        parameters.extend(self.query.map(|query| ("q", query)));

        let heads = ["ID", "STATE", "AGE", "TO", "SUBJECT"];
        pages(
            &self.asking,
            self.length,
            parameters,
            screen,
            &heads,
            |mail, now| {
                vec![
                    plain(mail.id),
                    state(mail.state.as_str()),
                    plain(rough(now.since(mail.created_at)).unwrap_or_else(|| "now".to_owned())),
                    plain(record::recipients(mail)),
                    plain(&mail.subject),
                ]
            },
        )
    }
}

/// Prints page after page until the list ends or its length is reached: as tables, or as the
/// service's JSON.
pub fn pages(
    asking: &ServiceArgs,
    length: ListLength,
    mut parameters: Parameters,
    screen: &mut Screen,
    heads: &[&str],
    row: impl Fn(&MailStatus, Timestamp) -> Vec<StyledText>,
) -> Result<ExitCode, Failure> {
    let client = asking.service.client()?;
    let fixed = parameters.len();
    let mut wanted = length.most();
    let mut found = false;
    let mut rows = Vec::new();

    let mut cursor: Option<String> = None;
    let mut progress = SearchProgress::new();
    loop {
        parameters.truncate(fixed);
        parameters.push(("limit", wanted.min(LARGEST_PAGE).to_string()));
        parameters.extend(cursor.take().map(|cursor| ("cursor", cursor)));
        let answer = client.get(&["v1", "mails"], &parameters)?;
        let page: StatusPage = answer.decode()?;
        wanted = wanted.saturating_sub(page.mails.len());
        cursor = page.next;
        let ends = cursor.is_none() || wanted == 0;
        if asking.json {
            screen.json(&answer.body)?;
        } else {
            let now = Timestamp::now();
            rows.extend(page.mails.iter().map(|mail| row(mail, now)));
            // A page can be short, even empty, although more follow; so pages are joined into
            // larger tables.
            if !rows.is_empty() && (ends || rows.len() >= LARGEST_PAGE) {
                progress = SearchProgress::new();
                screen.table(heads, std::mem::take(&mut rows), ColumnFit::Cut)?;
                found = true;
            }
        }
        if ends {
            break;
        }
        progress.goes_on(page.looked_at);
    }
    drop(progress);

    if !asking.json {
        match cursor {
            Some(_) => note("There are more: list them with --limit N, or with --all."),
            None if !found => screen.line(&[tinted("no mails", TextStyle::Faint)])?,
            None => {}
        }
    }

    Ok(ExitCode::SUCCESS)
}

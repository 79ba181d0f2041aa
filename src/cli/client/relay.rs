//! `postrider relay`: lists, pauses and resumes relays.

use std::io;
use std::process::ExitCode;

use clap::Subcommand;
use serde::Deserialize;

use super::service::Payload;
use super::{Failure, ServiceArgs};
use crate::cli::screen::{ColumnFit, Screen, grouped, plain, state};
use crate::dispatch::{RelayStatus, WaitingDomain, WaitingDomains};

/// The service's answer with its relays.
#[derive(Deserialize)]
struct Relays {
    relays: Vec<RelayStatus>,
}

/// `postrider relay`.
#[derive(Subcommand)]
pub enum RelayCommand {
    /// List the relays and their states
    List {
        #[command(flatten)]
        asking: ServiceArgs,
    },
    /// List the mail that waits for a relay, by the recipients' domain
    Domains {
        /// The relay's name
        name: String,
        #[command(flatten)]
        asking: ServiceArgs,
    },
    /// Stop sending over a relay; its mail takes the route's next relay, or waits
    Pause {
        /// The relay's name
        name: String,
        /// The reason, shown to others
        #[arg(long)]
        reason: Option<String>,
        #[command(flatten)]
        asking: ServiceArgs,
    },
    /// Send over a paused relay again
    Resume {
        /// The relay's name
        name: String,
        #[command(flatten)]
        asking: ServiceArgs,
    },
}

impl RelayCommand {
    pub(super) fn run(self, screen: &mut Screen) -> Result<ExitCode, Failure> {
        match self {
            RelayCommand::List { asking } => {
                let answer = asking.service.client()?.get(&["v1", "relays"], &vec![])?;
                if asking.json {
                    screen.json(&answer.body)?;
                } else {
                    table(&answer.decode::<Relays>()?.relays, screen)?;
                }
                Ok(ExitCode::SUCCESS)
            }
            RelayCommand::Domains { name, asking } => {
                let path = ["v1", "relays", &name, "domains"];
                let answer = asking.service.client()?.get(&path, &vec![])?;
                if asking.json {
                    screen.json(&answer.body)?;
                } else {
                    domains(&answer.decode::<WaitingDomains>()?, screen)?;
                }
                Ok(ExitCode::SUCCESS)
            }
            RelayCommand::Pause {
                name,
                reason,
                asking,
            } => {
                let why = reason.map(|reason| serde_json::json!({ "reason": reason }));
                let why = why.map_or(Payload::None, Payload::Json);
                switch(&name, ["pause", "paused"], why, &asking, screen)
            }
            RelayCommand::Resume { name, asking } => {
                let done = ["resume", "resumed"];
                switch(&name, done, Payload::None, &asking, screen)
            }
        }
    }
}

fn switch(
    name: &str,
    [verb, done]: [&str; 2],
    payload: Payload,
    asking: &ServiceArgs,
    screen: &mut Screen,
) -> Result<ExitCode, Failure> {
    let answer = asking
        .service
        .client()?
        .post(&["v1", "relays", name, verb], &vec![], payload)?;
    if asking.json {
        screen.json(&answer.body)?;
    } else {
        screen.line(&[plain(format_args!("{name} is {done}"))])?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints the mail that waits for a relay, one domain per row.
fn domains(waiting: &WaitingDomains, screen: &mut Screen) -> io::Result<()> {
    let row = |one: &WaitingDomain| {
        vec![
            plain(&one.domain),
            plain(grouped(one.count)),
            plain(grouped(one.queued)),
            plain(grouped(one.sending)),
            plain(grouped(one.deferred)),
            plain(grouped(one.scheduled)),
            plain(one.oldest_at),
        ]
    };

    let heads = [
        "DOMAIN",
        "WAIT",
        "QUEUED",
        "SENDING",
        "DEFERRED",
        "SCHEDULED",
        "OLDEST ACCEPTED",
    ];

    let rows = waiting.domains.iter().map(row).collect();
    screen.table(&heads, rows, ColumnFit::Wrap)?;
    if waiting.others > 0 {
        let others = grouped(waiting.others);
        screen.line(&[plain(format_args!("{others} more for other domains"))])?;
    }
    if !waiting.complete {
        screen.line(&[plain("more mail waits than was searched")])?;
    }
    Ok(())
}

/// Prints the relays, one per row.
pub fn table(relays: &[RelayStatus], screen: &mut Screen) -> io::Result<()> {
    let row = |relay: &RelayStatus| {
        vec![
            plain(&relay.name),
            state(relay.state.as_str()),
            state(relay.breaker.as_str()),
            plain(format_args!("{} of {} busy", relay.busy, relay.connections)),
            plain(relay.rate.as_deref().unwrap_or("unlimited")),
            plain(grouped(relay.backlog)),
            plain(relay.last_failure.as_deref().unwrap_or_default()),
        ]
    };

    let heads = [
        "RELAY",
        "STATE",
        "BREAKER",
        "CONNECTIONS",
        "RATE",
        "BACKLOG",
        "LAST FAILURE",
    ];

    screen.table(&heads, relays.iter().map(row).collect(), ColumnFit::Wrap)
}

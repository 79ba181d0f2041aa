//! `postrider stats`: the service's numbers on one screen.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::times::rough;
use super::{Failure, ServiceArgs, relay};
use crate::cli::screen::{Screen, StyledText, TextStyle, counted, grouped, plain, state, tinted};
use crate::delivery::State;
use crate::dispatch;
use crate::mail::Priority;

/// `postrider stats`.
#[derive(Args)]
pub struct StatsCommand {
    #[command(flatten)]
    asking: ServiceArgs,
}

impl StatsCommand {
    pub(super) fn run(self, screen: &mut Screen) -> Result<ExitCode, Failure> {
        let answer = self
            .asking
            .service
            .client()?
            .get(&["v1", "stats"], &vec![])?;

        if self.asking.json {
            screen.json(&answer.body)?;
            return Ok(ExitCode::SUCCESS);
        }

        let stats: dispatch::Stats = answer.decode()?;
        let bytes = bytesize::ByteSize(stats.spool_bytes).display().iec();
        let since_start = format!(
            "{} accepted, {} delivered, {} deferred, {} dead",
            grouped(stats.accepted),
            grouped(stats.delivered),
            grouped(stats.deferred),
            grouped(stats.dead)
        );

        let oldest = stats.oldest_queued_seconds.map(|seconds| {
            let waited = Duration::try_from_secs_f64(seconds).ok().and_then(rough);
            vec![plain(waited.map_or("due just now".to_owned(), |waited| {
                format!("due for {waited}")
            }))]
        });

        let set_aside = (stats.quarantined > 0).then(|| {
            let what = format!(
                "{}; see `postrider spool verify`",
                counted(stats.quarantined, "unreadable record")
            );
            vec![tinted(what, TextStyle::Bad)]
        });

        let states = State::ALL.map(State::as_str);
        let priorities = Priority::ALL.map(Priority::as_str);
        screen.facts(vec![
            ("deliveries", Some(counts(&stats.deliveries, &states))),
            (
                "pending",
                Some(vec![plain(format_args!(
                    "{} of {}",
                    grouped(stats.pending),
                    grouped(stats.max_pending)
                ))]),
            ),
            (
                "by priority",
                Some(counts(&stats.pending_by_priority, &priorities)),
            ),
            ("oldest", oldest),
            ("since start", Some(vec![plain(since_start)])),
            (
                "speed",
                Some(vec![plain(format_args!(
                    "{:.1} delivered/s over the last minute",
                    stats.delivered_per_second
                ))]),
            ),
            ("spool", Some(vec![plain(bytes)])),
            ("quarantined", set_aside),
        ])?;
        screen.line(&[])?;
        relay::table(&stats.relays, screen)?;

        Ok(ExitCode::SUCCESS)
    }
}

/// `queued 12, delivered 3`: the known names in their order, then any other; zeros are left out.
fn counts(counts: &BTreeMap<String, u64>, order: &[&str]) -> Vec<StyledText> {
    let others = counts
        .keys()
        .map(String::as_str)
        .filter(|name| !order.contains(name));

    let mut pieces = Vec::new();
    for name in order.iter().copied().chain(others) {
        let count = counts.get(name).copied().unwrap_or(0);
        if count > 0 {
            if !pieces.is_empty() {
                pieces.push(plain(", "));
            }
            pieces.push(state(name));
            pieces.push(plain(format_args!(" {}", grouped(count))));
        }
    }

    if pieces.is_empty() {
        vec![tinted("none", TextStyle::Faint)]
    } else {
        pieces
    }
}

//! `postrider bench`: the measurements of BENCHMARKS.md. Each benchmark measures the engine and a
//! baseline in the same run, because a figure by itself says more about the machine; its results
//! are one line of JSON.

mod accept;
mod backlog;
mod door;
mod end_to_end;
mod machine;
mod place;
mod progress;
mod queries;
mod readers;
mod round_trip;
mod suppressions;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand};
use serde_json::Value;
use tokio::task::JoinSet;

use self::place::SpoolPlace;
use super::Failure;
use super::screen::Screen;
use crate::dispatch::Dispatcher;
use crate::mail::{Mail, MailError};

/// The size of each mail's text in bytes.
const TEXT_BYTES: usize = 2048;
/// How many callers submit mail at once, and how many connections smtp-source opens.
const CALLERS: usize = 64;

#[derive(Parser)]
pub(super) struct BenchCommand {
    #[command(subcommand)]
    which: Benchmark,
    /// The directory for the spools: on a disk like the one of the real spool
    #[arg(long, global = true, value_name = "DIR", default_value = ".")]
    dir: PathBuf,

    /// A PostgreSQL database for the spools instead (`end-to-end`, `accept`, `backlog`); each has a
    /// schema of its own, which is not deleted
    #[arg(long, global = true, value_name = "URL")]
    url: Option<String>,
}

#[derive(Subcommand)]
enum Benchmark {
    /// From the first submission to the last 250 of smtp-sink, against smtp-source straight into
    /// the same sink
    EndToEnd(end_to_end::EndToEndOptions),
    /// Durable accept by 1 and by 64 callers, against appending to a file and fdatasync
    Accept {
        /// How many mails
        #[arg(long, value_name = "N", default_value_t = 50_000)]
        count: usize,
    },
    /// Many pending mails: memory, restart, the cost of queries and exports, and how fast they are
    /// then sent
    Backlog {
        /// How many mails
        #[arg(long, value_name = "N", default_value_t = 1_000_000)]
        count: usize,
    },
    /// Many suppressed addresses: the time and memory of their import over HTTP, and what they cost
    /// other mail
    Suppressions {
        /// How many addresses
        #[arg(long, value_name = "N", default_value_t = 1_000_000)]
        count: usize,
    },
    /// One connection to a relay with a round trip of 50 ms
    RoundTrip,
}

impl BenchCommand {
    pub(super) fn execute(self, screen: &mut Screen) -> Result<(), Failure> {
        let dir = tempfile::Builder::new()
            .prefix("postrider-bench-")
            .tempdir_in(&self.dir);
        let dir = dir.map_err(|e| {
            Failure::Usage(format!(
                "cannot make a directory in {}: {e}",
                self.dir.display()
            ))
        })?;
        let place = SpoolPlace::new(dir.path(), self.url);
        let figures = super::runtime()?.block_on(self.which.run(&place))?;
        Ok(screen.json(figures.to_string().as_bytes())?)
    }
}

impl Benchmark {
    async fn run(self, place: &SpoolPlace) -> Result<Value, Failure> {
        match self {
            Benchmark::EndToEnd(how) => end_to_end::run(&how, place).await,
            Benchmark::Accept { count } => accept::run(count, place).await,
            Benchmark::Backlog { count } => backlog::run(count, place).await,
            Benchmark::Suppressions { count } => suppressions::run(count, place.dir()).await,
            Benchmark::RoundTrip => round_trip::run().await,
        }
    }
}

/// The mail that a caller composes.
fn mail(caller: usize) -> Result<Mail, MailError> {
    let text = "All work and no play makes a dull mail.\r\n".repeat(TEXT_BYTES / 41);
    let to = format!("user{caller}@example.org");
    Mail::builder()
        .from("bench@example.com")
        .to(to)
        .subject("A benchmark")
        .text(text)
        .build()
}

/// The duration of each submission, the shortest first.
struct SubmitTimes(Vec<Duration>);

impl SubmitTimes {
    /// The time within which this share of them was done, in milliseconds.
    fn at(&self, share: f64) -> f64 {
        let place = (self.0.len().saturating_sub(1) as f64 * share) as usize;
        self.0
            .get(place)
            .map_or(0.0, |time| time.as_secs_f64() * 1000.0)
    }
}

/// Submits `count` mails by this many callers, each of which waits for its receipt before the next.
/// Each composes its mail once, because the measurement begins with the submission.
async fn submit(
    postrider: &Dispatcher,
    count: usize,
    callers: usize,
) -> Result<SubmitTimes, Failure> {
    let mut calls = JoinSet::new();
    for caller in 0..callers {
        let postrider = postrider.clone();
        let share = count / callers + usize::from(caller < count % callers);
        calls.spawn(async move {
            let mut times = Vec::with_capacity(share);
            let composed = mail(caller)?;
            for _ in 0..share {
                let mail =
                    Mail::from_rfc5322(composed.envelope().clone(), composed.message().clone())?;
                let started = Instant::now();
                postrider.submit(mail).await?;
                times.push(started.elapsed());
            }
            Ok::<_, crate::dispatch::Error>(times)
        });
    }

    let mut all = Vec::with_capacity(count);
    while let Some(done) = calls.join_next().await {
        all.extend(done.map_err(|e| Failure::Failed(format!("a caller was aborted: {e}")))??);
    }
    all.sort();
    Ok(SubmitTimes(all))
}

/// Waits until the relay has accepted this many deliveries since the start.
async fn delivered(postrider: &Dispatcher, count: u64) {
    while postrider.delivered() < count {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

//! `postrider demo`: sends mails through the real engine and a real spool to a mail server of its
//! own, which refuses, defers and hangs up now and then. Then it prints what happened to them, as
//! the server counted it.

mod plan;
mod sink;
mod summary;
mod tally;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use clap::value_parser;
use tokio::task::JoinSet;

use super::screen::Screen;
use super::{Failure, logging};
use crate::config::{self, Relay, Settings, Sources};
use crate::dispatch::{Dispatcher, Drain, Stats};
use crate::mail::{Mail, MailError, Priority, seconds};

use sink::Sink;
use summary::{ProgressBars, Summary};
use tally::DemoTally;

/// How many callers submit mail at once.
const CALLERS: usize = 64;
/// How long nothing may happen before the demo gives up waiting.
const IDLE_TIMEOUT: Duration = seconds(60);
/// How large each mail's text is, in bytes.
const TEXT_BYTES: usize = 1500;

#[derive(clap::Args)]
pub(super) struct Demo {
    /// How many mails
    #[arg(
        long,
        value_name = "N",
        default_value_t = 5000,
        value_parser = value_parser!(u32).range(1..=10_000_000)
    )]
    count: u32,
    /// Run the engine as this file says, except for its relays, routes, retry schedule and spool
    /// directory
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Demo {
    pub(super) fn execute(self, screen: &mut Screen) -> Result<(), Failure> {
        let settings = match self.config {
            None => Settings::default(),
            Some(_) => Settings::load(&Sources::of_process(self.config))?,
        };
        if std::env::var_os("RUST_LOG").is_some() {
            logging::start(&settings.log)?;
        }
        let count = self.count as usize;
        let dir = tempfile::tempdir()
            .map_err(|e| Failure::Failed(format!("cannot make a temporary directory: {e}")))?;
        super::runtime()?.block_on(demonstrate(settings, count, dir.path(), screen))
    }
}

/// One in ten is critical and two are bulk.
fn priority(number: usize) -> Priority {
    match number % 10 {
        0 => Priority::Critical,
        1 | 2 => Priority::Bulk,
        _ => Priority::Default,
    }
}

async fn demonstrate(
    settings: Settings,
    count: usize,
    dir: &Path,
    screen: &mut Screen,
) -> Result<(), Failure> {
    let tally = Arc::new(DemoTally::new(count));
    let sink = Sink::open(tally.clone())
        .await
        .map_err(|e| Failure::Failed(format!("cannot listen on loopback: {e}")))?;
    let settings = for_demo(settings, &sink, dir);
    summary::introduce(screen, count, &settings, &sink)?;

    let dispatcher = config::builder(&settings)?.start().await?;
    let began = Instant::now();
    let mut callers = start_callers(&dispatcher, &tally, count);
    let stats = tokio::select! {
        stats = follow(&dispatcher, &tally, count) => stats,
        failure = first_failure(&mut callers) => Err(failure),
    };

    callers.shutdown().await;
    let closed = dispatcher.shutdown(Drain::within(seconds(10))).await;
    let stats = stats?;
    closed?;
    Summary::new(&tally, &stats, count, began).print(screen)
}

/// The settings, with the sink as the only relay, a temporary spool, and short delays between
/// attempts.
fn for_demo(mut settings: Settings, sink: &Sink, dir: &Path) -> Settings {
    let connections = settings
        .relays
        .first()
        .map_or(Relay::default().connections, |relay| relay.connections);

    let url = format!("smtp://{}", sink.address).into();
    settings.relays = vec![Relay {
        name: Some("sink".to_owned()),
        url,
        connections,
        ..Relay::default()
    }];
    settings.routes.clear();
    settings.spool.url = None;
    settings.spool.path = dir.join("spool");
    settings.retry.schedule = [100, 200, 400, 800].map(Duration::from_millis).to_vec();

    settings
}

/// Starts the callers, which submit all mails.
fn start_callers(
    dispatcher: &Dispatcher,
    tally: &Arc<DemoTally>,
    count: usize,
) -> JoinSet<Result<(), Failure>> {
    let next = Arc::new(AtomicUsize::new(0));
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS.min(count) {
        let (dispatcher, tally, next) = (dispatcher.clone(), tally.clone(), next.clone());
        callers.spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    return Ok(());
                }
                dispatcher
                    .submit(mail(number).map_err(|e| Failure::Failed(e.to_string()))?)
                    .await?;
                tally.accepted(number);
            }
        });
    }

    callers
}

/// Waits until a caller fails. Does not return if none does.
async fn first_failure(callers: &mut JoinSet<Result<(), Failure>>) -> Failure {
    while let Some(ended) = callers.join_next().await {
        match ended {
            Ok(Ok(())) => {}
            Ok(Err(failure)) => return failure,
            Err(e) => return Failure::Failed(format!("a caller was aborted: {e}")),
        }
    }
    std::future::pending().await
}

fn mail(number: usize) -> Result<Mail, MailError> {
    let line = format!("This is mail {number} of the demo.\n");
    Mail::builder()
        .from("Postrider <postrider@demo.example>")
        .to(format!("mail-{number}@demo.example"))
        .subject(format!("Mail {number}"))
        .text(line.repeat(TEXT_BYTES / line.len()))
        .priority(priority(number))
        .build()
}

/// Waits until every mail was accepted and none is pending, or until nothing happened for
/// [`IDLE_TIMEOUT`]. Returns the engine's last numbers.
async fn follow(
    dispatcher: &Dispatcher,
    tally: &DemoTally,
    count: usize,
) -> Result<Stats, Failure> {
    let bars = ProgressBars::new(count);
    let (mut last, mut since) = ((0, 0, 0), Instant::now());

    loop {
        let stats = dispatcher.stats().await?;
        let (accepted, arrived) = tally.progress();
        bars.show(accepted, arrived);
        if accepted == count as u64 && stats.pending == 0 {
            bars.finish();
            return Ok(stats);
        }
        if (accepted, arrived, stats.pending) != last {
            (last, since) = ((accepted, arrived, stats.pending), Instant::now());
        } else if since.elapsed() > IDLE_TIMEOUT {
            bars.finish();
            return Ok(stats);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

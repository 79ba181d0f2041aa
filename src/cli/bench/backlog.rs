//! A spool with many pending mails: the time of a restart, its memory, and how fast the mails are
//! then sent.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::machine::{SinkProcess, peak_megabytes};
use super::place::SpoolPlace;
use super::{CALLERS, delivered, mail, queries};
use crate::cli::Failure;
use crate::dispatch::{Builder, Dispatcher, Drain, Error};
use crate::mail::{Mail, seconds};
use crate::transport::Relay;

/// How many mails are sent while it is timed.
const TIMED_MAILS: usize = 100_000;
/// How many mails are submitted together.
const GROUP_MAILS: usize = 500;

pub(super) async fn run(count: usize, place: &SpoolPlace) -> Result<Value, Failure> {
    let sink = SinkProcess::start()?;

    let timed = count.min(TIMED_MAILS);
    // The same number of mails from a spool that holds nothing else, for comparison.
    let small = fill_and_send(&sink, timed, timed, (place, "small")).await?;

    let large = fill_and_send(&sink, count, timed, (place, "large")).await?;
    Ok(json!({
        "bench": "backlog",
        "spool": place.kind(),
        "pending": count,
        "fill_per_s": (count as f64 / large.filled.as_secs_f64()).round(),
        "looks": large.looks,
        "restart_to_first_delivery_s": large.first.as_secs_f64(),
        "per_s": large.per_s.round(),
        "per_s_of_small_spool": small.per_s.round(),
        "ratio": large.per_s / small.per_s,
        "peak_mb": peak_megabytes(),
    }))
}

/// The result of one spool.
struct BacklogResult {
    filled: Duration,
    /// The cost of queries while all of it was pending.
    looks: Value,
    /// From opening to the first delivery.
    first: Duration,
    /// Mails a second from there.
    per_s: f64,
}

/// Fills a spool, looks at it, opens it again, and sends `timed` of its mails.
async fn fill_and_send(
    sink: &SinkProcess,
    count: usize,
    timed: usize,
    (place, name): (&SpoolPlace, &str),
) -> Result<BacklogResult, Failure> {
    let build = || -> Result<Builder, Failure> {
        let relay = Relay::smtp(&format!("smtp://127.0.0.1:{}", sink.port));
        let relay = relay
            .map_err(|e| Failure::Failed(e.to_string()))?
            .name("sink")
            .connections(CALLERS);
        let builder = Dispatcher::builder().relay(relay).max_pending(u64::MAX);
        Ok(place.keep(builder, name))
    };

    let postrider = build()?.start().await?;
    postrider.pause("sink").await?;
    let started = Instant::now();
    for from in (0..count).step_by(GROUP_MAILS) {
        let mails: Result<Vec<Mail>, _> = (from..count.min(from + GROUP_MAILS)).map(mail).collect();
        for receipt in postrider.submit_many(mails.map_err(Error::from)?).await {
            receipt?;
        }
    }

    let filled = started.elapsed();
    let looks = queries::look(&postrider).await?;
    postrider.shutdown(Drain::within(seconds(60))).await?;
    drop(postrider);
    let started = Instant::now();

    let postrider = build()?.start().await?;
    postrider.resume("sink").await?;
    delivered(&postrider, 1).await;
    let first = started.elapsed();
    let (begun, already) = (Instant::now(), postrider.delivered());

    delivered(&postrider, timed as u64).await;
    let rate = (timed as u64 - already.min(timed as u64)) as f64 / begun.elapsed().as_secs_f64();
    postrider.shutdown(Drain::within(seconds(60))).await?;
    Ok(BacklogResult {
        filled,
        looks,
        first,
        per_s: rate,
    })
}

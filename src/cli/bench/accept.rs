//! Durable accept, with nothing being sent.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::Instant;

use serde_json::{Value, json};

use super::place::SpoolPlace;
use super::{CALLERS, SubmitTimes, TEXT_BYTES, submit};
use crate::cli::Failure;
use crate::dispatch::{Dispatcher, Drain};
use crate::mail::seconds;
use crate::transport::{Capture, Relay};

pub(super) async fn run(count: usize, place: &SpoolPlace) -> Result<Value, Failure> {
    let dir = place.dir();
    let bare = bare_append(&dir.join("bare"))
        .map_err(|e| Failure::Failed(format!("{}: {e}", dir.display())))?;
    let mut figures = Vec::new();
    for callers in [1, CALLERS] {
        let relay = Relay::capture(&Capture::default());
        let builder = Dispatcher::builder().relay(relay);
        let builder = place.keep(builder, &format!("spool-{callers}"));
        let postrider = builder.start().await?;
        postrider.pause("capture").await?;
        let count = if callers == 1 { count / 10 } else { count };
        let started = Instant::now();
        let times = submit(&postrider, count, callers).await?;
        let took = started.elapsed();
        postrider.shutdown(Drain::within(seconds(10))).await?;
        figures.push(json!({
            "callers": callers,
            "mails": count,
            "per_s": (count as f64 / took.as_secs_f64()).round(),
            "p50_ms": times.at(0.5),
            "p99_ms": times.at(0.99),
            "p50_ratio": times.at(0.5) / bare.at(0.5),
        }));
    }

    Ok(json!({
        "bench": "accept",
        "spool": place.kind(),
        "bare_p50_ms": bare.at(0.5),
        "bare_p99_ms": bare.at(0.99),
        "figures": figures,
    }))
}

/// Appending a mail to a file and `fdatasync`, again and again: the least that durable accept can
/// cost.
fn bare_append(path: &Path) -> std::io::Result<SubmitTimes> {
    let mut file = File::create(path)?;
    let bytes = vec![b'x'; TEXT_BYTES];
    let mut times = Vec::with_capacity(2000);
    for _ in 0..2000 {
        let started = Instant::now();
        file.write_all(&bytes)?;
        file.sync_data()?;
        times.push(started.elapsed());
    }
    times.sort();
    Ok(SubmitTimes(times))
}

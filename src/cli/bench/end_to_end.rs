//! The benchmark from the first submission to the last 250.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use bytesize::ByteSize;
use clap::Args;
use serde_json::{Value, json};

use super::machine::{SinkProcess, cpu_seconds, peak_megabytes};
use super::place::SpoolPlace;
use super::progress::ProgressWatch;
use super::readers::Readers;
use super::{CALLERS, TEXT_BYTES, delivered, submit};
use crate::cli::Failure;
use crate::dispatch::{Dispatcher, Drain};
use crate::mail::seconds;
use crate::transport::Relay;
use crate::transport::dkim::{Dkim, Signer, SigningKey};

#[derive(Args)]
pub(super) struct EndToEndOptions {
    /// How many mails
    #[arg(long, value_name = "N", default_value_t = 50_000)]
    count: usize,
    /// Sign with the private key in this file, as `postrider dkim generate` makes one; give it
    /// again to sign with several
    #[arg(long, value_name = "FILE")]
    dkim: Vec<PathBuf>,
    /// Add this many readers that follow all events, and report what they cost
    #[arg(long, value_name = "N", default_value_t = 0)]
    readers: usize,
    /// Keep the spool below this size, such as 1GiB
    #[arg(long, value_name = "SIZE")]
    max_size: Option<ByteSize>,
}

pub(super) async fn run(options: &EndToEndOptions, place: &SpoolPlace) -> Result<Value, Failure> {
    let EndToEndOptions { count, dkim, .. } = options;
    let count = *count;
    let sink = SinkProcess::start()?;
    let before = sink.yardstick(count, TEXT_BYTES, CALLERS)?;
    let relay = Relay::smtp(&format!("smtp://127.0.0.1:{}", sink.port));
    let relay = relay
        .map_err(|e| Failure::Failed(e.to_string()))?
        .connections(CALLERS)
        .dkim(Arc::new(signers(dkim)?));

    let mut builder = place.keep(Dispatcher::builder().relay(relay), "spool");
    if let Some(size) = options.max_size {
        builder = builder.max_size(size.as_u64());
    }
    let postrider = builder.start().await?;

    // Connections are opened before the clock starts, as a service that runs has them open.
    let warm = CALLERS * 10;
    submit(&postrider, warm, CALLERS).await?;
    delivered(&postrider, warm as u64).await;

    let following = Readers::start(&postrider, options.readers)?;
    let progress = ProgressWatch::begin(&postrider);
    let (started, cpu_before) = (Instant::now(), cpu_seconds());
    let times = submit(&postrider, count, CALLERS).await?;
    let accepted = started.elapsed();
    delivered(&postrider, (warm + count) as u64).await;

    let (took, cpu) = (started.elapsed(), cpu_seconds() - cpu_before);
    let read = following.finish();
    let progress = progress.end().await?;
    postrider.shutdown(Drain::within(seconds(10))).await?;
    let yardstick = f64::midpoint(before, sink.yardstick(count, TEXT_BYTES, CALLERS)?);

    let rate = count as f64 / took.as_secs_f64();
    Ok(json!({
        "bench": "end_to_end",
        "spool": place.kind(),
        "mails": count,
        "signatures": dkim.len(),
        "spool_peak_mb": progress.largest_megabytes,
        "per_s_by_fifth": progress.per_s_by_fifth,
        "readers": options.readers,
        "reader_events": read.events,
        "reader_missed": read.missed,
        "reader_cpu_share": read.cpu_seconds / took.as_secs_f64(),
        "per_s": rate.round(),
        "smtp_source_per_s": yardstick.round(),
        "ratio": rate / yardstick,
        "accept_per_s": (count as f64 / accepted.as_secs_f64()).round(),
        "accept_p50_ms": times.at(0.5),
        "accept_p99_ms": times.at(0.99),
        "cpu_s_per_1000": cpu / (count as f64 / 1000.0),
        "peak_mb": peak_megabytes(),
    }))
}

/// The keys that sign the benchmark's mail, each with a selector of its own.
fn signers(files: &[PathBuf]) -> Result<Dkim, Failure> {
    let signer = |(place, file): (usize, &PathBuf)| {
        let key = SigningKey::read(file).map_err(|e| Failure::Usage(e.to_string()))?;
        Ok(Signer {
            domain: "example.com".into(),
            selector: format!("s{place}"),
            key: Arc::new(key),
            skip_signed: false,
        })
    };
    let signers: Result<Vec<Signer>, Failure> = files.iter().enumerate().map(signer).collect();
    Ok(Dkim::new(signers?))
}

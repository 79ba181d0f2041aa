//! From the first submit to the last 250.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use serde_json::{Value, json};

use super::machine::{Sink, cpu_seconds, peak_megabytes};
use super::readers::Readers;
use super::{CALLERS, SIZE, delivered, submit};
use crate::cli::Failure;
use crate::dispatch::{Dispatcher, Drain};
use crate::mail::seconds;
use crate::transport::Relay;
use crate::transport::dkim::{Dkim, Signer, SigningKey};

pub(super) async fn run(
    count: usize,
    dkim: &[PathBuf],
    readers: usize,
    dir: &Path,
) -> Result<Value, Failure> {
    let sink = Sink::start()?;
    let before = sink.yardstick(count, SIZE, CALLERS)?;
    let relay = Relay::smtp(&format!("smtp://127.0.0.1:{}", sink.port));
    let relay = relay
        .map_err(|e| Failure::Failed(e.to_string()))?
        .connections(CALLERS)
        .dkim(Arc::new(signers(dkim)?));

    let postrider = Dispatcher::builder()
        .relay(relay)
        .spool(dir.join("spool"))
        .start()
        .await?;

    // Connections are opened before the clock starts, as a service that runs has them open.
    let warm = CALLERS * 10;
    submit(&postrider, warm, CALLERS).await?;
    delivered(&postrider, warm as u64).await;

    let following = Readers::start(&postrider, readers)?;
    let (started, cpu_before) = (Instant::now(), cpu_seconds());
    let times = submit(&postrider, count, CALLERS).await?;
    let accepted = started.elapsed();
    delivered(&postrider, (warm + count) as u64).await;

    let (took, cpu) = (started.elapsed(), cpu_seconds() - cpu_before);
    let read = following.finish();
    postrider.shutdown(Drain::within(seconds(10))).await?;
    let yardstick = f64::midpoint(before, sink.yardstick(count, SIZE, CALLERS)?);

    let rate = count as f64 / took.as_secs_f64();
    Ok(json!({
        "bench": "end_to_end",
        "mails": count,
        "signatures": dkim.len(),
        "readers": readers,
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

/// Keys that sign what the benchmark sends, each as a selector of its own.
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

//! From the first submit to the last 250.

use std::path::Path;
use std::time::Instant;

use serde_json::{Value, json};

use super::machine::{Sink, cpu_seconds, peak_megabytes};
use super::{CALLERS, SIZE, delivered, submit};
use crate::cli::Failure;
use crate::dispatch::{Dispatcher, Drain};
use crate::mail::seconds;
use crate::transport::Relay;

pub(super) async fn run(count: usize, dir: &Path) -> Result<Value, Failure> {
    let sink = Sink::start()?;
    let before = sink.yardstick(count, SIZE, CALLERS)?;
    let relay = Relay::smtp(&format!("smtp://127.0.0.1:{}", sink.port));
    let relay = relay
        .map_err(|e| Failure::Failed(e.to_string()))?
        .connections(CALLERS);
    let postrider = Dispatcher::builder()
        .relay(relay)
        .spool(dir.join("spool"))
        .start()
        .await?;
    // Connections are opened before the clock starts, as a service that runs has them open.
    let warm = CALLERS * 10;
    submit(&postrider, warm, CALLERS).await?;
    delivered(&postrider, warm as u64).await;
    let (started, cpu_before) = (Instant::now(), cpu_seconds());
    let times = submit(&postrider, count, CALLERS).await?;
    let accepted = started.elapsed();
    delivered(&postrider, (warm + count) as u64).await;
    let (took, cpu) = (started.elapsed(), cpu_seconds() - cpu_before);
    postrider.shutdown(Drain::within(seconds(10))).await?;
    let yardstick = f64::midpoint(before, sink.yardstick(count, SIZE, CALLERS)?);
    let rate = count as f64 / took.as_secs_f64();
    Ok(json!({
        "bench": "end_to_end",
        "mails": count,
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

//! Many suppressed addresses: the time and memory of their import over HTTP, and what looking them
//! up costs other mail.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Instant;

use serde_json::{Value, json};

use super::machine::{SinkProcess, peak_megabytes};
use super::{CALLERS, delivered, door, submit};
use crate::cli::Failure;
use crate::dispatch::{Dispatcher, Drain};
use crate::mail::seconds;
use crate::transport::Relay;

/// How many mails are timed.
const TIMED_MAILS: usize = 20_000;

pub(super) async fn run(count: usize, dir: &Path) -> Result<Value, Failure> {
    let sink = SinkProcess::start()?;
    let relay = Relay::smtp(&format!("smtp://127.0.0.1:{}", sink.port));
    let relay = relay.map_err(|e| Failure::Failed(e.to_string()))?;
    let postrider = Dispatcher::builder()
        .relay(relay.name("sink").connections(CALLERS))
        .spool(dir)
        .start()
        .await?;

    let without = rate(&postrider).await?;
    let before = peak_megabytes();
    let file = file_of(count);
    let size = file.len() / (1 << 20);
    let started = Instant::now();
    let imported = import(&postrider, file).await?;
    let took = started.elapsed();
    let peak = peak_megabytes();
    let with = rate(&postrider).await?;

    let answer = json!({
        "bench": "suppressions",
        "imported": imported,
        "file_mb": size,
        "import_s": took.as_secs_f64(),
        "peak_mb_before": before,
        "peak_mb": peak,
        "per_s_without": without.round(),
        "per_s": with.round(),
        "ratio": with / without,
    });
    postrider.shutdown(Drain::within(seconds(60))).await?;
    Ok(answer)
}

/// A CSV file with one address per line, as providers export them.
fn file_of(count: usize) -> String {
    let mut file = String::from("address,reason,list,since,until,note\n");
    for n in 0..count {
        let domain = n % 5000;
        let _ = writeln!(
            file,
            "gone{n}@domain{domain}.example,bounce,,2026-01-31T12:00:00Z,,"
        );
    }
    file
}

/// Imports the file over HTTP. Returns the number of new entries.
async fn import(postrider: &Dispatcher, file: String) -> Result<u64, Failure> {
    let send = move |url: String| {
        let request = ureq::post(format!("{url}/v1/suppressions/import"));
        let request = request.header("content-type", "text/csv");
        let mut answer = request.send(file).map_err(|error| error.to_string())?;
        let answer = answer.body_mut().read_to_string();
        answer.map_err(|error| error.to_string())
    };
    let answer = door::through(postrider, send).await?;
    let read: Option<Value> = serde_json::from_str(&answer).ok();
    read.and_then(|read| read["imported"].as_u64())
        .ok_or_else(|| Failure::Failed(format!("the import failed: {answer}")))
}

/// Mails a second, from the first submit to the last delivery.
async fn rate(postrider: &Dispatcher) -> Result<f64, Failure> {
    let already = postrider.delivered();
    let started = Instant::now();
    submit(postrider, TIMED_MAILS, CALLERS).await?;
    delivered(postrider, already + TIMED_MAILS as u64).await;
    Ok(TIMED_MAILS as f64 / started.elapsed().as_secs_f64())
}

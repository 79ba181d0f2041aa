//! Many addresses that are not to get mail: how long a file of them takes to be read over HTTP, what
//! memory it takes, and what it costs other people's mail that they are asked for.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Instant;

use serde_json::{Value, json};
use tokio::sync::watch;

use super::machine::{Sink, peak_megabytes};
use super::{CALLERS, delivered, submit};
use crate::cli::Failure;
use crate::dispatch::{Dispatcher, Drain};
use crate::ingress::http::{HttpDoor, HttpSettings, Limits};
use crate::mail::seconds;
use crate::transport::Relay;

/// How many mails are timed.
const TIMED: usize = 20_000;

pub(super) async fn run(count: usize, dir: &Path) -> Result<Value, Failure> {
    let sink = Sink::start()?;
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

/// A line an address, as a provider exports them.
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

/// Brings the file to the HTTP door; how many entries that made.
async fn import(postrider: &Dispatcher, file: String) -> Result<u64, Failure> {
    let failed = |error: String| Failure::Failed(error);
    let settings = HttpSettings {
        listen: ([127, 0, 0, 1], 0).into(),
        tokens: Vec::new(),
        limits: Limits::default(),
    };
    let door = HttpDoor::bind(settings).await;
    let door = door.map_err(|error| failed(error.to_string()))?;
    let url = format!("http://{}/v1/suppressions/import", door.local_addr());
    let (stop, stopped) = watch::channel(false);
    let served = tokio::spawn(door.serve(postrider.clone(), stopped));

    let asked = tokio::task::spawn_blocking(move || {
        let request = ureq::post(&url).header("content-type", "text/csv");
        let mut answer = request.send(file)?;
        answer.body_mut().read_to_string()
    });
    let answer = asked.await.map_err(|error| failed(error.to_string()))?;
    let answer = answer.map_err(|error| failed(format!("the import failed: {error}")))?;
    stop.send_replace(true);
    let _ = served.await;

    let answer: Value = serde_json::from_str(&answer).map_err(|error| failed(error.to_string()))?;
    answer["imported"]
        .as_u64()
        .ok_or_else(|| failed(format!("the import failed: {answer}")))
}

/// Mails a second, from the first submit to the last delivery.
async fn rate(postrider: &Dispatcher) -> Result<f64, Failure> {
    let already = postrider.delivered();
    let started = Instant::now();
    submit(postrider, TIMED, CALLERS).await?;
    delivered(postrider, already + TIMED as u64).await;
    Ok(TIMED as f64 / started.elapsed().as_secs_f64())
}

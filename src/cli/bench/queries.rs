//! The cost of queries while much mail is pending: counts, lists, exports over HTTP with their
//! memory, and operations on many mails.

use std::io::Read;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::door;
use super::machine::resident_megabytes;
use crate::cli::Failure;
use crate::delivery::State;
use crate::dispatch::{Act, Dispatcher, JobRequest, JobState};
use crate::spool::Query;

/// How many mails the operations change.
const BULK_MAILS: u64 = 10_000;

pub(super) async fn look(postrider: &Dispatcher) -> Result<Value, Failure> {
    let began = Instant::now();
    postrider.stats().await?;
    let stats = began.elapsed();

    let queued = Query {
        state: Some(State::Queued),
        ..Query::default()
    };
    let began = Instant::now();
    postrider.list(queued.clone()).await?;
    let list = began.elapsed();

    let nobody = "nobody@example.org".parse();
    let absent = Query {
        recipient: Some(nobody.map_err(|e| Failure::Failed(format!("{e}")))?),
        ..Query::default()
    };
    let began = Instant::now();
    postrider.list(absent).await?;
    let absent = began.elapsed();

    let csv = export(postrider, "csv").await?;
    let ndjson = export(postrider, "ndjson").await?;

    let cancel = act(postrider, Act::Cancel, queued).await?;
    let cancelled = Query {
        state: Some(State::Cancelled),
        ..Query::default()
    };
    let retry = act(postrider, Act::Retry, cancelled).await?;

    let milliseconds = |span: Duration| span.as_secs_f64() * 1000.0;
    Ok(json!({
        "stats_ms": milliseconds(stats),
        "first_page_ms": milliseconds(list),
        "page_of_nobody_ms": milliseconds(absent),
        "export_csv": csv,
        "export_ndjson": ndjson,
        "acted_on": BULK_MAILS,
        "cancel_s": cancel.as_secs_f64(),
        "retry_s": retry.as_secs_f64(),
    }))
}

/// Exports all mails, and measures the memory meanwhile.
async fn export(postrider: &Dispatcher, format: &'static str) -> Result<Value, Failure> {
    let read = move |url: String| {
        let before = resident_megabytes();
        let began = Instant::now();
        let answer = ureq::get(format!("{url}/v1/mails/export?format={format}")).call();
        let answer = answer.map_err(|error| error.to_string())?;
        let mut body = answer.into_body().into_reader();
        let (mut bytes, mut most) = (0, before);
        let mut piece = vec![0; 1 << 20];
        loop {
            let read = body.read(&mut piece).map_err(|error| error.to_string())?;
            if read == 0 {
                break;
            }
            bytes += read;
            most = most.max(resident_megabytes());
        }

        Ok(json!({
            "s": began.elapsed().as_secs_f64(),
            "mb": bytes / 1_000_000,
            "resident_mb_before": before,
            "resident_mb_most": most,
        }))
    };
    door::through(postrider, read).await
}

/// Runs an operation on many mails as a job. Returns how long it took.
async fn act(postrider: &Dispatcher, act: Act, query: Query) -> Result<Duration, Failure> {
    let began = Instant::now();
    let job = postrider.jobs().start(JobRequest {
        act,
        query,
        limit: Some(BULK_MAILS),
        per_minute: None,
        search: "a benchmark".into(),
    })?;

    loop {
        tokio::time::sleep(Duration::from_millis(5)).await;
        match postrider.jobs().get(job.id) {
            Some(job) if job.state == JobState::Running => {}
            Some(job) if job.state == JobState::Done => return Ok(began.elapsed()),
            job => return Err(Failure::Failed(format!("the job ended as {job:?}"))),
        }
    }
}

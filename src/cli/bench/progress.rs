//! Samples a run: the size of the spool's files, and whether the rate stays even.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use crate::cli::Failure;
use crate::dispatch::{Dispatcher, Error};

/// How often a sample is taken.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(250);

/// Takes samples until it is ended.
pub(super) struct ProgressWatch {
    has_ended: Arc<AtomicBool>,
    samples: JoinHandle<Result<Vec<ProgressSample>, Error>>,
}

/// One sample.
struct ProgressSample {
    at: Instant,
    delivered: u64,
    bytes: u64,
}

/// The summary of all samples.
pub(super) struct ProgressSummary {
    pub largest_megabytes: u64,
    /// Mails a second in each fifth of the time.
    pub per_s_by_fifth: Vec<f64>,
}

impl ProgressWatch {
    pub(super) fn begin(postrider: &Dispatcher) -> Self {
        let has_ended = Arc::new(AtomicBool::new(false));
        let (ended, postrider) = (Arc::clone(&has_ended), postrider.clone());
        let samples = tokio::spawn(async move {
            let mut seen = Vec::new();
            loop {
                let is_last = ended.load(Ordering::Relaxed);
                seen.push(ProgressSample {
                    at: Instant::now(),
                    delivered: postrider.delivered(),
                    bytes: postrider.stats().await?.spool_bytes,
                });
                if is_last {
                    return Ok(seen);
                }
                tokio::time::sleep(SAMPLE_INTERVAL).await;
            }
        });
        ProgressWatch { has_ended, samples }
    }

    pub(super) async fn end(self) -> Result<ProgressSummary, Failure> {
        self.has_ended.store(true, Ordering::Relaxed);
        let seen = self.samples.await;
        let seen = seen.map_err(|e| Failure::Failed(format!("sampling was aborted: {e}")))??;

        let largest = seen.iter().map(|seen| seen.bytes).max().unwrap_or_default();
        let step = seen.len().div_ceil(5).max(1);
        let ends: Vec<&ProgressSample> = seen.iter().step_by(step).chain(seen.last()).collect();
        let rate = |pair: &[&ProgressSample]| {
            let mails = pair[1].delivered - pair[0].delivered;
            (mails as f64 / (pair[1].at - pair[0].at).as_secs_f64()).round()
        };

        Ok(ProgressSummary {
            largest_megabytes: largest / 1024 / 1024,
            per_s_by_fifth: ends.windows(2).map(rate).collect(),
        })
    }
}

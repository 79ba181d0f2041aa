//! Readers that follow all events while mail flows, on threads of their own, so that their cost can
//! be told from the engine's.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::StreamExt;
use tokio::runtime::{Builder, Runtime};

use super::machine::thread_seconds;
use crate::cli::Failure;
use crate::dispatch::{Dispatcher, EventItem};

/// The threads' name, by which their time is found.
const NAME: &str = "bench-reader";

pub(super) struct Readers {
    /// There until it is dropped, which must not wait: that is within another runtime.
    runtime: Option<Runtime>,
    events: Arc<AtomicU64>,
    missed: Arc<AtomicU64>,
    seconds_before: f64,
}

/// What they did since they began.
pub(super) struct ReaderResult {
    pub events: u64,
    /// How many were told as gone.
    pub missed: u64,
    pub cpu_seconds: f64,
}

impl Readers {
    /// So many, each from now on.
    pub(super) fn start(postrider: &Dispatcher, count: usize) -> Result<Self, Failure> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name(NAME)
            .build()
            .map_err(|e| Failure::Failed(format!("readers cannot be started: {e}")))?;

        let (events, missed) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        for _ in 0..count {
            let mut stream = postrider.events();
            let (events, missed) = (Arc::clone(&events), Arc::clone(&missed));
            runtime.spawn(async move {
                while let Some(item) = stream.next().await {
                    match item {
                        EventItem::Event(_) => events.fetch_add(1, Ordering::Relaxed),
                        EventItem::Lagged(gone) => missed.fetch_add(gone, Ordering::Relaxed),
                    };
                }
            });
        }

        Ok(Readers {
            runtime: Some(runtime),
            events,
            missed,
            seconds_before: thread_seconds(NAME),
        })
    }

    pub(super) fn finish(self) -> ReaderResult {
        ReaderResult {
            events: self.events.load(Ordering::Relaxed),
            missed: self.missed.load(Ordering::Relaxed),
            cpu_seconds: thread_seconds(NAME) - self.seconds_before,
        }
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

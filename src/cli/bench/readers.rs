//! Readers that follow all events while mail is sent, on threads of their own, so that their CPU
//! time can be measured separately from the engine's.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::StreamExt;
use tokio::runtime::{Builder, Runtime};

use super::machine::thread_seconds;
use crate::cli::Failure;
use crate::dispatch::{Dispatcher, EventItem};

/// The threads' name, by which their CPU time is found.
const NAME: &str = "bench-reader";

pub(super) struct Readers {
    /// `None` only while it is dropped: that happens within another runtime, where it must not
    /// wait.
    runtime: Option<Runtime>,
    events: Arc<AtomicU64>,
    missed: Arc<AtomicU64>,
    seconds_before: f64,
}

/// What the readers did since they were started.
pub(super) struct ReaderResult {
    pub events: u64,
    /// How many events were reported as missed.
    pub missed: u64,
    pub cpu_seconds: f64,
}

impl Readers {
    /// Starts this many readers, each from the current end of the journal.
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

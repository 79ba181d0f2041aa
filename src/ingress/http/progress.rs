//! The time-out of an answer. A long operation that makes progress, such as the import of a file
//! with a million lines, reports it, and may take as long as it needs.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Counts the steps that a request has done. Clones share the count.
#[derive(Clone, Debug, Default)]
pub(super) struct WorkDone(Arc<AtomicU64>);

impl WorkDone {
    /// Records a step.
    pub(super) fn made(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// The result of `work`; `None` if it recorded no step for `span`.
    pub(super) async fn wait_for<T>(
        &self,
        work: impl Future<Output = T>,
        span: Duration,
    ) -> Option<T> {
        let mut work = pin!(work);
        let mut seen = 0;
        loop {
            if let Ok(done) = tokio::time::timeout(span, &mut work).await {
                return Some(done);
            }
            let made = self.0.load(Ordering::Relaxed);
            if made == seen {
                return None;
            }
            seen = made;
        }
    }
}

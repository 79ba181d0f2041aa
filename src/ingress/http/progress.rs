//! How long an answer is waited for. What is long and gets on, such as a file of a million lines,
//! says so now and then, and is waited for as long as it does.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What was done of a request so far. Clones count together.
#[derive(Clone, Debug, Default)]
pub(super) struct WorkDone(Arc<AtomicU64>);

impl WorkDone {
    /// Some more of it is done.
    pub(super) fn made(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// What comes of `work`; `None` where for `span` nothing more of it was done.
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

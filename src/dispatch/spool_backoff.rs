//! A pause in which no mail is sent after the spool failed to record an outcome: mail without a
//! recorded outcome is sent again, and without a pause that would repeat endlessly.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use super::engine::Engine;

/// The length of the pause: at first, and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

#[derive(Default)]
pub(super) struct SpoolBackoff {
    resting: AtomicBool,
    /// The number of failures in a row.
    failures: AtomicU32,
}

impl SpoolBackoff {
    pub(super) fn is_over(&self) -> bool {
        !self.resting.load(Ordering::Relaxed)
    }
}

impl Engine {
    /// Starts a pause after the spool failed to record something. If the spool reports a failure
    /// itself, nothing is sent anyway.
    pub(super) fn spool_failed(self: &Arc<Self>) {
        let rest = &self.spool_backoff;
        if self.spool.failure().is_some() || rest.resting.swap(true, Ordering::Relaxed) {
            return;
        }

        let failures = rest.failures.fetch_add(1, Ordering::Relaxed);
        let span = (FIRST_PAUSE * 2_u32.pow(failures.min(16))).min(LONGEST_PAUSE);
        tracing::error!(
            ?span,
            "no mail is sent for a while, because its outcome could not be recorded"
        );

        let engine = Arc::downgrade(self);
        tokio::spawn(async move {
            tokio::time::sleep(span).await;
            if let Some(engine) = engine.upgrade() {
                engine.spool_backoff.resting.store(false, Ordering::Relaxed);
                engine.spool.changed().notify_one();
            }
        });
    }

    /// The spool has recorded something, so the next pause is short again.
    pub(super) fn spool_recorded(&self) {
        let failures = &self.spool_backoff.failures;
        if failures.load(Ordering::Relaxed) > 0 && self.spool_backoff.is_over() {
            failures.store(0, Ordering::Relaxed);
        }
    }
}

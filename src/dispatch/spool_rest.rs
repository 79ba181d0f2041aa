//! A while in which nothing is begun, because the spool failed at what mail depends on: what was
//! sent and could not be recorded is sent again, and that must not go on as fast as it can.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use super::engine::Engine;

/// How long at first, and at most.
const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(30);

#[derive(Default)]
pub(super) struct SpoolRest {
    resting: AtomicBool,
    /// How often in a row.
    failures: AtomicU32,
}

impl SpoolRest {
    pub(super) fn is_over(&self) -> bool {
        !self.resting.load(Ordering::Relaxed)
    }
}

impl Engine {
    /// The spool has failed to record something. One that says that it has failed holds everything
    /// up by itself.
    pub(super) fn spool_failed(self: &Arc<Self>) {
        let rest = &self.spool_rest;
        if self.spool.failure().is_some() || rest.resting.swap(true, Ordering::Relaxed) {
            return;
        }

        let failures = rest.failures.fetch_add(1, Ordering::Relaxed);
        let span = (FIRST * 2_u32.pow(failures.min(16))).min(LONGEST);
        tracing::error!(
            ?span,
            "nothing is sent for a while, because it could not be recorded"
        );

        let engine = Arc::downgrade(self);
        tokio::spawn(async move {
            tokio::time::sleep(span).await;
            if let Some(engine) = engine.upgrade() {
                engine.spool_rest.resting.store(false, Ordering::Relaxed);
                engine.spool.changed().notify_one();
            }
        });
    }

    /// It has recorded something.
    pub(super) fn spool_recorded(&self) {
        let failures = &self.spool_rest.failures;
        if failures.load(Ordering::Relaxed) > 0 && self.spool_rest.is_over() {
            failures.store(0, Ordering::Relaxed);
        }
    }
}

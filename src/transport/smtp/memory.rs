//! What a transport has learned about its relay. Each thing is forgotten after a while: servers are
//! repaired.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::mail::minutes;

/// How long a relay that dropped what was written ahead is spoken to one command at a time.
const LOCK_STEP: Duration = minutes(30);

/// Shared by all connections of one transport.
#[derive(Debug, Default)]
pub(super) struct Memory {
    lock_step_until: Mutex<Option<Instant>>,
}

impl Memory {
    /// Whether each command must wait for the answer to the one before, although the server offers
    /// PIPELINING.
    pub(super) fn wants_lock_step(&self) -> bool {
        let until = *self.lock_step_until.lock();
        until.is_some_and(|until| Instant::now() < until)
    }

    /// The server answered the end of a message, and nothing of what was written behind it.
    pub(super) fn drops_what_is_ahead(&self) {
        *self.lock_step_until.lock() = Some(Instant::now() + LOCK_STEP);
    }
}

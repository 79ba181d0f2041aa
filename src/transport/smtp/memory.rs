//! What a transport has learned about its relay. It forgets each thing after some minutes, because
//! servers get repaired.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::mail::minutes;

/// How long PIPELINING is not used with a relay that ignored commands written ahead.
const LOCK_STEP_FOR: Duration = minutes(30);

/// How long an address that failed is tried after the others.
const BAD_FOR: Duration = minutes(5);

/// Shared by all connections of one transport.
#[derive(Debug, Default)]
pub(super) struct Memory {
    lock_step_until: Mutex<Option<Instant>>,
    /// Whether the server has ever answered commands that were written ahead within a mail's
    /// envelope.
    answers_pipelined: AtomicBool,
    bad: Mutex<HashMap<SocketAddr, BadAddress>>,
}

/// An address where no connection could be opened, or where all mail is refused.
#[derive(Debug)]
struct BadAddress {
    until: Instant,
    reason: String,
}

impl Memory {
    /// Whether PIPELINING must not be used although the server announces it.
    pub(super) fn must_await_each_reply(&self) -> bool {
        let until = *self.lock_step_until.lock();
        until.is_some_and(|until| Instant::now() < until)
    }

    /// Records that the server answered a command and dropped those written behind it.
    pub(super) fn note_dropped_pipelining(&self) {
        *self.lock_step_until.lock() = Some(Instant::now() + LOCK_STEP_FOR);
    }

    /// Records that the server answered a command that was written ahead.
    pub(super) fn note_answered_pipelining(&self) {
        self.answers_pipelined.store(true, Ordering::Relaxed);
    }

    /// Whether it ever did. If so, a missing answer has another cause.
    pub(super) fn answers_pipelined(&self) -> bool {
        self.answers_pipelined.load(Ordering::Relaxed)
    }

    /// Sorts the addresses so that those that failed lately come last. Forgets failures of
    /// addresses that are not among these.
    pub(super) fn reliable_first(&self, mut addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
        let now = Instant::now();
        let mut bad = self.bad.lock();
        bad.retain(|address, known| now < known.until && addresses.contains(address));
        addresses.sort_by_key(|address| bad.get(address).map(|known| known.until));
        addresses
    }

    /// Records that this address failed, and why.
    pub(super) fn mark_bad(&self, address: SocketAddr, reason: &str) {
        let known = BadAddress {
            until: Instant::now() + BAD_FOR,
            reason: reason.to_owned(),
        };
        let before = self.bad.lock().insert(address, known);
        if before.is_none_or(|before| before.reason != reason) {
            tracing::debug!(%address, reason, "an address of the relay is tried last for a while");
        }
    }

    /// Records that this address works.
    pub(super) fn mark_good(&self, address: SocketAddr) {
        self.bad.lock().remove(&address);
    }
}

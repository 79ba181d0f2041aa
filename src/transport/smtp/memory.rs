//! What a transport has learned about its relay. Each thing is forgotten after a while: servers are
//! repaired.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::mail::minutes;

/// How long a relay that dropped what was written ahead is spoken to one command at a time.
const LOCK_STEP_FOR: Duration = minutes(30);

/// How long an address that failed is tried after the others.
const BAD_FOR: Duration = minutes(5);

/// Shared by all connections of one transport.
#[derive(Debug, Default)]
pub(super) struct Memory {
    lock_step_until: Mutex<Option<Instant>>,
    /// Commands that were written ahead within a mail's envelope were answered.
    answers_pipelined: AtomicBool,
    bad: Mutex<HashMap<SocketAddr, BadAddress>>,
}

/// An address at which the server could not be spoken to.
#[derive(Debug)]
struct BadAddress {
    until: Instant,
    reason: String,
}

impl Memory {
    /// Whether each command must wait for the answer to the one before, although the server offers
    /// PIPELINING.
    pub(super) fn wants_lock_step(&self) -> bool {
        let until = *self.lock_step_until.lock();
        until.is_some_and(|until| Instant::now() < until)
    }

    /// The server answered a command, and nothing of what was written behind it.
    pub(super) fn drops_pipelined(&self) {
        *self.lock_step_until.lock() = Some(Instant::now() + LOCK_STEP_FOR);
    }

    /// The server answered a command that was written ahead.
    pub(super) fn has_answered_pipelined(&self) {
        self.answers_pipelined.store(true, Ordering::Relaxed);
    }

    /// Whether it ever did: its silence then has another cause.
    pub(super) fn answers_pipelined(&self) -> bool {
        self.answers_pipelined.load(Ordering::Relaxed)
    }

    /// These addresses, those that failed lately behind the others. Of what is not among them,
    /// nothing is remembered any more.
    pub(super) fn good_ones_first(&self, mut addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
        let now = Instant::now();
        let mut bad = self.bad.lock();
        bad.retain(|address, known| now < known.until && addresses.contains(address));
        addresses.sort_by_key(|address| bad.get(address).map(|known| known.until));
        addresses
    }

    /// The server could not be spoken to at this address, for this reason, or takes nothing there.
    pub(super) fn is_bad(&self, address: SocketAddr, reason: &str) {
        let known = BadAddress {
            until: Instant::now() + BAD_FOR,
            reason: reason.to_owned(),
        };
        let before = self.bad.lock().insert(address, known);
        if before.is_none_or(|before| before.reason != reason) {
            tracing::debug!(%address, reason, "an address of the relay is tried last for a while");
        }
    }

    /// The server could be spoken to at this address.
    pub(super) fn is_good(&self, address: SocketAddr) {
        self.bad.lock().remove(&address);
    }
}

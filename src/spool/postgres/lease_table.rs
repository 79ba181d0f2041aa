//! The leases that this node holds: which delivery, under which serial, and what a settle needs to
//! know about it. The row's owner is decisive, but a lease that is not in this table settles
//! nothing.

use std::collections::HashMap;
use std::sync::Arc;

use crate::delivery::Delivery;
use crate::mail::MailId;
use crate::spool::{LeaseToken, Manifest};

/// How many serials a session has; the session's number is stored in the bits above.
const SERIALS: u64 = 1 << 40;

/// A delivery that is leased to this node.
#[derive(Clone)]
pub(super) struct HeldDelivery {
    pub serial: u64,
    pub manifest: Arc<Manifest>,
    /// The delivery when it was leased.
    pub delivery: Delivery,
    /// Whether the mark was written that it may have been sent.
    pub marked: bool,
    /// Whether it was held by so many dead nodes that it may be the cause.
    pub suspect: bool,
}

#[derive(Default)]
pub(super) struct LeaseTable {
    held: HashMap<(MailId, u16), HeldDelivery>,
    session: u64,
    last: u64,
}

/// The session in which a lease was given.
pub(super) fn session_of(serial: u64) -> i32 {
    i32::try_from(serial / SERIALS).unwrap_or(0)
}

impl LeaseTable {
    /// Begins a session and forgets all earlier leases.
    pub(super) fn begin(&mut self, session: i32) {
        self.held.clear();
        self.session = u64::try_from(session).unwrap_or(0);
        self.last = 0;
    }

    pub(super) fn lease(&mut self, mail: MailId, index: u16, mut held: HeldDelivery) -> LeaseToken {
        self.last += 1;
        held.serial = self.session * SERIALS + self.last;
        let serial = held.serial;
        self.held.insert((mail, index), held);
        LeaseToken {
            mail,
            index,
            serial,
        }
    }

    /// The delivery of a lease; `None` if the lease is not current.
    pub(super) fn current(&self, token: &LeaseToken) -> Option<&HeldDelivery> {
        let held = self.held.get(&(token.mail, token.index));
        held.filter(|held| held.serial == token.serial)
    }

    pub(super) fn mark(&mut self, token: &LeaseToken) {
        if let Some(held) = self.held.get_mut(&(token.mail, token.index)) {
            held.marked |= held.serial == token.serial;
        }
    }

    /// Ends a lease, if it is current.
    pub(super) fn end(&mut self, token: &LeaseToken) -> Option<HeldDelivery> {
        self.current(token)?;
        self.held.remove(&(token.mail, token.index))
    }

    /// How many deliveries are held.
    pub(super) fn count(&self) -> usize {
        self.held.len()
    }

    /// Whether a lease of this delivery is held.
    pub(super) fn has(&self, mail: MailId, index: u16) -> bool {
        self.held.contains_key(&(mail, index))
    }

    pub(super) fn has_suspect(&self) -> bool {
        self.held.values().any(|held| held.suspect)
    }
}

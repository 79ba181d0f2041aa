//! The right to settle a delivery.

use std::fmt;
use std::sync::Weak;

use crate::mail::MailId;

/// Names one lease: which delivery, and which of the leases it has had. Old tokens settle nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LeaseToken {
    /// The mail.
    pub mail: MailId,
    /// Which of its deliveries, in the envelope's order.
    pub index: u16,
    /// Never given twice by one spool.
    pub serial: u64,
}

/// Takes leases back.
pub trait LeaseKeeper: Send + Sync {
    /// The delivery goes back to its queue as it was. Must not block.
    fn release(&self, token: LeaseToken);
}

/// The right to settle one delivery. Dropped unused, it gives the delivery back: so whatever ends a
/// sender, a panic included, its mail is free again.
pub struct Lease {
    token: LeaseToken,
    keeper: Option<Weak<dyn LeaseKeeper>>,
}

impl Lease {
    /// A lease that `keeper` takes back.
    pub fn new(token: LeaseToken, keeper: Weak<dyn LeaseKeeper>) -> Self {
        Lease {
            token,
            keeper: Some(keeper),
        }
    }

    /// Its name.
    pub fn token(&self) -> LeaseToken {
        self.token
    }

    /// Uses the lease up: dropping gives nothing back any more.
    pub fn spend(mut self) -> LeaseToken {
        self.keeper = None;
        self.token
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(keeper) = self.keeper.take().and_then(|keeper| keeper.upgrade()) {
            keeper.release(self.token);
        }
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.token.fmt(f)
    }
}

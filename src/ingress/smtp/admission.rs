//! How many connections there may be, and how many bytes of messages they may hold together.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Limits;

/// Counts connections, all of them and each peer's.
#[derive(Clone, Debug)]
pub(super) struct Admission {
    total: usize,
    per_peer: usize,
    open: Arc<Mutex<Open>>,
}

#[derive(Debug, Default)]
struct Open {
    total: usize,
    by_peer: HashMap<IpAddr, usize>,
}

impl Admission {
    pub fn new(limits: &Limits) -> Self {
        Admission {
            total: limits.connections,
            per_peer: limits.connections_per_peer,
            open: Arc::default(),
        }
    }

    /// A place for a connection from `peer`, until it is dropped; or which limit it would break.
    pub fn admit(&self, peer: IpAddr) -> Result<Place, &'static str> {
        let peer = network(peer);
        let mut open = self.open.lock();
        if open.total >= self.total {
            return Err("too many connections; try again later");
        }
        let from_peer = open.by_peer.entry(peer).or_default();
        if *from_peer >= self.per_peer {
            return Err("too many connections from your address; try again later");
        }
        *from_peer += 1;
        open.total += 1;
        drop(open);
        Ok(Place {
            peer,
            admission: self.clone(),
        })
    }
}

/// One open connection's place.
#[derive(Debug)]
pub(super) struct Place {
    peer: IpAddr,
    admission: Admission,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.admission.open.lock();
        open.total -= 1;
        if let Some(from_peer) = open.by_peer.get_mut(&self.peer) {
            *from_peer -= 1;
            if *from_peer == 0 {
                open.by_peer.remove(&self.peer);
            }
        }
    }
}

/// Whom an address counts for: an IPv6 host has a whole /64 network to call from (RFC 4291 §2.5.4).
fn network(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
        v4 => v4,
    }
}

/// Bytes of messages that may still be taken into memory. Clones draw on the same store.
#[derive(Clone, Debug)]
pub(super) struct Budget(Arc<Semaphore>);

impl Budget {
    pub fn new(bytes: usize) -> Self {
        Budget(Arc::new(Semaphore::new(bytes.min(Semaphore::MAX_PERMITS))))
    }

    /// Takes `bytes` more into `room`, if there are as many. Never waits: a mail that waits for
    /// memory holds some.
    pub fn grow(&self, room: &mut Room, bytes: usize) -> bool {
        let Ok(wanted) = u32::try_from(bytes) else {
            return false;
        };
        let Ok(more) = Arc::clone(&self.0).try_acquire_many_owned(wanted) else {
            return false;
        };
        match &mut room.0 {
            Some(permit) => permit.merge(more),
            none => *none = Some(more),
        }
        true
    }
}

/// What one message has taken of the budget; given back when dropped.
#[derive(Debug, Default)]
pub(super) struct Room(Option<OwnedSemaphorePermit>);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_peer_and_all_together_are_bounded_and_places_come_back() {
        let limits = Limits {
            connections: 3,
            connections_per_peer: 2,
            ..Limits::default()
        };
        let admission = Admission::new(&limits);
        let peer = |last: u8| IpAddr::from([192, 0, 2, last]);
        let first = admission.admit(peer(1)).expect("room");
        let _second = admission.admit(peer(1)).expect("room");
        assert!(
            admission
                .admit(peer(1))
                .expect_err("two are the most")
                .contains("your address")
        );
        let _third = admission.admit(peer(2)).expect("room");
        assert!(
            !admission
                .admit(peer(3))
                .expect_err("three are the most")
                .contains("your address")
        );
        drop(first);
        admission.admit(peer(1)).expect("room again");
        assert_eq!(admission.open.lock().by_peer.len(), 2);
    }

    #[test]
    fn a_network_counts_as_one_peer() {
        let address = |text: &str| text.parse::<IpAddr>().expect("an address");
        assert_eq!(
            network(address("2001:db8:1:2:3::4")),
            network(address("2001:db8:1:2:ffff::1"))
        );
        assert_ne!(
            network(address("2001:db8:1:2::1")),
            network(address("2001:db8:1:3::1"))
        );
        assert_eq!(network(address("::ffff:192.0.2.1")), address("192.0.2.1"));
    }

    #[test]
    fn the_budget_is_shared_and_comes_back() {
        let budget = Budget::new(100);
        let (mut one, mut other) = (Room::default(), Room::default());
        assert!(budget.grow(&mut one, 60) && budget.grow(&mut one, 20));
        assert!(!budget.grow(&mut other, 21) && budget.grow(&mut other, 20));
        drop(one);
        assert!(budget.grow(&mut other, 80));
    }
}

//! Limits how many connections a listener has: in all, and from one address.
//!
//! *Invariant:* one address can never use all connections of a listener that has more than one.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use parking_lot::Mutex;

/// Counts connections, all of them and each peer's.
#[derive(Clone, Debug)]
pub(super) struct Admission {
    total: usize,
    per_peer: usize,
    open: Arc<Mutex<OpenConnections>>,
}

#[derive(Debug, Default)]
struct OpenConnections {
    total: usize,
    by_peer: HashMap<IpAddr, usize>,
}

impl Admission {
    /// Allows `total` connections, of which one address may have `per_peer`, and never more than
    /// three quarters.
    pub fn new(total: usize, per_peer: usize) -> Self {
        Admission {
            total,
            per_peer: per_peer.min((total - total.div_ceil(4)).max(1)),
            open: Arc::default(),
        }
    }

    /// A place for a connection from `peer`, which is free again when it is dropped. The error says
    /// which limit is reached.
    pub fn admit(&self, peer: IpAddr) -> Result<ConnectionPlace, &'static str> {
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

        Ok(ConnectionPlace {
            peer,
            admission: self.clone(),
        })
    }
}

/// The place of one open connection.
#[derive(Debug)]
pub(super) struct ConnectionPlace {
    peer: IpAddr,
    admission: Admission,
}

impl Drop for ConnectionPlace {
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

/// The network by which an address is counted: an IPv6 host can use a whole /64 network (RFC 4291
/// §2.5.4).
pub(super) fn network(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_peer_and_all_together_are_bounded_and_places_come_back() {
        let admission = Admission::new(3, 2);
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
    fn one_address_never_has_all_places() {
        let peer = |last: u8| IpAddr::from([192, 0, 2, last]);
        for total in 2..20 {
            let admission = Admission::new(total, 1000);
            let all = std::iter::from_fn(|| admission.admit(peer(1)).ok());
            let all: Vec<_> = all.collect();
            assert!(all.len() < total && admission.admit(peer(2)).is_ok());
        }
        assert!(Admission::new(1, 1).admit(peer(1)).is_ok());
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
}

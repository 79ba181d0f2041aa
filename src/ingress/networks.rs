//! Networks whose programs need no token and no login, as programs on this machine do not if none
//! is configured.

use std::net::IpAddr;

use ipnet::IpNet;

/// Trusted networks. If empty, all clients are treated alike.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Networks(Vec<IpNet>);

impl Networks {
    /// These networks.
    pub fn new(networks: impl IntoIterator<Item = IpNet>) -> Self {
        Networks(networks.into_iter().collect())
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether this address is in one of them. An IPv4-mapped IPv6 address, as a socket on `[::]`
    /// shows it, counts as the IPv4 address.
    pub fn contain(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        self.0.iter().any(|network| network.contains(&peer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_found_in_its_network_however_it_is_written() {
        let networks = ["10.0.0.0/8", "fd00::/8", "192.0.2.7/32"];
        let networks = networks.map(|text| text.parse::<IpNet>().expect("a network"));
        let networks = Networks::new(networks);
        let contained = |text: &str| networks.contain(text.parse().expect("an address"));
        assert!(contained("10.1.2.3") && contained("::ffff:10.1.2.3"));
        assert!(contained("fd12::1") && contained("192.0.2.7"));
        assert!(!contained("11.0.0.1") && !contained("127.0.0.1") && !contained("192.0.2.8"));
    }
}

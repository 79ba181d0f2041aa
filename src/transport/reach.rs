//! Which addresses may be connected to. What others can make us call (a webhook) must not lead into
//! the network that we stand in: to this machine, to neighbours, to a cloud's metadata.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Which addresses may be connected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Every one.
    Anywhere,
    /// Those that the whole Internet can reach.
    #[cfg_attr(
        not(feature = "notify"),
        allow(dead_code, reason = "webhooks ask for it")
    )]
    PublicOnly,
}

/// What IANA has set aside and is no host of the Internet (RFC 6890 and its registries).
const SET_ASIDE_V4: [([u8; 4], u32); 15] = [
    ([0, 0, 0, 0], 8),
    ([10, 0, 0, 0], 8),
    ([100, 64, 0, 0], 10),
    ([127, 0, 0, 0], 8),
    ([169, 254, 0, 0], 16),
    ([172, 16, 0, 0], 12),
    ([192, 0, 0, 0], 24),
    ([192, 0, 2, 0], 24),
    ([192, 88, 99, 0], 24),
    ([192, 168, 0, 0], 16),
    ([198, 18, 0, 0], 15),
    ([198, 51, 100, 0], 24),
    ([203, 0, 113, 0], 24),
    ([224, 0, 0, 0], 4),
    ([240, 0, 0, 0], 4),
];

/// Likewise, of what is global unicast (2000::/3); nothing outside of that is public.
const SET_ASIDE_V6: [(Ipv6Addr, u32); 4] = [
    // Teredo, benchmarks, ORCHID and their like.
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23),
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32),
    // 6to4: it leads to whichever IPv4 address it holds.
    (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16),
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20),
];

impl Reach {
    /// Whether an address may be connected to.
    ///
    /// # Errors
    /// Why not.
    pub fn check(self, address: IpAddr) -> Result<(), String> {
        match self {
            Reach::PublicOnly if !is_public(address) => Err(format!(
                "its address {address} is a private one, and `allow_private` is not set"
            )),
            _ => Ok(()),
        }
    }
}

fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => {
            let is_in = |(network, length): &([u8; 4], u32)| {
                (address.to_bits() ^ Ipv4Addr::from(*network).to_bits()) >> (32 - length) == 0
            };
            !SET_ASIDE_V4.iter().any(is_in)
        }
        IpAddr::V6(address) => {
            let is_in = |(network, length): &(Ipv6Addr, u32)| {
                (address.to_bits() ^ network.to_bits()) >> (128 - length) == 0
            };
            // NAT64 leads to the IPv4 address behind its prefix (RFC 6052).
            if is_in(&(Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0), 96)) {
                let [.., a, b, c, d] = address.octets();
                return is_public(IpAddr::from([a, b, c, d]));
            }
            let is_global = is_in(&(Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3));
            is_global && !SET_ASIDE_V6.iter().any(is_in)
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_the_whole_internet_cannot_reach_is_private_however_it_is_written() {
        for private in [
            "127.0.0.1",
            "127.255.1.2",
            "0.0.0.0",
            "10.1.2.3",
            "172.31.255.255",
            "192.168.0.1",
            "169.254.169.254",
            "100.64.0.1",
            "192.0.0.192",
            "198.19.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::127.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::1",
            "fe80::1",
            "fc00::1",
            "fd00:ec2::254",
            "fec0::1",
            "ff02::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "2001::1",
            "100::1",
        ] {
            let address: IpAddr = private.parse().unwrap();
            assert!(!is_public(address), "{private}");
            assert!(Reach::Anywhere.check(address).is_ok());
            let refused = Reach::PublicOnly.check(address).unwrap_err();
            assert!(refused.contains("allow_private"), "{refused}");
        }

        for public in [
            "1.1.1.1",
            "172.32.0.1",
            "100.128.0.1",
            "193.0.0.1",
            "2606:4700::1111",
            "2a00:1450::1",
            "::ffff:8.8.8.8",
            "64:ff9b::808:808",
        ] {
            assert!(is_public(public.parse().unwrap()), "{public}");
        }
    }
}

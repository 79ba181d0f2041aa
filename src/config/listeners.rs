//! The addresses of all listeners together: no two can share a port.

use std::net::{IpAddr, SocketAddr};

use super::Settings;
use super::mistake::MistakeReport;

/// Every listener by its key.
pub(super) fn all(settings: &Settings) -> impl Iterator<Item = (&'static str, SocketAddr)> {
    let listeners = [
        ("http.listen", settings.http.listen),
        ("smtp.listen", settings.smtp.listen),
        ("smtp.tls_listen", settings.smtp.tls_listen),
    ];
    listeners
        .into_iter()
        .filter_map(|(key, listen)| Some((key, listen.address()?)))
}

pub(super) fn check(settings: &Settings, report: &mut MistakeReport<'_>) {
    let listeners: Vec<_> = all(settings).collect();
    for (n, (key, listen)) in listeners.iter().enumerate() {
        let twin = listeners[..n]
            .iter()
            .find(|(_, earlier)| collide(*earlier, *listen));
        if let Some((twin, earlier)) = twin {
            report.add(
                *key,
                format!("is {listen}, and {twin} is {earlier}: give each door a port of its own"),
            );
        }
    }
}

/// Whether the two addresses cannot both be listened on. Port 0 is any free port; an unspecified
/// address is every address of its kind, and `::` those of IPv4, too.
fn collide(one: SocketAddr, other: SocketAddr) -> bool {
    let (a, b) = (one.ip().to_canonical(), other.ip().to_canonical());
    let covers = |wide: IpAddr, narrow: IpAddr| {
        wide.is_unspecified() && (wide.is_ipv6() || narrow.is_ipv4())
    };
    one.port() == other.port() && one.port() != 0 && (a == b || covers(a, b) || covers(b, a))
}

#[cfg(test)]
mod tests {
    #[test]
    fn two_doors_collide_on_a_port_that_only_one_can_have() {
        let collide = |one: &str, other: &str| {
            let [one, other] = [one, other].map(|text| text.parse().expect("an address"));
            assert_eq!(super::collide(one, other), super::collide(other, one));
            super::collide(one, other)
        };
        assert!(collide("127.0.0.1:25", "127.0.0.1:25"));
        assert!(collide("127.0.0.1:25", "[::ffff:127.0.0.1]:25"));
        assert!(collide("0.0.0.0:25", "192.0.2.1:25") && collide("[::]:25", "192.0.2.1:25"));
        assert!(collide("[::]:25", "0.0.0.0:25") && collide("[::]:25", "[::1]:25"));
        assert!(!collide("0.0.0.0:25", "[::1]:25") && !collide("127.0.0.1:25", "127.0.0.2:25"));
        assert!(!collide("127.0.0.1:0", "127.0.0.1:0") && !collide("127.0.0.1:25", "127.0.0.1:26"));
    }
}

//! Values with a unit, and addresses, as they are written in a configuration.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytesize::ByteSize;
use ipnet::IpNet;
use serde::de::{Error, Unexpected, Visitor};
use serde::{Deserialize, Deserializer};

use crate::mail::parse_span_with_unit;
use crate::notify::AtMost;
use crate::policy::Rate;

/// The address of a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listen {
    /// Nowhere: `"off"`.
    Off,
    /// At this address.
    At(SocketAddr),
}

impl Listen {
    /// The address, if there is one.
    pub fn address(self) -> Option<SocketAddr> {
        match self {
            Listen::Off => None,
            Listen::At(address) => Some(address),
        }
    }

    /// Whether only this machine can connect.
    pub fn is_private(self) -> bool {
        match self {
            Listen::Off => true,
            Listen::At(address) => address.ip().to_canonical().is_loopback(),
        }
    }
}

impl<'de> Deserialize<'de> for Listen {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let read = |text: &str| match text {
            "off" => Some(Listen::Off),
            _ => text.parse().ok().map(Listen::At),
        };
        from.deserialize_any(TextVisitor {
            expected: "an IP address and a port such as 127.0.0.1:8025, or off",
            read,
        })
    }
}

/// The longest span that is accepted: longer ones are a mistake, and sums with them would overflow.
const LONGEST_SPAN: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

pub(super) fn duration<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    let read = |text: &str| {
        // A number without a unit is refused: a reader could not know what it counts.
        let span = parse_span_with_unit(text).ok()?;
        (span <= LONGEST_SPAN).then_some(span)
    };
    from.deserialize_any(TextVisitor {
        expected: "a duration such as 500ms, 60s, 5m, 2h or 7d, of at most 100 years",
        read,
    })
}

pub(super) fn durations<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Duration>, D::Error> {
    #[derive(Deserialize)]
    struct One(#[serde(deserialize_with = "duration")] Duration);
    Ok(Vec::<One>::deserialize(from)?
        .into_iter()
        .map(|one| one.0)
        .collect())
}

/// A number of mails and a span of time.
pub(super) fn at_most<'de, D: Deserializer<'de>>(from: D) -> Result<AtMost, D::Error> {
    let read = |text: &str| text.parse().ok();
    from.deserialize_any(TextVisitor {
        expected: "a number of mails and a span of time such as 1/10m",
        read,
    })
}

/// One text, or a list of texts.
pub(super) fn one_or_many<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum OneOrMany {
        One(String),
        Many(Vec<String>),
    }
    Ok(match OneOrMany::deserialize(from)? {
        OneOrMany::One(one) => vec![one],
        OneOrMany::Many(many) => many,
    })
}

pub(super) fn size<'de, D: Deserializer<'de>>(from: D) -> Result<ByteSize, D::Error> {
    let read = |text: &str| text.parse().ok();
    from.deserialize_any(TextVisitor {
        expected: "a size such as 512KiB or 25MiB, or a number of bytes",
        read,
    })
}

pub(super) fn some_size<'de, D: Deserializer<'de>>(from: D) -> Result<Option<ByteSize>, D::Error> {
    size(from).map(Some)
}

pub(super) fn rate<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Rate>, D::Error> {
    let read = |text: &str| text.parse().ok().map(Some);
    from.deserialize_any(TextVisitor {
        expected: "a rate such as 100/s, 600/m, 1000/h or 5000/d",
        read,
    })
}

/// Networks such as `10.0.0.0/8`; a single address is a network of one.
pub(super) fn networks<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<IpNet>, D::Error> {
    struct One(IpNet);
    impl<'de> Deserialize<'de> for One {
        fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
            let read = |text: &str| {
                let network = text.parse::<IpNet>().ok();
                let network = network.or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))?;
                // A network with bits set behind its prefix is a typing error.
                (network.trunc() == network).then_some(One(network))
            };
            from.deserialize_any(TextVisitor {
                expected: "a network such as 10.0.0.0/8 or fd00::/8, or an address",
                read,
            })
        }
    }

    let all = Vec::<One>::deserialize(from)?;
    Ok(all.into_iter().map(|one| one.0).collect())
}

/// A size as a number of bytes in memory.
pub(super) fn bytes(size: ByteSize) -> usize {
    usize::try_from(size.as_u64()).unwrap_or(usize::MAX)
}

/// Reads text; a number is read as the text that it is written as.
struct TextVisitor<F> {
    expected: &'static str,
    read: F,
}

impl<T, F: Fn(&str) -> Option<T>> Visitor<'_> for TextVisitor<F> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        (self.read)(text).ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<T, E> {
        (self.read)(&number.to_string())
            .ok_or_else(|| E::invalid_value(Unexpected::Unsigned(number), &self))
    }
}

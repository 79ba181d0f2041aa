//! How much one token or user may submit, and from which addresses.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::Rate;
use super::route::domain_matches;
use crate::mail::{Address, days};

/// What a submitter may do. What is absent has no limit of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quota {
    /// How many of its deliveries may be pending.
    pub max_pending: Option<u64>,
    /// How many mails it may submit, and in how long a time; as many at once.
    pub rate: Option<Rate>,
    /// How many recipients its mails may have on one day, in UTC.
    pub max_per_day: Option<u64>,
    /// The addresses it may send from; none: all.
    pub from: Vec<SenderPattern>,
    /// How long after it is submitted a mail may be sent.
    pub max_delay: Duration,
    /// How long after that time a mail may live.
    pub max_lifetime: Duration,
}

impl Default for Quota {
    fn default() -> Self {
        Quota {
            max_pending: None,
            rate: None,
            max_per_day: None,
            from: Vec::new(),
            max_delay: days(366),
            max_lifetime: days(366),
        }
    }
}

impl Quota {
    /// Bounds of those who come with neither a token nor a login: what no clock can be asked for.
    pub(crate) fn of_everybody() -> Self {
        Quota {
            max_delay: days(365_250),
            max_lifetime: days(365_250),
            ..Quota::default()
        }
    }

    /// Whether it may send from this address.
    pub fn admits(&self, address: &Address) -> bool {
        self.from.is_empty() || self.from.iter().any(|pattern| pattern.matches(address))
    }
}

/// Addresses to send from: `shop@example.com`, `example.com`, or `*.example.com` for every name
/// below.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SenderPattern {
    /// This address.
    Address(Address),
    /// Every address of this domain, or of those below it.
    Domain(String),
}

impl SenderPattern {
    /// Whether this address is one of them.
    pub fn matches(&self, address: &Address) -> bool {
        match self {
            SenderPattern::Address(one) => one.as_str().eq_ignore_ascii_case(address.as_str()),
            SenderPattern::Domain(domain) => {
                domain_matches(std::slice::from_ref(domain), Some(address))
            }
        }
    }
}

impl FromStr for SenderPattern {
    type Err = SenderPatternError;

    fn from_str(text: &str) -> Result<Self, SenderPatternError> {
        let wrong = || SenderPatternError(text.chars().take(300).collect());
        let domain = text.strip_prefix('@').unwrap_or(text);
        if domain.contains('@') {
            return Address::parse(text)
                .map(SenderPattern::Address)
                .map_err(|_| wrong());
        }
        let name = domain.strip_prefix("*.").unwrap_or(domain);
        let whole = Address::parse(&format!("x@{name}")).map_err(|_| wrong())?;
        let below = if name == domain { "" } else { "*." };
        Ok(SenderPattern::Domain(format!("{below}{}", whole.domain())))
    }
}

impl fmt::Display for SenderPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SenderPattern::Address(address) => address.fmt(f),
            SenderPattern::Domain(domain) => f.write_str(domain),
        }
    }
}

/// The text is not a pattern of addresses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{}` is neither an address, nor a domain such as example.com or *.example.com",
    .0.escape_debug()
)]
pub struct SenderPatternError(String);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_pattern_means_an_address_a_domain_or_what_is_below_it() {
        let admits = |pattern: &str, address: &str| {
            let pattern: SenderPattern = pattern.parse().unwrap();
            pattern.matches(&address.parse().unwrap())
        };

        for (pattern, address) in [
            ("shop@example.com", "shop@example.com"),
            ("shop@example.com", "Shop@EXAMPLE.com"),
            ("example.com", "anybody@example.com"),
            ("@example.com", "anybody@Example.com"),
            ("*.example.com", "a@mail.example.com"),
        ] {
            assert!(admits(pattern, address), "{pattern} {address}");
        }

        for (pattern, address) in [
            ("shop@example.com", "shop@example.org"),
            ("shop@example.com", "ashop@example.com"),
            ("example.com", "a@evilexample.com"),
            ("example.com", "a@example.com.evil.example"),
            ("example.com", "a@mail.example.com"),
            ("*.example.com", "a@example.com"),
        ] {
            assert!(!admits(pattern, address), "{pattern} {address}");
        }

        for wrong in ["", "@", "a@", "a b", "*.", "a@b@c", "exa mple.com"] {
            assert!(wrong.parse::<SenderPattern>().is_err(), "{wrong}");
        }
    }
}

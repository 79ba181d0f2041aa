//! How much a token or user may submit, and from which addresses.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::Rate;
use super::route::domain_matches;
use crate::mail::{Address, days};

/// The limits of a submitter; `None` for no limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quota {
    /// How many of its deliveries may be pending.
    pub max_pending: Option<u64>,
    /// How many mails it may submit in which time; all of them may come at once.
    pub rate: Option<Rate>,
    /// How many recipients its mails may have in a day (UTC).
    pub max_per_day: Option<u64>,
    /// The addresses that it may use as sender; all if empty.
    pub from: Vec<SenderPattern>,
    /// How far in the future the send time of a mail may be.
    pub max_delay: Duration,
    /// How long after its send time a mail may expire.
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
    /// The limits without a token or login: send times and expiries need only be representable
    /// dates.
    pub(crate) fn of_everybody() -> Self {
        Quota {
            max_delay: days(365_250),
            max_lifetime: days(365_250),
            ..Quota::default()
        }
    }

    /// Whether this sender address is permitted.
    pub fn admits(&self, address: &Address) -> bool {
        self.from.is_empty() || self.from.iter().any(|pattern| pattern.matches(address))
    }
}

/// A pattern of sender addresses: `shop@example.com`, `example.com`, or `*.example.com` for all its
/// subdomains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SenderPattern {
    /// This address.
    Address(Address),
    /// Every address of this domain, or of its subdomains.
    Domain(String),
}

impl SenderPattern {
    /// Whether this address matches.
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

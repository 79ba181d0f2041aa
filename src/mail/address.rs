//! A mailbox's address, as it stands in an envelope (RFC 5321 §4.1.2, RFC 6531 §3.3).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize};

/// A valid address without a display name: `ada@example.org`.
///
/// Never holds white space outside a quoted local part, a control character, or an angle bracket that could end the path
/// it is written into.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema), schema(value_type = String, example = "ada@example.org"))]
#[serde(transparent)]
pub struct Address(Box<str>);

impl Address {
    /// Reads an address.
    ///
    /// # Errors
    /// Says what is wrong: no `@`, an invalid local part or domain, or more characters than RFC 5321 §4.5.3.1 allows.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        let fail = |reason| AddressError { address: text.chars().take(80).collect(), reason };
        if text.chars().any(|c| c.is_control()) {
            return Err(fail("has a control character"));
        }
        let (local, domain) = text.rsplit_once('@').ok_or_else(|| fail("has no @"))?;
        if local.len() > 64 {
            return Err(fail("has more than 64 characters before the @"));
        }
        if domain.len() > 255 {
            return Err(fail("has more than 255 characters after the @"));
        }
        let parsed = lettre::Address::from_str(text).map_err(|_| fail("is not a valid address"))?;
        let written: &str = parsed.as_ref();
        if written.contains(['<', '>']) || written.chars().any(|c| c.is_control()) {
            return Err(fail("has a character that cannot stand in an envelope"));
        }
        Ok(Address(written.into()))
    }

    /// The whole address.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What stands after the last `@`.
    pub fn domain(&self) -> &str {
        self.0.rsplit_once('@').map_or("", |(_, domain)| domain)
    }

    /// Whether it can be sent to a server without SMTPUTF8.
    pub fn is_ascii(&self) -> bool {
        self.0.is_ascii()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Address {
    type Err = AddressError;
    fn from_str(text: &str) -> Result<Self, AddressError> {
        Address::parse(text)
    }
}

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Address::parse(&String::deserialize(from)?).map_err(serde::de::Error::custom)
    }
}

/// The text is not an address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{}` {reason}", .address.escape_debug())]
pub struct AddressError {
    address: String,
    reason: &'static str,
}

impl AddressError {
    /// What is wrong, without the address.
    pub fn reason(&self) -> &'static str {
        self.reason
    }
}

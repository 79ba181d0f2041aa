//! An email address as it is used in an envelope (RFC 5321 §4.1.2, RFC 6531 §3.3).

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize};

use super::address_list;
use super::mailbox::Mailbox;

/// A valid address without a display name: `ada@example.org`.
///
/// It contains no white space outside a quoted local part, no control character and no angle
/// bracket, so it cannot break out of a path (`MAIL FROM:<…>`) or a header field.
///
/// Two addresses are equal if they name the same mailbox: the case of the domain does not matter
/// (RFC 5321 §2.4), though it is kept; the case of the local part does, since only the domain can
/// know what it means.
#[derive(Clone, Serialize)]
#[cfg_attr(
    feature = "server",
    derive(utoipa::ToSchema),
    schema(value_type = String, example = "ada@example.org")
)]
#[serde(transparent)]
pub struct Address(Box<str>);

impl Address {
    /// Parses an address. A domain with non-ASCII characters is converted to its ASCII form (RFC
    /// 5891 §4.4), so that only a non-ASCII local part needs a server with SMTPUTF8.
    ///
    /// # Errors
    /// There is no `@`, the local part or the domain is invalid, or it is longer than RFC 5321
    /// §4.5.3.1 allows.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        let fail = |reason| AddressError {
            address: text.chars().take(80).collect(),
            reason,
        };

        let (local, domain) = text.rsplit_once('@').ok_or_else(|| fail("has no @"))?;
        check_local(local).map_err(fail)?;
        if domain.is_ascii() {
            check_domain(domain).map_err(fail)?;
            return Ok(Address(text.into()));
        }

        let domain =
            idna::domain_to_ascii(domain).map_err(|_| fail("has a domain that is not valid"))?;
        check_domain(&domain).map_err(fail)?;
        Ok(Address(format!("{local}@{domain}").into()))
    }

    /// Parses an address that may have a name and angle brackets (RFC 5322 §3.4): `Ada
    /// <ada@example.org>`, `ada@example.org (Ada)`.
    ///
    /// # Errors
    /// The reason: there is no valid address, or more than one.
    pub fn read(text: &str) -> Result<Self, String> {
        Mailbox::parse(text).map(|mailbox| mailbox.address)
    }

    /// Parses the content of the angle brackets of an SMTP path; a source route is ignored (RFC
    /// 5321 §4.1.2).
    ///
    /// # Errors
    /// The reason why it is not valid.
    pub fn of_path(text: &str) -> Result<Self, String> {
        address_list::path(text)
    }

    /// The whole address.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The part after the last `@`.
    pub fn domain(&self) -> &str {
        self.0.rsplit_once('@').map_or("", |(_, domain)| domain)
    }

    /// Whether it can be sent to a server without SMTPUTF8.
    pub fn is_ascii(&self) -> bool {
        self.0.is_ascii()
    }
}

impl Address {
    /// The local part, and the domain in lower case.
    fn key(&self) -> (&str, impl Iterator<Item = u8>) {
        let (local, domain) = self.0.rsplit_once('@').unwrap_or((&self.0, ""));
        (local, domain.bytes().map(|byte| byte.to_ascii_lowercase()))
    }
}

impl PartialEq for Address {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Address {}

impl PartialOrd for Address {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Address {
    fn cmp(&self, other: &Self) -> Ordering {
        let ((local, domain), (other_local, other_domain)) = (self.key(), other.key());
        local
            .cmp(other_local)
            .then_with(|| domain.cmp(other_domain))
    }
}

impl Hash for Address {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let (local, domain) = self.key();
        local.hash(state);
        domain.for_each(|byte| state.write_u8(byte));
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

/// Addresses in text formats are validated as by [`Address::parse`]. Postrider's own records are
/// decoded for each mail that is claimed, so only characters that could break out of an SMTP
/// command are checked there.
impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let is_text = from.is_human_readable();
        let address = String::deserialize(from)?;
        if is_text {
            return Address::parse(&address).map_err(serde::de::Error::custom);
        }
        let breaks_out = |byte: u8| byte < b' ' || matches!(byte, b'<' | b'>' | 0x7f);
        if address.bytes().any(breaks_out) || !address.contains('@') {
            return Err(serde::de::Error::custom(
                "the record contains an invalid address",
            ));
        }
        Ok(Address(address.into()))
    }
}

/// A dot-string or a quoted string (RFC 5321 §4.1.2), also beyond ASCII (RFC 6531 §3.3).
///
/// Stricter than the RFC where a careless server could mistake a character for the end of the path:
/// no angle brackets, not even in quotes.
fn check_local(local: &str) -> Result<(), &'static str> {
    if local.is_empty() {
        return Err("has nothing before the @");
    }
    if local.len() > 64 {
        return Err("has more than 64 bytes before the @");
    }

    if local
        .chars()
        .any(|c| c.is_control() || matches!(c, '<' | '>'))
    {
        return Err("has an angle bracket or a control character");
    }

    let Some(quoted) = local.strip_prefix('"') else {
        let is_atom = |atom: &str| !atom.is_empty() && atom.chars().all(is_atext);
        let reason = "has a character before the @ that is not allowed there, or a dot too many";
        return if local.split('.').all(is_atom) {
            Ok(())
        } else {
            Err(reason)
        };
    };

    let quoted = quoted
        .strip_suffix('"')
        .ok_or("has a quoted part that does not end before the @")?;
    let mut chars = quoted.chars();
    while let Some(c) = chars.next() {
        let fits = match c {
            '\\' => chars
                .next()
                .is_some_and(|escaped| escaped.is_ascii_graphic() || escaped == ' '),
            '"' => false,
            ' ' => true,
            c => !c.is_whitespace(),
        };
        if !fits {
            return Err(
                "has a quoted part with a quote or a backslash that is not escaped, or white space",
            );
        }
    }

    if quoted.is_empty() {
        Err("has nothing between its quotes")
    } else {
        Ok(())
    }
}

fn is_atext(c: char) -> bool {
    c.is_ascii_alphanumeric()
        || "!#$%&'*+-/=?^_`{|}~".contains(c)
        || (!c.is_ascii() && !c.is_whitespace())
}

/// A domain or an address literal (RFC 5321 §4.1.2 and §4.1.3), in ASCII. Underscores are accepted,
/// because internal host names often have them.
fn check_domain(domain: &str) -> Result<(), &'static str> {
    if let Some(literal) = domain
        .strip_prefix('[')
        .and_then(|domain| domain.strip_suffix(']'))
    {
        let valid = match literal.get(..5) {
            Some(prefix) if prefix.eq_ignore_ascii_case("IPv6:") => {
                literal[5..].parse::<Ipv6Addr>().is_ok()
            }
            _ => literal.parse::<Ipv4Addr>().is_ok(),
        };
        return if valid {
            Ok(())
        } else {
            Err("has an address literal other than [192.0.2.1] or [IPv6:2001:db8::1]")
        };
    }

    if domain.is_empty() {
        return Err("has nothing after the @");
    }
    if domain.len() > 253 {
        return Err("has more than 253 bytes after the @");
    }

    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };

    if domain.split('.').all(is_label) {
        Ok(())
    } else {
        Err("has a domain that is not valid")
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde::de::IntoDeserializer;

    use super::*;

    #[test]
    fn addresses_of_every_kind_are_read() {
        for text in [
            "ada@example.org",
            "ada.b+tag_1@sub.example.org",
            "root@localhost",
            "a/b=c!d@example.org",
            "\"ada lovelace\"@example.org",
            "\"a\\\"b\"@example.org",
            "\"a@b\"@example.org",
            "ada@[192.0.2.1]",
            "ada@[IPv6:2001:db8::1]",
            "ädä@example.org",
            "dev@mail_catcher",
        ] {
            assert_eq!(Address::parse(text).unwrap().as_str(), text);
        }
    }

    #[test]
    fn a_domain_beyond_ascii_is_kept_in_ascii() {
        let address = Address::parse("ada@bücher.example").unwrap();
        assert_eq!(address.as_str(), "ada@xn--bcher-kva.example");
        assert!(address.is_ascii());
        assert!(!Address::parse("ädä@bücher.example").unwrap().is_ascii());
    }

    #[test]
    fn what_could_leave_its_field_is_refused() {
        let long = format!("{}@example.org", "a".repeat(1000));
        let long_domain = format!("a@{}.org", "a.".repeat(500));

        for text in [
            "",
            "@",
            "ada",
            "ada@",
            "@example.org",
            "ada@example.org ",
            " ada@example.org",
            "ada lovelace@example.org",
            "ada@exam ple.org",
            "ada@example.org>",
            "<ada@example.org>",
            "ada@example.org> SIZE=1",
            "ada@example.org SIZE=1",
            "\"a> ORCPT=x <b\"@example.org",
            "ada@example.org\r\nRCPT TO:<eve@example.org>",
            "ada\0@example.org",
            "ada@example\u{85}.org",
            "ada\u{2028}@example.org",
            "ada(comment)@example.org",
            "ada@example.org(comment)",
            "@hub.example,@b.example:ada@example.org",
            "@a:b@c",
            "ada@b@example.org",
            "ada.@example.org",
            ".ada@example.org",
            "a..b@example.org",
            "\"\"@example.org",
            "\"@example.org",
            "\"a\"b\"@example.org",
            "\"a\\\"@example.org",
            "\"a\"b@example.org",
            "ada@example..org",
            "ada@example.org.",
            "ada@-example.org",
            "ada@example.org,eve",
            "ada@[]",
            "ada@[example.org]",
            "ada@[192.0.2.1",
            "ada@2001:db8::1",
            "ada@[IPv6:zz]",
            "ada@ex＠mple.org",
            long.as_str(),
            long_domain.as_str(),
        ] {
            let error = Address::parse(text).expect_err(text).to_string();
            assert!(
                error.len() < 250 && !error.contains(['\r', '\n', '\0']),
                "{error}"
            );
        }
    }

    #[test]
    fn a_stored_address_comes_back_and_a_broken_one_does_not() {
        let address = Address::parse("\"ada lovelace\"@example.org").unwrap();
        let stored = postcard::to_stdvec(&address).unwrap();
        assert_eq!(postcard::from_bytes::<Address>(&stored).unwrap(), address);
        for broken in ["ada", "ada@x\r\nRSET", "ada@x> SIZE=1"] {
            let stored = postcard::to_stdvec(broken).unwrap();
            assert!(postcard::from_bytes::<Address>(&stored).is_err());
        }
    }

    #[test]
    fn text_in_a_file_is_read_as_strictly_as_any() {
        let read = |text: &str| {
            let text: serde::de::value::StrDeserializer<'_, serde::de::value::Error> =
                text.into_deserializer();
            Address::deserialize(text)
        };

        assert_eq!(
            read("ada@bücher.example").unwrap().as_str(),
            "ada@xn--bcher-kva.example"
        );

        assert!(
            read("ada lovelace@example.org")
                .unwrap_err()
                .to_string()
                .contains("before the @")
        );
    }
}

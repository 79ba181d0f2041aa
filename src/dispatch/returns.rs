//! Return paths that identify a delivery (VERP): each delivery has its own, signed, so that a
//! report leads to it whatever else the report says. A delivery of a list's mail also has an
//! address to which its recipient can write to unsubscribe.
//!
//! *Invariant:* an address of either kind cannot be made without the secret, nor from one of the
//! other kind. The same delivery always has the same addresses, so that every attempt sends the
//! same bytes.

use bytes::Bytes;

use super::engine::Engine;
use super::token_key::TokenKey;
use crate::mail::{Address, MailId};
use crate::spool::Claim;

/// The start of the local part of a return path.
const PREFIX: &str = "b-";
/// The start of the local part of an address for unsubscribing.
const UNSUBSCRIBE_PREFIX: &str = "u-";
/// The bytes of a mail's id and a delivery's index, and of the signature.
const SIGNED_BYTES: usize = 16 + 2;
const SIGNATURE_BYTES: usize = 10;
const HEX_DIGITS: usize = 2 * (SIGNED_BYTES + SIGNATURE_BYTES);
/// How many possible tokens of a report are checked.
const MOST_TOKENS: usize = 64;
/// A header field with the token, for copies of a mail that have lost the return path.
pub(super) const TOKEN_FIELD: &str = "X-Return-Token";

/// The domain for bounces, and the keys that sign its addresses.
#[derive(Clone, Debug)]
pub struct Returns {
    domain: String,
    key: TokenKey<SIGNATURE_BYTES>,
    unsubscribe_key: TokenKey<SIGNATURE_BYTES>,
}

/// A delivery: the mail, and the index of the recipient in the envelope.
pub(super) type Returned = (MailId, u16);

impl Returns {
    /// Return paths are addresses in `domain`, signed with `secret`.
    ///
    /// # Errors
    /// The reason why one of them is not valid.
    pub fn new(domain: &str, secret: &[u8]) -> Result<Self, String> {
        let example = format!("{PREFIX}{}@{domain}", "0".repeat(HEX_DIGITS));
        if Address::parse(&example).is_err() || !domain.is_ascii() || !domain.contains('.') {
            return Err("is not a domain such as bounces.example.com".to_owned());
        }
        Ok(Returns {
            domain: domain.to_ascii_lowercase(),
            key: TokenKey::new(secret)?,
            // A separate key, so that a return path cannot be turned into an address for
            // unsubscribing.
            unsubscribe_key: TokenKey::new(&[b"leaving ", secret].concat())?,
        })
    }

    /// The domain.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The token of one delivery.
    fn token(&self, delivery: Returned) -> String {
        format!("{PREFIX}{}", signed(&self.key, delivery))
    }

    /// The address to which the recipient of a delivery writes to unsubscribe.
    pub(super) fn unsubscribe_address(&self, delivery: Returned) -> String {
        let token = signed(&self.unsubscribe_key, delivery);
        format!("{UNSUBSCRIBE_PREFIX}{token}@{}", self.domain)
    }

    /// The return path of one delivery.
    pub fn address(&self, mail: MailId, index: u16) -> Option<Address> {
        Address::parse(&format!("{}@{}", self.token((mail, index)), self.domain)).ok()
    }

    /// Whether an address is in the domain, valid or not.
    pub fn is_of_domain(&self, address: &Address) -> bool {
        address.domain().eq_ignore_ascii_case(&self.domain)
    }

    /// Whether an address was made here: a return path, or an address for unsubscribing.
    pub fn is_ours(&self, address: &Address) -> bool {
        self.read(address).is_some() || self.read_unsubscribe_address(address).is_some()
    }

    /// The delivery with this return path; `None` if it was not made here.
    pub(super) fn read(&self, address: &Address) -> Option<Returned> {
        self.read_token(self.local_part(address)?)
    }

    /// The delivery with this address for unsubscribing; `None` if it was not made here.
    pub(super) fn read_unsubscribe_address(&self, address: &Address) -> Option<Returned> {
        read_signed(
            UNSUBSCRIBE_PREFIX,
            &self.unsubscribe_key,
            self.local_part(address)?,
        )
    }

    /// The local part of an address in the domain.
    fn local_part<'a>(&self, address: &'a Address) -> Option<&'a [u8]> {
        let (local, _) = address.as_str().rsplit_once('@')?;
        self.is_of_domain(address).then_some(local.as_bytes())
    }

    fn read_token(&self, token: &[u8]) -> Option<Returned> {
        read_signed(PREFIX, &self.key, token)
    }

    /// The first token in these contents that was made here.
    pub(super) fn find(&self, contents: &[impl AsRef<[u8]>]) -> Option<Returned> {
        let mut looked_at = 0;
        for content in contents.iter().map(AsRef::as_ref) {
            for dash in memchr::memchr_iter(b'-', content) {
                let start = dash.checked_sub(1);
                let token =
                    start.and_then(|start| content.get(start..start + PREFIX.len() + HEX_DIGITS));
                let Some(token) = token else { continue };
                let hex = &token[PREFIX.len()..];
                if !hex.iter().all(u8::is_ascii_hexdigit) {
                    continue;
                }
                looked_at += 1;
                if looked_at > MOST_TOKENS {
                    return None;
                }
                if let Some(found) = self.read_token(token) {
                    return Some(found);
                }
            }
        }

        None
    }
}

/// The signed token of a delivery, in hexadecimal digits.
fn signed(key: &TokenKey<SIGNATURE_BYTES>, (mail, index): Returned) -> String {
    let mut token = mail.as_bytes().to_vec();
    token.extend(index.to_be_bytes());
    let signed = key.sign(token);
    signed.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The delivery of a token with this prefix. Case is ignored, because some servers change it.
fn read_signed(prefix: &str, key: &TokenKey<SIGNATURE_BYTES>, token: &[u8]) -> Option<Returned> {
    let (begins, hex) = token.split_at_checked(prefix.len())?;
    if !begins.eq_ignore_ascii_case(prefix.as_bytes()) || hex.len() != HEX_DIGITS {
        return None;
    }

    let mut bytes = [0; SIGNED_BYTES + SIGNATURE_BYTES];
    for (byte, digits) in bytes.iter_mut().zip(hex.chunks(2)) {
        let digits = std::str::from_utf8(digits).ok()?;
        *byte = u8::from_str_radix(digits, 16)
            .ok()
            .filter(|_| !digits.starts_with('+'))?;
    }

    let (mail, index) = key.read(&bytes)?.split_first_chunk::<16>()?;
    Some((
        MailId::from_bytes(*mail),
        u16::from_be_bytes(*index.first_chunk()?),
    ))
}

impl Engine {
    /// The header field by which a copy of the message leads to its delivery.
    pub(super) fn return_field(&self, delivery: Returned) -> String {
        let returns = self.returns.as_ref();
        returns.map_or_else(String::new, |returns| {
            format!("{TOKEN_FIELD}: {}\r\n", returns.token(delivery))
        })
    }

    /// The return path for this claim. A null return path stays null.
    pub(super) fn return_path(&self, claim: &Claim) -> Option<Address> {
        let given = claim.manifest.return_path.as_ref()?;
        let made = match (&self.returns, claim.deliveries.as_slice()) {
            (Some(returns), [(lease, _)]) => {
                returns.address(claim.manifest.id, lease.token().index)
            }
            _ => None,
        };
        Some(made.unwrap_or_else(|| given.clone()))
    }
}

/// The message with header fields added at the top.
pub(super) fn with_header(header: String, message: &Bytes) -> Bytes {
    if header.is_empty() {
        return message.clone();
    }
    let mut whole = header.into_bytes();
    whole.extend_from_slice(message);
    whole.into()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_return_path_leads_to_its_delivery_and_nobody_else_makes_one() {
        let here = Returns::new("Bounces.example.com", b"0123456789abcdef").unwrap();
        let there = Returns::new("bounces.example.com", b"fedcba9876543210").unwrap();

        let mail = MailId::from_bytes([9; 16]);
        let path = here.address(mail, 3).unwrap();
        let (local, domain) = path.as_str().rsplit_once('@').unwrap();
        assert!(
            local.len() <= 64 && domain == "bounces.example.com",
            "{path}"
        );

        assert_eq!(here.read(&path), Some((mail, 3)));
        let shouted = Address::parse(&path.as_str().to_uppercase()).unwrap();
        assert_eq!(here.read(&shouted), Some((mail, 3)));
        assert_eq!(there.read(&path), None);

        let elsewhere = Address::parse(&format!("{local}@example.org")).unwrap();
        assert_eq!(here.read(&elsewhere), None);

        for at in PREFIX.len()..local.len() {
            let mut forged = local.as_bytes().to_vec();
            forged[at] = if forged[at] == b'0' { b'1' } else { b'0' };
            assert_eq!(here.read_token(&forged), None, "{at}");
        }

        // A token of one kind is never valid as the other.
        let leaving: Address = here.unsubscribe_address((mail, 3)).parse().unwrap();
        assert_eq!(here.read_unsubscribe_address(&leaving), Some((mail, 3)));
        assert!(here.is_ours(&leaving) && here.read(&leaving).is_none());
        let swapped: Address = leaving.as_str().replacen("u-", "b-", 1).parse().unwrap();
        assert!(!here.is_ours(&swapped) && !there.is_ours(&leaving));

        let around = format!("x--b-{} Return-Path: <{path}>", "0".repeat(HEX_DIGITS)).into_bytes();
        assert_eq!(here.find(&[b"-".to_vec(), around]), Some((mail, 3)));
        assert_eq!(there.find(&[path.as_str().as_bytes().to_vec()]), None);
    }

    #[test]
    fn many_tokens_of_others_do_not_take_long() {
        let here = Returns::new("bounces.example.com", b"0123456789abcdef").unwrap();
        let hostile = format!("b-{} ", "0".repeat(HEX_DIGITS))
            .repeat(20_000)
            .into_bytes();
        assert_eq!(here.find(&[hostile]), None);
        assert!(Returns::new("bounces", b"0123456789abcdef").is_err());
        assert!(Returns::new("bounces.example.com", b"short").is_err());
    }
}

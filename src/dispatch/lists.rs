//! Unsubscribe links for mail of lists, one for each recipient (RFC 2369, RFC 2919, RFC 8058).
//!
//! A mail for one recipient gets its link when it is accepted. A mail for several recipients is
//! sent to each in a transaction of its own, with a link of their own: its claim is split before a
//! sender gets it, and the link is added when it is sent.
//!
//! *Invariants:* a token unsubscribes one address from one list, and cannot be made without the
//! secret. The same mail and recipient always have the same token, so that every attempt sends the
//! same bytes.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use bytes::Bytes;
use url::Url;

use super::engine::Engine;
use super::returns::{Returned, with_header};
use super::token_key::TokenKey;
use crate::mail::{Address, Mail, MailId};
use crate::spool::Claim;

/// The bytes of a token's signature.
const SIGNATURE_BYTES: usize = 16;
/// The first byte of a token: the version of its format.
const TOKEN_VERSION: u8 = 1;
/// The longest token that is decoded.
const LONGEST_TOKEN: usize = 1024;

/// The URL of unsubscribe links, and the key that signs their tokens.
#[derive(Clone, Debug)]
pub struct Unsubscribing {
    base: Url,
    key: TokenKey<SIGNATURE_BYTES>,
}

/// The content of a token: this address unsubscribes from this list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsubscription {
    /// The mail that contained the link.
    pub mail: MailId,
    /// The recipient.
    pub address: Address,
    /// The list.
    pub list: String,
}

impl Unsubscribing {
    /// Links start with `base_url`, which must lead to the HTTP listener's `/u/`; tokens are signed
    /// with `secret`.
    ///
    /// # Errors
    /// The reason why one of them is not valid.
    pub fn new(base_url: &str, secret: &[u8]) -> Result<Self, String> {
        let base = Url::parse(base_url).map_err(|error| format!("is not a URL: {error}"))?;
        if !matches!(base.scheme(), "https" | "http") || base.host_str().is_none() {
            return Err("is not a URL such as https://mail.example.com".to_owned());
        }
        if base.query().is_some() || base.fragment().is_some() {
            return Err("has a query or a fragment".to_owned());
        }

        Ok(Unsubscribing {
            base,
            key: TokenKey::new(secret)?,
        })
    }

    /// The token with which this recipient of a mail unsubscribes from its list.
    pub fn token(&self, mail: MailId, address: &Address, list: &str) -> String {
        let mut token = vec![TOKEN_VERSION];
        token.extend(mail.as_bytes());
        token.extend(list.as_bytes());
        token.push(0);
        token.extend(address.as_str().as_bytes());
        BASE64_URL_SAFE_NO_PAD.encode(self.key.sign(token))
    }

    /// Decodes a token; `None` if it was not made with this secret.
    pub fn read(&self, token: &str) -> Option<Unsubscription> {
        if token.len() > LONGEST_TOKEN {
            return None;
        }

        let bytes = BASE64_URL_SAFE_NO_PAD.decode(token).ok()?;
        let (version, said) = self.key.read(&bytes)?.split_first()?;
        let (mail, said) = said.split_first_chunk::<16>()?;

        let text = std::str::from_utf8(said)
            .ok()
            .filter(|_| *version == TOKEN_VERSION)?;
        let (list, address) = text.split_once('\0')?;
        Some(Unsubscription {
            mail: MailId::from_bytes(*mail),
            address: Address::parse(address).ok()?,
            list: list.to_owned(),
        })
    }

    /// The header fields for unsubscribing, unless the sender wrote them: with the link, and with
    /// `address` if there is one, for mail programs that support only that.
    fn fields(&self, message: &Bytes, said: &Unsubscription, address: Option<String>) -> String {
        let Unsubscription {
            mail,
            address: to,
            list,
        } = said;
        let mut header = String::new();
        if !has_field(message, "List-Unsubscribe") {
            let base = self.base.as_str().trim_end_matches('/');
            let token = self.token(*mail, to, list);
            header.push_str(&format!("List-Unsubscribe: <{base}/u/{token}>"));
            // Folded between the two URIs, which may not be folded themselves (RFC 3986 §2), to
            // limit the length of the line.
            if let Some(address) = address {
                header.push_str(&format!(",\r\n <mailto:{address}?subject={token}>"));
            }
            header.push_str("\r\n");
            // It has one value alone, and a message one of it (RFC 8058 §3.1).
            if !has_field(message, "List-Unsubscribe-Post") {
                header.push_str("List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n");
            }
        }

        if !has_field(message, "List-Id") {
            // A list id is a name under a domain (RFC 2919 §2).
            let host = self.base.host_str().unwrap_or_default();
            header.push_str(&format!("List-Id: <{list}.{host}>\r\n"));
        }

        header
    }
}

impl Engine {
    /// The claims as senders get them. A mail whose recipients each get their own message is split
    /// into one claim per recipient; they share the stored message until it is sent.
    pub(super) fn split_list_claim(&self, claim: Claim) -> Vec<Claim> {
        if !self.is_personal(&claim) {
            return vec![claim];
        }
        let Claim {
            manifest,
            body,
            deliveries,
        } = claim;

        let one = |delivery| Claim {
            manifest: manifest.clone(),
            body: body.clone(),
            deliveries: vec![delivery],
        };

        deliveries.into_iter().map(one).collect()
    }

    /// The message for the recipient of this claim.
    pub(super) fn personal_message(&self, claim: &Claim) -> Bytes {
        let manifest = &claim.manifest;
        match claim.deliveries.as_slice() {
            // For a mail with one recipient, this was done when it was accepted.
            [(lease, only)] if manifest.recipients > 1 => {
                let (index, to) = (lease.token().index, &only.recipient);
                let list = manifest.list.as_deref();
                let message = self.with_list(&claim.body, (manifest.id, index), to, list);
                match manifest.return_path {
                    Some(_) => with_header(self.return_field((manifest.id, index)), &message),
                    None => message,
                }
            }
            _ => claim.body.clone(),
        }
    }

    /// The message of a mail with one recipient, as it is stored and sent.
    pub(super) fn message_for_one(&self, mail: &Mail, to: &Address) -> Bytes {
        let list = mail.options().list.as_deref();
        let message = self.with_list(mail.message(), (mail.id(), 0), to, list);
        match mail.envelope().return_path() {
            Some(_) => with_header(self.return_field((mail.id(), 0)), &message),
            None => message,
        }
    }

    /// The message with this recipient's fields for unsubscribing.
    pub(super) fn with_list(
        &self,
        message: &Bytes,
        delivery: Returned,
        to: &Address,
        list: Option<&str>,
    ) -> Bytes {
        let Some((unsubscribing, list)) = self.unsubscribing.as_ref().zip(list) else {
            return message.clone();
        };

        let returns = self.returns.as_ref();
        let address = returns.map(|returns| returns.unsubscribe_address(delivery));
        let said = Unsubscription {
            mail: delivery.0,
            address: to.clone(),
            list: list.to_owned(),
        };
        with_header(unsubscribing.fields(message, &said, address), message)
    }

    /// Whether each recipient gets their own message.
    fn is_personal(&self, claim: &Claim) -> bool {
        let has_links = claim.manifest.list.is_some() && self.unsubscribing.is_some();
        let comes_back = claim.manifest.return_path.is_some() && self.returns.is_some();
        claim.deliveries.len() > 1 && (has_links || comes_back)
    }
}

/// Whether a frozen message has a field with this name.
fn has_field(message: &[u8], name: &str) -> bool {
    let end = memchr::memmem::find(message, b"\r\n\r\n").unwrap_or(message.len());
    let mut lines = message[..end].split(|byte| *byte == b'\n');
    lines.any(|line| {
        line.get(..name.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(name.as_bytes()))
            && line.get(name.len()) == Some(&b':')
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_token_says_who_leaves_what_and_nobody_else_makes_one() {
        let here = Unsubscribing::new("https://mail.example.com/", b"0123456789abcdef").unwrap();
        let there = Unsubscribing::new("https://mail.example.com", b"fedcba9876543210").unwrap();
        let ada = Address::parse("ada+x@example.org").unwrap();
        let mail = MailId::from_bytes([7; 16]);
        let token = here.token(mail, &ada, "news");

        let said = Unsubscription {
            mail,
            address: ada.clone(),
            list: "news".to_owned(),
        };

        assert_eq!(here.read(&token), Some(said));
        assert_eq!(
            here.token(mail, &ada, "news"),
            token,
            "every retry has the same"
        );

        assert_eq!(there.read(&token), None);
        for at in 0..token.len() {
            let mut forged = token.clone().into_bytes();
            forged[at] = if forged[at] == b'A' { b'B' } else { b'A' };
            let forged = String::from_utf8(forged).unwrap();
            let read = here.read(&forged);
            // Some bits of the last character are not used.
            assert!(read.is_none() || at + 1 == token.len(), "{at}: {read:?}");
        }

        for none in ["", "A", "?", &"A".repeat(5000)] {
            assert_eq!(here.read(none), None);
        }
        assert!(Unsubscribing::new("ftp://x", b"0123456789abcdef").is_err());
        assert!(Unsubscribing::new("https://mail.example.com", b"short").is_err());
    }

    #[test]
    fn what_the_sender_wrote_stays() {
        let here = Unsubscribing::new("https://mail.example.com", b"0123456789abcdef").unwrap();
        let ada = Address::parse("ada@example.org").unwrap();
        let message = Bytes::from_static(
            b"list-unsubscribe: <mailto:x@example.com>\r\nSubject: s\r\n\r\nList-Id: x",
        );
        let said = Unsubscription {
            mail: MailId::from_bytes([7; 16]),
            address: ada,
            list: "news".to_owned(),
        };
        let personal = here.fields(&message, &said, None);
        assert_eq!(personal, "List-Id: <news.mail.example.com>\r\n");
    }
}

//! Mail of lists: each recipient's own way to leave the list alone (RFC 2369, RFC 2919, RFC 8058).
//!
//! A mail of a list for one recipient has its link from the moment it is accepted. One for several
//! goes to each in a transaction of its own, with a link of its own: a claim of it is taken apart
//! before a sender sees it, and the link is written as it is sent.
//!
//! *Invariants:* a token leaves one list for one address, and nobody makes one who does not have
//! the secret; the same mail and recipient have the same token, so that every retry sends the same
//! bytes.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use bytes::Bytes;
use url::Url;

use super::engine::Engine;
use super::returns::{Returned, with_header};
use super::token_key::TokenKey;
use crate::mail::{Address, Mail, MailId};
use crate::spool::Claim;

/// How many bytes of the signature go with a token.
const SIGNATURE_BYTES: usize = 16;
/// What a token's first byte says: how it is made.
const TOKEN_VERSION: u8 = 1;
/// The longest token that is looked at.
const LONGEST_TOKEN: usize = 1024;

/// Where recipients leave lists, and what their tokens are signed with.
#[derive(Clone, Debug)]
pub struct Unsubscribing {
    base: Url,
    key: TokenKey<SIGNATURE_BYTES>,
}

/// What a token says: this address leaves this list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsubscription {
    /// The mail whose link it was.
    pub mail: MailId,
    /// Who leaves.
    pub address: Address,
    /// Which list.
    pub list: String,
}

impl Unsubscribing {
    /// Links begin with `base_url`, which leads to the HTTP door's `/u/`; tokens are signed with
    /// `secret`.
    ///
    /// # Errors
    /// What is wrong with either.
    pub fn new(base_url: &str, secret: &[u8]) -> Result<Self, String> {
        let base = Url::parse(base_url).map_err(|error| format!("is not an address: {error}"))?;
        if !matches!(base.scheme(), "https" | "http") || base.host_str().is_none() {
            return Err("is not an address such as https://mail.example.com".to_owned());
        }
        if base.query().is_some() || base.fragment().is_some() {
            return Err("has something behind its path".to_owned());
        }

        Ok(Unsubscribing {
            base,
            key: TokenKey::new(secret)?,
        })
    }

    /// The token with which this recipient of a mail leaves its list.
    pub fn token(&self, mail: MailId, address: &Address, list: &str) -> String {
        let mut token = vec![TOKEN_VERSION];
        token.extend(mail.as_bytes());
        token.extend(list.as_bytes());
        token.push(0);
        token.extend(address.as_str().as_bytes());
        BASE64_URL_SAFE_NO_PAD.encode(self.key.sign(token))
    }

    /// Who leaves which list with this token; `None` where it was not made here.
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

    /// What lets this recipient leave the list of a message, unless its sender wrote that: by the
    /// link, and by writing to `address` where there is one, for programs that know nothing else.
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
            // Folded between the two: neither may be (RFC 3986 §2), and a line has an end.
            if let Some(address) = address {
                header.push_str(&format!(",\r\n <mailto:{address}?subject={token}>"));
            }
            header.push_str("\r\nList-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n");
        }

        if !has_field(message, "List-Id") {
            // An id is a name below a domain (RFC 2919 §2).
            let host = self.base.host_str().unwrap_or_default();
            header.push_str(&format!("List-Id: <{list}.{host}>\r\n"));
        }

        header
    }
}

impl Engine {
    /// The claims as senders take them. A mail whose recipients each get a message of their own is
    /// split into one claim per recipient; the stored message is shared until it is sent.
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

    /// The message as the recipient of this claim gets it.
    pub(super) fn personal_message(&self, claim: &Claim) -> Bytes {
        let manifest = &claim.manifest;
        match claim.deliveries.as_slice() {
            // The message of a mail for one recipient was made personal when it was accepted.
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

    /// The message of a mail for one, as it is kept and sent.
    pub(super) fn message_for_one(&self, mail: &Mail, to: &Address) -> Bytes {
        let list = mail.options().list.as_deref();
        let message = self.with_list(mail.message(), (mail.id(), 0), to, list);
        match mail.envelope().return_path() {
            Some(_) => with_header(self.return_field((mail.id(), 0)), &message),
            None => message,
        }
    }

    /// A message with what lets this recipient leave its list.
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
        let address = returns.map(|returns| returns.leaving_address(delivery));
        let said = Unsubscription {
            mail: delivery.0,
            address: to.clone(),
            list: list.to_owned(),
        };
        with_header(unsubscribing.fields(message, &said, address), message)
    }

    /// Whether each recipient gets a message of their own.
    fn is_personal(&self, claim: &Claim) -> bool {
        let has_links = claim.manifest.list.is_some() && self.unsubscribing.is_some();
        let comes_back = claim.manifest.return_path.is_some() && self.returns.is_some();
        claim.deliveries.len() > 1 && (has_links || comes_back)
    }
}

/// Whether a frozen message has a field of this name: its lines end in CRLF.
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
            // The last character's spare bits say nothing.
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

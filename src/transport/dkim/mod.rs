//! DKIM signatures (RFC 6376, RFC 8463): a transport that signs what passes through it.
//!
//! `key` reads private keys and prints their DNS records, `canonical` says what is signed, this
//! file writes the header field, and `signing` puts it in front of each message right before it is
//! sent. The frozen message in the spool stays unsigned, so that a key can be replaced while mail
//! waits.
//!
//! *Invariant:* nothing of the message is changed; fields are only added in front of it.

mod canonical;
mod key;
mod signing;

pub use key::{KeyError, SigningKey, dns_name};
pub(super) use signing::SigningTransport;

use std::fmt::Write as _;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::digest::{SHA256, digest};

use self::canonical::{SplitMessage, relaxed_body, relaxed_field};
use crate::mail::Timestamp;

/// The fields that are signed, as RFC 6376 §5.4.1 recommends them and RFC 8058 §4 requires the last
/// two. Each is listed once more than it occurs, so that nobody can add another one.
const SIGNED_FIELDS: [&str; 17] = [
    "From",
    "Reply-To",
    "Sender",
    "Subject",
    "Date",
    "Message-ID",
    "To",
    "Cc",
    "MIME-Version",
    "Content-Type",
    "Content-Transfer-Encoding",
    "In-Reply-To",
    "References",
    "List-Id",
    "List-Help",
    "List-Unsubscribe",
    "List-Unsubscribe-Post",
];

/// What Amazon SES writes anew, so that a signature over it would break.
const REWRITTEN_BY_SES: [&str; 2] = ["Date", "Message-ID"];

/// One key of one domain.
#[derive(Clone, Debug)]
pub struct Signer {
    /// The domain that signs. It signs for mail from its subdomains too, unless they have their
    /// own.
    pub domain: String,
    /// Names the key below `_domainkey` in the domain's DNS.
    pub selector: String,
    /// The private key.
    pub key: Arc<SigningKey>,
    /// Whether a message that already bears a signature of this domain is left as it is.
    pub skip_signed: bool,
}

/// All keys, by domain.
#[derive(Clone, Debug, Default)]
pub struct Dkim {
    signers: Vec<Signer>,
}

impl Dkim {
    /// Signs with these keys. Several of one domain sign together, in this order.
    pub fn new(signers: Vec<Signer>) -> Self {
        Dkim { signers }
    }

    /// Whether nothing is ever signed.
    pub fn is_empty(&self) -> bool {
        self.signers.is_empty()
    }

    /// The header fields that a message gets, each ending in CRLF; empty where no key is for the
    /// domain of its author.
    ///
    /// A message with no From or several is not signed: a signature over it could be shown for an
    /// author whom nobody checked (RFC 6376 §8.15).
    pub fn sign(&self, message: &[u8], now: Timestamp, rewriting: Rewriting) -> Vec<u8> {
        let Some(message) = SplitMessage::read(message) else {
            return Vec::new();
        };
        let Some(author) = message.author_domain() else {
            return Vec::new();
        };

        let signers = self.signers_for(&author);
        if signers.is_empty() {
            return Vec::new();
        }

        let body = relaxed_body(message.body);
        let body_hash = STANDARD.encode(digest(&SHA256, &body));
        let mut fields = Vec::new();
        for signer in signers {
            if signer.skip_signed && message.is_signed_by(&signer.domain) {
                continue;
            }
            // A key that cannot sign was refused when it was read; what is left is ring's random
            // numbers running out, and then the mail goes unsigned rather than not at all.
            match signer.field(&message, &body_hash, now, rewriting) {
                Some(field) => fields.extend_from_slice(field.as_bytes()),
                None => tracing::error!(
                    domain = signer.domain,
                    selector = signer.selector,
                    "a message could not be signed"
                ),
            }
        }

        fields
    }

    /// The keys of the domain, or else of the nearest domain above it that has any.
    fn signers_for(&self, author: &str) -> Vec<&Signer> {
        let mut domain = author;
        loop {
            let found: Vec<&Signer> = self
                .signers
                .iter()
                .filter(|signer| signer.domain.eq_ignore_ascii_case(domain))
                .collect();
            if !found.is_empty() {
                return found;
            }
            match domain.split_once('.') {
                Some((_, above)) => domain = above,
                None => return found,
            }
        }
    }
}

/// What the relay does to the message after it has taken it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rewriting {
    /// It leaves the signed fields alone, as a relay must.
    #[default]
    None,
    /// It is Amazon SES, which writes Date and Message-ID anew.
    Ses,
}

impl Rewriting {
    fn leaves(self, name: &str) -> bool {
        self == Rewriting::None
            || !REWRITTEN_BY_SES
                .iter()
                .any(|rewritten| rewritten.eq_ignore_ascii_case(name))
    }
}

impl Signer {
    /// The whole `DKIM-Signature` field (RFC 6376 §3.5), folded, with its CRLF.
    fn field(
        &self,
        message: &SplitMessage<'_>,
        body_hash: &str,
        now: Timestamp,
        rewriting: Rewriting,
    ) -> Option<String> {
        let mut signed = Vec::new();
        let mut names = Vec::new();
        for name in SIGNED_FIELDS
            .into_iter()
            .filter(|name| rewriting.leaves(name))
        {
            // The last field of that name is signed first (§5.4.2).
            for field in message.fields(name).rev() {
                relaxed_field(field, &mut signed);
                names.push(name);
            }
            // One more than there is: it is signed as absent, so none can be added (§8.15).
            if message.fields(name).next().is_some() || name == "From" {
                names.push(name);
            }
        }

        let mut field = format!(
            "DKIM-Signature: v=1; a={}; c=relaxed/relaxed; d={};\r\n s={}; t={};\r\n",
            self.key.algorithm(),
            self.domain,
            self.selector,
            now.as_millis() / 1000
        );

        field.push_str(&fold_names(&names));
        let _ = write!(field, " bh={body_hash};\r\n b=");

        // The field itself comes last, without a value for b= and without its CRLF (§3.7).
        relaxed_field(field.as_bytes(), &mut signed);
        signed.truncate(signed.len() - 2);

        let signature = STANDARD.encode(self.key.sign(&signed)?);
        for (at, part) in signature.as_bytes().chunks(72).enumerate() {
            if at > 0 {
                field.push_str("\r\n ");
            }
            field.extend(part.iter().map(|byte| char::from(*byte)));
        }

        field.push_str("\r\n");
        Some(field)
    }
}

/// `h=`, on lines of at most 78 characters.
fn fold_names(names: &[&str]) -> String {
    let mut folded = String::from(" h=");
    let mut line = folded.len();
    for (at, name) in names.iter().enumerate() {
        let end = if at + 1 < names.len() { ":" } else { ";" };
        if line + name.len() + 1 > 76 {
            folded.push_str("\r\n  ");
            line = 2;
        }
        folded.push_str(name);
        folded.push_str(end);
        line += name.len() + 1;
    }

    folded.push_str("\r\n");
    folded
}

#[cfg(test)]
mod tests {
    use super::*;

    const ED25519: &str = "-----BEGIN PRIVATE KEY-----\n\
        MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n\
        -----END PRIVATE KEY-----\n";

    fn signer(domain: &str) -> Signer {
        Signer {
            domain: domain.into(),
            selector: "s1".into(),
            key: Arc::new(SigningKey::from_pem(ED25519.as_bytes()).expect("valid")),
            skip_signed: false,
        }
    }

    fn signed(domain: &str, message: &str) -> String {
        let dkim = Dkim::new(vec![signer(domain)]);
        let now = Timestamp::from_millis(1_700_000_000_000);
        String::from_utf8(dkim.sign(message.as_bytes(), now, Rewriting::None)).expect("valid")
    }

    #[test]
    fn the_author_decides_which_domain_signs() {
        let message = "From: Ada <ada@News.Example.com>\r\nSubject: x\r\n\r\nhi\r\n";
        assert!(signed("example.com", message).contains("d=example.com;"));
        assert!(signed("news.example.com", message).contains("d=news.example.com;"));
        assert_eq!(signed("example.org", message), "");
        assert_eq!(signed("ample.com", message), "");
    }

    #[test]
    fn a_message_with_two_authors_fields_is_not_signed() {
        let message = "From: ada@example.com\r\nFrom: eve@example.com\r\n\r\nhi\r\n";
        assert_eq!(signed("example.com", message), "");
    }

    #[test]
    fn every_field_that_is_there_is_listed_once_more() {
        let field = signed(
            "example.com",
            "To: b@example.org\r\nFrom: a@example.com\r\nX-Mine: 1\r\n\r\n",
        );

        let names = field
            .split_once("h=")
            .expect("valid")
            .1
            .split_once(';')
            .expect("valid")
            .0;

        assert_eq!(names, "From:From:To:To");
        assert!(field.lines().all(|line| line.len() <= 78), "{field}");
    }

    #[test]
    fn what_ses_writes_anew_is_not_signed_for_it() {
        let message =
            b"From: a@example.com\r\nDate: Mon, 1 Jan 2024 00:00:00 +0000\r\nMessage-ID: <1@x>\r\n\
              \r\n";
        let dkim = Dkim::new(vec![signer("example.com")]);
        let field = dkim.sign(message, Timestamp::from_millis(0), Rewriting::Ses);
        let field = String::from_utf8(field).expect("valid");
        assert!(field.contains("h=From:From;"), "{field}");
    }

    #[test]
    fn a_message_that_the_domain_has_signed_is_left_alone_on_request() {
        let message = "DKIM-Signature: v=1; a=rsa-sha256; d=example.com;\r\n s=x; b=y\r\n\
                       From: a@example.com\r\n\r\nhi\r\n";
        let mut skipping = signer("example.com");
        skipping.skip_signed = true;
        let now = Timestamp::from_millis(0);
        let dkim = Dkim::new(vec![skipping]);
        assert!(
            dkim.sign(message.as_bytes(), now, Rewriting::None)
                .is_empty()
        );
        assert!(!signed("example.com", message).is_empty());
    }
}

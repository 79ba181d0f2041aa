//! A token that names one mail to whoever has it, and reveals nothing to others: the mail's id,
//! encrypted with the secret of `[status]`. Nothing is stored, and a mail always has the same
//! token.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::{digest, hmac};

use crate::mail::MailId;

/// Bound to the tokens as additional data, so that nothing else that was encrypted with the same
/// secret is accepted as one.
const PURPOSE: &[u8] = b"postrider status";

/// Encrypts and decrypts tokens.
pub(super) struct TokenCipher {
    key: LessSafeKey,
    nonces: hmac::Key,
}

impl TokenCipher {
    /// The cipher for this secret.
    pub fn new(secret: &str) -> Option<Self> {
        let key = |part: &[u8]| {
            let mut context = digest::Context::new(&digest::SHA256);
            context.update(part);
            context.update(secret.as_bytes());
            context.finish()
        };
        let sealing = UnboundKey::new(&AES_256_GCM, key(b"seal ").as_ref()).ok()?;
        Some(TokenCipher {
            key: LessSafeKey::new(sealing),
            nonces: hmac::Key::new(hmac::HMAC_SHA256, key(b"nonce ").as_ref()),
        })
    }

    /// The token of a mail.
    pub fn token(&self, id: MailId) -> Option<String> {
        let mut sealed = id.as_bytes().to_vec();
        // Derived from the id, so that no two ids have the same nonce.
        let drawn = hmac::sign(&self.nonces, &sealed);
        let nonce: [u8; NONCE_LEN] = drawn.as_ref().get(..NONCE_LEN)?.try_into().ok()?;
        let unique = Nonce::assume_unique_for_key(nonce);
        let sealing = self
            .key
            .seal_in_place_append_tag(unique, Aad::from(PURPOSE), &mut sealed);
        sealing.ok()?;
        Some(URL_SAFE_NO_PAD.encode([&nonce[..], &sealed].concat()))
    }

    /// The mail of a token; `None` if it was not made with this secret.
    pub fn mail(&self, token: &str) -> Option<MailId> {
        let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
        let (nonce, sealed) = bytes.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut sealed = sealed.to_vec();
        let opened = self
            .key
            .open_in_place(nonce, Aad::from(PURPOSE), &mut sealed);
        Some(MailId::from_bytes(opened.ok()?.try_into().ok()?))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_token_names_its_mail_and_nobody_can_make_or_read_one() {
        let cipher = TokenCipher::new("a secret of some length").unwrap();
        let (one, other) = (MailId::generate(), MailId::generate());
        let token = cipher.token(one).unwrap();
        assert_eq!(cipher.mail(&token), Some(one));
        assert_eq!(cipher.token(one).unwrap(), token);
        assert_ne!(cipher.token(other).unwrap(), token);
        assert_eq!(
            TokenCipher::new("another secret").unwrap().mail(&token),
            None
        );

        let bytes = URL_SAFE_NO_PAD.decode(&token).unwrap();
        let id = one.as_bytes();
        assert!(!bytes.windows(id.len()).any(|window| window == id));
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert_eq!(cipher.mail(&URL_SAFE_NO_PAD.encode(changed)), None);
        }

        for none in ["", "x", &one.to_string(), &token[1..], &format!("{token}A")] {
            assert_eq!(cipher.mail(none), None, "{none}");
        }
    }
}

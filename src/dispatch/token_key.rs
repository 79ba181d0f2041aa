//! The key for tokens that are sent with a mail and come back from anybody: some content, and the
//! start of its HMAC (RFC 2104).
//!
//! *Invariant:* a token cannot be made without the secret.

use ring::hmac;

/// Signs with `SIGNATURE` bytes.
#[derive(Clone, Debug)]
pub(super) struct TokenKey<const SIGNATURE: usize>(hmac::Key);

impl<const SIGNATURE: usize> TokenKey<SIGNATURE> {
    /// # Errors
    /// The secret is too short.
    pub fn new(secret: &[u8]) -> Result<Self, String> {
        if secret.len() < 16 {
            return Err("needs a secret of 16 bytes or more".to_owned());
        }
        Ok(TokenKey(hmac::Key::new(hmac::HMAC_SHA256, secret)))
    }

    /// The content with its signature.
    pub fn sign(&self, mut content: Vec<u8>) -> Vec<u8> {
        let signature = hmac::sign(&self.0, &content);
        content.extend(&signature.as_ref()[..SIGNATURE]);
        content
    }

    /// The content of a token; `None` if it was not made with this key.
    pub fn read<'a>(&self, token: &'a [u8]) -> Option<&'a [u8]> {
        let (content, signature) = token.split_last_chunk::<SIGNATURE>()?;
        let expected = hmac::sign(&self.0, content);

        // In constant time, so that the duration does not reveal how much of it was right.
        let pairs = expected.as_ref()[..SIGNATURE].iter().zip(signature);
        let differences = pairs.fold(0, |all, (a, b)| all | (a ^ b));
        (differences == 0).then_some(content)
    }
}

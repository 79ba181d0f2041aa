//! Compares secrets in constant time. Tokens, passwords and the secrets of providers are compared
//! here and nowhere else.

use subtle::{Choice, ConstantTimeEq};

/// All secrets are compared at this length, in bytes, so that the time reveals nothing about
/// theirs. Only for a longer one, the excess length can be measured.
pub(super) const COMPARED_LENGTH: usize = 256;

/// The secret that a client has presented.
pub(super) struct ClaimedSecret<'a>(PaddedText<'a>);

impl<'a> ClaimedSecret<'a> {
    pub fn new(claimed: &'a [u8]) -> Self {
        ClaimedSecret(PaddedText::new(claimed))
    }

    /// Whether it equals this secret.
    pub fn is(&self, secret: &[u8]) -> Choice {
        let secret = PaddedText::new(secret);
        self.0.bytes.ct_eq(&secret.bytes)
            & self.0.length.ct_eq(&secret.length)
            & self.0.rest.ct_eq(secret.rest)
    }
}

/// A text in an array of fixed size, and the rest that does not fit.
struct PaddedText<'a> {
    bytes: [u8; COMPARED_LENGTH],
    rest: &'a [u8],
    length: u64,
}

impl<'a> PaddedText<'a> {
    fn new(text: &'a [u8]) -> Self {
        let (beginning, rest) = text.split_at(text.len().min(COMPARED_LENGTH));
        let mut bytes = [0; COMPARED_LENGTH];
        bytes[..beginning.len()].copy_from_slice(beginning);

        PaddedText {
            bytes,
            rest,
            length: text.len() as u64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_itself_and_nothing_else_however_long() {
        let long = [b'a'; 300];
        let mut other_end = long;
        other_end[299] = b'b';
        let all = [
            &b""[..],
            b"\0",
            b"secret",
            b"secret\0",
            b"Secret",
            &long[..256],
            &long[..257],
            &long,
            &other_end,
        ];

        for (at, claimed) in all.iter().enumerate() {
            for (other, secret) in all.iter().enumerate() {
                let is = bool::from(ClaimedSecret::new(claimed).is(secret));
                assert_eq!(is, at == other, "{claimed:?} for {secret:?}");
            }
        }
    }
}

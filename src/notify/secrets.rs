//! The signatures of messages, by the Standard Webhooks specification (1.0.0): HMAC-SHA256 over the
//! message's id, the time of the call, and the body.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;
use secrecy::{ExposeSecret, SecretString};

/// The prefix of a secret.
const PREFIX: &str = "whsec_";
/// How many bytes a secret may have.
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// The keys of an endpoint. While a secret is being replaced there are two, and each signs.
pub(super) struct Secrets(Vec<hmac::Key>);

impl Secrets {
    /// Reads one or more secrets, separated by white space.
    pub(super) fn read(text: &SecretString) -> Result<Self, &'static str> {
        let mut keys = Vec::new();
        for word in text.expose_secret().split_ascii_whitespace() {
            let base64 = word.strip_prefix(PREFIX).unwrap_or(word);
            let bytes = STANDARD
                .decode(base64)
                .map_err(|_| "must be `whsec_` followed by base64")?;
            if !SECRET_BYTES.contains(&bytes.len()) {
                return Err("must be `whsec_` and base64 of 24 to 64 bytes");
            }
            keys.push(hmac::Key::new(hmac::HMAC_SHA256, &bytes));
        }

        match keys.is_empty() {
            true => Err("is empty"),
            false => Ok(Secrets(keys)),
        }
    }

    /// The value of the header field `webhook-signature`.
    pub(super) fn sign(&self, id: &str, timestamp: i64, body: &str) -> String {
        let signed = format!("{id}.{timestamp}.{body}");
        let sign = |key| {
            let tag = hmac::sign(key, signed.as_bytes());
            format!("v1,{}", STANDARD.encode(tag.as_ref()))
        };
        self.0.iter().map(sign).collect::<Vec<_>>().join(" ")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn read(text: &str) -> Result<Secrets, &'static str> {
        Secrets::read(&text.to_owned().into())
    }

    #[test]
    fn the_specifications_own_example_is_signed_as_it_says() {
        let secrets = read("whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD").unwrap();
        let signature = secrets.sign(
            "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk",
            1_649_367_553,
            r#"{"email":"test@example.com","username":"test_user"}"#,
        );
        assert_eq!(signature, "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=");
    }

    #[test]
    fn while_a_secret_is_replaced_both_sign() {
        let both =
            "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD\nwhsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n";
        let signature = read(both).unwrap().sign("msg_1", 1, "{}");
        let all: Vec<&str> = signature.split(' ').collect();
        assert_eq!(all.len(), 2);
        assert!(all[0] != all[1] && all.iter().all(|one| one.starts_with("v1,")));
    }

    #[test]
    fn what_is_no_secret_is_refused() {
        for bad in ["", "whsec_", "whsec_c2hvcnQ=", "whsec_!!!", "hunter2"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}

//! The authentication that all providers' events have in common: the request as received,
//! comparison of secrets in constant time, and dated proofs that are accepted once.
//!
//! *Invariants:* a dated proof is accepted once, and only while it is recent; the memory for that
//! is bounded.

use std::collections::HashMap;
use std::time::Duration;

use axum::http::{HeaderMap, header};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use parking_lot::Mutex;
use ring::digest;

use crate::ingress::secrets::ClaimedSecret;
use crate::mail::Timestamp;

/// By how much the provider's clock may be ahead of ours.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(5 * 60);
/// How many proofs are remembered.
const REMEMBERED_PROOFS: usize = 250_000;

/// A request that claims to be a provider's.
#[derive(Clone, Copy)]
pub(super) struct ProviderRequest<'a> {
    pub headers: &'a HeaderMap,
    /// The body, exactly as received.
    pub body: &'a [u8],
}

impl<'a> ProviderRequest<'a> {
    /// A header field that the proof needs. One that occurs twice is ambiguous, and proves nothing.
    pub fn header(&self, name: &str) -> Result<&'a str, ProofError> {
        let mut values = self.headers.get_all(name).iter();
        match (values.next(), values.next()) {
            (Some(value), None) => value.to_str().map_err(|_| ProofError::Missing),
            _ => Err(ProofError::Missing),
        }
    }

    /// Whether `Authorization` contains a secret (RFC 7617, RFC 6750): as a bearer token, or as a
    /// password, for which `secret` may begin with the user's name and a colon.
    pub fn shows(&self, secret: &str) -> Result<(), ProofError> {
        let shown = self.header(header::AUTHORIZATION.as_str())?;
        let is_it = |claimed: &[u8]| ClaimedSecret::new(claimed).is(secret.as_bytes());
        let (scheme, rest) = shown.split_once(' ').ok_or(ProofError::Wrong)?;

        let is_right = match scheme.to_ascii_lowercase().as_str() {
            "bearer" => is_it(rest.trim().as_bytes()),
            "basic" => {
                let pair = BASE64_STANDARD.decode(rest.trim());
                let pair = pair.map_err(|_| ProofError::Wrong)?;
                let colon = pair.iter().position(|byte| *byte == b':');
                let password = colon.map_or(&[][..], |colon| &pair[colon + 1..]);
                is_it(&pair) | is_it(password)
            }
            _ => return Err(ProofError::Wrong),
        };

        bool::from(is_right).then_some(()).ok_or(ProofError::Wrong)
    }
}

/// The time of a proof, and a hash that distinguishes it from all others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    at: Timestamp,
    name: [u8; 16],
}

impl Stamp {
    /// For a proof that was made at this time.
    pub fn new(at: Timestamp, signed: &[u8]) -> Self {
        let digest = digest::digest(&digest::SHA256, signed);
        Stamp {
            at,
            name: digest.as_ref().first_chunk().copied().unwrap_or_default(),
        }
    }

    /// The same, with the time in seconds since 1970.
    pub fn of_seconds(seconds: &str, signed: &[u8]) -> Result<Self, ProofError> {
        let seconds: i64 = seconds.parse().map_err(|_| ProofError::Wrong)?;
        let at = seconds.checked_mul(1000).ok_or(ProofError::Wrong)?;
        Ok(Stamp::new(Timestamp::from_millis(at), signed))
    }
}

/// Why a request is not authentic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ProofError {
    /// It contains no proof.
    #[error("has no password or signature")]
    Missing,
    /// The proof is wrong.
    #[error("has a wrong password or signature")]
    Wrong,
    /// It comes from another network.
    #[error("comes from an address that is not in the `networks` of its section")]
    Network,
    /// It is of an SNS topic that is not configured.
    #[error("is of a topic that `feedback.ses.topics` does not name")]
    Topic,
    /// The proof is too old, or ahead of our clock.
    #[error("is too old or in the future: `max_age` of its section says how old it may be")]
    NotOfNow,
    /// The same proof was accepted before.
    #[error("was accepted before")]
    TakenBefore,
    /// It cannot be verified at the moment.
    #[error("cannot be checked now; try again later")]
    NotNow,
}

impl ProofError {
    /// Whether a wrong secret was used, so that the client may be guessing. A proof that is old, or
    /// comes twice, was made with the right one.
    pub fn is_guess(self) -> bool {
        self == ProofError::Wrong
    }
}

/// The dated proofs that were accepted, each until it is too old anyway.
#[derive(Debug, Default)]
pub(super) struct SeenProofs(Mutex<HashMap<[u8; 16], Timestamp>>);

impl SeenProofs {
    /// Accepts a proof, unless it was accepted before or is too old. It is remembered only once its
    /// event was [stored](PendingProof::keep): a provider that is told of a failure sends the same
    /// proof again.
    pub fn take(
        &self,
        stamp: &Stamp,
        max_age: Duration,
        now: Timestamp,
    ) -> Result<PendingProof<'_>, ProofError> {
        let until = stamp.at + max_age;
        if until < now || now + CLOCK_TOLERANCE < stamp.at {
            return Err(ProofError::NotOfNow);
        }

        let mut seen = self.0.lock();
        if seen.len() >= REMEMBERED_PROOFS {
            seen.retain(|_, until| *until >= now);
        }
        if seen.contains_key(&stamp.name) {
            return Err(ProofError::TakenBefore);
        }
        if seen.len() >= REMEMBERED_PROOFS {
            return Err(ProofError::NotNow);
        }

        seen.insert(stamp.name, until);
        Ok(PendingProof {
            seen: self,
            name: Some(stamp.name),
        })
    }
}

/// A proof whose event is not stored yet.
pub(super) struct PendingProof<'a> {
    seen: &'a SeenProofs,
    name: Option<[u8; 16]>,
}

impl PendingProof<'_> {
    /// Records that its event was stored.
    pub fn keep(mut self) {
        self.name = None;
    }
}

impl Drop for PendingProof<'_> {
    fn drop(&mut self) {
        if let Some(name) = self.name {
            self.seen.0.lock().remove(&name);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn a_proof_is_taken_once_and_in_its_time_and_again_where_nothing_came_of_it() {
        let seen = SeenProofs::default();
        let at = Timestamp::from_millis(1_649_367_553_000);
        let stamp = Stamp::of_seconds("1649367553", b"signed").unwrap();
        assert_eq!(stamp, Stamp::new(at, b"signed"));

        let take = |now| seen.take(&stamp, 5 * MINUTE, now).map(PendingProof::keep);
        let old = at + 5 * MINUTE + Duration::from_millis(1);
        assert_eq!(take(old), Err(ProofError::NotOfNow));
        let early = Timestamp::from_millis(at.as_millis() - 300_001);
        assert_eq!(take(early), Err(ProofError::NotOfNow));

        drop(seen.take(&stamp, 5 * MINUTE, at).unwrap());
        let taking = seen.take(&stamp, 5 * MINUTE, at).unwrap();
        assert_eq!(take(at), Err(ProofError::TakenBefore), "while it is taken");
        taking.keep();
        assert_eq!(take(at + 4 * MINUTE), Err(ProofError::TakenBefore));
        let other = Stamp::new(at, b"another");
        assert!(seen.take(&other, 5 * MINUTE, at).is_ok());
    }

    #[test]
    fn the_memory_of_proofs_is_bounded_and_makes_room_for_what_is_of_now() {
        let seen = SeenProofs::default();
        let at = Timestamp::from_millis(1_649_367_553_000);
        let take = |n: usize, at, now| {
            let stamp = Stamp::new(at, &n.to_le_bytes());
            seen.take(&stamp, MINUTE, now).map(PendingProof::keep)
        };

        for n in 0..REMEMBERED_PROOFS {
            take(n, at, at).unwrap();
        }
        assert_eq!(take(REMEMBERED_PROOFS, at, at), Err(ProofError::NotNow));
        assert_eq!(take(0, at, at), Err(ProofError::TakenBefore));
        let later = at + 2 * MINUTE;
        take(REMEMBERED_PROOFS, later, later).unwrap();
    }
}

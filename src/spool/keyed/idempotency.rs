//! Computes the hash under which a mail's idempotency key is stored. It includes the submitter, so
//! that nobody can find or use another's keys; and a secret of this spool, so that nobody can
//! construct two keys with the same hash, or test keys against a copy of the spool without the
//! secret.

use ring::hmac;
use serde::{Deserialize, Serialize};

use super::keys;
use super::write_transaction::WriteTransaction;
use crate::mail::{MailId, Submitter};
use crate::spool::codec::{self, KeyRecord, Versioned};
use crate::spool::store::Store;
use crate::spool::{Manifest, SpoolError};

/// The hash of an idempotency key.
pub(super) type Hash = [u8; 16];

/// The secret of the hashes, as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct IdempotencySecret {
    secret: [u8; 32],
    /// Whether the spool may contain keys from before it had a secret.
    has_old_keys: bool,
}

impl Versioned for IdempotencySecret {}

/// Hashes idempotency keys.
pub(super) struct KeyHash {
    key: hmac::Key,
    has_old_keys: bool,
}

impl KeyHash {
    /// The hasher of this spool. If the spool has no secret yet, also returns the new one, which
    /// must be written.
    pub(super) fn of_spool<S: Store>(
        store: &S,
    ) -> Result<(Self, Option<IdempotencySecret>), SpoolError> {
        let (secret, is_new) = match store.get(keys::SECRET)? {
            Some(bytes) => (codec::decode::<IdempotencySecret>(&bytes)?, false),
            None => {
                let secret = IdempotencySecret {
                    secret: rand::random(),
                    has_old_keys: store.get(keys::TOTALS)?.is_some(),
                };
                (secret, true)
            }
        };

        let hash = KeyHash {
            key: hmac::Key::new(hmac::HMAC_SHA256, &secret.secret),
            has_old_keys: secret.has_old_keys,
        };

        Ok((hash, is_new.then_some(secret)))
    }

    /// The hash of a mail's idempotency key, if it has one.
    pub(super) fn of(&self, manifest: &Manifest) -> Option<Hash> {
        let key = manifest.idempotency_key.as_deref()?;
        self.hash(&manifest.submitter.clone().unwrap_or_default(), key)
    }

    /// The hash of a submitter's key.
    fn hash(&self, whose: &Submitter, key: &str) -> Option<Hash> {
        let who = whose.to_string();
        let mut context = hmac::Context::with_key(&self.key);
        context.update(&(who.len() as u64).to_be_bytes());
        context.update(who.as_bytes());
        context.update(key.as_bytes());
        context.sign().as_ref().first_chunk().copied()
    }

    /// The hash of the same key from before the spool had a secret, if such keys may still exist.
    pub(super) fn old(&self, manifest: &Manifest) -> Option<Hash> {
        let key = manifest.idempotency_key.as_deref()?;
        self.old_hash(&manifest.submitter.clone().unwrap_or_default(), key)
    }

    fn old_hash(&self, whose: &Submitter, key: &str) -> Option<Hash> {
        self.has_old_keys
            .then(|| keys::old_hash_of(&whose.old_key(key)))
    }

    /// The mail that has this key of this submitter.
    pub(super) fn find<S: Store>(
        &self,
        store: &S,
        whose: &Submitter,
        key: &str,
    ) -> Result<Option<MailId>, SpoolError> {
        let hashes = [self.hash(whose, key), self.old_hash(whose, key)];
        for hash in hashes.into_iter().flatten() {
            if let Some(bytes) = store.get(&keys::idempotency(hash))? {
                return Ok(Some(codec::decode::<KeyRecord>(&bytes)?.mail));
            }
        }
        Ok(None)
    }
}

impl IdempotencySecret {
    /// Adds the secret to the changes that opening a spool writes.
    pub(super) fn write<S: Store>(&self, transaction: &mut WriteTransaction<'_, S>) {
        let key = keys::SECRET.to_vec();
        transaction.changes.put(key, codec::encode(self));
    }
}

//! Computes the key under which a mail's idempotency key is stored. It depends on the submitter, so
//! that nobody can find out or take another's key; and on a secret of this spool, so that nobody
//! can make two keys with the same hash, or try keys on a copy of the spool without the secret.

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

/// What idempotency keys are hashed with, as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct IdempotencySecret {
    secret: [u8; 32],
    /// Whether the spool may hold keys from before it had a secret.
    has_old_keys: bool,
}

impl Versioned for IdempotencySecret {}

/// Hashes idempotency keys.
pub(super) struct KeyHash {
    key: hmac::Key,
    has_old_keys: bool,
}

impl KeyHash {
    /// That of this spool; and, where it has none yet, the secret that is to be written.
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

    /// The hash of a key of this submitter.
    fn hash(&self, whose: &Submitter, key: &str) -> Option<Hash> {
        let who = whose.to_string();
        let mut context = hmac::Context::with_key(&self.key);
        context.update(&(who.len() as u64).to_be_bytes());
        context.update(who.as_bytes());
        context.update(key.as_bytes());
        context.sign().as_ref().first_chunk().copied()
    }

    /// The hash that the same key of the same submitter had before the spool had a secret, where it
    /// may still hold such.
    pub(super) fn old(&self, manifest: &Manifest) -> Option<Hash> {
        let key = manifest.idempotency_key.as_deref()?;
        self.old_hash(&manifest.submitter.clone().unwrap_or_default(), key)
    }

    fn old_hash(&self, whose: &Submitter, key: &str) -> Option<Hash> {
        self.has_old_keys
            .then(|| keys::old_hash_of(&whose.old_key(key)))
    }

    /// Which mail has this key of this submitter.
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
    /// Has it written with what else opening a spool writes.
    pub(super) fn write<S: Store>(&self, transaction: &mut WriteTransaction<'_, S>) {
        let key = keys::SECRET.to_vec();
        transaction.changes.put(key, codec::encode(self));
    }
}

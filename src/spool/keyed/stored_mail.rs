//! A mail's own record. It contains all of a small mail, because the cost of accepting a mail is
//! the number of its keys. A larger message is stored in chunks, and the deliveries of a mail with
//! many recipients have records of their own. This record does not change when a delivery does: the
//! delivery gets a record of its own, which takes precedence.

use bytes::Bytes;

use super::keys;
use crate::delivery::Delivery;
use crate::mail::MailId;
use crate::spool::codec;
use crate::spool::store::Store;
use crate::spool::{Manifest, SpoolError};

/// The bytes of one chunk of a message, and of the longest message that is stored in its mail's
/// record. sled would put a much larger value into a file of its own, which it does not sync.
pub(super) const CHUNK_BYTES: usize = 4096;
/// The most deliveries that are stored in their mail's record.
pub(super) const INLINE_DELIVERIES: usize = 8;

/// Stored in place of a message that was deleted. No message is so short.
const FORGOTTEN: &[u8] = &[0xFF];

/// About the bytes of a new delivery besides its address and its route.
const DELIVERY_BYTES: usize = 160;

/// A mail's record, decoded.
pub(super) struct StoredMail {
    pub manifest: Manifest,
    /// The deliveries as they were put; none if each has a record of its own.
    deliveries: Vec<Delivery>,
    /// The message; empty if it is stored in chunks.
    body: Bytes,
}

/// Whether a message of this size is stored in its mail's record.
pub(super) fn is_small(size: usize) -> bool {
    size <= CHUNK_BYTES
}

/// About the bytes of new deliveries with their positions in a queue.
pub(super) fn weight(deliveries: &[Delivery]) -> usize {
    deliveries
        .iter()
        .map(|delivery| {
            delivery.recipient.as_str().len() + delivery.route.as_str().len() + DELIVERY_BYTES
        })
        .sum()
}

/// The deliveries of a new mail that get records of their own.
pub(super) fn beside_the_record(deliveries: &[Delivery]) -> &[Delivery] {
    if deliveries.len() <= INLINE_DELIVERIES {
        &[]
    } else {
        deliveries
    }
}

/// The record of a new mail.
pub(super) fn record(manifest: &Manifest, deliveries: &[Delivery], body: &[u8]) -> Vec<u8> {
    let few = deliveries.len() <= INLINE_DELIVERIES;
    let mut record = codec::encode(&(manifest, if few { deliveries } else { &[] }));
    if is_small(body.len()) {
        record.extend_from_slice(body);
    }
    record
}

/// The record of a mail whose message is deleted.
#[cfg(feature = "postgres")]
pub(super) fn forgotten_record(manifest: &Manifest, deliveries: &[Delivery]) -> Vec<u8> {
    let few = deliveries.len() <= INLINE_DELIVERIES;
    let mut record = codec::encode(&(manifest, if few { deliveries } else { &[] }));
    record.extend_from_slice(FORGOTTEN);
    record
}

impl StoredMail {
    pub(super) fn from_bytes(record: Vec<u8>) -> Result<Self, SpoolError> {
        let record = Bytes::from(record);
        let ((manifest, deliveries), body) =
            codec::decode_first::<(Manifest, Vec<Delivery>)>(&record)?;
        let body = record.slice_ref(body);
        Ok(StoredMail {
            manifest,
            deliveries,
            body,
        })
    }

    pub(super) fn read<S: Store>(store: &S, id: MailId) -> Result<Option<Self>, SpoolError> {
        store
            .get(&keys::manifest(id))?
            .map(Self::from_bytes)
            .transpose()
    }

    /// The record with its current manifest.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut record = codec::encode(&(&self.manifest, &self.deliveries));
        record.extend_from_slice(&self.body);
        record
    }

    /// A delivery as it was accepted, if it is stored here.
    pub(super) fn as_put(&self, index: u16) -> Option<&Delivery> {
        self.deliveries.get(usize::from(index))
    }

    /// All deliveries as they were accepted, if they are stored here.
    pub(super) fn all_as_put(&self) -> impl Iterator<Item = (u16, Delivery)> {
        (0u16..).zip(self.deliveries.iter().cloned())
    }

    /// Whether its message was deleted.
    pub(super) fn is_forgotten(&self) -> bool {
        self.body == FORGOTTEN && self.manifest.size != FORGOTTEN.len() as u64
    }

    /// Replaces its message by the mark for a deleted one.
    pub(super) fn forget(&mut self) {
        self.body = Bytes::from_static(FORGOTTEN);
    }

    /// The message, if it is stored here.
    pub(super) fn body(&self) -> &Bytes {
        &self.body
    }
}

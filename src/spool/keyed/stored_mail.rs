//! A mail's own record. A small mail is whole in it, because what an accepted mail costs is the
//! number of its keys; the message of a larger one stands in chunks, and the deliveries of one with
//! many recipients have records of their own. What changes is written beside it: a delivery's
//! record, once there is one, counts instead of what stands here.

use bytes::Bytes;

use super::keys;
use crate::delivery::Delivery;
use crate::mail::MailId;
use crate::spool::codec;
use crate::spool::store::Store;
use crate::spool::{Manifest, SpoolError};

/// The bytes of one chunk of a message, and of the longest one that stands in its mail's record. A
/// much larger value would become a file of its own in sled, which is not synced.
pub(super) const CHUNK_BYTES: usize = 4096;
/// The most deliveries that stand in their mail's record.
pub(super) const INLINE_DELIVERIES: usize = 8;

/// Stands in place of a message that is not kept any more. No message is as short.
const FORGOTTEN: &[u8] = &[0xFF];

/// About what a new delivery takes besides its address and its route.
const DELIVERY_BYTES: usize = 160;

/// A mail's record as it was read.
pub(super) struct StoredMail {
    pub manifest: Manifest,
    /// The deliveries as they were put; none if each has a record of its own.
    deliveries: Vec<Delivery>,
    /// The message; empty if it stands in chunks.
    body: Bytes,
}

/// Whether a message of this size stands in its mail's record.
pub(super) fn is_small(size: usize) -> bool {
    size <= CHUNK_BYTES
}

/// About how many bytes new deliveries take, with their places in a queue.
pub(super) fn weight(deliveries: &[Delivery]) -> usize {
    deliveries
        .iter()
        .map(|delivery| {
            delivery.recipient.as_str().len() + delivery.route.as_str().len() + DELIVERY_BYTES
        })
        .sum()
}

/// The deliveries of a new mail that have records of their own from the start.
pub(super) fn beside_the_record(deliveries: &[Delivery]) -> &[Delivery] {
    if deliveries.len() <= INLINE_DELIVERIES {
        &[]
    } else {
        deliveries
    }
}

/// A new mail's record.
pub(super) fn record(manifest: &Manifest, deliveries: &[Delivery], body: &[u8]) -> Vec<u8> {
    let few = deliveries.len() <= INLINE_DELIVERIES;
    let mut record = codec::encode(&(manifest, if few { deliveries } else { &[] }));
    if is_small(body.len()) {
        record.extend_from_slice(body);
    }
    record
}

/// The record of a mail whose message is not kept any more.
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

    /// The record with its manifest as it is now.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut record = codec::encode(&(&self.manifest, &self.deliveries));
        record.extend_from_slice(&self.body);
        record
    }

    /// A delivery as it was put, where it stands here.
    pub(super) fn as_put(&self, index: u16) -> Option<&Delivery> {
        self.deliveries.get(usize::from(index))
    }

    /// All deliveries as they were put, where they stand here.
    pub(super) fn all_as_put(&self) -> impl Iterator<Item = (u16, Delivery)> {
        (0u16..).zip(self.deliveries.iter().cloned())
    }

    /// Whether its message is not kept any more.
    pub(super) fn is_forgotten(&self) -> bool {
        self.body == FORGOTTEN && self.manifest.size != FORGOTTEN.len() as u64
    }

    /// Puts a mark in place of its message.
    pub(super) fn forget(&mut self) {
        self.body = Bytes::from_static(FORGOTTEN);
    }

    /// The message, where it stands here.
    pub(super) fn body(&self) -> &Bytes {
        &self.body
    }
}

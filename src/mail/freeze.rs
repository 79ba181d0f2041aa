//! Turns a written message into the bytes that are sent, now and at every retry.

use bytes::Bytes;

use super::{Envelope, MailError};

/// A message that will not change again.
#[derive(Clone, Debug)]
pub(super) struct Frozen {
    pub bytes: Bytes,
    pub message_id: String,
    pub subject: String,
    pub eight_bit: bool,
    pub utf8_header: bool,
}

pub(super) fn freeze(message: Bytes) -> Result<Frozen, MailError> {
    let _ = message;
    unimplemented!()
}

pub(super) fn fingerprint(envelope: &Envelope, message: &[u8]) -> u128 {
    let _ = (envelope, message);
    unimplemented!()
}

//! Records as bytes: one version byte, then postcard. Decoding never panics, whatever the bytes.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{Manifest, SpoolError};
use crate::delivery::Delivery;
use crate::mail::{MailId, Timestamp};

/// The version that is written. Older ones are read; newer ones are not understood.
const VERSION: u8 = 1;

pub(super) fn encode<T: Serialize>(record: &T) -> Vec<u8> {
    let start = vec![VERSION];
    postcard::to_extend(record, start)
        .expect("a vector takes whatever is written, and records hold no unsized sequence")
}

pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, SpoolError> {
    match decode_first(bytes)? {
        (record, []) => Ok(record),
        _ => Err(SpoolError::Unreadable(
            "a record is longer than it should be".into(),
        )),
    }
}

/// Decodes what stands at the beginning, and returns the bytes after it.
pub(super) fn decode_first<T: DeserializeOwned>(bytes: &[u8]) -> Result<(T, &[u8]), SpoolError> {
    match bytes {
        [VERSION, rest @ ..] => postcard::take_from_bytes(rest)
            .map_err(|e| SpoolError::Unreadable(format!("a record cannot be decoded: {e}"))),
        [version, ..] => Err(SpoolError::Unreadable(format!(
            "a record has version {version}, which is not known here"
        ))),
        [] => Err(SpoolError::Unreadable("a record is empty".into())),
    }
}

/// What an idempotency key stands for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct KeyRecord {
    pub mail: MailId,
    pub fingerprint: u128,
    pub until: Timestamp,
}

/// Totals that are kept in step with the records, so that opening need not count.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Totals {
    /// Pending deliveries by priority.
    pub pending: [u64; 3],
    /// Delivered, dead and cancelled deliveries that are still kept, by priority.
    pub finished: [[u64; 3]; 3],
    /// Records that were set aside.
    pub quarantined: u64,
}

/// Decodes bytes as each kind of record in turn and says how many kinds they can be. For tests that
/// feed it rubbish.
///
/// # Panics
/// If what was read is not read again once it is written.
#[doc(hidden)]
pub fn decode_any(bytes: &[u8]) -> usize {
    fn is<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(bytes: &[u8]) -> bool {
        let Ok((record, _)) = decode_first::<T>(bytes) else {
            return false;
        };
        assert_eq!(decode::<T>(&encode(&record)).as_ref(), Ok(&record));
        true
    }
    [
        is::<(Manifest, Vec<Delivery>)>(bytes),
        is::<Delivery>(bytes),
        is::<KeyRecord>(bytes),
        is::<Totals>(bytes),
    ]
    .into_iter()
    .map(usize::from)
    .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_nothing_else_is() {
        let totals = Totals {
            pending: [1, 2, 3],
            ..Totals::default()
        };
        let bytes = encode(&totals);
        assert_eq!(decode::<Totals>(&bytes).expect("valid"), totals);
        assert!(
            decode::<Totals>(&bytes[..bytes.len() - 1]).is_err(),
            "cut short"
        );
        assert!(
            decode::<Totals>(&[&bytes[..], &[0]].concat()).is_err(),
            "too long"
        );
        let newer = [&[VERSION + 1], &bytes[1..]].concat();
        assert!(
            decode::<Totals>(&newer)
                .expect_err("newer")
                .to_string()
                .contains("version 2")
        );
        assert!(decode::<Totals>(&[]).is_err());
    }
}

//! Records as bytes: one version byte, then postcard. Decoding never panics, whatever the bytes.
//!
//! | version | what changed |
//! |---|---|
//! | 1 | |
//! | 2 | a manifest, and an entry of the journal, say who submitted the mail |
//! | 3 | a manifest says from which template the mail is, of which list, and what was mended |
//! | 4 | an attempt says how its connection was secured |

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{Manifest, SpoolError};
use crate::delivery::{Attempt, Delivery, Phase, Route, Stage};
use crate::mail::{Address, Guarantee, MailId, Priority, Submitter, Timestamp};

/// The version that is written. Older ones can be read; newer ones are refused.
const VERSION: u8 = 4;

/// A record that can be read in every version.
pub(super) trait Versioned: DeserializeOwned {
    /// Decodes a record of this version at the beginning of `bytes`; also returns the bytes after
    /// it.
    fn take(version: u8, bytes: &[u8]) -> postcard::Result<(Self, &[u8])> {
        let _ = version;
        postcard::take_from_bytes(bytes)
    }
}

impl Versioned for KeyRecord {}

pub(super) fn encode<T: Serialize>(record: &T) -> Vec<u8> {
    let start = vec![VERSION];
    postcard::to_extend(record, start)
        .expect("a vector takes whatever is written, and records hold no unsized sequence")
}

pub(super) fn decode<T: Versioned>(bytes: &[u8]) -> Result<T, SpoolError> {
    match decode_first(bytes)? {
        (record, []) => Ok(record),
        _ => Err(SpoolError::Unreadable(
            "a record is longer than it should be".into(),
        )),
    }
}

/// Decodes a record at the beginning of `bytes`; also returns the bytes after it.
pub(super) fn decode_first<T: Versioned>(bytes: &[u8]) -> Result<(T, &[u8]), SpoolError> {
    match bytes {
        [version @ 1..=VERSION, rest @ ..] => T::take(*version, rest)
            .map_err(|e| SpoolError::Unreadable(format!("a record cannot be decoded: {e}"))),
        [version, ..] => Err(SpoolError::Unreadable(format!(
            "a record has version {version}, which is not known here"
        ))),
        [] => Err(SpoolError::Unreadable("a record is empty".into())),
    }
}

/// The mail that has an idempotency key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct KeyRecord {
    pub mail: MailId,
    pub fingerprint: u128,
    pub until: Timestamp,
}

/// Totals that change with the records, so that opening a spool need not count them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub(super) struct Totals {
    /// Pending deliveries by priority.
    pub pending: [u64; 3],
    /// Delivered, dead and cancelled deliveries that are still kept, by priority.
    pub finished: [[u64; 3]; 3],
    /// Records that were set aside.
    pub quarantined: u64,
    /// The usage; `None` in a record of an older version, which did not count it.
    #[serde(skip)]
    pub kept: Option<Usage>,
    /// By how much the times in ids differ from the times of acceptance; likewise.
    #[serde(skip)]
    pub drift: Option<AcceptDelays>,
}

/// How long after its id was made a mail was accepted, in milliseconds: the smallest and the
/// largest difference of all mail that the spool ever held, and 0. With it, a range of times
/// becomes a range of ids.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct AcceptDelays {
    pub least: i64,
    pub most: i64,
}

/// How much a spool stores.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Usage {
    /// About the bytes of all mail.
    pub bytes: u64,
    /// How many idempotency keys there are.
    pub keys: u64,
    /// How many suppressions there are.
    pub suppressions: u64,
    /// How many records the readers of the journal store, their positions included.
    pub readers: u64,
}

impl Serialize for Totals {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let known = (self.pending, self.finished, self.quarantined);
        match (self.kept, self.drift) {
            (Some(kept), Some(drift)) => (known, kept, drift).serialize(serializer),
            (Some(kept), None) => (known, kept).serialize(serializer),
            (None, _) => known.serialize(serializer),
        }
    }
}

/// The usage follows what the first version counted, and the delays follow the usage.
impl Versioned for Totals {
    fn take(_: u8, bytes: &[u8]) -> postcard::Result<(Self, &[u8])> {
        let ((pending, finished, quarantined), rest) = postcard::take_from_bytes(bytes)?;
        let (kept, rest) = take_more(rest)?;
        let (drift, rest) = take_more(rest)?;
        let totals = Totals {
            pending,
            finished,
            quarantined,
            kept,
            drift,
        };
        Ok((totals, rest))
    }
}

/// Decodes the part that follows, if there is one.
fn take_more<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> postcard::Result<(Option<T>, &'a [u8])> {
    match bytes {
        [] => Ok((None, bytes)),
        bytes => postcard::take_from_bytes(bytes).map(|(more, rest)| (Some(more), rest)),
    }
}

/// A manifest of version 1. In version 2 a submitter follows it.
#[derive(Deserialize)]
struct ManifestV1 {
    id: MailId,
    accepted_at: Timestamp,
    expires_at: Timestamp,
    return_path: Option<Address>,
    message_id: String,
    subject: String,
    priority: Priority,
    guarantee: Guarantee,
    tags: Vec<String>,
    idempotency_key: Option<String>,
    fingerprint: u128,
    size: u64,
    recipients: u16,
    eight_bit: bool,
    smtputf8: bool,
}

impl ManifestV1 {
    fn with(self, submitter: Option<Submitter>) -> Manifest {
        let old = self;
        Manifest {
            id: old.id,
            accepted_at: old.accepted_at,
            expires_at: old.expires_at,
            return_path: old.return_path,
            message_id: old.message_id,
            subject: old.subject,
            priority: old.priority,
            guarantee: old.guarantee,
            tags: old.tags,
            idempotency_key: old.idempotency_key,
            fingerprint: old.fingerprint,
            size: old.size,
            recipients: old.recipients,
            eight_bit: old.eight_bit,
            smtputf8: old.smtputf8,
            submitter,
            mended: Vec::new(),
            template: None,
            list: None,
        }
    }
}

/// An attempt of versions 1 to 3.
#[derive(Deserialize)]
struct AttemptV1 {
    at: Timestamp,
    relay: String,
    phase: Phase,
    code: Option<u16>,
    enhanced: Option<String>,
    text: String,
}

impl From<AttemptV1> for Attempt {
    fn from(old: AttemptV1) -> Self {
        Attempt {
            at: old.at,
            relay: old.relay,
            phase: old.phase,
            code: old.code,
            enhanced: old.enhanced,
            text: old.text,
            tls: None,
        }
    }
}

/// A delivery of versions 1 to 3.
#[derive(Deserialize)]
struct DeliveryV1 {
    recipient: Address,
    route: Route,
    stage: Stage,
    tries: u32,
    counted: u32,
    crashes: u32,
    attempts: Vec<AttemptV1>,
}

impl From<DeliveryV1> for Delivery {
    fn from(old: DeliveryV1) -> Self {
        Delivery {
            recipient: old.recipient,
            route: old.route,
            stage: old.stage,
            tries: old.tries,
            counted: old.counted,
            crashes: old.crashes,
            attempts: old.attempts.into_iter().map(Attempt::from).collect(),
        }
    }
}

impl Versioned for Delivery {
    fn take(version: u8, bytes: &[u8]) -> postcard::Result<(Self, &[u8])> {
        match version {
            1..=3 => {
                let (old, rest) = postcard::take_from_bytes::<DeliveryV1>(bytes)?;
                Ok((old.into(), rest))
            }
            _ => postcard::take_from_bytes(bytes),
        }
    }
}

/// A mail's own record: what does not change after acceptance, and its deliveries if they are few.
impl Versioned for (Manifest, Vec<Delivery>) {
    fn take(version: u8, bytes: &[u8]) -> postcard::Result<(Self, &[u8])> {
        let (manifest, rest) = match version {
            1 => {
                let (old, rest) = postcard::take_from_bytes::<ManifestV1>(bytes)?;
                (old.with(None), rest)
            }
            2 => {
                let ((old, submitter), rest) =
                    postcard::take_from_bytes::<(ManifestV1, Option<Submitter>)>(bytes)?;
                (old.with(submitter), rest)
            }
            _ => postcard::take_from_bytes(bytes)?,
        };

        let (deliveries, rest) = match version {
            1..=3 => {
                let (old, rest) = postcard::take_from_bytes::<Vec<DeliveryV1>>(rest)?;
                (old.into_iter().map(Delivery::from).collect(), rest)
            }
            _ => postcard::take_from_bytes(rest)?,
        };
        Ok(((manifest, deliveries), rest))
    }
}

/// Decodes bytes as each kind of record in turn; returns how many kinds they can be. For fuzz
/// tests.
///
/// # Panics
/// If a decoded record differs after it was encoded and decoded again.
#[cfg(feature = "testing")]
pub fn decode_any(bytes: &[u8]) -> usize {
    fn is<T: Serialize + Versioned + PartialEq + std::fmt::Debug>(bytes: &[u8]) -> bool {
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

        let counted = Totals {
            kept: Some(Usage {
                bytes: 900,
                keys: 1,
                suppressions: 2,
                readers: 3,
            }),
            ..totals
        };
        let measured = Totals {
            drift: Some(AcceptDelays {
                least: -7,
                most: 86_400_000,
            }),
            ..counted.clone()
        };

        for totals in [counted, measured] {
            assert_eq!(decode::<Totals>(&encode(&totals)).expect("valid"), totals);
        }
        let newer = [&[VERSION + 1], &bytes[1..]].concat();
        assert!(
            decode::<Totals>(&newer)
                .expect_err("newer")
                .to_string()
                .contains("version 5")
        );

        assert!(decode::<Totals>(&[]).is_err());
    }

    #[test]
    fn what_version_1_wrote_is_read() {
        let id = MailId::from_bytes([7; 16]);
        let mut record = postcard::to_extend(
            &(
                (id, Timestamp::from_millis(5), Timestamp::from_millis(9)),
                None::<Address>,
                ("<1@example.org>", "Hello", Priority::Bulk),
                (
                    Guarantee::AtMostOnce,
                    vec!["tag"],
                    Some("token:app\0order-42"),
                ),
                (u128::MAX, 2u64, 0u16, true, false),
            ),
            vec![1],
        )
        .expect("writes");

        record.extend_from_slice(&[0]); // no deliveries
        record.extend_from_slice(b"hi"); // the message
        let ((read, deliveries), body) =
            decode_first::<(Manifest, Vec<Delivery>)>(&record).expect("reads");

        assert_eq!((read.id, read.subject.as_str()), (id, "Hello"));
        assert_eq!(read.given_key(), Some("order-42"));
        assert_eq!(read.submitter, None);
        assert_eq!(read.owner(), Some(crate::mail::Submitter::token("app")));
        assert!(deliveries.is_empty());
        assert_eq!(body, b"hi");
    }

    #[test]
    fn an_attempt_that_says_nothing_of_tls_is_read() {
        let attempt = (
            (Timestamp::from_millis(8), "primary", Phase::FinalDot),
            (Some(250u16), Some("2.0.0"), "taken"),
        );
        let to: Address = "ada@example.org".parse().expect("an address");
        let at = Timestamp::from_millis(8);
        let delivery = (
            (&to, "primary", Stage::Delivered { at }),
            (1u32, 1u32, 0u32),
            vec![attempt],
        );

        let record = postcard::to_extend(&delivery, vec![3]).expect("writes");
        let read = decode::<Delivery>(&record).expect("reads");
        assert_eq!(read.recipient, to);
        assert_eq!((read.tries, read.crashes), (1, 0));
        assert_eq!(read.attempts[0].text, "taken");
        assert_eq!(read.attempts[0].tls, None);
        assert_eq!(decode::<Delivery>(&encode(&read)).as_ref(), Ok(&read));
    }
}

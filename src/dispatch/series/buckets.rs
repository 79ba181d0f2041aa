//! How time series are stored: as records of their reader of the journal, one for each step of
//! time, and a number for each relay.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::tally::Tally;
use crate::mail::Timestamp;

/// The most relays with series of their own. Mail over further ones is counted in the total only.
const MOST_RELAYS: usize = 64;

/// The resolution of a series.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Resolution {
    /// 10 seconds, kept for a day.
    Fine,
    /// 10 minutes, kept for 90 days.
    Coarse,
}

impl Resolution {
    pub const ALL: [Resolution; 2] = [Resolution::Fine, Resolution::Coarse];

    /// The length of a step, in milliseconds.
    pub fn millis(self) -> i64 {
        match self {
            Resolution::Fine => 10_000,
            Resolution::Coarse => 600_000,
        }
    }

    /// How long steps are kept, in milliseconds.
    pub fn kept(self) -> i64 {
        const DAY: i64 = 86_400_000;

        match self {
            Resolution::Fine => DAY,
            Resolution::Coarse => 90 * DAY,
        }
    }

    fn letter(self) -> u8 {
        match self {
            Resolution::Fine => b'f',
            Resolution::Coarse => b'c',
        }
    }
}

/// One step of a series.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Bucket {
    pub grain: Resolution,
    /// The number of steps since 1970.
    pub number: u64,
}

impl Bucket {
    /// The step that contains this time.
    pub fn of(grain: Resolution, at: Timestamp) -> Self {
        let number = at.as_millis().max(0) / grain.millis();
        Bucket {
            grain,
            number: number.unsigned_abs(),
        }
    }

    /// When the step begins.
    pub fn begins(self) -> Timestamp {
        let number = i64::try_from(self.number).unwrap_or(i64::MAX);
        Timestamp::from_millis(number.saturating_mul(self.grain.millis()))
    }

    pub fn key(self) -> Vec<u8> {
        let mut key = vec![self.grain.letter()];
        key.extend_from_slice(&self.number.to_be_bytes());
        key
    }

    /// The step with this key.
    pub fn read(grain: Resolution, key: &[u8]) -> Option<Self> {
        let number = key.strip_prefix(&[grain.letter()])?;
        let number = u64::from_be_bytes(number.try_into().ok()?);
        Some(Bucket { grain, number })
    }
}

/// The counts of one step: in total, and of relays by their numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct BucketCounts {
    pub all: Tally,
    of: Vec<(u8, Tally)>,
}

impl BucketCounts {
    /// The counts of a relay.
    pub fn relay(&self, number: u8) -> Option<&Tally> {
        let found = self.of.iter().find(|(of, _)| *of == number);
        found.map(|(_, tally)| tally)
    }

    /// The counts of each relay.
    pub fn into_relays(self) -> Vec<(u8, Tally)> {
        self.of
    }

    pub fn relay_mut(&mut self, number: u8) -> &mut Tally {
        let at = self.of.iter().position(|(of, _)| *of == number);
        let at = at.unwrap_or_else(|| {
            self.of.push((number, Tally::default()));
            self.of.len() - 1
        });
        &mut self.of[at].1
    }

    /// The stored form. The first byte is the version.
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_extend(self, vec![1]).unwrap_or_default()
    }

    /// The counts from the stored form; zero if it cannot be decoded.
    pub fn decode(bytes: &[u8]) -> Self {
        let known = bytes.strip_prefix(&[1]);
        let step = known.and_then(|bytes| postcard::from_bytes(bytes).ok());
        step.unwrap_or_default()
    }
}

/// The numbers of the relays with series of their own.
#[derive(Clone, Debug, Default)]
pub(super) struct RelayNumbers(HashMap<String, u8>);

impl RelayNumbers {
    /// The range of their keys.
    pub fn keys() -> (Vec<u8>, Vec<u8>) {
        (vec![b'r'], vec![b'r' + 1])
    }

    pub fn key(number: u8) -> Vec<u8> {
        vec![b'r', number]
    }

    pub fn read(kept: &[(Vec<u8>, Vec<u8>)]) -> Self {
        let read = kept.iter().filter_map(|(key, name)| {
            let number = key.get(1).copied()?;
            Some((String::from_utf8(name.clone()).ok()?, number))
        });
        RelayNumbers(read.collect())
    }

    pub fn number(&self, name: &str) -> Option<u8> {
        self.0.get(name).copied()
    }

    /// Assigns a number to a relay; `None` if there are none left.
    pub fn add(&mut self, name: &str) -> Option<u8> {
        let number = u8::try_from(self.0.len()).ok()?;
        if self.0.len() >= MOST_RELAYS {
            return None;
        }
        self.0.insert(name.to_owned(), number);
        Some(number)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, u8)> {
        self.0.iter().map(|(name, number)| (name.as_str(), *number))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn steps_lie_in_the_order_of_their_time_and_are_read_as_they_were_kept() {
        let at = |seconds: i64| Timestamp::from_millis(seconds * 1000);
        for grain in Resolution::ALL {
            let places = [0, 599, 600, 1_700_000_000].map(|second| Bucket::of(grain, at(second)));
            let keys = places.map(Bucket::key);
            assert!(keys.is_sorted());
            for (place, key) in places.into_iter().zip(&keys) {
                assert_eq!(Bucket::read(grain, key), Some(place));
            }
        }

        let place = Bucket::of(Resolution::Coarse, at(1_700_000_123));
        assert_eq!(place.begins(), at(1_699_999_800));

        let mut step = BucketCounts::default();
        step.all.accepted = 3;
        step.relay_mut(7).delivered = 300;
        step.relay_mut(7).took(std::time::Duration::from_millis(20));

        assert_eq!(BucketCounts::decode(&step.encode()), step);
        assert_eq!(
            BucketCounts::decode(b"\x02unknown"),
            BucketCounts::default()
        );
    }

    #[test]
    fn no_more_relays_are_counted_than_there_is_room_for() {
        let mut relays = RelayNumbers::default();
        let numbers = (0..100).filter_map(|n| relays.add(&format!("relay-{n}")));
        assert_eq!(numbers.count(), MOST_RELAYS);
        let kept = relays
            .iter()
            .map(|(name, number)| (RelayNumbers::key(number), name.into()));
        let read = RelayNumbers::read(&kept.collect::<Vec<_>>());
        assert_eq!(read.number("relay-63"), Some(63));
        assert_eq!(read.number("relay-64"), None);
    }
}

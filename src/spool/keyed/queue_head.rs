//! The front of one queue, in memory. The queue itself is on disk; its head holds the first
//! positions, so that claiming is cheap and memory stays bounded however long the queue is.
//!
//! *Invariant:* every position of the queue up to `covered` is in the head or leased; later
//! positions are on disk only.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::keys::QueuePosition;
use crate::delivery::Delivery;
use crate::mail::Timestamp;
use crate::spool::Manifest;

/// The most positions in one head.
const CAPACITY: usize = 4096;
/// The most positions in all heads together, except that each may hold [`FEWEST_PLACES`].
const TOTAL_PLACES: usize = 256 * 1024;
/// The fewest positions to which a head is limited, however many queues there are.
const FEWEST_PLACES: usize = 128;
/// How long a queue is left alone after a failed read: the first time, and at most.
const FIRST_REST: Duration = Duration::from_secs(1);
const LONGEST_REST: Duration = Duration::from_secs(60);

/// How many positions each head may hold if there are this many heads.
pub(super) fn capacity(heads: usize) -> usize {
    (TOTAL_PLACES / heads.max(1)).clamp(FEWEST_PLACES, CAPACITY)
}

/// How many positions are read from disk at a time.
pub(super) const REFILL_PLACES: usize = 1024;

/// A new mail that stays in memory until it is sent, so that sending it needs no read from disk.
#[derive(Debug)]
pub(super) struct CachedMail {
    pub manifest: Arc<Manifest>,
    pub body: Bytes,
    pub deliveries: Vec<Delivery>,
    /// The memory that it takes of [`MailMemory`].
    pub _share: Share,
}

/// The memory in bytes for mails that stay cached until they are sent.
#[derive(Clone, Debug)]
pub(super) struct MailMemory(Arc<AtomicUsize>);

impl MailMemory {
    pub(super) fn new(bytes: usize) -> Self {
        MailMemory(Arc::new(AtomicUsize::new(bytes)))
    }

    /// Reserves memory; `None` if too little is left.
    pub(super) fn share(&self, bytes: usize) -> Option<Share> {
        let left = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                left.checked_sub(bytes)
            });
        left.ok().map(|_| Share {
            budget: self.clone(),
            bytes,
        })
    }
}

/// Reserved bytes of a [`MailMemory`], returned when this is dropped.
#[derive(Debug)]
pub(super) struct Share {
    budget: MailMemory,
    bytes: usize,
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.0.fetch_add(self.bytes, Ordering::Relaxed);
    }
}

/// What a head knows about the delivery at a position.
#[derive(Clone, Debug)]
pub(super) struct QueueEntry {
    /// The message's size in bytes.
    pub size: u64,
    /// When the mail expires; a sweep handles it at that time.
    pub expires_at: Timestamp,
    /// Whether a delivery was attempted before.
    pub tried: bool,
    /// The submitter's account; 0 if it has none.
    pub account: u64,
    pub fresh: Option<Arc<CachedMail>>,
}

impl QueueEntry {
    pub(super) fn of(manifest: &Manifest) -> Self {
        QueueEntry {
            size: manifest.size,
            expires_at: manifest.expires_at,
            tried: false,
            account: manifest.account(),
            fresh: None,
        }
    }

    /// The entry of a delivery in its current state.
    pub(super) fn of_delivery(manifest: &Manifest, delivery: &Delivery) -> Self {
        QueueEntry {
            tried: delivery.tries > 0,
            ..QueueEntry::of(manifest)
        }
    }

    /// The value that is stored with the position on disk.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = self.size.to_be_bytes().to_vec();
        bytes.extend_from_slice(&self.expires_at.as_millis().to_be_bytes());
        bytes.push(u8::from(self.tried));
        if self.account != 0 {
            bytes.extend_from_slice(&self.account.to_be_bytes());
        }
        bytes
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (size, rest) = bytes.split_first_chunk::<8>()?;
        let (expires_at, rest) = rest.split_first_chunk::<8>()?;
        let expires_at = Timestamp::from_millis(i64::from_be_bytes(*expires_at));
        let account = rest.get(1..).and_then(|rest| rest.first_chunk());
        Some(QueueEntry {
            size: u64::from_be_bytes(*size),
            expires_at,
            tried: rest.first() == Some(&1),
            account: account.map_or(0, |account| u64::from_be_bytes(*account)),
            fresh: None,
        })
    }
}

/// Up to which position a head contains its queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Coverage {
    Nothing,
    UpTo(QueuePosition),
    All,
}

pub(super) struct QueueHead {
    places: BTreeMap<QueuePosition, QueueEntry>,
    covered: Coverage,
    /// Changes since a read from disk began, which that read may or may not contain.
    meanwhile: Option<ConcurrentChanges>,
    /// How often in a row reading from disk has failed.
    failures: u32,
    rests_until: Option<Instant>,
}

/// Changes of a queue while it is read from disk.
#[derive(Default)]
struct ConcurrentChanges {
    put: Vec<(QueuePosition, QueueEntry)>,
    gone: HashSet<QueuePosition>,
}

impl QueueHead {
    /// The head of a queue that is empty on disk.
    pub(super) fn of_empty_queue() -> Self {
        QueueHead {
            places: BTreeMap::new(),
            covered: Coverage::All,
            meanwhile: None,
            failures: 0,
            rests_until: None,
        }
    }

    /// The head of a queue that was not read from disk yet.
    pub(super) fn of_unknown_queue() -> Self {
        QueueHead {
            covered: Coverage::Nothing,
            ..QueueHead::of_empty_queue()
        }
    }

    /// Adds a position that was just written to the queue on disk.
    pub(super) fn insert(&mut self, place: QueuePosition, entry: QueueEntry, capacity: usize) {
        let within = match self.covered {
            Coverage::All => true,
            Coverage::UpTo(last) => place <= last,
            Coverage::Nothing => false,
        };

        if within {
            self.places.insert(place, entry);
            // While the disk is read from `covered` on, `covered` must not decrease: the positions
            // in between would be read by nobody.
            if self.meanwhile.is_none() {
                self.trim(capacity);
            }
        } else if let Some(meanwhile) = &mut self.meanwhile {
            meanwhile.put.push((place, entry));
        }
    }

    fn trim(&mut self, capacity: usize) {
        while self.places.len() > capacity {
            self.places.pop_last();
            self.covered = self
                .places
                .last_key_value()
                .map_or(Coverage::Nothing, |(last, _)| Coverage::UpTo(*last));
        }
    }

    /// Removes a position, which must not be claimed.
    pub(super) fn remove(&mut self, place: &QueuePosition) {
        self.places.remove(place);
        if let Some(meanwhile) = &mut self.meanwhile {
            meanwhile.put.retain(|(other, _)| other != place);
        }
    }

    /// Removes a position that was popped before, and is now removed from the queue on disk.
    pub(super) fn leave(&mut self, place: QueuePosition) {
        if let Some(meanwhile) = &mut self.meanwhile {
            meanwhile.gone.insert(place);
        }
    }

    /// Discards the cached mail of a position, so that it is read from disk.
    pub(super) fn outdate(&mut self, place: &QueuePosition) {
        let put = self
            .meanwhile
            .iter_mut()
            .flat_map(|meanwhile| &mut meanwhile.put);
        let put = put
            .filter(|(other, _)| other == place)
            .map(|(_, entry)| entry);
        for entry in self.places.get_mut(place).into_iter().chain(put) {
            entry.fresh = None;
        }
    }

    /// The first position, if it is due.
    pub(super) fn first_due(&self, now: Timestamp) -> Option<(&QueuePosition, &QueueEntry)> {
        self.places
            .first_key_value()
            .filter(|(place, _)| place.due <= now)
    }

    /// Whether a delivery is due, or may be due on disk.
    pub(super) fn may_be_due(&self, now: Timestamp) -> bool {
        match self.places.first_key_value() {
            Some((place, _)) => place.due <= now,
            None => self.covered != Coverage::All || self.meanwhile.is_some(),
        }
    }

    /// Removes and returns the first position.
    pub(super) fn pop(&mut self) -> Option<(QueuePosition, QueueEntry)> {
        self.places.pop_first()
    }

    /// The first due time after `after` among the positions in memory.
    pub(super) fn next_due(&self, after: Timestamp) -> Option<Timestamp> {
        let from = QueuePosition {
            due: after + std::time::Duration::from_millis(1),
            ..QueuePosition::first()
        };
        self.places.range(from..).next().map(|(place, _)| place.due)
    }

    /// Whether the disk must be read to know which position comes next.
    pub(super) fn is_exhausted(&self) -> bool {
        self.places.is_empty()
            && self.covered != Coverage::All
            && self.meanwhile.is_none()
            && self.rests_until.is_none_or(|until| until <= Instant::now())
    }

    /// Begins a read from disk; returns the position after which to read.
    pub(super) fn begin_refill(&mut self) -> Option<QueuePosition> {
        self.meanwhile = Some(ConcurrentChanges::default());
        match self.covered {
            Coverage::UpTo(last) => Some(last),
            _ => None,
        }
    }

    /// Ends a read: it returned up to [`REFILL_PLACES`] positions, which are all that exist if
    /// `all` is true. `is_free` says whether a position is not leased.
    pub(super) fn end_refill(
        &mut self,
        read: Vec<(QueuePosition, QueueEntry)>,
        all: bool,
        capacity: usize,
        is_free: impl Fn(&QueuePosition) -> bool,
    ) {
        self.failures = 0;
        let ConcurrentChanges { put, gone } = self.meanwhile.take().unwrap_or_default();
        self.covered = match read.last() {
            _ if all => Coverage::All,
            Some((last, _)) => Coverage::UpTo(*last),
            None => self.covered,
        };

        for (place, entry) in read {
            if is_free(&place) && !gone.contains(&place) {
                self.places.insert(place, entry);
            }
        }

        for (place, entry) in put {
            if is_free(&place) {
                self.insert(place, entry, capacity);
            }
        }

        self.trim(capacity);
    }

    /// Ends a read that failed; returns after how long it may be tried again.
    pub(super) fn abort_refill(&mut self, capacity: usize) -> Duration {
        self.meanwhile = None;
        self.trim(capacity);
        let rest = (FIRST_REST * 2_u32.pow(self.failures.min(6))).min(LONGEST_REST);
        self.failures = self.failures.saturating_add(1);
        self.rests_until = Some(Instant::now() + rest);
        rest
    }
}

impl QueuePosition {
    /// The position before all others.
    pub(super) fn first() -> Self {
        QueuePosition {
            due: Timestamp::from_millis(0),
            mail: crate::mail::MailId::from_bytes([0; 16]),
            index: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::MailId;

    fn place(n: u64) -> QueuePosition {
        let mut id = [0; 16];
        id[8..].copy_from_slice(&n.to_be_bytes());
        QueuePosition {
            due: Timestamp::from_millis(n.cast_signed()),
            mail: MailId::from_bytes(id),
            index: 0,
        }
    }

    fn entry() -> QueueEntry {
        QueueEntry {
            size: 1,
            expires_at: Timestamp::MAX,
            tried: false,
            account: 0,
            fresh: None,
        }
    }

    #[test]
    fn what_goes_back_while_the_disk_is_read_is_not_lost_between_what_is_covered_and_what_was_read()
    {
        let taken = (CAPACITY + 10) as u64;
        let total = taken + 5;
        let mut window = QueueHead::of_unknown_queue();
        window.begin_refill();

        window.end_refill(
            (0..taken).map(|n| (place(n), entry())).collect(),
            false,
            CAPACITY,
            |_| false,
        );

        assert_eq!(window.begin_refill(), Some(place(taken - 1)));
        (0..taken)
            .rev()
            .for_each(|n| window.insert(place(n), entry(), CAPACITY));

        let mut seen = 20;
        (0..seen).for_each(|n| assert_eq!(window.pop().map(|(next, _)| next), Some(place(n))));
        window.end_refill(
            (taken..total).map(|n| (place(n), entry())).collect(),
            true,
            CAPACITY,
            |_| true,
        );

        assert!(window.places.len() <= CAPACITY);
        while seen < total {
            while let Some((next, _)) = window.pop() {
                assert_eq!(next, place(seen));
                seen += 1;
            }
            if window.is_exhausted() {
                let after = window.begin_refill();
                let rest = (0..total)
                    .map(place)
                    .filter(|place| after.is_none_or(|after| *place > after));
                window.end_refill(
                    rest.map(|place| (place, entry())).collect(),
                    true,
                    CAPACITY,
                    |_| true,
                );
            } else {
                assert_eq!(seen, total, "the window takes itself for complete");
            }
        }
    }

    #[test]
    fn a_long_queue_is_walked_to_its_end_in_order_and_memory_stays_bounded() {
        let mut disk = std::collections::BTreeSet::new();
        let mut window = QueueHead::of_empty_queue();
        let total = (CAPACITY * 3) as u64;
        for n in (0..total).rev() {
            disk.insert(place(n));
            window.insert(place(n), entry(), CAPACITY);
            assert!(window.places.len() <= CAPACITY);
        }

        let mut taken = Vec::new();
        loop {
            while let Some((first, _)) = window.pop() {
                disk.remove(&first);
                taken.push(first);
            }
            if !window.is_exhausted() {
                break;
            }
            let after = window.begin_refill();
            let rest = disk
                .iter()
                .filter(|p| after.is_none_or(|after| **p > after));
            let read: Vec<_> = rest.take(REFILL_PLACES).map(|p| (*p, entry())).collect();
            let all = read.len() < REFILL_PLACES;
            window.end_refill(read, all, CAPACITY, |_| true);
        }

        assert_eq!(taken, (0..total).map(place).collect::<Vec<_>>());
    }

    #[test]
    fn a_place_put_while_the_disk_is_read_is_not_lost() {
        let mut window = QueueHead::of_unknown_queue();
        assert!(window.is_exhausted());
        window.begin_refill();
        assert!(!window.is_exhausted(), "one reader is enough");
        window.insert(place(5), entry(), CAPACITY);
        window.end_refill(vec![(place(1), entry())], true, CAPACITY, |_| true);
        assert_eq!(window.pop().map(|(p, _)| p), Some(place(1)));
        assert_eq!(window.pop().map(|(p, _)| p), Some(place(5)));
    }

    #[test]
    fn a_place_removed_while_the_disk_is_read_and_one_that_is_leased_do_not_come_back() {
        let mut window = QueueHead::of_unknown_queue();
        window.begin_refill();
        window.insert(place(5), entry(), CAPACITY);
        window.remove(&place(5));
        window.end_refill(vec![(place(1), entry())], true, CAPACITY, |p| {
            *p != place(1)
        });
        assert!(window.pop().is_none());
    }

    #[test]
    fn a_place_that_was_settled_while_the_disk_is_read_does_not_come_back_unless_it_is_put_again() {
        let mut window = QueueHead::of_unknown_queue();
        window.begin_refill();
        (1..=2).for_each(|n| window.leave(place(n)));
        window.insert(place(2), entry(), CAPACITY);

        window.end_refill(
            (1..=3).map(|n| (place(n), entry())).collect(),
            true,
            CAPACITY,
            |_| true,
        );

        assert_eq!(
            std::iter::from_fn(|| window.pop())
                .map(|(p, _)| p)
                .collect::<Vec<_>>(),
            [place(2), place(3)]
        );
    }

    #[test]
    fn the_next_due_time_is_after_the_one_given() {
        let mut window = QueueHead::of_empty_queue();
        (3..6).for_each(|n| window.insert(place(n), entry(), CAPACITY));
        assert_eq!(
            window.next_due(Timestamp::from_millis(3)),
            Some(Timestamp::from_millis(4))
        );
        assert_eq!(window.next_due(Timestamp::from_millis(5)), None);
    }
}

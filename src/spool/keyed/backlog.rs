//! Counts the deliveries in each queue as they are added and removed, so that no queue must be
//! walked to be counted.
//!
//! A delivery becomes due by the passing of time, without a write. Each count therefore has a
//! position `until`, up to which the deliveries of its queue are counted as due. When the counts
//! are asked for, that position follows the clock, and only the deliveries that became due since
//! then are walked.

use std::collections::HashMap;
use std::ops::ControlFlow;

use serde::{Deserialize, Serialize};

use super::keys::{self, QueueId, QueuePosition};
use super::queue_head::QueueEntry;
use super::reader::first_between;
use crate::mail::{MailId, Priority, Timestamp};
use crate::spool::SpoolError;
use crate::spool::codec::Versioned;
use crate::spool::store::{Direction, Store};

/// The most positions that are walked in one step; nothing is written meanwhile.
const MOST_WALKED: usize = 10_000;

/// One queue: the deliveries of one priority on one route.
pub(super) type QueueOfPriority = (QueueId, Priority);

/// How many deliveries are in one queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct QueueCount {
    pub pending: u64,
    /// How many of them were attempted before.
    pub tried: u64,
    /// How many have a position up to `until`.
    pub ripe: u64,
    /// How many of these were attempted before.
    pub ripe_tried: u64,
    pub until: QueuePosition,
    /// No delivery after `until` is before this position, as far as is known.
    #[serde(skip, default = "QueuePosition::first")]
    pub unripe_from: QueuePosition,
}

impl Versioned for QueueCount {}

impl Default for QueueCount {
    fn default() -> Self {
        QueueCount {
            pending: 0,
            tried: 0,
            ripe: 0,
            ripe_tried: 0,
            until: QueuePosition::first(),
            unripe_from: QueuePosition::first(),
        }
    }
}

impl QueueCount {
    pub(super) fn is_ripe(&self, place: &QueuePosition) -> bool {
        *place <= self.until
    }

    /// Counts a delivery that is added to the queue.
    fn come(&mut self, place: &QueuePosition, tried: bool) {
        let is_behind = !self.is_ripe(place);
        if is_behind && self.pending == self.ripe {
            self.unripe_from = *place;
        }
        if is_behind && place.was_due_at_once() && *place <= self.unripe_from {
            // There is no delivery between the two positions, so nothing needs to be walked later.
            self.until = *place;
        } else if is_behind {
            self.unripe_from = self.unripe_from.min(*place);
        }
        self.add(place, tried, 1);
    }

    fn add(&mut self, place: &QueuePosition, tried: bool, by: i64) {
        let ripe = self.is_ripe(place);
        let tried_too = i64::from(tried) * by;
        self.pending = self.pending.saturating_add_signed(by);
        self.tried = self.tried.saturating_add_signed(tried_too);
        if ripe {
            self.ripe(by, tried_too);
        }
    }

    fn ripe(&mut self, by: i64, tried: i64) {
        self.ripe = self.ripe.saturating_add_signed(by);
        self.ripe_tried = self.ripe_tried.saturating_add_signed(tried);
    }
}

/// The numbers of one token or user.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Account {
    /// How many deliveries are pending.
    pub pending: u64,
    /// The last day on which a delivery was accepted.
    pub day: i64,
    /// How many deliveries were accepted on that day.
    pub accepted: u64,
}

impl Account {
    pub(super) fn to_bytes(self) -> Vec<u8> {
        let numbers = [self.pending, self.day.cast_unsigned(), self.accepted];
        numbers.map(u64::to_be_bytes).concat()
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (pending, rest) = bytes.split_first_chunk()?;
        let (day, accepted) = rest.split_first_chunk().unwrap_or((&[0; 8], &[]));
        let accepted = accepted.first_chunk().unwrap_or(&[0; 8]);
        Some(Account {
            pending: u64::from_be_bytes(*pending),
            day: u64::from_be_bytes(*day).cast_signed(),
            accepted: u64::from_be_bytes(*accepted),
        })
    }
}

/// A delivery that is added to a queue or removed from it.
#[derive(Clone, Copy, Debug)]
pub(super) struct QueueMove {
    pub line: QueueOfPriority,
    pub place: QueuePosition,
    pub tried: bool,
    /// The account of who submitted the mail.
    pub account: u64,
    pub comes: bool,
}

/// The counts of all queues.
#[derive(Default)]
pub(super) struct Backlog {
    counts: HashMap<QueueOfPriority, QueueCount>,
    /// The numbers of each token and user.
    accounts: HashMap<u64, Account>,
}

impl Backlog {
    pub(super) fn set(&mut self, line: QueueOfPriority, count: QueueCount) {
        self.counts.insert(line, count);
    }

    pub(super) fn of(&self, line: &QueueOfPriority) -> QueueCount {
        self.counts.get(line).copied().unwrap_or_default()
    }

    pub(super) fn set_account(&mut self, name: u64, account: Account) {
        self.accounts.insert(name, account);
    }

    /// Counts deliveries of an accepted mail, on this day.
    pub(super) fn accepted(&mut self, name: u64, day: i64, count: u64) {
        let account = self.accounts.entry(name).or_default();
        if account.day != day {
            (account.day, account.accepted) = (day, 0);
        }
        account.accepted += count;
    }

    pub(super) fn of_account(&self, account: u64) -> Account {
        self.accounts.get(&account).copied().unwrap_or_default()
    }

    pub(super) fn all(&self) -> impl Iterator<Item = (QueueOfPriority, &QueueCount)> {
        self.counts.iter().map(|(line, count)| (*line, count))
    }

    pub(super) fn apply(&mut self, step: &QueueMove) {
        let by = if step.comes { 1 } else { -1 };
        let count = self.counts.entry(step.line).or_default();
        match step.comes {
            true => count.come(&step.place, step.tried),
            false => count.add(&step.place, step.tried, -1),
        }
        if step.account != 0 {
            let account = self.accounts.entry(step.account).or_default();
            account.pending = account.pending.saturating_add_signed(by);
        }
    }

    /// Counts deliveries that became due, within one bounded walk; returns whether all are counted.
    /// Called on the writer's thread, where the queues match the counts.
    pub(super) fn follow<S: Store>(
        &mut self,
        store: &S,
        now: Timestamp,
    ) -> Result<bool, SpoolError> {
        let mut left = MOST_WALKED;
        let end = QueuePosition {
            due: now,
            mail: MailId::from_bytes([u8::MAX; 16]),
            index: u16::MAX,
        };

        for ((id, priority), count) in &mut self.counts {
            // Nothing must be walked if all deliveries are on one side of both positions.
            let nothing_between = if count.until <= end {
                count.ripe == count.pending
            } else {
                count.ripe == 0
            };
            if nothing_between && count.until != end {
                count.until = end;
                count.unripe_from = QueuePosition::first();
            }
            if count.until == end {
                continue;
            }

            // If the clock went forward, walked deliveries become due; if it went back, they are no
            // longer due.
            let (way, by) = if count.until < end {
                (Direction::Up, 1)
            } else {
                (Direction::Down, -1)
            };

            let after =
                |place: &QueuePosition| [&keys::queue(*id, *priority, place)[..], &[0]].concat();
            let (from, to) = (after(&count.until.min(end)), after(&count.until.max(end)));

            let mut is_whole = true;
            store.walk(&from, &to, way, &mut |key, value| {
                let Some(read) = keys::read_queue(key) else {
                    return ControlFlow::Continue(());
                };
                if left == 0 {
                    // If the clock went back, this one is still counted as due.
                    count.until = if by > 0 { count.until } else { read.place };
                    is_whole = false;
                    return ControlFlow::Break(());
                }
                left -= 1;
                let tried = QueueEntry::from_bytes(value).is_some_and(|entry| entry.tried);
                count.ripe(by, i64::from(tried) * by);
                if by > 0 {
                    count.until = read.place;
                }
                ControlFlow::Continue(())
            })?;

            if !is_whole {
                return Ok(false);
            }

            // Remember where the next walk may begin.
            count.until = end;
            let (_, last) = keys::starting_with(&keys::queue_prefix(*id, *priority));
            let place = |key: &[u8]| keys::read_queue(key).map(|read| read.place);
            let behind = first_between(store, &after(&end), &last, place)?;
            count.unripe_from = behind.unwrap_or(end);
        }

        Ok(true)
    }
}

/// Counts the pending deliveries of each token and user.
pub(super) fn accounts<S: Store>(
    store: &S,
    each: &mut dyn FnMut(u64, Account),
) -> Result<(), SpoolError> {
    let (from, to) = keys::starting_with(b"g");
    store.walk(&from, &to, Direction::Up, &mut |key, value| {
        if let (Some(name), Some(account)) = (keys::read_account(key), Account::from_bytes(value)) {
            each(name, account);
        }
        ControlFlow::Continue(())
    })
}

/// Counts one queue by walking all of it.
pub(super) fn recount<S: Store>(
    store: &S,
    (id, priority): QueueOfPriority,
) -> Result<QueueCount, SpoolError> {
    let (from, to) = keys::starting_with(&keys::queue_prefix(id, priority));
    let mut count = QueueCount::default();
    store.walk(&from, &to, Direction::Up, &mut |key, value| {
        if let Some(read) = keys::read_queue(key) {
            let tried = QueueEntry::from_bytes(value).is_some_and(|entry| entry.tried);
            count.add(&read.place, tried, 1);
        }
        ControlFlow::Continue(())
    })?;
    Ok(count)
}

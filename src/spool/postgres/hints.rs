//! When to look for due mail again: the due times that this node knows, and the totals as of the
//! last commit. They are only hints: what is missing here is found by the next poll.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::mail::Timestamp;

/// How many due times are remembered. When the last of them is reached, the database is asked
/// again.
const MOST_TIMES: usize = 20_000;

/// How many milliseconds before the found position to look again: others may be committing earlier
/// deliveries at this moment.
const LOOK_BACK: i64 = 1000;

/// Stands for any route.
pub(super) const ANY_ROUTE: i32 = 0;

#[derive(Default)]
struct DueTimes {
    /// Due times, each with the number of its route.
    times: BTreeSet<(i64, i32)>,
    /// The routes that may have due mail that was not claimed.
    stirred: BTreeSet<i32>,
    /// For each queue, by route and priority, the time before which it contains no delivery, as far
    /// as is known. Only dead rows lie before it in the index, and a claim would walk over them.
    lows: HashMap<(i32, i16), i64>,
    /// Incremented whenever there may be a delivery before such a time.
    lowered: u64,
}

impl DueTimes {
    /// Forgets the times up to `now`: their routes may have due mail.
    fn pass(&mut self, now: i64) {
        let left = self.times.split_off(&(now.saturating_add(1), i32::MIN));
        let due = std::mem::replace(&mut self.times, left);
        self.stirred.extend(due.into_iter().map(|(_, route)| route));
    }

    /// Records that the queues of this route may contain a delivery from this time on.
    fn lower(&mut self, route: i32, due: i64) {
        let is_lower = |of: i32, low: i64| (of == route || route == ANY_ROUTE) && due < low;
        self.lows
            .retain(|(of, _), low| !is_lower(*of, low.saturating_sub(LOOK_BACK)));
    }
}

pub(super) struct Hints {
    dues: Mutex<DueTimes>,
    /// When a sweep may have something to do, in milliseconds; `i64::MAX` for never.
    sweep: AtomicI64,
    /// The number of the last known commit, and how many deliveries were pending after it.
    head: Mutex<(i64, u64)>,
    pending: AtomicU64,
    /// The last time that a caller passed, in milliseconds.
    now: AtomicI64,
}

impl Default for Hints {
    fn default() -> Self {
        Hints {
            dues: Mutex::default(),
            sweep: AtomicI64::new(i64::MAX),
            head: Mutex::default(),
            pending: AtomicU64::new(0),
            now: AtomicI64::new(0),
        }
    }
}

impl Hints {
    /// Records that a delivery falls due on this route at this time.
    pub(super) fn due_at(&self, route: i32, due: i64) {
        // A claim that is under way covers only what was due by `now`.
        let is_old = due < self.now.load(Ordering::Relaxed).saturating_sub(LOOK_BACK);
        let mut dues = self.dues.lock();
        dues.lower(route, due);
        dues.lowered += u64::from(is_old);
        dues.times.insert((due, route));
        if dues.times.len() > MOST_TIMES {
            dues.times.pop_last();
        }
    }

    /// Records that these routes may have due mail.
    pub(super) fn mark_due(&self, routes: impl IntoIterator<Item = i32>) {
        let mut dues = self.dues.lock();
        for route in routes {
            dues.lower(route, i64::MIN);
            dues.stirred.insert(route);
        }
        dues.lowered += 1;
    }

    /// Records that a claim left due mail on these routes.
    pub(super) fn mark_more(&self, routes: &[i32]) {
        self.dues.lock().stirred.extend(routes);
    }

    /// The time from which a queue must be read, and the number to pass to [`Hints::found`].
    pub(super) fn low(&self, route: i32, priority: i16) -> (i64, u64) {
        let dues = self.dues.lock();
        let low = dues.lows.get(&(route, priority));
        let from = low.map_or(i64::MIN, |low| low.saturating_sub(LOOK_BACK));
        (from, dues.lowered)
    }

    /// Records that this queue contains no delivery before `first`, unless something was added
    /// since `lowered` was returned.
    pub(super) fn found(&self, queue: (i32, i16), first: i64, lowered: u64) {
        let mut dues = self.dues.lock();
        if dues.lowered == lowered {
            dues.lows.insert(queue, first);
        }
    }

    /// The queues for which that is known, each with the time from which it must be read.
    pub(super) fn lows(&self) -> Vec<(i32, i16, i64)> {
        let dues = self.dues.lock();
        let lows = dues.lows.iter();
        lows.map(|((route, priority), low)| (*route, *priority, low.saturating_sub(LOOK_BACK)))
            .collect()
    }

    /// Records that these routes are being claimed from. Mail that arrives from now on marks them
    /// again.
    pub(super) fn claimed(&self, routes: &[i32], now: Timestamp) {
        let mut dues = self.dues.lock();
        dues.pass(now.as_millis());
        routes
            .iter()
            .for_each(|route| _ = dues.stirred.remove(route));
    }

    /// The routes that may have due mail. `all` gives all routes, which are returned if nothing is
    /// known.
    pub(super) fn due_routes(&self, now: Timestamp, all: impl FnOnce() -> Vec<i32>) -> Vec<i32> {
        let mut dues = self.dues.lock();
        dues.pass(now.as_millis());
        if dues.stirred.remove(&ANY_ROUTE) {
            dues.stirred.extend(all());
        }
        dues.stirred.iter().copied().collect()
    }

    /// Records that a sweep has something to do at this time.
    pub(super) fn sweep_at(&self, at: i64) {
        self.sweep.fetch_min(at, Ordering::SeqCst);
    }

    /// Sets the time of the next sweep.
    pub(super) fn set_sweep(&self, at: i64) {
        self.sweep.store(at, Ordering::SeqCst);
    }

    pub(super) fn sweep(&self) -> i64 {
        self.sweep.load(Ordering::SeqCst)
    }

    /// The first time after `after` at which something is due.
    pub(super) fn next(&self, after: Timestamp) -> Option<Timestamp> {
        let after = after.as_millis();
        let mut dues = self.dues.lock();
        dues.pass(after);
        let due = dues.times.first().map(|(due, _)| *due);
        let sweep = Some(self.sweep()).filter(|at| *at > after && *at < i64::MAX);
        due.into_iter()
            .chain(sweep)
            .min()
            .map(Timestamp::from_millis)
    }

    /// Learns the number of pending deliveries as of a commit. An older commit changes nothing.
    pub(super) fn head(&self, commits: i64, pending: i64) {
        let mut head = self.head.lock();
        if commits >= head.0 {
            *head = (commits, u64::try_from(pending).unwrap_or(0));
            self.pending.store(head.1, Ordering::SeqCst);
        }
    }

    /// Learns the same as of an earlier commit than is known: the database went back to it.
    pub(super) fn head_went_back(&self, commits: i64, pending: i64) {
        *self.head.lock() = (i64::MIN, 0);
        self.head(commits, pending);
    }

    pub(super) fn commits(&self) -> i64 {
        self.head.lock().0
    }

    pub(super) fn pending(&self) -> u64 {
        self.pending.load(Ordering::SeqCst)
    }

    pub(super) fn saw_clock(&self, now: Timestamp) {
        self.now.store(now.as_millis(), Ordering::Relaxed);
    }

    /// The current time by the clock of the spool's callers, approximately.
    pub(super) fn now(&self) -> Timestamp {
        let wall = Timestamp::now();
        let given = Timestamp::from_millis(self.now.load(Ordering::Relaxed));
        let is_near = given.since(wall).max(wall.since(given)).as_secs() < 600;
        if is_near || given.as_millis() == 0 {
            wall
        } else {
            given
        }
    }
}

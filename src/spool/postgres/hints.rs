//! When to look for due mail again: the due times that this node knows of, and what the last commit
//! said about the whole queue. They are only hints: what is missing here is found by the next poll.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::mail::Timestamp;

/// How many times are remembered; beyond them the database is asked again when the last is reached.
const MOST_TIMES: usize = 20_000;

/// How much earlier than what was found something may be due that others are just committing, in
/// milliseconds.
const LOOK_BACK: i64 = 1000;

/// The route of what may be on any.
pub(super) const ANY_ROUTE: i32 = 0;

#[derive(Default)]
struct DueTimes {
    /// With the number of the route on which something falls due then.
    times: BTreeSet<(i64, i32)>,
    /// The routes on which something may be due and has not been claimed.
    stirred: BTreeSet<i32>,
    /// For each queue, by route and priority, the time before which nothing waits, as far as it is
    /// known. What lies before it in the index is dead, and would be walked over.
    lows: HashMap<(i32, i16), i64>,
    /// A number that changes whenever something may wait before such a time.
    lowered: u64,
}

impl DueTimes {
    /// What is past is not asked for again: it is due.
    fn pass(&mut self, now: i64) {
        let left = self.times.split_off(&(now.saturating_add(1), i32::MIN));
        let due = std::mem::replace(&mut self.times, left);
        self.stirred.extend(due.into_iter().map(|(_, route)| route));
    }

    /// Something may wait in the queues of this route since this time.
    fn lower(&mut self, route: i32, due: i64) {
        let is_lower = |of: i32, low: i64| (of == route || route == ANY_ROUTE) && due < low;
        self.lows
            .retain(|(of, _), low| !is_lower(*of, low.saturating_sub(LOOK_BACK)));
    }
}

pub(super) struct Hints {
    dues: Mutex<DueTimes>,
    /// When a sweep may have something to do; `i64::MAX` for never.
    sweep: AtomicI64,
    /// The number of the last commit that is known, and how many were pending after it.
    head: Mutex<(i64, u64)>,
    pending: AtomicU64,
    /// The last time that was told.
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
    /// Something falls due on this route at this time.
    pub(super) fn due_at(&self, route: i32, due: i64) {
        // What a claim that is under way finds was due by then.
        let is_old = due < self.now.load(Ordering::Relaxed).saturating_sub(LOOK_BACK);
        let mut dues = self.dues.lock();
        dues.lower(route, due);
        dues.lowered += u64::from(is_old);
        dues.times.insert((due, route));
        if dues.times.len() > MOST_TIMES {
            dues.times.pop_last();
        }
    }

    /// Something may be due on these routes.
    pub(super) fn stir(&self, routes: impl IntoIterator<Item = i32>) {
        let mut dues = self.dues.lock();
        for route in routes {
            dues.lower(route, i64::MIN);
            dues.stirred.insert(route);
        }
        dues.lowered += 1;
    }

    /// There may be more of what was found on these routes.
    pub(super) fn is_more(&self, routes: &[i32]) {
        self.dues.lock().stirred.extend(routes);
    }

    /// From when on a queue is to be looked at, and a number for [`Hints::found`].
    pub(super) fn low(&self, route: i32, priority: i16) -> (i64, u64) {
        let dues = self.dues.lock();
        let low = dues.lows.get(&(route, priority));
        let from = low.map_or(i64::MIN, |low| low.saturating_sub(LOOK_BACK));
        (from, dues.lowered)
    }

    /// In this queue nothing waits before this time, unless something was told since that number.
    pub(super) fn found(&self, queue: (i32, i16), first: i64, lowered: u64) {
        let mut dues = self.dues.lock();
        if dues.lowered == lowered {
            dues.lows.insert(queue, first);
        }
    }

    /// The queues of which that is known, and from when on each is to be looked at.
    pub(super) fn lows(&self) -> Vec<(i32, i16, i64)> {
        let dues = self.dues.lock();
        let lows = dues.lows.iter();
        lows.map(|((route, priority), low)| (*route, *priority, low.saturating_sub(LOOK_BACK)))
            .collect()
    }

    /// These routes are claimed from: what comes now stirs them anew.
    pub(super) fn claimed(&self, routes: &[i32], now: Timestamp) {
        let mut dues = self.dues.lock();
        dues.pass(now.as_millis());
        routes
            .iter()
            .for_each(|route| _ = dues.stirred.remove(route));
    }

    /// The routes on which something may be due by now. Of `all` it is so where nothing else is
    /// known.
    pub(super) fn due_routes(&self, now: Timestamp, all: impl FnOnce() -> Vec<i32>) -> Vec<i32> {
        let mut dues = self.dues.lock();
        dues.pass(now.as_millis());
        if dues.stirred.remove(&ANY_ROUTE) {
            dues.stirred.extend(all());
        }
        dues.stirred.iter().copied().collect()
    }

    /// A sweep has something to do at this time.
    pub(super) fn sweep_at(&self, at: i64) {
        self.sweep.fetch_min(at, Ordering::SeqCst);
    }

    /// What the next sweep is known to be.
    pub(super) fn set_sweep(&self, at: i64) {
        self.sweep.store(at, Ordering::SeqCst);
    }

    pub(super) fn sweep(&self) -> i64 {
        self.sweep.load(Ordering::SeqCst)
    }

    /// The first time after this one at which something is to be done.
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

    /// What a commit says of the whole. An older one changes nothing.
    pub(super) fn head(&self, commits: i64, pending: i64) {
        let mut head = self.head.lock();
        if commits >= head.0 {
            *head = (commits, u64::try_from(pending).unwrap_or(0));
            self.pending.store(head.1, Ordering::SeqCst);
        }
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

    /// About what time it is, by the clock that the callers go by.
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

//! When to look again: the times at which something falls due, as far as they are known here, and
//! what the last commit said of the whole. Hints only: what is missing here is found by the next
//! poll.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::mail::Timestamp;

/// How many times are remembered; beyond them the database is asked again when the last is reached.
const REMEMBERED: usize = 20_000;

#[derive(Default)]
struct DueTimes {
    times: BTreeSet<i64>,
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
    /// Something falls due at this time.
    pub(super) fn due_at(&self, due: i64) {
        let mut dues = self.dues.lock();
        dues.times.insert(due);
        if dues.times.len() > REMEMBERED {
            dues.times.pop_last();
        }
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
        // What is past is not asked for again: it is due.
        dues.times = dues.times.split_off(&after);
        let due = dues.times.range(after + 1..).next().copied();
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

    pub(super) fn told_now(&self, now: Timestamp) {
        self.now.store(now.as_millis(), Ordering::Relaxed);
    }

    /// About what time it is, by the clock that the callers go by.
    pub(super) fn now(&self) -> Timestamp {
        let wall = Timestamp::now();
        let told = Timestamp::from_millis(self.now.load(Ordering::Relaxed));
        let is_near = told.since(wall).max(wall.since(told)).as_secs() < 600;
        if is_near || told.as_millis() == 0 {
            wall
        } else {
            told
        }
    }
}

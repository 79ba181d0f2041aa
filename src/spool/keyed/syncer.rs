//! The thread that syncs. What the writer has written is put on disk, and only then is everybody
//! answered who waits for it. Meanwhile the writer writes on; all that it wrote shares the next
//! sync.
//!
//! *Invariant:* answers are given in the order of writing, and none before the sync that covers it.

use std::sync::Arc;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

use super::SpoolState;
use super::answer::CommitAnswer;
use super::journal::Sealed;
use super::writer::GROUP_BYTES;
use crate::spool::SpoolError;
use crate::spool::codec::Totals;
use crate::spool::store::Store;

/// A group that was written and is not known to be on disk.
pub(super) struct WrittenGroup<S> {
    /// Whether it was written.
    pub outcome: Result<(), SpoolError>,
    pub bytes: usize,
    pub totals: Totals,
    /// What happened by it.
    pub told: Vec<Arc<Sealed>>,
    pub answers: Vec<CommitAnswer<S>>,
    /// Whether something is due now that was not before.
    pub wakes: bool,
    pub began: Instant,
}

pub(super) struct Syncer<S> {
    state: Mutex<State<S>>,
    /// There is something to sync, or the end has come.
    work: Condvar,
    /// Something was synced.
    progress: Condvar,
}

struct State<S> {
    written: Vec<WrittenGroup<S>>,
    /// The bytes that were written and are not synced.
    bytes: usize,
    busy: bool,
    /// Nothing more will be handed over.
    ended: bool,
    /// The thread is gone: what is handed over is not answered.
    gone: bool,
}

impl<S> Default for Syncer<S> {
    fn default() -> Self {
        let state = State {
            written: Vec::new(),
            bytes: 0,
            busy: false,
            ended: false,
            gone: false,
        };
        Syncer {
            state: Mutex::new(state),
            work: Condvar::new(),
            progress: Condvar::new(),
        }
    }
}

impl<S: Store> Syncer<S> {
    /// Waits while as much as one group may hold is written and not yet synced.
    pub(super) fn make_room(&self) {
        let mut state = self.state.lock();
        self.progress.wait_while(&mut state, |state| {
            state.bytes >= GROUP_BYTES && !state.gone
        });
    }

    /// Hands over a group.
    ///
    /// With `here` it is synced on the caller's own thread, if the other one has nothing to do:
    /// that spares a lone caller the way there and back.
    pub(super) fn add(&self, shared: &SpoolState<S>, group: WrittenGroup<S>, here: bool) {
        let mut state = self.state.lock();
        if here && !state.busy && state.written.is_empty() {
            state.busy = true;
            drop(state);
            sync(shared, vec![group], || {});
            self.state.lock().busy = false;
            return;
        }

        if state.gone {
            return;
        }
        state.bytes += group.bytes;
        state.written.push(group);
        self.work.notify_one();
    }

    /// Waits until everything that was handed over is answered.
    pub(super) fn finish(&self) {
        let mut state = self.state.lock();
        self.progress.wait_while(&mut state, |state| {
            !state.gone && (state.busy || !state.written.is_empty())
        });
    }

    /// Lets the thread end once everything is answered.
    pub(super) fn end(&self) {
        self.state.lock().ended = true;
        self.work.notify_one();
    }

    /// Syncs and answers until the end.
    pub(super) fn run(&self, shared: &SpoolState<S>) {
        let _leaving = SyncerExit(self, shared);
        loop {
            let mut state = self.state.lock();
            state.busy = false;
            self.progress.notify_all();
            self.work
                .wait_while(&mut state, |state| state.written.is_empty() && !state.ended);
            let groups = std::mem::take(&mut state.written);
            state.busy = true;
            drop(state);
            if groups.is_empty() {
                return;
            }
            let bytes: usize = groups.iter().map(|group| group.bytes).sum();
            sync(shared, groups, || {
                self.state.lock().bytes -= bytes;
                self.progress.notify_all();
            });
        }
    }
}

/// Leaves nobody waiting when the thread ends, even by a panic.
struct SyncerExit<'a, S: Store>(&'a Syncer<S>, &'a SpoolState<S>);

impl<S: Store> Drop for SyncerExit<'_, S> {
    fn drop(&mut self) {
        let SyncerExit(syncer, shared) = self;
        if std::thread::panicking() {
            shared.fail(SpoolError::Unreadable(
                "the thread that syncs has panicked".into(),
            ));
        }
        let mut state = syncer.state.lock();
        state.gone = true;
        state.written.clear();
        syncer.progress.notify_all();
    }
}

fn sync<S: Store>(shared: &SpoolState<S>, mut groups: Vec<WrittenGroup<S>>, done: impl FnOnce()) {
    let told = groups.iter_mut().flat_map(|group| group.told.drain(..));
    let synced = shared.keep(told.collect());
    done();
    let wakes = groups.iter().any(|group| group.wakes);

    for group in groups {
        let outcome = group.outcome.and_then(|()| synced.clone());
        shared.commit_times.lock().add(group.began.elapsed());
        shared.publish(&group.totals);
        for answer in group.answers {
            answer.give(shared, &outcome);
        }
    }

    if wakes {
        shared.changed.notify_one();
    }
}

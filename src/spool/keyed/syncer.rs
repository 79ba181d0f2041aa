//! The thread that syncs. It syncs what the writer has written, and only then answers the callers
//! that wait for it. Meanwhile the writer goes on; all that it writes shares the next sync.
//!
//! *Invariant:* callers are answered in the order of writing, and none before the sync that covers
//! its change.

use std::sync::Arc;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

use super::SpoolState;
use super::answer::CommitAnswer;
use super::journal::JournalRecord;
use super::writer::GROUP_BYTES;
use crate::spool::SpoolError;
use crate::spool::codec::Totals;
use crate::spool::store::Store;

/// A group that was written and is not synced yet.
pub(super) struct WrittenGroup<S> {
    /// Whether writing it succeeded.
    pub outcome: Result<(), SpoolError>,
    pub bytes: usize,
    pub totals: Totals,
    /// The journal's entries that it contains, to be published.
    pub entries: Vec<Arc<JournalRecord>>,
    pub answers: Vec<CommitAnswer<S>>,
    /// Whether it makes mail due, so that the scheduler must be woken.
    pub wakes: bool,
    pub began: Instant,
}

pub(super) struct Syncer<S> {
    state: Mutex<State<S>>,
    /// Signals that there is something to sync, or nothing more to come.
    work: Condvar,
    /// Signals that something was synced.
    progress: Condvar,
}

struct State<S> {
    written: Vec<WrittenGroup<S>>,
    /// How many bytes are written and not synced.
    bytes: usize,
    /// A sync is under way.
    busy: bool,
    /// No further group will be added.
    ended: bool,
    /// The thread has ended: groups that are added now are dropped, and their callers get an error.
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

    /// Adds a group to be synced.
    ///
    /// With `here` it is synced on the calling thread if the syncer has nothing to do. That spares
    /// a single caller two switches of threads.
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

    /// Waits until everything that was added is synced and answered.
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

    /// Syncs and answers until [`Syncer::end`] is called.
    pub(super) fn run(&self, shared: &SpoolState<S>) {
        let _exit = SyncerExit(self, shared);
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

/// Wakes everybody who waits for the syncer when its thread ends, even by a panic.
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

/// Syncs these groups and answers their callers; `done` is called between the two.
fn sync<S: Store>(shared: &SpoolState<S>, mut groups: Vec<WrittenGroup<S>>, done: impl FnOnce()) {
    let entries = groups.iter_mut().flat_map(|group| group.entries.drain(..));
    let synced = shared.keep(entries.collect());
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

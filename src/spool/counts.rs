//! How many deliveries a spool keeps, by what is known of them.

use crate::delivery::State;
use crate::mail::Priority;

const STATES: usize = State::ALL.len();
const PRIORITIES: usize = Priority::ALL.len();

/// How many deliveries there are in each state, of each priority.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeliveryCounts([[u64; PRIORITIES]; STATES]);

impl DeliveryCounts {
    /// Those in this state, of this priority.
    pub fn of(&self, state: State, priority: Priority) -> u64 {
        self.0[state as usize][priority.index()]
    }

    /// Those in this state.
    pub fn in_state(&self, state: State) -> u64 {
        self.0[state as usize].iter().sum()
    }

    /// Those of this priority that have not ended.
    pub fn pending_of(&self, priority: Priority) -> u64 {
        let pending = State::ALL.into_iter().filter(|state| !state.is_final());
        pending.map(|state| self.of(state, priority)).sum()
    }

    /// Each number there is, zeros included.
    pub fn all(&self) -> impl Iterator<Item = (State, Priority, u64)> {
        let pairs = State::ALL
            .into_iter()
            .flat_map(|state| Priority::ALL.map(|priority| (state, priority)));
        pairs.map(|(state, priority)| (state, priority, self.of(state, priority)))
    }

    /// Counts some more.
    pub fn add(&mut self, state: State, priority: Priority, count: u64) {
        self.0[state as usize][priority.index()] += count;
    }

    /// One is in the state `to`, and no longer in `from`.
    pub(crate) fn move_one(&mut self, priority: Priority, from: State, to: State) {
        let left = &mut self.0[from as usize][priority.index()];
        *left = left.saturating_sub(1);
        self.add(to, priority, 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_state_and_priority_is_counted_by_itself() {
        let mut counts = DeliveryCounts::default();
        for (count, state) in (1..).zip(State::ALL) {
            counts.add(state, Priority::Critical, count);
            counts.add(state, Priority::Bulk, 10 * count);
        }

        for (count, state) in (1..).zip(State::ALL) {
            assert_eq!(counts.of(state, Priority::Critical), count);
            assert_eq!(counts.of(state, Priority::Default), 0);
            assert_eq!(counts.in_state(state), 11 * count);
        }
        // Scheduled, queued, sending and deferred.
        assert_eq!(counts.pending_of(Priority::Critical), 1 + 2 + 3 + 5);

        counts.move_one(Priority::Bulk, State::Queued, State::Sending);
        assert_eq!(counts.of(State::Queued, Priority::Bulk), 19);
        assert_eq!(counts.of(State::Sending, Priority::Bulk), 31);
    }
}

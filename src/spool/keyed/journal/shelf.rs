//! The old records that were read last, for whoever reads the same a moment later: many who begin
//! to follow at once share them, and each holds no copy of its own.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;

use super::entry;
use crate::delivery::Event;

/// How many bytes of records are on the shelf, as they are stored.
const BYTES: usize = 512 * 1024;

/// A record's events.
type Events = Arc<[Arc<Event>]>;

#[derive(Default)]
pub(super) struct RecordCache(Mutex<CachedRecords>);

#[derive(Default)]
struct CachedRecords {
    /// By the numbers of their first events and their lengths, the one that was read last behind.
    records: VecDeque<(u64, usize, Events)>,
    bytes: usize,
}

impl RecordCache {
    /// The events of a record; `None` where it cannot be read.
    pub(super) fn events(&self, first: u64, value: &[u8]) -> Option<Events> {
        let is_it =
            |(known, length, _): &&(u64, usize, Events)| *known == first && *length == value.len();
        if let Some((_, _, events)) = self.0.lock().records.iter().rev().find(is_it) {
            return Some(Arc::clone(events));
        }

        let events = entry::events(first, value).ok()?;
        let events: Events = events.into_iter().map(Arc::new).collect();
        let mut shelved = self.0.lock();
        shelved.bytes += value.len();
        let record = (first, value.len(), Arc::clone(&events));
        shelved.records.push_back(record);
        while shelved.bytes > BYTES
            && let Some((_, length, _)) = shelved.records.pop_front()
        {
            shelved.bytes -= length;
        }
        Some(events)
    }
}

//! A cache of old records that were read lately: many readers that begin at the same position share
//! them, and none needs a copy of its own.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;

use super::entry;
use crate::delivery::Event;

/// The size of the cache in bytes of encoded records.
const CACHE_BYTES: usize = 512 * 1024;

/// The events of a record.
type Events = Arc<[Arc<Event>]>;

#[derive(Default)]
pub(super) struct RecordCache(Mutex<CachedRecords>);

#[derive(Default)]
struct CachedRecords {
    /// The records by the number of their first event and their length; the one read last is at the
    /// end.
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
        let mut cache = self.0.lock();
        cache.bytes += value.len();
        let record = (first, value.len(), Arc::clone(&events));
        cache.records.push_back(record);
        while cache.bytes > CACHE_BYTES
            && let Some((_, length, _)) = cache.records.pop_front()
        {
            cache.bytes -= length;
        }
        Some(events)
    }
}

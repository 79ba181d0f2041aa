//! A spool that forgets everything when its process ends: for tests.

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

use parking_lot::RwLock;

use super::keyed::KeyedSpool;
use super::store::{Batch, Direction, Store, Visitor};
use super::{Spool, SpoolError, SpoolOptions};

/// The most of a journal that is kept in memory, in bytes.
const LARGEST_JOURNAL: u64 = 64 * 1024 * 1024;

/// An empty spool in memory.
///
/// # Panics
/// If the system cannot start a thread.
pub fn open(mut options: SpoolOptions) -> Arc<dyn Spool> {
    options.journal.max_size = options.journal.max_size.min(LARGEST_JOURNAL);
    let spool = KeyedSpool::open(MemoryStore::default(), options);
    Arc::new(spool.expect("an empty store holds nothing that could not be read"))
}

/// Its clones share what they hold.
#[derive(Clone, Default)]
pub(super) struct MemoryStore {
    keys: Arc<RwLock<BTreeMap<Vec<u8>, Vec<u8>>>>,
}

impl Store for MemoryStore {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, SpoolError> {
        Ok(self.keys.read_recursive().get(key).cloned())
    }

    fn walk(
        &self,
        from: &[u8],
        to: &[u8],
        way: Direction,
        visit: Visitor<'_>,
    ) -> Result<(), SpoolError> {
        let keys = self.keys.read_recursive();
        let mut range = keys.range::<[u8], _>((Bound::Included(from), Bound::Excluded(to)));

        loop {
            let next = if way == Direction::Up {
                range.next()
            } else {
                range.next_back()
            };
            let Some((key, value)) = next else {
                return Ok(());
            };
            if let ControlFlow::Break(()) = visit(key, value) {
                return Ok(());
            }
        }
    }

    fn write(&self, batch: Batch) -> Result<(), SpoolError> {
        let mut keys = self.keys.write();
        for (key, value) in batch {
            match value {
                Some(value) => keys.insert(key, value),
                None => keys.remove(&key),
            };
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), SpoolError> {
        Ok(())
    }

    fn sync(&self) -> Result<(), SpoolError> {
        Ok(())
    }

    fn has_room(&self) -> Result<(), SpoolError> {
        Ok(())
    }

    fn bytes(&self) -> u64 {
        0
    }

    fn is_persistent(&self) -> bool {
        false
    }
}

//! Limits the memory for messages of all connections together while they are received.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The bytes that are still free. Clones share them.
#[derive(Clone, Debug)]
pub(super) struct MessageMemory(Arc<Semaphore>);

impl MessageMemory {
    pub fn new(bytes: usize) -> Self {
        MessageMemory(Arc::new(Semaphore::new(bytes.min(Semaphore::MAX_PERMITS))))
    }

    /// Reserves `bytes` more in `room`, if available. Never waits: a mail that waits for memory
    /// would hold some.
    pub fn grow(&self, room: &mut ReservedMemory, bytes: usize) -> bool {
        let Ok(wanted) = u32::try_from(bytes) else {
            return false;
        };
        let Ok(more) = Arc::clone(&self.0).try_acquire_many_owned(wanted) else {
            return false;
        };
        match &mut room.0 {
            Some(permit) => permit.merge(more),
            none => *none = Some(more),
        }
        true
    }
}

/// The memory that one message has reserved; free again when this is dropped.
#[derive(Debug, Default)]
pub(super) struct ReservedMemory(Option<OwnedSemaphorePermit>);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_is_shared_and_comes_back() {
        let budget = MessageMemory::new(100);
        let (mut one, mut other) = (ReservedMemory::default(), ReservedMemory::default());
        assert!(budget.grow(&mut one, 60) && budget.grow(&mut one, 20));
        assert!(!budget.grow(&mut other, 21) && budget.grow(&mut other, 20));
        drop(one);
        assert!(budget.grow(&mut other, 80));
    }
}

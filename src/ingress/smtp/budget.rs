//! How many bytes of messages all connections together may hold while these come in.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes of messages that may still be taken into memory. Clones draw on the same store.
#[derive(Clone, Debug)]
pub(super) struct MessageMemory(Arc<Semaphore>);

impl MessageMemory {
    pub fn new(bytes: usize) -> Self {
        MessageMemory(Arc::new(Semaphore::new(bytes.min(Semaphore::MAX_PERMITS))))
    }

    /// Takes `bytes` more into `room`, if there are as many. Never waits: a mail that waits for
    /// memory holds some.
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

/// What one message has taken of the budget; given back when dropped.
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

//! Both spools keep every promise of the trait.

#[path = "spool/killed.rs"]
mod killed;

use std::sync::Arc;

use async_trait::async_trait;
use postrider::spool::conformance::{Bench, suite};
use postrider::spool::{Spool, SpoolError, SpoolOptions, memory, sled};

struct InMemory;

#[async_trait]
impl Bench for InMemory {
    async fn open(&self, _: &str, options: SpoolOptions) -> Result<Arc<dyn Spool>, SpoolError> {
        Ok(memory::open(options))
    }

    fn persistent(&self) -> bool {
        false
    }

    fn kill(&self, _: &str, _: &str) {
        unreachable!("asked of persistent stores only")
    }
}

struct OnDisk(tempfile::TempDir);

#[async_trait]
impl Bench for OnDisk {
    async fn open(&self, store: &str, options: SpoolOptions) -> Result<Arc<dyn Spool>, SpoolError> {
        sled::open(&self.0.path().join(store), options)
    }

    fn persistent(&self) -> bool {
        true
    }

    fn kill(&self, store: &str, copy: &str) {
        killed::copy_at_rest(&self.0.path().join(store), &self.0.path().join(copy));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_spool_in_memory_keeps_every_promise() {
    suite(&InMemory).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_spool_on_disk_keeps_every_promise() {
    suite(&OnDisk(tempfile::tempdir().expect("writable"))).await;
}

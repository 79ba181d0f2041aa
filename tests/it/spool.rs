//! Both spools keep every promise of the trait.

pub mod killed;
mod upgrade;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use postrider::spool::conformance::{Bench, suite};
use postrider::spool::{Durability, Spool, SpoolError, SpoolOptions, memory, sled};

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

struct OnDisk {
    dir: tempfile::TempDir,
    sync_interval: Option<Duration>,
}

impl OnDisk {
    fn syncing(sync_interval: Option<Duration>) -> Self {
        OnDisk {
            dir: tempfile::tempdir().expect("writable"),
            sync_interval,
        }
    }
}

#[async_trait]
impl Bench for OnDisk {
    async fn open(&self, store: &str, options: SpoolOptions) -> Result<Arc<dyn Spool>, SpoolError> {
        let options = SpoolOptions {
            sync_interval: self.sync_interval,
            ..options
        };
        sled::open(&self.dir.path().join(store), options)
    }

    fn persistent(&self) -> bool {
        true
    }

    fn kill(&self, store: &str, copy: &str) {
        killed::copy_at_rest(&self.dir.path().join(store), &self.dir.path().join(copy));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_spool_in_memory_keeps_every_promise() {
    suite(&InMemory).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_spool_on_disk_keeps_every_promise() {
    suite(&OnDisk::syncing(None)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_spool_that_syncs_now_and_then_keeps_every_promise_but_that_of_a_power_cut() {
    let bench = OnDisk::syncing(Some(Duration::from_millis(20)));
    let spool = bench
        .open("durability", SpoolOptions::default())
        .await
        .expect("opens");
    assert_eq!(spool.durability(), Durability::Written);
    suite(&bench).await;
}

//! Both spools keep every promise of the trait.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

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
        copy_at_rest(&self.0.path().join(store), &self.0.path().join(copy));
    }
}

/// Copies a directory in a moment in which nothing in it changes, which is what a killed process leaves.
fn copy_at_rest(from: &Path, to: &Path) {
    loop {
        let before = files(from);
        let _ = std::fs::remove_dir_all(to);
        for (path, _, _) in &before {
            let copy = to.join(path.strip_prefix(from).expect("inside"));
            std::fs::create_dir_all(copy.parent().expect("inside")).expect("writable");
            if std::fs::copy(path, &copy).is_err() {
                break;
            }
        }
        if files(from) == before {
            return;
        }
    }
}

fn files(dir: &Path) -> Vec<(PathBuf, u64, SystemTime)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).expect("readable").flatten() {
        let Ok(metadata) = entry.metadata() else { continue };
        if metadata.is_dir() {
            found.extend(files(&entry.path()));
        } else {
            found.push((entry.path(), metadata.len(), metadata.modified().expect("known")));
        }
    }
    found.sort();
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_spool_in_memory_keeps_every_promise() {
    suite(&InMemory).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_spool_on_disk_keeps_every_promise() {
    suite(&OnDisk(tempfile::tempdir().expect("writable"))).await;
}

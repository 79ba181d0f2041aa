//! The spool on PostgreSQL keeps every promise of the trait, and those that only several nodes can
//! break.

#![allow(missing_docs, clippy::unwrap_used)]

mod chaos;
mod cluster;
#[path = "../common/mod.rs"]
mod common;
mod connecting;
mod copying;
mod damage;
mod flushing;
mod heartbeat;
mod lingering;
mod network;
mod nodes;
mod outage;
mod outbox;
mod pinned;
mod readers;
mod refusals;
mod restored;
mod settings;
mod shares;
mod upgrades;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use postrider::spool::conformance::{Bench, suite};
use postrider::spool::postgres::PostgresSpool;
use postrider::spool::{Spool, SpoolError, SpoolOptions};

use self::common::postgres::Server;

/// Stores are schemas, named so that no test of another run meets them.
struct OnPostgres {
    server: Server,
    run: String,
}

impl OnPostgres {
    fn schema(&self, store: &str) -> String {
        format!("{}-{store}", self.run)
    }
}

#[async_trait]
impl Bench for OnPostgres {
    async fn open(&self, store: &str, options: SpoolOptions) -> Result<Arc<dyn Spool>, SpoolError> {
        PostgresSpool::new(self.server.url())
            .schema(self.schema(store))
            .lease(Duration::from_secs(5))
            .open(options)
            .await
    }

    fn persistent(&self) -> bool {
        true
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn kill(&self, store: &str, copy: &str) {
        self.server
            .copy_schema(&self.schema(store), &self.schema(copy));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_spool_on_postgresql_keeps_every_promise() {
    let server = Server::start();
    let run = format!("t{}", std::process::id());
    suite(&OnPostgres { server, run }).await;
}

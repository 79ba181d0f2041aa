//! Random histories of a spool, step by step against a model that is simple enough to be believed:
//! a map of mails. After each step both show the same; so nothing that was accepted ever vanishes,
//! and nothing is leased twice.

mod model;
mod steps;

use std::sync::Arc;
use std::time::Duration;

use postrider::hours;
use postrider::spool::{Spool, SpoolOptions, memory, sled};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::spool::killed;

#[cfg(feature = "postgres")]
use postrider::spool::postgres::PostgresSpool;

#[cfg(feature = "postgres")]
use crate::common::postgres::Server;

use self::model::History;
use self::steps::Step;

const RETENTION: Duration = hours(3);
const KEY_TIME: Duration = hours(1);

/// Where the spool of a history lives.
pub enum SpoolKind {
    /// Nowhere: it is forgotten with its process.
    Memory,
    /// A directory for each life: a killed spool is opened as a copy.
    Disk(tempfile::TempDir, u32),
    /// A schema for each life, in a database.
    #[cfg(feature = "postgres")]
    Postgres(Arc<Server>, String, u32),
}

impl SpoolKind {
    fn disk() -> Self {
        SpoolKind::Disk(tempfile::tempdir().unwrap(), 0)
    }

    /// Opens what is there.
    pub async fn open(&self) -> Arc<dyn Spool> {
        let options = SpoolOptions {
            retention: RETENTION,
            idempotency_ttl: KEY_TIME,
            ..SpoolOptions::default()
        };

        match self {
            SpoolKind::Memory => memory::open(options),
            #[cfg(feature = "postgres")]
            SpoolKind::Postgres(server, name, life) => PostgresSpool::new(server.url())
                .schema(format!("{name}-{life}"))
                .open(options)
                .await
                .expect("the spool opens"),
            SpoolKind::Disk(dir, life) => {
                sled::open(&dir.path().join(life.to_string()), options).expect("the spool opens")
            }
        }
    }

    /// Whether it can be opened again.
    pub fn is_kept(&self) -> bool {
        !matches!(self, SpoolKind::Memory)
    }

    /// Ends the spool, and opens what is left of it.
    pub async fn reopen(&mut self, spool: Arc<dyn Spool>, by_kill: bool) -> Arc<dyn Spool> {
        match self {
            SpoolKind::Disk(dir, life) if by_kill => {
                let killed = dir.path().join(life.to_string());
                *life += 1;
                killed::copy_at_rest(&killed, &dir.path().join(life.to_string()));
            }
            #[cfg(feature = "postgres")]
            SpoolKind::Postgres(server, name, life) if by_kill => {
                let (killed, copy) = (format!("{name}-{life}"), format!("{name}-{}", *life + 1));
                server.copy_schema(&killed, &copy);
                *life += 1;
            }
            _ => spool.close().await.expect("an open spool closes"),
        }

        drop(spool);
        self.open().await
    }
}

/// Compares `cases` histories, or as many as `PROPTEST_CASES` says.
fn compare(cases: u32, steps: usize, home: impl Fn() -> SpoolKind) {
    let asked = std::env::var("PROPTEST_CASES")
        .ok()
        .and_then(|cases| cases.parse().ok());
    let cases = asked.unwrap_or(cases);
    let config = Config {
        cases,
        max_shrink_time: 60_000,
        failure_persistence: None,
        ..Config::default()
    };

    let history = prop::collection::vec(steps::any_step(), 1..steps);
    let outcome = TestRunner::new(config).run(&history, |steps: Vec<Step>| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut history = History::begin(home()).await;
            for step in &steps {
                history.take(step).await;
                history.compare(step).await;
            }
            history.follow_the_clock_to_the_end().await;
        });
        Ok(())
    });

    if let Err(error) = outcome {
        panic!("{error}");
    }
}

#[test]
fn the_spool_in_memory_does_what_the_model_does() {
    compare(100, 60, || SpoolKind::Memory);
}

#[test]
fn the_spool_on_disk_does_what_the_model_does() {
    compare(25, 60, SpoolKind::disk);
}

#[cfg(feature = "postgres")]
#[test]
fn the_spool_on_postgresql_does_what_the_model_does() {
    let server = Arc::new(Server::start());
    let lives = std::cell::Cell::new(0);
    compare(8, 60, || {
        lives.set(lives.get() + 1);
        let name = format!("m{}x{}y", std::process::id(), lives.get());
        SpoolKind::Postgres(Arc::clone(&server), name, 0)
    });
}

proptest! {
    #![proptest_config(Config { cases: 2000, failure_persistence: None, ..Config::default() })]

    #[test]
    fn no_bytes_make_the_record_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        postrider::spool::decode_any(&bytes);
        let versioned = [&[1], &bytes[..]].concat();
        postrider::spool::decode_any(&versioned);
    }
}

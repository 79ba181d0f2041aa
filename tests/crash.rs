//! Killed at any moment, the engine loses nothing that it has acknowledged. A child process accepts
//! and sends, is killed with SIGKILL, and is started again on the same spool; the relay, in this
//! process, sees everything and survives.
//!
//! `CRASH_KILLS` says how often (30 unless said), `CRASH_SEED` repeats an earlier run's choices,
//! and with `--nocapture` the figures are shown.
#![allow(clippy::unwrap_used)]
#![cfg(unix)]

mod common;

#[path = "crash/child.rs"]
mod child;
#[path = "crash/ledger.rs"]
mod ledger;

use std::env;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use child::Orders;
use common::agreement::{everything, journal_agrees};
use common::{FakeSmtp, erratic_relay};
use ledger::Ledger;
use parking_lot::Mutex;
use postrider::spool::{SpoolError, SpoolOptions, sled};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

const NAME: &str = "nothing_acknowledged_is_lost_however_often_the_engine_is_killed";
/// How long a child may take to open its spool, and the last one to deliver everything.
const WAIT_LIMIT: Duration = Duration::from_secs(60);

/// One life of the engine, as seen from outside.
struct Life {
    process: Child,
    listener: Option<JoinHandle<()>>,
    began: Instant,
}

impl Life {
    fn begin(spool: &Path, relay: &FakeSmtp, ledger: &Arc<Mutex<Ledger>>, is_last: bool) -> Self {
        let next = ledger.lock().begin_life();
        let orders = Orders {
            spool: spool.to_owned(),
            relay: relay.url(),
            next,
            is_last,
        };

        let mut command = Command::new(env::current_exe().unwrap());
        command
            .args(["--exact", NAME, "--nocapture"])
            .envs(orders.into_environment());

        let mut process = command
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let words = BufReader::new(process.stderr.take().unwrap());

        let ledger = Arc::clone(ledger);
        let listener = std::thread::spawn(move || {
            for line in words.lines() {
                ledger.lock().hear(&line.unwrap());
            }
        });

        Life {
            process,
            listener: Some(listener),
            began: Instant::now(),
        }
    }

    /// Waits until this holds of it. It must not end meanwhile.
    async fn until(&mut self, holds: impl Fn() -> bool) {
        while !holds() && self.process.try_wait().unwrap().is_none() {
            assert!(self.began.elapsed() < WAIT_LIMIT, "it takes too long");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Kills it, and hears its last words.
    fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        self.listener.take().unwrap().join().unwrap();
    }

    /// Waits until it ends by itself.
    async fn end(mut self) -> bool {
        self.until(|| false).await;
        self.listener.take().unwrap().join().unwrap();
        self.process.wait().unwrap().success()
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

async fn verify(spool: &Path, ledger: &Mutex<Ledger>) {
    let path = spool.to_owned();
    let verified = tokio::task::spawn_blocking(move || sled::verify(&path))
        .await
        .unwrap()
        .unwrap();

    assert_eq!(verified.problems, Vec::<String>::new());
    assert_eq!(verified.quarantined, 0);
    let acknowledged = ledger.lock().acknowledged();
    assert!(
        verified.mails >= acknowledged as u64,
        "{} of {acknowledged} mails are there",
        verified.mails
    );

    what_is_reported_is_what_is_there(spool).await;
}

/// The journal of all lives so far says of each delivery what its record says.
async fn what_is_reported_is_what_is_there(path: &Path) {
    let spool = loop {
        match sled::open(path, SpoolOptions::default()) {
            Err(SpoolError::Locked(_)) => tokio::time::sleep(Duration::from_millis(20)).await,
            opened => break opened.unwrap(),
        }
    };
    let there = everything(&*spool).await.unwrap();
    assert_eq!(journal_agrees(&*spool, there.values()).await, Ok(()));
    spool.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_however_often_the_engine_is_killed() {
    if let Some(orders) = Orders::from_environment() {
        return child::live(orders).await;
    }
    let number = |name: &str| env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let kills = number("CRASH_KILLS").unwrap_or(30);

    let seed = number("CRASH_SEED").unwrap_or_else(rand::random);
    println!("CRASH_SEED={seed}");
    let began = Instant::now();
    let mut choices = StdRng::seed_from_u64(seed);
    let dir = tempfile::tempdir().unwrap();
    let spool = dir.path().join("spool");
    let relay = erratic_relay(seed).await;

    let ledger = Arc::new(Mutex::new(Ledger::new()));
    for kill in 1..=kills {
        let mut life = Life::begin(&spool, &relay, &ledger, false);
        // Some are killed while they open the spool, most in the middle of their work.
        if choices.random_bool(0.15) {
            let moment = Duration::from_millis(choices.random_range(0..150));
            tokio::time::sleep(moment).await;
            println!("kill {kill}: {moment:?} after its start");
        } else {
            let acknowledged = ledger.lock().acknowledged();
            let moment = Duration::from_millis(choices.random_range(0..600));
            life.until(|| ledger.lock().acknowledged() > acknowledged)
                .await;
            tokio::time::sleep(moment).await;
            println!("kill {kill}: {moment:?} after its first receipt");
        }
        life.kill();
        ledger.lock().end_life(relay.connections());
        assert_eq!(ledger.lock().problems(), Vec::<String>::new());
        if kill % if kills > 100 { 10 } else { 5 } == 0 {
            verify(&spool, &ledger).await;
        }
    }

    let last = Life::begin(&spool, &relay, &ledger, true);
    assert!(last.end().await, "{:?}", ledger.lock().problems());
    relay.open_connections_fall_to(0).await;
    verify(&spool, &ledger).await;

    let ledger = std::mem::take(&mut *ledger.lock());
    let (figures, problems) = ledger.judge(&relay.transactions());
    println!(
        "{figures}elapsed                            {:.0?}",
        began.elapsed()
    );

    assert_eq!(problems, Vec::<String>::new());
    assert!(
        figures.acknowledged as u64 > kills * 20,
        "so few mails prove little"
    );
}

//! Killed at any moment, the service loses nothing that it has acknowledged. `postrider run` takes
//! mail over HTTP and SMTP from clients that submit each mail with one key until it is
//! acknowledged, is killed with SIGKILL, and is started again at once; the relay, in this process,
//! sees everything and survives.
//!
//! `CRASH_KILLS` says how often (20 unless said), `CRASH_SEED` repeats an earlier run's choices,
//! and with `--nocapture` the figures are shown as a line of JSON, and before it which transactions
//! each kill found open.
#![allow(clippy::unwrap_used)]
#![cfg(all(feature = "server", target_os = "linux"))]

mod common;

#[path = "service_crash/client.rs"]
mod client;
#[path = "service_crash/http.rs"]
mod http;
#[path = "service_crash/ledger.rs"]
mod ledger;
#[path = "service_crash/mails.rs"]
mod mails;
#[path = "service_crash/returned.rs"]
mod returned;
#[path = "service_crash/service.rs"]
mod service;
#[path = "service_crash/smtp.rs"]
mod smtp;
#[path = "service_crash/webhook.rs"]
mod webhook;

use std::env;
use std::time::{Duration, Instant};

use common::erratic_relay;
use http::{Batches, Http};
use ledger::Book;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use service::ServiceFiles;
use smtp::Smtp;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::sleep;

/// How often something is looked at again that tells of no change.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Clients at every door; each has keys of its own.
fn send_clients(
    files: &ServiceFiles,
    book: &Book,
    stop: &watch::Sender<bool>,
    seed: u64,
) -> JoinSet<()> {
    let mut clients = JoinSet::new();
    for n in 0..14 {
        let seed = seed.wrapping_add(n);
        let name = |door: &str| format!("{door}{n}");
        clients.spawn(client::work(
            name("http"),
            Http::to(files.http),
            book.clone(),
            stop.subscribe(),
            seed,
        ));
        clients.spawn(client::work(
            name("smtp"),
            Smtp::to(files.smtp),
            book.clone(),
            stop.subscribe(),
            !seed,
        ));
        if n < 4 {
            let door = Batches(Http::to(files.http));
            clients.spawn(client::work(
                name("batch"),
                door,
                book.clone(),
                stop.subscribe(),
                seed.rotate_left(32),
            ));
        }
    }

    clients
}

/// Writes down each delivery that the service tells of, until it is dead.
fn follow(files: &ServiceFiles, book: &Book, mut dead: watch::Receiver<bool>) -> JoinHandle<()> {
    let (address, book) = (files.http, book.clone());
    tokio::spawn(async move {
        // Once it listens, all is heard that was said before the end.
        while !*dead.borrow_and_update() {
            let _ = Http::to(address)
                .follow(|id, recipient| book.delivered(id, recipient))
                .await;
            sleep(POLL_INTERVAL).await;
        }
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_however_often_the_service_is_killed() {
    let number = |name: &str| env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let kills = number("CRASH_KILLS").unwrap_or(20);
    let seed = number("CRASH_SEED").unwrap_or_else(rand::random);
    println!("CRASH_SEED={seed}");

    // The long form is to come to 250 receipts a kill and more.
    let most_receipts = if kills < 100 { 150 } else { 700 };
    let began = Instant::now();
    let mut choices = StdRng::seed_from_u64(seed);
    let relay = erratic_relay(seed).await;
    let hook = webhook::receiver(seed).await;
    let more = format!("webhooks = [{}]", webhook::configured(&hook));
    let files = ServiceFiles::new(&relay.url(), &more);
    let book = Book::new();
    let stop = watch::Sender::new(false);
    let mut clients = send_clients(&files, &book, &stop, seed);

    for kill in 1..=kills {
        let dead = watch::Sender::new(false);
        let mut service = files.start();
        let follower = follow(&files, &book, dead.subscribe());
        // Some are killed while they open the spool, most in the middle of their work.
        let moment = if choices.random_bool(0.15) {
            let moment = Duration::from_millis(choices.random_range(0..500));
            service.lives_until(sleep(moment)).await;
            format!("{moment:?} after its start")
        } else {
            let receipts = choices.random_range(1..=most_receipts);
            service.lives_until(book.grows_by(receipts)).await;
            let moment = Duration::from_millis(choices.random_range(0..50));
            service.lives_until(sleep(moment)).await;
            format!("{moment:?} after receipt {receipts}")
        };
        service.kill().await;
        dead.send_replace(true);
        follower.await.unwrap();
        book.end_life(relay.connections());
        println!("kill {kill}: {moment}");
        assert_eq!(book.problems(), Vec::<String>::new());
        if kill % 10 == 0 {
            let acknowledged = book.count();
            let found = files.verify().await;
            assert!(
                found["mails"].as_u64().unwrap() >= acknowledged as u64,
                "{found} of {acknowledged}"
            );
        }
    }

    let mut service = files.start();
    stop.send_replace(true);
    let drained = async {
        while let Some(ended) = clients.join_next().await {
            ended.unwrap();
        }
        let mut door = Http::to(files.http);
        while !matches!(door.pending().await, Ok(0)) {
            sleep(POLL_INTERVAL).await;
        }
    };

    service.lives_until(drained).await;
    let (again, untold) = service
        .lives_until(webhook::judge(&hook, &book.mails()))
        .await;
    println!("webhook: {again} messages came more than once");
    assert_eq!(untold, Vec::<String>::new());
    assert!(service.stop().await.success(), "{}", files.log());
    relay.open_connections_fall_to(0).await;

    let (figures, mut problems) = book
        .close()
        .judge(&relay.transactions(), &files.verify().await);
    print!("{figures}");
    println!("{}", figures.json(kills, seed, began.elapsed()));
    problems.extend(files.log().lines().map(str::to_owned));

    assert_eq!(problems, Vec::<String>::new());
    assert!(
        figures.acknowledged as u64 > kills * 20,
        "so few mails prove little"
    );
}

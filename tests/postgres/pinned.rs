//! A transaction that stays open keeps every dead row in the tables while mail goes on.

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use postrider::delivery::Stage;
use postrider::spool::postgres::PostgresSpool;
use postrider::spool::{PutResult, SettleResult, Spool, SpoolOptions};
use postrider::{Guarantee, Priority};

use super::common::eventually;
use super::common::postgres::Server;
use super::damage::{everything_due, new_mail, start};

/// The mails of one round.
const ROUND_MAILS: usize = 500;
/// How many rounds are looked at, before the transaction and at the end of it.
const LOOKED_AT: u32 = 9;
/// How many rounds go by under it: each leaves three dead rows a mail.
const UNDER_IT: u32 = 45;

/// Mails come, are claimed and are delivered; how long that takes.
async fn round(spool: &Arc<dyn Spool>, number: u32) -> Duration {
    let now = start() + Duration::from_secs(number.into());
    let mails = (0..ROUND_MAILS).map(|n| {
        let mut mail = new_mail(&format!("r{n}@example.org"));
        mail.manifest.accepted_at = now;
        mail.manifest.guarantee = Guarantee::AtLeastOnce;
        mail.deliveries[0].stage = Stage::Pending { due: now };
        mail
    });
    let mails = mails.collect();

    let begun = Instant::now();
    let put = spool.put(mails).await;
    assert!(put.iter().all(|put| *put == Ok(PutResult::Stored)));
    let mut settled = 0;
    while settled < ROUND_MAILS {
        let mut request = everything_due();
        request.turns = vec![Priority::Default; 100];
        request.now = now;
        let claims = spool.claim(request).await.unwrap();
        let done = claims.into_iter().flat_map(|claim| claim.deliveries);
        let done: Vec<_> = done
            .map(|(lease, mut delivery)| {
                delivery.stage = Stage::Delivered { at: now };
                (lease, delivery)
            })
            .collect();
        settled += done.len();
        let results = spool.settle(done).await.unwrap();
        assert!(results.iter().all(|result| *result == SettleResult::Done));
    }
    begun.elapsed()
}

/// The fastest of these rounds: what else the machine does slows others.
async fn rounds(spool: &Arc<dyn Spool>, from: u32) -> Duration {
    let mut fastest = Duration::MAX;
    for number in from..from + LOOKED_AT {
        fastest = fastest.min(round(spool, number).await);
    }
    fastest
}

/// A transaction that stays open.
struct OldTransaction(Child);

impl OldTransaction {
    async fn in_the_way(server: &Server) -> Self {
        let url = format!("{}&application_name=report", server.url());
        let old = Command::new("psql")
            .args(["-X", "-q", "-d", &url])
            .args(["-c", "BEGIN; SELECT txid_current(), pg_sleep(600)"])
            .stdout(Stdio::null())
            .spawn();
        let is_old = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'report' AND \
                      backend_xid IS NOT NULL";
        eventually("it is open", async || server.sql(is_old) == "1").await;
        OldTransaction(old.unwrap())
    }

    fn end(mut self, server: &Server) {
        server.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = \
             'report'",
        );
        let _ = self.0.wait();
    }
}

/// A few commits of one mail each, the fastest of several times.
async fn commits(spool: &Arc<dyn Spool>) -> Duration {
    let mut fastest = Duration::MAX;
    for _ in 0..LOOKED_AT {
        let begun = Instant::now();
        for _ in 0..20 {
            let put = spool.put(vec![new_mail("one@example.org")]).await;
            assert_eq!(put, [Ok(PutResult::Stored)]);
        }
        fastest = fastest.min(begun.elapsed());
    }
    fastest
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_every_commit_changes_is_found_at_once_however_often_it_was_changed() {
    let server = Server::of_its_own();
    let spool = PostgresSpool::new(server.url()).schema("changed");
    let spool = spool.open(SpoolOptions::default()).await.unwrap();
    commits(&spool).await;
    let before = commits(&spool).await;

    let old = OldTransaction::in_the_way(&server).await;
    let options = "-csearch_path%3Dchanged%20-csynchronous_commit%3Doff%20\
                   -cenable_seqscan%3Doff%20-cjit%3Doff";
    Server::named(format!("{}&options={options}", server.url())).sql(
        "DO $$ BEGIN FOR i IN 1 .. 60000 LOOP
           PERFORM bump(0, 0, '{0,0,0,0,0,0,0,0,0,0,0,0}', 0);
           PERFORM count_accounts(0, '{7}', '{1}', '{0}', '{1}');
           COMMIT;
         END LOOP; END $$",
    );
    let under_it = commits(&spool).await;
    old.end(&server);

    println!("{before:?}, and {under_it:?} under a transaction that stays open");
    assert!(
        under_it < before * 2,
        "{before:?}, and {under_it:?} under it"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_stays_open_costs_no_more_than_half_of_the_speed() {
    let server = Server::of_its_own();
    let spool = PostgresSpool::new(server.url()).schema("pinned");
    let spool = spool.open(SpoolOptions::default()).await.unwrap();
    rounds(&spool, 1).await;
    let before = rounds(&spool, 101).await;

    let old = OldTransaction::in_the_way(&server).await;
    for number in 0..UNDER_IT {
        round(&spool, 201 + number).await;
    }
    let under_it = rounds(&spool, 301).await;

    old.end(&server);
    println!(
        "{ROUND_MAILS} mails: {before:?}, and {under_it:?} under a transaction that stays open"
    );
    assert!(
        under_it < before * 2,
        "{ROUND_MAILS} mails took {before:?}, and {under_it:?} under it"
    );
}

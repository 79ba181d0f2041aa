//! Whatever else a node does, its heart beats: work that is slow, or that others are in the way of,
//! costs it neither its session nor what it holds.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::common::postgres::Server;
use super::common::{FakeSmtp, eventually};
use super::nodes::{Cluster, arrivals};

/// Somebody who has locked tables, until dropped.
struct Lock<'a> {
    cluster: &'a Cluster,
    psql: Child,
}

impl Drop for Lock<'_> {
    fn drop(&mut self) {
        // psql would leave its backend asleep.
        let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = \
                   'locker'";
        let _ = self.cluster.server.try_sql(end);
        let _ = self.psql.wait();
    }
}

async fn lock<'a>(cluster: &'a Cluster, tables: &str) -> Lock<'a> {
    let url = format!("{}&application_name=locker", cluster.server.url());
    let psql = Command::new("psql")
        .args(["-X", "-q", "-d", &url])
        .args(["-c", &format!("SET search_path TO \"{}\"", cluster.schema)])
        .args([
            "-c",
            &format!("BEGIN; LOCK TABLE {tables} IN ACCESS EXCLUSIVE MODE; SELECT pg_sleep(60)"),
        ])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lock = Lock { cluster, psql };
    eventually("the tables are locked", async || {
        let held = "SELECT count(*) > 0 FROM pg_locks l JOIN pg_stat_activity a USING (pid)
            WHERE a.application_name = 'locker' AND l.mode = 'AccessExclusiveLock' AND l.granted
              AND l.locktype = 'relation'";
        cluster.server.sql(held) == "t"
    })
    .await;
    lock
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_look_that_takes_long_costs_no_node_its_session_and_mail_goes_on() {
    let relay = FakeSmtp::start().await;
    let cluster = Cluster::over(Server::of_its_own(), "slow-look", &relay);
    let (first, second) = (cluster.node("first", 2), cluster.node("second", 2));
    let ids = first.hand_in_many("before", 3, "hello");
    second.become_all(&ids, "delivered");
    let sessions = cluster.sql("SELECT string_agg(id::text, ',' ORDER BY id) FROM sessions");

    // What nodes are told, what tokens have submitted: each look reads it, and waits.
    let locked = lock(&cluster, "paused, accounts").await;
    let begun = Instant::now();
    let mut sent = 0;
    while begun.elapsed() < Duration::from_secs(8) {
        let late = "SELECT coalesce(max(extract(epoch FROM now() - seen)), 0) < 1.9 FROM sessions";
        assert_eq!(cluster.sql(late), "t", "{}\n{}", first.log(), second.log());
        let known = cluster.sql("SELECT string_agg(id::text, ',' ORDER BY id) FROM sessions");
        assert_eq!(known, sessions, "{}\n{}", first.log(), second.log());
        assert!(first.readiness().0 && second.readiness().0);
        sent += 1;
        std::thread::sleep(Duration::from_millis(200));
    }
    assert!(sent > 5, "it was looked at while they waited");
    drop(locked);

    let ids = second.hand_in_many("after", 3, "hello");
    first.become_all(&ids, "delivered");
    assert!(arrivals(&relay).values().all(|times| *times == 1));
    for node in [&first, &second] {
        assert!(
            !node.log().contains("others have taken over"),
            "{}",
            node.log()
        );
        assert!(
            !node.log().contains("could not be renewed"),
            "{}",
            node.log()
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_takeover_that_waits_costs_whoever_does_it_nothing() {
    let relay = FakeSmtp::start().await;
    let cluster = Cluster::over(Server::of_its_own(), "slow-takeover", &relay);
    let (mut first, second) = (cluster.node("first", 2), cluster.node("second", 2));
    let session = cluster.sql("SELECT id FROM sessions WHERE node = 'second'");

    let locked = lock(&cluster, "ready").await;
    first.kill();
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(8) {
        let late =
            "SELECT extract(epoch FROM now() - seen) < 1.9 FROM sessions WHERE node = 'second'";
        assert_eq!(cluster.sql(late), "t", "{}", second.log());
        std::thread::sleep(Duration::from_millis(200));
    }
    drop(locked);

    eventually("the other is taken over", async || {
        cluster.sql("SELECT count(*) FROM sessions") == "1"
    })
    .await;
    let ids = second.hand_in_many("after", 3, "hello");
    second.become_all(&ids, "delivered");
    assert_eq!(cluster.sql("SELECT id FROM sessions"), session);
}

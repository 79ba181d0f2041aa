//! A database whose parts are from different moments: restored without its sequences, or with
//! tables of which some are older than others.

use std::time::Duration;

use super::common::postgres::Server;
use super::common::service::Service;
use super::common::{FakeSmtp, eventually};
use super::nodes::{Cluster, arrivals};
use super::outage::{accepts_nothing, later, until_ready, until_reported};

/// A node that has further relays, all the same: its mail takes a route of its own.
fn with_relays(cluster: &Cluster, relay: &FakeSmtp, names: &[&str]) -> Service {
    let more: String = names
        .iter()
        .map(|name| format!("[[relays]]\nname = \"{name}\"\nurl = \"{}\"\n", relay.url()))
        .collect();
    Service::start(cluster.configured("routed", 5, cluster.server.url(), &more))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn numbers_that_begin_again_are_given_to_nobody_twice() {
    let relay = FakeSmtp::start().await;
    let cluster = Cluster::over(Server::start(), "sequences", &relay);
    let names = ["a", "b", "c", "d"];
    for some in 1..names.len() {
        let node = with_relays(&cluster, &relay, &names[..some]);
        let ids = node.hand_in_many("before", 1, "hello");
        node.become_all(&ids, "delivered");
    }
    let live = cluster.node("live", 5);
    cluster.sql("ALTER SEQUENCE sessions_id_seq RESTART; ALTER SEQUENCE routes_id_seq RESTART");
    cluster
        .sql("SELECT setval('sessions_id_seq', (SELECT id FROM sessions WHERE node = 'live') - 1)");

    let node = with_relays(&cluster, &relay, &names);
    let ids = node.hand_in_many("after", 3, "hello");
    node.become_all(&ids, "delivered");
    let ids = live.hand_in_many("others", 3, "hello");
    live.become_all(&ids, "delivered");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_is_anothers_is_left_to_it() {
    let relay = FakeSmtp::start().await;
    let cluster = Cluster::over(Server::start(), "anothers", &relay);
    let node = cluster.node("only", 5);

    // The number is given again, after a failover to a standby that had not heard of it.
    cluster.sql("UPDATE sessions SET instance = gen_random_uuid()");
    eventually("it begins another", async || {
        cluster.sql("SELECT count(DISTINCT instance) FROM sessions") == "2"
    })
    .await;
    let ids = node.hand_in_many("after", 3, "hello");
    node.become_all(&ids, "delivered");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_go_on_behind_those_that_the_journal_has_and_nothing_is_sent_twice_meanwhile() {
    let relay = FakeSmtp::start().await;
    let cluster = Cluster::over(Server::start(), "behind", &relay);
    let node = cluster.node("only", 5);
    let mut ids = node.hand_in_many("before", 3, "hello");
    node.become_all(&ids, "delivered");
    ids.extend(later(&node, "later", 3, 1));

    cluster.sql("UPDATE head SET next = 1");
    // Whoever comes first may have to come again.
    node.hand_in("first@example.org", "hello");
    until_ready(&node, true);
    ids.extend(node.hand_in_many("after", 3, "hello"));
    node.become_all(&ids, "delivered");
    let arrivals = arrivals(&relay);
    assert!(arrivals.len() >= 9, "{arrivals:?}");
    assert!(arrivals.values().all(|times| *times == 1), "{arrivals:?}");
    let twice = "SELECT count(*) FROM journal j JOIN journal k
        ON k.first > j.first AND k.first < j.first + j.events";
    assert_eq!(cluster.sql(twice), "0");

    // As it is found by the next that opens it.
    drop(node);
    cluster.sql("UPDATE head SET next = 1");
    let verified = cluster.verify().await;
    assert!(
        verified
            .problems
            .iter()
            .any(|told| told.contains("event 1")),
        "{verified:?}"
    );
    let node = cluster.node("next", 5);
    let ids = node.hand_in_many("next", 3, "hello");
    node.become_all(&ids, "delivered");
    assert_eq!(cluster.sql(twice), "0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_no_commit_can_be_counted_nothing_is_sent_and_what_was_is_recorded_later() {
    let relay = FakeSmtp::start().await;
    let cluster = Cluster::over(Server::start(), "headless", &relay);
    let node = cluster.node("only", 5);
    let mut ids = node.hand_in_many("before", 3, "hello");
    node.become_all(&ids, "delivered");
    ids.extend(later(&node, "later", 3, 1));

    cluster.sql("CREATE TABLE elsewhere AS TABLE head; DELETE FROM head");
    until_reported(&node, "head");
    accepts_nothing(&node);
    std::thread::sleep(Duration::from_secs(3));
    accepts_nothing(&node);

    cluster.sql("INSERT INTO head SELECT * FROM elsewhere");
    until_ready(&node, true);
    node.become_all(&ids, "delivered");
    let arrivals = arrivals(&relay);
    assert_eq!(arrivals.len(), 6);
    assert!(arrivals.values().all(|times| *times == 1), "{arrivals:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_of_no_time_is_nobodys() {
    let relay = FakeSmtp::start().await;
    let cluster = Cluster::over(Server::start(), "timeless", &relay);
    let node = cluster.node("only", 2);
    for (seen, lease) in [("infinity", 1), ("-infinity", -1), ("now", i64::MAX)] {
        cluster.sql(&format!(
            "INSERT INTO sessions (node, instance, version, lease_ms, seen)
             VALUES ('odd', gen_random_uuid(), '0', {lease}, '{seen}')"
        ));
    }
    eventually("they are taken over", async || {
        cluster.sql("SELECT count(*) FROM sessions") == "2"
    })
    .await;
    let ids = node.hand_in_many("after", 3, "hello");
    node.become_all(&ids, "delivered");
    assert_eq!(node.get("/v1/nodes").status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_goes_on_from_where_a_database_is_that_went_back() {
    let relay = FakeSmtp::start().await;
    let cluster = Cluster::over(Server::start(), "back", &relay);
    let node = cluster.node("only", 5);
    let ids = node.hand_in_many("before", 20, "hello");
    node.become_all(&ids, "delivered");
    eventually("all is counted", async || {
        node.get("/v1/stats").json()["pending"] == 0
    })
    .await;

    // As if the last commits were lost.
    cluster.sql("UPDATE head SET commits = 1");
    let ids = node.hand_in_many("after", 1, "hello");
    node.become_all(&ids, "delivered");
    assert!(
        node.log().contains("as it was at an earlier moment"),
        "{}",
        node.log()
    );
}

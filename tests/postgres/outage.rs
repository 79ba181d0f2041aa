//! The database goes away, in each way in which that happens: nothing is accepted that could not be
//! kept, nothing is begun that could not be recorded, and everything goes on by itself.

use std::time::{Duration, Instant};

use super::common::postgres::Server;
use super::common::proxy::Proxy;
use super::common::service::Service;
use super::common::{Act, FakeSmtp, Rule, Step, eventually};
use super::nodes::{Cluster, arrivals};

/// Waits until a node says that it is ready, or not; returns what it said.
#[track_caller]
pub fn until_ready(node: &Service, wanted: bool) -> String {
    let begun = Instant::now();
    loop {
        let (is_ready, why) = node.readiness();
        if is_ready == wanted {
            return why;
        }
        assert!(
            begun.elapsed() < Duration::from_secs(30),
            "ready: {is_ready}: {why}\n{}",
            node.log()
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Waits until a node says that it is not ready, and why.
#[track_caller]
pub fn until_reported(node: &Service, reason: &str) {
    let begun = Instant::now();
    loop {
        let (is_ready, why) = node.readiness();
        if !is_ready && why.contains(reason) {
            return;
        }
        assert!(
            begun.elapsed() < Duration::from_secs(30),
            "ready: {is_ready}: {why}\n{}",
            node.log()
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Both doors say that one may come again, and why is told.
#[track_caller]
pub fn accepts_nothing(node: &Service) {
    let answer = node.hand_in("meanwhile@example.org", "hello");
    answer.is_come_back_later();
    let reply = node.say("meanwhile@example.org");
    assert!(reply.starts_with("452"), "{reply}");
}

/// Mails that are to be sent in so many seconds.
pub fn later(node: &Service, name: &str, count: usize, seconds: u64) -> Vec<String> {
    let hand_in = |n| {
        let mail = serde_json::json!({
            "from": "shop@example.com", "to": format!("{name}{n}@example.org"),
            "subject": "Your code",
            "text": "hello", "delay": format!("{seconds}s"),
        });
        let answer = node.post("/v1/mails", &mail.to_string());
        assert_eq!(answer.status, 202, "{answer:?}");
        answer.json()["id"].as_str().unwrap().to_owned()
    };
    (0..count).map(hand_in).collect()
}

pub fn through(proxy: &Proxy) -> String {
    format!("postgres://postgres@127.0.0.1:{}/postgres", proxy.port())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_that_is_cut_stops_what_could_not_be_kept_and_everything_goes_on_by_itself() {
    let relay = FakeSmtp::start().await;
    let cluster = Cluster::over(Server::of_its_own(), "cut", &relay);

    let proxy = Proxy::to(cluster.server.port());
    let node = cluster.node_at("only", 30, &through(&proxy));
    let ids = node.hand_in_many("before", 3, "hello");
    node.become_all(&ids, "delivered");
    let due = later(&node, "later", 5, 2);

    proxy.cut();
    let why = until_ready(&node, false);
    assert!(why.contains("cannot be reached"), "{why}");
    accepts_nothing(&node);

    // They fall due now, and what became of them could not be recorded.
    std::thread::sleep(Duration::from_secs(4));
    assert_eq!(relay.accepted(), 3, "{}", node.log());

    proxy.mend();
    until_ready(&node, true);
    let more = node.hand_in_many("after", 3, "hello");
    node.become_all(&due, "delivered");
    node.become_all(&more, "delivered");

    let arrivals = arrivals(&relay);
    assert_eq!(arrivals.len(), 11, "{arrivals:?}");
    assert!(arrivals.values().all(|times| *times == 1), "{arrivals:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_network_falls_silent_begins_nothing_and_another_takes_over() {
    let relay = FakeSmtp::start().await;
    let cluster = Cluster::over(Server::of_its_own(), "silent", &relay);

    let proxy = Proxy::to(cluster.server.port());
    let lost = cluster.node_at("lost", 4, &through(&proxy));
    let ids = lost.hand_in_many("before", 3, "hello");
    lost.become_all(&ids, "delivered");
    let due = later(&lost, "later", 20, 3);

    proxy.silence();
    let why = until_ready(&lost, false);
    assert!(why.contains("cannot be reached"), "{why}");
    accepts_nothing(&lost);

    let other = cluster.node("other", 4);
    other.become_all(&due, "delivered");

    proxy.mend();
    until_ready(&lost, true);
    let more = lost.hand_in_many("after", 3, "hello");
    other.become_all(&more, "delivered");

    let arrivals = arrivals(&relay);
    assert_eq!(arrivals.len(), 26, "{arrivals:?}");
    assert!(arrivals.values().all(|times| *times == 1), "{arrivals:?}");
    assert_eq!(cluster.sql("SELECT count(*) FROM sessions"), "2");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outcomes_that_are_known_are_recorded_when_the_database_is_back() {
    let relay = FakeSmtp::start().await;
    let cluster = Cluster::over(Server::of_its_own(), "known", &relay);
    let node = cluster.node("only", 30);

    let hesitation = Duration::from_secs(3);
    let slow = Rule::at(Step::FinalDot).act(Act::Delay(hesitation));
    relay.rule(slow.first(4));
    // All at once, however slow the machine is.
    assert_eq!(node.post("/v1/relays/primary/pause", "").status, 200);
    let ids = node.hand_in_many("known", 4, "hello");
    assert_eq!(node.post("/v1/relays/primary/resume", "").status, 200);

    eventually("they are being sent", async || {
        cluster.sql("SELECT count(*) FROM ready WHERE owner <> 0") == "4"
    })
    .await;
    std::thread::sleep(Duration::from_millis(500));

    cluster.server.stop();
    until_ready(&node, false);

    // The relay takes what was begun, there is nowhere to write it, and nothing else is begun.
    let begun = Instant::now();
    while relay.accepted() == 0 {
        assert!(begun.elapsed() < Duration::from_secs(20), "{}", node.log());
        std::thread::sleep(Duration::from_millis(50));
    }

    std::thread::sleep(Duration::from_secs(2));
    cluster.server.start_again();
    node.become_all(&ids, "delivered");
    until_ready(&node, true);

    assert_eq!(arrivals(&relay).len(), 4);
    assert_eq!(relay.accepted(), 4, "none was sent again: {}", node.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_read_only_is_as_one_that_is_away_and_says_why() {
    let relay = FakeSmtp::start().await;
    let cluster = Cluster::over(Server::of_its_own(), "readonly", &relay);
    let node = cluster.node("only", 30);
    let due = later(&node, "later", 3, 2);

    let set = |value: &str| {
        let sql = format!("ALTER SYSTEM SET default_transaction_read_only = {value}");
        cluster.server.sql(&sql);
        cluster.server.sql("SELECT pg_reload_conf()");
    };

    set("on");
    let why = until_ready(&node, false);
    assert!(why.contains("read-only"), "readiness says why: {why}");
    accepts_nothing(&node);
    std::thread::sleep(Duration::from_secs(3));

    assert_eq!(relay.accepted(), 0, "{}", node.log());
    set("off");
    until_ready(&node, true);
    node.become_all(&due, "delivered");

    let more = node.hand_in_many("after", 3, "hello");
    node.become_all(&more, "delivered");
    assert_eq!(relay.accepted(), 6);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_that_is_promoted_goes_on_where_the_primary_ended_and_nothing_acknowledged_is_lost()
 {
    let relay = FakeSmtp::start().await;
    let cluster = Cluster::over(Server::of_its_own(), "failover", &relay);
    let standby = cluster.server.standby();
    let url = format!(
        "postgres://postgres@127.0.0.1:{},127.0.0.1:{}/postgres?target_session_attrs=read-write",
        cluster.server.port(),
        standby.port()
    );

    let (first, second) = (
        cluster.node_at("first", 10, &url),
        cluster.node_at("second", 10, &url),
    );

    let mut ids = first.hand_in_many("before", 10, "hello");
    first.become_all(&ids, "delivered");

    let hesitation = Duration::from_secs(2);
    let slow = Rule::at(Step::FinalDot).act(Act::Delay(hesitation));
    relay.rule(slow.first(4));
    ids.extend(first.hand_in_many("during", 20, "hello"));
    ids.extend(later(&second, "later", 5, 3));

    cluster.server.stop();
    let why = until_ready(&first, false);
    assert!(why.contains("cannot be reached"), "{why}");
    accepts_nothing(&second);
    standby.promote();
    until_ready(&first, true);
    until_ready(&second, true);
    ids.extend(second.hand_in_many("after", 5, "hello"));
    first.become_all(&ids, "delivered");

    let path = format!("SET search_path TO \"{}\"; ", cluster.schema);
    let ended = standby.sql(&format!("{path}SELECT count(*) FROM ended WHERE stage = 2"));
    assert_eq!(ended, "40", "each is settled, and once");

    let arrivals = arrivals(&relay);
    assert_eq!(arrivals.len(), 40, "{arrivals:?}");
    let twice = arrivals.values().filter(|times| **times > 1).count();
    assert!(
        twice <= 8,
        "only what was being transmitted may come twice: {twice} of {arrivals:?}"
    );
}

/// Cuts all connections of a node.
fn cut_off(server: &Server) {
    server.sql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE \
         'postrider %'",
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_were_made_while_the_database_was_read_only_are_made_anew() {
    let relay = FakeSmtp::start().await;
    let cluster = Cluster::over(Server::of_its_own(), "stuck", &relay);
    let node = cluster.node("only", 30);

    let set = "ALTER DATABASE postgres SET default_transaction_read_only = on";
    cluster.server.sql(set);
    cut_off(&cluster.server);
    until_reported(&node, "read-only");
    accepts_nothing(&node);

    // As they are, they stay read-only.
    let reset =
        "BEGIN READ WRITE; ALTER DATABASE postgres RESET default_transaction_read_only; COMMIT";
    cluster.server.sql(reset);
    until_ready(&node, true);
    let ids = node.hand_in_many("after", 3, "hello");
    node.become_all(&ids, "delivered");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_without_room_for_all_connections_is_away_until_it_has_and_that_is_said_once() {
    let relay = FakeSmtp::start().await;
    let cluster = Cluster::over(Server::of_its_own(), "full", &relay);
    cluster.server.sql("CREATE ROLE few LOGIN");
    cluster
        .server
        .sql("GRANT CREATE ON DATABASE postgres TO few");
    let url = format!(
        "postgres://few@127.0.0.1:{}/postgres",
        cluster.server.port()
    );
    let node = cluster.node_at("only", 30, &url);
    let ids = node.hand_in_many("before", 3, "hello");
    node.become_all(&ids, "delivered");

    cluster.server.sql("ALTER ROLE few CONNECTION LIMIT 2");
    cut_off(&cluster.server);
    until_reported(&node, "too many connections");
    for _ in 0..30 {
        assert!(!node.readiness().0, "{}", node.log());
        std::thread::sleep(Duration::from_millis(100));
    }
    accepts_nothing(&node);
    assert_eq!(
        node.log().matches("nothing is accepted or sent").count(),
        1,
        "{}",
        node.log()
    );

    cluster.server.sql("ALTER ROLE few CONNECTION LIMIT -1");
    until_ready(&node, true);
    let ids = node.hand_in_many("after", 3, "hello");
    node.become_all(&ids, "delivered");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_that_are_gone_are_reported_and_when_they_are_back_everything_goes_on() {
    let relay = FakeSmtp::start().await;
    let cluster = Cluster::over(Server::of_its_own(), "gone", &relay);
    let node = cluster.node("only", 30);
    let ids = node.hand_in_many("before", 3, "hello");
    node.become_all(&ids, "delivered");

    let rename = |from: &str, to: &str| {
        let sql = format!("ALTER SCHEMA \"{from}\" RENAME TO \"{to}\"");
        cluster.server.sql(&sql);
    };
    rename(&cluster.schema, "elsewhere");
    until_reported(&node, "does not exist");
    accepts_nothing(&node);
    assert!(
        node.log().contains("nothing is accepted or sent"),
        "{}",
        node.log()
    );

    rename("elsewhere", &cluster.schema);
    until_ready(&node, true);
    let ids = node.hand_in_many("after", 3, "hello");
    node.become_all(&ids, "delivered");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_is_locked_for_long_is_as_a_database_that_is_away() {
    let relay = FakeSmtp::start().await;
    let cluster = Cluster::over(Server::of_its_own(), "locked", &relay);
    let node = cluster.node("only", 30);
    let mut ids = node.hand_in_many("before", 3, "hello");
    node.become_all(&ids, "delivered");

    for (table, seconds) in [("journal", 13), ("mails", 13)] {
        ids.extend(later(&node, table, 3, 2));
        let hold = format!("BEGIN; LOCK TABLE {table}; SELECT pg_sleep({seconds}); ROLLBACK");
        std::thread::scope(|scope| {
            let holder = scope.spawn(|| cluster.sql(&hold));
            eventually_locked(&cluster, table);
            let begun = Instant::now();
            accepts_nothing(&node);
            let took = begun.elapsed();
            assert!(took < Duration::from_secs(9), "{table}: {took:?}");
            let why = until_ready(&node, false);
            assert!(why.contains("locked"), "{table}: {why}");
            holder.join().unwrap();
        });

        until_ready(&node, true);
        ids.extend(node.hand_in_many(&format!("{table}-after"), 3, "hello"));
        node.become_all(&ids, "delivered");
    }
    assert!(arrivals(&relay).values().all(|times| *times == 1));
}

fn eventually_locked(cluster: &Cluster, table: &str) {
    let held = format!(
        "SELECT count(*) FROM pg_locks WHERE relation = '{table}'::regclass AND granted
           AND mode = 'AccessExclusiveLock'"
    );
    let begun = Instant::now();
    while cluster.sql(&held) == "0" {
        assert!(begun.elapsed() < Duration::from_secs(10));
        std::thread::sleep(Duration::from_millis(20));
    }
}

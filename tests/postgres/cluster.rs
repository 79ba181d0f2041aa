//! Whatever one node is told, all obey; whatever one is asked, it answers for all.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::common::postgres::Server;
use super::common::service::Service;
use super::common::{Act, FakeSmtp, Rule, Step, eventually};
use super::nodes::Cluster;
use super::outage::later;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_is_obeyed_by_every_node_and_by_those_that_join() {
    let relay = FakeSmtp::start().await;
    let cluster = Cluster::over(Server::start(), "pause", &relay);
    let (first, second) = (cluster.node("first", 5), cluster.node("second", 5));
    assert_eq!(first.post("/v1/relays/primary/pause", "").status, 200);

    let is_paused = |node: &super::common::service::Service| {
        node.get("/v1/relays").json()["relays"][0]["state"] == "paused"
    };
    eventually("the other node pauses", async || is_paused(&second)).await;

    let third = cluster.node("third", 5);
    eventually("a node that joins pauses", async || is_paused(&third)).await;
    let ids = second.hand_in_many("paused", 3, "hello");
    std::thread::sleep(Duration::from_millis(500));

    assert_eq!(relay.accepted(), 0, "nothing is sent");
    assert_eq!(third.post("/v1/relays/primary/resume", "").status, 200);
    first.become_all(&ids, "delivered");
    eventually("all go on", async || {
        !is_paused(&first) && !is_paused(&second)
    })
    .await;

    let nodes = second.get("/v1/nodes").json();
    let names: Vec<&str> = nodes["nodes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|node| node["name"].as_str().unwrap())
        .collect();

    assert_eq!(names, ["first", "second", "third"], "{nodes}");
    assert_eq!(nodes["nodes"][1]["is_this"], true, "{nodes}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mail_in_another_nodes_hands_can_be_cancelled() {
    let relay = FakeSmtp::start().await;
    let cluster = Cluster::over(Server::start(), "cancel", &relay);
    let first = cluster.node("first", 5);

    // It is in the sender's hands, and its final dot has not been sent.
    let hesitation = Duration::from_secs(4);
    relay.rule(Rule::at(Step::Data).act(Act::Delay(hesitation)).first(4));

    let ids = first.hand_in_many("cancelled", 1, "hello");
    eventually("it is being sent", async || {
        first.state(&ids[0]) == "sending"
    })
    .await;

    let second = cluster.node("second", 5);
    let begun = Instant::now();
    let answer = second.post(&format!("/v1/mails/{}/cancel", ids[0]), "");
    assert_eq!(answer.status, 200, "{answer:?}\n{}", first.log());
    assert_eq!(answer.json()["state"], "cancelled", "{answer:?}");
    assert!(begun.elapsed() < Duration::from_secs(20));

    assert_eq!(relay.accepted(), 0, "it was not sent");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_reports_how_many_deliveries_each_of_them_holds() {
    let relay = FakeSmtp::start().await;
    let cluster = Cluster::over(Server::start(), "holds", &relay);
    let (first, second) = (cluster.node("first", 5), cluster.node("second", 5));
    let hold_up = Rule::at(Step::FinalDot).act(Act::Delay(Duration::from_secs(5)));
    relay.rule(hold_up.first(2));
    let ids = first.hand_in_many("held", 2, "hello");

    let held = |node: &super::common::service::Service| {
        let nodes = node.get("/v1/nodes").json();
        let nodes = nodes["nodes"].as_array().unwrap().iter();
        nodes.filter_map(|node| node["holds"].as_u64()).sum::<u64>()
    };
    eventually("both are held", async || {
        held(&first) == 2 && held(&second) == 2
    })
    .await;
    first.become_all(&ids, "delivered");
    eventually("none is", async || held(&first) == 0 && held(&second) == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_numbers_and_records_are_the_same_at_every_node() {
    let relay = FakeSmtp::start().await;

    let cluster = Cluster::over(Server::start(), "same", &relay);
    let (first, second) = (cluster.node("first", 5), cluster.node("second", 5));
    let ids = first.hand_in_many("same", 5, "hello");
    second.become_all(&ids, "delivered");

    let states =
        |node: &super::common::service::Service| node.get("/v1/stats").json()["states"].clone();
    eventually("the numbers are the same", async || {
        states(&first) == states(&second)
    })
    .await;
    for id in &ids {
        let path = format!("/v1/mails/{id}");
        assert_eq!(first.get(&path).body, second.get(&path).body);
    }

    assert_eq!(
        cluster.sql("SELECT sum(events) FROM journal WHERE NOT acts"),
        "15",
        "accepted, attempted and delivered, of each"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_transaction_that_keeps_dead_rows_is_reported_until_it_ends() {
    let relay = FakeSmtp::start().await;
    let cluster = Cluster::over(Server::of_its_own(), "horizon", &relay);
    let node = cluster.node("only", 2);
    let warnings = |path: &str| node.get(path).json()["warnings"].to_string();
    assert_eq!(warnings("/health/ready"), "null", "nothing is in the way");

    let url = format!("{}&application_name=report", cluster.server.url());
    let mut old = std::process::Command::new("psql")
        .args(["-X", "-q", "-d", &url])
        .args(["-c", "BEGIN; SELECT txid_current(), pg_sleep(60)"])
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();

    eventually("it is told", async || {
        warnings("/health/ready").contains("application report")
    })
    .await;
    assert!(node.readiness().0, "mail is accepted all the same");
    assert!(warnings("/v1/nodes").contains("cannot remove dead rows"));

    let seconds = |node: &super::common::service::Service| {
        let metrics = node.get("/metrics").body;
        let line = metrics
            .lines()
            .find(|line| line.starts_with("postrider_spool_held_back_seconds "));
        let value = line.and_then(|line| line.split(' ').nth(1));
        value.unwrap().parse::<f64>().unwrap()
    };
    assert!(seconds(&node) >= 4.0);
    let ids = node.hand_in_many("meanwhile", 3, "hello");
    node.become_all(&ids, "delivered");

    // psql would leave its backend asleep.
    let end =
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'report'";
    cluster.server.sql(end);
    let _ = old.wait();
    eventually("it is over", async || {
        warnings("/health/ready") == "null" && seconds(&node) == 0.0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relays_connections_are_shared_by_the_nodes_that_live() {
    let relay = FakeSmtp::start().await;
    let cluster = Cluster::over(Server::start(), "share", &relay);
    let connections = |node: &super::common::service::Service| {
        node.get("/v1/relays").json()["relays"][0]["connections"]
            .as_u64()
            .unwrap()
    };

    let first = cluster.node("first", 2);
    assert_eq!(connections(&first), 4, "one node has all");
    let mut second = cluster.node("second", 2);
    eventually("each has a half", async || {
        (connections(&first), connections(&second)) == (2, 2)
    })
    .await;

    let ids = first.hand_in_many("shared", 20, "hello");
    second.become_all(&ids, "delivered");

    second.kill();
    eventually("who is left has all again", async || {
        connections(&first) == 4
    })
    .await;

    let more = first.hand_in_many("alone", 5, "hello");
    first.become_all(&more, "delivered");
}

/// The ids of all events that a node tells, up to the one that is called `last`, after this one.
fn published(node: &Service, after: Option<&str>, last: &str) -> Vec<String> {
    let mut stream = TcpStream::connect(node.http).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    let (query, header) = match after {
        Some(id) => (String::new(), format!("Last-Event-ID: {id}\r\n")),
        None => ("?since=0".to_owned(), String::new()),
    };
    write!(
        stream,
        "GET /v1/events{query} HTTP/1.1\r\nHost: localhost\r\n{header}\r\n"
    )
    .unwrap();

    let (mut ids, mut is_last) = (Vec::new(), false);
    for line in BufReader::new(stream).lines() {
        let line = line.unwrap();
        is_last |= line.starts_with("event:") && line.contains(last);
        if let Some(id) = line.strip_prefix("id:") {
            ids.push(id.trim().to_owned());
        }
        if is_last && line.is_empty() {
            break;
        }
    }
    ids
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_lists_looks_up_retries_or_follows_may_do_so_at_any_node() {
    let relay = FakeSmtp::start().await;
    let refused = Rule::at(Step::Rcpt).to("refused");
    relay.rule(refused.first(1).act(Act::reply(550, "5.1.1 nobody here")));
    let cluster = Cluster::over(Server::start(), "any", &relay);
    let (first, second) = (cluster.node("first", 5), cluster.node("second", 5));

    let mail = r#"{"from": "shop@example.com", "to": "refused@example.org", "subject": "s",
        "text": "t",
        "idempotency_key": "order-7"}"#;
    let answer = first.post("/v1/mails", mail);
    let id = answer.json()["id"].as_str().unwrap().to_owned();
    second.become_all(std::slice::from_ref(&id), "dead");
    for node in [&first, &second] {
        let list = node.get("/v1/mails?state=dead").json();
        assert_eq!(list["mails"][0]["id"], id.as_str(), "{list}");
        assert_eq!(node.get("/v1/mails/order-7").json()["id"], id.as_str());
        let again = node.post("/v1/mails", mail);
        assert_eq!(again.json()["duplicate"], true, "{again:?}");
    }
    let before = published(&second, None, "dead");

    assert_eq!(
        second.post(&format!("/v1/mails/{id}/retry"), "").status,
        200
    );
    first.become_all(std::slice::from_ref(&id), "delivered");

    let whole = published(&first, None, "delivered");
    assert_eq!(
        whole,
        published(&second, None, "delivered"),
        "as told at the other"
    );
    assert!(whole.starts_with(&before), "{before:?} {whole:?}");
    // It begins with where it stands.
    let rest = published(&first, before.last().map(String::as_str), "delivered");
    assert_eq!(
        rest,
        whole[before.len() - 1..],
        "who left the second goes on at the first"
    );

    let audit = |node: &Service| node.get("/v1/audit").json();
    assert_eq!(audit(&first), audit(&second));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_node_returns_to_the_queue_is_sent_although_it_was_due_long_ago() {
    let relay = FakeSmtp::start().await;
    let cluster = Cluster::over(Server::start(), "returned", &relay);
    let node = cluster.node("one", 5);
    let mut ids = later(&node, "held", 1, 1);
    // Another has it in hand, and lives.
    let taken = cluster.sql(
        "WITH s AS (INSERT INTO sessions (node, instance, version, lease_ms)
           VALUES ('other', gen_random_uuid(), '0', 600000) RETURNING id)
         UPDATE ready SET owner = s.id FROM s RETURNING owner",
    );
    assert!(!taken.is_empty(), "it has");
    eventually("it is due", async || {
        let due = "SELECT due + 3000 < extract(epoch FROM clock_timestamp()) * 1000 FROM ready";
        cluster.sql(due) == "t"
    })
    .await;
    let meanwhile = node.hand_in_many("meanwhile", 3, "hello");
    node.become_all(&meanwhile, "delivered");
    assert_eq!(relay.accepted(), 3);

    cluster.sql("UPDATE ready SET owner = 0");
    node.become_all(&ids, "delivered");
    ids.extend(meanwhile);
    assert_eq!(relay.accepted(), ids.len());
}

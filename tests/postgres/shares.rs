//! A relay is one, whatever nodes join and leave: its connections and its rate, as the relay itself
//! sees them.

use std::time::{Duration, Instant};

use super::common::postgres::Server;
use super::common::service::Service;
use super::common::{Act, FakeSmtp, Rule, Step};
use super::nodes::Cluster;

/// How long it may take until all nodes know who there is.
const SETTLE_TIME: Duration = Duration::from_secs(4);

/// The most connections that the relay sees for so long.
async fn most_connections(relay: &FakeSmtp, during: Duration) -> usize {
    let begun = Instant::now();
    let mut most = 0;
    while begun.elapsed() < during {
        most = most.max(relay.open_connections());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    most
}

/// Hands in so many batches of fifty mails.
fn hand_in(node: &Service, batches: usize) {
    for n in 0..batches {
        let one = |m| {
            serde_json::json!({"from": "shop@example.com", "to": format!("w{n}-{m}@example.org"),
                "subject": "s", "text": "t"})
        };
        let mails: Vec<serde_json::Value> = (0..50).map(one).collect();
        let batch = serde_json::json!({"mails": mails}).to_string();
        assert_eq!(node.post("/v1/mails/batch", &batch).status, 202);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_sees_no_more_connections_than_it_may_while_nodes_join_and_leave() {
    let relay = FakeSmtp::start().await;
    relay.rule(Rule::at(Step::FinalDot).act(Act::Delay(Duration::from_millis(100))));
    let cluster = Cluster::over(Server::of_its_own(), "wire", &relay);
    let first = cluster.node("first", 2);
    hand_in(&first, 30);

    // The configuration has four.
    let mut nodes: Vec<Service> = vec![first];
    for name in ["second", "third"] {
        nodes.push(cluster.node(name, 2));
        tokio::time::sleep(SETTLE_TIME).await;
        let most = most_connections(&relay, Duration::from_secs(3)).await;
        assert!((2..=4).contains(&most), "{most} with {} nodes", nodes.len());
    }
    nodes[1].kill();
    tokio::time::sleep(SETTLE_TIME).await;
    let most = most_connections(&relay, Duration::from_secs(3)).await;
    assert!((2..=4).contains(&most), "{most} after one was killed");

    nodes[2].stop();
    tokio::time::sleep(SETTLE_TIME).await;
    let most = most_connections(&relay, Duration::from_secs(3)).await;
    assert!((3..=4).contains(&most), "{most} after one left");
    assert_ne!(
        cluster.sql("SELECT count(*) FROM ready"),
        "0",
        "there was mail all the time"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_gets_mail_no_faster_than_its_rate_while_nodes_join_and_leave() {
    let relay = FakeSmtp::start().await;
    let cluster = Cluster::over(Server::of_its_own(), "rate", &relay);
    let node = |name: &str| {
        let mut command = cluster.configured(name, 2, cluster.server.url(), "");
        command.env("POSTRIDER_RELAYS__0__RATE", "20/s");
        Service::start(command)
    };
    let mut nodes = vec![node("first")];
    hand_in(&nodes[0], 20);

    let seconds = 5;
    let arrive = async || {
        tokio::time::sleep(SETTLE_TIME).await;
        let before = relay.accepted();
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        relay.accepted() - before
    };
    // A tenth of a second's worth may come at once from each.
    let expected = 70..=20 * 5 + 8;
    let alone = arrive().await;
    assert!(expected.contains(&alone), "{alone} in {seconds} s by one");
    for name in ["second", "third", "fourth", "fifth"] {
        nodes.push(node(name));
    }
    let by_five = arrive().await;
    assert!(
        expected.contains(&by_five),
        "{by_five} in {seconds} s by five, one of them without a connection"
    );
    nodes[1].kill();
    nodes[2].stop();
    let by_three = arrive().await;
    assert!(
        expected.contains(&by_three),
        "{by_three} in {seconds} s by those that are left"
    );
    assert_ne!(
        cluster.sql("SELECT count(*) FROM ready"),
        "0",
        "there was mail all the time"
    );
}

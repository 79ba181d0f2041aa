//! Networks that say nothing: connections that are lost without a word, and servers that are there
//! for nobody.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use super::common::postgres::Server;
use super::common::proxy::Proxy;
use super::common::{Act, FakeSmtp, Rule, Step, eventually};
use super::nodes::{Cluster, arrivals};
use super::outage::{accepts_nothing, through, until_ready};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_are_lost_without_a_word_are_made_anew_and_what_was_said_on_them_is_kept()
{
    let relay = FakeSmtp::start().await;
    let cluster = Cluster::over(Server::of_its_own(), "lost", &relay);
    let proxy = Proxy::to(cluster.server.port());
    let node = cluster.node_at("only", 30, &through(&proxy));

    // Some are being sent when it happens.
    let hesitation = Duration::from_secs(2);
    relay.rule(
        Rule::at(Step::FinalDot)
            .act(Act::Delay(hesitation))
            .first(4),
    );
    let mut ids = node.hand_in_many("before", 8, "hello");
    eventually("they are being sent", async || {
        cluster.sql("SELECT count(*) >= 4 FROM ready WHERE owner <> 0") == "t"
    })
    .await;
    proxy.lose();

    until_ready(&node, false);
    accepts_nothing(&node);
    let begun = Instant::now();
    until_ready(&node, true);
    println!("ready again after {:?}", begun.elapsed());

    ids.extend(node.hand_in_many("after", 3, "hello"));
    node.become_all(&ids, "delivered");
    let arrivals = arrivals(&relay);
    assert_eq!(arrivals.len(), 11, "{arrivals:?}");
    assert!(arrivals.values().all(|times| *times == 1), "{arrivals:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_says_nothing_keeps_no_node_from_the_one_that_took_its_place() {
    let relay = FakeSmtp::start().await;
    let cluster = Cluster::over(Server::of_its_own(), "blackhole", &relay);
    let standby = cluster.server.standby();
    let proxy = Proxy::to(cluster.server.port());
    // No word of it: whoever of them can be written is it.
    let url = format!(
        "postgres://postgres@127.0.0.1:{},127.0.0.1:{}/postgres",
        proxy.port(),
        standby.port()
    );
    let node = cluster.node_at("only", 10, &url);
    let mut ids = node.hand_in_many("before", 3, "hello");
    node.become_all(&ids, "delivered");

    // The machine is gone: it refuses nothing, it is just not there.
    proxy.silence();
    cluster.server.stop();
    until_ready(&node, false);
    standby.promote();
    until_ready(&node, true);
    ids.extend(node.hand_in_many("after", 3, "hello"));
    node.become_all(&ids, "delivered");
    drop(node);

    // And nobody who comes later is kept from it either.
    let silent = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let url = format!(
        "postgres://postgres@127.0.0.1:{},127.0.0.1:{}/postgres?target_session_attrs=primary",
        silent.local_addr().unwrap().port(),
        standby.port()
    );
    let later = cluster.node_at("later", 10, &url);
    let ids = later.hand_in_many("later", 3, "hello");
    later.become_all(&ids, "delivered");
    assert!(arrivals(&relay).values().all(|times| *times == 1));
}

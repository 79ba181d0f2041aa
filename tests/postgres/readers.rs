//! A named reader of the journal is read on one node at a time, and moves when that one is gone.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use postrider::spool::postgres::PostgresSpool;
use postrider::spool::{Spool, SpoolError, SpoolOptions};
use postrider::{Dispatcher, Drain, Mail, Relay, seconds};

use super::common::FakeSmtp;
use super::common::eventually;
use super::common::postgres::Server;
use super::common::receiver::{ReceivedCall, Receiver, Response};
use super::common::service::Service;
use super::nodes::Cluster;

async fn open(server: &Server, schema: &str, lease: u64) -> Arc<dyn Spool> {
    let spool = PostgresSpool::new(server.url()).schema(schema);
    let spool = spool.lease(Duration::from_secs(lease));
    spool.open(SpoolOptions::default()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_lost_a_reader_to_another_node_advances_it_no_more() {
    let server = Server::of_its_own();
    let schema = format!("r{}-fence", std::process::id());
    let (first, second) = (
        open(&server, &schema, 30).await,
        open(&server, &schema, 30).await,
    );

    let (one, other) = (first.journal().unwrap(), second.journal().unwrap());
    one.reader("shop", 0).await.unwrap();
    assert_eq!(one.hold("shop").await, Ok(true));
    assert_eq!(other.hold("shop").await, Ok(false), "one at a time");
    assert!(one.holds("shop") && !other.holds("shop"));
    assert_eq!(
        other.advance("shop", 9, vec![]).await,
        Err(SpoolError::StaleLease)
    );

    assert_eq!(one.advance("shop", 3, vec![]).await, Ok(()));
    assert_eq!(one.reader("shop", 0).await, Ok(3));

    // Its session is over, and it does not know yet.
    server.sql(&format!(
        "DELETE FROM \"{schema}\".sessions WHERE id = (SELECT min(id) FROM \"{schema}\".sessions)"
    ));
    eventually("the other has it", async || {
        other.hold("shop").await == Ok(true)
    })
    .await;

    let kept = vec![(vec![1], Some(vec![1]))];
    assert_eq!(
        one.advance("shop", 7, kept).await,
        Err(SpoolError::StaleLease)
    );

    assert_eq!(other.advance("shop", 4, vec![]).await, Ok(()));
    assert_eq!(
        other.kept("shop", vec![], vec![9], 9).await,
        Ok(vec![]),
        "nothing of it is kept"
    );

    second.close().await.unwrap();
    eventually("it comes back", async || one.hold("shop").await == Ok(true)).await;
    assert_eq!(one.reader("shop", 0).await, Ok(4));
    first.close().await.unwrap();
}

async fn dispatcher(server: &Server, schema: &str, node: &str, relay: &FakeSmtp) -> Dispatcher {
    let spool = PostgresSpool::new(server.url()).schema(schema).node(node);
    Dispatcher::builder()
        .relay(Relay::smtp(&relay.url()).unwrap())
        .spool_postgres(spool.lease(Duration::from_secs(5)))
        .start()
        .await
        .unwrap()
}

async fn send(postrider: &Dispatcher) {
    let mail = Mail::builder()
        .from("shop@example.com")
        .to("ada@example.org")
        .subject("Your code")
        .text("123456");
    let receipt = postrider.submit(mail.build().unwrap()).await.unwrap();
    postrider.wait(receipt.id).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_waits_while_another_node_reads_and_goes_on_where_that_one_was_done() {
    let relay = FakeSmtp::start().await;
    let server = Server::of_its_own();
    let schema = format!("r{}-moves", std::process::id());
    let first = dispatcher(&server, &schema, "first", &relay).await;
    let second = dispatcher(&server, &schema, "second", &relay).await;
    let mut reader = first.journal().reader("shop", Some(0)).await.unwrap();

    send(&first).await;
    let page = reader.next().await.unwrap();
    reader.advance(page.last).await.unwrap();
    let done = page.last;

    let journal = second.journal();
    let taking_over = tokio::spawn(async move {
        loop {
            let mut reader = journal.reader("shop", Some(0)).await.unwrap();
            match reader.next().await {
                Ok(page) => return (reader.done(), page),
                Err(postrider::Error::Spool(SpoolError::StaleLease)) => {}
                Err(error) => panic!("{error}"),
            }
        }
    });

    send(&second).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(!taking_over.is_finished(), "it is read elsewhere");
    first.shutdown(Drain::within(seconds(5))).await.unwrap();
    drop(first);

    let taken = tokio::time::timeout(Duration::from_secs(20), taking_over).await;
    let (begun, page) = taken.expect("it moves").unwrap();
    assert!(begun >= done, "{begun} {done}");
    assert!(page.events.iter().all(|event| event.seq > done));
    second.shutdown(Drain::within(seconds(5))).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_series_count_each_mail_once_however_many_nodes_there_are() {
    let relay = FakeSmtp::start().await;
    let cluster = Cluster::over(Server::start(), "series", &relay);
    let nodes = [
        cluster.node("first", 5),
        cluster.node("second", 5),
        cluster.node("third", 5),
    ];

    let mut ids = Vec::new();
    for (n, node) in nodes.iter().enumerate() {
        ids.extend(node.hand_in_many(&format!("series{n}-"), 10, "hello"));
    }
    nodes[0].become_all(&ids, "delivered");

    for node in &nodes {
        eventually("every node tells the same", async || {
            let series = node.get("/v1/series").json();
            let points = series["points"].as_array().unwrap();
            let sum = |name: &str| {
                points
                    .iter()
                    .filter_map(|point| point[name].as_u64())
                    .sum::<u64>()
            };
            (sum("accepted"), sum("delivered")) == (30, 30)
        })
        .await;
    }

    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(
        cluster.sql("SELECT count(*) FROM readers WHERE owner <> 0"),
        "1"
    );
}

/// A webhook named shop, told of what was delivered.
fn shop(receiver: &Receiver) -> String {
    format!(
        "[[webhooks]]\nname = \"shop\"\nurl = \"{}\"\nsecret = \
         \"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\"\n\
         allow_private = true\nevents = [\"delivered\"]\n",
        receiver.url()
    )
}

/// The node that reads for it.
const HOLDER: &str =
    "SELECT s.node FROM readers r JOIN sessions s ON s.id = r.owner WHERE r.name LIKE '%shop'";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_is_called_by_one_node_and_by_another_when_that_one_is_gone() {
    let relay = FakeSmtp::start().await;
    let receiver = Receiver::start().await;
    let cluster = Cluster::over(Server::start(), "webhook", &relay);
    let more = shop(&receiver);

    let start =
        |name: &str| Service::start(cluster.configured(name, 2, cluster.server.url(), &more));
    let mut nodes = [start("first"), start("second")];
    let ids = nodes[0].hand_in_many("first", 10, "hello");
    nodes[1].become_all(&ids, "delivered");
    receiver.comes_to(10).await;
    std::thread::sleep(Duration::from_secs(2));

    assert_eq!(
        receiver.calls().len(),
        10,
        "each once, whoever delivered it"
    );

    let holder = cluster.sql(HOLDER);
    let (dies, lives) = match holder.as_str() {
        "first" => (0, 1),
        "second" => (1, 0),
        other => panic!("read by {other}"),
    };

    nodes[dies].kill();
    let ids = nodes[lives].hand_in_many("second", 10, "hello");
    nodes[lives].become_all(&ids, "delivered");
    receiver.comes_to(20).await;

    let mut told: Vec<String> = receiver
        .calls()
        .iter()
        .map(|call| {
            call.json()["data"]["recipient"]
                .as_str()
                .unwrap_or_default()
                .to_owned()
        })
        .collect();

    told.sort();
    told.dedup();
    assert_eq!(told.len(), 20, "{told:?}");
    assert_ne!(cluster.sql(HOLDER), holder, "another node reads now");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_to_a_webhook_are_sent_again_whichever_node_is_asked() {
    let relay = FakeSmtp::start().await;
    let receiver = Receiver::start().await;
    let cluster = Cluster::over(Server::start(), "redeliver", &relay);
    let more = shop(&receiver);
    let start =
        |name: &str| Service::start(cluster.configured(name, 2, cluster.server.url(), &more));
    let mut nodes = [start("first"), start("second")];

    let ids = nodes[0].hand_in_many("user", 3, "hello");
    nodes[1].become_all(&ids, "delivered");
    let first = receiver.comes_to(3).await;
    let holder = usize::from(cluster.sql(HOLDER) == "second");
    let other = 1 - holder;
    let again = |node: &Service, body: &str| {
        let answer = node.post("/v1/webhooks/shop/redeliver", body);
        assert_eq!(answer.status, 202, "{answer:?}");
        answer.json()
    };

    again(&nodes[other], r#"{"since": "1h"}"#);
    let calls = receiver.comes_to(6).await;
    let told = |calls: &[ReceivedCall]| -> BTreeSet<String> {
        calls.iter().map(|call| call.id().to_owned()).collect()
    };
    assert_eq!(told(&calls[3..]), told(&first), "the same, under their ids");

    let body = serde_json::json!({"id": first[1].id()}).to_string();
    again(&nodes[other], &body);
    assert_eq!(receiver.comes_to(7).await[6].id(), first[1].id());

    // Switched off, seen from either node, and switched on from the one that does not call it.
    receiver.answers(|_, _| Response::Status(410));
    let ids = nodes[other].hand_in_many("gone", 1, "hello");
    nodes[other].become_all(&ids, "delivered");
    let gone = receiver.comes_to(8).await[7].id().to_owned();
    for node in &nodes {
        eventually("every node says that it is off", async || {
            let shop = &node.get("/v1/webhooks").json()["webhooks"][0];
            shop["state"] == "off" && shop["waiting"] == 1
        })
        .await;
    }
    receiver.answers(|_, _| Response::Status(204));
    let on = again(&nodes[other], "");
    assert_eq!(on["state"], "active", "{on}");
    assert_eq!(receiver.comes_to(9).await[8].id(), gone);

    // What was ordered while nobody has it is obeyed by whoever gets it.
    nodes[holder].kill();
    again(&nodes[other], &body);
    assert_eq!(receiver.comes_to(10).await[9].id(), first[1].id());
    assert_eq!(
        cluster.sql("SELECT count(*) FROM kept WHERE key >= 'o' AND key < 'p'"),
        "0",
        "what was obeyed is not kept"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_at_one_node_hears_what_another_sent() {
    let relay = FakeSmtp::start().await;
    let server = Server::of_its_own();
    let schema = format!("r{}-wait", std::process::id());
    let first = dispatcher(&server, &schema, "first", &relay).await;
    let second = dispatcher(&server, &schema, "second", &relay).await;

    for n in 0..10 {
        let mail = Mail::builder()
            .from("shop@example.com")
            .to(format!("wait{n}@example.org"))
            .subject("Your code")
            .text("123456");
        let receipt = first.submit(mail.build().unwrap()).await.unwrap();
        let waited = tokio::time::timeout(Duration::from_secs(20), second.wait(receipt.id)).await;
        assert_eq!(
            waited.unwrap().unwrap().state.as_str(),
            "delivered",
            "mail {n}"
        );
    }
    first.shutdown(Drain::within(seconds(5))).await.unwrap();
    second.shutdown(Drain::within(seconds(5))).await.unwrap();
}

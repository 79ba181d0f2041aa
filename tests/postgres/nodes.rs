//! Several nodes over one database: what one of them does not survive, the others do.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, Instant};

use postrider::spool::postgres::PostgresSpool;
use postrider::spool::sled::VerifyReport;

use super::common::postgres::Server;
use super::common::service::{Service, configured};
use super::common::{Act, FakeSmtp, Rule, Step, eventually};

/// The database of a test, and its nodes.
pub struct Cluster {
    pub server: Server,
    pub schema: String,
    relay: String,
    dir: tempfile::TempDir,
}

impl Cluster {
    pub fn over(server: Server, name: &str, relay: &FakeSmtp) -> Self {
        Cluster {
            server,
            schema: format!("n{}-{name}", std::process::id()),
            relay: relay.url(),
            dir: tempfile::tempdir().unwrap(),
        }
    }

    /// Starts a node, with a lease of so many seconds.
    pub fn node(&self, name: &str, lease: u64) -> Service {
        self.node_at(name, lease, self.server.url())
    }

    /// The same, over another way to the database.
    pub fn node_at(&self, name: &str, lease: u64, url: &str) -> Service {
        Service::start(self.configured(name, lease, url, ""))
    }

    /// A node that is not started yet; `more` is added to its configuration.
    pub fn configured(&self, name: &str, lease: u64, url: &str, more: &str) -> Command {
        let dir = self.dir.path().join(name);
        std::fs::create_dir_all(&dir).unwrap();
        let config = format!(
            "[http]\nlisten = \"127.0.0.1:0\"\n[smtp]\nlisten = \"127.0.0.1:0\"\n\
             hostname = \"door.example\"\n\
             [[relays]]\nname = \"primary\"\nurl = \"{}\"\nconnections = 4\n\
             [spool]\nurl = \"{url}\"\nschema = \"{}\"\nnode = \"{name}\"\nlease = \"{lease}s\"\n\
             {more}",
            self.relay, self.schema
        );
        configured(&dir, &config)
    }

    /// Enqueues a mail in a transaction of its own, and waits until it has left the outbox.
    pub async fn enqueue(&self, mail: &str) -> String {
        let id = self.sql(&format!("SELECT enqueue('{mail}')"));
        eventually("it leaves the outbox", async || {
            self.sql("SELECT count(*) FROM outbox") == "0"
        })
        .await;
        id
    }

    /// Verifies the spool, while its nodes go on.
    pub async fn verify(&self) -> VerifyReport {
        let spool = PostgresSpool::new(self.server.url()).schema(&self.schema);
        spool.verify().await.unwrap()
    }

    pub fn sql(&self, sql: &str) -> String {
        let path = format!("SET search_path TO \"{}\"; {sql}", self.schema);
        self.server.sql(&path)
    }
}

pub fn signal(service: &Service, name: &str) {
    let sent = Command::new("kill")
        .args([&format!("-{name}"), &service.pid().to_string()])
        .status();
    assert!(sent.unwrap().success());
}

/// How often each recipient got its mail.
pub fn arrivals(relay: &FakeSmtp) -> BTreeMap<String, usize> {
    let mut arrivals = BTreeMap::new();
    for mail in relay.mails() {
        for recipient in mail.recipients.clone() {
            *arrivals.entry(recipient).or_default() += 1;
        }
    }
    arrivals
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_claim_leased_that_nobody_heard_of_is_given_back() {
    let relay = FakeSmtp::start().await;
    let cluster = Cluster::over(Server::of_its_own(), "unheard", &relay);
    let node = cluster.node("only", 30);
    assert_eq!(node.post("/v1/relays/primary/pause", "").status, 200);
    let ids = node.hand_in_many("unheard", 3, "hello");

    // The claim was committed, and the database was gone before anybody was told.
    cluster.sql("UPDATE ready SET owner = (SELECT id FROM sessions)");
    cluster.server.stop();
    eventually("it is noticed", async || !node.readiness().0).await;
    cluster.server.start_again();
    eventually("they are given back", async || {
        cluster.sql("SELECT count(*) FROM ready WHERE owner <> 0") == "0"
    })
    .await;
    assert_eq!(cluster.sql("SELECT count(*) FROM sessions"), "1");

    assert_eq!(node.post("/v1/relays/primary/resume", "").status, 200);
    node.become_all(&ids, "delivered");
    assert!(arrivals(&relay).values().all(|times| *times == 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_node_held_is_sent_by_another() {
    let relay = FakeSmtp::start().await;
    let cluster = Cluster::over(Server::start(), "killed", &relay);

    // The relay hesitates: the node holds what it has claimed.
    let hesitation = Duration::from_secs(5);
    relay.rule(
        Rule::at(Step::FinalDot)
            .act(Act::Delay(hesitation))
            .first(4),
    );

    let mut first = cluster.node("first", 2);
    let ids = first.hand_in_many("killed", 30, "hello");
    eventually("the node holds mail", async || {
        cluster.sql("SELECT count(*) > 0 FROM ready WHERE owner <> 0") == "t"
    })
    .await;
    first.kill();

    let second = cluster.node("second", 2);
    second.become_all(&ids, "delivered");
    let arrivals = arrivals(&relay);
    assert_eq!(arrivals.len(), 30, "nothing is lost: {arrivals:?}");
    assert_eq!(cluster.sql("SELECT count(*) FROM ready"), "0");
    assert_eq!(cluster.sql("SELECT count(*) FROM ended"), "30");

    assert_eq!(cluster.sql("SELECT count(*) FROM sessions"), "1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_stopped_for_longer_than_its_lease_settles_nothing_and_begins_nothing() {
    let relay = FakeSmtp::start().await;
    let cluster = Cluster::over(Server::start(), "stopped", &relay);
    relay.rule(
        Rule::at(Step::FinalDot)
            .act(Act::Delay(Duration::from_secs(2)))
            .first(8),
    );

    let first = cluster.node("first", 2);
    let second = cluster.node("second", 2);
    let ids = first.hand_in_many("stopped", 40, "hello");
    eventually("the node holds mail", async || {
        let of_first = "SELECT count(*) > 4 FROM ready r JOIN sessions s ON s.id = r.owner WHERE \
                        s.node = 'first'";
        cluster.sql(of_first) == "t" || relay.accepted() >= 40
    })
    .await;
    signal(&first, "STOP");
    second.become_all(&ids, "delivered");

    let ended = cluster.sql("SELECT md5(string_agg(e::text, ',' ORDER BY mail, idx)) FROM ended e");
    eventually("its lease is over", async || {
        cluster.sql("SELECT count(*) FROM sessions WHERE node = 'first'") == "0"
    })
    .await;
    signal(&first, "CONT");

    let begun = Instant::now();
    while cluster.sql("SELECT count(*) FROM sessions WHERE node = 'first'") != "1"
        || !first.readiness().0
    {
        assert!(begun.elapsed() < Duration::from_secs(30), "{}", first.log());
        std::thread::sleep(Duration::from_millis(100));
    }

    assert!(
        first.log().contains("others have taken over what it held"),
        "it was stopped for longer than its lease: {}",
        first.log()
    );

    let more = first.hand_in_many("afterwards", 3, "hello");
    first.become_all(&more, "delivered");
    let still = cluster.sql(&format!(
        "SELECT md5(string_agg(e::text, ',' ORDER BY mail, idx)) FROM ended e WHERE mail = \
         ANY('{{{}}}'::uuid[])",
        ids.join(",")
    ));

    assert_eq!(ended, still, "what it had is settled by nobody else");
    let arrivals = arrivals(&relay);
    let twice = arrivals.values().filter(|times| **times > 1).count();
    assert!(
        twice <= 8,
        "only what was being transmitted may come twice: {twice} of {arrivals:?}\n{}",
        first.log()
    );

    assert_eq!(arrivals.len(), 43, "nothing is lost");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_restarts_costs_nothing_and_everything_goes_on_by_itself() {
    let relay = FakeSmtp::start().await;
    let server = Server::of_its_own();
    let cluster = Cluster::over(server, "restart", &relay);
    let node = cluster.node("only", 4);
    let mut ids = node.hand_in_many("before", 5, "hello");
    node.become_all(&ids, "delivered");

    cluster.server.stop();
    let begun = Instant::now();
    while node.readiness().0 {
        assert!(begun.elapsed() < Duration::from_secs(20), "{}", node.log());
        std::thread::sleep(Duration::from_millis(50));
    }

    let (_, why) = node.readiness();
    assert!(
        why.contains("cannot be reached"),
        "readiness says why: {why}"
    );

    node.hand_in("meanwhile@example.org", "hello")
        .is_come_back_later();
    assert!(node.say("meanwhile@example.org").starts_with("452"));

    cluster.server.start_again();
    let begun = Instant::now();
    while !node.readiness().0 {
        assert!(begun.elapsed() < Duration::from_secs(20), "{}", node.log());
        std::thread::sleep(Duration::from_millis(50));
    }

    ids.extend(node.hand_in_many("after", 5, "hello"));
    node.become_all(&ids, "delivered");
    assert_eq!(arrivals(&relay).len(), 10);
    assert!(arrivals(&relay).values().all(|times| *times == 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mail_for_a_relay_that_only_a_dead_node_had_is_reported_and_goes_elsewhere_after_a_start() {
    let relay = FakeSmtp::start().await;
    let cluster = Cluster::over(Server::start(), "lonely", &relay);
    let mut left = cluster.node("left", 2);
    let more = format!("[[relays]]\nname = \"other\"\nurl = \"{}\"\n", relay.url());
    let mut gone = Service::start(cluster.configured("gone", 2, cluster.server.url(), &more));
    let ids = super::outage::later(&gone, "later", 3, 2);
    gone.kill();

    left.says("mail waits for a route that is not in this node's configuration");
    assert_eq!(relay.accepted(), 0, "another node may come that has it");
    left.stop();
    let again = cluster.node("again", 2);
    again.become_all(&ids, "delivered");
    assert!(arrivals(&relay).values().all(|times| *times == 1));
}

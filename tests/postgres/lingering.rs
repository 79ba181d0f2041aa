//! What a server still does for those who are gone: a statement that was under way on a connection
//! that is lost ends later than what comes after it.

use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::chaos::stale_settles;
use super::common::postgres::Server;
use super::common::proxy::Proxy;
use super::common::{Act, FakeSmtp, Rule, Step, eventually};
use super::nodes::{Cluster, arrivals, signal};
use super::outage::{through, until_ready};

/// Somebody who talks to the server in one session.
struct Talk(Child);

impl Talk {
    fn with(cluster: &Cluster) -> Self {
        let psql = Command::new("psql")
            .args(["-X", "-q", "-d", cluster.server.url()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn();
        let mut talk = Talk(psql.unwrap());
        talk.say(&format!("SET search_path TO \"{}\"", cluster.schema));
        talk
    }

    fn say(&mut self, sql: &str) {
        writeln!(self.0.stdin.as_mut().unwrap(), "{sql};").unwrap();
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// How many connections wait for a lock, or for a time, in a statement like this.
fn waiting(cluster: &Cluster, statement: &str) -> String {
    cluster.sql(&format!(
        "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%{statement}%'
           AND pid <> pg_backend_pid()
           AND wait_event IN ('transactionid', 'tuple', 'PgSleep')"
    ))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_marked_while_it_is_taken_over_is_in_doubt() {
    let relay = FakeSmtp::start().await;
    let cluster = Cluster::over(Server::of_its_own(), "marking", &relay);
    let hesitation = Act::Delay(Duration::from_secs(20));
    relay.rule(Rule::at(Step::FinalDot).act(hesitation).first(1));
    let first = cluster.node("first", 2);
    let ids = first.hand_in_many("marking", 1, "hello");
    eventually("the node holds it", async || {
        cluster.sql("SELECT count(*) FROM ready WHERE owner <> 0") == "1"
    })
    .await;
    let second = cluster.node("second", 2);

    // What it said last is still being done.
    let mut mark = Talk::with(&cluster);
    mark.say("BEGIN; UPDATE ready SET stage = 1 WHERE owner <> 0");
    eventually("it is under way", async || {
        let open = "SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction'";
        cluster.sql(open) == "1"
    })
    .await;
    signal(&first, "STOP");
    eventually("the takeover waits for it", async || {
        waiting(&cluster, "ready") == "1"
    })
    .await;
    mark.say("COMMIT");

    second.become_all(&ids, "dead");
    let record = second.get(&format!("/v1/mails/{}", ids[0])).json();
    assert_eq!(record["deliveries"][0]["reason"], "in_doubt", "{record}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outcome_that_is_recorded_on_a_connection_that_is_lost_is_known() {
    let relay = FakeSmtp::start().await;
    let cluster = Cluster::over(Server::of_its_own(), "recorded", &relay);
    let proxy = Proxy::to(cluster.server.port());
    let node = cluster.node_at("only", 30, &through(&proxy));
    let hesitation = Act::Delay(Duration::from_secs(1));
    relay.rule(Rule::at(Step::FinalDot).act(hesitation).first(1));
    let ids = node.hand_in_many("recorded", 1, "hello");

    // It waits for the row that every commit changes last, and is lost there.
    let mut other = Talk::with(&cluster);
    other.say("BEGIN; SELECT FROM head FOR UPDATE");
    let settle = "DELETE FROM ready r USING s";
    eventually("it is being recorded", async || {
        waiting(&cluster, settle) == "1"
    })
    .await;
    proxy.lose();
    eventually("it is recorded once more", async || {
        waiting(&cluster, settle) == "2"
    })
    .await;
    other.say("COMMIT");

    node.become_all(&ids, "delivered");
    until_ready(&node, true);
    assert_eq!(stale_settles(node.http), 0, "{}", node.log());
    assert_eq!(arrivals(&relay).len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_that_is_committed_on_a_connection_that_is_lost_is_given_back() {
    let relay = FakeSmtp::start().await;
    let cluster = Cluster::over(Server::of_its_own(), "claimed", &relay);
    let proxy = Proxy::to(cluster.server.port());
    let node = cluster.node_at("only", 30, &through(&proxy));

    // The first claim takes longer than it takes to be ready again.
    cluster.sql(
        "CREATE SEQUENCE claims;
         CREATE FUNCTION hesitate() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
           IF NEW.owner <> 0 AND OLD.owner = 0 AND nextval('claims') = 1 THEN
             PERFORM pg_sleep(14);
           END IF;
           RETURN NEW; END $$;
         CREATE TRIGGER hesitate BEFORE UPDATE ON ready FOR EACH ROW EXECUTE FUNCTION hesitate()",
    );
    let ids = node.hand_in_many("claimed", 1, "hello");
    let claim = "UPDATE ready r SET owner";
    eventually("it is being claimed", async || {
        waiting(&cluster, claim) == "1"
    })
    .await;
    proxy.lose();
    until_ready(&node, false);
    until_ready(&node, true);
    assert_eq!(waiting(&cluster, claim), "1", "it is still being claimed");

    node.become_all(&ids, "delivered");
    assert!(arrivals(&relay).values().all(|times| *times == 1));
}

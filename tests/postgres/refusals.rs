//! A server that is there and does not do what it is asked: no room, no right, or a mail that it
//! will not keep.

use std::time::{Duration, Instant};

use super::common::postgres::Server;
use super::common::service::Service;
use super::common::{Act, FakeSmtp, Rule, Step, eventually};
use super::nodes::{Cluster, arrivals};
use super::outage::{accepts_nothing, later, until_ready, until_reported};

/// Has each row that is written to a table fail with this code.
fn fails(cluster: &Cluster, table: &str, code: &str, message: &str) {
    cluster.sql(&format!(
        "CREATE OR REPLACE FUNCTION fails() RETURNS trigger LANGUAGE plpgsql AS
           'BEGIN RAISE EXCEPTION ''{message}'' USING ERRCODE = ''{code}''; END';
         CREATE TRIGGER fails BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION fails()"
    ));
}

/// It is not ready, each time that it is asked, and says why.
#[track_caller]
fn stays_down(node: &Service, why: &str) {
    for _ in 0..30 {
        let (is_ready, said) = node.readiness();
        assert!(!is_ready && said.contains(why), "{said}\n{}", node.log());
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_without_room_accepts_nothing_and_is_not_ready_until_it_has_some() {
    let relay = FakeSmtp::start().await;
    let cluster = Cluster::over(Server::of_its_own(), "noroom", &relay);
    let node = cluster.node("only", 30);
    let due = later(&node, "later", 3, 8);

    let why = "could not extend file: No space left on device";
    fails(&cluster, "mails", "53100", why);
    let begun = Instant::now();
    accepts_nothing(&node);
    let took = begun.elapsed();
    assert!(
        took < Duration::from_secs(3),
        "it is refused at once: {took:?}"
    );
    until_reported(&node, "No space left");
    stays_down(&node, "No space left");
    accepts_nothing(&node);

    cluster.sql("DROP TRIGGER fails ON mails");
    until_ready(&node, true);
    let ids = node.hand_in_many("after", 3, "hello");
    node.become_all(&ids, "delivered");
    node.become_all(&due, "delivered");
    assert_eq!(relay.accepted(), 6);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outcomes_for_which_there_is_no_room_stop_all_sending_and_are_kept_until_there_is() {
    let relay = FakeSmtp::start().await;
    let cluster = Cluster::over(Server::of_its_own(), "owed", &relay);
    let node = cluster.node("only", 30);
    let due = later(&node, "later", 20, 2);

    let why = "could not extend file: No space left on device";
    fails(&cluster, "ended", "53100", why);
    let ids = node.hand_in_many("owed", 1, "hello");
    until_reported(&node, "No space left");
    stays_down(&node, "No space left");
    accepts_nothing(&node);
    // What fell due meanwhile is not begun: what became of it could not be recorded.
    let begun = relay.accepted();
    assert!(begun <= 4, "{begun}: {}", node.log());

    cluster.sql("DROP TRIGGER fails ON ended");
    until_ready(&node, true);
    node.become_all(&ids, "delivered");
    node.become_all(&due, "delivered");
    let arrivals = arrivals(&relay);
    assert_eq!(arrivals.len(), 21);
    assert!(arrivals.values().all(|times| *times == 1), "{arrivals:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rights_that_are_taken_away_one_by_one_stop_what_needs_them_and_say_so() {
    let relay = FakeSmtp::start().await;
    let mut cluster = Cluster::over(Server::of_its_own(), "rights", &relay);
    cluster.server.sql("CREATE ROLE mailer LOGIN");
    cluster.server.sql("CREATE SCHEMA AUTHORIZATION mailer");
    cluster.schema = "mailer".into();
    let url = format!(
        "postgres://mailer@127.0.0.1:{}/postgres",
        cluster.server.port()
    );
    let node = cluster.node_at("only", 30, &url);
    let mut ids = node.hand_in_many("before", 2, "hello");
    node.become_all(&ids, "delivered");

    for right in [
        "INSERT ON mails",
        "UPDATE ON head",
        "INSERT ON journal",
        "UPDATE ON sessions",
    ] {
        cluster.sql(&format!("REVOKE {right} FROM mailer"));
        // The heart feels it by itself, the rest when somebody comes.
        if right != "UPDATE ON sessions" {
            accepts_nothing(&node);
        }
        until_reported(&node, "permission denied");
        stays_down(&node, "permission denied");
        cluster.sql(&format!("GRANT {right} TO mailer"));
        until_ready(&node, true);
    }

    // While it is being sent, the right to record it goes.
    let hesitation = Duration::from_secs(1);
    relay.rule(
        Rule::at(Step::FinalDot)
            .act(Act::Delay(hesitation))
            .first(1),
    );
    ids.extend(node.hand_in_many("during", 1, "hello"));
    eventually("it is being sent", async || {
        cluster.sql("SELECT count(*) FROM ready WHERE owner <> 0") == "1"
    })
    .await;
    cluster.sql("REVOKE DELETE ON ready FROM mailer");
    until_reported(&node, "permission denied");
    stays_down(&node, "permission denied");
    cluster.sql("GRANT DELETE ON ready TO mailer");
    until_ready(&node, true);

    ids.extend(node.hand_in_many("after", 3, "hello"));
    node.become_all(&ids, "delivered");
    assert!(arrivals(&relay).values().all(|times| *times == 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mail_that_the_database_will_not_keep_has_no_other_refused() {
    let relay = FakeSmtp::start().await;
    let cluster = Cluster::over(Server::of_its_own(), "picky", &relay);
    let node = cluster.node("only", 30);
    cluster.sql("ALTER TABLE mails ADD CHECK (recipients <> '{odd@example.org}')");

    let one = |to: &str| {
        let from = "shop@example.com";
        serde_json::json!({"from": from, "to": to, "subject": "s", "text": "t"})
    };
    let mails = ["a@example.org", "odd@example.org", "b@example.org"].map(one);
    let batch = serde_json::json!({"mails": mails});
    let answer = node.post("/v1/mails/batch", &batch.to_string());
    let stored = "SELECT count(*) FROM mails";
    assert_eq!(cluster.sql(stored), "2", "{answer:?}\n{}", node.log());
    eventually("they arrive", async || relay.accepted() == 2).await;
    assert!(
        node.readiness().0,
        "the others go on: {:?}",
        node.readiness()
    );
}

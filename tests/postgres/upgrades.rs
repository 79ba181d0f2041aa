//! The tables become those of a newer version while nodes run.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use postrider::spool::SpoolOptions;
use postrider::spool::postgres::PostgresSpool;

use super::common::FakeSmtp;
use super::common::postgres::Server;
use super::nodes::{Cluster, arrivals};

/// What a step of the next version may do: it adds to every table, and makes others.
const NEXT: &str = "
    DO $$ DECLARE of text; BEGIN
      PERFORM pg_advisory_xact_lock(hashtextextended('postrider ' || current_schema(), 0));
      SET LOCAL lock_timeout TO '2s';
      FOR of IN (SELECT table_name FROM information_schema.tables WHERE table_schema =
        current_schema()
          AND table_type = 'BASE TABLE' AND table_name <> 'migrations') LOOP
        EXECUTE format('ALTER TABLE %I ADD COLUMN later int NOT NULL DEFAULT 7', of);
      END LOOP;
      CREATE TABLE newer (one int);
      CREATE INDEX newer_ready ON ready (later);
      INSERT INTO migrations (step) SELECT max(step) + 1 FROM migrations;
    END $$";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_begin_together_make_the_tables_once() {
    let server = Server::start();
    let schema = format!("together-{}", uuid::Uuid::now_v7());
    let open = || {
        let spool = PostgresSpool::new(server.url()).schema(&schema);
        async move { spool.open(SpoolOptions::default()).await.map(drop) }
    };
    let opened = futures::future::join_all((0..6).map(|_| open())).await;
    assert!(opened.iter().all(Result::is_ok), "{opened:?}");

    let made = format!("SELECT count(*) > 1 AND count(*) = max(step) FROM \"{schema}\".migrations");
    assert_eq!(server.sql(&made), "t");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_goes_on_while_another_makes_the_tables_of_a_newer_version() {
    let relay = FakeSmtp::start().await;
    let cluster = Cluster::over(Server::start(), "newer", &relay);
    let old = cluster.node("old", 5);
    // From then on each mail asks who is not to get any.
    cluster
        .sql("INSERT INTO suppressions (address, reason, since) VALUES ('none@example.org', 0, 0)");
    std::thread::sleep(Duration::from_secs(2));
    let before = old.hand_in_many("before", 3, "hello");
    old.become_all(&before, "delivered");

    // All that a node has asked before is prepared there, and is asked again after the change.
    let exercise = |name: &str| {
        let mail = serde_json::json!({
            "from": "shop@example.com", "to": format!("{name}@example.org"), "subject": "Your code",
            "text": "hello",
            "delay": "1h", "idempotency_key": name,
        });
        let answer = old.post("/v1/mails", &mail.to_string());
        assert_eq!(answer.status, 202, "{answer:?}");
        let id = answer.json()["id"].as_str().unwrap().to_owned();
        for (method, path) in [
            ("GET", format!("/v1/mails/{id}")),
            ("GET", "/v1/mails?limit=5".into()),
            ("GET", "/v1/stats".into()),
            ("GET", "/v1/nodes".into()),
            ("GET", "/v1/audit".into()),
            ("GET", "/v1/suppressions".into()),
            ("POST", "/v1/relays/primary/pause".into()),
            ("POST", "/v1/relays/primary/resume".into()),
            ("POST", format!("/v1/mails/{id}/cancel")),
            ("POST", format!("/v1/mails/{id}/retry")),
        ] {
            let answer = super::common::service::call(old.http, method, &path, "");
            assert_eq!(answer.status, 200, "{method} {path}: {answer:?}");
        }
        id
    };
    let mut retried = vec![exercise("first")];

    let stop = AtomicBool::new(false);
    let sent = std::thread::scope(|scope| {
        let clients = scope.spawn(|| {
            let mut ids = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                ids.extend(old.hand_in_many(&format!("during{}-", ids.len()), 5, "hello"));
            }
            ids
        });
        std::thread::sleep(Duration::from_millis(500));
        let tried = (0..10).find(|_| {
            let made = cluster.server.try_sql(&format!(
                "SET search_path TO \"{}\"; {NEXT}",
                cluster.schema
            ));
            made.map_err(|error| println!("{error}")).is_ok()
        });
        assert!(tried.is_some(), "{}", old.log());
        std::thread::sleep(Duration::from_secs(1));
        stop.store(true, Ordering::Relaxed);
        clients.join().unwrap()
    });

    retried.push(exercise("second"));
    old.become_all(&sent, "delivered");
    old.become_all(&retried, "delivered");

    let mut new = cluster.node("new", 5);
    new.says("are of a newer version");
    let after = new.hand_in_many("after", 3, "hello");
    old.become_all(&after, "delivered");

    let arrivals: BTreeMap<String, usize> = arrivals(&relay);
    assert_eq!(
        arrivals.len(),
        before.len() + sent.len() + retried.len() + after.len()
    );
    assert!(arrivals.values().all(|times| *times == 1), "{arrivals:?}");
}

//! Mail that applications enqueue in transactions of their own.

use std::time::{Duration, Instant};

use super::common::postgres::Server;
use super::common::service::{Service, call};
use super::common::{FakeSmtp, eventually};
use super::nodes::Cluster;

const MAIL: &str = r#"{"from": "shop@example.com", "to": "ada@example.org", "subject": "Order",
    "text": "thanks"}"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mail_that_was_enqueued_exists_exactly_if_its_transaction_committed() {
    let relay = FakeSmtp::start().await;
    let cluster = Cluster::over(Server::start(), "outbox", &relay);
    let node = cluster.node("only", 5);

    cluster.sql(&format!("BEGIN; SELECT enqueue('{MAIL}'); ROLLBACK"));
    let id = cluster.enqueue(MAIL).await;
    node.become_all(std::slice::from_ref(&id), "delivered");
    assert_eq!(cluster.sql("SELECT count(*) FROM outbox"), "0");
    assert_eq!(relay.mails_arrive(1).await.len(), 1);
    assert_eq!(
        cluster.sql(&format!("SELECT status('{id}')->>'state'")),
        "delivered"
    );

    assert_eq!(
        cluster.sql(&format!(
            "SELECT status('{id}')->'deliveries'->0->>'recipient'"
        )),
        "ada@example.org"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_enqueued_is_queued_soon() {
    let relay = FakeSmtp::start().await;
    let cluster = Cluster::over(Server::start(), "outbox-soon", &relay);
    let node = cluster.node("only", 5);

    let mut took = Vec::new();
    for _ in 0..11 {
        cluster.sql(&format!("SELECT enqueue('{MAIL}')"));
        let begun = Instant::now();
        while cluster.sql("SELECT count(*) FROM outbox") != "0" {
            assert!(begun.elapsed() < Duration::from_secs(10), "{}", node.log());
        }
        took.push(begun.elapsed());
    }

    took.sort();
    println!("from the commit to the queue: {took:?}");
    assert!(took[5] < Duration::from_millis(250), "{took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_composed_is_dead_and_says_why() {
    let relay = FakeSmtp::start().await;
    let cluster = Cluster::over(Server::start(), "outbox-bad", &relay);
    let node = cluster.node("only", 5);

    let bad =
        r#"{"from": "shop@example.com", "to": "ada@example.org", "subject": "x", "txt": "thanks"}"#;
    let id = cluster.enqueue(bad).await;
    node.become_all(std::slice::from_ref(&id), "dead");

    let record = node.get(&format!("/v1/mails/{id}")).json();
    let delivery = &record["deliveries"][0];
    assert_eq!(delivery["reason"], "rejected", "{record}");
    assert!(
        record.to_string().contains("txt"),
        "the reason names the field: {record}"
    );

    let retried = node.post(&format!("/v1/mails/{id}/retry"), "");
    assert_eq!(retried.status, 409, "there is no message: {retried:?}");
    assert_eq!(relay.accepted(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_composed_is_dead_for_each_of_its_recipients() {
    let relay = FakeSmtp::start().await;
    let cluster = Cluster::over(Server::start(), "outbox-crowd", &relay);
    let node = cluster.node("only", 5);

    let to: Vec<String> = (0..50).map(|n| format!("r{n}@example.org")).collect();
    let bad =
        serde_json::json!({"from": "shop@example.com", "to": to, "subject": "x", "txt": "thanks"});
    let id = cluster.enqueue(&bad.to_string()).await;
    node.become_all(std::slice::from_ref(&id), "dead");

    let record = node.get(&format!("/v1/mails/{id}")).json();
    let deliveries = record["deliveries"].as_array().unwrap();
    assert_eq!(deliveries.len(), 50);
    assert!(deliveries.iter().all(|one| one["reason"] == "rejected"));

    assert_eq!(
        cluster.sql(&format!(
            "SELECT draft->>'txt' FROM mails WHERE id = '{id}'"
        )),
        "thanks"
    );
}

/// As after a commit whose answer was lost with the connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_node_took_without_knowing_is_taken_again_by_it() {
    let relay = FakeSmtp::start().await;
    let cluster = Cluster::over(Server::start(), "outbox-unheard", &relay);
    let node = cluster.node("only", 5);

    // One transaction: nobody sees the draft before it has its owner.
    let id = cluster.sql(&format!(
        "SELECT enqueue('{MAIL}'); UPDATE outbox SET owner = (SELECT id FROM sessions)"
    ));
    eventually("it leaves the outbox", async || {
        cluster.sql("SELECT count(*) FROM outbox") == "0"
    })
    .await;
    node.become_all(std::slice::from_ref(&id), "delivered");
    assert_eq!(relay.accepted(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_and_schedules_hold_as_over_http() {
    let relay = FakeSmtp::start().await;
    let cluster = Cluster::over(Server::start(), "outbox-keys", &relay);
    let node = cluster.node("only", 5);
    let keyed = MAIL.replace("{\"from", "{\"idempotency_key\": \"order-1\", \"from");
    let first = cluster.enqueue(&keyed).await;
    let second = cluster.enqueue(&keyed).await;

    node.become_all(std::slice::from_ref(&first), "delivered");
    assert_eq!(
        cluster.sql(&format!("SELECT status('{second}')->>'id'")),
        first,
        "the second is the first"
    );

    assert_eq!(cluster.sql("SELECT count(*) FROM aliases"), "1");
    let all = r#"{"all": true}"#;
    let deleted = call(node.http, "DELETE", "/v1/mails", all);
    assert_eq!(deleted.status, 202, "{deleted:?}");
    eventually("the other name is forgotten too", async || {
        cluster.sql("SELECT count(*) FROM aliases") == "0"
    })
    .await;

    let later = MAIL.replace("{\"from", "{\"delay\": \"1h\", \"from");
    let later = cluster.enqueue(&later).await;
    node.become_all(&[later], "scheduled");
    assert_eq!(relay.accepted(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_that_was_admitted_may_enqueue_and_nothing_else() {
    let relay = FakeSmtp::start().await;
    let cluster = Cluster::over(Server::start(), "outbox-role", &relay);
    let node = cluster.node("only", 5);

    let role = format!("app{}", std::process::id());
    cluster.sql(&format!("CREATE ROLE {role}; SELECT admit('{role}')"));
    let id = cluster.sql(&format!("SET ROLE {role}; SELECT enqueue('{MAIL}')"));
    eventually("it leaves the outbox", async || {
        cluster.sql("SELECT count(*) FROM outbox") == "0"
    })
    .await;
    node.become_all(&[id], "delivered");

    for forbidden in [
        "SELECT * FROM mails",
        "DELETE FROM ready",
        "INSERT INTO outbox (id, draft) VALUES (gen_random_uuid(), '{}')",
        "SELECT admit('postgres')",
        "SELECT bump(1, 1, '{0,0,0,0,0,0,0,0,0,0,0,0}', 0)",
        "SELECT count_accounts(1, '{1}', '{1}', '{1}', '{1}')",
        "COPY outbox TO STDOUT",
        "TRUNCATE outbox",
        "UPDATE sessions SET seen = to_timestamp(0)",
        "LOCK TABLE head IN ACCESS EXCLUSIVE MODE",
        "SELECT draft FROM outbox FOR UPDATE",
        "CREATE TABLE mine (one int)",
        "CREATE FUNCTION gen_random_uuid() RETURNS uuid LANGUAGE sql AS 'SELECT NULL::uuid'",
    ] {
        let tried = cluster.server.try_sql(&format!(
            "SET search_path TO \"{}\"; SET ROLE {role}; {forbidden}",
            cluster.schema
        ));
        assert!(
            tried.is_err_and(|e| e.contains("permission denied")),
            "{forbidden}"
        );
    }

    let revoked = format!("DROP OWNED BY {role}; DROP ROLE {role}");
    cluster.sql(&revoked);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drafts_of_every_shape_end_somewhere_and_hold_up_no_other() {
    let relay = FakeSmtp::start().await;
    let cluster = Cluster::over(Server::start(), "outbox-shapes", &relay);
    let mut node = Service::start(cluster.configured(
        "only",
        5,
        cluster.server.url(),
        "max_message_size = \"1MiB\"\n",
    ));

    let odd = [
        "'{}'".to_owned(),
        r#"'{"from": null, "to": null, "subject": null, "text": null}'"#.into(),
        r#"'{"from": "shop@example.com", "to": [[["ada@example.org"]]], "subject": "s",
            "text": "t"}'"#
            .into(),
        r#"'{"from": "shop@example.com", "to": {"a": 1}, "subject": ["s"], "text": 7}'"#.into(),
        r#"'{"from": "shop@example.com", "to": "ada@example.org", "subject": "s",
            "text": 1e400}'"#
            .into(),
        r#"'{"from": "shop@example.com", "to": "ada@example.org", "subject": "s",
            "text": "t", "delay": -1}'"#
            .into(),
        r#"'{"from": "shop@example.com", "to": "ada@example.org", "subject": "s",
            "text": "t", "idempotency_key": ""}'"#
            .into(),
        r#"'{"from": "shop@example.com\\r\\nRCPT TO:<x@example.org>", "to": "ada@example.org",
            "subject": "s", "text": "t"}'"#
            .into(),
        // Numbers that are far longer in text than where they are stored.
        "jsonb_build_object('from', 'shop@example.com', 'to', 'ada@example.org', 'subject', 's', \
         'text', 't', 'tags', (SELECT jsonb_agg('1e131071'::numeric) FROM generate_series(1, \
         9000)))"
            .into(),
        "jsonb_build_object('to', (SELECT jsonb_agg('1e-16383'::numeric) FROM generate_series(1, \
         70000)))"
            .into(),
        // As deep as PostgreSQL takes it, and as long.
        "jsonb_build_object('to', (repeat('[', 5000) || repeat(']', 5000))::jsonb)".into(),
        "jsonb_build_object('from', 'shop@example.com', 'to', 'ada@example.org', 'subject', 's', \
         'text', repeat('x', 60000000))"
            .into(),
        "jsonb_build_object('from', 'shop@example.com', 'to', (SELECT jsonb_agg(n || \
         '@example.org') FROM generate_series(1, 200000) n), 'subject', 's', 'text', 't')"
            .into(),
    ];
    // One whole hour's worth of them stands before the mail of others.
    let ids: Vec<String> = odd
        .iter()
        .map(|draft| cluster.sql(&format!("SELECT enqueue({draft})")))
        .collect();
    let good = cluster.sql(&format!("SELECT enqueue('{MAIL}')"));

    eventually("all leave the outbox", async || {
        cluster.sql("SELECT count(*) FROM outbox") == "0"
    })
    .await;
    node.become_all(&[good], "delivered");
    for (id, draft) in ids.iter().zip(&odd) {
        let draft: String = draft.chars().take(120).collect();
        assert_eq!(node.state(id), "dead", "{draft}");
        let record = node.get(&format!("/v1/mails/{id}")).json();
        let said = record["deliveries"][0]["attempts"][0]["text"].to_string();
        println!("{draft}: {said}");
        assert!(said.len() > 10, "{draft}: {record}");
    }
    assert!(node.readiness().0 && node.is_running());
    assert_eq!(relay.accepted(), 1);
    let peak = node.peak_memory() / 1024;
    assert!(peak < 600, "{peak} MB");

    for refused in ["NULL", "'[]'", "'7'", "'null'", "'\"text\"'"] {
        let tried = cluster.server.try_sql(&format!(
            "SET search_path TO \"{}\"; SELECT enqueue({refused}::jsonb)",
            cluster.schema
        ));
        assert!(
            tried.is_err_and(|e| e.contains("a mail is a JSON object")),
            "{refused}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nulls_are_as_over_http() {
    let relay = FakeSmtp::start().await;
    let cluster = Cluster::over(Server::start(), "outbox-null", &relay);
    let node = cluster.node("only", 5);
    let members = [
        "cc",
        "bcc",
        "html",
        "idempotency_key",
        "tags",
        "headers",
        "priority",
        "delay",
        "template",
        "reply_to",
        "expires_in",
        "attachments",
    ];
    for member in members {
        let mut mail: serde_json::Value = serde_json::from_str(MAIL).unwrap();
        mail[member] = serde_json::Value::Null;
        let over_http = node.post("/v1/mails", &mail.to_string());
        let id = cluster.enqueue(&mail.to_string()).await;
        let wanted = match over_http.status {
            202 => "delivered",
            _ => "dead",
        };
        println!("{member}: {}", over_http.status);
        node.become_all(&[id], wanted);
    }
}

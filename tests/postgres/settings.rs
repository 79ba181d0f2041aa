//! Databases and roles as somebody has set them up: odd settings, names, encodings, clocks and ways
//! to write where they are.

use std::path::Path;
use std::time::Duration;

use postrider::spool::SpoolOptions;
use postrider::spool::postgres::PostgresSpool;

use super::common::postgres::Server;
use super::common::real_servers::libfaketime;
use super::common::service::Service;
use super::common::{FakeSmtp, eventually};
use super::nodes::{Cluster, arrivals};
use super::outage::{later, until_ready, until_reported};

const MAIL: &str = r#"{"from": "shop@example.com", "to": "ada@example.org", "subject": "Order",
    "text": "thanks"}"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_set_for_the_role_or_the_database_changes_nothing() {
    let relay = FakeSmtp::start().await;
    let cluster = Cluster::over(Server::of_its_own(), "set", &relay);
    cluster.server.sql("CREATE ROLE odd LOGIN");
    cluster
        .server
        .sql("GRANT CREATE ON DATABASE postgres TO odd");
    for (what, value) in [
        ("statement_timeout", "150"),
        ("lock_timeout", "100"),
        ("idle_in_transaction_session_timeout", "100"),
        ("idle_session_timeout", "300"),
        ("default_transaction_isolation", "serializable"),
        ("default_transaction_deferrable", "on"),
        ("search_path", "nowhere, public"),
        ("client_encoding", "LATIN1"),
        ("TimeZone", "'Pacific/Chatham'"),
        ("DateStyle", "'German, DMY'"),
        ("IntervalStyle", "sql_standard"),
        ("bytea_output", "escape"),
        ("standard_conforming_strings", "off"),
        ("backslash_quote", "off"),
        ("extra_float_digits", "-15"),
        ("transform_null_equals", "on"),
        ("plan_cache_mode", "force_custom_plan"),
        ("enable_indexscan", "off"),
        ("work_mem", "64"),
        ("xmlbinary", "hex"),
        ("default_toast_compression", "pglz"),
        ("row_security", "off"),
        ("lc_messages", "'C'"),
    ] {
        let of = match what {
            "lc_messages" => "DATABASE postgres",
            _ => "ROLE odd",
        };
        cluster
            .server
            .sql(&format!("ALTER {of} SET {what} = {value}"));
    }

    let url = format!(
        "postgres://odd@127.0.0.1:{}/postgres",
        cluster.server.port()
    );
    let node = cluster.node_at("only", 5, &url);
    for round in 0..3 {
        let ids = node.hand_in_many(&format!("set{round}"), 20, "h\u{e9}llo \\ 'quoted'");
        node.become_all(&ids, "delivered");
        // All connections are idle.
        std::thread::sleep(Duration::from_secs(1));
        assert!(node.readiness().0, "{}", node.log());
    }
    let id = cluster.enqueue(MAIL).await;
    node.become_all(&[id], "delivered");
    assert_eq!(node.get("/v1/stats").status, 200);
    assert_eq!(
        node.get("/v1/nodes").json()["nodes"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    assert!(
        !node.log().contains("nothing is accepted"),
        "{}",
        node.log()
    );
    assert!(arrivals(&relay).values().all(|times| *times == 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schema_may_have_any_name() {
    let relay = FakeSmtp::start().await;
    let server = Server::of_its_own();
    let url = server.url().to_owned();
    server.sql("CREATE ROLE app");
    for name in [
        "Mail",
        "the mail",
        "mail's",
        "100%s",
        "a$$b",
        "{schema}",
        "sch\u{e9}ma.x",
        "select",
        "a'%I;--",
    ] {
        let mut cluster = Cluster::over(Server::named(url.clone()), "name", &relay);
        cluster.schema = name.into();
        let node = cluster.node("only", 5);
        let before = relay.accepted();
        let ids = node.hand_in_many("name", 2, "hello");
        node.become_all(&ids, "delivered");

        let stats = node.get("/v1/stats");
        assert_eq!(stats.status, 200, "{name}: {stats:?}");
        assert!(
            node.get("/metrics").body.contains("postrider_spool_bytes"),
            "{name}"
        );
        assert!(node.readiness().0, "{name}: {}", node.log());
        let id = cluster.sql(&format!(
            "SELECT admit('app'); SET ROLE app; SELECT enqueue('{MAIL}')"
        ));
        let id = id.lines().last().unwrap_or_default().to_owned();
        eventually("it arrives", async || relay.accepted() == before + 3).await;
        node.become_all(&[id], "delivered");
        assert!(
            !node.log().contains("nothing is accepted"),
            "{name}: {}",
            node.log()
        );
        drop(node);

        let spool = PostgresSpool::new(&url).schema(name);
        let verified = spool.verify().await.unwrap();
        assert!(verified.problems.is_empty(), "{name}: {verified:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_cannot_hold_every_text_is_refused_and_says_what_to_do() {
    let server = Server::of_its_own();
    for encoding in ["LATIN1", "SQL_ASCII"] {
        let name = encoding.to_lowercase();
        server.sql(&format!(
            "CREATE DATABASE {name} ENCODING '{encoding}' TEMPLATE template0 LC_COLLATE 'C' \
             LC_CTYPE 'C'"
        ));
        let url = format!("postgres://postgres@127.0.0.1:{}/{name}", server.port());
        let spool = PostgresSpool::new(url);
        let why = spool
            .open(SpoolOptions::default())
            .await
            .err()
            .unwrap()
            .to_string();
        assert!(
            why.contains(encoding) && why.contains("createdb -E UTF8"),
            "{why}"
        );
        let why = spool.probe().await.unwrap_err().to_string();
        assert!(
            why.contains(encoding) && why.contains("createdb -E UTF8"),
            "{why}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_url_may_be_written_in_every_way_that_libpq_knows() {
    let server = Server::of_its_own();
    server.sql("CREATE ROLE \"o'dd @user\" LOGIN PASSWORD 'p@ss/w:rd?#%'");
    server.sql("CREATE DATABASE \"the base/1\" OWNER \"o'dd @user\"");
    let port = server.port();
    let socket = server.data().parent().unwrap().display().to_string();
    let encoded = socket.replace('/', "%2F");
    let who = "o'dd%20%40user:p%40ss%2Fw%3Ard%3F%23%25";
    let base = "the%20base%2F1";
    for url in [
        format!("postgres://{who}@127.0.0.1:{port}/{base}"),
        format!("postgresql://{who}@localhost:{port}/{base}?sslmode=prefer&connect_timeout=3"),
        format!(
            "postgres://{who}@127.0.0.1:{port}/{base}?options=-c%20work_mem%3D2MB&keepalives=1"
        ),
        format!("postgres://{who}@{encoded}:{port}/{base}"),
        format!("postgres://{who}@{encoded}:{port}/{base}?sslmode=verify-full"),
        format!(
            "postgres:///{base}?host={encoded}&port={port}&user=o'dd%20%40user\
             &password=p%40ss%2Fw%3Ard%3F%23%25"
        ),
        format!("postgres://{who}@127.0.0.1:1,127.0.0.1:{port}/{base}"),
        format!(
            "postgres://{who}@127.0.0.1:{port},127.0.0.1:1/{base}?target_session_attrs=read-write"
        ),
        format!(
            "postgres://{who}@127.0.0.1:{port},{encoded}:{port}/{base}?target_session_attrs=primary"
        ),
        format!("postgres://{who}@db.example.com:{port}/{base}?hostaddr=127.0.0.1&sslmode=disable"),
    ] {
        let spool = PostgresSpool::new(&url).open(SpoolOptions::default()).await;
        let spool = spool.unwrap_or_else(|error| panic!("{url}: {error}"));
        spool.close().await.unwrap();
    }

    for (url, words) in [
        (
            format!("postgres://{who}@127.0.0.1:{port}/{base}?sslmode=maybe"),
            "sslmode",
        ),
        (
            format!("postgres://{who}@127.0.0.1:{port}/{base}?nonsense=1"),
            "nonsense",
        ),
        (
            format!("postgres://{who}@127.0.0.1,127.0.0.1,127.0.0.1:{port}/{base}?port=1,2"),
            "ports",
        ),
        (format!("postgres://{who}@127.0.0.1:port/{base}"), "port"),
    ] {
        let why = PostgresSpool::new(&url).check().unwrap_err();
        assert!(why.contains(words), "{url}: {why}");
        assert!(!why.contains("ss/w") && !why.contains("p%40ss"), "{why}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_is_an_hour_off_the_databases_is_reported_and_costs_no_node_its_lease() {
    let relay = FakeSmtp::start().await;
    let cluster = Cluster::over(Server::of_its_own(), "clock", &relay);
    let off = |name: &str, offset: &str| {
        let mut command = cluster.configured(name, 5, cluster.server.url(), "");
        command
            .env("LD_PRELOAD", libfaketime())
            .env("FAKETIME", offset)
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            .env("DONT_FAKE_MONOTONIC", "1");
        Service::start(command)
    };
    let (right, ahead, behind) = (
        cluster.node("right", 5),
        off("ahead", "+1h"),
        off("behind", "-1h"),
    );
    let warnings = |node: &Service| node.get("/health/ready").json()["warnings"].to_string();
    eventually("it is told", async || {
        warnings(&ahead).contains("ahead of the database's")
            && warnings(&behind).contains("behind the database's")
    })
    .await;
    assert_eq!(warnings(&right), "null");

    let sessions = cluster.sql("SELECT string_agg(id::text, ',' ORDER BY id) FROM sessions");
    let mut ids = Vec::new();
    for (n, node) in [&right, &ahead, &behind].into_iter().enumerate() {
        ids.extend(node.hand_in_many(&format!("clock{n}-"), 10, "hello"));
    }
    right.become_all(&ids, "delivered");
    std::thread::sleep(Duration::from_secs(6));
    let still = cluster.sql("SELECT string_agg(id::text, ',' ORDER BY id) FROM sessions");
    assert_eq!(still, sessions, "{}", right.log());
    assert!(arrivals(&relay).values().all(|times| *times == 1));
}

/// Sets a clock so far off the real one. It looks again with each question.
fn set(file: &Path, offset: &str) {
    // Never half written.
    let new = file.with_extension("new");
    std::fs::write(&new, format!("{offset}\n")).unwrap();
    std::fs::rename(&new, file).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_clock_is_set_days_ahead_or_back_does_nothing_by_it() {
    let relay = FakeSmtp::start().await;
    let cluster = Cluster::over(Server::start(), "far-clock", &relay);
    let dir = tempfile::tempdir().unwrap();
    let clock = dir.path().join("clock");
    set(&clock, "+0");
    let start = || {
        let mut command = cluster.configured("set", 5, cluster.server.url(), "");
        command
            .env("LD_PRELOAD", libfaketime())
            .env("FAKETIME_TIMESTAMP_FILE", &clock)
            .env("FAKETIME_NO_CACHE", "1")
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            .env("DONT_FAKE_MONOTONIC", "1");
        Service::start(command)
    };
    let (right, off) = (cluster.node("right", 5), start());
    let done = right.hand_in_many("before", 3, "hello");
    right.become_all(&done, "delivered");
    let due = later(&right, "later", 5, 3600);
    let kept = "SELECT (SELECT count(*) FROM mails), (SELECT count(*) FROM ready),
        (SELECT count(*) FROM ended)";
    let before = cluster.sql(kept);

    // Time enough each time to expire or delete something.
    set(&clock, "-864000");
    until_reported(&off, "behind the database's");
    off.hand_in("back@example.org", "hello")
        .is_come_back_later();
    std::thread::sleep(Duration::from_secs(3));
    set(&clock, "+0");
    until_ready(&off, true);
    assert_eq!(cluster.sql(kept), before, "{}", off.log());

    set(&clock, "+864000");
    until_reported(&off, "ahead of the database's");
    off.hand_in("ahead@example.org", "hello")
        .is_come_back_later();
    std::thread::sleep(Duration::from_secs(3));
    set(&clock, "+0");
    until_reported(&off, "start it again");
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(cluster.sql(kept), before, "{}", off.log());
    assert!(right.readiness().0, "{}", right.log());

    drop(off);
    let off = start();
    let ids = off.hand_in_many("after", 3, "hello");
    off.become_all(&ids, "delivered");
    right.become_all(&due, "scheduled");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_databases_clock_that_is_set_ends_no_session_of_a_node_that_lives_and_spares_no_dead_one()
{
    let relay = FakeSmtp::start().await;
    let dir = tempfile::tempdir().unwrap();
    let readable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(dir.path(), readable).unwrap();
    let clock = dir.path().join("clock");
    set(&clock, "+0");
    let server = Server::with(&[
        format!("LD_PRELOAD={}", libfaketime().display()),
        format!("FAKETIME_TIMESTAMP_FILE={}", clock.display()),
        "FAKETIME_NO_CACHE=1".into(),
        "FAKETIME_DONT_FAKE_MONOTONIC=1".into(),
        "DONT_FAKE_MONOTONIC=1".into(),
    ]);
    let cluster = Cluster::over(server, "set-clock", &relay);
    let mut nodes = [
        cluster.node("first", 5),
        cluster.node("second", 5),
        cluster.node("third", 5),
    ];
    let sessions = "SELECT string_agg(id::text, ',' ORDER BY id) FROM sessions";
    let before = cluster.sql(sessions);

    for (n, offset) in ["+3600", "-7200", "+60", "+0"].into_iter().enumerate() {
        let real = cluster.sql("SELECT extract(epoch FROM clock_timestamp())::bigint");
        set(&clock, offset);
        let ids = nodes[n % 3].hand_in_many(&format!("set{n}-"), 5, "hello");
        nodes[(n + 1) % 3].become_all(&ids, "delivered");
        std::thread::sleep(Duration::from_secs(3));
        assert_ne!(
            cluster.sql("SELECT extract(epoch FROM clock_timestamp())::bigint"),
            real
        );
        assert_eq!(
            cluster.sql(sessions),
            before,
            "{offset}: {}",
            nodes[0].log()
        );
    }

    // One that dies right before it is set back is gone all the same.
    nodes[2].kill();
    set(&clock, "-86400");
    eventually("it is taken over", async || {
        cluster.sql("SELECT count(*) FROM sessions") == "2"
    })
    .await;
    assert!(arrivals(&relay).values().all(|times| *times == 1));
}

//! How a database is reached: over TLS, with a password, as a role that is nobody special, and
//! through a pool.

use std::io::Write;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use postrider::spool::postgres::PostgresSpool;
use postrider::spool::{SpoolError, SpoolOptions};
use secrecy::SecretString;

use super::common::FakeSmtp;
use super::common::certificates::{Cert, Identity};
use super::common::postgres::{Server, as_nobody, give_away};
use super::common::service::Service;
use super::damage::{new_mail, put};
use super::nodes::Cluster;

/// Writes a file that the server may read, and nobody else.
fn write(path: &Path, text: &str) {
    let mut file = std::fs::File::create(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
    let only_owner = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(path, only_owner).unwrap();
    give_away(&[path]);
}

/// A server that shows this certificate.
fn showing(cert: Cert) -> (Server, tempfile::NamedTempFile) {
    let identity = Identity::new(cert);
    let server = Server::of_its_own();
    write(&server.data().join("server.crt"), &identity.cert_pem);
    write(&server.data().join("server.key"), &identity.key_pem);
    server.sql("ALTER SYSTEM SET ssl = on");
    server.sql("SELECT pg_reload_conf()");

    let deadline = Instant::now() + Duration::from_secs(10);
    while server.sql("SHOW ssl") != "on" {
        assert!(Instant::now() < deadline, "the server shows a certificate");
    }

    let mut authority = tempfile::NamedTempFile::new().unwrap();
    authority.write_all(identity.ca_pem.as_bytes()).unwrap();
    (server, authority)
}

async fn open(url: &str) -> Result<(), SpoolError> {
    let spool = PostgresSpool::new(url)
        .open(SpoolOptions::default())
        .await?;
    put(&*spool, new_mail("ada@example.org")).await;
    spool.close().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_is_checked_against_the_authority_that_is_named_and_the_name_of_the_host() {
    for (cert, host, works) in [
        (Cert::Good, "127.0.0.1", true),
        (Cert::Good, "localhost", true),
        (Cert::OtherName, "127.0.0.1", false),
        (Cert::Expired, "127.0.0.1", false),
        (Cert::Untrusted, "127.0.0.1", false),
    ] {
        let (server, authority) = showing(cert);
        let base = format!("postgres://postgres@{host}:{}/postgres", server.port());
        let named = format!(
            "{base}?sslmode=verify-full&sslrootcert={}",
            authority.path().display()
        );
        let opened = open(&named).await;
        assert_eq!(opened.is_ok(), works, "{cert:?} {host}: {opened:?}");
        if works {
            let unknown = open(&format!("{base}?sslmode=verify-full")).await;
            let why = unknown.unwrap_err().to_string();
            assert!(why.contains("certificate"), "{why}");
            let plain = server.sql(
                "SELECT count(*) FROM pg_stat_ssl WHERE NOT ssl AND pid <>
              pg_backend_pid()
                AND pid IN (SELECT pid FROM pg_stat_activity WHERE application_name LIKE
                  'postrider%')",
            );
            assert_eq!(plain, "0");
        } else {
            let why = opened.unwrap_err().to_string();
            assert!(why.contains("certificate"), "{cert:?}: {why}");
        }
    }
}

/// Has a server let in this role with its password only.
fn wants_a_password(server: &Server, role: &str) {
    let rules = server.data().join("pg_hba.conf");
    let before = std::fs::read_to_string(&rules).unwrap();
    write(
        &rules,
        &format!("host all {role} all scram-sha-256\n{before}"),
    );
    server.sql("SELECT pg_reload_conf()");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_with_a_password_and_no_special_right_is_enough() {
    let server = Server::of_its_own();
    server.sql("CREATE ROLE mailer LOGIN PASSWORD 'the secret'");
    server.sql("CREATE SCHEMA AUTHORIZATION mailer");
    server.sql("CREATE TABLE orders (id int)");

    wants_a_password(&server, "mailer");
    assert!(
        server
            .sql("SELECT rolpassword FROM pg_authid WHERE rolname = 'mailer'")
            .starts_with("SCRAM")
    );

    let url = format!("postgres://mailer@127.0.0.1:{}/postgres", server.port());
    let spool = |password: &str| {
        PostgresSpool::new(&url)
            .schema("mailer")
            .password(SecretString::from(password.to_owned()))
    };

    let refused = spool("wrong").open(SpoolOptions::default()).await;
    let why = refused.err().unwrap().to_string();
    assert!(why.contains("password") && !why.contains("wrong"), "{why}");
    let opened = spool("the secret")
        .open(SpoolOptions::default())
        .await
        .unwrap();

    put(&*opened, new_mail("ada@example.org")).await;
    opened.close().await.unwrap();

    let elsewhere = PostgresSpool::new(&url)
        .schema("somewhere")
        .password(SecretString::from("the secret".to_owned()));
    let why = elsewhere.open(SpoolOptions::default()).await.err().unwrap();
    assert!(why.to_string().contains("permission denied"), "{why}");

    // As a service, with the password in a file.
    let relay = FakeSmtp::start().await;
    let mut cluster = Cluster::over(server, "mailer", &relay);
    cluster.schema = "mailer".into();

    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("password");
    std::fs::write(&file, "the secret\n").unwrap();

    let more = format!("password_file = \"{}\"\n", file.display());
    let node = Service::start(cluster.configured("only", 5, &url, &more));
    let ids = node.hand_in_many("role", 3, "hello");
    node.become_all(&ids, "delivered");

    assert!(!node.log().contains("the secret"), "{}", node.log());
}

/// A pool of connections in front of a server.
struct Pool {
    port: u16,
    child: Child,
    _dir: tempfile::TempDir,
}

impl Drop for Pool {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn pool(server: &Server, mode: &str) -> Pool {
    let dir = tempfile::tempdir().unwrap();
    let port = std::net::TcpListener::bind(("127.0.0.1", 0))
        .and_then(|listener| listener.local_addr())
        .unwrap()
        .port();
    let config = dir.path().join("pgbouncer.ini");

    let users = dir.path().join("users.txt");
    write(&users, "\"postgres\" \"\"\n");
    write(
        &config,
        &format!(
            "[databases]\n* = host=127.0.0.1 port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
             listen_port = {port}\n\
             auth_type = any\nauth_file = {}\npool_mode = {mode}\nunix_socket_dir =\n\
             ignore_startup_parameters = extra_float_digits\n\
             [users]\n",
            server.port(),
            users.display()
        )
        .replace("* = host=127.0.0.1", "* = user=postgres host=127.0.0.1"),
    );

    give_away(&[dir.path()]);
    let child = as_nobody(Path::new("pgbouncer"))
        .arg(&config)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("pgbouncer runs; Debian's package is pgbouncer");

    let deadline = Instant::now() + Duration::from_secs(10);
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(Instant::now() < deadline, "the pool listens");
        std::thread::sleep(Duration::from_millis(20));
    }

    Pool {
        port,
        child,
        _dir: dir,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_of_sessions_works_and_one_of_transactions_is_refused_and_says_what_to_do() {
    let server = Server::of_its_own();
    let through = |pool: &Pool| format!("postgres://postgres@127.0.0.1:{}/postgres", pool.port);
    let of_transactions = pool(&server, "transaction");
    let why = open(&through(&of_transactions))
        .await
        .unwrap_err()
        .to_string();
    assert!(why.contains("pool_mode = session"), "{why}");

    // And it is noticed while others use it too, so that each gets another connection.
    let stop = AtomicBool::new(false);
    let opened = std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let _ = std::process::Command::new("psql")
                        .args(["-X", "-q", "-A", "-t", "-d", &through(&of_transactions)])
                        .args(["-c", "SELECT pg_sleep(0.02)", "-c", "SELECT 1"])
                        .output();
                }
            });
        }
        let opened: Vec<Result<(), SpoolError>> = tokio::task::block_in_place(|| {
            let open =
                || tokio::runtime::Handle::current().block_on(open(&through(&of_transactions)));
            (0..5).map(|_| open()).collect()
        });
        stop.store(true, Ordering::Relaxed);
        opened
    });
    for opened in opened {
        let why = opened.unwrap_err().to_string();
        assert!(why.contains("pool_mode = session"), "{why}");
    }

    let of_sessions = pool(&server, "session");
    let relay = FakeSmtp::start().await;

    let cluster = Cluster::over(server, "pool", &relay);
    let node = cluster.node_at("only", 5, &through(&of_sessions));
    let ids = node.hand_in_many("pool", 20, "hello");
    node.become_all(&ids, "delivered");

    assert_eq!(relay.accepted(), 20);
}

#[test]
fn a_check_says_what_keeps_a_database_from_being_used_and_the_way_out() {
    let server = Server::of_its_own();
    server.sql("CREATE ROLE mailer LOGIN PASSWORD 'the secret'");
    wants_a_password(&server, "mailer");
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("right"), "the secret\n").unwrap();
    std::fs::write(dir.path().join("wrong"), "not the one\n").unwrap();

    let check = |spool: &str, words: &[&str]| {
        let config = format!(
            "[[relays]]\nname = \"first\"\nurl = \"capture://\"\n[spool]\n{spool}\n\
             [http]\nlisten = \"off\"\n[smtp]\nlisten = \"off\"\n"
        );
        std::fs::write(dir.path().join("postrider.toml"), config).unwrap();
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_postrider"))
            .current_dir(dir.path())
            .env_remove("POSTRIDER_CONFIG")
            .args(["check", "--connect"])
            .args(words)
            .output()
            .unwrap();
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8(said).unwrap();
        assert!(!said.contains("not the one"), "{said}");
        assert!(!said.contains("the secret"), "{said}");
        (output.status.code().unwrap(), said)
    };

    let port = server.port();
    let url = format!("url = \"postgres://mailer@127.0.0.1:{port}/postgres\"");
    let wrong_file = format!("{url}\npassword_file = \"wrong\"");
    let right_file = format!("{url}\npassword_file = \"right\"");
    let wrong_key = format!("{url}\npassword = \"not the one\"");
    let in_url = format!("url = \"postgres://mailer:not%20the%20one@127.0.0.1:{port}/postgres\"");
    let nowhere = format!(
        "{}\npassword_file = \"right\"",
        url.replace("/postgres\"", "/nowhere\"")
    );
    let closed = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let closed = closed.local_addr().unwrap().port();
    let silent = format!("url = \"postgres://mailer@127.0.0.1:{closed}/postgres\"");

    for (spool, code, key, way_out) in [
        (
            &wrong_file,
            2,
            "spool.password_file",
            "password authentication failed",
        ),
        (
            &wrong_key,
            2,
            "spool.password",
            "password authentication failed",
        ),
        (&in_url, 2, "spool.url", "password authentication failed"),
        (&url, 2, "spool.url", "set `spool.password_file`"),
        (&nowhere, 2, "spool.url", "createdb"),
        (&silent, 75, "spool.url", "start the server"),
        (&right_file, 2, "spool.schema", "CREATE SCHEMA"),
    ] {
        let (exit, said) = check(spool, &[]);
        assert_eq!(exit, code, "{spool}: {said}");
        let named = format!("postrider.toml: {key}: ");
        assert!(said.contains(&named), "{spool}: {said}");
        assert!(said.contains(way_out), "{spool}: {said}");
        assert!(!said.contains("no mistakes"), "{spool}: {said}");

        let (exit, said) = check(spool, &["--json"]);
        assert_eq!(exit, code, "{spool}: {said}");
        let found: serde_json::Value = serde_json::from_str(&said).unwrap();
        assert_eq!(found["ok"], false, "{found}");
        assert_eq!(found["mistakes"][0]["key"], key, "{found}");
    }

    server.sql("CREATE SCHEMA postrider AUTHORIZATION mailer");
    let (exit, said) = check(&right_file, &[]);
    assert_eq!(exit, 0, "{said}");
    assert!(said.contains("no mistakes found"), "{said}");
    let (exit, said) = check(&format!("{right_file}\nmigrate = \"check\""), &[]);
    assert_eq!(exit, 2, "{said}");
    assert!(said.contains("postrider spool migrate"), "{said}");
    let tables = "SELECT count(*) FROM pg_tables WHERE schemaname = 'postrider'";
    assert_eq!(server.sql(tables), "0", "a check makes none");
}

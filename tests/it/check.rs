//! `postrider check` and `postrider run` judge a configuration alike: what the one refuses, the
//! other refuses with the same words, and what passes is run.
#![cfg(all(feature = "server", target_os = "linux"))]

use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::common::{Cert, FakeSmtp};

const WAIT_LIMIT: Duration = Duration::from_secs(30);
const RELAY: &str = "[[relays]]\nname = \"first\"\nurl = \"capture://\"\n";

/// A directory with a configuration, a certificate with its key and the key of another, and an
/// empty file.
struct ConfigDir(tempfile::TempDir);

impl ConfigDir {
    fn new(config: &str) -> Self {
        let dir = ConfigDir(tempfile::tempdir().unwrap());
        for name in ["", "other-"] {
            let pair = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
            dir.write(&format!("{name}cert.pem"), &pair.cert.pem());
            dir.write(&format!("{name}key.pem"), &pair.signing_key.serialize_pem());
        }
        dir.write("file", "");
        dir.write("postrider.toml", config);
        dir
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.0.path().join(name), text).unwrap();
    }

    fn command(&self, words: &[&str], environment: &[(&str, &str)]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_postrider"));
        command
            .current_dir(self.0.path())
            .args(words)
            .env_remove("POSTRIDER_CONFIG")
            .env_remove("RUST_LOG")
            .envs(environment.iter().copied())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .stdin(Stdio::null());
        command
    }

    /// How a command ends: its exit code, and what it says on both streams.
    fn ends(&self, words: &[&str], environment: &[(&str, &str)]) -> (i32, String, String) {
        let mut child = self.command(words, environment).spawn().unwrap();
        let (out, err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let reader = |mut stream: Box<dyn Read + Send>| {
            std::thread::spawn(move || {
                let mut text = String::new();
                stream.read_to_string(&mut text).unwrap();
                text
            })
        };
        let (out, err) = (reader(Box::new(out)), reader(Box::new(err)));
        let code = code(&mut child, &format!("{words:?}"));
        (code, out.join().unwrap(), err.join().unwrap())
    }

    /// Whether `run` opens for business; it is stopped then. Else how it ended.
    fn runs(&self, environment: &[(&str, &str)]) -> Result<(), (i32, String)> {
        let socket = self.0.path().join("notify");
        let _ = std::fs::remove_file(&socket);
        let notices = std::os::unix::net::UnixDatagram::bind(&socket).unwrap();
        notices
            .set_read_timeout(Some(Duration::from_millis(50)))
            .unwrap();

        let mut command = self.command(&["run"], environment);
        let mut child = command.env("NOTIFY_SOCKET", &socket).spawn().unwrap();
        let begun = Instant::now();
        loop {
            let mut notice = [0; 1024];
            if let Ok(length) = notices.recv(&mut notice)
                && notice[..length].starts_with(b"READY=1")
            {
                child.kill().unwrap();
                child.wait().unwrap();
                return Ok(());
            }
            if let Some(status) = child.try_wait().unwrap() {
                let mut told = String::new();
                child.stderr.unwrap().read_to_string(&mut told).unwrap();
                return Err((status.code().unwrap(), told));
            }
            assert!(begun.elapsed() < WAIT_LIMIT, "it neither runs nor ends");
        }
    }
}

fn code(child: &mut Child, what: &str) -> i32 {
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code().unwrap();
        }
        if begun.elapsed() > WAIT_LIMIT {
            child.kill().unwrap();
            panic!("{what} does not end");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn both_refuse(config: &str, environment: &[(&str, &str)], key: &str, reason: &str) {
    let dir = ConfigDir::new(config);
    let (code, out, err) = dir.ends(&["check"], environment);
    assert_eq!(code, 2, "check takes this:\n{config}\n{out}{err}");
    let line = err
        .lines()
        .find(|line| line.contains(&format!(": {key}: ")) && line.contains(reason));
    let line = line.unwrap_or_else(|| panic!("{key} and {reason:?} are not told:\n{err}"));

    let (code, told) = dir
        .runs(environment)
        .expect_err(&format!("run takes what check refuses:\n{config}"));
    assert_eq!(code, 2, "{told}");
    assert!(told.contains(line), "run says\n{told}and check\n{err}");

    let (code, out, _) = dir.ends(&["check", "--json"], environment);
    let found: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &found["ok"]), (2, &Value::Bool(false)), "{out}");

    let mistakes = found["mistakes"].as_array().unwrap();
    let named = mistakes.iter().find(|mistake| {
        mistake["key"] == *key && mistake["reason"].as_str().unwrap().contains(reason)
    });
    let file = named.unwrap_or_else(|| panic!("{out}"))["file"]
        .as_str()
        .unwrap();
    assert!(line.starts_with(file), "{file} is not in {line}");
}

fn both_take(config: &str, environment: &[(&str, &str)]) {
    let dir = ConfigDir::new(config);
    let (code, out, err) = dir.ends(&["check"], environment);
    assert_eq!((code, err.as_str()), (0, ""), "{config}\n{out}{err}");
    let (code, out, _) = dir.ends(&["check", "--json"], environment);
    let found: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &found["ok"]), (0, &Value::Bool(true)), "{out}");
    if let Err((code, told)) = dir.runs(environment) {
        panic!("run refuses what check takes ({code}):\n{config}\n{told}");
    }
}

/// A configuration whose doors are off unless `text` opens them.
fn doors(http: &str, smtp: &str) -> String {
    let listen = |text: &str| match text.contains("listen") {
        true => String::new(),
        false => "listen = \"off\"\n".to_owned(),
    };
    format!(
        "[http]\n{}{http}\n[smtp]\n{}{smtp}\n{RELAY}",
        listen(http),
        listen(smtp)
    )
}

#[test]
fn what_check_refuses_run_refuses_with_the_same_words() {
    let long = "x".repeat(256);
    let user = |name: &str| format!("users = [{{ name = \"{name}\", password = \"p\" }}]");
    let tls = |cert: &str, key: &str| format!("tls = {{ cert = \"{cert}\", key = \"{key}\" }}");
    let closed = doors("", "");
    let spool = |path: &str| format!("[spool]\npath = \"{path}\"\n{closed}");
    let route = |rule: &str| format!("{closed}[[routes]]\n{rule}\n");

    let relay = |url: &str| format!("{closed}[[relays]]\nname = \"far\"\nurl = \"{url}\"\n");
    let cases: Vec<(String, &str, &str)> = vec![
        // The doors.
        (doors("", &user(&long)), "smtp.users[0].name", "255 bytes"),
        (doors("", &user("a\\u0000b")), "smtp.users[0].name", "NUL"),
        (doors("", &user("")), "smtp.users[0].name", "is missing"),
        (
            doors("", &tls("cert.pem", "other-key.pem")),
            "smtp.tls.key",
            "is not the key of the certificate",
        ),
        (
            doors(&tls("cert.pem", "other-key.pem"), ""),
            "http.tls.key",
            "is not the key of the certificate",
        ),
        (
            doors(&tls("nowhere.pem", "key.pem"), ""),
            "http.tls.cert",
            "cannot read nowhere.pem: No such file",
        ),
        (
            doors("tls = { cert = \"cert.pem\" }", ""),
            "http.tls.key",
            "is missing",
        ),
        (
            doors(
                "tokens = [{ name = \"a\", token = \"same\" }, { name = \"b\", token = \"same\" }]",
                "",
            ),
            "http.tokens[1]",
            "has the secret of tokens[0]",
        ),
        (
            doors("max_connections = 9000000000000000000", ""),
            "http.max_connections",
            "no machine has room for",
        ),
        (
            doors("", "max_connections = 9000000000000000000"),
            "smtp.max_connections",
            "no machine has room for",
        ),
        (
            doors("trusted_networks = [\"10.0.0.1/8\"]", ""),
            "http.trusted_networks[0]",
            "expected a network such as",
        ),
        (
            doors(
                "listen = \"127.0.0.1:18925\"",
                "listen = \"127.0.0.1:18925\"",
            ),
            "smtp.listen",
            "give each door a port of its own",
        ),
        (
            doors(
                "listen = \"127.0.0.1:18925\"",
                "listen = \"[::ffff:127.0.0.1]:18925\"",
            ),
            "smtp.listen",
            "give each door a port of its own",
        ),
        (
            doors(
                "",
                &format!(
                    "listen = \"127.0.0.1:18925\"\ntls_listen = \"127.0.0.1:18925\"\n{}",
                    tls("cert.pem", "key.pem")
                ),
            ),
            "smtp.tls_listen",
            "give each door a port of its own",
        ),
        // 192.0.2.0/24 is for documentation: no machine has it.
        (
            doors(
                "listen = \"192.0.2.1:0\"\ntokens = [{ name = \"a\", token = \"t\" }]",
                "",
            ),
            "http.listen",
            "cannot listen on 192.0.2.1:0",
        ),
        // The spool.
        (spool("file"), "spool.path", "file is not a directory"),
        (spool("file/below"), "spool.path", "cannot make file/below"),
        (
            spool("/proc/postrider"),
            "spool.path",
            "cannot make /proc/postrider",
        ),
        (spool(""), "spool.path", "is empty"),
        (
            format!("[service]\ndrain_timeout = \"500000000y\"\n{closed}"),
            "service.drain_timeout",
            "at most 100 years",
        ),
        // Routes.
        (
            route("match = { recipient_domain = [\"exa mple.org\"] }\nrelays = [\"first\"]"),
            "routes[0].match.recipient_domain[0]",
            "is not a domain",
        ),
        (
            route(
                "match = { sender_domain = [\"example.org\", \"user@example.org\"] }\n\
                 relays = [\"first\"]",
            ),
            "routes[0].match.sender_domain[1]",
            "is not a domain",
        ),
        (
            route("match = { recipient_domain = [\"*\"] }\nrelays = [\"first\"]"),
            "routes[0].match.recipient_domain[0]",
            "is not a domain",
        ),
        (
            route("match = { recipient_domain = [\"https://example.org\"] }\nrelays = [\"first\"]"),
            "routes[0].match.recipient_domain[0]",
            "is not a domain",
        ),
        (
            route("match = { tag = [\"\"] }\nrelays = [\"first\"]"),
            "routes[0].match.tag[0]",
            "is empty",
        ),
        (
            route("match = { tag = [\"a\"] }\nrelays = [\"first\", \"first\"]"),
            "routes[0].relays[1]",
            "is there twice",
        ),
        (
            route(
                "match = { tag = [\"a\"] }\nrelays = [\"first\"]\n[[routes]]\n\
                 match = { tag = [\"a\"] }\nrelays = [\"first\"]",
            ),
            "routes[1].match",
            "is never reached",
        ),
        // Relays.
        (
            relay("smtp://user:secret@mail.example.com"),
            "relays[1].url",
            "in the clear",
        ),
        (
            relay("smtp://user:secret@8.8.8.8:25"),
            "relays[1].url",
            "in the clear",
        ),
    ];

    for (config, key, reason) in cases {
        both_refuse(&config, &[], key, reason);
    }
    both_refuse(&closed, &[("RUST_LOG", "a=b=c")], "log.level", "directives");

    both_refuse(
        &closed,
        &[("POSTRIDER_SPOOL__PATH", "file/x")],
        "spool.path",
        "cannot make file/x",
    );
}

#[test]
fn what_check_takes_run_takes() {
    let tls = "tls = { cert = \"cert.pem\", key = \"key.pem\" }";
    let cases = [
        doors(
            "listen = \"[::ffff:127.0.0.1]:0\"",
            "listen = \"[::ffff:127.0.0.1]:0\"",
        ),
        doors(
            &format!("listen = \"127.0.0.1:0\"\n{tls}"),
            &format!("listen = \"127.0.0.1:0\"\ntls_listen = \"127.0.0.1:0\"\n{tls}"),
        ),
        doors(
            "listen = \"0.0.0.0:0\"\ntrusted_networks = [\"10.0.0.0/8\", \"fd00::/8\", \
             \"127.0.0.1\"]",
            "listen = \"0.0.0.0:0\"\ntrusted_networks = [\"172.16.0.0/12\"]",
        ),
        doors(
            "listen = \"0.0.0.0:0\"\ntokens = [{ name = \"a\", token = \"t\" }]",
            &format!(
                "listen = \"0.0.0.0:0\"\nusers = [{{ name = \"{}\", password = \"p\" }}]\n{tls}",
                "x".repeat(255)
            ),
        ),
        format!(
            "{}[[routes]]\nmatch = {{ recipient_domain = [\"*.example.org\", \"müller.example\", \
             \"[192.0.2.1]\"] }}\nrelays = [\"first\"]\n[[routes]]\nrelays = [\"first\"]\n",
            doors("", "")
        ),
        format!(
            "{}[[relays]]\nname = \"near\"\nurl = \"smtp://user:p@127.0.0.1\"\n[[relays]]\n\
             name = \"box\"\nurl = \"smtp://user:p@mailhog:1025\"\n[[relays]]\nname = \"told\"\n\
             url = \"smtp://user:p@mail.example.com\"\nallow_plaintext_password = true\n",
            doors("", "")
        ),
        format!("[spool]\npath = \"a/b/c\"\n{}", doors("", "")),
    ];

    for config in cases {
        both_take(&config, &[]);
    }
    both_take(&doors("", ""), &[("RUST_LOG", "postrider")]);
    both_take(&doors("", ""), &[("RUST_LOG", "")]);
}

#[test]
fn a_port_that_somebody_has_is_reported_with_file_and_key_and_may_be_free_later() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = taken.local_addr().unwrap();
    for (key, config) in [
        ("http.listen", doors(&format!("listen = \"{listen}\""), "")),
        ("smtp.listen", doors("", &format!("listen = \"{listen}\""))),
    ] {
        let dir = ConfigDir::new(&config);
        assert_eq!(dir.ends(&["check"], &[]).0, 0);
        let (code, told) = dir.runs(&[]).unwrap_err();
        assert_eq!(code, 1, "{told}");
        assert!(
            told.contains(&format!("postrider.toml: {key}: cannot listen on")),
            "{told}"
        );
        assert!(!told.contains("everything in flight"), "{told}");
    }
}

#[test]
fn check_in_json_shows_how_each_relay_answered() {
    let unused = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let gone = unused.local_addr().unwrap();
    drop(unused);
    let config = format!(
        "{}[[relays]]\nname = \"gone\"\nurl = \"smtp://{gone}\"\n",
        doors("", "")
    );

    let dir = ConfigDir::new(&config);
    let (code, out, err) = dir.ends(&["check", "--connect", "--json"], &[]);
    assert_eq!((code, err.as_str()), (75, ""), "{out}");

    let found: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(found["ok"], false);
    assert_eq!(found["relays"][0]["ok"], true, "{out}");
    assert_eq!(found["relays"][1]["name"], "gone", "{out}");
    assert_eq!(found["relays"][1]["phase"], "connect", "{out}");
}

#[test]
fn check_leaves_nothing_behind() {
    let dir = ConfigDir::new(&format!("[spool]\npath = \"a/b\"\n{}", doors("", "")));
    let names = |dir: &Path| {
        let mut names: Vec<_> = std::fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        names.sort();
        names
    };
    let before = names(dir.0.path());
    assert_eq!(dir.ends(&["check"], &[]).0, 0);
    assert_eq!(names(dir.0.path()), before);
}

/// Each way in which the TLS of a relay and what is configured do not fit is told with what to do.
#[tokio::test(flavor = "multi_thread")]
async fn check_says_what_to_do_where_tls_and_a_relay_do_not_fit() {
    let plain = FakeSmtp::start().await;
    let implicit = FakeSmtp::builder().implicit_tls(Cert::Good).start().await;
    let offered = FakeSmtp::builder().starttls(Cert::Good).start().await;
    let shown = |cert| FakeSmtp::builder().implicit_tls(cert).start();
    let other_name = shown(Cert::OtherName).await;
    let signs_itself = shown(Cert::SelfSigned).await;
    let authority = shown(Cert::SelfSignedAuthority).await;
    let expired = shown(Cert::Expired).await;

    // The relay, its scheme, whether its authority is trusted, where it fails, and what is said.
    let cases: [(&FakeSmtp, &str, bool, &str, &[&str]); 10] = [
        (
            &plain,
            "smtp+starttls",
            false,
            "tls",
            &["does not offer STARTTLS", "use smtps://"],
        ),
        (
            &plain,
            "smtps",
            false,
            "tls",
            &["does not speak TLS there", "smtp+starttls://"],
        ),
        (
            &implicit,
            "smtp",
            false,
            "greeting",
            &["the server was silent", "use smtps://"],
        ),
        (
            &implicit,
            "smtp+starttls",
            false,
            "greeting",
            &["the server was silent", "use smtps://"],
        ),
        (
            &other_name,
            "smtps",
            true,
            "tls",
            &["other.example", "use the name in the url"],
        ),
        (
            &signs_itself,
            "smtps",
            false,
            "tls",
            &["name that certificate's PEM file as ca_file"],
        ),
        (
            &authority,
            "smtps",
            false,
            "tls",
            &["signs itself: name its PEM file as ca_file"],
        ),
        (
            &expired,
            "smtps",
            true,
            "tls",
            &["expired", "has to renew it"],
        ),
        (&offered, "smtp+starttls", true, "", &["ready"]),
        (&plain, "smtp", false, "", &["ready, without TLS"]),
    ];

    let mut config = "[http]\nlisten = \"off\"\n[smtp]\nlisten = \"off\"\n".to_owned();
    for (n, (server, scheme, is_trusted, ..)) in cases.iter().enumerate() {
        let url = server.url_with(scheme, "");
        config.push_str(&format!(
            "[[relays]]\nname = \"relay-{n}\"\nurl = \"{url}\"\n"
        ));
        if *is_trusted {
            let ca = server.ca_file();
            config.push_str(&format!("ca_file = \"{}\"\n", ca.display()));
        }
        config.push_str("[relays.timeouts]\ngreeting = \"1s\"\n");
    }
    let dir = ConfigDir::new(&config);

    let (code, out, err) = dir.ends(&["check", "--connect", "--json"], &[]);
    assert_eq!(code, 1, "{out}{err}");
    let found: Value = serde_json::from_str(&out).unwrap();
    for (n, (_, scheme, _, phase, told)) in cases.iter().enumerate() {
        let relay = &found["relays"][n];
        assert_eq!(
            relay["phase"].as_str().unwrap_or_default(),
            *phase,
            "{relay}"
        );
        let is_secure = phase.is_empty() && *scheme != "smtp";
        assert_eq!(relay["tls"]["version"].is_string(), is_secure, "{relay}");
        let reason = relay["reason"].as_str().unwrap_or_default();
        if !phase.is_empty() {
            assert!(
                told.iter().all(|word| reason.contains(word)),
                "{n}: {reason}"
            );
        }
    }

    let (_, out, _) = dir.ends(&["check", "--connect"], &[]);
    assert!(out.contains("ready, without TLS"), "{out}");
}

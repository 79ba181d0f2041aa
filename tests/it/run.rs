//! The service as a process: ready, reloaded, stopped, and refused, as those who run it see it.
#![cfg(all(feature = "server", target_os = "linux"))]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use crate::common::{Act, FakeSmtp, Rule, Step};
use postrider::transport::Capture;
use postrider::{Dispatcher, Drain, Mail, MailId, MailStatus, Query, Relay, seconds};
use tempfile::TempDir;
use tokio::sync::mpsc;

const WAIT_LIMIT: Duration = Duration::from_secs(20);

fn postrider(dir: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_postrider"));
    command
        .current_dir(dir)
        .args(arguments)
        .env_remove("POSTRIDER_CONFIG")
        .env_remove("RUST_LOG");
    command
}

fn run_to_end(dir: &Path, arguments: &[&str]) -> (i32, String, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = postrider(dir, arguments).output().unwrap();
    (
        status.code().unwrap(),
        String::from_utf8(stdout).unwrap(),
        String::from_utf8(stderr).unwrap(),
    )
}

/// A directory with a configuration that needs neither a relay nor a port.
fn config_dir() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    configure(dir.path(), "");
    dir
}

fn configure(dir: &Path, more: &str) {
    let text = "[http]\nlisten = \"off\"\n[smtp]\nlisten = \"off\"\n[[relays]]\nname = \"first\"\n\
                url = \"capture://\"\n";
    std::fs::write(dir.join("postrider.toml"), format!("{text}{more}")).unwrap();
}

/// A running service, and what it tells the one who started it.
struct Service {
    child: Child,
    notices: UnixDatagram,
    log: Receiver<String>,
}

impl Service {
    fn start(dir: &Path) -> Self {
        let socket: PathBuf = dir.join("notify");
        let _ = std::fs::remove_file(&socket);
        let notices = UnixDatagram::bind(&socket).unwrap();
        notices.set_read_timeout(Some(WAIT_LIMIT)).unwrap();

        let mut command = postrider(dir, &["run"]);
        let mut child = command
            .env("NOTIFY_SOCKET", &socket)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();

        let log = lines_of(child.stderr.take().unwrap());
        let mut service = Service {
            child,
            notices,
            log,
        };

        service.await_notice("READY=1");
        service
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(
            Command::new("kill")
                .args([&format!("-{name}"), &pid])
                .status()
                .unwrap()
                .success()
        );
    }

    #[track_caller]
    fn await_notice(&mut self, wanted: &str) {
        let mut notice = [0; 1024];
        loop {
            let length = match self.notices.recv(&mut notice) {
                Ok(length) => length,
                Err(e) => panic!("no {wanted} came: {e}"),
            };
            if String::from_utf8_lossy(&notice[..length]).contains(wanted) {
                return;
            }
        }
    }

    /// The log up to the first line with these words.
    #[track_caller]
    fn log_until(&mut self, words: &str) -> String {
        let mut seen = String::new();
        while !seen.contains(words) {
            match self.log.recv_timeout(WAIT_LIMIT) {
                Ok(line) => seen.push_str(&line),
                Err(e) => panic!("the log has no {words} ({e}):\n{seen}"),
            }
        }
        seen
    }

    fn end(&mut self) -> ExitStatus {
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(began.elapsed() < WAIT_LIMIT, "it does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

fn lines_of(log: ChildStderr) -> Receiver<String> {
    let (tell, told) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(log).lines().map_while(Result::ok) {
            if tell.send(line + "\n").is_err() {
                return;
            }
        }
    });
    told
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_stop_that_was_asked_for_is_announced_and_ends_well() {
    for name in ["TERM", "INT"] {
        let dir = config_dir();
        let mut service = Service::start(dir.path());
        service.signal(name);
        service.await_notice("STOPPING=1");
        assert!(service.end().success());
    }
}

/// Puts one mail into the spool that the service is going to open.
async fn leave_a_mail(dir: &Path) -> MailId {
    // Nobody listens there.
    let relay = Relay::smtp("smtp://127.0.0.1:1").unwrap().name("first");
    let dispatcher = over(relay, dir).await;
    let mail = Mail::builder()
        .from("shop@example.com")
        .to("ada@example.org")
        .subject("Hello")
        .text("Hello.")
        .build();
    let id = dispatcher.submit(mail.unwrap()).await.unwrap().id;

    dispatcher
        .shutdown(Drain::within(seconds(5)))
        .await
        .unwrap();
    drop(dispatcher);

    // The directory is free once the last actor is gone, which a shutdown does not wait for.
    let began = Instant::now();
    while let Err(error) = postrider::spool::sled::verify(&dir.join("var/spool")) {
        assert!(began.elapsed() < WAIT_LIMIT, "{error}");
        tokio::task::yield_now().await;
    }

    id
}

async fn on_the_spool(dir: &Path) -> Dispatcher {
    let relay = Relay::capture(&Capture::default()).name("first");
    over(relay, dir).await
}

async fn over(relay: Relay, dir: &Path) -> Dispatcher {
    Dispatcher::builder()
        .relay(relay)
        .spool(dir.join("var/spool"))
        .start()
        .await
        .unwrap()
}

/// A relay that does this when a mail has come whole, and tells when that is.
async fn relay_that_at_the_final_dot(act: Act) -> (FakeSmtp, mpsc::UnboundedReceiver<()>) {
    let (tell, told) = mpsc::unbounded_channel();
    let rule = Rule::at(Step::FinalDot)
        .when(move |_| tell.send(()).is_ok())
        .act(act);
    (FakeSmtp::builder().rule(rule).start().await, told)
}

fn configure_relay(dir: &Path, url: &str) {
    let text = "[http]\nlisten = \"off\"\n[smtp]\nlisten = \"off\"\n[[relays]]\nname = \"first\"\n";
    std::fs::write(
        dir.join("postrider.toml"),
        format!("{text}url = \"{url}\"\n"),
    )
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_finishes_what_is_in_flight() {
    let dir = config_dir();
    let id = leave_a_mail(dir.path()).await;

    let (relay, mut reached) =
        relay_that_at_the_final_dot(Act::Delay(Duration::from_millis(300))).await;
    configure_relay(dir.path(), &relay.url());
    let mut service = Service::start(dir.path());

    reached.recv().await.unwrap();
    service.signal("TERM");
    assert!(service.end().success());
    assert_eq!(relay.mails().len(), 1);

    let status: MailStatus = on_the_spool(dir.path()).await.status(id).await.unwrap();
    assert_eq!(
        status.state.as_str(),
        "delivered",
        "what the relay took is recorded before the end"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn at_debug_a_line_says_to_which_connection_it_belongs() {
    let dir = config_dir();
    leave_a_mail(dir.path()).await;
    let relay = FakeSmtp::start().await;
    configure_relay(dir.path(), &relay.url());
    let config = dir.path().join("postrider.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, format!("[log]\nlevel = \"debug\"\n{text}")).unwrap();

    let mut service = Service::start(dir.path());
    let log = service.log_until(" connected");
    let line = log.lines().last().unwrap_or_default();
    assert!(line.contains("connection{relay=first sender="), "{line}");
    service.signal("TERM");
    assert!(service.end().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_stop_ends_at_once_and_loses_nothing() {
    let dir = config_dir();
    let id = leave_a_mail(dir.path()).await;
    let (relay, mut reached) = relay_that_at_the_final_dot(Act::Hang).await;
    configure_relay(dir.path(), &relay.url());

    let mut service = Service::start(dir.path());
    reached.recv().await.unwrap();
    service.signal("TERM");
    service.await_notice("STOPPING=1");
    service.signal("TERM");
    service.log_until("stopped at once, as requested");

    assert!(service.end().success());
    let dispatcher = on_the_spool(dir.path()).await;
    assert_eq!(
        dispatcher.wait(id).await.unwrap().state.as_str(),
        "delivered",
        "it is sent at the next start"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn check_distinguishes_a_relay_that_refuses_the_login_from_one_that_takes_it() {
    let dir = config_dir();
    let relay = FakeSmtp::builder().login("user", "right").start().await;
    for (password, code, told) in [("right", 0, "ready"), ("wrong", 1, "failed at auth")] {
        configure_relay(
            dir.path(),
            &relay.url_with("smtp", &format!("user:{password}")),
        );
        let (found, stdout, stderr) = run_to_end(dir.path(), &["check", "--connect"]);
        assert_eq!(found, code, "{stdout}{stderr}");
        assert!(stdout.contains(told), "{stdout}");
        assert!(
            !stdout.contains(&format!(":{password}@")),
            "a password is never shown: {stdout}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_spool_of_a_stopped_service_is_verified_and_exported() {
    let dir = config_dir();
    let id = leave_a_mail(dir.path()).await;
    let (code, stdout, stderr) = run_to_end(dir.path(), &["spool", "verify"]);
    assert_eq!(code, 0, "{stderr}");
    assert!(
        stdout.starts_with("var/spool: mails: 1; deliveries: 1 pending, 0 delivered"),
        "{stdout}"
    );

    for arguments in [
        ["spool", "export", "out"].as_slice(),
        &["spool", "export", "var/spool", "out"],
    ] {
        let (code, stdout, stderr) = run_to_end(dir.path(), arguments);
        assert_eq!(
            (code, stdout.as_str()),
            (0, "mails written to out: 1\n"),
            "{stderr}"
        );
        let message = std::fs::read_to_string(dir.path().join(format!("out/{id}.eml"))).unwrap();
        assert!(message.contains("Subject: Hello\r\n"), "{message}");
        std::fs::remove_dir_all(dir.path().join("out")).unwrap();
    }

    let (code, stdout, _) = run_to_end(dir.path(), &["spool", "verify", "--json"]);
    assert_eq!(
        (
            code,
            serde_json::from_str::<serde_json::Value>(&stdout).unwrap()["pending"].as_u64()
        ),
        (0, Some(1))
    );

    let (code, _, stderr) = run_to_end(dir.path(), &["spool", "verify", "elsewhere"]);
    assert_eq!(code, 1);
    assert!(
        stderr.contains("elsewhere") && stderr.contains("no spool in this directory"),
        "{stderr}"
    );

    let _open = Service::start(dir.path());
    let (code, _, stderr) = run_to_end(dir.path(), &["spool", "verify"]);
    assert_eq!(code, 75, "{stderr}");
    assert!(stderr.contains("is in use by another process"), "{stderr}");
}

/// Calls the service over HTTP, and returns the status.
fn call(address: &str, token: &str, request: &str, body: &str) -> u16 {
    let mut stream = TcpStream::connect(address).unwrap();
    let length = body.len();
    let head = format!(
        "Host: localhost\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json"
    );
    write!(
        stream,
        "{request} HTTP/1.1\r\n{head}\r\nConnection: close\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.split(' ').nth(1).unwrap().parse().unwrap()
}

fn configure_http(dir: &Path, token: &str) {
    let http = format!(
        "[http]\nlisten = \"127.0.0.1:0\"\ntokens = [{{ name = \"app\", token = \"{token}\", scope \
         = \"admin\" }}]"
    );
    let text = format!(
        "{http}\n[smtp]\nlisten = \"off\"\n[[relays]]\nname = \"first\"\nurl = \"capture://\"\n"
    );
    std::fs::write(dir.join("postrider.toml"), text).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn mail_comes_in_over_http_and_tokens_change_while_the_service_runs() {
    let dir = config_dir();
    configure_http(dir.path(), "one");

    let mut service = Service::start(dir.path());
    let log = service.log_until("HTTP door open");
    let address = log
        .split("listen=")
        .nth(1)
        .unwrap()
        .split_whitespace()
        .next()
        .unwrap();
    let mail = r#"{"from": "shop@example.com", "to": "ada@example.org", "subject": "Hello",
        "text": "Hello."}"#;
    assert_eq!(call(address, "one", "POST /v1/mails", mail), 202);

    configure_http(dir.path(), "two");
    service.signal("HUP");
    service.log_until("was read again:");
    assert_eq!(call(address, "one", "GET /v1/stats", ""), 401);
    assert_eq!(call(address, "two", "GET /v1/stats", ""), 200);
    service.signal("TERM");

    assert!(service.end().success());
    assert!(TcpStream::connect(address).is_err(), "the door is closed");
    let kept = on_the_spool(dir.path())
        .await
        .list(Query::default())
        .await
        .unwrap();

    assert_eq!(kept.mails.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_puts_all_templates_in_force_or_keeps_the_old_ones_and_says_why() {
    let dir = config_dir();
    let write = |name: &str, text: &str| {
        let path = dir.path().join("templates").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };

    write("a/subject.txt", "first");
    write("a/body.txt", "first");
    configure_http(dir.path(), "one");

    let path = dir.path().join("postrider.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("{text}[templates]\npath = \"templates\"\n")).unwrap();
    let mut service = Service::start(dir.path());
    let log = service.log_until("HTTP door open");
    let address = log.split("listen=").nth(1).unwrap();
    let address = address.split_whitespace().next().unwrap();
    let mail =
        r#"{"from": "shop@example.com", "to": "ada@example.org", "template": {"name": "a"}}"#;
    assert_eq!(call(address, "one", "POST /v1/mails", mail), 202);

    write("a/subject.txt", "second");
    write("b/body.txt", "\n{{ oh");
    service.signal("HUP");

    let log = service.log_until("stays in force");
    assert!(
        log.contains("templates/b/body.txt:2: ") && log.contains("syntax error"),
        "{log}"
    );
    assert_eq!(call(address, "one", "POST /v1/mails", mail), 202);

    write("b/body.txt", "{{ oh }}");
    service.signal("HUP");
    service.log_until("was read again:");
    assert_eq!(call(address, "one", "POST /v1/mails", mail), 202);
    service.signal("TERM");

    assert!(service.end().success());
    let kept = on_the_spool(dir.path()).await.list(Query::default()).await;
    let subjects: Vec<String> = kept
        .unwrap()
        .mails
        .into_iter()
        .map(|mail| mail.subject)
        .collect();

    assert_eq!(subjects, ["second", "first", "first"]);
}

/// Says these lines over SMTP, each after the answer to the one before, and returns the last
/// answer's code.
fn say(address: &str, lines: &[&str]) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    let mut answers = BufReader::new(stream.try_clone().unwrap());
    let mut next_code = || loop {
        let mut line = String::new();
        assert!(
            answers.read_line(&mut line).unwrap() > 0,
            "the service hung up"
        );
        if line.get(3..4) == Some(" ") {
            return line[..3].to_owned();
        }
    };

    let mut code = next_code();
    for line in lines {
        write!(stream, "{line}\r\n").unwrap();
        code = next_code();
    }

    code
}

#[tokio::test(flavor = "multi_thread")]
async fn mail_comes_in_over_smtp_and_users_change_while_the_service_runs() {
    let dir = config_dir();
    let configure = |users: &str| {
        let text = format!(
            "[http]\nlisten = \"off\"\n[smtp]\nlisten = \"127.0.0.1:0\"\nusers = [{users}]\n"
        );
        let relay = "[[relays]]\nname = \"first\"\nurl = \"capture://\"\n";
        std::fs::write(dir.path().join("postrider.toml"), text + relay).unwrap();
    };

    configure("");
    let mut service = Service::start(dir.path());
    let log = service.log_until("listen=127");
    let address = log
        .split("listen=")
        .nth(1)
        .unwrap()
        .split_whitespace()
        .next()
        .unwrap();

    let mail = [
        "EHLO me",
        "MAIL FROM:<shop@example.com>",
        "RCPT TO:<ada@example.org>",
        "DATA",
        "Subject: x\r\n\r\nx\r\n.",
    ];
    assert_eq!(say(address, &mail), "250");
    let log = service.log_until("accepted mail.id=");
    let line = log
        .lines()
        .find(|line| line.contains("accepted mail.id="))
        .unwrap();
    assert!(
        line.contains(" INFO ") && line.contains("door=\"smtp\"") && line.contains("size="),
        "{line}"
    );

    configure("{ name = \"app\", password = \"secret\" }");
    service.signal("HUP");
    service.log_until("was read again:");
    assert_eq!(say(address, &mail[..2]), "530", "a login is needed now");

    let login = "AUTH PLAIN AGFwcABzZWNyZXQ=";
    assert_eq!(
        say(
            address,
            &[mail[0], login, mail[1], mail[2], mail[3], mail[4]]
        ),
        "250"
    );

    service.signal("TERM");
    assert!(service.end().success());
    assert_eq!(
        on_the_spool(dir.path())
            .await
            .list(Query::default())
            .await
            .unwrap()
            .mails
            .len(),
        2
    );
}

#[test]
fn an_address_that_is_taken_is_reported_and_the_service_does_not_start() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let dir = config_dir();

    let text = format!(
        "[http]\nlisten = \"{address}\"\n[smtp]\nlisten = \"off\"\n[[relays]]\n\
         url = \"capture://\"\n"
    );
    std::fs::write(dir.path().join("postrider.toml"), text).unwrap();

    let (code, _, stderr) = run_to_end(dir.path(), &["run"]);
    assert_eq!(code, 1, "{stderr}");
    assert!(
        stderr.contains(&format!("cannot listen on `http.listen` = {address}")),
        "{stderr}"
    );
}

#[test]
fn a_reload_with_a_mistake_is_refused_whole_and_a_good_one_is_applied() {
    let dir = config_dir();
    let mut service = Service::start(dir.path());
    configure(
        dir.path(),
        "[[relays]]\nname = \"first\"\nurl = \"capture://\"\n[retry]\nmax_attempts = 0\n",
    );

    service.signal("HUP");
    service.await_notice("RELOADING=1");
    service.await_notice("READY=1");

    let log = service.log_until("max_attempts");
    assert!(
        log.contains("ERROR")
            && log.contains("relays[1].name")
            && log.contains("the old one stays in force"),
        "{log}"
    );

    configure(
        dir.path(),
        "[[relays]]\nname = \"second\"\nurl = \"capture://\"\n[spool]\nretention = \"1d\"\n",
    );

    service.signal("HUP");
    service.await_notice("READY=1");
    let log = service.log_until("was read again:");
    let waiting = |log: &str, section: &str| {
        let line =
            |line: &&str| line.contains("take effect at the next start") && line.contains(section);
        log.lines().find(line).is_some()
    };
    assert!(waiting(&log, "spool") && !waiting(&log, "smtp"), "{log}");

    let path = dir.path().join("postrider.toml");
    let text = std::fs::read_to_string(&path)
        .unwrap()
        .replace("[smtp]\n", "[smtp]\nidle_timeout = \"1s\"\n");
    std::fs::write(&path, text).unwrap();
    service.signal("HUP");
    service.await_notice("READY=1");

    let log = service.log_until("was read again:");
    assert!(waiting(&log, "smtp"), "{log}");
    service.signal("TERM");
    assert!(service.end().success());
}

#[test]
fn a_second_service_on_the_same_spool_is_asked_to_try_later() {
    let dir = config_dir();
    let _first = Service::start(dir.path());
    let (code, _, stderr) = run_to_end(dir.path(), &["run"]);
    assert_eq!(code, 75, "{stderr}");
    assert!(
        stderr.contains("var/spool is in use by another process"),
        "{stderr}"
    );
}

#[test]
fn why_a_service_ends_is_a_line_of_its_log_in_the_format_that_was_chosen() {
    let dir = config_dir();
    let _first = Service::start(dir.path());
    let config = dir.path().join("postrider.toml");
    let known = std::fs::read_to_string(&config).unwrap();
    let log = "[log]\nformat = \"json\"\nlevel = \"debug\"\n";
    std::fs::write(&config, format!("{known}\n{log}")).unwrap();

    let (code, _, stderr) = run_to_end(dir.path(), &["run"]);
    assert_eq!(code, 75, "{stderr}");
    let lines: Vec<serde_json::Value> = stderr
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
        .collect();
    let last = lines.last().unwrap();
    assert_eq!(
        (&last["level"], &last["exit_code"]),
        (&"ERROR".into(), &75.into())
    );
    let error = last["error"].as_str().unwrap();
    assert!(
        error.contains("var/spool is in use by another process"),
        "{error}"
    );

    // Of everything at `debug` that is what the service has to say, and not its libraries.
    let of_others = |line: &&serde_json::Value| {
        let target = line["target"].as_str().unwrap();
        ["sled", "rustls"]
            .iter()
            .any(|name| target.starts_with(name))
    };
    assert_eq!(lines.iter().filter(of_others).count(), 0, "{stderr}");
}

#[test]
fn a_wrong_configuration_is_reported_line_by_line_and_nothing_is_started() {
    let dir = config_dir();
    configure(dir.path(), "[spool]\npth = \"x\"\nmax_pending = 0\n");
    for arguments in [["run"].as_slice(), &["check"]] {
        let (code, stdout, stderr) = run_to_end(dir.path(), arguments);
        assert_eq!(code, 2, "{stderr}");
        assert_eq!(stdout, "");
        let lines: Vec<&str> = stderr.lines().collect();
        assert_eq!(lines.len(), 2, "{stderr}");
        assert_eq!(
            lines[0],
            "postrider.toml: spool.pth: is not a key; did you mean `path`?"
        );
        assert!(
            lines[1].starts_with("postrider.toml: spool.max_pending: is 0"),
            "{stderr}"
        );
    }

    assert!(!dir.path().join("var").exists());
}

#[test]
fn what_init_writes_is_checked_with_one_mistake_that_says_the_way_out() {
    let dir = tempfile::tempdir().unwrap();
    let (code, stdout, _) = run_to_end(dir.path(), &["init", "etc"]);
    assert_eq!(code, 0);
    assert!(
        stdout.contains("postrider check --connect --config etc/postrider.toml"),
        "{stdout}"
    );

    let (code, _, stderr) = run_to_end(dir.path(), &["check", "--config", "etc/postrider.toml"]);
    assert_eq!(code, 2);
    assert!(
        stderr.starts_with("etc/postrider.toml: relays: is missing") && stderr.lines().count() == 1,
        "{stderr}"
    );
}

#[test]
fn init_overwrites_nothing() {
    let dir = config_dir();
    let before = std::fs::read(dir.path().join("postrider.toml")).unwrap();
    let (code, _, stderr) = run_to_end(dir.path(), &["init"]);
    assert_eq!(code, 1);
    assert!(stderr.contains("exists already"), "{stderr}");
    assert_eq!(
        std::fs::read(dir.path().join("postrider.toml")).unwrap(),
        before
    );
}

#[test]
fn check_reports_which_relay_cannot_be_reached() {
    let dir = config_dir();
    let unused = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();

    configure(
        dir.path(),
        &format!("[[relays]]\nname = \"gone\"\nurl = \"smtp://{unused}\"\n"),
    );

    let (code, stdout, stderr) = run_to_end(dir.path(), &["check", "--connect"]);
    assert_eq!(code, 75, "{stdout}{stderr}");
    assert!(
        stdout.contains("first") && stdout.contains("ready"),
        "{stdout}"
    );

    assert!(stdout.contains("failed at connect"), "{stdout}");
    assert_eq!(
        stderr,
        "postrider: 1 of 2 relays cannot be used now: gone\n"
    );
}

#[test]
fn an_unknown_command_is_wrong_usage() {
    let (code, stdout, stderr) = run_to_end(Path::new("/"), &["rum"]);
    assert_eq!((code, stdout.as_str()), (2, ""));
    assert!(stderr.contains("run"), "{stderr}");
}

/// The most memory that the service has had, in bytes.
fn peak_memory(service: &Service) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", service.child.id())).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM"))
        .unwrap();
    line.split_whitespace()
        .nth(1)
        .unwrap()
        .parse::<u64>()
        .unwrap()
        * 1024
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_floods_does_not_make_the_service_grow() {
    const FLOOD: usize = 60_000_000;
    let dir = config_dir();
    leave_a_mail(dir.path()).await;
    let floods = [
        (Step::Ehlo, Act::HugeLine(FLOOD)),
        (Step::Rcpt, Act::HugeReply(FLOOD / 20)),
        (Step::FinalDot, Act::HugeLine(FLOOD)),
    ];

    let relay = FakeSmtp::builder();
    let relay = floods.into_iter().fold(relay, |relay, (step, act)| {
        relay.rule(Rule::at(step).act(act).first(1))
    });
    let relay = relay.start().await;
    configure_relay(dir.path(), &relay.url());

    let text = std::fs::read_to_string(dir.path().join("postrider.toml")).unwrap();
    std::fs::write(
        dir.path().join("postrider.toml"),
        text + "[retry]\nschedule = [\"50ms\"]\n",
    )
    .unwrap();

    let service = Service::start(dir.path());
    let before = peak_memory(&service);

    // Each flood breaks a connection, and the last connection is spared.
    relay.connections_come(4).await;
    relay.mails_arrive(1).await;

    let grown = peak_memory(&service) - before;
    assert!(
        grown < FLOOD as u64 / 4,
        "it grew by {grown} bytes while {FLOOD} came at once"
    );
}

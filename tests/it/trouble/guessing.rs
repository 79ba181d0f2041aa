//! Somebody who guesses tokens and passwords: it takes them longer and longer, everybody can see it
//! in the log and in the numbers, and whoever has the right one is not kept out by it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use ring::hmac;
use serde_json::json;

use crate::common::FakeSmtp;
use crate::common::service::{Service, configuration, configured};

const PEOPLE: &str =
    "tokens = [{ name = \"app\", token = \"right\", scope = \"admin\" }]\nban_after = 6\n";
const USERS: &str = "users = [{ name = \"app\", password = \"right\" }]\nban_after = 6\n";

async fn guarded(dir: &std::path::Path) -> Service {
    let relay = FakeSmtp::start().await;
    let config = configuration(&dir.join("spool"), &relay.url(), "")
        .replace("[smtp]\n", &format!("{PEOPLE}[smtp]\n{USERS}"));
    Service::start(configured(dir, &config))
}

/// The status of a call with this token.
fn call_with(token: &str, to: SocketAddr) -> u16 {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(to).unwrap();
    let head = "GET /v1/stats HTTP/1.1\r\nhost: localhost\r\nconnection: close";
    write!(stream, "{head}\r\nauthorization: Bearer {token}\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.split(' ').nth(1).unwrap().parse().unwrap()
}

/// What AUTH PLAIN with this password is answered.
fn log_in(password: &str, to: SocketAddr) -> String {
    use base64::Engine;
    use std::io::{BufRead, BufReader, Write};

    let stream = std::net::TcpStream::connect(to).unwrap();
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    let mut answer = || loop {
        let line = lines.next().unwrap().unwrap();
        if line.as_bytes().get(3) == Some(&b' ') {
            return line;
        }
    };

    answer();
    let told = base64::engine::general_purpose::STANDARD.encode(format!("\0app\0{password}"));
    write!(&stream, "EHLO client.example\r\n").unwrap();
    answer();
    write!(&stream, "AUTH PLAIN {told}\r\n").unwrap();
    answer()
}

#[tokio::test(flavor = "multi_thread")]
async fn guessing_takes_longer_and_longer_and_is_seen() {
    let dir = tempfile::tempdir().unwrap();
    let service = guarded(dir.path()).await;
    let begun = Instant::now();

    let statuses: Vec<u16> = (0..8)
        .map(|n| call_with(&format!("wrong{n}"), service.http))
        .collect();
    assert_eq!(statuses, [401, 401, 401, 401, 401, 429, 429, 429]);

    assert!(
        begun.elapsed() > Duration::from_secs(5),
        "{:?}",
        begun.elapsed()
    );

    assert_eq!(
        call_with("right", service.http),
        200,
        "others share this address"
    );

    let begun = Instant::now();
    for n in 0..4 {
        let answer = log_in(&format!("wrong{n}"), service.smtp);
        assert!(answer.starts_with("535 5.7.8 "), "{answer}");
    }

    assert!(
        begun.elapsed() >= Duration::from_secs(3),
        "{:?}",
        begun.elapsed()
    );
    assert!(log_in("right", service.smtp).starts_with("235 "));

    let log = service.log();
    let lines = |words: &str| {
        let found = log.lines().filter(|line| line.contains(words));
        found
            .inspect(|line| assert!(line.contains("peer=127.0.0.1 "), "{line}"))
            .count()
    };

    assert_eq!(lines("HTTP request refused"), 8, "{log}");
    assert_eq!(lines("smtp login refused"), 4, "{log}");
    assert!(
        log.contains("too many wrong HTTP tokens from one address peer=127.0.0.1"),
        "{log}"
    );
    assert!(!log.contains("wrong1") && !log.contains("right"), "{log}");

    let mut call = std::net::TcpStream::connect(service.http).unwrap();
    let metrics = {
        use std::io::{Read, Write};
        write!(
            call,
            "GET /metrics HTTP/1.0\r\nauthorization: Bearer right\r\n\r\n"
        )
        .unwrap();
        let mut text = String::new();
        call.read_to_string(&mut text).unwrap();
        text
    };

    for counted in [
        "postrider_refusals_total{door=\"http\",reason=\"login\"} 8",
        "postrider_refusals_total{door=\"smtp\",reason=\"login\"} 4",
    ] {
        assert!(metrics.contains(counted), "{metrics}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn guessing_a_providers_password_costs_what_guessing_a_token_does() {
    let dir = tempfile::tempdir().unwrap();
    let heard = "[feedback.brevo]\nsecret = \"right\"\n[feedback.mailgun]\nsecret = \"right\"\n\
                 [feedback.resend]\nsecret = \"whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD\"\n";
    let config = configuration(&dir.path().join("spool"), "capture://", heard)
        .replace("[smtp]\n", &format!("{PEOPLE}[smtp]\n"));
    let service = Service::start(configured(dir.path(), &config));

    // A signature that is right and old, however often it comes, is no guess.
    let old = json!({"signature": {"timestamp": "1529006854",
        "token": "a8ce0edb2dd8301dee6c2405235584e45aa91d1e9f979f3de0",
        "signature": "SIGNATURE"}, "event-data": {"event": "opened"}});
    let key = hmac::Key::new(hmac::HMAC_SHA256, b"right");
    let signed = "1529006854a8ce0edb2dd8301dee6c2405235584e45aa91d1e9f979f3de0";
    let signature = hmac::sign(&key, signed.as_bytes());
    let hex: String = signature
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let old = old.to_string().replace("SIGNATURE", &hex);
    for _ in 0..10 {
        let answer = bring(&service, "mailgun", "", &old);
        assert!(
            answer.0 == 401 && answer.1.contains("is too old or in the future"),
            "{answer:?}"
        );
    }

    let opened = r#"{"event": "opened"}"#;
    let bearer = |password: &str| format!("authorization: Bearer {password}\r\n");
    assert_eq!(bring(&service, "brevo", "", opened).0, 401, "nothing shown");
    let begun = Instant::now();
    let wrong = old.replace(&hex[..8], "00000000");
    let statuses: Vec<u16> = (0..7)
        .map(|n| match n % 2 {
            0 => bring(&service, "brevo", &bearer(&format!("wrong{n}")), opened).0,
            _ => bring(&service, "mailgun", "", &wrong).0,
        })
        .collect();
    assert_eq!(statuses, [401, 401, 401, 401, 401, 429, 429]);
    assert!(
        begun.elapsed() > Duration::from_secs(3),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(
        call_with("wrong", service.http),
        429,
        "all guesses are one count"
    );
    assert_eq!(
        bring(&service, "brevo", &bearer("right"), opened).0,
        202,
        "others share this address"
    );

    let log = service.log();
    assert!(
        log.contains("too many wrong HTTP tokens from one address peer=127.0.0.1"),
        "{log}"
    );
    assert!(!log.contains("wrong0") && !log.contains("right"), "{log}");
}

/// Brings this event of a provider; the status, and what was said.
fn bring(service: &Service, provider: &str, proof: &str, body: &str) -> (u16, String) {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(service.http).unwrap();
    let head =
        format!("POST /v1/feedback/{provider} HTTP/1.0\r\nhost: mail.example.com\r\n{proof}");
    let length = body.len();
    write!(stream, "{head}content-length: {length}\r\n\r\n{body}").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    (answer.split(' ').nth(1).unwrap().parse().unwrap(), answer)
}

/// Whom fail2ban would ban for this log.
fn banned(dir: &std::path::Path, log: &str) -> Vec<String> {
    let filter = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/contrib/fail2ban/postrider.conf"
    );

    let file = dir.join("log");
    std::fs::write(&file, log).unwrap();
    let found = std::process::Command::new("fail2ban-regex")
        .args(["--out", "ip"])
        .args([file.as_os_str(), filter.as_ref()])
        .output()
        .expect("fail2ban is installed, as test.sh does it");

    let told = String::from_utf8(found.stdout).unwrap();
    told.split_whitespace().map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn fail2ban_finds_who_guesses_and_nobody_can_have_another_banned() {
    use std::io::{BufRead, BufReader, Write};
    const VICTIM: &str = "192.0.2.66";
    let dir = tempfile::tempdir().unwrap();
    let relay = FakeSmtp::start().await;

    let forged = [
        format!("smtp login refused peer={VICTIM} "),
        format!("HTTP request refused peer={VICTIM} refused=\"login\""),
        format!("2026-11-25T19:10:00.1Z  WARN postrider: smtp login refused peer={VICTIM} "),
    ];

    let refuses = crate::common::Act::reply(550, &forged[2]);
    relay.rule(crate::common::Rule::at(crate::common::Step::Rcpt).act(refuses));

    let config = configuration(&dir.path().join("spool"), &relay.url(), "")
        .replace("[smtp]\n", &format!("{PEOPLE}[smtp]\n{USERS}"));
    let mut service = Service::start(configured(dir.path(), &config));
    call_with("wrong", service.http);
    log_in("wrong", service.smtp);

    let genuine = service.log();
    assert_eq!(
        banned(dir.path(), &genuine),
        ["127.0.0.1", "127.0.0.1"],
        "{genuine}"
    );

    let in_journal = genuine.replace("2026-", "host postrider[77]: 2026-");
    assert_eq!(banned(dir.path(), &in_journal).len(), 2, "{in_journal}");

    // Tokens, names, addresses, subjects and answers that look like lines of the log.
    for text in &forged {
        call_with(&text.replace(['\r', '\n'], " "), service.http);
        let stream = std::net::TcpStream::connect(service.smtp).unwrap();
        let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
        let told = base64(&format!("\0{text}\0wrong"));
        write!(&stream, "EHLO {VICTIM}\r\nAUTH PLAIN {told}\r\nQUIT\r\n").unwrap();
        while let Some(Ok(_)) = lines.next() {}
        let stream = std::net::TcpStream::connect(service.smtp).unwrap();
        let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
        let told = base64("\0app\0right");
        let local: String = text.replace('"', "'").chars().take(60).collect();
        write!(
            &stream,
            "EHLO client.example\r\nAUTH PLAIN {told}\r\nMAIL FROM:<a@example.org>\r\n\
             RCPT TO:<\"{local}\"@example.org>\r\nDATA\r\nSubject: {text}\r\n\r\nHello.\r\n.\r\n\
             QUIT\r\n"
        )
        .unwrap();
        while let Some(Ok(_)) = lines.next() {}
    }

    service.says("deferred, will retry");
    let log = service.log();
    assert!(log.contains(VICTIM), "it is told, as text: {log}");
    assert!(
        !banned(dir.path(), &log).contains(&VICTIM.to_owned()),
        "{log}"
    );

    for line in log.lines() {
        assert!(!line.contains(&format!("peer={VICTIM}")), "{line}");
    }
}

fn base64(text: &str) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(text)
}

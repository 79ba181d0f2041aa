//! Programs that nobody here wrote hand their mail in at the submission door. A test fails where
//! its program is missing.
#![cfg(feature = "server")]

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::common::door::{Certificate, Door, secured, settings};

const USER: &str = "app";
const PASSWORD: &str = "se:cr et";
const MESSAGE: &str = "From: shop@example.com\r\nTo: ada@example.org\r\nSubject: a real client\r\n\
                       \r\nHello.\r\n.dot\r\n";

/// A door with TLS and a user, and the certificate to trust.
struct Place {
    door: Door,
    certificate: Certificate,
}

impl Place {
    async fn new() -> Self {
        let certificate = Certificate::new();
        let door = Door::with(secured(&certificate)).await;
        Place { door, certificate }
    }

    fn port(&self) -> String {
        self.door.address.port().to_string()
    }

    fn tls_port(&self) -> String {
        self.door.tls_address.unwrap().port().to_string()
    }

    fn ca(&self) -> PathBuf {
        self.certificate.cert()
    }

    /// The messages that arrived; how each came in stands in its Received field.
    async fn arrived(&self, count: usize) -> Vec<String> {
        let sent = self.door.sent().await;
        assert_eq!(sent.len(), count, "{sent:?}");
        let messages: Vec<String> = sent
            .iter()
            .map(|mail| String::from_utf8_lossy(&mail.message).into_owned())
            .collect();

        for message in &messages {
            assert!(
                message.starts_with("Received: from ") && message.contains("SMTPSA; "),
                "{message}"
            );
        }

        messages
    }
}

/// Runs a program to its end, `input` on its standard input; `install` says where it comes from.
async fn run(command: &mut Command, input: &str, install: &str) {
    let program = command.as_std().get_program().to_owned();
    let pipes = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);

    let mut child = pipes
        .spawn()
        .unwrap_or_else(|e| panic!("{program:?} cannot be run: {e}; {install}"));
    let mut stdin = child.stdin.take().unwrap();
    // A program that fails at once does not read its input.
    let _ = stdin.write_all(input.as_bytes()).await;

    drop(stdin);
    let ended = tokio::time::timeout(Duration::from_secs(60), child.wait_with_output()).await;

    let output = ended
        .unwrap_or_else(|_| panic!("{program:?} does not end"))
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(
        output.status.success(),
        "{program:?} ended with {}; {install}\n{said}",
        output.status
    );
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/clients/real_clients")
        .join(name)
}

#[tokio::test]
async fn pythons_smtplib() {
    let place = Place::new().await;
    let mut python = Command::new("python3");
    python
        .arg(script("smtplib_client.py"))
        .args([place.port(), place.tls_port()])
        .arg(place.ca())
        .args([USER, PASSWORD]);
    run(&mut python, "", "apt-get install python3").await;

    let messages = place.arrived(3).await;
    for subject in [
        "smtplib over starttls",
        "smtplib with smtputf8",
        "smtplib over tls",
    ] {
        assert!(
            messages
                .iter()
                .any(|m| m.contains(&format!("Subject: {subject}\r\n"))),
            "{subject}: {messages:?}"
        );
    }

    assert!(
        messages
            .iter()
            .any(|m| m.contains(" with UTF8SMTPSA; ") && m.contains("To: zoë@example.org\r\n"))
    );
}

#[tokio::test]
async fn djangos_email_backend() {
    let place = Place::new().await;
    let mut python = Command::new("python3");
    python
        .arg(script("django_client.py"))
        .args([&place.port(), USER, PASSWORD]);

    // Where Python's default context finds the authority to trust.
    python.env("SSL_CERT_FILE", place.ca());
    run(&mut python, "", "pip install django").await;

    let sent = place.door.sent().await;
    assert_eq!(
        sent.iter().map(|mail| mail.recipients.len()).sum::<usize>(),
        7
    );

    let subjects = |n: &str| {
        sent.iter()
            .any(|mail| String::from_utf8_lossy(&mail.message).contains(n))
    };

    assert!(
        [
            "Subject: django sends one\r\n",
            "Subject: django sends 2\r\n"
        ]
        .into_iter()
        .all(subjects),
        "{sent:?}"
    );
}

#[tokio::test]
async fn nodemailer() {
    let place = Place::new().await;
    let modules = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/clients/node_modules");
    let mut node = Command::new("node");
    node.arg(script("nodemailer_client.cjs"))
        .args([place.port(), place.tls_port()])
        .arg(place.ca())
        .args([USER, PASSWORD]);
    node.env("NODE_PATH", modules);

    run(
        &mut node,
        "",
        "apt-get install nodejs npm; npm install --prefix target/clients nodemailer",
    )
    .await;

    let messages = place.arrived(5).await;
    assert!(
        messages
            .iter()
            .all(|m| m.contains("Subject: nodemailer ") && m.contains("note.txt")),
        "{messages:?}"
    );
}

#[tokio::test]
async fn swaks() {
    let place = Place::new().await;
    let (port, tls_port) = (place.port(), place.tls_port());
    for (port, tls, mechanism) in [
        (&port, "--tls", "PLAIN"),
        (&tls_port, "--tls-on-connect", "LOGIN"),
    ] {
        let mut swaks = Command::new("swaks");
        swaks
            .args([
                "--server",
                "127.0.0.1",
                "--port",
                port,
                tls,
                "--tls-verify",
                "--tls-ca-path",
            ])
            .arg(place.ca());
        swaks.args([
            "--auth",
            mechanism,
            "--auth-user",
            USER,
            "--auth-password",
            PASSWORD,
        ]);
        swaks.args([
            "--from",
            "shop@example.com",
            "--to",
            "ada@example.org,b@example.org",
            "--body",
            ".dot\n..dots\n",
        ]);
        run(&mut swaks, "", "apt-get install swaks libnet-ssleay-perl").await;
    }

    let messages = place.arrived(2).await;
    assert!(
        messages
            .iter()
            .all(|m| m.contains("\r\n.dot\r\n..dots\r\n")),
        "{messages:?}"
    );
}

#[tokio::test]
async fn curl() {
    let place = Place::new().await;
    for url in [
        format!("smtp://127.0.0.1:{}/client", place.port()),
        format!("smtps://127.0.0.1:{}/client", place.tls_port()),
    ] {
        let mut curl = Command::new("curl");
        curl.args([
            "--silent",
            "--show-error",
            "--max-time",
            "20",
            "--ssl-reqd",
            "--cacert",
        ])
        .arg(place.ca());
        curl.args([
            "--user",
            &format!("{USER}:{PASSWORD}"),
            "--mail-from",
            "shop@example.com",
        ]);
        curl.args(["--mail-rcpt", "ada@example.org", "--upload-file", "-", &url]);
        run(&mut curl, MESSAGE, "apt-get install curl").await;
    }

    let messages = place.arrived(2).await;
    assert!(
        messages
            .iter()
            .all(|m| m.starts_with("Received: from client ") && m.ends_with("\r\n.dot\r\n")),
        "{messages:?}"
    );
}

#[tokio::test]
async fn msmtp() {
    let place = Place::new().await;
    let (port, tls_port) = (place.port(), place.tls_port());
    for (port, starttls) in [(port, "on"), (tls_port, "off")] {
        let mut msmtp = Command::new("msmtp");
        msmtp.args([
            "--host=127.0.0.1",
            &format!("--port={port}"),
            "--tls=on",
            &format!("--tls-starttls={starttls}"),
        ]);
        msmtp.arg(format!("--tls-trust-file={}", place.ca().display()));
        msmtp.args([
            "--auth=on",
            &format!("--user={USER}"),
            &format!("--passwordeval=echo '{PASSWORD}'"),
        ]);
        msmtp.args(["--from=shop@example.com", "--", "ada@example.org"]);
        // As a shell script writes it, with bare line feeds.
        run(
            &mut msmtp,
            &MESSAGE.replace("\r\n", "\n"),
            "apt-get install msmtp",
        )
        .await;
    }

    let messages = place.arrived(2).await;
    assert!(
        messages
            .iter()
            .all(|m| m.ends_with("\r\n\r\nHello.\r\n.dot\r\n")),
        "{messages:?}"
    );
}

#[tokio::test]
async fn postfixs_smtp_source() {
    let door = Door::with(settings()).await;

    let program = ["/usr/sbin/smtp-source", "/usr/bin/smtp-source"]
        .into_iter()
        .find(|path| Path::new(path).exists());
    for reuse in [&[][..], &["-d"]] {
        let mut source =
            Command::new(program.expect("smtp-source is missing: apt-get install postfix"));
        source.args(reuse).args([
            "-s",
            "16",
            "-m",
            "200",
            "-l",
            "2048",
            "-f",
            "shop@example.com",
            "-t",
            "ada@example.org",
        ]);
        source.arg(door.address.to_string());
        run(&mut source, "", "apt-get install postfix").await;
    }

    let sent = door.sent().await;
    assert_eq!(sent.len(), 400);
    assert!(sent.iter().all(|mail| mail.message.len() > 2048));
}

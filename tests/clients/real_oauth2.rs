//! XOAUTH2 between servers that nobody here wrote: oauth2-mock-server signs the tokens, and
//! aiosmtpd lets in who shows one. A test fails where a program is missing.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::sync::Arc;

use postrider::transport::oauth2::{Grant, OAuth2, TokenRequest};
use postrider::{Dispatcher, MailStatus, Relay};
use serde_json::Value;

use crate::common::mail;

const INSTALL: &str =
    "npm install --prefix target/clients oauth2-mock-server; pip install aiosmtpd";

/// A program that says a line once it is ready, until it is dropped.
struct Server {
    child: Child,
    said: BufReader<ChildStdout>,
    ready: String,
}

impl Server {
    fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("{command:?}: {e}; {INSTALL}"));

        let said = BufReader::new(child.stdout.take().unwrap());
        let mut server = Server {
            child,
            said,
            ready: String::new(),
        };

        server.ready = server.line();
        server
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.said.read_line(&mut line).unwrap();
        assert!(!line.is_empty(), "it has ended; {INSTALL}");
        line.trim().to_owned()
    }

    fn answer(&mut self) -> Value {
        serde_json::from_str(&self.line()).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/clients/real_oauth2")
        .join(name)
}

/// A server of tokens that takes this refresh token once.
fn token_server(refresh_token: &str) -> Server {
    let modules = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/clients/node_modules");
    Server::start(
        Command::new("node")
            .arg(script("oauth2_server.cjs"))
            .arg(refresh_token)
            .env("NODE_PATH", modules),
    )
}

fn mail_server(tokens: &Server, more: &[&str]) -> Server {
    Server::start(
        Command::new("python3")
            .arg(script("xoauth2_server.py"))
            .arg(&tokens.ready)
            .args(more),
    )
}

fn relay(mails: &Server, tokens: &Server, grant: Grant) -> Relay {
    let request = TokenRequest {
        token_url: format!("{}/token", tokens.ready),
        grant,
        client_id: Some("postrider".into()),
        client_secret: Some("hush".to_owned().into()),
        scope: Some("mail".into()),
        ca_file: None,
    };

    let url = format!("smtp://mail%40example.com@127.0.0.1:{}", mails.ready);
    Relay::smtp(&url)
        .unwrap()
        .name("relay")
        .connections(1)
        .oauth2(Arc::new(OAuth2::new(request).unwrap()))
}

async fn send(relay: Relay, count: usize) -> Vec<MailStatus> {
    let engine = Dispatcher::builder()
        .relay(relay)
        .spool_in_memory()
        .start()
        .await
        .unwrap();
    let mut all = Vec::new();
    for _ in 0..count {
        let id = engine.submit(mail("ada@example.org")).await.unwrap().id;
        all.push(engine.wait(id).await.unwrap());
    }
    all
}

fn all_arrived_at_once(all: &[MailStatus]) {
    for status in all {
        assert_eq!(status.state.as_str(), "delivered", "{status:#?}");
        assert_eq!(status.deliveries[0].attempts.len(), 1, "{status:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_another_server_signed_opens_the_door() {
    let tokens = token_server("unused");
    let mut mails = mail_server(&tokens, &[]);
    let all = send(relay(&mails, &tokens, Grant::ClientCredentials), 2).await;
    all_arrived_at_once(&all);

    let login = mails.answer();
    assert_eq!(login["good"], true, "{login}");
    for _ in 0..2 {
        assert_eq!(mails.answer()["mail"][0], "ada@example.org");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_refused_is_fetched_anew_once_and_the_mail_goes_out() {
    let tokens = token_server("unused");
    let mut mails = mail_server(&tokens, &["taken-back"]);
    let all = send(relay(&mails, &tokens, Grant::ClientCredentials), 1).await;
    all_arrived_at_once(&all);

    let (first, second) = (mails.answer(), mails.answer());
    assert_eq!(
        (&first["good"], &second["good"]),
        (&false.into(), &true.into())
    );
    assert_ne!(first["token"], second["token"]);
    assert_eq!(mails.answer()["mail"][0], "ada@example.org");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_token_that_is_replaced_is_kept_on_disk_and_used_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("refresh");
    std::fs::write(&file, "the-first").unwrap();
    let tokens = token_server("the-first");
    let mails = mail_server(&tokens, &[]);
    let grant = || Grant::RefreshToken {
        token: std::fs::read_to_string(&file).unwrap().into(),
        file: Some(file.clone()),
    };

    let mut seen = vec![std::fs::read_to_string(&file).unwrap()];
    for _ in 0..3 {
        all_arrived_at_once(&send(relay(&mails, &tokens, grant()), 1).await);
        let kept = std::fs::read_to_string(&file).unwrap();
        assert!(!seen.contains(&kept), "{kept} was kept before");
        seen.push(kept);
    }

    // Somebody else uses it meanwhile, and leaves its successor in the file.
    let (mine, theirs) = (grant(), grant());
    all_arrived_at_once(&send(relay(&mails, &tokens, theirs), 1).await);
    all_arrived_at_once(&send(relay(&mails, &tokens, mine), 1).await);
}

/// `check --connect` with this configuration of a relay, below a directory of its own.
fn check(relay: &str, refresh_token: &str) -> (Output, String) {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let mut file = std::fs::File::create(dir.path().join(name)).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    };

    write("refresh", refresh_token);
    write(
        "postrider.toml",
        &format!(
            "[http]\nlisten = \"off\"\n[smtp]\nlisten = \"off\"\n[[relays]]\nname = \"far\"\n\
             {relay}"
        ),
    );

    let output = Command::new(env!("CARGO_BIN_EXE_postrider"))
        .current_dir(dir.path())
        .args(["check", "--connect"])
        .output()
        .unwrap();

    let said = [&output.stdout[..], &output.stderr[..]].concat();
    (output, String::from_utf8_lossy(&said).into_owned())
}

#[test]
fn check_says_which_step_of_a_login_failed_and_what_to_do_there() {
    let tokens = token_server("good");
    let mails = mail_server(&tokens, &[]);
    let url = format!(
        "url = \"smtp://mail%40example.com@127.0.0.1:{}\"\n",
        mails.ready
    );

    let oauth2 = |grant: &str, id: &str, secret: &str, scope: &str| {
        format!(
            "{url}[relays.oauth2]\ngrant = \"{grant}\"\ntoken_url = \"{}/token\"\n\
             client_id = \"{id}\"\n\
             client_secret = \"{secret}\"\nscope = \"{scope}\"\n",
            tokens.ready
        )
    };

    let client = "client_credentials";
    let (output, said) = check(&oauth2(client, "postrider", "hush", "mail"), "");
    assert!(output.status.success(), "{said}");

    let refresh = |id: &str| {
        let settings = oauth2("refresh_token", id, "hush", "mail");
        settings + "refresh_token_file = \"refresh\"\n"
    };

    for (settings, what, advice) in [
        (
            oauth2(client, "somebody", "hush", "mail"),
            "unauthorized_client",
            "check client_id",
        ),
        (
            oauth2(client, "postrider", "n0t-it", "mail"),
            "invalid_client",
            "client_secret_file",
        ),
        (
            oauth2(client, "postrider", "hush", "other"),
            "invalid_scope",
            "check scope",
        ),
        (refresh("postrider"), "invalid_grant", "sign in once more"),
    ] {
        let (output, said) = check(&settings, "expired");
        assert_eq!(output.status.code(), Some(1), "{said}");
        let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
        for words in ["failed at auth", "no access token", "/token refused", what] {
            assert!(said.contains(words), "{words} is not in {said}");
        }
        assert!(said.contains(advice), "{advice} is not in {said}");
        assert!(!said.contains("hush") && !said.contains("n0t-it"), "{said}");
    }
}

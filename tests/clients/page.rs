//! The page in a real browser, before the real binary. Without Chromium and the packages of
//! `test.sh` the test fails and says so.
#![cfg(all(feature = "server", target_os = "linux"))]

use std::path::Path;
use std::process::Command;

use crate::common::service::{Service, configuration, configured};
use crate::common::{Act, FakeSmtp, Rule, Step};

/// With `POSTRIDER_PICTURES` pictures of every view are left in that folder.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_view_works_in_a_browser_and_no_mail_runs_in_it() {
    let relay = FakeSmtp::start().await;
    let hostile = Act::Reply(550, "5.1.1 <script>alert(1)</script> no such user".into());
    relay.rule(Rule::at(Step::Rcpt).to("eve").act(hostile));
    let greylisted = Act::Reply(451, "4.7.1 greylisted".into());
    relay.rule(Rule::at(Step::Rcpt).to("bob").act(greylisted));
    let dir = tempfile::tempdir().unwrap();
    let config = configuration(&dir.path().join("spool"), &relay.url(), "");
    let service = Service::start(configured(dir.path(), &config));
    let subject = "<img src=x onerror=alert(1)><script>alert(2)</script> gnp.exe";
    for (to, state) in [("ada", "delivered"), ("bob", "deferred"), ("eve", "dead")] {
        let mail = serde_json::json!({"from": "shop@example.com",
            "to": format!("{to}@example.org"), "subject": subject, "text": "t",
            "tags": ["<b onmouseover=alert(4)>"]});
        let answer = service.post("/v1/mails", &mail.to_string());
        assert_eq!(answer.status, 202, "{answer:?}");
        service.become_all(&[answer.json()["id"].as_str().unwrap().to_owned()], state);
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let url = format!("http://{}", service.http);
    let output = Command::new("node")
        .arg(root.join("tests/clients/page/browser.cjs"))
        .arg(url)
        .args(std::env::var_os("POSTRIDER_PICTURES"))
        .env("NODE_PATH", root.join("target/clients/node_modules"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{said}; test.sh installs what is missing"
    );
}

/// A page that was open during a restart can tell that another run answers, although the journal's
/// numbers go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_run_of_the_service_has_an_instance_of_its_own() {
    let relay = FakeSmtp::start().await;
    let dir = tempfile::tempdir().unwrap();
    let config = configuration(&dir.path().join("spool"), &relay.url(), "");
    let mut instances = Vec::new();
    for _ in 0..2 {
        let mut service = Service::start(configured(dir.path(), &config));
        let answer = service.get("/v1/session");
        assert_eq!(answer.status, 200, "{answer:?}");
        instances.push(answer.json()["instance"].as_str().unwrap().to_owned());
        assert!(service.stop().success());
    }
    assert_ne!(instances[0], instances[1]);
}

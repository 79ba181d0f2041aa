//! The page and the status for end users in a real browser, before the real binary. Without
//! Chromium and the packages of `test.sh` the tests fail and say so.
#![cfg(all(feature = "server", target_os = "linux"))]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout};

use crate::common::service::{Service, configuration, configured};
use crate::common::{Act, FakeSmtp, Rule, Step};

mod looks;

#[path = "../../examples/signup/main.rs"]
#[allow(dead_code, unreachable_pub)]
mod signup;

/// The token of somebody who may look, and of a program that submits.
const SECRET: &str = "read-secret-read-secret";
const TOKENS: &str = "[[http.tokens]]\nname = \"eye\"\ntoken = \"read-secret-read-secret\"\n\
                      scope = \"read\"\n\
    [[http.tokens]]\nname = \"app\"\ntoken = \"send-secret-send-secret\"\nscope = \"send\"\n";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn node(script: &str) -> Command {
    let mut command = Command::new("node");
    command
        .arg(root().join("tests/clients/page").join(script))
        .env("NODE_PATH", root().join("target/clients/node_modules"));
    command
}

/// What it said, where it ended well.
#[track_caller]
fn well(output: Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{said}{}; test.sh installs what is missing",
        String::from_utf8_lossy(&output.stdout)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Before a relay that makes trouble, and one that captures what has the tag `captured`.
async fn service(dir: &Path, more: &str) -> (FakeSmtp, Service) {
    let relay = FakeSmtp::start().await;
    let hostile = Act::Reply(550, "5.1.1 <script>alert(1)</script> no such user".into());
    relay.rule(Rule::at(Step::Rcpt).to("eve").act(hostile));
    let greylisted = Act::Reply(451, "4.7.1 greylisted".into());
    relay.rule(Rule::at(Step::Rcpt).to("bob").act(greylisted));
    let more = format!(
        "[[relays]]\nname = \"kept\"\nurl = \"capture://\"\n\
         [[routes]]\nmatch = {{ tag = [\"captured\"] }}\nrelays = [\"kept\"]\n\
         [[routes]]\nrelays = [\"primary\"]\n{more}"
    );
    let config = configuration(&dir.join("spool"), &relay.url(), &more);
    (relay, Service::start(configured(dir, &config)))
}

fn hand_in(service: &Service, mail: serde_json::Value, state: &str) {
    let answer = service.post("/v1/mails", &mail.to_string());
    assert_eq!(answer.status, 202, "{answer:?}");
    service.become_all(&[answer.json()["id"].as_str().unwrap().to_owned()], state);
}

/// One mail of each kind, and five that wait for their time.
fn hand_in_some(service: &Service) {
    let subject = "<img src=x onerror=alert(1)><script>alert(2)</script> gnp.exe";
    for (to, state) in [("ada", "delivered"), ("bob", "deferred"), ("eve", "dead")] {
        let mail = serde_json::json!({"from": "shop@example.com",
            "to": format!("{to}@example.org"), "subject": subject, "text": "t",
            "tags": ["<b onmouseover=alert(4)>"]});
        hand_in(service, mail, state);
    }

    for n in 0..5 {
        let mail = serde_json::json!({"from": "shop@example.com", "delay": "1h", "tags": ["many"],
            "to": format!("many{n}@example.org"), "subject": "One of many", "text": "t"});
        hand_in(service, mail, "scheduled");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_dialog_holds_the_focus_and_gives_it_back_and_no_mouse_is_needed() {
    let dir = tempfile::tempdir().unwrap();
    let (_relay, service) = service(dir.path(), "").await;
    hand_in_some(&service);
    let url = format!("http://{}", service.http);
    well(node("dialogs.cjs").arg(url).output().unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_act_asks_first_and_does_what_it_says() {
    let dir = tempfile::tempdir().unwrap();
    let (_relay, service) = service(dir.path(), "").await;
    hand_in_some(&service);

    let mail = serde_json::json!({"from": "shop@example.com", "to": "ada@example.org",
        "subject": "Welcome to the shop", "text": "Your code is 482913: https://shop.example/c?t=1",
        "html": "<h1>Welcome</h1><p>Your code is <b>482913</b>, or <a \
                 href=\"https://shop.example/c?t=1\">confirm</a>.</p>",
        "tags": ["captured"]});

    hand_in(&service, mail, "delivered");
    let mut walk = node("browser.cjs");
    walk.arg(format!("http://{}", service.http));
    well(walk.output().unwrap());
}

/// Looks at one third of the hostile mails.
async fn look_at_hostile_mail(third: usize) {
    let dir = tempfile::tempdir().unwrap();
    let (_relay, service) = service(dir.path(), "").await;
    let url = format!("http://{}", service.http);
    well(
        node("hostile.cjs")
            .args([url, third.to_string()])
            .output()
            .unwrap(),
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_hostile_mail_of_the_first_third_runs_loads_or_breaks_out() {
    look_at_hostile_mail(0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_hostile_mail_of_the_second_third_runs_loads_or_breaks_out() {
    look_at_hostile_mail(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_hostile_mail_of_the_last_third_runs_loads_or_breaks_out() {
    look_at_hostile_mail(2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_user_sees_how_far_the_mail_is_while_its_relay_makes_trouble() {
    let shop = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", shop.local_addr().unwrap());
    let _open = signup::open(shop).await.unwrap();
    let mut look = node("status.cjs");
    let look = tokio::task::spawn_blocking(move || look.arg(url).output());
    well(look.await.unwrap().unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn seven_tabs_share_one_stream_of_events() {
    let dir = tempfile::tempdir().unwrap();
    let (_relay, service) = service(dir.path(), "").await;
    let url = format!("http://{}", service.http);
    well(node("many.cjs").args([&url, "tabs"]).output().unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_means_nothing_leaves_no_empty_page() {
    let dir = tempfile::tempdir().unwrap();
    let (_relay, service) = service(dir.path(), "").await;
    hand_in_some(&service);
    let url = format!("http://{}", service.http);
    well(node("many.cjs").args([&url, "odd"]).output().unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn back_finds_a_list_where_it_was_left() {
    let dir = tempfile::tempdir().unwrap();
    let (_relay, service) = service(dir.path(), "").await;
    let mail = serde_json::json!({"from": "shop@example.com", "to": "ada@example.org",
        "subject": "One of many", "text": "t", "delay": "1h"});
    let batch = serde_json::json!({ "mails": vec![mail; 170] }).to_string();
    assert_eq!(service.post("/v1/mails/batch", &batch).status, 202);

    let url = format!("http://{}", service.http);
    well(node("many.cjs").args([&url, "back"]).output().unwrap());
}

/// A browser that goes along with a test: what it is told, and the lines that it says.
fn watched(service: &Service, mode: &str) -> (Child, ChildStdin, Lines<BufReader<ChildStdout>>) {
    let mut page = tokio::process::Command::from(node("many.cjs"));
    page.args([&format!("http://{}", service.http), mode, SECRET]);
    page.stdin(std::process::Stdio::piped());
    page.stdout(std::process::Stdio::piped());
    page.stderr(std::process::Stdio::piped()).kill_on_drop(true);

    let mut page = page.spawn().unwrap();
    let told = page.stdin.take().unwrap();
    let says = BufReader::new(page.stdout.take().unwrap()).lines();
    (page, told, says)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_page_finds_the_service_again_and_has_missed_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let relay = FakeSmtp::start().await;
    let config = configuration(&dir.path().join("spool"), &relay.url(), "");
    let mut service = Service::start(configured(dir.path(), &config));
    let address = service.http;
    let fixed = config.replacen("127.0.0.1:0", &address.to_string(), 1);

    let (page, mut told, mut says) = watched(&service, "restart");
    assert_eq!(says.next_line().await.unwrap().as_deref(), Some("open"));
    assert!(service.stop().success());
    told.write_all(b"\n").await.unwrap();

    assert_eq!(says.next_line().await.unwrap().as_deref(), Some("lost"));
    let service = Service::start(configured(dir.path(), &fixed));
    let answer = service.hand_in("meanwhile@example.org", "t");
    assert_eq!(answer.status, 202);
    told.write_all(b"\n").await.unwrap();
    well(page.wait_with_output().await.unwrap());
}

/// As many mails a second as this machine gives, for ten seconds; how many that were.
fn pour(service: &Service) -> u64 {
    let mail = serde_json::json!({"from": "shop@example.com", "to": "ada@example.org",
        "subject": "One of very many", "text": "t", "tags": ["captured"]});
    let batch = serde_json::json!({ "mails": vec![mail; 200] }).to_string();
    let begun = std::time::Instant::now();
    let mut count = 0;
    while begun.elapsed().as_secs() < 10 {
        assert_eq!(service.post("/v1/mails/batch", &batch).status, 202);
        count += 200;
    }
    count
}

/// With `--nocapture` it says what the page costs the service: the rate while three tabs show what
/// happens, and the rate while none does, of another service right before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mail_that_pours_in_does_not_slow_the_page_or_make_it_grow() {
    let alone = {
        let dir = tempfile::tempdir().unwrap();
        let (_relay, service) = service(dir.path(), "").await;
        pour(&service)
    };

    let dir = tempfile::tempdir().unwrap();
    let (_relay, service) = service(dir.path(), "").await;
    let (page, mut told, mut says) = watched(&service, "load");
    let said = says.next_line().await.unwrap();
    if said.as_deref() != Some("open") {
        well(page.wait_with_output().await.unwrap());
        panic!("it said {said:?}");
    }

    let count = pour(&service);
    println!(
        "{} mails/s beside three tabs, {} without, {:.2}",
        count / 10,
        alone / 10,
        count as f64 / alone as f64
    );
    told.write_all(format!("{count}\n").as_bytes())
        .await
        .unwrap();
    let said = says.next_line().await.unwrap();
    println!("{said:?}");
    well(page.wait_with_output().await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_signs_in_to_look_is_offered_no_act() {
    let dir = tempfile::tempdir().unwrap();
    let relay = FakeSmtp::start().await;
    let config = configuration(&dir.path().join("spool"), &relay.url(), TOKENS);
    let service = Service::start(configured(dir.path(), &config));

    let to = service.say("ada@example.org");
    assert!(to.starts_with("250"), "{to}");
    let url = format!("http://{}", service.http);

    let mut look = node("many.cjs");
    well(look.args([&url, "token", SECRET]).output().unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_signed_in_is_asked_again_after_a_restart_and_hears_what_happens_then() {
    let dir = tempfile::tempdir().unwrap();
    let relay = FakeSmtp::start().await;
    let config = configuration(&dir.path().join("spool"), &relay.url(), TOKENS);
    let mut service = Service::start(configured(dir.path(), &config));
    let fixed = config.replacen("127.0.0.1:0", &service.http.to_string(), 1);

    let (page, mut told, mut says) = watched(&service, "ended");
    assert_eq!(says.next_line().await.unwrap().as_deref(), Some("in"));
    assert!(service.stop().success());
    let service = Service::start(configured(dir.path(), &fixed));
    told.write_all(b"\n").await.unwrap();

    assert_eq!(says.next_line().await.unwrap().as_deref(), Some("in again"));
    let to = service.say("ada@example.org");
    assert!(to.starts_with("250"), "{to}");
    well(page.wait_with_output().await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_signs_out_or_loses_the_token_is_out_in_every_tab() {
    let dir = tempfile::tempdir().unwrap();
    let relay = FakeSmtp::start().await;
    let config = configuration(&dir.path().join("spool"), &relay.url(), TOKENS);
    let mut service = Service::start(configured(dir.path(), &config));

    let (page, mut told, mut says) = watched(&service, "out");
    let said = says.next_line().await.unwrap();
    if said.as_deref() != Some("in") {
        well(page.wait_with_output().await.unwrap());
        panic!("it said {said:?}");
    }
    let file = dir.path().join("postrider.toml");
    std::fs::write(&file, config.replace(SECRET, "other-secret-other-secret")).unwrap();
    service.signal("HUP");
    service.says("the configuration was read again");
    told.write_all(b"\n").await.unwrap();
    well(page.wait_with_output().await.unwrap());
}

#[test]
fn the_page_is_small_and_its_types_hold() {
    let folder = root().join("src/ingress/http/page");
    println!("{}", well(node("budget.cjs").arg(folder).output().unwrap()));
    let modules: PathBuf = root().join("target/clients/node_modules");
    let mut check = Command::new("node");
    check.arg(modules.join("typescript/lib/tsc.js"));
    check
        .arg("-p")
        .arg(root().join("tests/clients/page/tsconfig.json"));
    well(check.output().unwrap());
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

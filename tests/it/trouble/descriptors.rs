//! No file descriptors left: the doors wait for some to come back, at rest, and everything goes on
//! then.

use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::common::FakeSmtp;
use crate::common::service::{Service, configuration, configured, try_call};
use crate::trouble::service_dir::{arrived, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn doors_without_file_descriptors_rest_and_say_so_and_go_on_when_there_are_some() {
    let dir = tempfile::tempdir().unwrap();
    let relay = FakeSmtp::start().await;
    let config = configuration(&dir.path().join("spool"), &relay.url(), "");
    let mut service = Service::start(configured(dir.path(), &config));
    let early = service.hand_in_many("early", 3, "123456");

    // Due while there is no descriptor for a connection to the relay, unless one of before is still
    // open.
    let mail = r#"{"from": "shop@example.com", "to": "due@example.org", "subject": "s",
        "text": "t", "delay": "1s"}"#;
    let due = service.post("/v1/mails", mail).json()["id"]
        .as_str()
        .unwrap()
        .to_owned();

    // Something takes them away while it runs, such as a limit of the whole system.
    let most = service.descriptors() + 20;
    let limited = Command::new("prlimit")
        .args(["--pid", &service.pid().to_string()])
        .arg(format!("--nofile={most}:"))
        .status();

    assert!(limited.unwrap().success());
    let mut idle: Vec<TcpStream> = (0..80)
        .map(|_| TcpStream::connect(service.http).unwrap())
        .collect();

    service.says("cannot take an HTTP connection");
    idle.extend((0..5).map(|_| TcpStream::connect(service.smtp).unwrap()));
    service.says("smtp connection cannot be accepted");
    let (before, begun) = (service.computed(), Instant::now());

    std::thread::sleep(Duration::from_secs(3));
    let busy = (service.computed() - before).as_secs_f64() / begun.elapsed().as_secs_f64();
    assert!(
        busy < 0.3,
        "it rests while it cannot go on, and {busy:.2} of a core is busy"
    );

    let complaints = service.log().matches("cannot").count();
    assert!(complaints < 150, "{complaints} complaints in a few seconds");

    drop(idle);
    eventually("a door that answers", || {
        try_call(service.http, "GET", "/health/ready", "").is_ok()
    });

    let later = service.hand_in_many("later", 3, "123456");
    assert!(service.say("over-smtp@example.org").starts_with("250 "));
    let all = [early, vec![due], later].concat();
    service.become_all(&all, "delivered");
    relay.mails_arrive(8).await;

    assert!(service.stop().success());
    let arrived = arrived(&relay);
    assert!(
        arrived.len() == 8 && arrived.values().all(|count| *count == 1),
        "{arrived:?}"
    );
}

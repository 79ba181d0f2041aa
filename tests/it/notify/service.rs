//! Webhooks of the running service: configured, asked about, killed.

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::json;

use crate::common::service::{Service, configuration, configured};
use crate::common::{Receiver, Response, eventually};

const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";

fn hook(name: &str, receiver: &Receiver, more: &str) -> String {
    format!(
        "[[webhooks]]\nname = \"{name}\"\nurl = \"{}\"\nsecret = \"{SECRET}\"\n\
         allow_private = true\n{more}\n",
        receiver.url()
    )
}

/// A command of the command line, told where the service is.
fn ask(service: &Service, arguments: &[&str]) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_postrider"))
        .args(arguments)
        .env("POSTRIDER_URL", format!("http://{}", service.http))
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(said).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_committed_before_a_kill_is_sent_after_it_under_the_same_id() {
    let dir = tempfile::tempdir().unwrap();
    // The first call is heard and never answered: whether it came cannot be known.
    let receiver = Receiver::answering(|_, n| match n {
        0 => Response::Nothing,
        _ => Response::Status(200),
    })
    .await;

    let more = hook(
        "shop",
        &receiver,
        "events = [\"accepted\", \"delivered\"]\nconnections = 1",
    );

    let config = configuration(&dir.path().join("spool"), "capture://", &more);
    let mut service = Service::start(configured(dir.path(), &config));
    let ids = service.hand_in_many("user", 20, "123456");
    receiver.comes_to(1).await;
    service.become_all(&ids, "delivered");
    service.kill();

    let before = receiver.calls();
    assert_eq!(before.len(), 1);

    let mut service = Service::start(configured(dir.path(), &config));
    eventually("all are told", async || {
        let calls = receiver.calls();
        let told = |id: &String, kind: &str| {
            let of_it = |call: &&crate::common::ReceivedCall| {
                call.kind() == kind && call.json()["data"]["id"] == id.as_str()
            };
            calls[1..].iter().filter(of_it).count()
        };
        ids.iter()
            .all(|id| told(id, "accepted") == 1 && told(id, "delivered") == 1)
    })
    .await;

    let calls = receiver.calls();
    assert!(
        calls[1..]
            .iter()
            .any(|call| call.id() == before[0].id() && call.body == before[0].body)
    );

    assert!(service.stop().success(), "{}", service.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn people_look_at_webhooks_try_them_and_have_messages_sent_again() {
    let dir = tempfile::tempdir().unwrap();
    let receiver = Receiver::start().await;
    std::fs::write(dir.path().join("secret"), format!("{SECRET}\n")).unwrap();
    let more = format!(
        "[[webhooks]]\nname = \"shop\"\nurl = \"{}?token=hunter2\"\nsecret_file = {:?}\n\
         allow_private = true\n",
        receiver.url(),
        dir.path().join("secret"),
    );

    let config = configuration(&dir.path().join("spool"), "capture://", &more);
    let service = Service::start(configured(dir.path(), &config));
    service.hand_in_many("user", 3, "123456");
    receiver.comes_to(3).await;

    let listed = service.get("/v1/webhooks");
    assert!(
        !listed.body.contains("hunter2") && !listed.body.contains("whsec"),
        "{}",
        listed.body
    );

    let shop = &listed.json()["webhooks"][0];
    assert_eq!(
        (&shop["name"], &shop["state"]),
        (&"shop".into(), &"active".into())
    );

    assert_eq!(shop["last"]["status"], 204);
    let (done, said) = ask(&service, &["webhook", "list"]);
    assert!(
        done && said.contains("shop") && said.contains("active"),
        "{said}"
    );

    let tested = service.post("/v1/webhooks/shop/test", "");
    assert_eq!(
        (tested.status, &tested.json()["delivered"]),
        (200, &json!(true)),
        "{tested:?}"
    );

    let (done, said) = ask(&service, &["webhook", "test", "shop"]);
    assert!(done && said.contains("204"), "{said}");
    let calls = receiver.comes_to(5).await;
    assert!(calls[3].kind() == "test" && calls[4].kind() == "test");

    let (done, said) = ask(&service, &["webhook", "redeliver", "shop", "--since", "1h"]);
    assert!(done, "{said}");
    let calls = receiver.comes_to(8).await;
    // Several are under way at once, so that the order is not theirs.
    let ids = |from: usize, to: usize| -> BTreeSet<&str> {
        calls[from..to].iter().map(|call| call.id()).collect()
    };
    assert_eq!(ids(5, 8), ids(0, 3));

    let body = json!({"id": calls[1].id()}).to_string();
    let again = service.post("/v1/webhooks/shop/redeliver", &body);
    assert_eq!(again.status, 202, "{again:?}");
    assert_eq!(receiver.comes_to(9).await[8].id(), calls[1].id());

    receiver.answers(|_, _| Response::Status(500));
    let (done, said) = ask(&service, &["webhook", "test", "shop"]);
    assert!(!done && said.contains("500"), "{said}");
    for (path, body, status) in [
        ("/v1/webhooks/nobody/test", "", 404),
        ("/v1/webhooks/nobody/redeliver", "", 404),
        ("/v1/webhooks/shop/redeliver", "{\"id\": \"msg_x_1\"}", 404),
        (
            "/v1/webhooks/shop/redeliver",
            "{\"since\": \"yesterdayish\"}",
            422,
        ),
        ("/v1/webhooks/shop/redeliver", "{\"when\": 1}", 422),
        (
            "/v1/webhooks/shop/redeliver",
            "{\"since\": \"2999-01-31T12:00:00Z\"}",
            422,
        ),
        ("/v1/webhooks/shop/redeliver", "{", 400),
    ] {
        assert_eq!(service.post(path, body).status, status, "{path} {body}");
    }

    let audit = service.get("/v1/audit?act=redeliver").json();
    assert_eq!(audit["entries"][0]["filter"], "webhook shop", "{audit}");
    let (done, said) = ask(&service, &["webhook", "secret"]);
    assert!(done && said.starts_with("whsec_"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_puts_webhooks_in_force_and_those_that_stay_lose_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = (Receiver::start().await, Receiver::start().await);

    let spool = dir.path().join("spool");
    let config = configuration(&spool, "capture://", &hook("first", &first, ""));
    let mut service = Service::start(configured(dir.path(), &config));
    service.hand_in_many("before", 2, "x");
    first.comes_to(2).await;

    let both = format!(
        "{}{}",
        hook("first", &first, ""),
        hook("second", &second, "")
    );

    let config = configuration(&spool, "capture://", &both);
    std::fs::write(dir.path().join("postrider.toml"), config).unwrap();

    let hung_up = Command::new("kill")
        .args(["-HUP", &service.pid().to_string()])
        .status();
    assert!(hung_up.unwrap().success());
    service.says("the configuration was read again");
    service.hand_in_many("after", 2, "x");

    assert_eq!(first.comes_to(4).await.len(), 4);
    let told = second.comes_to(2).await;
    assert!(told.iter().all(|call| call.body.contains("after")));
}

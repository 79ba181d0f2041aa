//! A spool that may keep so many bytes, at the doors of the service.
#![cfg(target_os = "linux")]

use crate::common::FakeSmtp;
use crate::common::service::{Service, configuration, configured};
use crate::common::test_spool::is_of_files;

#[test]
fn a_spool_that_holds_as_much_as_it_may_is_full_at_every_door_until_something_has_ended() {
    if is_of_files("the bytes that a spool may have") {
        return;
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let relay = runtime.block_on(FakeSmtp::start());
    let home = tempfile::tempdir().unwrap();
    let config = configuration(&home.path().join("spool"), &relay.url(), "");
    let config = format!("{config}max_size = \"1MiB\"\naccept_timeout = \"10ms\"\n");
    let service = Service::start(configured(home.path(), &config));
    assert_eq!(service.post("/v1/relays/primary/pause", "").status, 200);

    let text = "a line of some length that is repeated\n".repeat(1500);
    let mut ids = Vec::new();
    let refused = loop {
        let answer = service.hand_in("ada@example.org", &text);
        if answer.status != 202 {
            break answer;
        }
        ids.push(answer.json()["id"].as_str().unwrap().to_owned());
        assert!(ids.len() < 20, "more is kept than may be");
    };

    refused.is_come_back_later();
    assert!(refused.body.contains("spool.max_size"), "{}", refused.body);
    assert!(ids.len() > 10, "{}", ids.len());
    let small = (0..700).map(|n| service.say(&format!("user{n}@example.org")));
    let said = small
        .into_iter()
        .find(|said| !said.starts_with("250"))
        .expect("it is full");

    assert!(said.starts_with("452 4.3.1 "), "{said}");
    let (ready, reason) = service.readiness();
    assert!(!ready && reason.contains("spool.max_size"), "{reason}");

    assert_eq!(service.post("/v1/relays/primary/resume", "").status, 200);
    service.become_all(&ids, "delivered");
    for _ in 0..30 {
        let answer = service.hand_in("ada@example.org", &text);
        assert_eq!(answer.status, 202, "{}", answer.body);
        let id = answer.json()["id"].as_str().unwrap().to_owned();
        service.become_all(&[id], "delivered");
    }

    assert_eq!(service.get(&format!("/v1/mails/{}", ids[0])).status, 404);
}

//! A disk that has too little room: nothing more is accepted, everything that was goes out; and one
//! that has none at all.

use std::time::Duration;

use crate::common::service::Service;
use crate::common::{Act, FakeSmtp, Rule, Step};
use crate::trouble::disk::{Disk, MIB};
use crate::trouble::service_dir::{
    arrived, eventually, refuses_everywhere, start, start_with, verify,
};

/// What the spool keeps free, as its error says.
const RESERVE: u64 = 64 * MIB;

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_nearly_full_takes_no_mail_in_and_lets_it_out_and_recovers_by_itself() {
    let Some(disk) = Disk::of(RESERVE + 64 * MIB) else {
        return;
    };

    let relay = FakeSmtp::start().await;
    let mut service = start(&disk, &relay);
    assert_eq!(service.post("/v1/relays/primary/pause", "").status, 200);
    let queued = service.hand_in_many("early", 30, "123456");
    assert!(service.readiness().0);

    disk.fill_until(RESERVE - 8 * MIB);
    refuses_everywhere(&service, "bytes left");
    let free = disk.free();
    for _ in 0..10 {
        service
            .hand_in(
                "large@example.org",
                &"a line of some length\n".repeat(50_000),
            )
            .is_come_back_later();
    }

    assert!(
        disk.free() + MIB > free,
        "what is refused takes no room: {free} bytes became {}",
        disk.free()
    );

    assert_eq!(service.post("/v1/relays/primary/resume", "").status, 200);
    service.become_all(&queued, "delivered");
    assert!(!service.readiness().0, "there is still no room");

    disk.make_room();
    eventually("ready again", || service.readiness().0);
    let later = service.hand_in_many("later", 5, "123456");
    assert!(service.say("over-smtp@example.org").starts_with("250 "));
    service.become_all(&later, "delivered");
    relay.mails_arrive(36).await;

    assert!(service.stop().success());
    let arrived = arrived(&relay);
    assert!(
        arrived.len() == 36 && arrived.values().all(|count| *count == 1),
        "each came once: {arrived:?}"
    );

    verify(&disk.at("spool"));
}

#[tokio::test(flavor = "multi_thread")]
async fn mail_goes_out_over_a_disk_without_a_byte_left_and_none_comes_in() {
    let Some(disk) = Disk::of(RESERVE + 64 * MIB) else {
        return;
    };

    let relay = FakeSmtp::start().await;
    let mut service = start_with(&disk, &relay, "connections = 1");
    assert_eq!(service.post("/v1/relays/primary/pause", "").status, 200);
    let queued = service.hand_in_many("early", 500, "123456");

    disk.fill_until(0);
    refuses_everywhere(&service, "bytes left");
    assert_eq!(service.post("/v1/relays/primary/resume", "").status, 200);
    service.become_all(&queued, "delivered");
    answers_everything(&service, &queued);

    disk.make_room();
    eventually("ready again", || service.readiness().0);
    let later = service.hand_in_many("later", 5, "123456");
    service.become_all(&later, "delivered");

    assert!(service.stop().success());
    let arrived = arrived(&relay);
    assert!(
        arrived.len() == 505 && arrived.values().all(|count| *count == 1),
        "each came once: {arrived:?}"
    );

    verify(&disk.at("spool"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_without_a_byte_left_for_long_stops_delivery_and_it_goes_on_by_itself_once_there_is_room()
 {
    let Some(disk) = Disk::of(RESERVE + 64 * MIB) else {
        return;
    };
    let relay = FakeSmtp::start().await;
    let mut service = start_until_it_takes_no_more(&disk, &relay);
    let queued = service.hand_in_many("early", 500, "123456");

    disk.fill_until(0);
    assert_eq!(service.post("/v1/relays/primary/resume", "").status, 200);
    service.says("the spool takes no more");
    relay.behave();
    refuses_everywhere(&service, "cannot be written");
    answers_everything(&service, &queued);

    let sent = sent_and_no_more(&relay);
    assert!(
        sent < queued.len(),
        "nothing is sent that cannot be recorded, and {sent} were"
    );

    disk.make_room();
    service.says("the spool can be written again");
    service.become_all(&queued, "delivered");
    eventually("ready again", || service.readiness().0);

    let later = service.hand_in_many("later", 5, "123456");
    assert!(service.say("over-smtp@example.org").starts_with("250 "));
    service.become_all(&later, "delivered");
    relay.mails_arrive(506).await;

    let arrived = arrived(&relay);
    assert!(
        arrived.len() == 506 && arrived.values().all(|count| *count == 1),
        "each came once: {arrived:?}"
    );

    assert!(service.stop().success());
    verify(&disk.at("spool"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_without_a_byte_left_loses_none_when_the_service_is_stopped_meanwhile() {
    let Some(disk) = Disk::of(RESERVE + 64 * MIB) else {
        return;
    };
    let relay = FakeSmtp::start().await;
    let mut service = start_until_it_takes_no_more(&disk, &relay);
    let queued = service.hand_in_many("early", 500, "123456");

    disk.fill_until(0);
    assert_eq!(service.post("/v1/relays/primary/resume", "").status, 200);
    service.says("the spool takes no more");
    relay.behave();
    sent_and_no_more(&relay);
    service.stop();

    disk.make_room();
    let mut service = start(&disk, &relay);
    service.become_all(&queued, "delivered");

    let arrived = arrived(&relay);
    assert_eq!(arrived.len(), queued.len(), "all came");

    let twice = arrived.values().filter(|count| **count > 1).count();
    // One connection has at most so many outcomes on their way to the disk, and one mail in its
    // hands.
    assert!(
        twice <= 65 && arrived.values().all(|count| *count <= 2),
        "{twice} came twice: {arrived:?}"
    );

    assert!(service.stop().success());
    verify(&disk.at("spool"));
}

/// A service that writes and writes: its relay is paused, and then defers all mail again and again
/// with long words, which are kept.
fn start_until_it_takes_no_more(disk: &Disk, relay: &FakeSmtp) -> Service {
    let words = format!("4.2.1 later {}", "and later still ".repeat(25));
    relay.rule(Rule::at(Step::Rcpt).act(Act::reply(450, &words)));
    let retry = "[retry]\nschedule = [\"20ms\"]\njitter = \"none\"";
    let service = start_with(disk, relay, &format!("connections = 4\n{retry}"));
    assert_eq!(service.post("/v1/relays/primary/pause", "").status, 200);
    service
}

#[track_caller]
fn answers_everything(service: &Service, mails: &[String]) {
    let readable = mails
        .iter()
        .filter(|id| service.get(&format!("/v1/mails/{id}")).status == 200)
        .count();

    assert_eq!(readable, mails.len(), "what it has can still be read");
    for path in [
        "/health/live",
        "/metrics",
        "/v1/stats",
        "/v1/mails",
        "/v1/mails?state=dead",
        "/v1/relays",
    ] {
        assert_eq!(service.get(path).status, 200, "{path}");
    }
}

/// How many mails have come, once no more come for a while.
fn sent_and_no_more(relay: &FakeSmtp) -> usize {
    loop {
        let before = relay.mails().len();
        std::thread::sleep(Duration::from_millis(1500));
        if relay.mails().len() == before {
            return before;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_on_a_disk_without_a_byte_left_asks_to_be_tried_again_and_says_why() {
    let Some(disk) = Disk::of(RESERVE + 64 * MIB) else {
        return;
    };

    let relay = FakeSmtp::start().await;
    let mut service = start(&disk, &relay);
    service.hand_in_many("early", 5, "123456");
    service.kill();

    disk.fill_until(0);
    let said = std::process::Command::new(env!("CARGO_BIN_EXE_postrider"))
        .arg("run")
        .current_dir(disk.beside())
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&said.stderr);
    assert_eq!(said.status.code(), Some(75), "{error}");
    assert!(error.contains("0 bytes left"), "{error}");

    disk.make_room();
    let mut service = start(&disk, &relay);
    let later = service.hand_in_many("later", 5, "123456");
    service.become_all(&later, "delivered");
    assert!(service.stop().success());
    verify(&disk.at("spool"));
}

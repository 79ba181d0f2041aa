//! The wall clock jumps by hours while mail is pending: libfaketime moves it under the real binary.
//!
//! Set forward by minutes, as after a sleep, what falls due or expires within the jump does so at
//! once. Set back, or forward by seconds, nothing waits longer and nothing expires for it.

use std::path::Path;
use std::process::Command;

use crate::common::real_servers::libfaketime;
use crate::common::service::{Service, configuration, configured};
use crate::common::{Act, FakeSmtp, Receiver, Rule, Step};
use crate::trouble::service_dir::arrived;

const DAY: std::time::Duration = std::time::Duration::from_secs(86_400);

/// Sets the service's clock so far off the real one. It looks again with each question.
fn set(dir: &Path, offset: &str) {
    // Never half written.
    std::fs::write(dir.join("offset.new"), format!("{offset}\n")).unwrap();
    std::fs::rename(dir.join("offset.new"), dir.join("offset")).unwrap();
}

fn hand_in(service: &Service, to: &str, more: &str) -> String {
    let mail = format!(
        r#"{{"from": "shop@example.com", "to": "{to}@example.org", "subject": "s",
            "text": "t"{more}}}"#
    );
    let answer = service.post("/v1/mails", &mail);
    assert_eq!(answer.status, 202, "{answer:?}");
    answer.json()["id"].as_str().unwrap().to_owned()
}

/// The service under a clock that [`set`] moves.
fn under_a_clock(dir: &Path, config: &str) -> Service {
    set(dir, "+0");
    let mut command: Command = configured(dir, config);
    command
        .env("LD_PRELOAD", libfaketime())
        .env("FAKETIME_TIMESTAMP_FILE", dir.join("offset"));
    command
        .env("FAKETIME_NO_CACHE", "1")
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .env("DONT_FAKE_MONOTONIC", "1");
    Service::start(command)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_set_back_a_day_or_forward_by_minutes_delays_nothing_and_ends_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let relay = FakeSmtp::start().await;
    relay.rule(
        Rule::at(Step::Rcpt)
            .to("deferred")
            .first(1)
            .act(Act::reply(450, "4.2.1 later")),
    );

    relay.rule(
        Rule::at(Step::Rcpt)
            .to("worthless")
            .act(Act::reply(450, "4.2.1 later")),
    );

    let config = configuration(
        &dir.path().join("spool"),
        &relay.url(),
        "[retry]\nschedule = [\"3s\"]\njitter = \"none\"\nmax_attempts = 100",
    );

    let mut service = under_a_clock(dir.path(), &config);
    let deferred = hand_in(&service, "deferred", "");
    let worthless = hand_in(&service, "worthless", r#", "expires_in": "10s""#);
    let soon = hand_in(&service, "soon", r#", "delay": "4s""#);

    let later = hand_in(
        &service,
        "later",
        r#", "delay": "250s", "expires_in": "270s""#,
    );
    service.become_all(&[deferred.clone(), worthless.clone()], "deferred");

    set(dir.path(), "-86400");
    let since = hand_in(&service, "since", r#", "delay": "4s""#);

    let clock = std::time::SystemTime::now() + std::time::Duration::from_secs(5) - DAY;
    let at = humantime::format_rfc3339_millis(clock);
    let by_the_wall = hand_in(&service, "by-the-wall", &format!(r#", "send_at": "{at}""#));
    service.become_all(&[deferred, soon, since, by_the_wall], "delivered");
    service.become_all(std::slice::from_ref(&worthless), "dead");

    set(dir.path(), "+240");
    let now = hand_in(&service, "now", r#", "expires_in": "60s""#);
    service.become_all(&[now], "delivered");
    assert_eq!(service.state(&later), "scheduled", "its time has not come");
    assert!(service.stop().success());

    let arrived = arrived(&relay);
    assert!(
        arrived.len() == 5 && arrived.values().all(|count| *count == 1),
        "{arrived:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_jumps_an_hour_both_ways_loses_nothing_and_ends_only_what_the_jump_explains() {
    let dir = tempfile::tempdir().unwrap();
    let relay = FakeSmtp::start().await;
    relay.rule(
        Rule::at(Step::Rcpt)
            .to("deferred")
            .act(Act::reply(450, "4.2.1 later")),
    );

    let config = configuration(
        &dir.path().join("spool"),
        &relay.url(),
        "[retry]\nschedule = [\"3s\"]\njitter = \"none\"\nmax_attempts = 100",
    );

    let mut service = under_a_clock(dir.path(), &config);
    let long = hand_in(&service, "deferred-long", r#", "expires_in": "2h""#);
    let short = hand_in(&service, "deferred-short", r#", "expires_in": "30m""#);
    let soon = hand_in(&service, "soon", r#", "delay": "30m""#);
    let tonight = hand_in(&service, "tonight", r#", "delay": "90m""#);
    service.become_all(&[long.clone(), short.clone()], "deferred");

    set(dir.path(), "+3600");
    service.become_all(std::slice::from_ref(&short), "dead");
    assert!(
        service
            .get(&format!("/v1/mails/{short}"))
            .body
            .contains("expired")
    );

    service.become_all(std::slice::from_ref(&soon), "delivered");
    let tries = |id: &str| {
        let status = service.get(&format!("/v1/mails/{id}")).json();
        status["deliveries"][0]["attempts"]
            .as_array()
            .unwrap()
            .len()
    };

    let before = tries(&long);
    crate::trouble::service_dir::eventually("retries go on", || tries(&long) > before + 1);
    assert_eq!(
        service.state(&tonight),
        "scheduled",
        "half an hour is left to it"
    );
    assert_eq!(service.state(&long), "deferred", "an hour is left to it");

    set(dir.path(), "+0");
    let at_once = hand_in(&service, "at-once", r#", "expires_in": "5m""#);
    service.become_all(std::slice::from_ref(&at_once), "delivered");
    assert_eq!(service.state(&tonight), "scheduled");
    assert_eq!(service.state(&long), "deferred");
    assert_eq!(service.state(&short), "dead", "what has ended stays so");
    relay.behave();

    assert_eq!(
        service.post(&format!("/v1/mails/{long}/retry"), "").status,
        200
    );
    service.become_all(std::slice::from_ref(&long), "delivered");

    set(dir.path(), "+7200");
    service.become_all(std::slice::from_ref(&tonight), "delivered");
    assert!(service.stop().success());

    let arrived = arrived(&relay);
    assert!(
        arrived.len() == 4 && arrived.values().all(|count| *count == 1),
        "{arrived:?}"
    );
}

/// Receivers refuse what seems to be signed long ago or later than now.
#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_is_signed_with_the_time_of_the_wall_after_the_clock_was_set_back() {
    let dir = tempfile::tempdir().unwrap();
    let receiver = Receiver::start().await;
    let hook = format!(
        "[[webhooks]]\nname = \"shop\"\nurl = \"{}\"\nallow_private = true\n\
         secret = \"whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD\"\nevents = [\"delivered\"]",
        receiver.url()
    );
    let config = configuration(&dir.path().join("spool"), "capture://", &hook);
    let mut service = under_a_clock(dir.path(), &config);
    hand_in(&service, "before", "");
    receiver.comes_to(1).await;

    set(dir.path(), "-7200");
    hand_in(&service, "after", "");
    let calls = receiver.comes_to(2).await;
    let signed: i64 = calls[1].header("webhook-timestamp").parse().unwrap();
    let wall = postrider::mail::Timestamp::now().as_millis() / 1000 - 7200;
    assert!((wall - signed).abs() < 120, "{signed}, and it was {wall}");
    assert!(service.stop().success());
}

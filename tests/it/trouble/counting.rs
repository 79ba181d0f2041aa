//! A service that is killed again and again while it counts what happens: its series, asked over
//! HTTP, count nothing twice and miss nothing.

use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::Value;

use crate::common::service::{Service, configuration, configured};
use crate::common::test_spool::is_postgres;
use crate::common::{Act, FakeSmtp, Rule, Step};

/// What the series say of the last half hour: accepted, delivered, deferred and dead.
fn counted(service: &Service) -> [u64; 4] {
    let answer = service.get("/v1/series?from=30m&step=10s");
    assert_eq!(answer.status, 200, "{answer:?}");
    let series = answer.json();
    let points = series["points"].as_array().unwrap();
    ["accepted", "delivered", "deferred", "dead"]
        .map(|of| points.iter().filter_map(|point| point[of].as_u64()).sum())
}

/// The same, from what the records of these mails say.
fn recorded(service: &Service, ids: &[String]) -> [u64; 4] {
    let mut counts = [ids.len() as u64, 0, 0, 0];
    for id in ids {
        let record = service.get(&format!("/v1/mails/{id}")).json();
        for delivery in record["deliveries"].as_array().unwrap() {
            match delivery["state"].as_str().unwrap() {
                "delivered" => counts[1] += 1,
                "dead" => counts[3] += 1,
                state => panic!("{state}: {record}"),
            }
            let attempts = delivery["attempts"].as_array().unwrap();
            let was_deferred = |attempt: &&Value| attempt["code"] == 450;
            counts[2] += attempts.iter().filter(was_deferred).count() as u64;
        }
    }
    counts
}

#[tokio::test(flavor = "multi_thread")]
async fn the_series_of_a_service_that_is_killed_are_those_of_its_records() {
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut choices = StdRng::seed_from_u64(seed);

    let later = Rule::at(Step::Rcpt)
        .to("later")
        .first(20)
        .act(Act::reply(450, "4.2.1 busy"));
    let never = Rule::at(Step::Rcpt)
        .to("never")
        .act(Act::reply(550, "5.1.1 no such user"));
    let relay = FakeSmtp::builder().rule(later).rule(never).start().await;

    let dir = tempfile::tempdir().unwrap();
    let config = configuration(&dir.path().join("spool"), &relay.url(), "")
        + "[retry]\nschedule = [\"1s\"]\njitter = \"none\"\n";

    let mut ids = Vec::new();
    let lives = 8;
    for life in 0..lives {
        let mut service = Service::start(configured(dir.path(), &config));
        for n in 0..choices.random_range(4..12) {
            let who = ["ada", "later", "never"][n % 3];
            ids.extend(service.hand_in_many(&format!("{who}-{life}-{n}-"), 1, "123456"));
        }

        // At any moment: at once, while it sends, or right after it has written what it counted.
        match choices.random_range(0..3) {
            0 => {}
            1 => {
                let moment = Duration::from_millis(choices.random_range(0..1500));
                tokio::time::sleep(moment).await;
            }
            _ => {
                counted(&service);
            }
        }
        service.kill();
    }

    let service = Service::start(configured(dir.path(), &config));
    let begun = Instant::now();
    while service.get("/v1/stats").json()["pending"] != 0 {
        assert!(
            begun.elapsed() < Duration::from_secs(40),
            "{}",
            service.log()
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    let expected = recorded(&service, &ids);
    // Where nodes share a spool, one that was killed counts until its lease is over, and what it
    // had not counted is counted by this one then.
    while is_postgres() && counted(&service) != expected {
        let counted = counted(&service);
        assert!(
            begun.elapsed() < Duration::from_secs(40),
            "{counted:?}, and not {expected:?}\n{}",
            service.log()
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(counted(&service), expected);
    assert!(expected.iter().all(|count| *count > 0), "{expected:?}");
    // To be asked twice counts nothing twice.
    assert_eq!(counted(&service), expected);
}

//! Requests that are made to take many times their size: they cost little memory and little time.

use std::time::{Duration, Instant};

use crate::common::FakeSmtp;
use crate::common::service::{Service, call, configuration, configured};

const MIB: usize = 1024 * 1024;

/// Nearly as large as a request may be, so much of it this.
fn full_of(before: &str, entry: &str, after: &str) -> String {
    let room = 34 * MIB - before.len() - after.len();
    let mut body = before.to_owned();
    body.push_str(&entry.repeat(room / entry.len()));
    body.truncate(body.trim_end_matches(',').len());
    body.push_str(after);
    body
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_takes_much_more_than_its_own_size() {
    let dir = tempfile::tempdir().unwrap();
    let relay = FakeSmtp::start().await;
    let config = configuration(&dir.path().join("spool"), &relay.url(), "");
    let service = Service::start(configured(dir.path(), &config));
    let before = service.peak_memory();

    let mail = r#"{"from":"a@example.org","to":"nobody","text":"x","#;
    let broken = |with: &str| format!("{mail}{with}");
    let bodies = [
        (
            "/v1/mails",
            full_of(&broken(r#""attachments":["#), "{},", "]}"),
        ),
        ("/v1/mails", full_of(&broken(r#""cc":["#), r#""","#, "]}")),
        ("/v1/mails", full_of(&broken(r#""tags":["#), "0,", "]}")),
        (
            "/v1/mails",
            full_of(&broken(r#""headers":{"#), r#""A":"","#, "}}"),
        ),
        ("/v1/mails", full_of(&broken(r#""unknown":["#), "[],", "]}")),
        ("/v1/mails", full_of(&broken(r#""unknown":"#), "[", "")),
        ("/v1/mails", full_of(&broken("\""), "\u{7f}", "\":1}")),
        (
            "/v1/mails",
            full_of(&broken(r#""attachments":""#), "\u{7f}", "\"}"),
        ),
        ("/v1/mails", full_of(&broken(r#""priority":""#), "x", "\"}")),
        ("/v1/mails/batch", full_of(r#"{"mails":["#, "{},", "]}")),
        ("/v1/mails/batch", full_of(r#"{"mails":""#, "\u{7f}", "\"}")),
        ("/v1/mails/batch", full_of(r#"{""#, "\u{7f}", "\":1}")),
        ("/v1/mails/batch", broken_batch()),
    ];

    for (path, body) in &bodies {
        let (begun, cpu) = (Instant::now(), service.computed());
        let answer = service.post(path, body);
        let computed = service.computed() - cpu;
        let about = format!("{path} {}", &body[..60]);
        println!(
            "{about}: {} in {:?}, {computed:?} computed, {} MiB at the most",
            answer.status,
            begun.elapsed(),
            service.peak_memory() / 1024
        );
        assert!(
            (400..500).contains(&answer.status) || answer.status == 202,
            "{about}"
        );
        assert!(answer.body.len() < MIB, "{about}: {}", answer.body.len());
        assert!(computed < Duration::from_secs(20), "{about}: {computed:?}");
    }

    let grown = (service.peak_memory() - before) as usize * 1024;
    assert!(grown < 200 * MIB, "{} MiB", grown / MIB);
}

#[tokio::test(flavor = "multi_thread")]
async fn several_requests_at_once_share_the_memory_that_there_is_for_them() {
    let dir = tempfile::tempdir().unwrap();
    let relay = FakeSmtp::start().await;
    let config = configuration(&dir.path().join("spool"), &relay.url(), "");
    let service = Service::start(configured(dir.path(), &config));
    let before = service.peak_memory();

    let mail = r#"{"from":"a@example.org","to":"nobody","text":"x","#;
    let attachments = full_of(&format!(r#"{mail}"attachments":["#), "{},", "]}");
    let unknown = full_of(&format!(r#"{mail}"unknown":["#), "[],", "]}");
    let requests = [
        ("/v1/mails", &attachments),
        ("/v1/mails", &unknown),
        ("/v1/mails", &attachments),
        ("/v1/mails/batch", &broken_batch()),
    ];

    std::thread::scope(|scope| {
        for (path, body) in requests {
            let http = service.http;
            scope.spawn(move || {
                let answer = call(http, "POST", path, body);
                // Of a batch, each mail is refused for itself.
                let is_told = [202, 422, 503].contains(&answer.status);
                assert!(is_told, "{path}: {}", answer.status);
            });
        }
    });

    let grown = (service.peak_memory() - before) as usize * 1024;
    println!("four at once: {} MiB", grown / MIB);
    assert!(grown < 400 * MIB, "{} MiB", grown / MIB);
}

/// `MAILS_TO_MANY=100` has more of them.
#[tokio::test(flavor = "multi_thread")]
async fn mail_to_ten_thousand_takes_little_more_memory_than_its_addresses() {
    const RECIPIENTS: usize = 10_000;
    let mails = std::env::var("MAILS_TO_MANY").map_or(20, |mails| mails.parse().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let relay = FakeSmtp::start().await;
    let config = configuration(&dir.path().join("spool"), &relay.url(), "");
    let service = Service::start(configured(dir.path(), &config));
    service.post("/v1/relays/primary/pause", "");
    let before = service.peak_memory();

    let everybody: Vec<String> = (0..RECIPIENTS)
        .map(|n| format!(r#""someone.with.a.name{n}@example{n}.org""#))
        .collect();
    let body = format!(
        r#"{{"from":"shop@example.com","bcc":[{}],"subject":"x","text":"x"}}"#,
        everybody.join(",")
    );
    for _ in 0..mails {
        let answer = service.post("/v1/mails", &body);
        assert_eq!(answer.status, 202, "{}", answer.body);
    }

    let (grown, peak) = (service.memory() - before, service.peak_memory() - before);
    println!("{} MiB, {} MiB at the most", grown / 1024, peak / 1024);
    let bound = 100 + 10 * mails;
    assert!(peak / 1024 < bound, "{} MiB at the most", peak / 1024);
}

/// Five hundred mails with thousands of mistakes each.
fn broken_batch() -> String {
    let addresses = vec![r#""nobody""#; 7000].join(",");
    let mail = format!(r#"{{"from":"nobody","to":[{addresses}]}}"#);
    format!(r#"{{"mails":[{}]}}"#, vec![mail; 500].join(","))
}

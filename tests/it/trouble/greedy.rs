//! Requests that are made to take many times their size: they cost little memory and little time.

use std::time::{Duration, Instant};

use crate::common::FakeSmtp;
use crate::common::service::{Service, configuration, configured};

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

/// Five hundred mails with thousands of mistakes each.
fn broken_batch() -> String {
    let addresses = vec![r#""nobody""#; 7000].join(",");
    let mail = format!(r#"{{"from":"nobody","to":[{addresses}]}}"#);
    format!(r#"{{"mails":[{}]}}"#, vec![mail; 500].join(","))
}

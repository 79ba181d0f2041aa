//! The numbers for Prometheus: every family that was promised, with its labels, counting what
//! happened.

use postrider::{Clock, Priority, seconds};

use crate::common::{
    Act, EventLog, FakeSmtp, Rule, Step, TestSpool, engine, mail, mail_to, relay_at, submit,
    test_spool::is_of_files,
};

/// The value of one line, to the letter of its name and labels.
fn value(text: &str, line: &str) -> f64 {
    let found = text
        .lines()
        .find_map(|l| l.strip_prefix(line)?.strip_prefix(' ')?.parse().ok());
    found.unwrap_or_else(|| panic!("no `{line}` in\n{text}"))
}

#[tokio::test]
async fn every_family_counts_what_happened() {
    let server = FakeSmtp::builder()
        .rule(
            Rule::at(Step::Rcpt)
                .to("later@")
                .first(1)
                .act(Act::reply(450, "4.2.1 busy")),
        )
        .rule(
            Rule::at(Step::Rcpt)
                .to("no@")
                .act(Act::reply(550, "5.1.1 no such user")),
        )
        .start()
        .await;
    let clock = Clock::fake();

    let dir = tempfile::tempdir().unwrap();
    let postrider = engine(relay_at(&server).connections(4), &clock)
        .test_spool_in(dir.path())
        .start()
        .await
        .unwrap();
    let mut told = EventLog::by(&postrider);

    submit(&postrider, mail("later@example.org")).await;
    told.first("deferred").await;
    clock.advance(seconds(60));
    told.first("delivered").await;

    let code = mail_to("ada@example.org")
        .priority(Priority::Critical)
        .build()
        .unwrap();

    postrider.for_door("http").submit(code).await.unwrap();
    told.first("delivered").await;
    submit(&postrider, mail("no@example.org")).await;
    told.first("dead").await;
    postrider.crash("router");

    crate::common::eventually("the router is back", async || {
        postrider
            .metrics()
            .await
            .is_ok_and(|text| text.contains("actor_restarts_total{actor=\"router\"} 1"))
    })
    .await;
    postrider.pause("primary").await.unwrap();

    submit(
        &postrider,
        mail_to("bob@example.org")
            .priority(Priority::Bulk)
            .build()
            .unwrap(),
    )
    .await;
    clock.advance(seconds(30));

    let text = postrider.metrics().await.unwrap();
    let open = server.open_connections() as f64;
    assert!((1.0..4.0).contains(&open), "not all of four were needed");
    for (line, expected) in [
        (
            "mails_accepted_total{door=\"embedded\",priority=\"default\"}",
            2.0,
        ),
        (
            "mails_accepted_total{door=\"http\",priority=\"critical\"}",
            1.0,
        ),
        (
            "deliveries_total{relay=\"primary\",result=\"delivered\"}",
            2.0,
        ),
        (
            "deliveries_total{relay=\"primary\",result=\"deferred\"}",
            1.0,
        ),
        ("deliveries_total{relay=\"primary\",result=\"dead\"}", 1.0),
        ("attempts_total{relay=\"primary\",class=\"delivered\"}", 2.0),
        ("attempts_total{relay=\"primary\",class=\"transient\"}", 1.0),
        ("attempts_total{relay=\"primary\",class=\"permanent\"}", 1.0),
        ("queue_depth{state=\"queued\",priority=\"bulk\"}", 1.0),
        ("queue_depth{state=\"queued\",priority=\"default\"}", 0.0),
        ("queue_depth{state=\"dead\",priority=\"default\"}", 1.0),
        ("oldest_queued_seconds", 30.0),
        ("accept_seconds_count", 4.0),
        ("delivery_latency_seconds_count", 2.0),
        ("delivery_latency_seconds_sum", 60.0),
        ("relay_connections{relay=\"primary\",state=\"busy\"}", 0.0),
        ("relay_connections{relay=\"primary\",state=\"idle\"}", open),
        ("relay_paused{relay=\"primary\"}", 1.0),
        ("max_pending", 1_000_000.0),
        (
            concat!("build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"}"),
            1.0,
        ),
        ("relay_breaker{relay=\"primary\",state=\"closed\"}", 1.0),
        ("relay_breaker{relay=\"primary\",state=\"open\"}", 0.0),
        ("stale_settles_total", 0.0),
        ("quarantined_total", 0.0),
        ("actor_restarts_total{actor=\"router\"}", 1.0),
    ] {
        assert_eq!(
            value(&text, &format!("postrider_{line}")),
            expected,
            "{line}"
        );
    }

    assert!(
        value(&text, "postrider_spool_sync_seconds_count") >= 4.0,
        "every accept was synced"
    );

    let du = std::process::Command::new("du")
        .args(["-s", "-B1"])
        .arg(dir.path())
        .output()
        .unwrap();
    let there = String::from_utf8(du.stdout).unwrap();
    let there: f64 = there.split_whitespace().next().unwrap().parse().unwrap();

    let told = value(&text, "postrider_spool_bytes");
    assert!(
        is_of_files("the bytes that its files take") || told > there / 1.5 && told < there * 1.5,
        "{told}, and {there} on disk"
    );

    let stats = postrider.stats().await.unwrap();
    assert_eq!(
        (stats.accepted, stats.delivered, stats.deferred, stats.dead),
        (4, 2, 1, 1)
    );

    assert_eq!(
        (
            stats.pending,
            stats.pending_by_priority["bulk"],
            stats.relays[0].backlog
        ),
        (1, 1, 1)
    );

    assert_eq!(stats.oldest_queued_seconds, Some(30.0));
}

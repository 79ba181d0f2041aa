//! Hours of work in a short time: a steady rate of mails over the real binary's HTTP door into
//! `smtp-sink`, finished mail pruned as it goes. Memory, descriptors and the spool must not grow
//! once they have settled.
//!
//! `SOAK_SECONDS=1800 SOAK_RATE=1000 cargo test --release --test soak -- --nocapture` is the long
//! form. `SOAK_MAX_SIZE=256` keeps finished mail for as long as it fits into so many MiB, in place
//! of a tenth of the time: then the files must stay below that and what every spool takes, whatever
//! went through them.
#![cfg(all(feature = "server", target_os = "linux"))]
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::real_servers::RealServer;
use common::service::{Service, configuration, configured, try_call};

/// Each waits until its mail is on disk, which a busy disk lets it do some hundred times a second.
const CLIENTS: u32 = 16;
const MIB: f64 = 1024.0 * 1024.0;
/// How often a long run is looked at: what sled writes goes through buffers of 16 MiB each, so that
/// single looks differ by tens of MiB, and only the mean of many tells a trend.
const LOOK: Duration = Duration::from_secs(5);
/// What the files take beside `spool.max_size`: 80 MiB in any case, and a few segments of 16 MiB
/// until writing is slow enough.
const BESIDE_MAX_SIZE: f64 = 144.0 * MIB;

/// What was seen at one moment.
#[derive(Clone, Copy, Debug)]
struct Sample {
    memory: f64,
    descriptors: f64,
    spool: f64,
    /// Deliveries that the spool knows of.
    kept: f64,
}

/// One number of a sample.
type Measure = fn(&Sample) -> f64;

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| {
        text.parse().unwrap_or_else(|_| panic!("{name} is {text}"))
    })
}

#[test]
fn under_a_steady_load_memory_descriptors_and_the_spool_stop_growing() {
    let (seconds, rate) = (number("SOAK_SECONDS", 24), number("SOAK_RATE", 200));
    let dir = tempfile::tempdir().unwrap();
    let sink = RealServer::smtp_sink(&[]);
    let config = configuration(&dir.path().join("spool"), &sink.url(), "");

    // Kept for a tenth of the time, so that most of what is accepted is pruned again.
    let kept = (seconds / 10).max(1);
    let max_size = number("SOAK_MAX_SIZE", 0);
    let bounded = match max_size {
        0 => format!("retention = \"{kept}s\"\nidempotency_ttl = \"{kept}s\"\n"),
        mib => format!("max_size = \"{mib}MiB\"\n"),
    };
    let mut service = Service::start(configured(dir.path(), &format!("{config}{bounded}")));

    let (stop, accepted, refused) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let mut samples = Vec::new();
    let body = serde_json::json!({
        "from": "shop@example.com", "to": "ada@example.org", "subject": "Your code",
        "text": "123456\n".repeat(280), "tags": ["soak"],
    });

    let (body, http) = (body.to_string(), service.http);
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                let pause = Duration::from_secs_f64(f64::from(CLIENTS) / rate as f64);
                let mut next = Instant::now();
                while !stop.load(Ordering::Relaxed) {
                    match try_call(http, "POST", "/v1/mails", &body) {
                        Ok(answer) if answer.status == 202 => {
                            accepted.fetch_add(1, Ordering::Relaxed)
                        }
                        _ => refused.fetch_add(1, Ordering::Relaxed),
                    };
                    next += pause;
                    std::thread::sleep(next.saturating_duration_since(Instant::now()));
                }
            });
        }
        let begun = Instant::now();
        let step = (Duration::from_secs(seconds) / 48).min(LOOK);
        let mut printed = Duration::ZERO;

        while begun.elapsed() < Duration::from_secs(seconds) {
            std::thread::sleep(step);
            let stats = service.get("/v1/stats").json();
            let spool = stats["spool_bytes"].as_f64().unwrap();
            let kept = stats["deliveries"]
                .as_object()
                .unwrap()
                .values()
                .filter_map(|count| count.as_f64())
                .sum();
            let (memory, descriptors) = (
                service.memory() as f64 * 1024.0,
                service.descriptors() as f64,
            );
            let sample = Sample {
                memory,
                descriptors,
                spool,
                kept,
            };
            samples.push(sample);

            if begun.elapsed() >= printed {
                printed += Duration::from_secs(seconds) / 48;
                println!(
                    "{:.0} s: {} accepted, {:.1} MiB of memory, {descriptors} descriptors, \
                     {:.0} MiB of spool, {kept} kept",
                    begun.elapsed().as_secs_f64(),
                    accepted.load(Ordering::Relaxed),
                    memory / MIB,
                    spool / MIB,
                );
            }
        }
        stop.store(true, Ordering::Relaxed);
    });

    let accepted = accepted.into_inner();
    assert_eq!(refused.into_inner(), 0, "{}", service.log());
    assert!(
        accepted >= seconds * rate / 4,
        "only {accepted} were submitted: the load was none"
    );

    let begun = Instant::now();
    while service.get("/v1/stats").json()["delivered"]
        .as_u64()
        .unwrap()
        < accepted
    {
        assert!(
            begun.elapsed() < Duration::from_secs(30),
            "{}",
            service.get("/v1/stats").body
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(service.stop().success());

    let most = (rate * (kept + 4)) as f64;
    let last_kept = samples.last().unwrap().kept;
    if max_size == 0 {
        assert!(
            last_kept <= most,
            "{last_kept} deliveries are kept, and {most} would be many: nothing is pruned"
        );
    } else {
        let largest = samples
            .iter()
            .map(|sample| sample.spool)
            .fold(0.0, f64::max);
        println!(
            "{:.0} MiB of messages went through files of at most {:.0} MiB; {last_kept} are kept",
            (accepted * body.len() as u64) as f64 / MIB,
            largest / MIB
        );
        let bound = max_size as f64 * MIB + BESIDE_MAX_SIZE;
        assert!(largest <= bound, "{} MiB", largest / MIB);
    }

    // The first quarter is for caches and pools to fill.
    let quarter = samples.len() / 4;
    let mean = |of: Measure, part: &[Sample]| part.iter().map(of).sum::<f64>() / part.len() as f64;
    let (second, last) = (&samples[quarter..2 * quarter], &samples[3 * quarter..]);

    let checks: [(&str, Measure, f64); 3] = [
        ("bytes of memory", |sample| sample.memory, 24.0 * MIB),
        ("descriptors", |sample| sample.descriptors, 8.0),
        // Three segments of sled's log, which it cleans in its own time.
        ("bytes of spool", |sample| sample.spool, 48.0 * MIB),
    ];

    for (name, of, margin) in checks {
        let (before, after) = (mean(of, second), mean(of, last));
        println!(
            "{accepted} mails in {seconds} s, {name}: {before:.0} in the second quarter, \
             {after:.0} in the last"
        );
        assert!(
            after <= before * 1.15 + margin,
            "{name} grew from {before:.0} to {after:.0}: {samples:#?}"
        );
    }
}

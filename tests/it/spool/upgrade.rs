//! A spool that an earlier version wrote, of 26 November 2026 and in format 1, is taken over as it
//! is: `format-1.tar.gz` holds mail in every state.

use std::path::{Path, PathBuf};
use std::process::Command;

use postrider::spool::sled;
use postrider::{Clock, Dispatcher, Mail, MailBuilder, Relay, days};

use crate::common::{ScriptedRelay, as_time_passes, eventually};

const DELIVERED: &str = "01a217e5-731a-74f8-bd0f-56946f9506ab";
const DEAD: &str = "01a217e5-7321-766e-9312-760e670883d8";
const DEFERRED: &str = "01a217e5-7322-7137-a655-11e782f71042";
const MANY: &str = "01a217e5-7323-7151-9e0b-7c384d9934ae";
const QUEUED: &str = "01a217e5-82ce-7266-8ee3-c8e24313ddd3";
const ONCE: &str = "01a217e5-8345-75c9-9bdd-aea2dc443d02";
const SCHEDULED: &str = "01a217e5-8347-7047-a9b7-c07eef5c33d3";
const LARGE: &str = "01a217e5-834b-721d-aae9-7e4404c85c22";
const CANCELLED: &str = "01a217e5-8396-714b-9e60-bb7f8092d0d9";

/// A minute after it was written.
const THEN: &str = "2026-11-26T12:48:30Z";

fn unpack(into: &Path) -> PathBuf {
    let archive = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/spool/format-1.tar.gz");
    let mut tar = Command::new("tar");
    tar.arg("-xzf").arg(archive).arg("-C").arg(into);
    let unpacked = tar.status().expect("tar is there");
    assert!(unpacked.success());
    into.join("spool")
}

async fn open(spool: &Path, relay: Relay, clock: &Clock) -> Dispatcher {
    let builder = Dispatcher::builder()
        .relay(relay)
        .clock(clock.clone())
        .retention(days(365))
        .spool(spool);
    builder.start().await.unwrap()
}

async fn state(postrider: &Dispatcher, id: &str) -> String {
    let status = postrider.status(id.parse().unwrap()).await.unwrap();
    let states = status.deliveries.iter().map(|d| d.state.as_str());
    states.collect::<Vec<_>>().join(" ")
}

fn old(name: &str) -> MailBuilder {
    Mail::builder()
        .from("Shop <shop@example.com>")
        .to(format!("{name}@example.org"))
        .subject(name)
        .text("Old, but not forgotten.\n")
        .expires_in(days(36_500))
        .idempotency_key(format!("key of {name}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_spool_of_the_first_format_is_taken_over_with_all_that_is_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let spool = unpack(dir.path());
    let before = sled::verify(&spool).unwrap();
    assert_eq!((before.mails, before.problems.len()), (9, 0), "{before:?}");

    let clock = Clock::fake_at(THEN.parse().unwrap());
    let relay = ScriptedRelay::free();
    relay.down(Some("not yet"));
    let postrider = open(&spool, relay.relay(), &clock).await;
    for (id, expected) in [
        (DELIVERED, "delivered"),
        (DEAD, "dead"),
        (SCHEDULED, "scheduled"),
        (CANCELLED, "cancelled"),
    ] {
        // What waits is moved to the route of today first.
        eventually(id, async || state(&postrider, id).await == expected).await;
    }

    let again = postrider.submit(old("queued").build().unwrap());
    let again = again.await.unwrap();
    assert!(
        again.duplicate && again.id.to_string() == QUEUED,
        "{again:?}"
    );
    let again = postrider.submit(old("delivered").tag("old").build().unwrap());
    let again = again.await.unwrap();
    assert!(
        again.duplicate && again.id.to_string() == DELIVERED,
        "{again:?}"
    );
    postrider
        .shutdown(postrider::Drain::within(days(0)))
        .await
        .unwrap();

    let after = sled::verify(&spool).unwrap();
    assert_eq!((after.mails, after.problems.len()), (9, 0), "{after:?}");

    relay.down(None);
    let postrider = open(&spool, relay.relay(), &clock).await;
    for id in [DEFERRED, MANY, QUEUED, ONCE, LARGE] {
        let id = id.parse().unwrap();
        as_time_passes(&clock, postrider.wait(id)).await.unwrap();
    }
    assert_eq!(state(&postrider, MANY).await, "delivered dead delivered");
    eventually("scheduled", async || {
        state(&postrider, SCHEDULED).await == "scheduled"
    })
    .await;

    let mut sent = relay.begun();
    sent.sort();
    assert_eq!(
        sent,
        [
            "large@example.org",
            "later@example.org",
            "later@example.org",
            "once@example.org",
            "queued@example.org",
        ]
    );
    let large = relay
        .transactions()
        .into_iter()
        .find(|t| t.mail.to_string() == LARGE);
    assert!(large.unwrap().message.len() > 300_000);
}

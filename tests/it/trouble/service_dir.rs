//! A service in a directory of its own or on a small disk, and what is asked of it there.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::common::FakeSmtp;
use crate::common::service::{Service, configuration, configured};
use crate::trouble::disk::Disk;

/// A service in a directory of its own, and the relay that it sends over.
pub struct ServiceDir {
    pub service: Service,
    _relay: FakeSmtp,
    _dir: TempDir,
}

impl ServiceDir {
    /// One whose section `http` says this as well.
    pub async fn start(http: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let relay = FakeSmtp::start().await;
        let config = configuration(&dir.path().join("spool"), &relay.url(), "");
        let config = config.replace("[http]\n", &format!("[http]\n{http}"));
        ServiceDir {
            service: Service::start(configured(dir.path(), &config)),
            _relay: relay,
            _dir: dir,
        }
    }
}

/// A service whose spool is on this disk.
pub fn start(disk: &Disk, relay: &FakeSmtp) -> Service {
    start_with(disk, relay, "")
}

pub fn start_with(disk: &Disk, relay: &FakeSmtp, more: &str) -> Service {
    Service::start(configured(
        disk.beside(),
        &configuration(&disk.at("spool"), &relay.url(), more),
    ))
}

pub fn eventually(what: &str, holds: impl Fn() -> bool) {
    let begun = std::time::Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(40), "never: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// How often each recipient's mail came.
pub fn arrived(relay: &FakeSmtp) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for mail in relay.mails() {
        mail.recipients
            .iter()
            .for_each(|recipient| *counts.entry(recipient.clone()).or_default() += 1);
    }
    counts
}

#[track_caller]
pub fn refuses_everywhere(service: &Service, why: &str) {
    let refused = service.hand_in("late@example.org", "123456");
    refused.is_come_back_later();
    let large = service.hand_in(
        "large@example.org",
        &"a line of some length\n".repeat(100_000),
    );
    large.is_come_back_later();
    let refused = service.say("late@example.org");
    assert!(refused.starts_with("452 4.3.1 "), "{refused}");
    let (ready, reason) = service.readiness();
    assert!(!ready && reason.contains(why), "{reason}");
}

pub fn verify(spool: &Path) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_postrider"))
        .args(["spool", "verify"])
        .arg(spool)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

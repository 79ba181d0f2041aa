//! A disk that fails to sync what was written, and one that takes nothing from the start.

use std::process::{Command, Stdio};

use crate::common::FakeSmtp;
use crate::common::service::{Service, configuration, configured};
use crate::common::test_spool::is_of_files;
use crate::trouble::disk::{Disk, FailingSyncs, MIB};
use crate::trouble::service_dir::{arrived, eventually, refuses_everywhere, start, verify};

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_fails_to_sync_closes_the_doors_until_it_syncs_and_loses_nothing_that_was_acknowledged()
 {
    if is_of_files("a disk") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let spool = dir.path().join("spool");
    let relay = FakeSmtp::start().await;
    let mut service = Service::start(configured(
        dir.path(),
        &configuration(&spool, &relay.url(), ""),
    ));

    assert_eq!(service.post("/v1/relays/primary/pause", "").status, 200);
    let queued = service.hand_in_many("early", 100, "123456");

    let Some(failing) = FailingSyncs::of(service.pid()) else {
        return;
    };
    service
        .hand_in("unlucky@example.org", "123456")
        .is_come_back_later();
    service.says("the spool takes no more");
    refuses_everywhere(&service, "cannot be written: Input/output error");

    assert_eq!(service.get("/health/live").status, 200);
    let readable = queued
        .iter()
        .filter(|id| service.get(&format!("/v1/mails/{id}")).status == 200)
        .count();

    assert_eq!(readable, queued.len(), "what it has can still be read");
    // It is obeyed, and cannot be noted for the next start.
    let resumed = service.post("/v1/relays/primary/resume", "");
    assert_eq!(resumed.status, 503, "{resumed:?}");

    // Long enough for the scheduler to have woken everybody who would send.
    std::thread::sleep(std::time::Duration::from_secs(6));
    assert!(
        service.is_running() && relay.mails().is_empty(),
        "nothing is sent that cannot be recorded"
    );

    drop(failing);
    service.says("the spool can be written again");
    eventually("ready again", || service.readiness().0);
    service.become_all(&queued, "delivered");
    assert_eq!(service.post("/v1/relays/primary/resume", "").status, 200);

    assert!(service.stop().success());

    let mut arrived = arrived(&relay);
    // It was not acknowledged, and may be there all the same.
    arrived.remove("unlucky@example.org");
    assert!(
        arrived.len() == queued.len() && arrived.values().all(|count| *count == 1),
        "{arrived:?}"
    );

    verify(&spool);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spool_on_a_disk_that_cannot_be_written_is_refused_at_the_start_in_one_line_that_names_it()
 {
    let Some(disk) = Disk::of(128 * MIB) else {
        return;
    };

    let relay = FakeSmtp::start().await;
    let mut service = start(&disk, &relay);
    let queued = service.hand_in_many("early", 3, "123456");
    service.become_all(&queued, "delivered");
    assert!(service.stop().success());

    disk.make_read_only();
    for name in ["spool", "another/spool"] {
        let spool = disk.at(name);
        let mut command: Command =
            configured(disk.beside(), &configuration(&spool, &relay.url(), ""));
        let output = command.stdin(Stdio::null()).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        // The rules of `check` find it out before the spool is tried.
        assert!(matches!(output.status.code(), Some(1 | 2)), "{said}");
        assert!(
            said.contains(&spool.display().to_string()) && said.lines().count() == 1,
            "{said}"
        );
        assert!(
            said.to_lowercase().contains("read-only file system"),
            "{said}"
        );
    }
}

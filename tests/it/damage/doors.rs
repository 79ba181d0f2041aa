//! A damaged spool at the doors of the program: `postrider run` and every command that reads a
//! spool say what is damaged and the way out, and the way out leads out.
#![cfg(feature = "server")]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use super::sample::copy;
use crate::common::real_servers::is_root;
use crate::common::service::{Service, configuration, configured};
use crate::common::{Act, FakeSmtp, Rule, Step};

struct CommandOutput {
    code: Option<i32>,
    out: String,
    error: String,
}

fn postrider(dir: &Path, arguments: &[&str]) -> CommandOutput {
    let output = Command::new(env!("CARGO_BIN_EXE_postrider"))
        .args(arguments)
        .current_dir(dir)
        .env_remove("POSTRIDER_CONFIG")
        .env_remove("RUST_LOG")
        .output()
        .unwrap();
    CommandOutput {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).unwrap(),
        error: String::from_utf8(output.stderr).unwrap(),
    }
}

fn flip(file: &Path, at: usize) {
    let mut bytes = std::fs::read(file).unwrap();
    bytes[at] ^= 4;
    std::fs::write(file, bytes).unwrap();
}

/// Where these bytes stand first.
fn place_of(file: &Path, wanted: &[u8]) -> usize {
    let bytes = std::fs::read(file).unwrap();
    memchr::memmem::find(&bytes, wanted).expect("they stand there")
}

/// How often each recipient's mail came.
fn arrived(relay: &FakeSmtp) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for recipient in relay.mails().iter().flat_map(|mail| &mail.recipients) {
        *counts.entry(recipient.clone()).or_default() += 1;
    }
    counts
}

fn eventually(what: &str, holds: impl Fn() -> bool) {
    let begun = std::time::Instant::now();
    while !holds() {
        assert!(begun.elapsed().as_secs() < 40, "never: {what}");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

#[test]
fn a_damaged_spool_says_at_every_door_what_to_do_and_that_leads_out() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let later = Rule::at(Step::Rcpt)
        .to("wait")
        .act(Act::reply(450, "4.2.1 later"));
    let relay = runtime.block_on(FakeSmtp::builder().rule(later).start());
    let home = tempfile::tempdir().unwrap();
    let dir = home.path();

    let spool = dir.join("spool");
    let config = configuration(&spool, &relay.url(), "");
    let mut service = Service::start(configured(dir, &config));
    for n in 0..40 {
        let to = if n % 2 == 0 { "wait" } else { "now" };
        let answer = service.hand_in(&format!("{to}{n}@example.org"), "123456");
        assert_eq!(answer.status, 202, "{}", answer.body);
    }

    eventually("half of it arrives", || arrived(&relay).len() == 20);
    service.stop();

    // In the middle of the log, in a message of the 20th mail.
    let at = place_of(&spool.join("db"), b"wait20@example.org");
    flip(&spool.join("db"), at);

    let damaged = spool.display().to_string();
    for arguments in [
        &["run"][..],
        &["spool", "verify"],
        &["spool", "verify", &damaged],
        &["spool", "export", "out"],
        &["spool", "export", &damaged, "out"],
    ] {
        let said = postrider(dir, arguments);
        assert_eq!(said.code, Some(1), "{arguments:?}: {}", said.error);
        let db = spool.join("db").display().to_string();
        for told in [
            &db,
            "is damaged",
            &format!("postrider spool salvage {damaged} "),
        ] {
            assert!(said.error.contains(told), "{arguments:?}: {}", said.error);
        }
        assert!(!said.error.contains("panicked"), "{}", said.error);
    }
    assert!(!dir.join("out").exists(), "nothing was written");

    let saved = dir.join("saved").display().to_string();
    let said = postrider(dir, &["spool", "salvage", &damaged, &saved]);
    assert!(
        said.out.contains("damaged places: 1"),
        "{} {}",
        said.out,
        said.error
    );

    assert!(said.error.lines().count() <= 3, "{}", said.error);
    let again = postrider(dir, &["spool", "salvage", &damaged, &saved]);
    assert_eq!(again.code, Some(1));
    assert!(
        again
            .error
            .contains("it is not empty; name a new directory"),
        "{}",
        again.error
    );

    let said = postrider(dir, &["spool", "verify", &saved]);
    assert_eq!(
        (said.code, said.error.as_str()),
        (Some(0), ""),
        "{}",
        said.out
    );

    let said = postrider(dir, &["spool", "export", &saved, "out"]);
    assert_eq!(said.code, Some(0), "{}", said.error);

    // It is a spool like any other: what waits is sent, what was delivered is not.
    let before = arrived(&relay);
    std::fs::remove_dir_all(&spool).unwrap();
    copy(Path::new(&saved), &spool);
    relay.behave();

    let mut service = Service::start(configured(dir, &config));
    let job = service.post("/v1/mails/retry", r#"{"all": true}"#);
    assert_eq!(job.status, 202, "{}", job.body);
    eventually("the rest arrives", || arrived(&relay).len() >= 39);

    let now = arrived(&relay);
    for (recipient, count) in before {
        assert_eq!(now[&recipient], count, "{recipient} got it again");
    }

    let audit = service.get("/v1/audit?act=salvage");
    assert!(audit.body.contains("\"act\":\"salvage\""), "{}", audit.body);
    service.stop();
}

#[test]
fn a_file_that_is_missing_or_none_is_named_and_the_way_out_leads_out() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let relay = runtime.block_on(FakeSmtp::start());
    let home = tempfile::tempdir().unwrap();
    let whole = home.path().join("whole");

    let config = configuration(&whole, &relay.url(), "");
    let mut service = Service::start(configured(home.path(), &config));
    for n in 0..5 {
        let answer = service.hand_in(&format!("now{n}@example.org"), "123456");
        assert_eq!(answer.status, 202, "{}", answer.body);
    }
    eventually("all arrives", || arrived(&relay).len() == 5);
    service.stop();

    for (name, is_directory) in [
        ("conf", false),
        ("conf", true),
        ("synced", false),
        ("synced", true),
        ("snap.0000000000000000", true),
        ("outcomes", true),
        ("db", false),
        ("db", true),
    ] {
        let case = tempfile::tempdir().unwrap();
        let (spool, saved) = (case.path().join("spool"), case.path().join("saved"));
        copy(&whole, &spool);
        let removed = std::fs::remove_file(spool.join(name));
        assert!(removed.is_ok() || name.starts_with("snap"), "{name}");
        if is_directory {
            std::fs::create_dir(spool.join(name)).unwrap();
        }

        let (from, to) = (spool.display().to_string(), saved.display().to_string());
        std::fs::write(
            case.path().join("postrider.toml"),
            configuration(&spool, &relay.url(), ""),
        )
        .unwrap();
        for arguments in [&["run"][..], &["spool", "verify", &from]] {
            let said = postrider(case.path(), arguments);
            assert_ne!(said.code, Some(0), "{name} {is_directory} {arguments:?}");
            assert!(said.error.contains(name), "{arguments:?}: {}", said.error);
        }

        let said = postrider(case.path(), &["spool", "verify", &from]);
        let leads_to_salvage = said.error.contains("spool salvage");
        assert_eq!(leads_to_salvage, name != "db", "{}", said.error);

        let said = postrider(case.path(), &["spool", "salvage", &from, &to]);
        if leads_to_salvage {
            let told = (&said.out, &said.error);
            assert!(said.out.contains(": 5; damaged places: 0"), "{told:?}");
            let said = postrider(case.path(), &["spool", "verify", &to]);
            assert_eq!(said.code, Some(0), "{}", said.error);
        } else {
            assert_eq!(said.code, Some(1));
            assert!(said.error.contains("`db`"), "{}", said.error);
        }
    }
}

/// As by whoever cleans up a disk: the service goes on with files that are gone once it ends.
#[test]
fn a_log_that_is_removed_while_it_is_open_is_told_and_can_be_put_back() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let relay = runtime.block_on(FakeSmtp::start());
    let home = tempfile::tempdir().unwrap();
    let spool = home.path().join("spool");
    let config = configuration(&spool, &relay.url(), "");
    let mut service = Service::start(configured(home.path(), &config));
    let answer = service.hand_in("first@example.org", "123456");
    assert_eq!(answer.status, 202, "{}", answer.body);
    eventually("it arrives", || arrived(&relay).len() == 1);

    std::fs::remove_file(spool.join("db")).unwrap();
    let answer = service.hand_in("second@example.org", "123456");
    assert_eq!(answer.status, 503, "{}", answer.body);
    let (is_ready, why) = service.readiness();
    assert!(!is_ready && why.contains("`db` was removed"), "{why}");

    let place = why.split("exec 3<").nth(1).unwrap();
    let place = place.split('`').next().unwrap();
    let mut held = std::fs::File::open(place).unwrap();
    service.stop();
    let mut back = std::fs::File::create(spool.join("db")).unwrap();
    std::io::copy(&mut held, &mut back).unwrap();

    let mut service = Service::start(configured(home.path(), &config));
    let found = service.get("/v1/mails?q=to:first");
    assert!(found.body.contains("first@example.org"), "{}", found.body);
    assert_eq!(service.hand_in("third@example.org", "1").status, 202);
    service.stop();
}

#[test]
fn a_file_that_another_user_owns_is_named_with_the_way_out() {
    if !is_root() {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let spool = home.path().join("spool");
    let config = configuration(&spool, "capture://", "");
    Service::start(configured(home.path(), &config)).stop();
    let open = |path: &Path| {
        let all = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        std::fs::set_permissions(path, all).unwrap();
    };
    open(home.path());
    open(&spool);
    let program = home.path().join("postrider");
    std::fs::copy(env!("CARGO_BIN_EXE_postrider"), &program).unwrap();
    open(&program);
    for entry in std::fs::read_dir(&spool).unwrap() {
        let path = entry.unwrap().path();
        if !path.ends_with("synced") {
            open(&path);
        }
    }

    let nobody = ["--reuid=65534", "--regid=65534", "--clear-groups"];
    let output = Command::new("setpriv")
        .args(nobody)
        .arg(&program)
        .args(["spool", "verify", &spool.display().to_string()])
        .current_dir(home.path())
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    for part in ["spool/synced belongs to the user 0", "chown"] {
        assert!(said.contains(part), "{said}");
    }
}

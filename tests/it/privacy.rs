//! What is on disk is for its owner alone, whatever the umask says, and is never written through
//! somebody else's link.
#![cfg(all(feature = "server", target_os = "linux"))]

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Output};

use crate::common::service::{Service, configuration, configured_after};

/// Runs the binary in this directory, under a umask that keeps nothing from anybody.
fn run(dir: &Path, words: &str) -> Output {
    let script = format!("umask 000; exec \"$0\" {words}");
    let output = Command::new("sh")
        .args(["-c", &script, env!("CARGO_BIN_EXE_postrider")])
        .current_dir(dir)
        .env_remove("POSTRIDER_CONFIG")
        .output();
    output.unwrap()
}

/// Every path below, with who may do what.
fn modes(path: &Path, found: &mut Vec<(String, u32)>) {
    let metadata = fs::symlink_metadata(path).unwrap();
    found.push((
        path.display().to_string(),
        metadata.permissions().mode() & 0o777,
    ));
    if metadata.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            modes(&entry.unwrap().path(), found);
        }
    }
}

#[track_caller]
fn is_private(path: &Path) {
    let mut found = Vec::new();
    modes(path, &mut found);
    let open: Vec<_> = found.iter().filter(|(_, mode)| mode & 0o077 != 0).collect();
    assert!(open.is_empty(), "{open:?}");
    assert!(found.len() > 1 || path.is_file(), "{found:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_made_is_for_its_owner_alone_and_a_spool_of_before_becomes_so() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let relay = format!("capture://{}", at("captured").display());
    let config = configuration(&at("var/spool"), &relay, "");

    let serve = || Service::start(configured_after(dir.path(), &config, "umask 000"));
    let mut service = serve();
    let ids = service.hand_in_many("ada", 3, "123456");
    service.become_all(&ids, "delivered");
    is_private(&at("var/spool"));
    is_private(&at("captured"));

    assert!(service.stop().success());
    is_private(&at("var/spool"));

    let mut found = Vec::new();
    modes(&at("var/spool"), &mut found);
    for (path, mode) in &found {
        fs::set_permissions(path, Permissions::from_mode(mode | 0o044)).unwrap();
    }

    let mut service = serve();
    is_private(&at("var/spool"));
    assert!(service.stop().success());

    for (words, made) in [
        ("spool export var/spool out/all", "out"),
        ("init etc", "etc"),
        ("dkim generate example.com s1 --out key.pem", "key.pem"),
    ] {
        let output = run(dir.path(), words);
        assert!(output.status.success(), "{output:?}");
        is_private(&at(made));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_written_through_a_link() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let relay = format!("capture://{}", at("captured").display());
    let config = configuration(&at("spool"), &relay, "");
    let mut service = Service::start(configured_after(dir.path(), &config, "umask 022"));
    let mail = r#"{"from": "a@example.com", "to": "b@example.org", "text": "t", "delay": "1s"}"#;
    let answer = service.post("/v1/mails", mail);
    let id = answer.json()["id"].as_str().unwrap().to_owned();

    fs::write(at("theirs"), "theirs").unwrap();
    fs::create_dir(at("captured")).unwrap();
    symlink(at("theirs"), at("captured").join(format!("{id}.eml"))).unwrap();
    service.become_all(std::slice::from_ref(&id), "delivered");
    assert!(service.stop().success());

    fs::create_dir(at("out")).unwrap();
    for kind in ["eml", "json"] {
        symlink(at("theirs"), at("out").join(format!("{id}.{kind}"))).unwrap();
    }

    assert!(run(dir.path(), "spool export spool out").status.success());
    for written in ["captured", "out"] {
        let message = fs::read_to_string(at(written).join(format!("{id}.eml"))).unwrap();
        assert!(message.contains("To: b@example.org"), "{message}");
    }
    assert_eq!(fs::read_to_string(at("theirs")).unwrap(), "theirs");

    fs::create_dir(at("elsewhere")).unwrap();
    symlink(at("elsewhere"), at("link")).unwrap();

    let output = run(dir.path(), "spool export spool link");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success() && told.contains("it is a link"),
        "{told}"
    );
    assert_eq!(fs::read_dir(at("elsewhere")).unwrap().count(), 0);

    symlink(at("theirs"), at("key.pem")).unwrap();
    symlink(at("theirs"), at("postrider.toml.link")).unwrap();
    let output = run(dir.path(), "dkim generate example.com s1 --out key.pem");
    assert!(!output.status.success());
    assert_eq!(fs::read_to_string(at("theirs")).unwrap(), "theirs");
}

#[test]
fn secrets_that_everybody_can_read_are_reported_and_are_no_mistake() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str, mode| {
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    };

    let config = "[[relays]]\nurl = \"smtps://user@mail.example.com\"\npassword_file = \"secret\"\n\
                  [http]\ntokens = [{ name = \"app\", token = \"inline\" }]\n";
    for (mode, warned) in [(0o644, true), (0o640, false), (0o600, false)] {
        write("secret", "x", mode);
        write("postrider.toml", config, mode);
        let output = run(dir.path(), "check");
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success() && told.contains("no mistakes found"),
            "{output:?}"
        );
        for key in ["relays[0].password_file", "http.tokens[0].token"] {
            assert_eq!(told.contains(key), warned, "{mode:o}: {told}");
        }
        let output = run(dir.path(), "check --json");
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let warnings = json["warnings"].as_array().unwrap().len();
        assert_eq!(
            (json["ok"].as_bool(), warnings),
            (Some(true), 2 * usize::from(warned))
        );
    }
}

//! The demo: it shows what it promises, and exits with 0 only if every mail arrived.
#![cfg(feature = "server")]

use std::process::{Command, Output};

fn demo(arguments: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_postrider"));
    command.arg("demo").args(arguments).env_remove("RUST_LOG");
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().unwrap();
    (
        status.code().unwrap(),
        String::from_utf8(stdout).unwrap(),
        String::from_utf8(stderr).unwrap(),
    )
}

/// The number in the row that begins with `name`.
fn number(stdout: &str, name: &str) -> u64 {
    let row = stdout
        .lines()
        .find(|line| line.trim_start_matches(['│', ' ']).starts_with(name))
        .expect(name);
    let rest = row
        .trim_start_matches(['│', ' '])
        .strip_prefix(name)
        .unwrap();

    rest.split_whitespace()
        .next()
        .unwrap()
        .replace(',', "")
        .parse()
        .unwrap()
}

#[test]
fn every_mail_of_the_demo_arrives_although_the_server_makes_trouble() {
    let (code, stdout, stderr) = demo(&["--count", "1000"]);
    assert_eq!(code, 0, "{stdout}{stderr}");
    assert_eq!(number(&stdout, "accepted"), 1000, "{stdout}");
    assert_eq!(number(&stdout, "delivered"), 1000, "{stdout}");
    assert_eq!(number(&stdout, "dead"), 0, "{stdout}");
    assert!(
        number(&stdout, "retried") >= 40,
        "the server refuses and defers some: {stdout}"
    );

    assert!(
        number(&stdout, "arrived twice") >= 1,
        "it hangs up after it took some: {stdout}"
    );

    assert!(
        stdout.contains("every mail that was accepted arrived"),
        "{stdout}"
    );

    let latencies = stdout
        .lines()
        .find(|line| line.contains("all "))
        .expect("the latencies of all");

    assert!(
        !latencies.contains(" 0.0 ms"),
        "a mail takes time: {latencies}"
    );

    assert_eq!(stderr, "", "no bars where there is no terminal");
    assert!(
        !stdout.contains('\u{1b}'),
        "no colours where there is no terminal: {stdout}"
    );
}

#[test]
fn the_demo_says_so_when_the_engine_may_not_hold_what_it_is_given() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("postrider.toml");
    let tiny = "[spool]\nmax_message_size = \"100B\"\n[[relays]]\nurl = \"capture://\"\n";
    std::fs::write(&file, tiny).unwrap();
    let (code, stdout, stderr) = demo(&["--count", "10", "--config", file.to_str().unwrap()]);
    assert_eq!(code, 1, "{stdout}{stderr}");
    assert!(stderr.starts_with("postrider: "), "{stderr}");
    assert!(
        !stdout.contains("every mail that was accepted arrived"),
        "{stdout}"
    );
}

//! The README's programs in other languages run as they are printed, but for the ports.
#![cfg(target_os = "linux")]

use std::path::Path;
use std::process::Command;

use crate::common::service::{Service, configured};

const README: &str = include_str!("../../README.md");

/// The first block of this language.
fn snippet(language: &str) -> &'static str {
    let (_, block) = README.split_once(&format!("```{language}\n")).unwrap();
    block.split_once("```").unwrap().0
}

#[test]
fn the_snippets_for_python_node_and_curl_hand_in_a_mail_each() {
    let dir = tempfile::tempdir().unwrap();
    let config = "[http]\nlisten = \"127.0.0.1:0\"\n[smtp]\nlisten = \"127.0.0.1:0\"\n\
                  [spool]\npath = \"spool\"\n[[relays]]\nurl = \"capture://\"\n";
    let service = Service::start(configured(dir.path(), config));
    let here = |text: &str| {
        text.replace("2525", &service.smtp.port().to_string())
            .replace("8025", &service.http.port().to_string())
    };

    let modules = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/clients/node_modules");
    std::os::unix::fs::symlink(modules, dir.path().join("node_modules")).unwrap();

    let curl = README
        .lines()
        .skip_while(|line| !line.starts_with("curl --json"))
        .take(2);

    let curl: Vec<&str> = curl.collect();
    for (program, file, text) in [
        ("python3", "snippet.py", here(snippet("python"))),
        ("node", "snippet.mjs", here(snippet("js"))),
        ("sh", "snippet.sh", here(&curl.join("\n"))),
    ] {
        std::fs::write(dir.path().join(file), text).unwrap();
        let output = Command::new(program)
            .arg(file)
            .current_dir(dir.path())
            .output()
            .unwrap_or_else(|e| panic!("{program}: {e}"));
        assert!(output.status.success(), "{program}: {output:?}");
    }

    let listed = service.get("/v1/mails").json();
    let mails = listed["mails"].as_array().unwrap();
    assert_eq!(mails.len(), 3, "{listed}");
    let ids: Vec<String> = mails
        .iter()
        .map(|mail| mail["id"].as_str().unwrap().to_owned())
        .collect();

    service.become_all(&ids, "delivered");
    // What the Python program asked for in its header was read, obeyed and removed.
    let critical = mails.iter().any(|mail| mail["priority"] == "critical");
    assert!(critical, "{listed}");
}

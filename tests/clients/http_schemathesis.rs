//! The running service is what its OpenAPI document says, as found by a program that nobody here
//! wrote.
//!
//! Needs `schemathesis` (from PyPI) on the PATH, or named by `SCHEMATHESIS`; without it the test
//! fails and says so.
#![cfg(feature = "server")]

use postrider::ingress::http::{HttpDoor, HttpSettings, Limits, Scope, Token};
use postrider::transport::Capture;
use postrider::{Dispatcher, Relay};
use tokio::process::Command;
use tokio::sync::watch;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn schemathesis_finds_nothing() {
    let relay = Relay::capture(&Capture::default());
    let dispatcher = Dispatcher::builder()
        .relay(relay)
        .spool_in_memory()
        .start()
        .await
        .unwrap();

    let token = Token {
        name: "all".into(),
        secret: "schemathesis".to_owned().into(),
        scope: Scope::Admin,
    };

    let settings = HttpSettings {
        listen: "127.0.0.1:0".parse().unwrap(),
        tokens: vec![token],
        limits: Limits::default(),
    };

    let door = HttpDoor::bind(settings).await.unwrap();
    let url = format!("http://{}/openapi.json", door.local_addr());
    let (_open, shutdown) = watch::channel(false);
    tokio::spawn(door.serve(dispatcher, shutdown));

    let program = std::env::var("SCHEMATHESIS").unwrap_or_else(|_| "schemathesis".to_owned());
    let elsewhere = tempfile::tempdir().unwrap();
    let run = Command::new(&program)
        .args([
            "--config-file",
            concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/tests/clients/http_schemathesis.toml"
            ),
        ])
        .args([
            "run",
            &url,
            "--max-examples",
            "15",
            "--seed",
            "1",
            "--continue-on-failure",
            "--no-color",
        ])
        .args(["--header", "Authorization: Bearer schemathesis"])
        // A stream without end is no answer that it can read; tests/it/http/events.rs reads it.
        .args(["--exclude-path", "/v1/events"])
        // It makes no message; tests/it/feedback/ brings the reports of many mail systems.
        .args(["--exclude-path", "/v1/feedback/report"])
        // Each wrong token is answered later than the one before; tests/it/http/access.rs tries
        // every call.
        .args(["--exclude-checks", "ignored_auth"])
        .current_dir(elsewhere.path())
        .kill_on_drop(true)
        .output()
        .await
        .unwrap_or_else(|e| {
            panic!(
                "cannot run `{program}`: {e}; install it with `pip install schemathesis==4.32.5`"
            )
        });

    let found = String::from_utf8_lossy(&run.stdout);
    assert!(
        run.status.success(),
        "{found}\n{}",
        String::from_utf8_lossy(&run.stderr)
    );

    let tested = found.split("Tested: ").nth(1).unwrap_or_default();
    let digits = tested.split(|c: char| !c.is_ascii_digit()).next();
    let tested: usize = digits.unwrap_or_default().parse().unwrap_or(0);
    assert!(tested >= 42, "not every call was tried: {found}");
}

//! A door that others than this machine can reach: TLS, and networks that are trusted.

use std::path::Path;

use crate::command_line::{finish, postrider};
use crate::common::service::{Service, configured, submit, try_call};

fn configuration(dir: &Path, http: &str, smtp: &str) -> String {
    format!(
        "[http]\n{http}\n[smtp]\n{smtp}\n[[relays]]\nurl = \"capture://\"\n[spool]\n\
         path = \"{}\"\n",
        dir.join("spool").display()
    )
}

fn pair(dir: &Path) -> String {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(dir.join("cert.pem"), made.cert.pem()).unwrap();
    std::fs::write(dir.join("key.pem"), made.signing_key.serialize_pem()).unwrap();
    "tls = { cert = \"cert.pem\", key = \"key.pem\" }".to_owned()
}

#[test]
fn the_http_door_speaks_tls_and_takes_a_new_certificate_while_it_runs() {
    let dir = tempfile::tempdir().unwrap();
    let tls = pair(dir.path());
    let http = format!("listen = \"127.0.0.1:0\"\n{tls}");

    let config = configuration(dir.path(), &http, "listen = \"127.0.0.1:0\"");
    let mut service = Service::start(configured(dir.path(), &config));
    let url = format!("https://localhost:{}", service.http.port());
    let ask = |words: &[&str]| {
        let mut command = postrider();
        command.current_dir(dir.path()).args(words);
        finish(command.args(["--url", &url]), b"")
    };

    let sent = ask(&[
        "send",
        "--to",
        "ada@example.org",
        "--subject",
        "s",
        "--text",
        "t",
        "--wait=20s",
        "--ca-file",
        "cert.pem",
    ]);

    assert!(sent.well().contains("delivered"));
    assert_eq!(
        ask(&["stats"]).code,
        75,
        "a certificate that nobody vouches for is not believed"
    );

    let plain = try_call(service.http, "GET", "/health/live", "");
    assert!(
        plain.is_err() || plain.unwrap().status != 200,
        "there is no plain HTTP beside it"
    );

    let local = format!("https://127.0.0.1:{}", service.http.port());
    finish(postrider().args(["health", "--url", &local]), b"").well();

    std::fs::copy(dir.path().join("cert.pem"), dir.path().join("old.pem")).unwrap();
    pair(dir.path());
    let pid = service.pid().to_string();
    assert!(
        std::process::Command::new("kill")
            .args(["-HUP", &pid])
            .status()
            .unwrap()
            .success()
    );

    service.says("was read again:");
    assert_eq!(ask(&["stats", "--ca-file", "old.pem"]).code, 75);
    ask(&["stats", "--ca-file", "cert.pem"]).well();
}

#[test]
fn a_trusted_network_needs_no_token_and_no_login_and_others_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let open = |networks: &str| format!("listen = \"0.0.0.0:0\"\ntrusted_networks = [{networks}]");
    let config = |networks: &str| configuration(dir.path(), &open(networks), &open(networks));
    let mail = r#"{"from": "a@example.com", "to": "b@example.org", "subject": "s", "text": "t"}"#;
    let near = |address: std::net::SocketAddr| ([127, 0, 0, 1], address.port()).into();

    let service = Service::start(configured(dir.path(), &config("\"127.0.0.0/8\"")));
    let (http, smtp) = (near(service.http), near(service.smtp));
    assert_eq!(
        try_call(http, "POST", "/v1/mails", mail).unwrap().status,
        202
    );

    assert!(submit(smtp, "ada@example.org").unwrap().starts_with("250"));
    drop(service);

    let service = Service::start(configured(dir.path(), &config("\"10.0.0.0/8\"")));
    let (http, smtp) = (near(service.http), near(service.smtp));
    let refused = try_call(http, "POST", "/v1/mails", mail).unwrap();
    assert_eq!(refused.status, 403, "{refused:?}");
    assert!(
        refused.body.contains("http.trusted_networks"),
        "{refused:?}"
    );

    assert_eq!(
        try_call(http, "GET", "/health/live", "").unwrap().status,
        200
    );

    let refused = submit(smtp, "ada@example.org").unwrap();
    assert!(refused.starts_with("554 5.7.1"), "{refused}");
}

#[test]
fn with_a_trusted_network_others_come_in_with_a_token() {
    let dir = tempfile::tempdir().unwrap();
    let http = "listen = \"0.0.0.0:0\"\ntrusted_networks = [\"10.0.0.0/8\"]\n\
                tokens = [{ name = \"eye\", token = \"eye\", scope = \"read\" }]";
    let config = configuration(dir.path(), http, "listen = \"127.0.0.1:0\"");
    let service = Service::start(configured(dir.path(), &config));

    let url = format!("http://127.0.0.1:{}", service.http.port());
    let ask = |words: &[&str]| finish(postrider().args(words).args(["--url", &url]), b"");
    let told = ask(&["stats"]).failed(1);
    assert!(told.contains("token"), "{told}");
    ask(&["stats", "--token", "eye"]).well();

    let told = ask(&["relay", "pause", "capture", "--token", "eye"]).failed(1);
    assert!(
        told.contains("the token `eye` has the scope `read`, and this needs `admin`\n"),
        "{told}"
    );
}

#[test]
fn a_token_that_may_send_waits_for_sees_and_cancels_what_it_sent_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let tokens = r#"tokens = [
        { name = "app", token = "app-secret", scope = "send" },
        { name = "shop", token = "shop-secret", scope = "send" },
    ]"#;
    let http = format!("listen = \"127.0.0.1:0\"\n{tokens}");

    let config = configuration(dir.path(), &http, "listen = \"127.0.0.1:0\"");
    let service = Service::start(configured(dir.path(), &config));
    let url = format!("http://{}", service.http);
    let ask = |token: &str, words: &[&str]| {
        let mut command = postrider();
        command.args(words).args(["--url", &url, "--token", token]);
        finish(&mut command, b"")
    };

    let mail = [
        "send",
        "--to",
        "ada@example.org",
        "--subject",
        "s",
        "--text",
        "t",
        "--json",
    ];

    let sent = ask("app-secret", &[&mail[..], &["--wait=20s"]].concat());
    let record: serde_json::Value = serde_json::from_str(&sent.well()).unwrap();
    assert_eq!(record["state"], "delivered");

    let own = record["id"].as_str().unwrap();
    assert!(
        ask("app-secret", &["status", own])
            .well()
            .contains("delivered")
    );

    assert!(ask("app-secret", &["list"]).well().contains(own));
    assert!(!ask("shop-secret", &["list"]).well().contains(own));
    let unseen = ask("shop-secret", &["status", own]);
    assert_eq!(unseen.code, 1, "{}", unseen.err);
    assert!(unseen.err.contains("there is no mail"), "{}", unseen.err);

    let later = ask("app-secret", &[&mail[..], &["--delay", "1h"]].concat());
    let accepted: serde_json::Value = serde_json::from_str(&later.well()).unwrap();
    let later = accepted["id"].as_str().unwrap();
    assert_eq!(ask("shop-secret", &["cancel", later]).code, 1);

    assert!(
        ask("app-secret", &["cancel", later])
            .well()
            .contains("cancelled")
    );
}

#[test]
fn a_quota_of_the_file_holds_and_is_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let with = |quota: &str| {
        let token = format!("{{ name = \"app\", token = \"s\", scope = \"send\", {quota} }}");
        let http = format!("listen = \"127.0.0.1:0\"\ntokens = [{token}]");
        configuration(dir.path(), &http, "listen = \"127.0.0.1:0\"")
    };

    let config = with("rate = \"1/h\", from = [\"shop@example.com\"]");
    let mut service = Service::start(configured(dir.path(), &config));
    let url = format!("http://{}", service.http);
    let send = |from: &str| {
        let mut command = postrider();
        command.args([
            "send",
            "--to",
            "ada@example.org",
            "--subject",
            "s",
            "--text",
            "t",
        ]);
        command.args(["--from", from, "--url", &url, "--token", "s"]);
        finish(&mut command, b"")
    };

    let refused = send("boss@example.com");
    assert_eq!(refused.code, 1, "{}", refused.err);
    assert!(
        refused.err.contains("may not send from boss@example.com"),
        "{}",
        refused.err
    );

    send("shop@example.com").well();
    let later = send("shop@example.com");
    assert_eq!(later.code, 75, "{}", later.err);
    assert!(later.err.contains("again in"), "{}", later.err);

    configured(dir.path(), &with("max_per_day = 100"));
    let pid = service.pid().to_string();
    let told = std::process::Command::new("kill")
        .args(["-HUP", &pid])
        .status();
    assert!(told.unwrap().success());
    service.says("the configuration was read again");

    send("boss@example.com").well();
}

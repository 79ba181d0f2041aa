//! The commands against the real service: engine, HTTP door and a relay that refuses some.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use postrider::ingress::http::{HttpDoor, HttpSettings, Limits, Scope, Token};
use postrider::{Dispatcher, MailStatus, Relay, Stats};
use tokio::sync::watch;

use crate::command_line::{CommandResult, finish, postrider};
use crate::common::{Act, FakeSmtp, Rule, Step, TestSpool};

/// A running service: nobody@… is refused for good, and later@… for now.
struct Service {
    relay: FakeSmtp,
    url: String,
    _dispatcher: Dispatcher,
    _stop: watch::Sender<bool>,
    _spool: tempfile::TempDir,
}

impl Service {
    async fn start(tokens: Vec<Token>) -> Self {
        let relay = FakeSmtp::start().await;
        relay.rule(
            Rule::at(Step::Rcpt)
                .to("nobody@")
                .act(Act::reply(550, "5.1.1 no such user \u{1b}[2J")),
        );

        relay.rule(
            Rule::at(Step::Rcpt)
                .to("later@")
                .act(Act::reply(450, "4.2.1 later")),
        );

        let spool = tempfile::tempdir().unwrap();
        let smtp = Relay::smtp(&relay.url()).unwrap();
        let dispatcher = Dispatcher::builder()
            .relay(smtp)
            .test_spool_in(spool.path())
            .start()
            .await
            .unwrap();

        let settings = HttpSettings {
            listen: "127.0.0.1:0".parse().unwrap(),
            tokens,
            limits: Limits::default(),
        };

        let door = HttpDoor::bind(settings).await.unwrap();
        let url = format!("http://{}", door.local_addr());
        let (stop, shutdown) = watch::channel(false);
        tokio::spawn(door.serve(dispatcher.clone(), shutdown));

        Service {
            relay,
            url,
            _dispatcher: dispatcher,
            _stop: stop,
            _spool: spool,
        }
    }

    /// Runs a command against it.
    fn run(&self, words: &[&str]) -> CommandResult {
        self.run_with(words, b"")
    }

    fn run_with(&self, words: &[&str], input: &[u8]) -> CommandResult {
        finish(
            postrider().args(words).env("POSTRIDER_URL", &self.url),
            input,
        )
    }

    /// Sends a mail to this recipient, waits for its end, and returns its record.
    fn send(&self, to: &str, more: &[&str]) -> (i32, MailStatus) {
        let words = [
            "send",
            "--from",
            "shop@example.com",
            "--to",
            to,
            "--subject",
            "Hello",
            "--text",
            "hi",
            "--json",
        ];

        let done = self.run(&[&words[..], more].concat());
        (
            done.code,
            serde_json::from_str(&done.out).unwrap_or_else(|error| panic!("{error}: {done:?}")),
        )
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mail_goes_all_the_way() {
    let service = Service::start(vec![]).await;
    let (code, mail) = service.send(
        "ada@example.org",
        &["--wait", "--tag", "otp", "--priority", "critical"],
    );

    assert_eq!((code, mail.state.as_str()), (0, "delivered"));
    let received = service.relay.mails().remove(0);
    assert_eq!(received.recipients, ["ada@example.org"]);
    assert!(received.text().contains("Subject: Hello"));

    let id = mail.id.to_string();
    assert_eq!(service.run(&["show", &id, "--raw"]).well(), received.text());
    assert!(
        service
            .run(&["show", &id])
            .well()
            .contains("Subject: Hello")
    );

    assert!(service.run(&["status", &id]).well().contains("delivered"));
    assert!(
        service
            .run(&["list", "--tag", "otp", "--since", "1h"])
            .well()
            .contains(&id)
    );

    assert_eq!(
        service.run(&["list", "--tag", "other"]).well(),
        "no mails\n"
    );

    assert!(
        service
            .run(&["cancel", &id])
            .failed(1)
            .contains("delivered")
    );

    let stats: Stats = serde_json::from_str(&service.run(&["stats", "--json"]).well()).unwrap();
    assert_eq!((stats.accepted, stats.delivered), (1, 1));
    assert!(
        service
            .run(&["stats"])
            .well()
            .contains("1 accepted, 1 delivered")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_service_refuses_names_the_field() {
    let service = Service::start(vec![]).await;
    let words = [
        "send",
        "--from",
        "shop@example.com",
        "--to",
        "ada",
        "--cc",
        "bob",
        "--subject",
        "s",
        "--text",
        "t",
    ];

    let err = service.run(&words).failed(1);
    assert!(err.contains("--to ") && err.contains("--cc "), "{err}");
    let unknown = "0199c0de-0000-7000-8000-000000000000";
    assert!(
        service
            .run(&["status", unknown])
            .failed(1)
            .contains(unknown)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_one_mail() {
    let service = Service::start(vec![]).await;
    let (_, first) = service.send("ada@example.org", &["--key", "k", "--wait"]);
    let (_, second) = service.send("ada@example.org", &["--key", "k", "--wait"]);
    assert_eq!(first.id, second.id);

    let words = [
        "send",
        "--from",
        "shop@example.com",
        "--to",
        "ada@example.org",
        "--subject",
        "Other",
        "--text",
        "hi",
    ];

    let err = service
        .run(&[&words[..], &["--key", "k"]].concat())
        .failed(1);
    assert!(err.contains("--key "), "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_seen_retried_and_purged() {
    let service = Service::start(vec![]).await;
    let (code, mail) = service.send("nobody@example.org", &["--wait"]);
    assert_eq!((code, mail.state.as_str()), (1, "dead"));

    let out = service.run(&["dead", "list"]).well();
    assert!(
        out.contains("rejected")
            && out.contains("550 5.1.1 no such user")
            && !out.contains('\u{1b}'),
        "{out}"
    );

    assert_eq!(
        service.run(&["dead", "retry", "--dry-run"]).well(),
        "1 mail would be sent again\n"
    );

    service.relay.behave();
    assert_eq!(
        service
            .run(&["dead", "retry", "--recipient", "nobody@example.org"])
            .well(),
        "1 mail sent again\n"
    );

    assert_eq!(
        service
            .run(&["dead", "purge", "--yes", "--recipient", "other@example.org"])
            .well(),
        "0 mails deleted\n"
    );

    service
        .relay
        .rule(Rule::at(Step::Rcpt).act(Act::reply(550, "no")));
    service.send("nobody@example.org", &["--wait"]);

    let said = service.run(&["dead", "purge", "--yes"]).failed(2);
    assert!(said.contains("--all"), "{said}");
    assert_eq!(
        service.run(&["dead", "purge", "--yes", "--all"]).well(),
        "1 mail deleted\n"
    );

    assert_eq!(service.run(&["dead", "list"]).well(), "no mails\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deferred_mail_is_waited_for_retried_and_cancelled() {
    let service = Service::start(vec![]).await;
    let words = [
        "send",
        "--from",
        "shop@example.com",
        "--to",
        "later@example.org",
        "--subject",
        "s",
        "--text",
        "t",
    ];

    let done = service.run(&[&words[..], &["--wait=300ms"]].concat());
    assert!(
        done.code == 75 && done.err.contains("the service goes on trying"),
        "{done:?}"
    );

    let id = done.out.split_whitespace().next().unwrap();
    let out = service.run(&["status", id]).well();
    assert!(
        out.contains("deferred") && out.contains("450 4.2.1 later"),
        "{out}"
    );

    assert!(service.run(&["retry", id]).well().starts_with(id));

    let mut state = String::new();
    // Withdrawing a mail that is being sent at this moment is refused, and can be asked for again.
    for _ in 0..50 {
        state = service.run(&["cancel", id]).out;
        if !state.is_empty() {
            break;
        }
    }

    assert_eq!(state, format!("{id}  cancelled\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_relay_sends_nothing_until_it_is_resumed() {
    let service = Service::start(vec![]).await;

    let relays = service.run(&["relay", "list", "--json"]).well();
    let relays: serde_json::Value = serde_json::from_str(&relays).unwrap();
    let name = relays["relays"][0]["name"].as_str().unwrap();
    assert_eq!(
        service.run(&["relay", "pause", name]).well(),
        format!("{name} is paused\n")
    );

    assert!(service.run(&["relay", "list"]).well().contains("paused"));
    let words = [
        "send",
        "--from",
        "shop@example.com",
        "--to",
        "ada@example.org",
        "--subject",
        "s",
        "--text",
        "t",
    ];

    let done = service.run(&[&words[..], &["--wait=100ms"]].concat());
    assert_eq!(
        (done.code, service.relay.mails().len()),
        (75, 0),
        "{done:?}"
    );

    assert_eq!(
        service.run(&["relay", "resume", name]).well(),
        format!("{name} is resumed\n")
    );

    service.send("bob@example.org", &["--wait"]);
    assert!(
        service
            .run(&["relay", "pause", "other"])
            .failed(1)
            .contains("other")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_followed_live() {
    let service = Service::start(vec![]).await;
    let mut command = postrider();
    let mut tail = command
        .args(["tail", "--url", &service.url])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();

    let mut lines = BufReader::new(tail.stdout.take().unwrap())
        .lines()
        .map(Result::unwrap);
    // It tells what happens from when it is connected on, which nothing shows but the first event.
    let sent = std::thread::scope(|scope| {
        let first = scope.spawn(|| lines.next().unwrap());
        loop {
            let (_, mail) = service.send("ada@example.org", &["--wait"]);
            if first.is_finished() {
                first.join().unwrap();
                break mail.id;
            }
        }
    });

    let (_, last) = service.send("nobody@example.org", &["--wait"]);
    let told: Vec<String> = lines
        .by_ref()
        .skip_while(|line| !line.contains(&last.id.to_string()))
        .take(3)
        .collect();

    tail.kill().unwrap();
    tail.wait().unwrap();
    assert_ne!(sent, last.id);
    assert!(told[0].contains("accepted"), "{told:?}");

    assert!(
        told[1].contains("attempted")
            && told[1].contains("550 5.1.1")
            && !told[1].contains('\u{1b}'),
        "{told:?}"
    );

    assert!(
        told[2].contains("dead") && told[2].ends_with("rejected"),
        "{told:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_asked_for_and_their_scope_holds() {
    let token = |name: &str, secret: &str, scope| Token {
        name: name.into(),
        secret: secret.into(),
        scope,
    };

    let service = Service::start(vec![
        token("app", "s3nd", Scope::Send),
        token("ops", "4dmin", Scope::Admin),
    ])
    .await;

    assert!(service.run(&["stats"]).failed(1).contains("--token"));
    assert!(
        service
            .run(&["stats", "--token", "wrong"])
            .failed(1)
            .contains("check the token")
    );

    assert!(
        service
            .run(&["stats", "--token", "s3nd"])
            .failed(1)
            .contains("scope")
    );

    service.run(&["stats", "--token", "4dmin"]).well();
    let sendmail = |words: &[&str]| {
        service.run_with(
            &[&["sendmail"], words].concat(),
            b"From: a@example.com\n\nhi\n",
        )
    };

    sendmail(&["--token", "s3nd", "-i", "ada@example.org"]).well();
    sendmail(&["-i", "ada@example.org"]).failed(77);
}

#[tokio::test(flavor = "multi_thread")]
async fn sendmail_delivers_what_it_is_given() {
    let service = Service::start(vec![]).await;
    let input =
        b"To: ada@example.org, Bob <bob@example.org>\nBcc: eve@example.org\nSubject: s\n\n\xe9\n\
          ..\n.\nnot this\n";
    service
        .run_with(&["sendmail", "-t", "-f", "cron@example.com"], input)
        .well();

    service
        .run_with(
            &["sendmail", "-i", "-f", "<>", "zoe@example.org"],
            b"just text\n.\n",
        )
        .well();

    for address in ["ada@example.org", "zoe@example.org"] {
        let page = service
            .run(&["list", "--recipient", address, "--json"])
            .well();
        let page: postrider::StatusPage = serde_json::from_str(&page).unwrap();
        let id = page.mails[0].id.to_string();
        while !service.run(&["status", &id]).well().contains("delivered") {}
    }

    let mails = service.relay.mails();
    let to = |address: &str| {
        mails
            .iter()
            .find(|mail| mail.recipients.iter().any(|to| to == address))
            .unwrap()
    };

    let first = to("ada@example.org");
    assert_eq!(first.return_path, "cron@example.com");
    assert_eq!(
        first.recipients,
        ["ada@example.org", "bob@example.org", "eve@example.org"]
    );

    let message = first.text();
    assert!(message.contains("From: cron@example.com\r\n"), "{message}");
    assert!(
        first.message.ends_with(b"\r\n\r\n\xe9\r\n..\r\n"),
        "{message}"
    );

    assert!(!message.contains("eve@"), "{message}");
    let second = to("zoe@example.org");
    assert_eq!(second.return_path, "");
    assert!(
        second.text().ends_with("\r\n\r\njust text\r\n.\r\n"),
        "{}",
        second.text()
    );

    let err = service
        .run_with(
            &["sendmail", "-i", "ada@example.org"],
            b"From: a@example.com\nFrom: b@example.com\n\nhi\n",
        )
        .failed(65);

    assert!(err.starts_with("sendmail: "), "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_mails_are_counted_grouped_exported_and_acted_upon() {
    let service = Service::start(vec![]).await;
    for _ in 0..2 {
        service.send("nobody@example.org", &["--wait", "--tag", "lost"]);
    }

    for to in ["ada@example.org", "eve@example.org"] {
        let mail = ["send", "--to", to, "--subject", "News", "--text", "t"];
        let more = [
            "--from",
            "shop@example.com",
            "--delay",
            "1d",
            "--tag",
            "news",
        ];
        service.run(&[&mail[..], &more].concat()).well();
    }

    let counted = service.run(&["count", "-q", "tag:news,lost"]).well();
    for line in ["dead  2", "scheduled  2", "all  4"] {
        let words: Vec<&str> = line.split_whitespace().collect();
        let is_there = |l: &str| l.split_whitespace().collect::<Vec<_>>() == words;
        assert!(counted.lines().any(is_there), "{line} in {counted}");
    }

    let found = service.run(&["list", "-q", "to:eve", "--json"]).well();
    assert!(found.contains("eve@example.org") && !found.contains("ada@example.org"));
    let groups = service.run(&["failures", "--json"]).well();
    assert!(groups.contains("550 5.1.1 no such user"), "{groups}");

    let groups = service.run(&["failures", "--by", "domain"]).well();
    assert!(groups.contains("example.org"), "{groups}");
    let table = service.run(&["export", "-q", "state:dead"]).well();
    assert_eq!(table.lines().count(), 3, "{table}");

    let lines = service.run(&["export", "--format", "ndjson"]).well();
    assert_eq!(lines.lines().count(), 4, "{lines}");

    let dry = service
        .run(&["cancel", "-q", "tag:news", "--dry-run"])
        .well();
    assert!(dry.contains("2 mails"), "{dry}");

    let begun = service.run(&["cancel", "-q", "tag:news", "--json"]).well();
    let job: serde_json::Value = serde_json::from_str(&begun).unwrap();
    let id = job["id"].as_str().unwrap().to_owned();
    crate::common::eventually("the job is done", async || {
        service.run(&["job", "show", &id]).well().contains("done")
    })
    .await;

    let jobs = service.run(&["job", "list"]).well();
    assert!(
        jobs.contains("2 of 2") && jobs.contains("tag:news"),
        "{jobs}"
    );

    assert!(
        service
            .run(&["count", "-q", "state:cancelled"])
            .well()
            .contains('2')
    );

    // What has ended is deleted, after it was counted, and never all by mistake.
    assert_eq!(service.run(&["purge"]).code, 2);
    let one = job["id"].as_str().unwrap();
    assert_eq!(
        service.run(&["cancel", one, "--dry-run"]).code,
        2,
        "it would be cancelled"
    );

    let counted = service
        .run(&["purge", "-q", "tag:news", "--dry-run", "--json"])
        .well();
    assert_eq!(counted, "{\"count\":2,\"dry_run\":true}\n");
    service.run(&["purge", "-q", "tag:news"]).well();

    crate::common::eventually("the mail is gone", async || {
        service
            .run(&["count", "-q", "tag:news", "--json"])
            .well()
            .contains("\"count\":0")
    })
    .await;

    let wrong = service.run(&["count", "-q", "colour:red"]);
    assert_eq!(wrong.code, 1);
    assert!(wrong.err.contains("colour"), "{wrong:?}");
    assert_eq!(
        service.run(&["cancel"]).code,
        2,
        "neither a mail nor a search"
    );

    assert_eq!(service.run(&["retry", "--limit", "3"]).code, 2);
}

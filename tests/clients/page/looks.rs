//! How the page looks before the first mail, with three, and with 100,000: nothing is wider than
//! the screen, nothing is cut that should be read, and axe finds nothing serious.
//!
//! `POSTRIDER_PICTURES=FOLDER cargo test --all-features --test clients page::looks` leaves pictures
//! of every view in that folder for somebody to look at, light and dark, at 360, 768 and 1280
//! pixels; with `POSTRIDER_VIEWS=overview,mails` only of these. Without it only the looks that
//! differ most are gone through. README.md shows `many-mail-failed-light-1280.png` and
//! `three-letter-dark-1280.png`.
//!
//! `POSTRIDER_MAILS=1000000 cargo test --release --all-features --test clients
//! page::looks::every_view_is_fit_to_be_seen_with_a_hundred_thousand -- --nocapture` says how long
//! the first row of so many mails takes, instead of 100,000.

use serde_json::{Value, json};

use super::{Act, FakeSmtp, Rule, Service, Step, configuration, configured, node, well};

/// Names that mean something to the relay of these tests, and what it answers for them.
const TROUBLES: [(&str, u16, &str); 5] = [
    (
        "grey",
        451,
        "4.7.1 Greylisted, please try again in 300 seconds",
    ),
    ("full", 452, "4.2.2 The mailbox is over its quota"),
    (
        "spam",
        554,
        "5.7.1 Message rejected due to local policy, see https://policy.example/why?id=4f1c9e0a7b",
    ),
    (
        "long",
        550,
        "5.7.26 This mail has been blocked because the sender is unauthenticated. Authentication \
         results: \
        DKIM = did not pass, SPF [example.com] with ip: [192.0.2.44] = did not pass. For \
        instructions on setting up \
        authentication, go to \
        https://support.example/mail/answer/81126-averyveryverylongpathwithoutanybreakinit",
    ),
    (
        "gone",
        550,
        "5.1.1 The email account that you tried to reach does not exist",
    ),
];

const PEOPLE: [&str; 8] = [
    "ada.lovelace@example.org",
    "grace@example.net",
    "jürgen.groß@example.org",
    "alan.turing@computing.example",
    "katherine.johnson@orbits.example",
    "a.name.that.does.not.want.to.end.until.no.column.can.hold.it@\
        a-subdomain-of-some-length.example.org",
    "linus@example.net",
    "margaret@apollo.example",
];

const LETTERS: [(&str, &str); 6] = [
    ("Your order 10482 is on its way", "order"),
    ("Your code is 482913", "code"),
    ("Invoice 2026-1187", "invoice"),
    ("Grüße aus Köln: Ihre Bestellung ist unterwegs", "order"),
    ("ご注文ありがとうございます", "order"),
    (
        "We have changed our terms, our prices and the colour of our logo, and want to tell you \
         all about it at once",
        "news",
    ),
];

/// The service before a relay that makes trouble, one that is down, and one that captures.
async fn service(dir: &std::path::Path) -> (FakeSmtp, Service) {
    let relay = FakeSmtp::start().await;
    for (name, code, text) in TROUBLES {
        let refused = Act::Reply(code, text.into());
        relay.rule(Rule::at(Step::Rcpt).to(&format!("<{name}")).act(refused));
    }

    let more = "[[relays]]\nname = \"backup\"\nurl = \"smtp://127.0.0.1:9\"\n\
         [[relays]]\nname = \"inbox\"\nurl = \"capture://\"\n\
         [[routes]]\nmatch = { tag = [\"captured\"] }\nrelays = [\"inbox\"]\n\
         [[routes]]\nmatch = { tag = [\"abroad\"] }\nrelays = [\"backup\"]\n\
         [[routes]]\nrelays = [\"primary\"]\n";
    let config = configuration(&dir.join("spool"), &relay.url(), more);
    let mut command = configured(dir, &config);
    // A million and some may wait.
    command.env("POSTRIDER_SPOOL__MAX_PENDING", "2000000");
    (relay, Service::start(command))
}

fn mail(to: &str, letter: usize) -> Value {
    let (subject, tag) = LETTERS[letter % LETTERS.len()];
    json!({"from": "Shop <shop@example.com>", "to": to, "subject": subject, "tags": [tag],
        "text": format!("Hello,\n\n{subject}.\n\nYours, the shop")})
}

/// The mail that a test of somebody's own program would look at.
fn captured() -> Value {
    json!({"from": "Shop <shop@example.com>", "to": "ada@example.org", "tags": ["captured"],
        "subject": "Welcome to the shop", "text": "Your code is 482913: \
            https://shop.example/confirm?t=1",
        "html": "<h1>Welcome, Ada</h1><p>Your code is <b>482913</b>.</p>\
            <p>Or <a href=\"https://shop.example/confirm?t=1\">confirm your address</a>.</p>"})
}

fn hand_in(service: &Service, mails: &[Value]) {
    for batch in mails.chunks(500) {
        let answer = service.post("/v1/mails/batch", &json!({ "mails": batch }).to_string());
        assert_eq!(answer.status, 202, "{answer:?}");
        let answer = answer.json();
        let mut results = answer["results"].as_array().unwrap().iter();
        let refused = results.find(|one| one["id"].is_null());
        assert!(refused.is_none(), "{refused:?}");
    }
}

/// Waits until so many are left that were not tried yet.
fn settle(service: &Service) {
    let begun = std::time::Instant::now();
    let waiting = || {
        let answer = service.get("/v1/mails/count?q=state:queued,sending+-tag:abroad");
        answer.json()["count"].as_u64().unwrap()
    };
    while waiting() > 0 {
        assert!(begun.elapsed().as_secs() < 120, "{} wait", waiting());
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
}

/// Walks through all views; pictures of them begin with `name`.
fn look(service: &Service, name: &str) {
    let mut walk = node("views.cjs");
    walk.args([&format!("http://{}", service.http), name]);
    walk.args(std::env::var_os("POSTRIDER_PICTURES"));
    well(walk.output().unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_view_is_fit_to_be_seen_before_the_first_mail() {
    let dir = tempfile::tempdir().unwrap();
    let (_relay, service) = service(dir.path()).await;
    look(&service, "none");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_view_is_fit_to_be_seen_with_three_mails() {
    let dir = tempfile::tempdir().unwrap();
    let (_relay, service) = service(dir.path()).await;
    hand_in(
        &service,
        &[
            mail("gone@example.org", 0),
            mail("grey@example.net", 1),
            captured(),
        ],
    );
    settle(&service);
    look(&service, "three");
}

/// Most wait for tomorrow; of a thousand the relays have said what they say.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_view_is_fit_to_be_seen_with_a_hundred_thousand_mails() {
    let dir = tempfile::tempdir().unwrap();
    let (_relay, service) = service(dir.path()).await;
    let count = std::env::var("POSTRIDER_MAILS").map_or(100_000, |count| count.parse().unwrap());
    let waiting: Vec<usize> = (0..count - 1000).collect();
    for some in waiting.chunks(10_000) {
        let readers = some.iter().map(|n| {
            let mut mail = mail(&format!("reader{n}@list{}.example", n % 40), 5);
            mail["delay"] = json!("1d");
            mail
        });
        hand_in(&service, &readers.collect::<Vec<Value>>());
    }

    let many: Vec<String> = (0..300).map(|n| format!("team{n}@example.org")).collect();
    let mut team = mail("grace@example.net", 2);
    team["to"] = json!(many);
    let mut mails = vec![team];

    for n in 0..999 {
        let (trouble, ..) = TROUBLES[n / 9 % TROUBLES.len()];
        let person = PEOPLE[(n + 1) % PEOPLE.len()];
        let (_, domain) = person.rsplit_once('@').unwrap();
        let mut mail = match n % 9 {
            0 => mail(&format!("{trouble}{n}@{domain}"), n),
            4 if n % 4 == 0 => captured(),
            _ => mail(person, n),
        };

        if n % 50 == 7 {
            mail["tags"] = json!(["abroad", "<b>order</b>"]);
        }
        mails.push(mail);
    }

    hand_in(&service, &mails);
    settle(&service);
    let paused = service.post("/v1/relays/inbox/pause", "");
    assert_eq!(paused.status, 200, "{paused:?}");
    let again = json!({"q": "error:quota", "limit": 3}).to_string();
    assert_eq!(service.post("/v1/mails/retry", &again).status, 202);

    look(&service, "many");
    let said = well(
        node("many.cjs")
            .args([
                &format!("http://{}", service.http),
                "crowd",
                &count.to_string(),
            ])
            .output()
            .unwrap(),
    );
    println!("{said}");
}

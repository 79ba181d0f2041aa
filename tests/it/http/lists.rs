//! Mail of lists, and leaving one, over HTTP.

use std::time::Duration;

use futures::StreamExt;
use postrider::ingress::http::{Limits, Scope, Token};
use postrider::transport::Captured;
use postrider::{EventItem, EventKind, Mail, Unsubscribing};
use serde_json::{Value, json};

use super::service::Service;

async fn service() -> Service {
    let unsubscribing = Unsubscribing::new("https://mail.example.com", b"0123456789abcdef");
    let token = Token {
        name: "app".into(),
        secret: "s3cret".into(),
        scope: Scope::Admin,
    };
    Service::with(vec![token], Limits::default(), |engine| {
        engine.unsubscribing(unsubscribing.unwrap())
    })
    .await
}

const BEARER: [(&str, &str); 2] = [
    ("authorization", "Bearer s3cret"),
    ("content-type", "application/json"),
];

async fn hand_in(service: &Service, to: Value, list: Option<&str>) -> Value {
    let mut mail =
        json!({"from": "shop@example.com", "to": to, "subject": "News", "text": "News."});
    if let Some(list) = list {
        mail["list"] = list.into();
    }
    let answer = service
        .send("POST", "/v1/mails", &BEARER, mail.to_string())
        .await;
    assert_eq!(answer.status, 202, "{}", answer.text());
    service.dispatcher.wait_idle().await;
    answer.value()
}

/// The path of the link with which whoever gets this leaves the list.
fn link(sent: &Captured) -> String {
    let message = String::from_utf8(sent.message.to_vec()).unwrap();
    let header = message.split("\r\n\r\n").next().unwrap();
    assert!(
        header.contains("List-Unsubscribe-Post: List-Unsubscribe=One-Click"),
        "{header}"
    );

    assert!(
        header.contains("List-Id: <news.mail.example.com>"),
        "{header}"
    );

    let line = header
        .lines()
        .find(|line| line.starts_with("List-Unsubscribe: <"))
        .unwrap();

    let uri = line
        .strip_prefix("List-Unsubscribe: <")
        .unwrap()
        .strip_suffix('>')
        .unwrap();

    uri.strip_prefix("https://mail.example.com")
        .unwrap()
        .to_owned()
}

#[tokio::test]
async fn each_recipient_has_a_link_and_a_get_unsubscribes_nobody() {
    let service = service().await;
    let to = json!(["ada@example.org", "ben@example.org"]);
    hand_in(&service, to.clone(), Some("news")).await;

    let sent = service.capture.captured();
    assert_eq!(sent.len(), 2, "a message for each");
    assert_ne!(link(&sent[0]), link(&sent[1]));
    let of = |to: &str| {
        sent.iter()
            .find(|one| one.recipients[0].as_str() == to)
            .unwrap()
    };
    let ada = link(of("ada@example.org"));

    // As a scanner and a reader's program ask: without a token, by the name in the link.
    let outside = [("host", "mail.example.com")];
    let page = service.send("GET", &ada, &outside, "").await;
    assert_eq!(page.status, 200, "{}", page.text());

    assert!(
        page.text().contains("<form method=\"post\">"),
        "{}",
        page.text()
    );

    let listed = service
        .send("GET", "/v1/suppressions", &BEARER, "")
        .await
        .value();
    assert_eq!(listed["suppressions"], json!([]), "a GET changes nothing");

    let form = [
        ("host", "mail.example.com"),
        ("content-type", "application/x-www-form-urlencoded"),
    ];

    for _ in 0..2 {
        let done = service
            .send("POST", &ada, &form, "List-Unsubscribe=One-Click")
            .await;
        assert_eq!(done.status, 200, "{}", done.text());
    }

    let listed = service
        .send("GET", "/v1/suppressions", &BEARER, "")
        .await
        .value();

    assert_eq!(
        listed["suppressions"].as_array().unwrap().len(),
        1,
        "{listed}"
    );
    assert_eq!(listed["suppressions"][0]["list"], "news", "{listed}");

    let audit = service
        .send("GET", "/v1/audit?act=suppress", &BEARER, "")
        .await
        .value();
    let acts = audit["entries"].as_array().unwrap();
    assert_eq!(acts.len(), 1, "whoever clicks twice has left once: {audit}");

    let mut events = service.dispatcher.events_after(0);
    let told = loop {
        let next = tokio::time::timeout(Duration::from_secs(30), events.next());
        let item = next.await.expect("it is told").expect("the stream goes on");
        if let EventItem::Event(event) = item
            && let EventKind::Unsubscribed { list } = &event.kind
        {
            let who = event.recipient.as_ref().map(ToString::to_string);
            break (list.clone(), who);
        }
    };
    assert_eq!(told, (Some("news".into()), Some("ada@example.org".into())));

    let held = hand_in(&service, to.clone(), Some("news")).await;
    assert_eq!(held["suppressed"], json!(["ada@example.org"]));
    let other = hand_in(&service, to.clone(), Some("sales")).await;
    assert!(
        other["suppressed"].is_null(),
        "another list goes on: {other}"
    );

    let plain = hand_in(&service, to, None).await;
    assert!(plain["suppressed"].is_null(), "{plain}");
}

#[tokio::test]
async fn a_mail_for_one_has_its_link_from_the_start_and_a_wrong_link_leads_nowhere() {
    let service = service().await;
    let id = hand_in(&service, json!("ada@example.org"), Some("news")).await["id"].clone();
    let sent = service.capture.captured();

    let raw = format!("/v1/mails/{}/raw", id.as_str().unwrap());
    let raw = service.send("GET", &raw, &BEARER, "").await;
    assert_eq!(raw.body, sent[0].message);

    let link = link(&sent[0]);
    for wrong in [
        "/u/x".to_owned(),
        format!("{link}A"),
        link[..link.len() - 4].to_owned(),
    ] {
        for method in ["GET", "POST"] {
            let answer = service.send(method, &wrong, &[], "").await;
            assert_eq!(answer.status, 404, "{method} {wrong}");
        }
    }

    let foreign = [
        ("origin", "https://evil.example"),
        ("sec-fetch-site", "cross-site"),
    ];

    assert_eq!(
        service.send("POST", &link, &foreign, "").await.status,
        200,
        "it bears its own proof"
    );
}

#[tokio::test]
async fn what_the_sender_wrote_of_his_list_stays_and_a_mail_sent_at_once_has_its_links_too() {
    let service = service().await;

    let own = "<mailto:leave@example.com>";
    let mail = json!({"from": "shop@example.com", "to": ["ada@example.org", "ben@example.org"],
        "text": "News.", "list": "news", "headers": {"List-Unsubscribe": own}});
    let answer = service
        .send("POST", "/v1/mails", &BEARER, mail.to_string())
        .await;
    assert_eq!(answer.status, 202, "{}", answer.text());
    service.dispatcher.wait_idle().await;

    for sent in service.capture.captured() {
        let message = String::from_utf8(sent.message.to_vec()).unwrap();
        assert!(
            message.contains(&format!("List-Unsubscribe: {own}\r\n")),
            "{message}"
        );
        assert_eq!(message.matches("List-Unsubscribe").count(), 1, "{message}");
        assert!(
            message.contains("List-Id: <news.mail.example.com>"),
            "{message}"
        );
    }

    let mail = Mail::builder()
        .from("shop@example.com")
        .to("ada@example.org")
        .to("ben@example.org")
        .text("News.")
        .list("news")
        .build();

    service.dispatcher.send_now(mail.unwrap()).await.unwrap();
    let sent = service.capture.captured();
    assert_eq!(sent.len(), 4);
    assert_ne!(link(&sent[2]), link(&sent[3]));
}

#[tokio::test]
async fn the_page_runs_nothing_and_loads_nothing() {
    let service = service().await;
    hand_in(&service, json!("ada@example.org"), Some("news")).await;
    let link = link(&service.capture.captured()[0]);
    for path in [link.as_str(), "/u/none"] {
        let page = service.send("GET", path, &[], "").await;
        let policy = page.header("content-security-policy").to_owned();
        assert!(policy.contains("default-src 'none'"), "{policy}");
        assert!(!policy.contains("unsafe"), "{policy}");
        assert!(!page.text().contains("<script"), "{}", page.text());
        assert!(page.text().contains("color-scheme"), "{}", page.text());
    }
}

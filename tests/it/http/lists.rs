//! Mail of lists, and leaving one, over HTTP.

use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use futures::StreamExt;
use postrider::ingress::http::{Limits, Scope, StatusSettings, Token};
use postrider::transport::Captured;
use postrider::{EventItem, EventKind, Mail, Returns, Unsubscribing};
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
        .trim_end_matches(',')
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

    // Said already, it is not said again: a message has one such field.
    let mail = json!({"from": "shop@example.com", "to": ["ada@example.org", "ben@example.org"],
        "text": "News.", "list": "news",
        "headers": {"List-Unsubscribe-Post": "List-Unsubscribe=One-Click"}});
    let answer = service
        .send("POST", "/v1/mails", &BEARER, mail.to_string())
        .await;
    assert_eq!(answer.status, 202, "{}", answer.text());
    service.dispatcher.wait_idle().await;
    let sent = service.capture.captured();
    assert_eq!(sent.len(), 6);
    for sent in &sent[4..] {
        assert!(link(sent).contains("/u/"));
        let message = String::from_utf8(sent.message.to_vec()).unwrap();
        let fields = message.matches("List-Unsubscribe-Post: ").count();
        assert_eq!(fields, 1, "{message}");
    }
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

/// What a link's path looks like where it was made by somebody else.
fn forged(link: &str) -> Vec<String> {
    let token = link.strip_prefix("/u/").unwrap();
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(token).unwrap();
    let with = |from: &str, to: &str| {
        let at = bytes
            .windows(from.len())
            .position(|part| part == from.as_bytes());
        let at = at.unwrap_or_else(|| panic!("no {from} in it"));
        let other = [&bytes[..at], to.as_bytes(), &bytes[at + from.len()..]].concat();
        BASE64_URL_SAFE_NO_PAD.encode(other)
    };
    let swapped = |c: char| match c.is_ascii_lowercase() {
        true => c.to_ascii_uppercase(),
        false => c.to_ascii_lowercase(),
    };
    let mut other_mail = bytes.clone();
    other_mail[5] ^= 1;
    let mut tokens = vec![
        // Another list, none, and another's address.
        with("news", "sale"),
        with("news", ""),
        with("ada@", "ben@"),
        with("ada@", "Ada@"),
        with("\0ada@", "\0x\0ada@"),
        BASE64_URL_SAFE_NO_PAD.encode(other_mail),
        BASE64_URL_SAFE_NO_PAD.encode(&bytes[..bytes.len() - 16]),
        BASE64_URL_SAFE_NO_PAD.encode([&bytes[..], &bytes[..]].concat()),
        // Written in another way.
        token.chars().map(swapped).collect(),
        token.to_uppercase(),
        token.chars().rev().collect(),
        format!("{token}="),
        format!("{token}%00"),
        format!("%20{token}"),
        format!("{token}.html"),
        token.repeat(2),
        "A".repeat(10_000),
        "%ff%fe".to_owned(),
        "..".to_owned(),
    ];
    tokens.extend(
        (1..token.len())
            .step_by(7)
            .map(|end| token[..end].to_owned()),
    );
    tokens.extend(
        (1..token.len())
            .step_by(7)
            .map(|start| token[start..].to_owned()),
    );
    tokens
        .into_iter()
        .map(|token| format!("/u/{token}"))
        .collect()
}

async fn left(service: &Service) -> Value {
    let listed = service.send("GET", "/v1/suppressions", &BEARER, "").await;
    listed.value()["suppressions"].clone()
}

#[tokio::test]
async fn nothing_but_the_whole_link_of_ones_own_unsubscribes() {
    let status = StatusSettings {
        secret: "0123456789abcdef".to_owned().into(),
        base_url: Some("https://mail.example.com".to_owned()),
    };
    let returns = Returns::new("bounces.example.com", b"0123456789abcdef").unwrap();
    let unsubscribing = Unsubscribing::new("https://mail.example.com", b"0123456789abcdef");
    let token = Token {
        name: "app".into(),
        secret: "s3cret".into(),
        scope: Scope::Admin,
    };
    // All of them have the same secret.
    let service = Service::behind(
        vec![token],
        Limits::default(),
        |engine| {
            engine
                .unsubscribing(unsubscribing.unwrap())
                .returns(returns)
        },
        |door| door.with_status(&status),
    )
    .await;
    let accepted = hand_in(&service, json!("ada@example.org"), Some("news")).await;
    let sent = service.capture.captured();
    let link = link(&sent[0]);

    let mut tokens = forged(&link);
    let of_status = accepted["status_url"].as_str().unwrap();
    let of_status = of_status.rsplit('/').next().unwrap().to_owned();
    let path = sent[0].return_path.as_ref().unwrap().to_string();
    let (local, _) = path.split_once('@').unwrap();
    let raw: Vec<u8> = (2..local.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&local[at..at + 2], 16).unwrap())
        .collect();
    for other in [
        of_status.clone(),
        local.to_owned(),
        path.clone(),
        BASE64_URL_SAFE_NO_PAD.encode(raw),
        accepted["id"].as_str().unwrap().to_owned(),
        "s3cret".to_owned(),
    ] {
        tokens.push(format!("/u/{other}"));
    }
    for wrong in &tokens {
        for method in ["GET", "POST"] {
            let answer = service
                .send(method, wrong, &[], "List-Unsubscribe=One-Click")
                .await;
            let status = answer.status.as_u16();
            assert!(
                [400, 401, 404].contains(&status),
                "{method} {wrong}: {status}"
            );
            assert!(!answer.text().contains("ada@"), "{wrong} tells whose it is");
        }
    }
    assert_eq!(left(&service).await, json!([]));

    // Nor is it a token of the status.
    let token = link.strip_prefix("/u/").unwrap();
    let answer = service.call("GET", &format!("/status/{token}")).await;
    assert_eq!(answer.status, 404);
    let answer = service.call("GET", &format!("/status/{of_status}")).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
}

#[tokio::test]
async fn scanners_of_links_unsubscribe_nobody_whatever_they_ask_with() {
    let service = service().await;
    hand_in(&service, json!("ada@example.org"), Some("news")).await;
    let link = link(&service.capture.captured()[0]);
    let asked = format!("{link}?List-Unsubscribe=One-Click&method=POST&_method=POST");
    let posing = [
        ("x-http-method-override", "POST"),
        ("x-method-override", "POST"),
        ("content-type", "application/x-www-form-urlencoded"),
        ("purpose", "prefetch"),
    ];
    for path in [&link, &asked] {
        for method in [
            "GET", "HEAD", "OPTIONS", "PUT", "PATCH", "DELETE", "PROPFIND", "get", "post",
        ] {
            let answer = service
                .send(method, path, &posing, "List-Unsubscribe=One-Click")
                .await;
            let status = answer.status.as_u16();
            match method {
                "GET" | "HEAD" => assert_eq!(status, 200, "{method}"),
                _ => assert!((400..500).contains(&status), "{method}: {status}"),
            }
            let allows = answer.headers.get("access-control-allow-origin");
            assert_eq!(allows, None, "{method}");
        }
    }
    assert_eq!(left(&service).await, json!([]));

    // Too much is refused, and changes nothing.
    let large = "List-Unsubscribe=One-Click&x=".to_owned() + &"x".repeat(20_000);
    service
        .send("POST", &link, &[], large)
        .await
        .problem(413, "too-large");
    assert_eq!(left(&service).await, json!([]));
}

/// Programs differ in what they send (RFC 8058 §3.2 has two forms), and send it more than once.
#[tokio::test]
async fn a_post_unsubscribes_once_in_whatever_form_it_comes() {
    for (kind, body) in [
        (
            "application/x-www-form-urlencoded",
            "List-Unsubscribe=One-Click",
        ),
        (
            "multipart/form-data; boundary=b",
            "--b\r\nContent-Disposition: form-data; \
            name=\"List-Unsubscribe\"\r\n\r\nOne-Click\r\n--b--\r\n",
        ),
        ("application/json", "{"),
        (
            "text/plain; charset=utf-16",
            "\u{feff}List-Unsubscribe=One-Click",
        ),
        ("", ""),
    ] {
        let service = service().await;
        hand_in(&service, json!("ada@example.org"), Some("news")).await;
        let link = link(&service.capture.captured()[0]);
        let head: Vec<(&str, &str)> = match kind {
            "" => Vec::new(),
            kind => vec![("content-type", kind)],
        };
        let posts = (0..8).map(|_| service.send("POST", &link, &head, body));
        for answer in futures::future::join_all(posts).await {
            assert_eq!(answer.status, 200, "{kind}: {}", answer.text());
        }
        let left = left(&service).await;
        assert_eq!(left.as_array().unwrap().len(), 1, "{kind}: {left}");
        let audit = service
            .send("GET", "/v1/audit?act=suppress", &BEARER, "")
            .await;
        let acts = audit.value()["entries"].as_array().unwrap().len();
        assert_eq!(acts, 1, "{kind}: whoever posts eight times has left once");
    }
}

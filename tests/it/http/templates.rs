//! Mail from templates, over HTTP.

use std::fs;

use postrider::Templates;
use postrider::ingress::http::Limits;
use serde_json::json;
use tempfile::TempDir;

use super::service::Service;

const WELCOME: [(&str, &str); 6] = [
    ("welcome/subject.txt", "Welcome, {{ user.name }}"),
    (
        "welcome/body.html",
        "<h1>Hello {{ user.name }}</h1>\n<p>{{ shop }}\n{{ code }}</p>",
    ),
    (
        "welcome/template.toml",
        "description = \"the first mail\"\n[defaults]\nshop = \"Shop\"\n[sample]\ncode = 1\n\
         user = { name = \"Sam\" }",
    ),
    ("welcome/de/subject.txt", "Willkommen, {{ user.name }}"),
    ("welcome/de/body.txt", "Hallo {{ user.name }} {{ code }}"),
    ("plain/body.txt", "{{ text }}"),
];

async fn service() -> (Service, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in WELCOME {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let templates = Templates::load(folder.path(), "en").unwrap();
    let service = Service::with(Vec::new(), Limits::default(), |engine| {
        engine.templates(templates)
    });
    (service.await, folder)
}

fn mail(template: serde_json::Value) -> serde_json::Value {
    json!({"from": "shop@example.com", "to": "ada@example.org", "template": template})
}

#[tokio::test]
async fn a_template_makes_the_mail_and_nothing_of_its_data_breaks_out() {
    let (service, _folder) = service().await;
    let name = "<b>Ada</b>\r\nBcc: eve@example.org";
    let data = json!({"user": {"name": name}, "code": 7});
    let answer = service
        .json(
            "POST",
            "/v1/mails",
            &mail(json!({"name": "welcome", "data": data})),
        )
        .await;

    assert_eq!(answer.status, 202, "{}", answer.text());
    service.dispatcher.wait_idle().await;

    let sent = service.capture.captured();
    let message = String::from_utf8(sent[0].message.to_vec()).unwrap();
    let header = message.split("\r\n\r\n").next().unwrap();
    assert!(!header.contains("\r\nBcc"), "{header}");
    assert_eq!(sent[0].recipients.len(), 1);

    let parsed = mail_parser::MessageParser::new()
        .parse(message.as_bytes())
        .unwrap();
    assert_eq!(
        parsed.subject(),
        Some("Welcome, <b>Ada</b> Bcc: eve@example.org")
    );

    let html = parsed.body_html(0).unwrap();
    assert!(
        html.contains("<h1>Hello &lt;b&gt;Ada&lt;/b&gt;") && html.contains("Shop"),
        "{html}"
    );

    assert!(
        parsed.body_text(0).unwrap().contains("# Hello <b>Ada</b>"),
        "a text part is made"
    );
}

#[tokio::test]
async fn what_is_wrong_is_pointed_at() {
    let (service, _folder) = service().await;
    let refused = async |template| {
        let answer = service.json("POST", "/v1/mails", &mail(template)).await;
        (answer.status.as_u16(), answer.value())
    };

    let (status, problem) = refused(json!({"name": "wellcome", "data": {}})).await;
    assert_eq!(status, 404, "{problem}");

    let (status, problem) = refused(json!({"name": "welcome", "data": {"user": {}}})).await;
    assert_eq!(status, 422, "{problem}");
    let errors = problem["errors"].as_array().unwrap();
    assert_eq!(
        errors[0]["pointer"], "/template/data/user/name",
        "{problem}"
    );

    assert_eq!(
        errors[0]["detail"],
        "welcome/subject.txt, line 1: `user.name` is missing"
    );

    let (_, problem) = refused(json!({"name": "welcome", "data": {"user": {"name": "Ada"}}})).await;
    assert_eq!(
        problem["errors"][0]["pointer"], "/template/data/code",
        "{problem}"
    );

    assert_eq!(
        problem["errors"][0]["detail"],
        "welcome/body.html, line 3: `code` is missing"
    );

    for (template, pointer) in [
        (json!({"data": {}}), "/template/name"),
        (json!({"name": "welcome", "data": [1]}), "/template/data"),
        (
            json!({"name": "welcome", "locale": "../de"}),
            "/template/locale",
        ),
        (json!({"name": "welcome", "model": {}}), "/template/model"),
    ] {
        let (status, problem) = refused(template).await;
        assert_eq!(status, 422, "{problem}");
        assert_eq!(problem["errors"][0]["pointer"], pointer, "{problem}");
    }

    let mut both = mail(json!({"name": "plain", "data": {"text": "x"}}));
    both["text"] = "y".into();
    let answer = service.json("POST", "/v1/mails", &both).await;
    assert_eq!(answer.value()["errors"][0]["pointer"], "/template");
}

#[tokio::test]
async fn a_batch_shares_one_template_and_each_mail_adds_its_own() {
    let (service, _folder) = service().await;
    let to =
        |to: &str, template| json!({"from": "shop@example.com", "to": to, "template": template});
    let batch = json!({
        "template": {"name": "welcome", "data": {"code": 7}, "locale": "de-AT"},
        "mails": [
            to("a@example.org", json!({"data": {"user": {"name": "Ada"}}})),
            to("b@example.org", json!({"data": {"user": {"name": "Ben"}}, "locale": "fr"})),
            to("c@example.org", json!({"name": "plain", "data": {"text": "own"}})),
            {"from": "shop@example.com", "to": "d@example.org", "text": "says it itself"},
            {"from": "shop@example.com", "to": "e@example.org"},
        ],
    });

    let answer = service.json("POST", "/v1/mails/batch", &batch).await;
    let results = answer.value()["results"].clone();
    for place in 0..4 {
        assert!(results[place]["id"].is_string(), "{results}");
    }

    assert_eq!(
        results[4]["errors"][0]["pointer"], "/mails/4/template/data/user",
        "{results}"
    );
    service.dispatcher.wait_idle().await;

    let sent = service.capture.captured();
    let said = |to: &str| {
        let mail = sent.iter().find(|one| one.recipients[0].as_str() == to);
        String::from_utf8(mail.unwrap().message.to_vec()).unwrap()
    };

    assert!(said("a@example.org").contains("Hallo Ada 7"));
    assert!(said("b@example.org").contains("Subject: Welcome, Ben"));
    assert!(said("c@example.org").contains("own"));
    assert!(said("d@example.org").contains("says it itself"));
}

#[tokio::test]
async fn a_key_compares_what_was_asked_for_and_not_what_the_template_became() {
    let (service, folder) = service().await;
    let mut mail = mail(json!({"name": "plain", "data": {"text": "one"}}));
    mail["idempotency_key"] = "k".into();
    let first = service.json("POST", "/v1/mails", &mail).await.value();

    fs::write(folder.path().join("plain/body.txt"), "changed: {{ text }}").unwrap();
    service.dispatcher.templates().reload().unwrap();
    let again = service.json("POST", "/v1/mails", &mail).await.value();
    assert_eq!(
        (&again["id"], &again["duplicate"]),
        (&first["id"], &json!(true))
    );

    service.dispatcher.wait_idle().await;
    let sent = service.capture.captured();
    assert_eq!(sent.len(), 1);
    assert!(
        !sent[0].message.windows(7).any(|part| part == b"changed"),
        "frozen at accept"
    );

    mail["template"]["data"]["text"] = "two".into();
    assert_eq!(service.json("POST", "/v1/mails", &mail).await.status, 422);
}

#[tokio::test]
async fn templates_are_listed_and_rendered_without_sending() {
    let (service, _folder) = service().await;
    let listed = service.call("GET", "/v1/templates").await.value();
    let welcome = &listed["templates"][1];
    assert_eq!(welcome["name"], "welcome");
    assert_eq!(welcome["variables"], json!(["code", "shop", "user.name"]));
    assert_eq!(welcome["locales"], json!(["de"]));

    let render = async |body: &serde_json::Value| {
        service
            .json("POST", "/v1/templates/welcome/render", body)
            .await
    };

    let sample = render(&json!({})).await.value();
    assert_eq!(sample["subject"], "Welcome, Sam");

    let data = json!({"user": {"name": "<i>"}, "code": 2});
    let given = render(&json!({"data": data, "locale": "de"})).await.value();
    assert_eq!(
        (&given["text"], &given["locale"]),
        (&json!("Hallo <i> 2"), &json!("de"))
    );

    let wrong = render(&json!({"data": {}})).await;
    assert_eq!(wrong.status, 422);
    assert_eq!(wrong.value()["errors"][0]["pointer"], "/data/user");

    let unknown = service
        .json("POST", "/v1/templates/none/render", &json!({}))
        .await;
    assert_eq!(unknown.status, 404);
    assert!(service.capture.captured().is_empty());
}

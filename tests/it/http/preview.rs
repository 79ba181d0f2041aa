//! A mail taken apart, and captured mail for people's own tests.

use std::time::Duration;

use postrider::ingress::http::{Limits, Scope};
use serde_json::{Value, json};

use super::service::{Service, token};

fn mail(to: &str, subject: &str) -> Value {
    json!({"from": "Jörg <shop@example.com>", "to": to, "subject": subject,
           "text": "Grüße, your code is 482913.\nhttps://shop.example/c?t=1",
           "html": "<p onclick=alert(1)>Hallo <img src=\"cid:logo\"></p><script>alert(1)</script>",
           "attachments": [
               {"filename": "logo.png", "content_type": "image/png", "content": "AAEC",
                   "inline_id": "logo"},
               {"filename": "../r\u{202e}echnung.html", "content_type": "text/html",
                   "content": "PGI+"}]})
}

#[tokio::test]
async fn a_mail_is_taken_apart_into_text_header_and_parts() {
    let service = Service::start().await;
    let id = service
        .accept(&mail("ada@example.org", "Grüße: your code"))
        .await;
    let preview = service
        .call("GET", &format!("/v1/mails/{id}/preview"))
        .await;
    assert_eq!(preview.status, 200, "{}", preview.text());

    let preview = preview.value();
    assert_eq!(preview["subject"], "Grüße: your code");
    assert_eq!(preview["recipients"], json!(["ada@example.org"]));
    assert_eq!(preview["codes"], json!(["482913"]));
    assert_eq!(preview["links"], json!(["https://shop.example/c?t=1"]));

    let headers = preview["headers"].as_array().unwrap();
    let from = headers
        .iter()
        .find(|field| field["name"] == "From")
        .unwrap();

    assert_eq!(from["value"], "Jörg <shop@example.com>");
    assert!(from["raw"].as_str().unwrap().contains("=?utf-8?"), "{from}");
    let parts = preview["parts"].as_array().unwrap();
    let file = parts
        .iter()
        .find(|part| part["attachment"] == true && part["content_type"] == "text/html");
    let file = file.unwrap();
    assert_eq!(file["filename"], "rechnung.html");

    let part = service
        .call("GET", &format!("/v1/mails/{id}/parts/{}", file["n"]))
        .await;
    assert_eq!(part.body, b"<b>");
    assert_eq!(part.header("content-type"), "application/octet-stream");
    assert!(
        part.header("content-disposition")
            .starts_with("attachment;")
    );

    assert_eq!(part.header("x-content-type-options"), "nosniff");
    service
        .call("GET", &format!("/v1/mails/{id}/parts/99"))
        .await
        .problem(404, "not-found");
    service
        .call("GET", &format!("/v1/mails/{id}/parts/x"))
        .await
        .problem(404, "not-found");

    let html = service.call("GET", &format!("/v1/mails/{id}/html")).await;
    assert!(
        html.header("content-security-policy")
            .starts_with("sandbox; default-src 'none'")
    );

    let shown = html.text();
    assert!(shown.contains("data:image/png;base64,AAEC"), "{shown}");
    assert!(!shown.contains("alert"), "{shown}");

    let wrong = format!("/v1/mails/{id}/html?images=all");
    assert_eq!(service.call("GET", &wrong).await.pointers(), ["/images"]);

    let text_only = json!({"from": "a@example.org", "to": "b@example.org", "text": "t"});
    let id = service.accept(&text_only).await;
    service
        .call("GET", &format!("/v1/mails/{id}/html"))
        .await
        .problem(404, "not-found");
}

#[tokio::test]
async fn with_the_scope_send_one_looks_into_ones_own_mail_alone() {
    let tokens = vec![
        token("app", "app-secret", Scope::Send),
        token("other", "other-secret", Scope::Send),
    ];
    let service = Service::with(tokens, Limits::default(), |builder| builder).await;
    let kind = ("content-type", "application/json");
    let (app, other) = (
        ("authorization", "Bearer app-secret"),
        ("authorization", "Bearer other-secret"),
    );

    let body = mail("ada@example.org", "x").to_string();
    let accepted = service.send("POST", "/v1/mails", &[kind, app], body).await;
    let id = accepted.value()["id"].as_str().unwrap().to_owned();
    for path in ["preview", "html", "parts/2"] {
        let path = format!("/v1/mails/{id}/{path}");
        assert_eq!(
            service.send("GET", &path, &[app], "").await.status,
            200,
            "{path}"
        );
        service
            .send("GET", &path, &[other], "")
            .await
            .problem(404, "not-found");
        service
            .call("GET", &path)
            .await
            .problem(401, "unauthorized");
    }

    let inbox = service.send("GET", "/v1/inbox/latest", &[app], "").await;
    inbox.problem(403, "forbidden");
}

#[tokio::test]
async fn the_newest_captured_mail_is_waited_for_and_taken_apart() {
    let service = Service::start().await;
    let latest = |query: &str| {
        let path = format!("/v1/inbox/latest?{query}");
        async { service.call("GET", &{ path }).await }
    };

    latest("to=ada@example.org").await.problem(404, "not-found");
    let first = service.accept(&mail("ada@example.org", "First")).await;
    service
        .dispatcher
        .wait(first.parse().unwrap())
        .await
        .unwrap();

    let second = service.accept(&mail("lada@example.org", "Second")).await;
    service
        .dispatcher
        .wait(second.parse().unwrap())
        .await
        .unwrap();

    for (query, found) in [
        ("", &second),
        ("to=ADA@example.org", &first),
        ("to=ada", &second),
        ("subject=first", &first),
        ("to=ada@example.org&subject=fir", &first),
    ] {
        let answer = latest(query).await;
        assert_eq!(answer.value()["id"], **found, "{query}");
    }

    let taken = latest("to=ada@example.org").await.value();
    assert_eq!(taken["codes"], json!(["482913"]));
    assert!(taken["html"].as_str().unwrap().contains("Hallo"));
    assert!(taken["text"].as_str().unwrap().contains("Grüße"));

    // One that has not come yet; those that were there before do not count.
    let query = format!("to=ada@example.org&after={second}&wait=20s");
    let coming = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        service
            .accept(&mail("eve@example.org", "For another"))
            .await;
        service.accept(&mail("ada@example.org", "Third")).await
    };

    let (answer, third) = tokio::join!(latest(&query), coming);
    assert_eq!(answer.value()["id"], third);
    let begun = std::time::Instant::now();
    latest("to=nobody@example.org&wait=200ms")
        .await
        .problem(404, "not-found");

    assert!(begun.elapsed() >= Duration::from_millis(200));
    assert_eq!(latest("wait=soon").await.pointers(), ["/wait"]);
}

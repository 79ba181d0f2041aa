//! Finding mails by what a person types.

use serde_json::json;

use crate::http::service::Service;

#[tokio::test]
async fn mails_are_found_by_qualifiers_and_words_and_counted() {
    let service = Service::start().await;
    let mut ids = Vec::new();
    for (to, subject, tag, key) in [
        ("ada@example.org", "Your code", "login", "otp-1"),
        ("bob@example.net", "Welcome aboard", "welcome", "hello-2"),
        ("ada@example.org", "Welcome back", "welcome", "hello-3"),
    ] {
        let mail = json!({"from": "shop@example.com", "to": to, "subject": subject, "text": "t",
            "tags": [tag], "idempotency_key": key});
        ids.push(service.accept(&mail).await);
    }

    let later = json!({"from": "news@example.com", "to": "ada.lovelace@example.org",
        "subject": "Tomorrow", "text": "t", "delay": "1d", "priority": "bulk"});
    ids.push(service.accept(&later).await);
    service.dispatcher.wait_idle().await;

    let short = &ids[1][..18];
    let by_id = format!("id:{}", &ids[2][..]);
    for (q, expected) in [
        ("to:ada@example.org", &[2, 0][..]),
        ("to:ada", &[3, 2, 0]),
        ("from:news", &[3]),
        ("subject:welcome", &[2, 1]),
        ("subject:\"welcome back\"", &[2]),
        ("welcome -to:ada", &[1]),
        ("welcome domain:example.net", &[1]),
        ("tag:login,welcome", &[2, 1, 0]),
        ("key:otp-1", &[0]),
        ("state:scheduled", &[3]),
        ("state:delivered relay:capture code:250", &[2, 1, 0]),
        ("state:delivered code:5xx", &[]),
        ("priority:bulk", &[3]),
        ("after:1h", &[3, 2, 1, 0]),
        ("before:2020-01-31", &[]),
        (by_id.as_str(), &[2]),
        (short, &[1]),
        ("", &[3, 2, 1, 0]),
    ] {
        let asked: String = url::form_urlencoded::byte_serialize(q.as_bytes()).collect();
        let page = service.call("GET", &format!("/v1/mails?q={asked}")).await;
        assert_eq!(page.status, 200, "{q}: {}", page.text());
        let mails = page.value()["mails"].as_array().unwrap().clone();
        let found: Vec<usize> = mails
            .iter()
            .map(|mail| ids.iter().position(|id| mail["id"] == **id).unwrap())
            .collect();
        assert_eq!(found, expected, "{q}");
        let count = service
            .call("GET", &format!("/v1/mails/count?q={asked}"))
            .await;
        assert_eq!(count.value()["count"], expected.len(), "{q}");
    }

    let by_state = service.call("GET", "/v1/mails/count").await.value();
    assert_eq!(
        by_state["by_state"],
        json!({"delivered": 3, "scheduled": 1})
    );

    let wrong = service.call("GET", "/v1/mails?q=colour:red").await;
    assert_eq!(wrong.pointers(), ["/q"]);
}

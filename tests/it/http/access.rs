//! Who is let in.

use postrider::ingress::http::{HttpDoor, HttpSettings, Limits, Scope};
use serde_json::json;

use crate::http::service::{Service, token};

fn mail() -> String {
    json!({"from": "a@example.org", "to": "b@example.org", "text": "t"}).to_string()
}

#[tokio::test]
async fn a_token_opens_what_its_scope_allows() {
    let tokens = vec![
        token("app", "app-secret", Scope::Send),
        token("eye", "eye-secret", Scope::Read),
    ];
    let service = Service::with(tokens, Limits::default(), |builder| builder).await;
    let json = ("content-type", "application/json");

    let nobody = service.send("POST", "/v1/mails", &[json], mail()).await;
    nobody.problem(401, "unauthorized");
    assert_eq!(
        nobody.header("www-authenticate"),
        "Bearer realm=\"postrider\""
    );

    let wrong = service
        .send(
            "POST",
            "/v1/mails",
            &[json, ("authorization", "Bearer app-secreT")],
            mail(),
        )
        .await;

    wrong.problem(401, "unauthorized");
    assert!(wrong.header("www-authenticate").contains("invalid_token"));

    let app = ("authorization", "Bearer app-secret");
    let eye = ("authorization", "Bearer eye-secret");
    assert_eq!(
        service
            .send("POST", "/v1/mails", &[json, app], mail())
            .await
            .status,
        202
    );

    let narrow = service.send("GET", "/v1/stats", &[app], "").await;
    let problem = narrow.problem(403, "forbidden");
    assert!(
        problem["detail"].as_str().unwrap().contains("`app`"),
        "{problem}"
    );

    assert!(!narrow.text().contains("app-secret"));
    assert!(
        narrow
            .header("www-authenticate")
            .contains("insufficient_scope")
    );

    assert_eq!(
        service.send("GET", "/v1/mails", &[eye], "").await.status,
        200
    );

    service
        .send("POST", "/v1/mails", &[json, eye], mail())
        .await
        .problem(403, "forbidden");
    service
        .send("DELETE", "/v1/dead", &[eye], "")
        .await
        .problem(403, "forbidden");
    service
        .call("GET", "/metrics")
        .await
        .problem(401, "unauthorized");
    service
        .call("GET", "/v1/nothing/here")
        .await
        .problem(401, "unauthorized");

    assert_eq!(service.call("GET", "/health/ready").await.status, 200);
    // With a token a web page may be the client: it cannot send one that it was not given.
    let page = [
        eye,
        ("origin", "https://ops.example"),
        ("host", "mail.example"),
    ];

    assert_eq!(
        service.send("GET", "/v1/stats", &page, "").await.status,
        200
    );
}

#[tokio::test]
async fn tokens_are_replaced_while_the_door_is_open() {
    let service = Service::with(
        vec![token("old", "old-secret", Scope::Admin)],
        Limits::default(),
        |b| b,
    )
    .await;
    let old = [("authorization", "Bearer old-secret")];
    let new = [("authorization", "Bearer new-secret")];

    assert_eq!(service.send("GET", "/v1/stats", &old, "").await.status, 200);
    service
        .tokens
        .replace(vec![token("new", "new-secret", Scope::Admin)])
        .unwrap();
    service
        .send("GET", "/v1/stats", &old, "")
        .await
        .problem(401, "unauthorized");

    assert_eq!(service.send("GET", "/v1/stats", &new, "").await.status, 200);
    assert!(
        service
            .tokens
            .replace(vec![token("bad", "", Scope::Admin)])
            .is_err()
    );

    assert_eq!(
        service.send("GET", "/v1/stats", &new, "").await.status,
        200,
        "a refused change changes nothing"
    );
}

#[tokio::test]
async fn a_door_to_the_world_needs_a_token() {
    let settings = |tokens| HttpSettings {
        listen: "0.0.0.0:0".parse().unwrap(),
        tokens,
        limits: Limits::default(),
    };

    let error = HttpDoor::bind(settings(Vec::new()))
        .await
        .unwrap_err()
        .to_string();

    assert!(
        error.contains("http.listen") && error.contains("http.tokens"),
        "{error}"
    );

    assert!(
        HttpDoor::bind(settings(vec![token("app", "secret", Scope::Send)]))
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn an_address_that_is_taken_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = taken.local_addr().unwrap();
    let settings = HttpSettings {
        listen,
        tokens: Vec::new(),
        limits: Limits::default(),
    };
    let error = HttpDoor::bind(settings).await.unwrap_err().to_string();
    assert!(
        error.contains("http.listen") && error.contains(&listen.to_string()),
        "{error}"
    );
}

#[tokio::test]
async fn without_tokens_a_web_page_cannot_use_a_browser_on_this_machine() {
    let service = Service::start().await;
    let json = ("content-type", "application/json");
    for headers in [
        [json, ("host", "rebound.example")],
        [json, ("origin", "https://evil.example")],
        [json, ("origin", "null")],
        [json, ("sec-fetch-site", "cross-site")],
    ] {
        service
            .send("POST", "/v1/mails", &headers, mail())
            .await
            .problem(403, "foreign-origin");
    }

    service
        .send("GET", "/v1/mails", &[("host", "rebound.example")], "")
        .await
        .problem(403, "foreign-origin");

    let own = format!("http://{}", service.addr);
    let same = [
        json,
        ("origin", own.as_str()),
        ("sec-fetch-site", "same-origin"),
    ];

    assert_eq!(
        service
            .send("POST", "/v1/mails", &same, mail())
            .await
            .status,
        202
    );
}

#[tokio::test]
async fn a_token_is_exchanged_for_a_cookie_that_the_doors_own_page_alone_can_use() {
    let tokens = vec![token("eye", "eye-secret", Scope::Read)];
    let service = Service::with(tokens, Limits::default(), |b| b).await;

    let bearer = ("authorization", "Bearer eye-secret");
    let signed_in = service.send("POST", "/v1/session", &[bearer], "").await;
    assert_eq!(signed_in.status, 200);

    let who = signed_in.value();
    assert_eq!(
        (&who["name"], &who["scope"]),
        (&json!("eye"), &json!("read"))
    );

    assert_eq!(who["version"], env!("CARGO_PKG_VERSION"));
    let set = signed_in.header("set-cookie").to_owned();
    assert!(set.contains("; HttpOnly; SameSite=Strict"), "{set}");
    assert!(
        set.starts_with(&format!("postrider-{}=", service.addr.port())),
        "{set}"
    );
    assert!(!set.contains("eye-secret") && !signed_in.text().contains("eye-secret"));

    let cookie = ("cookie", set.split(';').next().unwrap());
    let own = ("sec-fetch-site", "same-origin");
    let get = |path, headers: &[(&'static str, &str)]| {
        let headers: Vec<_> = headers.iter().map(|(n, v)| (*n, (*v).to_owned())).collect();
        let service = &service;
        async move {
            let headers: Vec<_> = headers.iter().map(|(n, v)| (*n, v.as_str())).collect();
            service.send("GET", path, &headers, "").await
        }
    };

    assert_eq!(get("/v1/mails", &[cookie, own]).await.status, 200);
    assert_eq!(get("/v1/session", &[cookie, own]).await.value(), who);
    get("/v1/mails", &[cookie])
        .await
        .problem(403, "foreign-origin");
    get("/v1/mails", &[cookie, ("sec-fetch-site", "cross-site")])
        .await
        .problem(403, "foreign-origin");

    let wrong = ("authorization", "Bearer nothing");
    get("/v1/mails", &[cookie, own, wrong])
        .await
        .problem(401, "unauthorized");
    service
        .send("DELETE", "/v1/dead", &[cookie, own], "")
        .await
        .problem(403, "forbidden");

    let out = service
        .send("DELETE", "/v1/session", &[cookie, own], "")
        .await;
    assert_eq!(out.status, 204);
    assert!(out.header("set-cookie").contains("Max-Age=0"));
    get("/v1/mails", &[cookie, own])
        .await
        .problem(401, "unauthorized");
}

#[tokio::test]
async fn without_tokens_there_is_nothing_to_sign_in_with() {
    let service = Service::start().await;
    let answer = service.call("POST", "/v1/session").await;
    assert_eq!(answer.status, 200);
    assert!(!answer.headers.contains_key("set-cookie"));
    assert_eq!(answer.value()["scope"], "admin");
    assert!(answer.value()["name"].is_null());
}

const JSON: (&str, &str) = ("content-type", "application/json");
const APP: (&str, &str) = ("authorization", "Bearer app-secret");
const SHOP: (&str, &str) = ("authorization", "Bearer shop-secret");
const READ_TOKEN: (&str, &str) = ("authorization", "Bearer eye-secret");

async fn two_tenants() -> Service {
    let tokens = vec![
        token("app", "app-secret", Scope::Send),
        token("shop", "shop-secret", Scope::Send),
        token("eye", "eye-secret", Scope::Read),
    ];
    Service::with(tokens, Limits::default(), |builder| builder).await
}

fn scheduled(key: &str, text: &str) -> String {
    json!({
        "from": "a@example.org", "to": "b@example.org", "text": text, "idempotency_key": key,
        "delay": "1h",
    })
    .to_string()
}

#[tokio::test]
async fn an_idempotency_key_belongs_to_whoever_handed_it_in() {
    let service = two_tenants().await;
    let submit = async |who, key: &str, text: &str| {
        let answer = service
            .send("POST", "/v1/mails", &[JSON, who], scheduled(key, text))
            .await;
        (answer.status.as_u16(), answer.value())
    };

    let (status, first) = submit(APP, "otp-42", "1234").await;
    assert_eq!((status, &first["duplicate"]), (202, &json!(false)));

    // Neither the right content nor a wrong one tells the other tenant anything.
    let (status, guess) = submit(SHOP, "otp-42", "1234").await;
    assert_eq!((status, &guess["duplicate"]), (202, &json!(false)));
    assert_ne!(guess["id"], first["id"]);

    let (status, wrong) = submit(SHOP, "otp-42", "9999").await;
    assert_eq!(status, 422);
    assert!(!wrong.to_string().contains(first["id"].as_str().unwrap()));

    // And a key that another took first is still one's own.
    let (_, again) = submit(APP, "otp-42", "1234").await;
    assert_eq!(
        (&again["duplicate"], &again["id"]),
        (&json!(true), &first["id"])
    );

    let batch = format!(
        "{{\"mails\":[{},{}]}}",
        scheduled("otp-42", "1234"),
        scheduled("b", "x")
    );

    let answer = service
        .send("POST", "/v1/mails/batch", &[JSON, SHOP], batch)
        .await
        .value();

    assert_eq!(answer["results"][0]["id"], guess["id"]);
    assert_eq!(answer["results"][0]["duplicate"], true);
}

#[tokio::test]
async fn with_the_scope_send_one_sees_lists_and_cancels_ones_own_mail_alone() {
    let service = two_tenants().await;
    let hand_in = async |who| {
        let mail = scheduled("k", "t");
        let answer = service.send("POST", "/v1/mails", &[JSON, who], mail).await;
        answer.value()["id"].as_str().unwrap().to_owned()
    };

    let (own, foreign) = (hand_in(APP).await, hand_in(SHOP).await);
    let ask = async |method, path: String, who| service.send(method, &path, &[who], "").await;

    let record = ask("GET", format!("/v1/mails/{own}"), APP).await.value();
    assert_eq!(record["submitter"], "token:app");
    let raw = ask("GET", format!("/v1/mails/{own}/raw"), APP).await;
    assert_eq!(raw.status, 200);

    // Of another's mail is said, word for word, what is said of none.
    let unknown = "0199c0de-0000-7000-8000-000000000000";
    let encoded = foreign.replacen('0', "%30", 1);
    for (method, call) in [("GET", ""), ("GET", "/raw"), ("POST", "/cancel")] {
        let of_none = ask(method, format!("/v1/mails/{unknown}{call}"), APP).await;
        for (named, id) in [(&foreign, &foreign), (&encoded, &foreign)] {
            let answer = ask(method, format!("/v1/mails/{named}{call}"), APP).await;
            answer.problem(404, "not-found");
            assert_eq!(answer.text().replace(id.as_str(), unknown), of_none.text());
        }
    }

    for path in [
        format!("/v1/events?mail={foreign}"),
        format!("/v1/mails/{foreign}/"),
        format!("/v1/mails/{foreign}/raw/"),
        format!("/v1/mails/{}", foreign.to_uppercase()),
    ] {
        assert_eq!(ask("GET", path.clone(), APP).await.status, 404, "{path}");
    }

    for path in [
        "/v1/mails",
        "/v1/mails?q=key:k",
        "/v1/mails?state=scheduled",
    ] {
        let listed = ask("GET", path.to_owned(), APP).await.value();
        let ids: Vec<_> = listed["mails"].as_array().unwrap().iter().collect();
        assert_eq!(ids.len(), 1, "{path}");
        assert_eq!(ids[0]["id"], *own, "{path}");
    }

    let count = ask("GET", "/v1/mails/count".into(), APP).await.value();
    assert_eq!(count["count"], 1);
    let all = ask("GET", "/v1/mails/count".into(), READ_TOKEN)
        .await
        .value();
    assert_eq!(all["count"], 2);

    for (method, path, who) in [
        ("POST", format!("/v1/mails/{own}/retry"), APP),
        ("POST", format!("/v1/mails/{own}/cancel"), READ_TOKEN),
        ("GET", "/v1/relays".into(), APP),
        ("GET", "/v1/stats".into(), APP),
        ("GET", "/metrics".into(), APP),
        ("DELETE", "/v1/dead".into(), APP),
    ] {
        ask(method, path, who).await.problem(403, "forbidden");
    }

    let cancelled = ask("POST", format!("/v1/mails/{own}/cancel"), APP).await;
    assert_eq!(cancelled.value()["state"], "cancelled");

    let record = ask("GET", format!("/v1/mails/{foreign}"), READ_TOKEN)
        .await
        .value();
    assert_eq!(record["state"], "scheduled");
    assert_eq!(record["submitter"], "token:shop");
}

//! Every route of the door: who may ask what, and that no web page of others may. The routes stand
//! in one table, which is compared with the document that the door gives of itself.

use std::collections::BTreeSet;

use postrider::ingress::http::{Limits, Scope};
use serde_json::json;

use super::service::{Service, token};

/// Who may ask something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Audience {
    /// Anybody, from this service's own name: it tells nothing of any mail.
    Anybody,
    /// Anybody from anywhere: what is asked bears its own proof.
    World,
    /// Any token.
    Token,
    /// Tokens of these scopes: `send`, `read`, `admin`.
    Scopes([bool; 3]),
}

type Route = (&'static str, &'static str, Audience);

const SEND: Audience = Audience::Scopes([true, false, true]);
const READ: Audience = Audience::Scopes([false, true, true]);
const ADMIN: Audience = Audience::Scopes([false, false, true]);
/// With `send`, one's own mail alone.
const OWN: Audience = Audience::Scopes([true, true, true]);
const OWN_ACT: Audience = Audience::Scopes([true, false, true]);

/// What the document of the door describes.
const DESCRIBED: &[Route] = &[
    ("GET", "/health/live", Audience::Anybody),
    ("GET", "/health/ready", Audience::Anybody),
    ("GET", "/status.js", Audience::World),
    ("GET", "/status/{token}", Audience::World),
    ("GET", "/status/{token}/events", Audience::World),
    ("POST", "/v1/feedback/{provider}", Audience::World),
    ("GET", "/v1/session", Audience::Token),
    ("POST", "/v1/session", Audience::Token),
    ("DELETE", "/v1/session", Audience::Token),
    ("POST", "/v1/templates/{name}/render", Audience::Token),
    ("POST", "/v1/mails", SEND),
    ("POST", "/v1/mails/batch", SEND),
    ("GET", "/v1/mails", OWN),
    ("GET", "/v1/mails/count", OWN),
    ("GET", "/v1/mails/{id}", OWN),
    ("GET", "/v1/mails/{id}/html", OWN),
    ("GET", "/v1/mails/{id}/parts/{n}", OWN),
    ("GET", "/v1/mails/{id}/preview", OWN),
    ("GET", "/v1/mails/{id}/raw", OWN),
    ("GET", "/v1/events", OWN),
    ("POST", "/v1/mails/{id}/cancel", OWN_ACT),
    ("GET", "/metrics", READ),
    ("GET", "/v1/audit", READ),
    ("GET", "/v1/configuration", READ),
    ("GET", "/v1/failures", READ),
    ("GET", "/v1/inbox/latest", READ),
    ("GET", "/v1/jobs", READ),
    ("GET", "/v1/jobs/{id}", READ),
    ("GET", "/v1/mails/export", READ),
    ("GET", "/v1/nodes", READ),
    ("GET", "/v1/relays", READ),
    ("GET", "/v1/relays/{name}/domains", READ),
    ("GET", "/v1/schedules", READ),
    ("GET", "/v1/series", READ),
    ("GET", "/v1/stats", READ),
    ("GET", "/v1/suppressions", READ),
    ("GET", "/v1/suppressions/export", READ),
    ("GET", "/v1/templates", READ),
    ("GET", "/v1/webhooks", READ),
    ("DELETE", "/v1/dead", ADMIN),
    ("POST", "/v1/dead/retry", ADMIN),
    ("POST", "/v1/feedback/report", ADMIN),
    ("DELETE", "/v1/jobs/{id}", ADMIN),
    ("DELETE", "/v1/mails", ADMIN),
    ("POST", "/v1/mails/cancel", ADMIN),
    ("POST", "/v1/mails/retry", ADMIN),
    ("POST", "/v1/mails/{id}/retry", ADMIN),
    ("POST", "/v1/relays/{name}/pause", ADMIN),
    ("POST", "/v1/relays/{name}/resume", ADMIN),
    ("POST", "/v1/suppressions", ADMIN),
    ("DELETE", "/v1/suppressions", ADMIN),
    ("POST", "/v1/suppressions/import", ADMIN),
    ("POST", "/v1/webhooks/{name}/redeliver", ADMIN),
    ("POST", "/v1/webhooks/{name}/test", ADMIN),
];

/// What it does not describe: itself, the page, and what recipients ask.
const BESIDES: &[Route] = &[
    ("GET", "/openapi.json", Audience::Anybody),
    ("GET", "/", Audience::Anybody),
    ("GET", "/mails", Audience::Anybody),
    ("GET", "/mails/{id}", Audience::Anybody),
    ("GET", "/dead", Audience::Anybody),
    ("GET", "/relays", Audience::Anybody),
    ("GET", "/relays/{name}", Audience::Anybody),
    ("GET", "/inbox", Audience::Anybody),
    ("GET", "/inbox/{id}", Audience::Anybody),
    ("GET", "/events", Audience::Anybody),
    ("GET", "/audit", Audience::Anybody),
    ("GET", "/about", Audience::Anybody),
    ("GET", "/page/main.js", Audience::Anybody),
    ("GET", "/u/{token}", Audience::World),
    ("POST", "/u/{token}", Audience::World),
];

/// What a web page of others sends, or one whose name was made to lead here.
const FOREIGN: [&[(&str, &str)]; 8] = [
    &[("host", "evil.example")],
    &[
        ("host", "evil.example:8025"),
        ("origin", "http://evil.example:8025"),
    ],
    &[("host", "127.0.0.1.nip.io")],
    &[("origin", "https://evil.example")],
    &[("origin", "http://localhost:3000")],
    &[("origin", "null")],
    &[("sec-fetch-site", "cross-site")],
    &[("sec-fetch-site", "same-site")],
];

const JSON: (&str, &str) = ("content-type", "application/json");

fn routes() -> impl Iterator<Item = (&'static str, String, Audience)> {
    let all = DESCRIBED.iter().chain(BESIDES);
    all.map(|&(method, path, who)| {
        let place = path
            .replace("{id}", "0199c0de-0000-7000-8000-000000000000")
            .replace("{name}", "capture")
            .replace("{n}", "1")
            .replace("{provider}", "resend")
            .replace("{token}", "none");
        (method, place, who)
    })
}

/// A mail that would be taken.
fn mail() -> String {
    json!({"from": "a@example.org", "to": "b@example.org", "text": "t"}).to_string()
}

async fn with_tokens() -> Service {
    let tokens = vec![
        token("s", "send-secret", Scope::Send),
        token("r", "read-secret", Scope::Read),
        token("a", "admin-secret", Scope::Admin),
    ];
    Service::with(tokens, Limits::default(), |builder| builder).await
}

#[tokio::test]
async fn the_table_has_every_route_that_the_document_describes() {
    let service = Service::start().await;
    let document = service.call("GET", "/openapi.json").await.value();
    let mut described = BTreeSet::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys() {
            described.insert((method.to_uppercase(), path.clone()));
        }
    }

    let table = DESCRIBED.iter();
    let table = table.map(|(method, path, _)| ((*method).to_owned(), (*path).to_owned()));
    assert_eq!(described, table.collect());
}

#[tokio::test]
async fn every_route_lets_in_its_scopes_and_nobody_else() {
    let service = with_tokens().await;
    for (method, path, who) in routes() {
        let (of_none, of_scopes) = match who {
            Audience::Anybody | Audience::World => (true, [true; 3]),
            Audience::Token => (false, [true; 3]),
            Audience::Scopes(scopes) => (false, scopes),
        };

        let (status, ..) = service.open(method, &path, &[], "").await;
        assert_eq!(status != 401, of_none, "{method} {path} without: {status}");

        for (scope, allowed) in ["send", "read", "admin"].into_iter().zip(of_scopes) {
            let bearer = format!("Bearer {scope}-secret");
            let shown = [("authorization", bearer.as_str())];
            let (status, ..) = service.open(method, &path, &shown, "").await;
            assert_eq!(status != 403, allowed, "{method} {path} {scope}: {status}");
            assert_ne!(status, 401, "{method} {path} {scope}");
        }
    }
}

/// What a web page of others can read: nothing, but what is for every page.
fn may_be_read(path: &str) -> bool {
    path == "/status.js" || path.starts_with("/status/")
}

#[tokio::test]
async fn without_tokens_no_route_answers_the_web_pages_of_others() {
    let service = Service::start().await;
    for (method, path, who) in routes() {
        for foreign in FOREIGN {
            let headers = [foreign, &[JSON]].concat();
            let (status, said, _) = service.open(method, &path, &headers, mail()).await;
            let is_refused = status == 403;
            let expected = who != Audience::World;
            assert_eq!(
                is_refused, expected,
                "{method} {path} {foreign:?}: {status}"
            );
            let is_shared = said.contains_key("access-control-allow-origin");
            assert_eq!(is_shared, may_be_read(&path), "{method} {path} {foreign:?}");
        }

        // A browser asks first whether a page may do more than a form can.
        let asked = [
            ("origin", "https://evil.example"),
            ("access-control-request-method", method),
            ("access-control-request-headers", "authorization"),
        ];
        let (_, said, _) = service.open("OPTIONS", &path, &asked, "").await;
        let is_shared = said.contains_key("access-control-allow-origin");
        assert_eq!(is_shared, may_be_read(&path), "OPTIONS {path}");
    }

    let counted = service.call("GET", "/v1/mails/count").await.value();
    assert_eq!(counted["count"], 0, "nothing was done for them");
    let audit = service.call("GET", "/v1/audit").await.value();
    assert_eq!(audit["entries"], json!([]), "{audit}");

    // Its own page and its own programs are let in.
    let own = format!("http://{}", service.addr);
    for (method, path, _) in routes() {
        for headers in [
            &[][..],
            &[("origin", own.as_str())],
            &[("sec-fetch-site", "same-origin")],
        ] {
            let (status, ..) = service.open(method, &path, headers, "").await;
            assert_ne!(status, 403, "{method} {path} {headers:?}");
        }
    }
}

#[tokio::test]
async fn a_cookie_opens_no_route_to_the_web_pages_of_others() {
    let service = with_tokens().await;
    let bearer = ("authorization", "Bearer admin-secret");
    let signed_in = service.send("POST", "/v1/session", &[bearer], "").await;
    let cookie = signed_in.header("set-cookie").split(';').next().unwrap();
    let cookie = ("cookie", cookie);

    for (method, path, who) in routes() {
        if let Audience::Anybody | Audience::World = who {
            continue;
        }
        // With tokens the service may have any name, and a browser shows the cookie to none but
        // that for which it was given.
        let other_names = |foreign: &&[(&str, &str)]| foreign.len() < 2;
        for foreign in FOREIGN.into_iter().filter(other_names).chain([&[][..]]) {
            let headers = [foreign, &[JSON, cookie]].concat();
            let (status, said, _) = service.open(method, &path, &headers, mail()).await;
            assert_eq!(status, 403, "{method} {path} {foreign:?}");
            assert!(!said.contains_key("access-control-allow-origin"), "{path}");
        }
    }

    let own = ("sec-fetch-site", "same-origin");
    let headers = [cookie, own];
    let counted = service.send("GET", "/v1/mails/count", &headers, "").await;
    assert_eq!(counted.value()["count"], 0, "still signed in");
}

//! Resend tells what one of a mail's recipients does of the mail as a whole: it is taken where it
//! can be nobody else's doing.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use postrider::Timestamp;
use ring::hmac;
use serde_json::{Value, json};

use crate::common::provider::{Act, Provider, answer};
use crate::common::service::{Service, configured};

const KEY: &[u8] = b"0123456789abcdef0123456789abcdef";

fn id(n: usize) -> String {
    format!("56761188-7520-42d8-8898-ff6fc54ce61{n}")
}

async fn started(dir: &std::path::Path) -> (Provider, Service) {
    let taken = |n| answer(200, json!({"id": id(n)}));
    let acts: Vec<Act> = (0..9).map(taken).collect();
    let resend = Provider::new(acts).await;
    let more = format!(
        "[unsubscribe]\nbase_url = \"https://mail.example.com\"\n\
         secret = \"0123456789abcdef0123456789abcdef\"\n\
         [feedback.resend]\nsecret = \"whsec_{}\"\n",
        BASE64_STANDARD.encode(KEY)
    );
    let config = resend.configuration("resend", &more);
    let service = Service::start(configured(dir, &config));
    (resend, service)
}

/// Brings an event as Resend does; what it led to.
fn bring(service: &Service, event: &Value) -> Vec<String> {
    let body = event.to_string();
    let (name, time) = ("msg_1", Timestamp::now().as_millis() / 1000);
    let key = hmac::Key::new(hmac::HMAC_SHA256, KEY);
    let signature = hmac::sign(&key, format!("{name}.{time}.{body}").as_bytes());
    let signature = format!("v1,{}", BASE64_STANDARD.encode(signature.as_ref()));

    let request = ureq::post(format!("http://{}/v1/feedback/resend", service.http))
        .header("content-type", "application/json")
        .header("svix-id", name)
        .header("svix-timestamp", time.to_string())
        .header("svix-signature", signature);
    let mut answer = request.send(body).unwrap();
    assert_eq!(answer.status(), 202);
    let answer = answer.body_mut().read_to_string().unwrap();
    let answer: Value = serde_json::from_str(&answer).unwrap();
    let results = answer["results"].as_array().unwrap().iter();
    let shown = results.map(|one| format!("{} {}", one["recipient"], one["kind"]));
    shown.map(|one| one.replace('"', "")).collect()
}

fn event(name: &str, email: String, to: &Value) -> Value {
    json!({"type": format!("email.{name}"), "created_at": Timestamp::now().to_string(), "data": {
        "email_id": email, "from": "shop@example.com", "to": to, "subject": "Your code",
        "bounce": {"type": "Permanent", "subType": "General", "message": "no such user"}}})
}

fn suppressed(service: &Service) -> Vec<String> {
    let kept = service.get("/v1/suppressions").json();
    let entries = kept["suppressions"].as_array().unwrap().iter();
    let shown = entries.map(|one| format!("{} {}", one["address"], one["reason"]));
    shown.map(|one| one.replace('"', "")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_of_several_recipients_does_is_recorded_for_none_of_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let (resend, service) = started(dir.path()).await;
    let hand_in = |more: Value| {
        let mut mail = json!({"from": "shop@example.com", "subject": "Your code", "text": "t"});
        for (name, value) in more.as_object().unwrap() {
            mail[name] = value.clone();
        }
        let taken = service.post("/v1/mails", &mail.to_string());
        assert_eq!(taken.status, 202, "{taken:?}");
        service.become_all(
            &[taken.json()["id"].as_str().unwrap().to_owned()],
            "delivered",
        );
    };

    // Together, and with one who is not named in `to`.
    let both = json!(["ada@example.org", "ben@example.org"]);
    hand_in(json!({"to": both}));
    hand_in(json!({"to": "ada@example.org", "cc": "ben@example.org"}));
    let only_ada = json!(["ada@example.org"]);
    for (n, to) in [(0, &both), (1, &only_ada)] {
        for name in ["bounced", "complained", "delivered", "suppressed"] {
            assert_eq!(
                bring(&service, &event(name, id(n), to)),
                [""; 0],
                "{name} {n}"
            );
        }
    }
    assert_eq!(suppressed(&service), [""; 0]);
    // What was not sent at all went to none of them.
    let failed = bring(&service, &event("failed", id(0), &both));
    assert_eq!(
        failed,
        ["ada@example.org bounced", "ben@example.org bounced"]
    );
    assert_eq!(suppressed(&service), [""; 0]);

    // A list's mail goes to each by itself, under an id of its own.
    let asked = resend.asked().len();
    hand_in(json!({"to": both, "list": "news"}));
    assert_eq!(resend.asked().len(), asked + 2);
    let of_list = bring(&service, &event("bounced", id(asked), &both));
    assert_eq!(of_list.len(), 1, "{of_list:?}");
    let other = bring(&service, &event("complained", id(asked + 1), &both));
    assert_eq!(other.len(), 1, "{other:?}");
    let kept = suppressed(&service);
    assert_eq!(kept.len(), 2, "{kept:?}");
    assert!(
        kept[0].starts_with("ada@") && kept[1].starts_with("ben@"),
        "{kept:?}"
    );
}

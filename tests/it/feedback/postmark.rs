//! Postmark names a mail by an id of its own, with which it answers, and brings back what it was
//! told as metadata: its events find their mail by either.

use postrider::Timestamp;
use serde_json::{Value, json};

use crate::common::provider::{Act, Provider, answer};
use crate::common::service::{Service, configured};

const HEARD: &str = "[feedback.postmark]\nnetworks = [\"127.0.0.0/8\"]\n";
const RETURNS: &str =
    "[bounces]\ndomain = \"bounces.example.com\"\nsecret = \"0123456789abcdef0123456789abcdef\"\n";

/// The id with which the n-th mail is answered.
fn id(n: usize) -> String {
    format!("883953f4-6105-42a2-a16a-77a8eac7948{n}")
}

/// Postmark, which answers each mail with an id of its own; and a service that sends over it.
async fn started(dir: &std::path::Path, more: &str) -> (Provider, Service) {
    let taken = |n| {
        let body = json!({"ErrorCode": 0, "Message": "OK", "MessageID": id(n)});
        answer(200, body)
    };
    let acts: Vec<Act> = (0..5).map(taken).collect();
    let postmark = Provider::new(acts).await;
    let config = postmark.configuration("postmark", &format!("{HEARD}{more}"));
    let service = Service::start(configured(dir, &config));
    (postmark, service)
}

/// What Postmark tells of a mail, in the form of its documentation.
fn events() -> [(&'static str, Value); 4] {
    let now = Timestamp::now().to_string();
    [
        (
            "delivered",
            json!({"RecordType": "Delivery", "Recipient": "TO", "DeliveredAt": now,
                "Details": "Test delivery webhook details", "Tag": "", "ServerID": 23,
                "MessageStream": "outbound"}),
        ),
        (
            "bounced",
            json!({"RecordType": "Bounce", "Type": "HardBounce", "TypeCode": 1,
                "Name": "Hard bounce",
                "ID": 692560173, "Email": "TO", "From": "shop@example.com", "BouncedAt": now,
                "Description": "The server was unable to deliver your message (ex: unknown user).",
                "Details": "smtp;550 5.1.1 no such user", "DumpAvailable": true, "Inactive": true,
                "CanActivate": true, "Subject": "Your code", "Content": "<Full dump of bounce>"}),
        ),
        (
            "complained",
            json!({"RecordType": "SpamComplaint", "Type": "SpamComplaint", "TypeCode": 100001,
                "Name": "Spam complaint", "ID": 42, "Email": "TO", "From": "shop@example.com",
                "BouncedAt": now, "Description": "The subscriber explicitly marked this message as \
                                                  spam.",
                "Details": "Test spam complaint details", "Subject": "Your code"}),
        ),
        (
            "bounced",
            json!({"RecordType": "Bounce", "Type": "SoftBounce", "TypeCode": 4096, "ID": 43,
                "Email": "TO", "BouncedAt": now, "Details": "smtp;452 4.2.2 mailbox full"}),
        ),
    ]
}

/// The whole way of a mail of each kind: sent over Postmark, told of by it, in the record. `by`
/// says what an event names its mail by, given what Postmark was asked and has answered.
async fn each_is_found(more: &str, by: fn(asked: &Value, answered: String) -> Value) {
    let dir = tempfile::tempdir().unwrap();
    let (postmark, service) = started(dir.path(), more).await;

    for (n, (kind, event)) in events().into_iter().enumerate() {
        let to = format!("user{n}@example.org");
        let mail = service.hand_in(&to, "123456").json()["id"]
            .as_str()
            .unwrap()
            .to_owned();
        service.become_all(std::slice::from_ref(&mail), "delivered");

        let asked = postmark.asked()[n].json();
        let mut told: Value = serde_json::from_str(&event.to_string().replace("TO", &to)).unwrap();
        for (name, value) in by(&asked, id(n)).as_object().unwrap() {
            told[name] = value.clone();
        }
        for is_known in [false, true] {
            let taken = service.post("/v1/feedback/postmark", &told.to_string());
            assert_eq!(taken.status, 202, "{taken:?}");
            let result = &taken.json()["results"][0];
            let found = (&result["mail"], &result["kind"], &result["duplicate"]);
            let expected = (&json!(mail), &json!(kind), &json!(is_known));
            assert_eq!(found, expected, "{told}: {taken:?}");
        }

        let record = service.get(&format!("/v1/mails/{mail}")).json();
        let feedback = &record["deliveries"][0]["feedback"];
        assert_eq!(feedback.as_array().unwrap().len(), 1, "{record}");
        assert_eq!(
            (&feedback[0]["kind"], &feedback[0]["by"]),
            (&json!(kind), &json!("postmark"))
        );
    }

    // Of somebody else's mail, to one of our recipients.
    let mut other = events()[1].1.clone();
    (other["Email"], other["MessageID"]) = (json!("user0@example.org"), json!(id(9)));
    let taken = service.post("/v1/feedback/postmark", &other.to_string());
    assert_eq!(
        (taken.status, &taken.json()["results"]),
        (202, &json!([])),
        "{taken:?}"
    );

    let suppressed = service.get("/v1/suppressions").json();
    let entries = suppressed["suppressions"].as_array().unwrap().iter();
    let mut who: Vec<String> = entries
        .map(|entry| format!("{} {}", entry["address"], entry["reason"]).replace('"', ""))
        .collect();
    who.sort();
    assert_eq!(
        who,
        ["user1@example.org bounce", "user2@example.org complaint"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_of_postmark_finds_its_mail_by_the_id_that_postmark_answered_with() {
    each_is_found("", |asked, answered| {
        assert!(asked["Metadata"].is_null(), "{asked}");
        json!({"MessageID": answered, "Metadata": {}})
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_of_postmark_finds_its_mail_by_the_metadata_that_the_mail_was_sent_with() {
    each_is_found(
        RETURNS,
        |asked, _| json!({"MessageID": id(8), "Metadata": asked["Metadata"]}),
    )
    .await;
}

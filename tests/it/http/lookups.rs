//! Looking for a mail among many: what has an index is looked up, and what has none is looked for
//! in bounded parts, whose end is said.

use postrider::ingress::http::{Limits, Scope, Token};
use postrider::{Mail, MailId, Query, Submitter};
use serde_json::{Value, json};

use crate::common::test_spool::is_of_files;
use crate::http::service::{Answer, Service, token};

/// More than are looked at in one call.
const MANY: usize = 12_000;
/// The most that are.
const AT_ONCE: u64 = 11_000;

fn mail(n: usize) -> Mail {
    let builder = Mail::builder()
        .from(format!("sender{n}@example.com"))
        .to("ada@example.org")
        .subject("s")
        .text("t")
        .idempotency_key(format!("order-{n}"));
    // What another program has made, every third time.
    match n % 3 {
        0 => builder.header("Message-ID", format!("<{n}@elsewhere.example>")),
        _ => builder,
    }
    .build()
    .unwrap()
}

/// A service that holds many mails, and the ids of these, the oldest first.
async fn with_many(tokens: Vec<Token>) -> (Service, Vec<MailId>) {
    let service = Service::with(tokens, Limits::default(), |builder| builder).await;
    service.dispatcher.pause("capture").await.unwrap();
    let mut ids = Vec::new();
    for first in (0..MANY).step_by(500) {
        let mails = (first..first + 500).map(mail).collect();
        for result in service.dispatcher.submit_many(mails).await {
            ids.push(result.unwrap().id);
        }
    }
    (service, ids)
}

/// Repeats a call until nothing is left to look at; returns the last answer and how many were made.
async fn to_the_end(
    service: &Service,
    path: &str,
    header: &[(&str, &str)],
) -> (Answer, Vec<Value>) {
    let mut told = Vec::new();
    let mut cursor = String::new();
    loop {
        let answer = service
            .send("GET", &format!("{path}{cursor}"), header, "")
            .await;
        let value = answer.value();
        if let Some(looked_at) = value["looked_at"].as_u64() {
            assert!(looked_at <= AT_ONCE, "{looked_at} for {path}");
        }
        let Some(next) = value["next"].as_str() else {
            return (answer, told);
        };
        let sign = if path.contains('?') { '&' } else { '?' };
        cursor = format!("{sign}cursor={next}");
        told.push(value);
    }
}

#[tokio::test]
async fn what_is_named_is_looked_up_and_what_is_not_is_looked_for_in_parts() {
    let (service, ids) = with_many(Vec::new()).await;
    let oldest = service.dispatcher.status(ids[1]).await.unwrap();
    let made_here = oldest.message_id.trim_matches(['<', '>']).to_owned();

    // A key, a Message-ID that was made here, and the beginning of an id: no other mail is read.
    let first_digits = ids[1].to_string();
    for (q, state) in [
        ("key:order-1".to_owned(), ""),
        ("key:order-1 from:sender1@example.com".to_owned(), ""),
        (format!("message-id:{made_here}"), ""),
        (format!("message-id:<{made_here}>"), "&state=queued"),
        ("key:order-1".to_owned(), "&state=queued"),
        (format!("id:{first_digits}"), ""),
        (format!("id:{}", &first_digits[..34]), "&state=queued"),
    ] {
        let q = q
            .replace('<', "%3C")
            .replace('>', "%3E")
            .replace(' ', "%20");
        let page = service
            .call("GET", &format!("/v1/mails?q={q}{state}"))
            .await;
        let page = page.value();
        assert_eq!(page["mails"][0]["id"], first_digits, "{q}{state}: {page}");
        assert_eq!(page["next"], Value::Null, "{q}{state}");
        assert!(page["looked_at"].as_u64().unwrap() < 100, "{q}: {page}");

        let path = format!("/v1/mails/count?q={q}{state}");
        let counted = service.call("GET", &path).await.value();
        assert_eq!(
            (&counted["count"], &counted["next"]),
            (&1.into(), &Value::Null)
        );
    }
    for name in ["order-1", &made_here] {
        let record = service.call("GET", &format!("/v1/mails/{name}")).await;
        assert_eq!(record.value()["id"], first_digits, "{}", record.text());
    }

    // What no mail can be is not looked for.
    let has_ids_that_tell_times = !is_of_files("times that are ranges of ids");
    for q in ["id:xyzxyz", "after:2100-01-01", "before:2001-01-01"] {
        let page = service
            .call("GET", &format!("/v1/mails?q={q}"))
            .await
            .value();
        assert_eq!(page["mails"].as_array().unwrap().len(), 0, "{q}");
        if has_ids_that_tell_times || q.starts_with("id") {
            assert_eq!(
                (&page["looked_at"], &page["next"]),
                (&0.into(), &Value::Null),
                "{q}"
            );
        }
    }

    // A sender and a foreign Message-ID are in no index: each call looks at a part, and says so.
    for name in ["sender0@example.com", "0@elsewhere.example"] {
        let (answer, told) = to_the_end(&service, &format!("/v1/mails/{name}"), &[]).await;
        assert!(!told.is_empty(), "{name} took one call");
        assert_eq!(
            answer.value()["id"],
            ids[0].to_string(),
            "{}",
            answer.text()
        );
        for problem in &told {
            assert_eq!(problem["status"], 409, "{problem}");
            assert_eq!(problem["type"], "urn:postrider:problem:not-all-seen");
            assert_eq!(problem["mails"], json!([]));
        }
    }

    // One that is found at once may not be the only one.
    let newest = format!("sender{}@example.com", MANY - 1);
    let (answer, told) = to_the_end(&service, &format!("/v1/mails/{newest}"), &[]).await;
    assert_eq!(told[0]["mails"][0], ids[MANY - 1].to_string());
    assert_eq!(answer.status, 404, "no other: {}", answer.text());

    let (answer, told) = to_the_end(&service, "/v1/mails/order-none", &[]).await;
    assert_eq!((answer.status.as_u16(), told.is_empty()), (404, false));

    let (answer, told) = to_the_end(&service, "/v1/mails/count?q=from:sender", &[]).await;
    let parts = told
        .iter()
        .chain([&answer.value()])
        .map(|part| part["count"].as_u64().unwrap())
        .collect::<Vec<_>>();
    assert!(
        parts.len() > 1 && parts.iter().sum::<u64>() == MANY as u64,
        "{parts:?}"
    );

    // For a program that has the engine in it the whole count is one call.
    let all = service.dispatcher.count(Query::default()).await.unwrap();
    assert_eq!((all.count, all.next), (MANY as u64, None));
}

#[tokio::test]
async fn a_key_is_looked_up_for_whoever_has_one_and_nobody_finds_anothers() {
    let tokens = ["shop", "news"];
    let tokens = tokens.map(|name| token(name, &format!("{name}-secret-secret"), Scope::Send));
    let (service, ids) = with_many(tokens.into()).await;
    let shop = service.dispatcher.on_behalf_of(Submitter::token("shop"));
    let its = shop.submit(mail(7)).await.unwrap().id;
    let header = [("authorization", "Bearer shop-secret-secret")];

    let record = service.send("GET", "/v1/mails/order-7", &header, "").await;
    assert_eq!(record.value()["id"], its.to_string(), "{}", record.text());
    let mut other = header;
    other[0].1 = "Bearer news-secret-secret";
    let (answer, _) = to_the_end(&service, "/v1/mails/order-7", &other).await;
    assert_eq!(answer.status, 404, "{}", answer.text());

    let several = service.dispatcher.find("order-7", None).await.unwrap_err();
    assert!(
        several.to_string().contains(&ids[7].to_string()),
        "{several}"
    );
    assert!(several.to_string().contains(&its.to_string()), "{several}");
}

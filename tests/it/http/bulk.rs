//! Acts on everything that a search finds, failures grouped, and exports.

use std::time::Duration;

use postrider::delivery::{Outcome, Phase, Reply};
use postrider::{MailId, Relay};
use serde_json::{Value, json};

use crate::common::{ScriptedRelay, TestSpool};
use crate::http::service::Service;

/// A service whose relay refuses everybody at example.net, and defers everybody at example.com.
async fn erratic_service() -> Service {
    let scripted = ScriptedRelay::free();
    scripted.answer(|mail| {
        let recipient = mail.recipients[0].as_str();
        let number = recipient.len() * 1000;
        match mail.recipients[0].domain() {
            "example.net" => {
                let text = format!("5.1.1 <{recipient}>: no such user ({number})");
                Outcome::Rejected(Phase::RcptTo, Reply::new(550, &text))
            }
            "example.com" => {
                let text = format!("4.7.1 greylisted, come back in {number} seconds");
                Outcome::Deferred(Phase::RcptTo, Reply::new(451, &text))
            }
            _ => Outcome::Delivered(Reply::new(250, "2.0.0 taken")),
        }
    });

    Service::with(Vec::new(), Default::default(), |_| {
        postrider::Dispatcher::builder()
            .relay(Relay::custom("capture", std::sync::Arc::new(scripted)))
            .test_spool()
    })
    .await
}

async fn hand_in(service: &Service, to: &[&str], extra: &Value) {
    for (place, to) in to.iter().enumerate() {
        let mut mail = json!({"from": "shop@example.org", "to": to, "text": "t",
            "subject": format!("=1+{place}")});
        mail.as_object_mut()
            .unwrap()
            .extend(extra.as_object().unwrap().clone());
        service.accept(&mail).await;
    }
}

/// Waits until a job has ended.
async fn ended(service: &Service, job: &Value) -> Value {
    let path = format!("/v1/jobs/{}", job["id"].as_str().unwrap());
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    loop {
        let job = service.call("GET", &path).await.value();
        if job["state"] != "running" {
            return job;
        }
        assert!(std::time::Instant::now() < deadline, "{job}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn count(service: &Service, q: &str) -> u64 {
    let asked: String = url::form_urlencoded::byte_serialize(q.as_bytes()).collect();
    let counted = service
        .call("GET", &format!("/v1/mails/count?q={asked}"))
        .await;
    counted.value()["count"].as_u64().unwrap()
}

/// The door through which something is done to a mail.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Door {
    Handle,
    Call,
    Job,
}

/// Whether it was done.
async fn done(service: &Service, door: Door, act: &str, id: &str) -> bool {
    let hand = &service.dispatcher;
    let mail: MailId = id.parse().unwrap();
    match (door, act) {
        (Door::Handle, "cancel") => hand.cancel(mail).await.is_ok(),
        (Door::Handle, _) => hand.retry(mail).await.is_ok(),
        (Door::Call, _) => {
            let path = format!("/v1/mails/{id}/{act}");
            let answer = service.call("POST", &path).await;
            assert!(
                answer.status == 200 || answer.status == 409,
                "{}",
                answer.text()
            );
            answer.status == 200
        }
        (Door::Job, _) => {
            let (method, path) = match act {
                "purge" => ("DELETE", "/v1/mails".to_owned()),
                act => ("POST", format!("/v1/mails/{act}")),
            };
            let dry = json!({"q": format!("id:{id}"), "dry_run": true});
            let counted = service.json(method, &path, &dry).await.value();
            let wet = json!({"q": format!("id:{id}")});
            let begun = service.json(method, &path, &wet).await;
            let job = ended(service, &begun.value()).await;
            assert_eq!(job["done"], counted["count"], "{act}: {job} {counted}");
            job["done"] == 1
        }
    }
}

#[tokio::test]
async fn what_is_done_to_a_mail_is_done_alike_at_every_door_whatever_its_state() {
    use Door::{Call, Handle, Job};
    // What becomes of a mail in this state by a cancel, a retry and a purge; `-` where nothing may.
    let table = [
        ("scheduled", "cancelled", "-", "-"),
        ("queued", "cancelled", "-", "-"),
        ("deferred", "cancelled", "queued", "-"),
        ("cancelled", "-", "queued", "gone"),
        ("delivered", "-", "-", "gone"),
        ("dead", "-", "queued", "gone"),
    ];

    let cases = table.iter().flat_map(|(state, cancel, retry, purge)| {
        let of = |act: &'static str, then: &'static str| {
            let doors: &[Door] = if act == "purge" {
                &[Job]
            } else {
                &[Handle, Call, Job]
            };
            doors.iter().map(move |door| (*state, act, *door, then))
        };
        let all = of("cancel", cancel).chain(of("retry", retry));
        all.chain(of("purge", purge)).collect::<Vec<_>>()
    });

    let service = erratic_service().await;
    let mut waiting = Vec::new();
    let mut made = Vec::new();
    for case in cases {
        let to = match case.0 {
            "deferred" => "ada@example.com",
            "dead" => "ada@example.net",
            _ => "ada@example.org",
        };
        let mut mail = json!({"from": "shop@example.org", "to": to, "subject": "s", "text": "t"});
        match case.0 {
            "queued" => waiting.push((case, mail)),
            state => {
                if matches!(state, "scheduled" | "cancelled") {
                    mail["delay"] = json!("1d");
                }
                let id = service.accept(&mail).await;
                if state == "cancelled" {
                    service
                        .dispatcher
                        .cancel(id.parse().unwrap())
                        .await
                        .unwrap();
                }
                made.push((case, id));
            }
        }
    }

    service.dispatcher.wait_idle().await;
    service.dispatcher.pause("capture").await.unwrap();
    for (case, mail) in waiting {
        made.push((case, service.accept(&mail).await));
    }

    for ((state, act, door, then), id) in made {
        let path = format!("/v1/mails/{id}");
        let before = service.call("GET", &path).await.value();
        assert_eq!(before["state"], state);

        let was_done = done(&service, door, act, &id).await;
        let what = format!("{act} of {state} mail by {door:?}");
        // What is cancelled already may be cancelled by name again, and nothing comes of it.
        let is_again = (state, act) == ("cancelled", "cancel") && door != Job;
        assert_eq!(was_done, then != "-" || is_again, "{what}");

        let after = service.call("GET", &path).await;
        match then {
            "gone" => assert_eq!(after.status, 404, "{what}"),
            "-" => assert_eq!(after.value()["state"], state, "{what}"),
            then => assert_eq!(after.value()["state"], then, "{what}"),
        }
    }

    // Nobody means everything by saying nothing.
    for (method, path) in [
        ("DELETE", "/v1/mails"),
        ("POST", "/v1/mails/cancel"),
        ("POST", "/v1/mails/retry"),
    ] {
        let answer = service.json(method, path, &json!({})).await;
        assert_eq!(answer.status, 422, "{path}: {}", answer.text());
    }
}

#[tokio::test]
async fn what_a_search_finds_is_counted_and_then_cancelled_retried_and_purged() {
    let service = erratic_service().await;
    hand_in(
        &service,
        &["ada@example.org"; 700],
        &json!({"delay": "1d", "tags": ["news"]}),
    )
    .await;
    hand_in(&service, &["bob@example.net"; 3], &json!({})).await;
    service.dispatcher.wait_idle().await;
    assert_eq!(count(&service, "state:dead").await, 3);

    let news = json!({"q": "tag:news", "dry_run": true});
    let counted = service.json("POST", "/v1/mails/cancel", &news).await;
    assert_eq!(counted.status, 200);
    assert_eq!(counted.value(), json!({"count": 700, "dry_run": true}));
    assert_eq!(count(&service, "state:cancelled").await, 0, "only counted");

    let some = json!({"q": "tag:news", "limit": 20});
    let begun = service.json("POST", "/v1/mails/cancel", &some).await;
    assert_eq!(begun.status, 202, "{}", begun.text());

    let location = begun.header("location").to_owned();
    assert_eq!(
        location,
        format!("/v1/jobs/{}", begun.value()["id"].as_str().unwrap())
    );

    let job = ended(&service, &begun.value()).await;
    let expected = json!({"act": "cancel", "search": "tag:news", "state": "done", "done": 20,
        "total": 20,
        "skipped": 0, "by": "local"});
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(&job[name], value, "{name}: {job}");
    }
    assert_eq!(count(&service, "state:cancelled").await, 20);

    let rest = json!({"q": "tag:news"});
    let begun = service.json("POST", "/v1/mails/cancel", &rest).await;
    assert_eq!(ended(&service, &begun.value()).await["done"], 680);

    let dead = json!({"q": "state:dead"});
    let begun = service.json("POST", "/v1/mails/retry", &dead).await;
    assert_eq!(ended(&service, &begun.value()).await["done"], 3);
    service.dispatcher.wait_idle().await;

    assert_eq!(
        count(&service, "state:dead").await,
        3,
        "tried again, and refused again"
    );

    let begun = service
        .json("DELETE", "/v1/mails", &json!({"all": true}))
        .await;
    assert_eq!(begun.status, 202, "{}", begun.text());
    assert_eq!(ended(&service, &begun.value()).await["done"], 703);
    assert_eq!(count(&service, "").await, 0);

    let jobs = service.call("GET", "/v1/jobs").await.value();
    let acts: Vec<&Value> = jobs["jobs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|job| &job["act"])
        .collect();

    assert_eq!(acts, ["purge", "retry", "cancel", "cancel"]);
}

#[tokio::test]
async fn a_job_keeps_its_pace_and_can_be_stopped() {
    let service = erratic_service().await;
    hand_in(&service, &["ada@example.org"; 30], &json!({"delay": "1d"})).await;
    let slowly = json!({"all": true, "per_minute": 60});
    let begun = service
        .json("POST", "/v1/mails/cancel", &slowly)
        .await
        .value();
    let path = format!("/v1/jobs/{}", begun["id"].as_str().unwrap());

    tokio::time::sleep(Duration::from_millis(1500)).await;
    let stopped = service.call("DELETE", &path).await.value();
    assert_eq!(stopped["state"], "stopped", "{stopped}");

    let done = stopped["done"].as_u64().unwrap();
    assert!((1..=3).contains(&done), "{stopped}");
    assert_eq!(count(&service, "state:cancelled").await, done);
    assert_eq!(service.call("GET", &path).await.value(), stopped);

    let unknown = "/v1/jobs/0199c0de-0000-7000-8000-000000000001";
    service.call("GET", unknown).await.problem(404, "not-found");
    service
        .call("DELETE", "/v1/jobs/nonsense")
        .await
        .problem(404, "not-found");
}

#[tokio::test]
async fn an_act_on_many_says_which_mails_it_means() {
    let service = erratic_service().await;
    hand_in(&service, &["bob@example.net"], &json!({})).await;
    service.dispatcher.wait_idle().await;
    for (request, pointers) in [
        (json!({}), vec!["/q"]),
        (json!({"q": "  "}), vec!["/q"]),
        (json!({"all": false}), vec!["/q"]),
        (json!({"q": "to:a", "all": true}), vec!["/all"]),
        (json!({"q": "colour:red"}), vec!["/q"]),
        (
            json!({"all": true, "limit": 0, "per_minute": 0}),
            vec!["/limit", "/per_minute"],
        ),
        (json!({"all": "yes"}), vec!["/all"]),
    ] {
        let answer = service.json("DELETE", "/v1/mails", &request).await;
        assert_eq!(answer.pointers(), pointers, "{request}");
    }

    let unknown = service
        .json(
            "DELETE",
            "/v1/mails",
            &json!({"all": true, "state": "dead"}),
        )
        .await;

    assert!(unknown.text().contains("state"), "{}", unknown.text());
    assert_eq!(unknown.status, 422);
    let empty = service.call("DELETE", "/v1/mails").await;
    assert_eq!(empty.status, 415);
    assert_eq!(count(&service, "").await, 1, "nothing was deleted");
}

#[tokio::test]
async fn what_failed_is_grouped_by_what_was_said_and_by_domain() {
    let service = erratic_service().await;
    let to = [
        "bob@example.net",
        "robert@example.net",
        "ada@example.com",
        "x@example.org",
    ];

    hand_in(&service, &to, &json!({})).await;
    let waits = async {
        while count(&service, "state:dead,deferred").await < 3 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };

    tokio::time::timeout(Duration::from_secs(20), waits)
        .await
        .unwrap();

    let by_error = service.call("GET", "/v1/failures?by=error").await.value();
    let groups = by_error["groups"].as_array().unwrap();
    let told: Vec<(&Value, &Value, &Value)> = groups
        .iter()
        .map(|g| (&g["name"], &g["dead"], &g["deferred"]))
        .collect();

    assert_eq!(
        told,
        [
            (
                &json!("550 5.1.1 <address> no such user (#)"),
                &json!(2),
                &json!(0)
            ),
            (
                &json!("451 4.7.1 greylisted, come back in # seconds"),
                &json!(0),
                &json!(1)
            ),
        ]
    );

    assert_eq!(by_error["complete"], true);
    for group in groups {
        let found = count(&service, group["q"].as_str().unwrap()).await;
        assert_eq!(found, group["count"].as_u64().unwrap(), "{group}");

        // A mail of the group names it, so that from one the others are found.
        let path = format!("/v1/mails/{}", group["example"].as_str().unwrap());
        let example = service.call("GET", &path).await.value();
        assert_eq!(example["deliveries"][0]["error"], group["name"]);
    }

    let by_domain = service.call("GET", "/v1/failures?by=domain").await.value();
    let names: Vec<&Value> = by_domain["groups"]
        .as_array()
        .unwrap()
        .iter()
        .map(|group| &group["name"])
        .collect();

    assert_eq!(names, ["example.net", "example.com"]);
    let one = service
        .call("GET", "/v1/failures?by=domain&q=to:robert")
        .await
        .value();

    assert_eq!(one["groups"][0]["count"], 1);
    let wrong = service.call("GET", "/v1/failures?by=colour").await;
    assert_eq!(wrong.pointers(), ["/by"]);
}

#[tokio::test]
async fn an_export_has_every_mail_and_no_formula() {
    let service = erratic_service().await;
    hand_in(&service, &["bob@example.net"; 1200], &json!({})).await;
    service.dispatcher.wait_idle().await;
    hand_in(
        &service,
        &["ada@example.org"],
        &json!({"cc": ["eve@example.org"]}),
    )
    .await;
    service.dispatcher.wait_idle().await;

    let table = service
        .call("GET", "/v1/mails/export?q=domain:example.net")
        .await;
    assert_eq!(table.header("content-type"), "text/csv; charset=utf-8");
    assert!(table.header("content-disposition").contains("attachment"));

    let mut rows = csv::Reader::from_reader(table.body.as_slice());
    let head = rows.headers().unwrap().clone();
    let place = |name: &str| head.iter().position(|column| column == name).unwrap();
    let (subject, recipient, code) = (place("subject"), place("recipient"), place("code"));

    let rows: Vec<csv::StringRecord> = rows.records().map(Result::unwrap).collect();
    assert_eq!(rows.len(), 1200);
    for row in &rows {
        assert!(row[subject].starts_with("'=1+"), "{row:?}");
        assert_eq!((&row[recipient], &row[code]), ("bob@example.net", "550"));
    }

    let both = service
        .call("GET", "/v1/mails/export?format=csv&q=to:eve")
        .await;
    assert_eq!(
        both.text().lines().count(),
        3,
        "a row a recipient: {}",
        both.text()
    );

    let lines = service.call("GET", "/v1/mails/export?format=ndjson").await;
    assert_eq!(lines.header("content-type"), "application/x-ndjson");
    let all: Vec<Value> = lines
        .text()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();

    assert_eq!(all.len(), 1201);
    let id = all[0]["id"].as_str().unwrap();
    let record = service
        .call("GET", &format!("/v1/mails/{id}"))
        .await
        .value();

    assert_eq!(all[0], record);
    assert_eq!(
        service
            .call("GET", "/v1/mails/export?format=xls")
            .await
            .pointers(),
        ["/format"]
    );
}

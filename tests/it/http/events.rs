//! Following what happens.

use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::time::timeout;

use postrider::ingress::http::{Limits, Scope, Token};

use crate::http::service::{Service, token};

/// One event as it came over the wire.
#[derive(Debug)]
struct Frame {
    id: Option<String>,
    name: String,
    data: Value,
}

/// A stream of Server-Sent Events.
struct Stream {
    body: Incoming,
    text: String,
    /// The id of the event after which it begins.
    begins: String,
}

impl Stream {
    async fn open(service: &Service, path: &str, headers: &[(&str, &str)]) -> Self {
        let (status, headers, body) = service.open("GET", path, headers, "").await;
        assert_eq!(status, 200);
        assert_eq!(headers["content-type"], "text/event-stream");
        let mut stream = Stream {
            body,
            text: String::new(),
            begins: String::new(),
        };
        // The first block is sent once the service listens for events, and says where it stands.
        let hello = stream.block().await.unwrap();
        let id = hello.lines().find_map(|line| line.strip_prefix("id: "));
        stream.begins = id.unwrap().to_owned();
        stream
    }

    /// The next block of lines; `None` when the stream has ended.
    async fn block(&mut self) -> Option<String> {
        loop {
            if let Some((block, rest)) = self.text.split_once("\n\n") {
                let block = block.to_owned();
                self.text = rest.to_owned();
                return Some(block);
            }
            let frame = timeout(Duration::from_secs(10), self.body.frame())
                .await
                .expect("no event came")?;
            self.text
                .push_str(std::str::from_utf8(frame.unwrap().data_ref().unwrap()).unwrap());
        }
    }

    /// Within a second; a busy machine is given one more.
    async fn ends_within_a_second(&mut self) {
        let ended = async { while self.block().await.is_some() {} };
        let ended = timeout(Duration::from_secs(2), ended).await;
        ended.expect("the stream goes on");
    }

    async fn next(&mut self) -> Option<Frame> {
        loop {
            let block = self.block().await?;
            let field = |name: &str| {
                block
                    .lines()
                    .find_map(|line| line.strip_prefix(name))
                    .map(str::to_owned)
            };
            let Some(data) = field("data: ") else {
                continue;
            };
            let data = serde_json::from_str(&data).unwrap();
            return Some(Frame {
                id: field("id: "),
                name: field("event: ").unwrap(),
                data,
            });
        }
    }

    /// The names of events up to and with `last`.
    async fn until(&mut self, last: &str) -> Vec<Frame> {
        let mut frames = Vec::new();
        while let Some(frame) = self.next().await {
            let is_last = frame.name == last;
            frames.push(frame);
            if is_last {
                break;
            }
        }
        frames
    }
}

fn names(frames: &[Frame]) -> Vec<&str> {
    frames.iter().map(|frame| frame.name.as_str()).collect()
}

fn mail() -> Value {
    json!({"from": "a@example.org", "to": "b@example.org", "text": "t"})
}

#[tokio::test]
async fn what_happens_to_a_mail_is_published_as_it_happens() {
    let service = Service::start().await;
    let mut stream = Stream::open(&service, "/v1/events", &[]).await;
    let id = service.accept(&mail()).await;

    let frames = stream.until("delivered").await;
    assert_eq!(names(&frames), ["accepted", "attempted", "delivered"]);
    for frame in &frames {
        assert_eq!(
            (&frame.data["mail"], &frame.data["event"]),
            (&json!(id), &json!(frame.name))
        );
        let seq = frame.data["seq"].as_u64().unwrap();
        assert!(
            frame.id.as_ref().unwrap().ends_with(&format!("-{seq}")),
            "{frame:?}"
        );
    }

    assert_eq!(frames[2].data["recipient"], "b@example.org");
    assert_eq!(frames[1].data["attempt"]["code"], 250);
}

#[tokio::test]
async fn one_mail_can_be_followed_among_others() {
    let service = Service::start().await;
    let mut delayed = mail();
    delayed["delay"] = json!("1h");
    let followed = service.accept(&delayed).await;
    let mut stream = Stream::open(&service, &format!("/v1/events?mail={followed}"), &[]).await;

    service.accept(&mail()).await;
    assert_eq!(
        service
            .call("POST", &format!("/v1/mails/{followed}/cancel"))
            .await
            .status,
        200
    );

    let frame = stream.next().await.unwrap();
    assert_eq!(
        (frame.name.as_str(), &frame.data["mail"]),
        ("cancelled", &json!(followed))
    );

    assert_eq!(
        service
            .call("GET", "/v1/events?mail=nonsense&x=1")
            .await
            .pointers(),
        ["/mail", "/x"]
    );
}

#[tokio::test]
async fn a_client_that_comes_back_goes_on_where_it_left_off() {
    let service = Service::start().await;
    let mut stream = Stream::open(&service, "/v1/events", &[]).await;
    service.accept(&mail()).await;
    let first = stream.until("delivered").await;

    drop(stream);
    let second = service.accept(&mail()).await;
    service.dispatcher.wait_idle().await;

    let left_off = first[1].id.clone().unwrap();
    let mut stream = Stream::open(&service, "/v1/events", &[("last-event-id", &left_off)]).await;
    let mut again = stream.until("delivered").await;
    assert_eq!(
        again.len(),
        1,
        "the first mail's last event, which came after what the client has"
    );

    again = stream.until("delivered").await;
    assert_eq!(names(&again), ["accepted", "attempted", "delivered"]);
    assert!(
        again
            .iter()
            .all(|frame| frame.data["mail"] == json!(second))
    );
}

/// A page that was open all night and heard nothing, and loses the service just when it begins.
#[tokio::test]
async fn a_client_that_has_heard_nothing_yet_misses_nothing_either() {
    let service = Service::start().await;
    let stream = Stream::open(&service, "/v1/events", &[]).await;
    let begins = stream.begins.clone();
    drop(stream);
    let session = service.call("GET", "/v1/session").await.value();
    assert_eq!(session["event"], json!(begins));

    let id = service.accept(&mail()).await;
    service.dispatcher.wait_idle().await;
    let since = format!("/v1/events?since={begins}");
    let left_off = [("last-event-id", begins.as_str())];
    for (path, headers) in [(since.as_str(), &[][..]), ("/v1/events", &left_off)] {
        let mut again = Stream::open(&service, path, headers).await;
        let frames = again.until("delivered").await;
        assert_eq!(names(&frames), ["accepted", "attempted", "delivered"]);
        assert_eq!(frames[0].data["mail"], json!(id));
    }
}

#[tokio::test]
async fn a_client_of_another_run_is_notified_that_it_missed_something() {
    let service = Service::start().await;
    let id = service.accept(&mail()).await;
    service.dispatcher.wait(id.parse().unwrap()).await.unwrap();
    let mut stream = Stream::open(&service, "/v1/events", &[("last-event-id", "0badf00d-1")]).await;
    let frames = stream.until("delivered").await;
    assert_eq!(
        names(&frames),
        ["missed", "accepted", "attempted", "delivered"]
    );
    assert_eq!(frames[0].data, json!({"count": null}));
}

#[tokio::test]
async fn streams_end_when_the_service_does() {
    let service = Service::start().await;
    let mut stream = Stream::open(&service, "/v1/events", &[]).await;
    service.stop.send(true).unwrap();
    assert!(stream.next().await.is_none());
    timeout(Duration::from_secs(5), service.served)
        .await
        .expect("the door did not close")
        .unwrap();
}

/// Who signs out, whose token is taken away, and whose token allows less hears nothing more within
/// a second; who may go on goes on.
#[tokio::test]
async fn a_stream_ends_with_the_session_or_the_token_that_opened_it() {
    let all = || {
        vec![
            token("eye", "eye-secret", Scope::Read),
            token("ops", "ops-secret", Scope::Admin),
            token("app", "app-secret", Scope::Admin),
        ]
    };
    let service = Service::with(all(), Limits::default(), |builder| builder).await;
    let eye = ("authorization", "Bearer eye-secret");
    let signed_in = service.send("POST", "/v1/session", &[eye], "").await;
    let set = signed_in.header("set-cookie").to_owned();
    let cookie = [
        ("cookie", set.split(';').next().unwrap()),
        ("sec-fetch-site", "same-origin"),
    ];
    let ops = [("authorization", "Bearer ops-secret")];
    let app = [("authorization", "Bearer app-secret")];

    let mut page = Stream::open(&service, "/v1/events", &cookie).await;
    let mut thinned = Stream::open(&service, "/v1/events?at_most=9", &cookie).await;
    let mut operator = Stream::open(&service, "/v1/events", &ops).await;
    let mut program = Stream::open(&service, "/v1/events", &app).await;

    let out = service.send("DELETE", "/v1/session", &cookie, "").await;
    assert_eq!(out.status, 204);
    page.ends_within_a_second().await;
    thinned.ends_within_a_second().await;

    // The one token is gone; the other allows less than when its stream began.
    let fewer = vec![
        token("eye", "eye-secret", Scope::Read),
        token("app", "app-secret", Scope::Send),
    ];
    let mut watcher = Stream::open(&service, "/v1/events", &[eye]).await;
    service.tokens.replace(fewer).unwrap();
    operator.ends_within_a_second().await;
    program.ends_within_a_second().await;

    let json = ("content-type", "application/json");
    let answer = service
        .send("POST", "/v1/mails", &[json, app[0]], mail().to_string())
        .await;
    assert_eq!(answer.status, 202);
    watcher.until("accepted").await;
}

#[tokio::test]
async fn with_the_scope_send_one_follows_ones_own_mail_alone() {
    let tokens = ["app", "shop"].map(|name| Token {
        name: name.into(),
        secret: format!("{name}-secret").into(),
        scope: Scope::Send,
    });

    let service = Service::with(tokens.to_vec(), Limits::default(), |builder| builder).await;
    let submit = async |who: &str| {
        let mail = json!({
            "from": "a@example.org", "to": "b@example.org", "text": "t", "tags": ["blue"],
            "idempotency_key": "k",
        });
        let headers = [("content-type", "application/json"), ("authorization", who)];
        let answer = service
            .send("POST", "/v1/mails", &headers, mail.to_string())
            .await;
        answer.value()["id"].as_str().unwrap().to_owned()
    };

    let app = ("authorization", "Bearer app-secret");
    let mut now = Stream::open(&service, "/v1/events", &[app]).await;
    submit("Bearer shop-secret").await;
    service.dispatcher.pause("capture").await.unwrap();
    service.dispatcher.resume("capture").await.unwrap();

    let own = submit("Bearer app-secret").await;
    let mut past = Stream::open(&service, "/v1/events?since=0", &[app]).await;

    let of_mail = format!("/v1/events?mail={own}&since=0");
    let mut of_mail = Stream::open(&service, &of_mail, &[app]).await;
    for stream in [&mut now, &mut past, &mut of_mail] {
        let told = stream.until("delivered").await;
        let names: Vec<&str> = told.iter().map(|frame| frame.name.as_str()).collect();
        assert_eq!(names, ["accepted", "attempted", "delivered"]);
        for frame in told {
            assert_eq!(frame.data["mail"], own, "{frame:?}");
            assert_eq!(frame.data["submitter"], "token:app");
            assert_eq!(frame.data["who"], "token:app");
            assert_eq!(frame.data["key"], "k");
            assert_eq!(frame.data["tags"], json!(["blue"]));
        }
    }
}

#[tokio::test]
async fn who_only_watches_hears_no_more_than_was_asked_for_and_how_much_more_there_was() {
    let service = Service::start().await;
    let mut stream = Stream::open(&service, "/v1/events?at_most=5", &[]).await;

    let mails: Vec<Value> = (0..20).map(|_| mail()).collect();
    let all = json!({ "mails": mails });
    assert_eq!(
        service.json("POST", "/v1/mails/batch", &all).await.status,
        202
    );

    // Three events a mail: what was told and what was counted are all of them.
    let (mut told, mut skipped) = (0, 0);
    while told + skipped < 60 {
        let frame = stream.next().await.unwrap();
        match frame.name.as_str() {
            "skipped" => skipped += frame.data["count"].as_u64().unwrap(),
            _ => told += 1,
        }
    }

    assert_eq!(told + skipped, 60);
    assert!(skipped >= 10, "{told} told and {skipped} skipped");
    let wrong = service.call("GET", "/v1/events?at_most=0").await;
    assert_eq!(wrong.pointers(), ["/at_most"]);
}

/// The names that the page's own script listens to.
#[test]
fn the_page_hears_of_every_event() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(root.join("src/ingress/http/page/live.js")).unwrap();
    let (_, kinds) = text.split_once("export const kinds = [").unwrap();
    let (kinds, _) = kinds.split_once(']').unwrap();
    let mut heard: Vec<&str> = kinds.split('"').skip(1).step_by(2).collect();
    let mut known = postrider::notify::EVENTS.to_vec();
    heard.sort_unstable();
    known.sort_unstable();
    assert_eq!(heard, known);
}

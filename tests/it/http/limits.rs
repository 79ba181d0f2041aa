//! What one client can take, and how the door closes.

use std::time::{Duration, Instant};

use postrider::Mail;
use postrider::ingress::http::Limits;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::http::service::Service;

const SHORT_WAIT: Duration = Duration::from_secs(10);

fn mail() -> String {
    json!({"from": "a@example.org", "to": "b@example.org", "text": "t"}).to_string()
}

async fn small(limits: Limits) -> Service {
    Service::with(Vec::new(), limits, |builder| builder).await
}

/// Everything that a connection says until it is closed.
async fn rest(stream: &mut TcpStream) -> String {
    let mut said = Vec::new();
    let _ = timeout(SHORT_WAIT, stream.read_to_end(&mut said))
        .await
        .expect("the connection stayed open");
    String::from_utf8_lossy(&said).into_owned()
}

#[tokio::test]
async fn what_is_too_large_is_refused_before_it_is_read() {
    let service = Service::with(Vec::new(), Limits::default(), |builder| {
        builder.max_message_size(3000)
    })
    .await;

    let message = format!("Subject: hi\r\n\r\n{}", "x".repeat(3000));
    let kind = [("content-type", "message/rfc822")];
    service
        .send("POST", "/v1/mails?from=&to=a@example.org", &kind, message)
        .await
        .problem(413, "too-large");

    // JSON of a message that is too large in the end.
    let large = json!({"from": "a@example.org", "to": "b@example.org", "text": "x".repeat(4000)});
    service
        .json("POST", "/v1/mails", &large)
        .await
        .problem(413, "too-large");

    let mut stream = TcpStream::connect(service.addr).await.unwrap();
    let head = "POST /v1/mails HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
                content-length: 99999999\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();

    let said = rest(&mut stream).await;
    assert!(
        said.starts_with("HTTP/1.1 413") && said.contains("application/problem+json"),
        "{said}"
    );
}

#[tokio::test]
async fn a_body_without_a_length_is_bounded_too() {
    let service = Service::with(Vec::new(), Limits::default(), |builder| {
        builder.max_message_size(3000)
    })
    .await;
    let mut stream = TcpStream::connect(service.addr).await.unwrap();

    let head = "POST /v1/mails?from=&to=a@example.org HTTP/1.1\r\nhost: localhost\r\n\
                content-type: message/rfc822\r\n\
                transfer-encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let (mut reader, mut writer) = stream.into_split();
    let sender = tokio::spawn(async move {
        let chunk = format!("3e8\r\n{}\r\n", "x".repeat(1000));
        while writer.write_all(chunk.as_bytes()).await.is_ok() {}
    });

    let mut said = [0; 12];
    timeout(SHORT_WAIT, reader.read_exact(&mut said))
        .await
        .expect("no answer")
        .unwrap();

    assert_eq!(&said, b"HTTP/1.1 413");
    drop(reader);
    timeout(SHORT_WAIT, sender)
        .await
        .expect("the service reads on without end")
        .unwrap();
}

#[tokio::test]
async fn a_client_that_is_slow_with_its_head_is_cut_off() {
    let service = small(Limits {
        header_timeout: Duration::from_millis(300),
        ..Limits::default()
    })
    .await;

    let mut stream = TcpStream::connect(service.addr).await.unwrap();
    stream
        .write_all(b"POST /v1/mails HTTP/1.1\r\nhost: local")
        .await
        .unwrap();

    let begun = Instant::now();
    rest(&mut stream).await;
    assert!(begun.elapsed() >= Duration::from_millis(200));

    let mut idle = TcpStream::connect(service.addr).await.unwrap();
    idle.write_all(b"GET /health/live HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .await
        .unwrap();

    assert!(
        rest(&mut idle).await.starts_with("HTTP/1.1 200"),
        "answered, and then closed because it was idle"
    );
}

#[tokio::test]
async fn a_client_that_is_slow_with_its_body_gets_an_answer_that_says_so() {
    let service = small(Limits {
        body_timeout: Duration::from_millis(300),
        ..Limits::default()
    })
    .await;
    let mut stream = TcpStream::connect(service.addr).await.unwrap();

    let head = "POST /v1/mails HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
                content-length: 50\r\n\r\n{";
    stream.write_all(head.as_bytes()).await.unwrap();
    let said = rest(&mut stream).await;
    assert!(
        said.starts_with("HTTP/1.1 408") && said.contains("problem:request-timeout"),
        "{said}"
    );
}

#[tokio::test]
async fn a_client_that_does_not_take_its_answer_is_cut_off() {
    let limits = Limits {
        connections: 1,
        write_timeout: Duration::from_millis(300),
        ..Limits::default()
    };

    let service = small(limits).await;
    let message = format!(
        "From: a@example.org\r\n\r\n{}",
        "some text\r\n".repeat(1_000_000)
    );

    let kind = [("content-type", "message/rfc822")];
    let accepted = service
        .send("POST", "/v1/mails?from=&to=a@example.org", &kind, message)
        .await;
    let path = format!("{}/raw", accepted.header("location"));
    let mut deaf = connected_once_there_is_room(service.addr, &path).await;

    // It takes nothing, and holds the only place until it is cut off.
    let mut next = connected_once_there_is_room(service.addr, "/health/live").await;
    assert!(rest(&mut next).await.contains("live"));

    let taken = rest(&mut deaf).await.len();
    assert!(taken < 10_000_000, "all {taken} bytes came");
}

/// Asks for `path`, again and again until it is not told that there is no room; returns after the
/// answer's first bytes.
async fn connected_once_there_is_room(addr: std::net::SocketAddr, path: &str) -> TcpStream {
    let tried = timeout(SHORT_WAIT, async {
        loop {
            let mut stream = TcpStream::connect(addr).await.unwrap();
            stream
                .write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes())
                .await
                .unwrap();
            let mut status = [0; 12];
            stream.read_exact(&mut status).await.unwrap();
            if status.ends_with(b"200") {
                return stream;
            }
        }
    });

    tried.await.expect("there was never room")
}

#[tokio::test]
async fn an_answer_that_takes_too_long_is_given_up() {
    let limits = Limits {
        answer_timeout: Duration::from_millis(200),
        ..Limits::default()
    };

    let service = Service::with(Vec::new(), limits, |builder| builder.max_pending(1)).await;
    service.dispatcher.pause("capture").await.unwrap();
    let json = [("content-type", "application/json")];
    assert_eq!(
        service
            .send("POST", "/v1/mails", &json, mail())
            .await
            .status,
        202
    );

    // There is no room now, and the dispatcher waits for some longer than the door does.
    service
        .send("POST", "/v1/mails", &json, mail())
        .await
        .problem(504, "timeout");
}

#[tokio::test]
async fn a_full_queue_asks_to_come_back_later() {
    let service = Service::with(Vec::new(), Limits::default(), |builder| {
        builder
            .max_pending(1)
            .accept_timeout(Duration::from_millis(50))
    })
    .await;

    service.dispatcher.pause("capture").await.unwrap();
    let json = [("content-type", "application/json")];
    assert_eq!(
        service
            .send("POST", "/v1/mails", &json, mail())
            .await
            .status,
        202
    );

    let full = service.send("POST", "/v1/mails", &json, mail()).await;
    full.problem(503, "full");
    assert!(full.header("retry-after").parse::<u64>().unwrap() > 0);

    let batch = format!("{{\"mails\": [{}]}}", mail());
    let batch = service.send("POST", "/v1/mails/batch", &json, batch).await;
    assert_eq!(
        batch.value()["results"][0]["type"],
        "urn:postrider:problem:full"
    );

    service.dispatcher.resume("capture").await.unwrap();
    service.dispatcher.wait_idle().await;
    assert_eq!(
        service
            .send("POST", "/v1/mails", &json, mail())
            .await
            .status,
        202,
        "accepting resumes by itself"
    );
}

#[tokio::test]
async fn one_connection_too_many_is_asked_to_come_back() {
    let service = small(Limits {
        connections: 1,
        ..Limits::default()
    })
    .await;

    let mut first = TcpStream::connect(service.addr).await.unwrap();
    first
        .write_all(b"GET /health/live HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .await
        .unwrap();

    let mut byte = [0; 1];
    first.read_exact(&mut byte).await.unwrap();
    let mut second = TcpStream::connect(service.addr).await.unwrap();
    second
        .write_all(b"GET /health/live HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .await
        .unwrap();

    let said = rest(&mut second).await;
    assert!(
        said.starts_with("HTTP/1.1 503")
            && said.contains("retry-after")
            && said.contains("problem:full"),
        "{said}"
    );

    drop(first);
    // The place is free once the service has seen the first one go.
    connected_once_there_is_room(service.addr, "/health/live").await;
}

#[tokio::test]
async fn bodies_cannot_fill_the_memory() {
    let service = small(Limits {
        held_bytes: 100_000,
        ..Limits::default()
    })
    .await;

    let json = [("content-type", "application/json")];
    let large =
        json!({"from": "a@example.org", "to": "b@example.org", "text": "x".repeat(150_000)})
            .to_string();
    service
        .send("POST", "/v1/mails", &json, large)
        .await
        .problem(413, "too-large");

    for _ in 0..3 {
        let fits =
            json!({"from": "a@example.org", "to": "b@example.org", "text": "x".repeat(60_000)})
                .to_string();
        assert_eq!(
            service.send("POST", "/v1/mails", &json, fits).await.status,
            202,
            "room is given back"
        );
    }
}

/// Alone, it takes all the room that there is; another one waits for it.
// Composing so much takes a while. A node over PostgreSQL renews its lease on another thread.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_larger_than_the_memory_for_all_of_them_is_given_when_there_is_no_other() {
    let service = small(Limits {
        held_bytes: 300_000,
        ..Limits::default()
    })
    .await;

    let mail = Mail::builder()
        .from("a@example.org")
        .to("b@example.org")
        .text("a line\n".repeat(2_000_000))
        .build();
    let receipt = service.dispatcher.submit(mail.unwrap()).await.unwrap();
    let path = format!("/v1/mails/{}/raw", receipt.id);
    let answer = service.call("GET", &path).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let whole = service.dispatcher.raw(receipt.id).await.unwrap();
    assert!(answer.body.len() > 14_000_000 && answer.body == whole);

    let (status, _, untaken) = service.open("GET", &path, &[], "").await;
    assert_eq!(status, 200);
    service.call("GET", &path).await.problem(503, "full");

    drop(untaken);
    let again = async { while service.call("GET", &path).await.status != 200 {} };
    timeout(SHORT_WAIT, again)
        .await
        .expect("its room never came back");
}

#[tokio::test]
async fn what_is_given_up_keeps_its_room_until_it_has_ended() {
    let limits = Limits {
        held_bytes: 100_000,
        answer_timeout: Duration::from_millis(200),
        ..Limits::default()
    };

    let service = Service::with(Vec::new(), limits, |builder| {
        builder
            .max_pending(1)
            .accept_timeout(Duration::from_secs(3600))
    })
    .await;

    service.dispatcher.pause("capture").await.unwrap();

    let json = [("content-type", "application/json")];
    let large = json!({"from": "a@example.org", "to": "b@example.org", "text": "x".repeat(60_000)})
        .to_string();
    let send = || service.send("POST", "/v1/mails", &json, large.clone());
    assert_eq!(send().await.status, 202);

    // It waits for room in the queue for longer than anybody waits for it.
    send().await.problem(504, "timeout");
    let refused = send().await;
    refused.problem(503, "full");

    assert!(
        refused.text().contains("too many large requests"),
        "the room that the one given up takes is not free"
    );

    service.dispatcher.resume("capture").await.unwrap();
    timeout(SHORT_WAIT, async { while send().await.status != 202 {} })
        .await
        .expect("the room never came back");
}

#[tokio::test]
async fn lists_are_bounded_while_they_are_read_and_the_list_is_named() {
    let service = small(Limits::default()).await;
    let many = |entry: &str, count: usize| vec![entry; count].join(",");
    for (body, pointer) in [
        (
            format!(r#"{{"attachments":[{}]}}"#, many("{}", 1001)),
            "/attachments",
        ),
        (
            format!(
                r#"{{"from":"a@example.org","to":[{}]}}"#,
                many(r#""b@example.org""#, 10_001)
            ),
            "/to",
        ),
        (
            format!(r#"{{"bcc":[{}],"text":"x"}}"#, many(r#""""#, 100_000)),
            "/bcc",
        ),
        (
            format!(r#"{{"headers":{{{}}}}}"#, many(r#""X-A":"b""#, 1001)),
            "/headers",
        ),
        (
            format!(r#"{{"tags":[{}]}}"#, many(r#""x""#, 200_000)),
            "/tags",
        ),
    ] {
        let json = [("content-type", "application/json")];
        let answer = service.send("POST", "/v1/mails", &json, body).await;
        answer.problem(422, "invalid");
        let errors = answer.value()["errors"].clone();
        let named = errors.as_array().unwrap().iter();
        let named: Vec<_> = named.map(|error| error["pointer"].as_str()).collect();
        assert!(named.contains(&Some(pointer)), "{pointer}: {errors}");
        assert!(answer.text().len() < 20_000, "{}", answer.text().len());
    }

    let batch = format!(r#"{{"mails":[{}]}}"#, many("{}", 501));
    let json = [("content-type", "application/json")];
    let answer = service.send("POST", "/v1/mails/batch", &json, batch).await;
    answer.problem(422, "invalid");

    assert_eq!(answer.value()["errors"][0]["pointer"], "/mails");
}

#[tokio::test]
async fn a_closing_door_finishes_what_has_begun_and_takes_nothing_new() {
    let service = Service::start().await;
    let mut begun = TcpStream::connect(service.addr).await.unwrap();
    let body = mail();
    let head = format!(
        "POST /v1/mails HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
         expect: 100-continue\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    );

    begun.write_all(head.as_bytes()).await.unwrap();
    let mut go_on = [0; 25];
    timeout(SHORT_WAIT, begun.read_exact(&mut go_on))
        .await
        .expect("no answer")
        .unwrap();
    assert_eq!(&go_on, b"HTTP/1.1 100 Continue\r\n\r\n");

    service.stop.send(true).unwrap();
    timeout(SHORT_WAIT, async {
        while TcpStream::connect(service.addr).await.is_ok() {}
    })
    .await
    .expect("the door stays open");
    begun.write_all(body.as_bytes()).await.unwrap();

    let said = rest(&mut begun).await;
    assert!(said.starts_with("HTTP/1.1 202"), "{said}");
    timeout(SHORT_WAIT, service.served)
        .await
        .expect("the door did not close")
        .unwrap();
}

#[tokio::test]
async fn a_closing_door_does_not_wait_for_ever() {
    let service = small(Limits {
        drain_timeout: Duration::from_millis(200),
        ..Limits::default()
    })
    .await;
    let mut begun = TcpStream::connect(service.addr).await.unwrap();

    let head = "POST /v1/mails HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
                expect: 100-continue\r\ncontent-length: 50\r\n\r\n";
    begun.write_all(head.as_bytes()).await.unwrap();

    let mut go_on = [0; 25];
    timeout(SHORT_WAIT, begun.read_exact(&mut go_on))
        .await
        .expect("no answer")
        .unwrap();
    service.stop.send(true).unwrap();
    timeout(SHORT_WAIT, service.served)
        .await
        .expect("the door did not close")
        .unwrap();

    assert_eq!(rest(&mut begun).await, "");
}

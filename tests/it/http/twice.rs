//! What stands twice in a request, and may be read by one as the first and by another as the last.

use std::io::{Read, Write};
use std::net::TcpStream;

use crate::http::service::Service;

/// The status of a request with these header fields.
async fn status(service: &Service, fields: &str, body: &'static str) -> (u16, String) {
    let address = service.addr;
    let head = format!("POST /v1/mails HTTP/1.1\r\n{fields}connection: close\r\n");
    let asked = move || {
        let mut stream = TcpStream::connect(address).unwrap();
        write!(stream, "{head}content-length: {}\r\n\r\n{body}", body.len()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        (answer[9..12].parse().unwrap(), answer)
    };
    tokio::task::spawn_blocking(asked).await.unwrap()
}

#[tokio::test]
async fn a_field_that_says_whom_or_what_and_stands_twice_is_refused() {
    const MAIL: &str = r#"{"from": "a@example.org", "to": "b@example.org", "text": "x"}"#;
    let service = Service::start().await;

    let fine = "host: localhost\r\ncontent-type: application/json\r\n";
    let (code, answer) = status(&service, fine, MAIL).await;
    assert_eq!(code, 202, "{answer}");
    for twice in [
        "host: localhost\r\n",
        "Host: evil.example\r\n",
        "content-type: message/rfc822\r\n",
        "idempotency-key: a\r\nidempotency-key: b\r\n",
        "authorization: Bearer a\r\nauthorization: Bearer b\r\n",
    ] {
        let (code, answer) = status(&service, &format!("{fine}{twice}"), MAIL).await;
        assert_eq!(code, 400, "{twice}: {answer}");
        assert!(
            answer.contains("urn:postrider:problem:malformed"),
            "{answer}"
        );
        assert!(answer.contains("more than once"), "{answer}");
    }
}

#[tokio::test]
async fn a_head_that_programs_on_the_way_may_read_otherwise_is_refused() {
    const MAIL: &str = r#"{"from": "a@example.org", "to": "b@example.org", "text": "x"}"#;
    let service = Service::start().await;
    let json = "content-type: application/json\r\n";

    for (fields, expected, told) in [
        ("", 400, "`host` is missing"),
        ("host: a b\r\n", 400, "`host` must be a name"),
        ("host: ada@localhost\r\n", 400, "`host` must be a name"),
        ("host: localhost/evil\r\n", 400, "`host` must be a name"),
        ("host: localhost:8025\r\n", 202, "\"id\""),
        ("host: [::1]:8025\r\n", 202, "\"id\""),
    ] {
        let (code, answer) = status(&service, &format!("{fields}{json}"), MAIL).await;
        assert_eq!(code, expected, "{fields}: {answer}");
        assert!(answer.contains(told), "{answer}");
    }
}

#[tokio::test]
async fn a_transfer_coding_that_is_not_undone_is_refused() {
    const MAIL: &str = r#"{"from": "a@example.org", "to": "b@example.org", "text": "x"}"#;
    let service = Service::start().await;
    let address = service.addr;
    let ask = |coding: &'static str| async move {
        let asked = move || {
            let mut stream = TcpStream::connect(address).unwrap();
            write!(
                stream,
                "POST /v1/mails HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
                 content-type: application/json\r\ntransfer-encoding: {coding}\r\n\r\n\
                 {:x}\r\n{MAIL}\r\n0\r\n\r\n",
                MAIL.len()
            )
            .unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            answer
        };
        tokio::task::spawn_blocking(asked).await.unwrap()
    };

    for coding in ["chunked", "Chunked"] {
        let answer = ask(coding).await;
        assert!(answer.starts_with("HTTP/1.1 202 "), "{coding}: {answer}");
    }
    for coding in ["gzip, chunked", "chunked, chunked", "identity, chunked"] {
        let answer = ask(coding).await;
        assert!(answer.starts_with("HTTP/1.1 501 "), "{coding}: {answer}");
        assert!(answer.contains("urn:postrider:problem:not-implemented"));
    }
}

#[tokio::test]
async fn an_answer_is_not_many_times_as_long_as_the_question() {
    let service = Service::start().await;
    let path = format!("/v1/mails?{}", "a=&".repeat(4000));
    let answer = service.call("GET", &path).await;
    assert_eq!(answer.status, 422);
    assert!(
        answer.body.len() < path.len() * 2,
        "{} bytes",
        answer.body.len()
    );
}

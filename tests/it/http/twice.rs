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

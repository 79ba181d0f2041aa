//! A running service with an HTTP door, and a client that does exactly what it is told.

use std::net::SocketAddr;

use crate::common::TestSpool;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::{HeaderMap, Request, StatusCode};
use hyper_util::rt::TokioIo;
use postrider::ingress::http::{HttpDoor, HttpSettings, Limits, Scope, Token, TokenTable};
use postrider::transport::Capture;
use postrider::{Builder, Dispatcher, Relay};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// A service on a port of its own, whose one relay, `capture`, keeps what it is given.
pub struct Service {
    pub addr: SocketAddr,
    pub dispatcher: Dispatcher,
    pub capture: Capture,
    pub tokens: TokenTable,
    pub stop: watch::Sender<bool>,
    pub served: JoinHandle<()>,
}

impl Service {
    /// A service as it comes, without tokens.
    pub async fn start() -> Self {
        Service::with(Vec::new(), Limits::default(), |builder| builder).await
    }

    /// A service with these tokens, limits and settings of the engine.
    pub async fn with(
        tokens: Vec<Token>,
        limits: Limits,
        configure: impl FnOnce(Builder) -> Builder,
    ) -> Self {
        Service::behind(tokens, limits, configure, |door| door).await
    }

    /// The same, behind a door that more is done to before it opens.
    pub async fn behind(
        tokens: Vec<Token>,
        limits: Limits,
        configure: impl FnOnce(Builder) -> Builder,
        prepare: impl FnOnce(HttpDoor) -> HttpDoor,
    ) -> Self {
        let capture = Capture::default();
        let builder = Dispatcher::builder()
            .relay(Relay::capture(&capture))
            .test_spool();
        let dispatcher = configure(builder).start().await.unwrap();

        let settings = HttpSettings {
            listen: "127.0.0.1:0".parse().unwrap(),
            tokens,
            limits,
        };

        let door = prepare(HttpDoor::bind(settings).await.unwrap());
        let (addr, tokens) = (door.local_addr(), door.tokens());
        let (stop, shutdown) = watch::channel(false);

        let served = tokio::spawn(door.serve(dispatcher.clone(), shutdown));
        Service {
            addr,
            dispatcher,
            capture,
            tokens,
            stop,
            served,
        }
    }

    /// Sends a request with a JSON body and reads the whole answer.
    pub async fn json(&self, method: &str, path: &str, body: &Value) -> Answer {
        self.send(
            method,
            path,
            &[("content-type", "application/json")],
            body.to_string(),
        )
        .await
    }

    /// Hands in a mail that must be accepted; returns its id.
    pub async fn accept(&self, mail: &Value) -> String {
        let answer = self.json("POST", "/v1/mails", mail).await;
        assert_eq!(answer.status, 202, "{}", answer.text());
        answer.value()["id"].as_str().unwrap().to_owned()
    }

    /// Sends a request without a body and reads the whole answer.
    pub async fn call(&self, method: &str, path: &str) -> Answer {
        self.send(method, path, &[], "").await
    }

    /// Sends a request and reads the whole answer.
    pub async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Answer {
        let (status, headers, mut body) = self.open(method, path, headers, body).await;
        let mut whole = Vec::new();
        while let Some(frame) = body.frame().await {
            whole.extend_from_slice(frame.unwrap().data_ref().unwrap());
        }
        Answer {
            status,
            headers,
            body: whole,
        }
    }

    /// Sends a request and leaves the answer's body to be read.
    pub async fn open(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> (StatusCode, HeaderMap, Incoming) {
        let stream = TcpStream::connect(self.addr).await.unwrap();
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);

        let mut request = Request::builder().method(method).uri(path);
        if !headers
            .iter()
            .any(|(name, _)| name.eq_ignore_ascii_case("host"))
        {
            request = request.header("host", self.addr.to_string());
        }

        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = sender
            .send_request(request.body(Full::new(body.into())).unwrap())
            .await
            .unwrap();

        let (parts, body) = response.into_parts();
        (parts.status, parts.headers, body)
    }
}

/// A token as the configuration has them.
pub fn token(name: &str, secret: &str, scope: Scope) -> Token {
    Token {
        name: name.into(),
        secret: secret.to_owned().into(),
        scope,
    }
}

/// A whole answer.
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn value(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .unwrap_or_else(|| panic!("no {name} in {:?}", self.headers))
            .to_str()
            .unwrap()
    }

    /// The problem that it must be.
    pub fn problem(&self, status: u16, kind: &str) -> Value {
        let problem = self.value();
        assert_eq!(self.status, status, "{problem}");
        assert_eq!(self.header("content-type"), "application/problem+json");
        assert_eq!(
            problem["type"],
            format!("urn:postrider:problem:{kind}"),
            "{problem}"
        );

        assert_eq!(problem["status"], status);
        assert!(
            problem["title"].is_string() && !problem["detail"].as_str().unwrap().is_empty(),
            "{problem}"
        );

        problem
    }

    /// The pointers of the fields that it must name.
    pub fn pointers(&self) -> Vec<String> {
        pointers(&self.problem(422, "invalid"))
    }
}

/// The pointers of a problem's errors.
pub fn pointers(problem: &Value) -> Vec<String> {
    let errors = problem["errors"]
        .as_array()
        .unwrap_or_else(|| panic!("no errors in {problem}"));
    errors
        .iter()
        .map(|error| error["pointer"].as_str().unwrap().to_owned())
        .collect()
}

//! Somebody who is called by webhooks, and answers whatever a test wants.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// Nothing in these tests takes this long unless it hangs.
const WAIT_LIMIT: Duration = Duration::from_secs(30);

/// One call.
#[derive(Clone, Debug)]
pub struct ReceivedCall {
    /// The request's first line.
    pub line: String,
    /// Names are in small letters.
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl ReceivedCall {
    pub fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(given, _)| given == name);
        &found.unwrap_or_else(|| panic!("no {name} in {self:?}")).1
    }

    pub fn id(&self) -> &str {
        self.header("webhook-id")
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    /// What it tells of.
    pub fn kind(&self) -> String {
        self.json()["type"].as_str().unwrap().to_owned()
    }
}

/// How a call is answered.
#[derive(Clone, Debug)]
pub enum Response {
    Status(u16),
    /// With a header line.
    With(u16, String),
    /// Not at all.
    Nothing,
    /// This much of an answer, and then a byte now and then, without an end.
    Drops(&'static str),
}

type Script = Arc<dyn Fn(&ReceivedCall, usize) -> Response + Send + Sync>;

/// Listens, and writes down who calls.
pub struct Receiver {
    pub address: SocketAddr,
    calls: watch::Sender<Vec<ReceivedCall>>,
    script: Arc<Mutex<Script>>,
    listening: JoinHandle<()>,
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

impl Receiver {
    /// One that takes everything.
    pub async fn start() -> Self {
        Receiver::answering(|_, _| Response::Status(204)).await
    }

    /// One that answers by this, which is given the call and how many there were before it.
    pub async fn answering(
        script: impl Fn(&ReceivedCall, usize) -> Response + Send + Sync + 'static,
    ) -> Self {
        Receiver::at(SocketAddr::from(([127, 0, 0, 1], 0)), script).await
    }

    pub async fn at(
        address: SocketAddr,
        script: impl Fn(&ReceivedCall, usize) -> Response + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let mut receiver = Receiver {
            listening: tokio::spawn(async {}),
            address: listener.local_addr().unwrap(),
            calls: watch::Sender::new(Vec::new()),
            script: Arc::new(Mutex::new(Arc::new(script))),
        };

        let (calls, script) = (receiver.calls.clone(), Arc::clone(&receiver.script));
        receiver.listening = tokio::spawn(async move {
            let mut open = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (calls, script) = (calls.clone(), Arc::clone(&script));
                open.spawn(async move { _ = serve(stream, &calls, &script).await });
            }
        });

        receiver
    }

    /// Answers by this from now on.
    pub fn answers(
        &self,
        script: impl Fn(&ReceivedCall, usize) -> Response + Send + Sync + 'static,
    ) {
        *self.script.lock() = Arc::new(script);
    }

    pub fn url(&self) -> String {
        format!("http://{}/hooks/mail", self.address)
    }

    /// Who has called so far.
    pub fn calls(&self) -> Vec<ReceivedCall> {
        self.calls.borrow().clone()
    }

    /// Those who have called after the first so many.
    pub fn calls_after(&self, count: usize) -> Vec<ReceivedCall> {
        self.calls.borrow()[count..].to_vec()
    }

    /// Waits for so many calls.
    pub async fn comes_to(&self, count: usize) -> Vec<ReceivedCall> {
        let mut calls = self.calls.subscribe();
        let come = calls.wait_for(|calls| calls.len() >= count);
        match tokio::time::timeout(WAIT_LIMIT, come).await {
            Ok(calls) => calls.unwrap().clone(),
            Err(_) => panic!("{count} calls never came: {:#?}", self.calls()),
        }
    }
}

async fn serve(
    mut stream: TcpStream,
    calls: &watch::Sender<Vec<ReceivedCall>>,
    script: &Mutex<Script>,
) -> std::io::Result<()> {
    let mut read = Vec::new();
    loop {
        let head_end = loop {
            if let Some(at) = read.windows(4).position(|four| four == b"\r\n\r\n") {
                break at;
            }
            if stream.read_buf(&mut read).await? == 0 {
                return Ok(());
            }
        };
        let head = String::from_utf8_lossy(&read[..head_end]).into_owned();
        let mut lines = head.split("\r\n");
        let line = lines.next().unwrap_or_default().to_owned();
        let headers: Vec<(String, String)> = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
            .collect();
        let length = headers.iter().find(|(name, _)| name == "content-length");
        let length: usize = length.map_or(0, |(_, value)| value.parse().unwrap());
        while read.len() < head_end + 4 + length {
            if stream.read_buf(&mut read).await? == 0 {
                return Ok(());
            }
        }
        let rest = read.split_off(head_end + 4 + length);
        let body = String::from_utf8_lossy(&read[head_end + 4..]).into_owned();
        read = rest;

        let called = ReceivedCall {
            line,
            headers,
            body,
        };
        let script = Arc::clone(&script.lock());
        let says = script(&called, calls.borrow().len());
        calls.send_modify(|calls| calls.push(called));
        let (status, more) = match says {
            Response::Status(status) => (status, String::new()),
            Response::With(status, line) => (status, format!("{line}\r\n")),
            Response::Nothing => std::future::pending().await,
            Response::Drops(begin) => {
                stream.write_all(begin.as_bytes()).await?;
                loop {
                    stream.write_all(b"x").await?;
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        };
        let answer = format!("HTTP/1.1 {status} It\r\n{more}Content-Length: 0\r\n\r\n");
        stream.write_all(answer.as_bytes()).await?;
    }
}

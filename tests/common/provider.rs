//! A provider's API as a test wants it: a server that records what it is asked, and answers or
//! breaks off as it is told.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Notify;

/// One request as it came.
#[derive(Clone, Debug)]
pub struct ReceivedRequest {
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl ReceivedRequest {
    pub fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map_or("", |(_, value)| value)
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// What the server does with a request.
#[derive(Clone, Debug)]
pub enum Act {
    Answer(u16, &'static [(&'static str, &'static str)], String),
    /// Takes it, as the provider does at whose path it was asked.
    Take,
    /// Hangs up before it has read the whole request.
    HangUpEarly,
    /// Hangs up after it.
    HangUpLate,
    /// Hangs up after it, and is gone: nobody listens at its address any more.
    Leave,
    /// Hangs up within its answer, whose status says that all is well.
    HangUpAnswering,
    /// Reads no further and says nothing.
    Deaf,
    /// Reads it all and says nothing.
    Mute,
}

/// A server that records what it is asked. It answers by its script, and then always as at its end.
#[derive(Clone)]
pub struct Provider {
    pub address: String,
    asked: Arc<Mutex<Vec<ReceivedRequest>>>,
    leaves: Arc<Notify>,
    script: Arc<Mutex<VecDeque<Act>>>,
}

impl Provider {
    /// The configuration of a service that sends over this API, which is of this kind; `more`
    /// follows it.
    pub fn configuration(&self, kind: &str, more: &str) -> String {
        format!(
            "[http]\nlisten = \"127.0.0.1:0\"\n[smtp]\nlisten = \"127.0.0.1:0\"\n[spool]\n\
             path = \"spool\"\n\
             [[relays]]\nname = \"api\"\nurl = \"{kind}+api://\"\nendpoint = \"{}\"\n\
             api_key = \"k\"\n\
             {more}",
            self.address
        )
    }

    pub async fn new(script: Vec<Act>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Provider::on(listener, script)
    }

    /// One behind a pipe so narrow that even a small request is not sent unless it is read.
    pub async fn narrow(script: Vec<Act>) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        Provider::on(socket.listen(16).unwrap(), script)
    }

    fn on(listener: TcpListener, script: Vec<Act>) -> Self {
        let provider = Provider {
            address: format!("http://{}", listener.local_addr().unwrap()),
            asked: Arc::default(),
            leaves: Arc::default(),
            script: Arc::new(Mutex::new(script.into())),
        };

        let serving = provider.clone();
        tokio::spawn(async move {
            loop {
                let stream = tokio::select! {
                    accepted = listener.accept() => accepted.unwrap().0,
                    () = serving.leaves.notified() => break,
                };
                let serving = serving.clone();
                tokio::spawn(async move { serving.serve(stream).await });
            }
        });

        provider
    }

    fn next(&self) -> Act {
        let mut script = self.script.lock();
        match script.len() {
            1 => script[0].clone(),
            _ => script.pop_front().unwrap(),
        }
    }

    async fn serve(&self, mut stream: TcpStream) -> Option<()> {
        let mut read = Vec::new();
        loop {
            let head = loop {
                if let Some(at) = read.windows(4).position(|four| four == b"\r\n\r\n") {
                    break at;
                }
                if stream.read_buf(&mut read).await.ok()? == 0 {
                    return None;
                }
            };
            let text = String::from_utf8_lossy(&read[..head]).into_owned();
            let mut lines = text.lines();
            let path = lines.next()?.split(' ').nth(1)?.to_owned();
            let headers: Vec<(String, String)> = lines
                .filter_map(|line| line.split_once(": "))
                .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
                .collect();
            let length = headers.iter().find(|(name, _)| name == "content-length");
            let end = head + 4 + length.map_or(0, |(_, value)| value.parse().unwrap());
            // Whoever wants a token gets one; that is in nobody's script.
            let act = match path == "/any-token" {
                true => answer(200, json!({"access_token": "t0ken", "expires_in": 3600})),
                false => self.next(),
            };
            match act {
                Act::HangUpEarly => return None,
                Act::Deaf => return std::future::pending().await,
                _ => {}
            }
            while read.len() < end {
                if stream.read_buf(&mut read).await.ok()? == 0 {
                    return None;
                }
            }
            let body = read[head + 4..end].to_vec();
            if path != "/any-token" {
                self.asked.lock().push(ReceivedRequest {
                    path: path.clone(),
                    headers,
                    body,
                });
            }
            read.drain(..end);
            let act = match act {
                Act::Take => taken(&path),
                act => act,
            };
            let (status, headers, body) = match act {
                Act::Answer(status, headers, body) => (status, headers, body),
                Act::Mute => return std::future::pending().await,
                Act::Leave => {
                    self.leaves.notify_one();
                    return None;
                }
                Act::HangUpAnswering => {
                    let cut = "HTTP/1.1 200 X\r\ncontent-length: 100\r\n\r\n{\"id\"";
                    stream.write_all(cut.as_bytes()).await.ok()?;
                    return None;
                }
                _ => return None,
            };
            let mut answer = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n", body.len());
            for (name, value) in headers {
                answer.push_str(&format!("{name}: {value}\r\n"));
            }
            answer.push_str(&format!("\r\n{body}"));
            stream.write_all(answer.as_bytes()).await.ok()?;
        }
    }

    pub fn asked(&self) -> Vec<ReceivedRequest> {
        self.asked.lock().clone()
    }
}

pub fn answer(status: u16, body: Value) -> Act {
    Act::Answer(status, &[], body.to_string())
}

/// The answer with which the provider that is asked at this path takes a mail.
pub fn taken(path: &str) -> Act {
    match path {
        "/v2/email/outbound-emails" => answer(200, json!({"MessageId": "id-1"})),
        "/v3/smtp/email" => answer(201, json!({"messageId": "<id-1>"})),
        "/v3/mail/send" => Act::Answer(202, &[("x-message-id", "id-1")], String::new()),
        "/email" => {
            let to = json!({"ErrorCode": 0, "Message": "OK", "MessageID": "id-1"});
            answer(200, to)
        }
        "/emails" => answer(200, json!({"id": "id-1"})),
        path if path.ends_with("/sendMail") => Act::Answer(202, &[], String::new()),
        path if path.starts_with("/gmail/") => answer(200, json!({"id": "id-1"})),
        _ => answer(
            200,
            json!({"id": "<id-1>", "message": "Queued. Thank you."}),
        ),
    }
}

//! A service that answers as it is told, and remembers what it was asked.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::Value;

/// No test waits longer than this for a client.
const WAIT_LIMIT: Duration = Duration::from_secs(20);

/// A service that gives these answers, one a request, and then closes its door.
pub struct ScriptedService {
    address: String,
    asked: Arc<Mutex<Vec<ReceivedRequest>>>,
}

/// One request.
#[derive(Clone, Debug)]
pub struct ReceivedRequest {
    pub line: String,
    headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

/// One answer.
#[derive(Clone)]
pub struct Answer {
    status: u16,
    kind: &'static str,
    extra: String,
    body: Vec<u8>,
}

/// JSON, as the service answers when all is well.
pub fn json(status: u16, body: Value) -> Answer {
    Answer {
        status,
        kind: "application/json",
        extra: String::new(),
        body: body.to_string().into(),
    }
}

/// A refusal.
pub fn problem(status: u16, body: Value) -> Answer {
    Answer {
        kind: "application/problem+json",
        ..json(status, body)
    }
}

/// Anything.
pub fn other(status: u16, kind: &'static str, body: impl Into<Vec<u8>>) -> Answer {
    Answer {
        status,
        kind,
        extra: String::new(),
        body: body.into(),
    }
}

impl Answer {
    /// The answer with one more header field.
    pub fn with(mut self, field: &str) -> Answer {
        self.extra.push_str(field);
        self.extra.push_str("\r\n");
        self
    }

    fn write(&self, stream: &mut TcpStream) -> std::io::Result<()> {
        // A stream of events has no length: it ends where its connection does.
        let length = match self.kind {
            "text/event-stream" => String::new(),
            _ => format!("Content-Length: {}\r\n", self.body.len()),
        };

        let Answer {
            status,
            kind,
            extra,
            ..
        } = self;

        let head = format!(
            "HTTP/1.1 {status} Said\r\nContent-Type: {kind}\r\n{length}{extra}Connection: close\r\n\
             \r\n"
        );
        stream.write_all(head.as_bytes())?;
        stream.write_all(&self.body)
    }
}

impl ScriptedService {
    /// A service that gives these answers.
    pub fn new(answers: impl IntoIterator<Item = Answer>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let notes = asked.clone();

        let mut answers: VecDeque<Answer> = answers.into_iter().collect();
        thread::spawn(move || {
            while let Some(answer) = answers.pop_front() {
                let Ok((mut stream, _)) = listener.accept() else {
                    return;
                };
                stream.set_read_timeout(Some(WAIT_LIMIT)).unwrap();
                stream.set_write_timeout(Some(WAIT_LIMIT)).unwrap();
                let Some(request) = read(&stream) else {
                    continue;
                };
                notes.lock().unwrap().push(request);
                let _ = answer.write(&mut stream);
                let _ = stream.shutdown(Shutdown::Write);
            }
        });

        ScriptedService { address, asked }
    }

    /// A service that nobody may ask anything.
    pub fn silent() -> Self {
        ScriptedService::new([])
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Everything that was asked.
    pub fn asked(&self) -> Vec<ReceivedRequest> {
        self.asked.lock().unwrap().clone()
    }

    /// The only thing that was asked.
    #[track_caller]
    pub fn asked_once(&self) -> ReceivedRequest {
        let asked = self.asked();
        assert_eq!(asked.len(), 1, "{asked:?}");
        asked.into_iter().next().unwrap()
    }
}

fn read(stream: &TcpStream) -> Option<ReceivedRequest> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader
        .read_line(&mut line)
        .ok()
        .filter(|length| *length > 0)?;

    let mut headers = Vec::new();
    loop {
        let mut field = String::new();
        reader.read_line(&mut field).ok()?;
        let Some((name, value)) = field.split_once(':') else {
            break;
        };
        headers.push((name.to_lowercase(), value.trim().to_owned()));
    }

    let mut asked = ReceivedRequest {
        line: line.trim().trim_end_matches(" HTTP/1.1").to_owned(),
        headers,
        body: Vec::new(),
    };

    if asked.header("transfer-encoding") == Some("chunked") {
        loop {
            let mut size = String::new();
            reader.read_line(&mut size).ok()?;
            let size = u64::from_str_radix(size.trim(), 16).ok()?;
            let mut piece = (&mut reader).take(size + 2);
            piece.read_to_end(&mut asked.body).ok()?;
            asked.body.truncate(asked.body.len() - 2);
            if size == 0 {
                return Some(asked);
            }
        }
    }

    let length = asked
        .header("content-length")
        .and_then(|length| length.parse().ok())
        .unwrap_or(0);

    reader.take(length).read_to_end(&mut asked.body).ok()?;
    Some(asked)
}

impl ReceivedRequest {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(given, _)| given == name)
            .map(|(_, value)| value.as_str())
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        assert_eq!(self.header("content-type"), Some("application/json"));
        serde_json::from_slice(&self.body).unwrap()
    }

    /// The message that was submitted.
    #[track_caller]
    pub fn message(&self) -> String {
        assert_eq!(self.header("content-type"), Some("message/rfc822"));
        String::from_utf8(self.body.clone()).unwrap()
    }

    /// The values of a parameter behind the question mark.
    pub fn parameter(&self, name: &str) -> Vec<String> {
        let query = self.line.split_once('?').map_or("", |(_, query)| query);
        let pairs = url::form_urlencoded::parse(query.as_bytes());
        pairs
            .filter(|(given, _)| given == name)
            .map(|(_, value)| value.into_owned())
            .collect()
    }
}

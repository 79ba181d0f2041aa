//! One connection of the fake server: the dialogue, and the script's submit it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::{Act, Moment, Received, State, Step, Tls};

trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// The end of a session, of whatever kind; there is nothing to report.
struct SessionEnd;

impl From<io::Error> for SessionEnd {
    fn from(_: io::Error) -> Self {
        SessionEnd
    }
}

struct Session {
    state: Arc<State>,
    stream: Option<Box<dyn Io>>,
    inbox: Vec<u8>,
    outbox: Vec<u8>,
    moment: Moment,
    parameters: Vec<String>,
    encrypted: bool,
    user: Option<String>,
    pipelined: bool,
    overlapped: bool,
    in_transaction: bool,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.state.open.send_modify(|open| *open -= 1);
    }
}

pub(super) async fn serve(stream: TcpStream, state: Arc<State>) {
    stream.set_nodelay(true).unwrap();
    let connection = state.opened();
    let mut session = Session {
        state,
        stream: Some(Box::new(stream)),
        inbox: Vec::new(),
        outbox: Vec::new(),
        moment: Moment {
            connection,
            ..Moment::default()
        },
        parameters: Vec::new(),
        encrypted: false,
        user: None,
        pipelined: false,
        overlapped: false,
        in_transaction: false,
    };

    let _ = session.run().await;
    let _ = session.flush().await;
    if let Some(stream) = &mut session.stream {
        let _ = stream.shutdown().await;
    }
}

impl Session {
    async fn run(&mut self) -> Result<(), SessionEnd> {
        if matches!(self.state.tls, Some((Tls::Implicit, _))) {
            self.handshake().await?;
        }
        self.answer(Step::Greeting, 220, "fake.example ESMTP")
            .await?;
        loop {
            let line = self.line().await?;
            self.state.commands.lock().push(line.clone());
            self.moment.line = line;
            self.command().await?;
        }
    }

    async fn command(&mut self) -> Result<(), SessionEnd> {
        let line = self.moment.line.clone();
        let verb = line
            .split(' ')
            .next()
            .unwrap_or_default()
            .to_ascii_uppercase();
        let locked = matches!(self.state.tls, Some((Tls::Offered, _))) && !self.encrypted;

        let anonymous = !self.state.logins.is_empty() && self.user.is_none();
        match verb.as_str() {
            "HELO" => {
                self.in_transaction = false;
                self.say(250, "fake.example");
            }
            "EHLO" => {
                self.in_transaction = false;
                let text = self.ehlo_text();
                self.answer(Step::Ehlo, 250, &text).await?;
            }
            "STARTTLS" if locked => {
                if self.answer(Step::StartTls, 220, "2.0.0 go ahead").await? {
                    self.flush().await?;
                    self.inbox.clear();
                    self.handshake().await?;
                }
            }
            "AUTH" if !self.state.logins.is_empty() => self.auth(&line).await?,
            "MAIL" if locked => self.say(530, "5.7.0 STARTTLS first"),
            "MAIL" if anonymous => self.say(530, "5.7.0 log in first"),
            "MAIL" if self.in_transaction => self.say(503, "5.5.1 nested MAIL"),
            "MAIL" => {
                self.pipelined = !self.inbox.is_empty();
                if self.state.drops_behind == Some(Step::Mail) {
                    self.inbox.clear();
                }
                if self.answer(Step::Mail, 250, "2.1.0 ok").await? {
                    let (path, parameters) = path_of(&line);
                    self.in_transaction = true;
                    self.moment.transaction += 1;
                    self.moment.return_path = path;
                    self.moment.recipients.clear();
                    self.parameters = parameters;
                }
            }
            "RCPT" if !self.in_transaction => self.say(503, "5.5.1 MAIL first"),
            "RCPT" => {
                if self.answer(Step::Rcpt, 250, "2.1.5 ok").await? {
                    let (path, _) = path_of(&line);
                    self.moment.recipients.push(path);
                }
            }
            "DATA" if self.moment.recipients.is_empty() || !self.in_transaction => {
                // A script may still want 354 here, as some servers do (RFC 2920 §3.1).
                if self
                    .answer(Step::Data, 503, "5.5.1 no valid recipients")
                    .await?
                {
                    self.data().await?;
                }
            }
            "DATA" => {
                if self.answer(Step::Data, 354, "go on").await? {
                    self.data().await?;
                }
            }
            "RSET" => {
                if self.answer(Step::Rset, 250, "2.0.0 ok").await? {
                    self.end_transaction();
                }
            }
            "NOOP" => self.say(250, "2.0.0 ok"),
            "QUIT" => {
                self.answer(Step::Quit, 221, "2.0.0 bye").await?;
                return Err(SessionEnd);
            }
            _ => self.say(502, "5.5.2 what?"),
        }

        Ok(())
    }

    fn ehlo_text(&self) -> String {
        let mut lines = vec!["fake.example".to_owned()];
        lines.extend(self.state.capabilities.iter().cloned());
        if matches!(self.state.tls, Some((Tls::Offered, _))) && !self.encrypted {
            lines.push("STARTTLS".into());
        } else if !self.state.logins.is_empty() {
            lines.push(format!("AUTH {}", self.state.mechanisms));
        }
        lines.join("\n")
    }

    async fn auth(&mut self, line: &str) -> Result<(), SessionEnd> {
        let mut words = line.split(' ').skip(1);
        let mechanism = words.next().unwrap_or_default().to_ascii_uppercase();
        let initial = words.next().map(str::to_owned);
        if !self
            .state
            .mechanisms
            .to_ascii_uppercase()
            .contains(&mechanism)
            || self.state.refused_mechanism == mechanism
        {
            self.say(504, "5.5.4 unrecognized authentication type");
            return Ok(());
        }

        let (user, secret) = match mechanism.as_str() {
            "LOGIN" => {
                let [first, second] = self.state.prompts.clone();
                let user = self.challenge(&first).await?;
                (user, self.challenge(&second).await?)
            }
            "PLAIN" => {
                let text = decode(&initial.unwrap_or_default());
                let mut parts = text.split('\0').skip(1).map(str::to_owned);
                (
                    parts.next().unwrap_or_default(),
                    parts.next().unwrap_or_default(),
                )
            }
            _ => {
                let text = decode(&initial.unwrap_or_default());
                let field = |name: &str| {
                    text.split('\u{1}')
                        .find_map(|part| part.strip_prefix(name))
                        .map(str::to_owned)
                };
                (
                    field("user=").unwrap_or_default(),
                    field("auth=Bearer ").unwrap_or_default(),
                )
            }
        };

        let known = self.state.logins.contains(&(user.clone(), secret));
        if !known && mechanism == "XOAUTH2" {
            // The reason comes as a challenge, which the client answers with an empty line.
            self.challenge("eyJzdGF0dXMiOiI0MDEifQ==").await?;
        }

        let (code, text) = if known {
            (235, "2.7.0 welcome")
        } else {
            (535, "5.7.8 wrong user or password")
        };

        if self.answer(Step::Auth, code, text).await? && known {
            self.user = Some(user);
        }
        Ok(())
    }

    async fn challenge(&mut self, text: &str) -> Result<String, SessionEnd> {
        self.say(334, text);
        let line = self.line().await?;
        Ok(decode(&line))
    }

    /// Reads the message and answers its final dot.
    async fn data(&mut self) -> Result<(), SessionEnd> {
        let mut asked = false;
        let mut searched: usize = 0;
        let end = loop {
            if let Some(end) = end_of_data(&self.inbox, searched.saturating_sub(4)) {
                break end;
            }
            searched = self.inbox.len();
            if !asked && !self.inbox.is_empty() {
                asked = true;
                if let Some(act) = self.state.act(Step::Body, &self.moment) {
                    self.perform(act, 0, "").await?;
                }
            }
            self.read().await?;
        };

        let raw: Vec<u8> = self.inbox.drain(..end).collect();
        let message = unstuff(&raw[..raw.len() - 3]);
        self.moment.message = message.clone();
        let overlapped = !self.inbox.is_empty();

        if self.state.drops_behind == Some(Step::FinalDot) {
            self.inbox.clear();
        }

        let act = self.state.act(Step::FinalDot, &self.moment);
        let answer = match &act {
            None | Some(Act::Delay(_) | Act::Drip(_) | Act::Extra(_) | Act::ExtraLater(..)) => {
                Some(250)
            }
            Some(Act::Reply(code, _) | Act::ReplyThenCut(code, _)) => Some(*code),
            Some(_) => None,
        };

        let received = Received {
            connection: self.moment.connection,
            return_path: self.moment.return_path.clone(),
            parameters: std::mem::take(&mut self.parameters),
            recipients: self.moment.recipients.clone(),
            message,
            answer,
            pipelined: self.pipelined,
            overlapped: self.overlapped,
            encrypted: self.encrypted,
            user: self.user.clone(),
        };

        self.end_transaction();
        self.overlapped = overlapped;
        let acted = match act {
            Some(act) => self.perform(act, 250, "2.0.0 taken").await,
            None => {
                self.say(250, "2.0.0 taken");
                Ok(())
            }
        };

        self.state.remember(received);
        acted
    }

    fn end_transaction(&mut self) {
        self.in_transaction = false;
        self.moment.recipients.clear();
    }

    /// Answers a step: as the script says, or with this. True where the answer was positive.
    async fn answer(&mut self, step: Step, code: u16, text: &str) -> Result<bool, SessionEnd> {
        let Some(act) = self.state.act(step, &self.moment) else {
            self.say(code, text);
            return Ok(code < 400);
        };

        let positive = match &act {
            Act::Reply(code, _) => *code < 400,
            Act::WrongClass
            | Act::Garbage
            | Act::HugeLine(_)
            | Act::HugeReply(_)
            | Act::MixedCodes => false,
            _ => code < 400,
        };

        self.perform(act, code, text).await?;
        Ok(positive)
    }

    /// Acts, where the right reply would have been `code` and `text`; code 0 means that none is
    /// due.
    async fn perform(&mut self, act: Act, code: u16, text: &str) -> Result<(), SessionEnd> {
        match act {
            Act::Reply(code, text) => self.say(code, &text),
            Act::ReplyThenCut(code, text) => {
                self.say(code, &text);
                return Err(SessionEnd);
            }
            Act::Cut => return Err(SessionEnd),
            Act::Hang => {
                self.flush().await?;
                std::future::pending::<()>().await;
            }
            Act::Drip(pause) => {
                self.flush().await?;
                let code = if code == 0 { 250 } else { code };
                for byte in rendered(code, text) {
                    self.outbox.push(byte);
                    self.flush().await?;
                    tokio::time::sleep(pause).await;
                }
            }
            Act::Delay(span) => {
                self.flush().await?;
                tokio::time::sleep(span).await;
                self.say(code, text);
            }
            Act::Garbage => self
                .outbox
                .extend_from_slice(b"\x00\xff\x1b[2Jno reply at all\r\n"),
            Act::HugeLine(size) => {
                self.outbox.extend_from_slice(b"250 ");
                self.outbox.resize(self.outbox.len() + size, b'x');
                self.outbox.extend_from_slice(b"\r\n");
            }
            Act::HugeReply(lines) => {
                for _ in 0..lines {
                    self.outbox.extend_from_slice(b"250-on and on\r\n");
                }
                self.outbox.extend_from_slice(b"250 done\r\n");
            }
            Act::MixedCodes => self.outbox.extend_from_slice(b"250-yes\r\n550 no\r\n"),
            Act::Extra(line) => {
                self.say(code, text);
                self.outbox
                    .extend_from_slice(format!("{line}\r\n").as_bytes());
            }
            Act::ExtraLater(span, line) => {
                self.say(code, text);
                self.flush().await?;
                tokio::time::sleep(span).await;
                self.outbox
                    .extend_from_slice(format!("{line}\r\n").as_bytes());
                self.flush().await?;
            }
            Act::WrongClass => {
                let wrong = if code == 354 { 250 } else { 354 };
                self.say(wrong, "odd");
            }
            Act::Raw(bytes) => self.outbox.extend_from_slice(&bytes),
        }

        Ok(())
    }

    fn say(&mut self, code: u16, text: &str) {
        if code != 0 {
            self.outbox.extend(rendered(code, text));
        }
    }

    async fn handshake(&mut self) -> Result<(), SessionEnd> {
        match self.state.act(Step::Handshake, &self.moment) {
            None => {}
            Some(Act::Hang) => std::future::pending::<()>().await,
            Some(_) => return Err(SessionEnd),
        }
        let (_, config) = self.state.tls.clone().ok_or(SessionEnd)?;
        let plain = self.stream.take().ok_or(SessionEnd)?;
        self.stream = Some(Box::new(TlsAcceptor::from(config).accept(plain).await?));
        self.encrypted = true;
        Ok(())
    }

    async fn line(&mut self) -> Result<String, SessionEnd> {
        loop {
            if let Some(end) = self.inbox.windows(2).position(|pair| pair == b"\r\n") {
                let line = self.inbox.drain(..end + 2).take(end).collect::<Vec<u8>>();
                return Ok(String::from_utf8_lossy(&line).into_owned());
            }
            self.read().await?;
        }
    }

    /// Says what there is to say, and reads what has come.
    async fn read(&mut self) -> Result<(), SessionEnd> {
        self.flush().await?;
        let stream = self.stream.as_mut().ok_or(SessionEnd)?;

        let mut part = vec![0; 64 * 1024];
        let count = stream.read(&mut part).await?;
        if count == 0 {
            return Err(SessionEnd);
        }
        self.state.turnarounds.fetch_add(1, Ordering::SeqCst);
        if self.state.turnaround > Duration::ZERO {
            tokio::time::sleep(self.state.turnaround).await;
        }
        self.inbox.extend_from_slice(&part[..count]);

        Ok(())
    }

    async fn flush(&mut self) -> Result<(), SessionEnd> {
        if self.outbox.is_empty() {
            return Ok(());
        }
        let stream = self.stream.as_mut().ok_or(SessionEnd)?;
        if self.state.bare_line_feeds {
            self.outbox.retain(|byte| *byte != b'\r');
        }
        stream.write_all(&self.outbox).await?;
        stream.flush().await?;
        self.outbox.clear();
        Ok(())
    }
}

fn rendered(code: u16, text: &str) -> Vec<u8> {
    let lines: Vec<&str> = text.split('\n').collect();
    let mut reply = String::new();
    for (index, line) in lines.iter().enumerate() {
        let mark = if index + 1 == lines.len() { ' ' } else { '-' };
        reply.push_str(&format!("{code}{mark}{line}\r\n"));
    }
    reply.into_bytes()
}

/// `MAIL FROM:<a@b> SIZE=1` → (`a@b`, [`SIZE=1`]). The address may hold `>` only in quotes, which
/// our tests do not use.
fn path_of(line: &str) -> (String, Vec<String>) {
    let inside = line.split_once('<').map_or("", |(_, rest)| rest);
    let (path, rest) = inside.rsplit_once('>').unwrap_or((inside, ""));
    (
        path.to_owned(),
        rest.split_whitespace().map(str::to_owned).collect(),
    )
}

/// Where the message ends, final dot included; it is not before `from`.
fn end_of_data(bytes: &[u8], from: usize) -> Option<usize> {
    if bytes.starts_with(b".\r\n") {
        return Some(3);
    }
    memchr::memmem::find(&bytes[from..], b"\r\n.\r\n").map(|at| from + at + 5)
}

fn unstuff(message: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(message.len());
    for (index, byte) in message.iter().enumerate() {
        let starts_line = index == 0 || message[..index].ends_with(b"\r\n");
        if !(starts_line && *byte == b'.') {
            plain.push(*byte);
        }
    }
    plain
}

/// Base64 (RFC 4648 §4), as AUTH uses it.
fn decode(text: &str) -> String {
    let mut bits = 0u32;
    let mut count = 0;
    let mut bytes = Vec::new();
    for c in text.bytes() {
        let value = match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => break,
        };
        bits = (bits << 6) | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }

    String::from_utf8_lossy(&bytes).into_owned()
}

//! The protocol, without I/O: bytes of a client go in, replies come out, and now and then a [`Step`] asks the
//! [`connection`](super::connection) for what a session cannot do itself.
//!
//! *Invariant:* what a session does depends on the bytes alone, not on the pieces they came in. The one exception is
//! STARTTLS, where bytes that came with the command are an attack (RFC 3207 §6) and end the connection.

mod exercise;
#[cfg(test)]
mod tests;

use std::io::Write;
use std::net::IpAddr;
use std::sync::Arc;

pub use exercise::exercise;

use super::Limits;
use super::admission::Budget;
use super::auth::{self, Exchange, Mechanism, Progress, Users};
use super::body::{Body, DotReader};
use super::command::{self, Command, Wrong};
use super::reply::Reply;
use crate::mail::{Address, Timestamp};

/// Replies are sent before they pile up beyond this.
const MUCH_TO_SAY: usize = 16 * 1024;

/// What all sessions of a door share.
#[derive(Clone, Debug)]
pub(super) struct House {
    pub hostname: Arc<str>,
    pub limits: Limits,
    pub users: Users,
    pub budget: Budget,
}

/// How a session's connection is secured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Security {
    /// Not, and it cannot be.
    Plain,
    /// Not yet: STARTTLS is offered.
    Offered,
    /// By TLS.
    Tls,
}

/// What a session needs next.
#[derive(Debug)]
pub(super) enum Step {
    /// More bytes. Replies may be waiting, here as with every step.
    Read,
    /// The replies to be sent before anything else.
    Flush,
    /// A TLS handshake, after the replies are sent; then [`Session::secured`].
    StartTls,
    /// A wait, after a failed login.
    Penalty,
    /// The mail to be handed in; then [`Session::answer`].
    Submit(Submission),
    /// The replies to be sent and the connection to be closed.
    Close,
}

/// A mail that has come in whole.
#[derive(Debug)]
pub(super) struct Submission {
    pub return_path: Option<Address>,
    pub recipients: Vec<Address>,
    pub body: Body,
    /// Who handed it in, where a login is needed.
    pub user: Option<String>,
}

/// One client's dialogue.
#[derive(Debug)]
pub(super) struct Session {
    house: House,
    peer: IpAddr,
    security: Security,
    client: Option<Client>,
    user: Option<String>,
    expects: Expects,
    transaction: Option<Transaction>,
    replies: Vec<u8>,
    errors: u32,
    failed_logins: u32,
    commands: u64,
    commands_before_login: u32,
    closing: bool,
}

/// How the client introduced itself.
#[derive(Debug)]
struct Client {
    name: String,
    extended: bool,
}

/// What the next bytes are.
#[derive(Debug)]
enum Expects {
    Command,
    Login(Exchange),
    Data(DotReader, Body),
    Chunk { left: usize, last: bool, body: Body },
}

/// A mail from MAIL to its end.
#[derive(Debug)]
struct Transaction {
    return_path: Option<Address>,
    recipients: Vec<Address>,
    size: usize,
    smtputf8: bool,
    /// What came in the chunks so far, between two of them.
    chunks: Option<Body>,
}

impl Session {
    /// A session that has greeted its client.
    pub fn new(house: House, peer: IpAddr, security: Security) -> Self {
        let mut session = Session {
            house,
            peer: peer.to_canonical(),
            security,
            client: None,
            user: None,
            expects: Expects::Command,
            transaction: None,
            replies: Vec::new(),
            errors: 0,
            failed_logins: 0,
            commands: 0,
            commands_before_login: 0,
            closing: false,
        };
        let greeting = format!("{} ESMTP Postrider", session.house.hostname);
        session.reply(&Reply::new(220, "", greeting));
        session
    }

    /// What is to be sent to the client; the caller empties it.
    pub fn replies(&mut self) -> &mut Vec<u8> {
        &mut self.replies
    }

    /// How many commands, chunks and messages have been read: more of them means that the client gets on.
    pub fn progress(&self) -> u64 {
        self.commands
    }

    /// While a message comes in, how many of its bytes have.
    pub fn receiving(&self) -> Option<usize> {
        match &self.expects {
            Expects::Data(_, body) | Expects::Chunk { body, .. } => Some(body.came()),
            Expects::Command | Expects::Login(_) => None,
        }
    }

    /// Says why, and ends the session.
    pub fn hang_up(&mut self, enhanced: &'static str, text: &'static str) {
        self.reply(&Reply::new(421, enhanced, text));
    }

    /// Says what became of the mail that was handed in.
    pub fn answer(&mut self, reply: &Reply) {
        if reply.code == 250 {
            self.errors = 0;
        }
        self.reply(reply);
    }

    /// The handshake is done: all that was said before is forgotten (RFC 3207 §4.2).
    pub fn secured(&mut self) {
        self.security = Security::Tls;
        self.client = None;
        self.user = None;
        self.transaction = None;
    }

    /// Reads from `input` as far as it can go, and says what it needs next.
    pub fn advance(&mut self, input: &mut &[u8], now: Timestamp) -> Step {
        loop {
            if self.closing {
                return Step::Close;
            }
            if self.replies.len() > MUCH_TO_SAY {
                return Step::Flush;
            }
            let step = match &mut self.expects {
                Expects::Command | Expects::Login(_) => self.read_line(input, now),
                Expects::Data(reader, body) => {
                    if reader.read(input, body) {
                        self.message_ends()
                    } else {
                        self.read_on()
                    }
                }
                Expects::Chunk { left, body, .. } => {
                    let (taken, rest) = input.split_at(input.len().min(*left));
                    *input = rest;
                    *left -= taken.len();
                    body.push(taken);
                    if *left == 0 { self.message_ends() } else { self.read_on() }
                }
            };
            if let Some(step) = step {
                return step;
            }
        }
    }

    fn read_line(&mut self, input: &mut &[u8], now: Timestamp) -> Option<Step> {
        let line = match command::take_line(input) {
            Ok(Some(line)) => line,
            Ok(None) => return Some(Step::Read),
            Err(wrong) => {
                self.mistake(wrong);
                return None;
            }
        };
        self.commands += 1;
        if let Expects::Login(exchange) = std::mem::replace(&mut self.expects, Expects::Command) {
            let progress = auth::proceed(exchange, line.trim_ascii_end(), &self.house.users);
            return self.login(progress);
        }
        if self.needs_login() && self.user.is_none() {
            self.commands_before_login += 1;
            if self.commands_before_login > self.house.limits.commands_before_login {
                self.hang_up("4.7.0", "too many commands without a login");
                return None;
            }
        }
        match command::parse(line) {
            Ok(Command::StartTls) => self.start_tls(input),
            Ok(Command::Auth { mechanism, initial }) => self.begin_login(mechanism, initial.as_deref()),
            Ok(command) => {
                self.carry_out(command, now);
                None
            }
            Err(wrong) => {
                self.mistake(wrong);
                None
            }
        }
    }

    fn carry_out(&mut self, command: Command, now: Timestamp) {
        match command {
            Command::Ehlo(name) => self.hello(Client { name, extended: true }),
            Command::Helo(name) => self.hello(Client { name, extended: false }),
            Command::Mail { return_path, size, smtputf8 } => self.mail(return_path, size, smtputf8),
            Command::Rcpt(recipient) => self.rcpt(recipient),
            Command::Data => self.data(now),
            Command::Bdat { size, last } => self.bdat(size, last, now),
            Command::Rset => {
                self.transaction = None;
                self.say(250, "2.0.0", "forgotten");
            }
            Command::Noop => self.say(250, "2.0.0", "ok"),
            Command::Vrfy => self.say(252, "2.0.0", "send it, and it will be tried"),
            Command::Help => {
                self.say(214, "2.0.0", "EHLO STARTTLS AUTH MAIL RCPT DATA BDAT RSET NOOP VRFY QUIT: RFC 6409")
            }
            Command::Quit => {
                self.say(221, "2.0.0", "goodbye");
                self.closing = true;
            }
            Command::StartTls | Command::Auth { .. } => {}
        }
    }

    fn hello(&mut self, client: Client) {
        self.transaction = None;
        let extended = client.extended;
        self.client = Some(client);
        let hostname = Arc::clone(&self.house.hostname);
        if !extended {
            return self.reply(&Reply::new(250, "", hostname.to_string()));
        }
        let size = format!("SIZE {}", self.house.limits.message_size);
        let mut lines =
            vec![&*hostname, "PIPELINING", "8BITMIME", "SMTPUTF8", "CHUNKING", "ENHANCEDSTATUSCODES", &size];
        if self.security == Security::Offered {
            lines.push("STARTTLS");
        }
        if self.needs_login() && self.user.is_none() && self.may_log_in() {
            lines.push("AUTH PLAIN LOGIN");
        }
        let last = lines.len() - 1;
        for (n, line) in lines.into_iter().enumerate() {
            let _ = write!(self.replies, "250{}{line}\r\n", if n == last { ' ' } else { '-' });
        }
    }

    fn start_tls(&mut self, input: &mut &[u8]) -> Option<Step> {
        match self.security {
            Security::Tls => self.mistake_of(503, "5.5.1", "the connection is secured already"),
            Security::Plain => self.mistake_of(502, "5.5.1", "STARTTLS is not offered here"),
            Security::Offered if input.is_empty() => {
                self.say(220, "2.0.0", "begin");
                return Some(Step::StartTls);
            }
            // Whoever put these bytes here may not be who will be on the other end of the TLS.
            Security::Offered => {
                self.say(554, "5.5.1", "nothing may follow STARTTLS before the handshake");
                self.closing = true;
            }
        }
        None
    }

    fn needs_login(&self) -> bool {
        !self.house.users.is_empty()
    }

    /// Whether a password would not go over the network in the clear.
    fn may_log_in(&self) -> bool {
        self.security == Security::Tls || self.peer.is_loopback()
    }

    fn begin_login(&mut self, mechanism: Mechanism, initial: Option<&str>) -> Option<Step> {
        if self.client.is_none() || self.user.is_some() || self.transaction.is_some() {
            self.mistake_of(503, "5.5.1", "AUTH comes once, after EHLO and before MAIL");
        } else if !self.needs_login() {
            self.mistake_of(502, "5.5.1", "AUTH is not offered here: no login is needed");
        } else if !self.may_log_in() {
            self.mistake_of(538, "5.7.11", "no password is taken in the clear; begin with STARTTLS");
        } else {
            let progress = auth::begin(mechanism, initial, &self.house.users);
            return self.login(progress);
        }
        None
    }

    fn login(&mut self, progress: Progress) -> Option<Step> {
        match progress {
            Progress::Challenge(challenge, exchange) => {
                self.expects = Expects::Login(exchange);
                self.say(334, "", challenge);
            }
            Progress::LoggedIn(name) => {
                self.user = Some(name);
                self.say(235, "2.7.0", "welcome");
            }
            Progress::Cancelled => self.mistake_of(501, "5.7.0", "login cancelled"),
            Progress::Malformed => self.mistake_of(501, "5.5.2", "that is not what the mechanism says, in base64"),
            Progress::Refused(name) => {
                tracing::warn!(peer = %self.peer, user = ?name, "smtp login refused");
                self.failed_logins += 1;
                self.mistake_of(535, "5.7.8", "the name or the password is wrong");
                if self.failed_logins >= self.house.limits.failed_logins && !self.closing {
                    self.hang_up("4.7.0", "too many failed logins");
                }
                return Some(Step::Penalty);
            }
        }
        None
    }

    /// What stands in the way of a mail, if anything.
    fn obstacle(&self) -> Option<Reply> {
        if self.client.is_none() {
            return Some(Reply::new(503, "5.5.1", "say EHLO first"));
        }
        if !self.needs_login() || self.user.is_some() {
            return None;
        }
        let text = if self.may_log_in() { "log in first" } else { "begin with STARTTLS, then log in" };
        Some(Reply::new(530, "5.7.0", text))
    }

    fn mail(&mut self, return_path: Option<Address>, size: usize, smtputf8: bool) {
        let most = self.house.limits.message_size;
        if let Some(obstacle) = self.obstacle() {
            self.mistake(Wrong::Command(obstacle));
        } else if self.transaction.is_some() {
            self.mistake_of(503, "5.5.1", "a mail is begun already; RSET forgets it");
        } else if size > most {
            let text = format!("the message has {size} bytes, and {most} are the most that is taken");
            self.reply(&Reply::new(552, "5.3.4", text));
        } else {
            let recipients = Vec::new();
            self.transaction = Some(Transaction { return_path, recipients, size, smtputf8, chunks: None });
            self.say(250, "2.1.0", "sender ok");
        }
    }

    fn rcpt(&mut self, recipient: Address) {
        let most = self.house.limits.recipients;
        match &mut self.transaction {
            None => self.mistake_of(503, "5.5.1", "MAIL comes first"),
            Some(t) if t.chunks.is_some() => self.mistake_of(503, "5.5.1", "the message has begun"),
            Some(t) if !t.smtputf8 && !recipient.is_ascii() => self.mistake(command::needs_smtputf8()),
            Some(t) if t.recipients.len() >= most => {
                let text = format!("a mail has no more than {most} recipients here; send another to the rest");
                self.reply(&Reply::new(452, "4.5.3", text));
            }
            Some(t) => {
                t.recipients.push(recipient);
                self.say(250, "2.1.5", "recipient ok");
            }
        }
    }

    /// What stands in the way of a message, if anything.
    fn obstacle_to_message(&self) -> Option<Reply> {
        match &self.transaction {
            None => Some(self.obstacle().unwrap_or_else(|| Reply::new(503, "5.5.1", "MAIL comes first"))),
            Some(t) if t.recipients.is_empty() => Some(Reply::new(554, "5.5.1", "there is no recipient")),
            Some(_) => None,
        }
    }

    fn data(&mut self, now: Timestamp) {
        if let Some(obstacle) = self.obstacle_to_message() {
            return self.mistake(Wrong::Command(obstacle));
        }
        if self.transaction.as_ref().is_some_and(|t| t.chunks.is_some()) {
            return self.mistake_of(503, "5.5.1", "a message that began with BDAT goes on with BDAT");
        }
        self.expects = Expects::Data(DotReader::default(), self.begin_message(now));
        self.say(354, "", "go on; a line with a dot alone ends it");
    }

    /// One chunk (RFC 3030 §2). Its octets follow at once, so they are read even where the command is refused.
    fn bdat(&mut self, left: usize, last: bool, now: Timestamp) {
        let begun = self.transaction.as_mut().and_then(|t| t.chunks.take());
        let body = match (begun, self.obstacle_to_message()) {
            (Some(body), _) => body,
            (None, None) => self.begin_message(now),
            (None, Some(reply)) => Body::refused(self.house.limits.message_size, self.house.budget.clone(), reply),
        };
        self.expects = Expects::Chunk { left, last, body };
    }

    fn begin_message(&self, now: Timestamp) -> Body {
        let (size, smtputf8) = self.transaction.as_ref().map_or((0, false), |t| (t.size, t.smtputf8));
        let mut body = Body::new(self.house.limits.message_size, size, self.house.budget.clone());
        body.begin(&self.received(smtputf8, now));
        body
    }

    /// Our trace field (RFC 5321 §4.4), short: who said hello from where, to whom, how, and when.
    fn received(&self, smtputf8: bool, now: Timestamp) -> Vec<u8> {
        let (name, extended) = self.client.as_ref().map_or(("unknown", true), |c| (c.name.as_str(), c.extended));
        let plain = |c: char| if c.is_ascii_alphanumeric() || ".-_:[]".contains(c) { c } else { '?' };
        let name: String = name.chars().take(255).map(plain).collect();
        let literal = if self.peer.is_ipv6() { "IPv6:" } else { "" };
        let protocol = match (smtputf8, extended) {
            (true, _) => "UTF8SMTP",
            (false, true) => "ESMTP",
            (false, false) => "SMTP",
        };
        let tls = if self.security == Security::Tls { "S" } else { "" };
        let login = if self.user.is_some() { "A" } else { "" };
        let date = rfc5322(now);
        let (peer, hostname) = (self.peer, &self.house.hostname);
        format!("Received: from {name} ([{literal}{peer}])\r\n by {hostname} with {protocol}{tls}{login}; {date}\r\n")
            .into_bytes()
    }

    /// Waits for more of a message, unless it is refused and does not end.
    fn read_on(&mut self) -> Option<Step> {
        let (Expects::Data(_, body) | Expects::Chunk { body, .. }) = &self.expects else { return None };
        let Some(reply) = body.refusal().filter(|_| body.is_hopeless()).cloned() else { return Some(Step::Read) };
        self.reply(&reply);
        self.closing = true;
        None
    }

    /// The message, or one chunk of it, has come.
    fn message_ends(&mut self) -> Option<Step> {
        self.commands += 1;
        let (body, last) = match std::mem::replace(&mut self.expects, Expects::Command) {
            Expects::Data(_, body) => (body, true),
            Expects::Chunk { body, last, .. } => (body, last),
            Expects::Command | Expects::Login(_) => return None,
        };
        let refusal = body.refusal().cloned();
        match (refusal, self.transaction.take()) {
            (None, Some(Transaction { return_path, recipients, .. })) if last => {
                return Some(Step::Submit(Submission { return_path, recipients, body, user: self.user.clone() }));
            }
            (refusal, Some(transaction)) if !last => {
                let text = format!("{} octets so far", body.came());
                self.transaction = Some(Transaction { chunks: Some(body), ..transaction });
                self.reply(&refusal.unwrap_or_else(|| Reply::new(250, "2.0.0", text)));
            }
            (Some(reply), Some(_)) => self.reply(&reply),
            (Some(reply), None) => self.mistake(Wrong::Command(reply)),
            (None, _) => {}
        }
        None
    }

    fn mistake_of(&mut self, code: u16, enhanced: &'static str, text: &'static str) {
        self.mistake(Wrong::Command(Reply::new(code, enhanced, text)));
    }

    fn mistake(&mut self, wrong: Wrong) {
        match wrong {
            Wrong::OutOfStep(reply) => {
                self.reply(&reply);
                self.closing = true;
            }
            // A browser can be made to post a form to this port: before EHLO, whoever says something strange is no
            // mail program, and what follows might look like commands.
            Wrong::Unknown if self.client.is_none() => {
                self.say(500, "5.5.1", "this is a mail server");
                self.closing = true;
            }
            Wrong::Unknown => self.mistake_of(500, "5.5.1", "there is no such command"),
            Wrong::Command(reply) => {
                self.reply(&reply);
                self.errors += 1;
                if self.errors >= self.house.limits.errors && !self.closing {
                    self.hang_up("4.7.0", "too many mistakes");
                }
            }
        }
    }

    fn say(&mut self, code: u16, enhanced: &'static str, text: &'static str) {
        self.reply(&Reply::new(code, enhanced, text));
    }

    fn reply(&mut self, reply: &Reply) {
        self.closing |= reply.closes();
        reply.write(&mut self.replies);
    }
}

fn rfc5322(at: Timestamp) -> String {
    jiff::Timestamp::from_millisecond(at.as_millis())
        .and_then(|at| jiff::fmt::rfc2822::to_string(&at.to_zoned(jiff::tz::TimeZone::UTC)))
        .unwrap_or_else(|_| "Thu, 1 Jan 1970 00:00:00 +0000".to_owned())
}

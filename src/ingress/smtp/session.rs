//! The protocol, without I/O: takes the client's bytes, produces replies, and asks the
//! [`connection`](super::connection) by a [`SessionStep`] for what it cannot do itself.
//!
//! *Invariant:* the result depends only on the bytes, not on how they are split. The one exception
//! is STARTTLS: bytes that arrive together with the command are an attack (RFC 3207 §6) and end the
//! connection.

#[cfg(feature = "testing")]
mod exercise;
mod login;
#[cfg(test)]
mod tests;
mod transaction;

use std::io::Write;
use std::net::IpAddr;
use std::sync::Arc;

#[cfg(feature = "testing")]
pub use exercise::exercise;
pub(super) use login::TOO_MANY_FAILED;

use super::Limits;
use super::auth::{self, Exchange, Users};
use super::body::{Body, DotReader};
use super::budget::MessageMemory;
use super::command::{self, CommandError, SmtpCommand};
use super::reply::SmtpReply;
use crate::Returns;
use crate::ingress::Networks;
use crate::ingress::guard::LoginGuard;
use crate::mail::{Address, Timestamp};
use transaction::MailTransaction;

/// Replies are sent when they are longer than this many bytes.
const REPLY_BYTES: usize = 16 * 1024;

/// The settings that all sessions of a listener share.
#[derive(Clone, Debug)]
pub(super) struct SessionContext {
    pub hostname: Arc<str>,
    pub limits: Limits,
    pub users: Users,
    pub trusted: Networks,
    pub budget: MessageMemory,
    pub guard: LoginGuard,
    /// Our own return paths: reports to them are accepted from every client.
    pub returns: Option<Returns>,
}

impl SessionContext {
    /// Whether this peer may submit mail at all. It may not if there are no users and no trusted
    /// network contains it; reports are accepted from everybody.
    pub fn serves(&self, peer: IpAddr) -> bool {
        self.trusted.is_empty()
            || !self.users.is_empty()
            || self.returns.is_some()
            || self.trusted.contain(peer)
    }
}

/// The security of a session's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ConnectionSecurity {
    /// Cleartext, and TLS is not available.
    Plain,
    /// Cleartext, and STARTTLS is offered.
    Offered,
    /// TLS.
    Tls,
}

/// What a session needs next. With each of these, replies may have to be sent first.
#[derive(Debug)]
pub(super) enum SessionStep {
    /// More bytes from the client.
    Read,
    /// The replies must be sent before anything else.
    Flush,
    /// A TLS handshake, after the replies were sent; then [`SmtpSession::secured`].
    StartTls,
    /// A delay, after a failed login under this name.
    Penalty(String),
    /// The mail must be submitted; then [`SmtpSession::answer`].
    Submit(Submission),
    /// The replies must be sent and the connection closed.
    Close,
}

/// A mail that was received completely.
#[derive(Debug)]
pub(super) struct Submission {
    pub return_path: Option<Address>,
    pub recipients: Vec<Address>,
    pub body: Body,
    /// The user who submitted it, if a login is needed.
    pub user: Option<String>,
    /// Whether it is a report to our own return paths.
    pub is_report: bool,
}

/// The dialogue with one client.
#[derive(Debug)]
pub(super) struct SmtpSession {
    context: SessionContext,
    peer: IpAddr,
    security: ConnectionSecurity,
    client: Option<ClientGreeting>,
    user: Option<String>,
    expects: ExpectedInput,
    transaction: Option<MailTransaction>,
    replies: Vec<u8>,
    errors: u32,
    failed_logins: u32,
    commands: u64,
    commands_before_login: u32,
    closing: bool,
}

/// The client's EHLO or HELO.
#[derive(Debug)]
struct ClientGreeting {
    name: String,
    extended: bool,
}

/// What the next bytes are.
#[derive(Debug)]
enum ExpectedInput {
    SmtpCommand,
    Login(Exchange),
    Data(DotReader, Body),
    Chunk { left: usize, last: bool, body: Body },
}

impl SmtpSession {
    /// A session whose greeting is ready to be sent.
    pub fn new(context: SessionContext, peer: IpAddr, security: ConnectionSecurity) -> Self {
        let mut session = SmtpSession {
            context,
            peer: peer.to_canonical(),
            security,
            client: None,
            user: None,
            expects: ExpectedInput::SmtpCommand,
            transaction: None,
            replies: Vec::new(),
            errors: 0,
            failed_logins: 0,
            commands: 0,
            commands_before_login: 0,
            closing: false,
        };

        let greeting = format!("{} ESMTP Postrider", session.context.hostname);
        session.reply(&SmtpReply::new(220, "", greeting));
        session
    }

    /// The client's address.
    pub fn peer(&self) -> IpAddr {
        self.peer
    }

    /// The replies to send; the caller empties it.
    pub fn replies(&mut self) -> &mut Vec<u8> {
        &mut self.replies
    }

    /// How many commands, chunks and messages were read. An increase means that the client makes
    /// progress.
    pub fn progress(&self) -> u64 {
        self.commands
    }

    /// Whether the client has logged in, or has sent EHLO if no login is needed.
    pub fn is_admitted(&self) -> bool {
        let brings_report = self.transaction.as_ref().is_some_and(|t| t.is_report);
        self.user.is_some() || brings_report || (self.client.is_some() && !self.needs_login())
    }

    /// How many bytes of a message were received, while one is received.
    pub fn receiving(&self) -> Option<usize> {
        match &self.expects {
            ExpectedInput::Data(_, body) | ExpectedInput::Chunk { body, .. } => Some(body.came()),
            ExpectedInput::SmtpCommand | ExpectedInput::Login(_) => None,
        }
    }

    /// Replies with the reason, and ends the session.
    pub fn hang_up(&mut self, enhanced: &'static str, text: &'static str) {
        self.reply(&SmtpReply::new(421, enhanced, text));
    }

    /// Replies with the result of the submitted mail.
    pub fn answer(&mut self, reply: &SmtpReply) {
        if reply.code == 250 {
            self.errors = 0;
            self.commands_before_login = 0;
        }
        self.reply(reply);
    }

    /// After the handshake: forgets everything that was said before (RFC 3207 §4.2).
    pub fn secured(&mut self) {
        self.security = ConnectionSecurity::Tls;
        self.client = None;
        self.user = None;
        self.transaction = None;
    }

    /// Reads as much from `input` as possible, and returns what it needs next.
    pub fn advance(&mut self, input: &mut &[u8], now: Timestamp) -> SessionStep {
        loop {
            if self.closing {
                return SessionStep::Close;
            }
            if self.replies.len() > REPLY_BYTES {
                return SessionStep::Flush;
            }
            let step = match &mut self.expects {
                ExpectedInput::SmtpCommand | ExpectedInput::Login(_) => self.read_line(input, now),
                ExpectedInput::Data(reader, body) => {
                    if reader.read(input, body) {
                        self.message_ends()
                    } else {
                        self.read_on()
                    }
                }
                ExpectedInput::Chunk { left, body, .. } => {
                    let (taken, rest) = input.split_at(input.len().min(*left));
                    *input = rest;
                    *left -= taken.len();
                    body.push(taken);
                    if *left == 0 {
                        self.message_ends()
                    } else {
                        self.read_on()
                    }
                }
            };
            if let Some(step) = step {
                return step;
            }
        }
    }

    fn read_line(&mut self, input: &mut &[u8], now: Timestamp) -> Option<SessionStep> {
        let line = match command::take_line(input) {
            Ok(Some(line)) => line,
            Ok(None) => return Some(SessionStep::Read),
            Err(wrong) => {
                self.mistake(wrong);
                return None;
            }
        };

        self.commands += 1;
        if let ExpectedInput::Login(exchange) =
            std::mem::replace(&mut self.expects, ExpectedInput::SmtpCommand)
        {
            let progress = auth::proceed(exchange, line.trim_ascii_end(), &self.context.users);
            return self.login(progress);
        }

        if self.needs_login() && self.user.is_none() {
            self.commands_before_login += 1;
            if self.commands_before_login > self.context.limits.commands_before_login {
                self.hang_up("4.7.0", "too many commands without a login");
                return None;
            }
        }

        match command::parse(line) {
            Ok(SmtpCommand::StartTls) => self.start_tls(input),
            Ok(SmtpCommand::Auth { mechanism, initial }) => {
                self.begin_login(mechanism, initial.as_deref())
            }
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

    fn carry_out(&mut self, command: SmtpCommand, now: Timestamp) {
        match command {
            SmtpCommand::Ehlo(name) => self.hello(ClientGreeting {
                name,
                extended: true,
            }),
            SmtpCommand::Helo(name) => self.hello(ClientGreeting {
                name,
                extended: false,
            }),
            SmtpCommand::Mail {
                return_path,
                size,
                smtputf8,
            } => self.mail(return_path, size, smtputf8),
            SmtpCommand::Rcpt(recipient) => self.rcpt(recipient),
            SmtpCommand::RcptPostmaster => {
                match Address::parse(&format!("postmaster@{}", self.context.hostname)) {
                    Ok(postmaster) => self.rcpt(postmaster),
                    Err(_) => self.say(550, "5.1.3", "this host has no name to mail to"),
                }
            }
            SmtpCommand::Data => self.data(now),
            SmtpCommand::Bdat { size, last } => self.bdat(size, last, now),
            SmtpCommand::Rset => {
                self.transaction = None;
                self.say(250, "2.0.0", "forgotten");
            }
            SmtpCommand::Noop => self.say(250, "2.0.0", "ok"),
            SmtpCommand::Vrfy => self.say(252, "2.0.0", "send it, and it will be tried"),
            SmtpCommand::Help => self.say(
                214,
                "2.0.0",
                "EHLO STARTTLS AUTH MAIL RCPT DATA BDAT RSET NOOP VRFY QUIT: RFC 6409",
            ),
            SmtpCommand::Quit => {
                self.say(221, "2.0.0", "goodbye");
                self.closing = true;
            }
            SmtpCommand::StartTls | SmtpCommand::Auth { .. } => {}
        }
    }

    fn hello(&mut self, client: ClientGreeting) {
        self.transaction = None;
        let extended = client.extended;
        self.client = Some(client);

        let hostname = Arc::clone(&self.context.hostname);
        if !extended {
            return self.reply(&SmtpReply::new(250, "", hostname.to_string()));
        }

        let size = format!("SIZE {}", self.context.limits.message_size);
        let mut lines = vec![
            &*hostname,
            "PIPELINING",
            "8BITMIME",
            "SMTPUTF8",
            "CHUNKING",
            "ENHANCEDSTATUSCODES",
            &size,
        ];

        if self.security == ConnectionSecurity::Offered {
            lines.push("STARTTLS");
        }
        if self.knows_users() && self.user.is_none() && self.may_log_in() {
            lines.push("AUTH PLAIN LOGIN");
        }

        let last = lines.len() - 1;
        for (n, line) in lines.into_iter().enumerate() {
            let _ = write!(
                self.replies,
                "250{}{line}\r\n",
                if n == last { ' ' } else { '-' }
            );
        }
    }

    fn mistake_of(&mut self, code: u16, enhanced: &'static str, text: &'static str) {
        self.mistake(CommandError::Command(SmtpReply::new(code, enhanced, text)));
    }

    fn mistake(&mut self, wrong: CommandError) {
        match wrong {
            CommandError::OutOfStep(reply) => {
                self.reply(&reply);
                self.closing = true;
            }
            // A web page can make a browser send a form to this port. Before EHLO, an unknown
            // command therefore ends the session: what follows might contain commands.
            CommandError::Unknown if self.client.is_none() => {
                self.say(500, "5.5.1", "this is a mail server");
                self.closing = true;
            }
            CommandError::Unknown => self.mistake_of(500, "5.5.1", "there is no such command"),
            CommandError::Command(reply) => {
                self.reply(&reply);
                self.errors += 1;
                if self.errors >= self.context.limits.errors && !self.closing {
                    self.hang_up("4.7.0", "too many mistakes");
                }
            }
        }
    }

    fn say(&mut self, code: u16, enhanced: &'static str, text: &'static str) {
        self.reply(&SmtpReply::new(code, enhanced, text));
    }

    fn reply(&mut self, reply: &SmtpReply) {
        self.closing |= reply.closes();
        reply.write(&mut self.replies);
    }
}

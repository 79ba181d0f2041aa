//! The protocol, without I/O: bytes of a client go in, replies come out, and now and then a
//! [`Step`] asks the [`connection`](super::connection) for what a session cannot do itself.
//!
//! *Invariant:* what a session does depends on the bytes alone, not on the pieces they came in. The
//! one exception is STARTTLS, where bytes that came with the command are an attack (RFC 3207 §6)
//! and end the connection.

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

/// Replies are sent before they pile up beyond this.
const REPLY_BYTES: usize = 16 * 1024;

/// What all sessions of a door share.
#[derive(Clone, Debug)]
pub(super) struct SessionContext {
    pub hostname: Arc<str>,
    pub limits: Limits,
    pub users: Users,
    pub trusted: Networks,
    pub budget: MessageMemory,
    pub guard: LoginGuard,
    /// Where mail comes back to: reports for it are taken from everybody.
    pub returns: Option<Returns>,
}

impl SessionContext {
    /// Whether this peer may talk to the door at all: not where there is nobody to log in as, and
    /// the networks that are trusted do not hold it. Reports are taken from everybody.
    pub fn serves(&self, peer: IpAddr) -> bool {
        self.trusted.is_empty()
            || !self.users.is_empty()
            || self.returns.is_some()
            || self.trusted.contain(peer)
    }
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
pub(super) enum SessionStep {
    /// More bytes. Replies may be waiting, here as with every step.
    Read,
    /// The replies to be sent before anything else.
    Flush,
    /// A TLS handshake, after the replies are sent; then [`SmtpSession::secured`].
    StartTls,
    /// A wait, after a login that failed under this name.
    Penalty(String),
    /// The mail to be submitted; then [`SmtpSession::answer`].
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
    /// Who submitted it, where a login is needed.
    pub user: Option<String>,
    /// Whether it is a report, which came to return paths of ours.
    pub is_report: bool,
}

/// One client's dialogue.
#[derive(Debug)]
pub(super) struct SmtpSession {
    context: SessionContext,
    peer: IpAddr,
    security: Security,
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

/// How the client introduced itself.
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
    /// A session that has greeted its client.
    pub fn new(context: SessionContext, peer: IpAddr, security: Security) -> Self {
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

    /// Who is at the other end.
    pub fn peer(&self) -> IpAddr {
        self.peer
    }

    /// What is to be sent to the client; the caller empties it.
    pub fn replies(&mut self) -> &mut Vec<u8> {
        &mut self.replies
    }

    /// How many commands, chunks and messages have been read: more of them means that the client
    /// gets on.
    pub fn progress(&self) -> u64 {
        self.commands
    }

    /// Whether the client has done what lets it in: logged in, or said EHLO where that is all.
    pub fn has_come_in(&self) -> bool {
        let brings_report = self.transaction.as_ref().is_some_and(|t| t.is_report);
        self.user.is_some() || brings_report || (self.client.is_some() && !self.needs_login())
    }

    /// While a message comes in, how many of its bytes have.
    pub fn receiving(&self) -> Option<usize> {
        match &self.expects {
            ExpectedInput::Data(_, body) | ExpectedInput::Chunk { body, .. } => Some(body.came()),
            ExpectedInput::SmtpCommand | ExpectedInput::Login(_) => None,
        }
    }

    /// Says why, and ends the session.
    pub fn hang_up(&mut self, enhanced: &'static str, text: &'static str) {
        self.reply(&SmtpReply::new(421, enhanced, text));
    }

    /// Says what became of the mail that was submitted.
    pub fn answer(&mut self, reply: &SmtpReply) {
        if reply.code == 250 {
            self.errors = 0;
            self.commands_before_login = 0;
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

        if self.security == Security::Offered {
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
        self.mistake(CommandError::SmtpCommand(SmtpReply::new(
            code, enhanced, text,
        )));
    }

    fn mistake(&mut self, wrong: CommandError) {
        match wrong {
            CommandError::OutOfStep(reply) => {
                self.reply(&reply);
                self.closing = true;
            }
            // A browser can be made to post a form to this port: before EHLO, whoever says
            // something strange is no mail program, and what follows might look like commands.
            CommandError::Unknown if self.client.is_none() => {
                self.say(500, "5.5.1", "this is a mail server");
                self.closing = true;
            }
            CommandError::Unknown => self.mistake_of(500, "5.5.1", "there is no such command"),
            CommandError::SmtpCommand(reply) => {
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

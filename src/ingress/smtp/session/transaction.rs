//! A session's mail transaction, from MAIL to the end of the message (RFC 5321 §3.3, RFC 3030).

use super::super::body::{Body, DotReader};
use super::super::command::{self, CommandError};
use super::super::reply::SmtpReply;
use super::super::trace::Trace;
use super::{ConnectionSecurity, ExpectedInput, SessionStep, SmtpSession, Submission};
use crate::mail::{Address, Timestamp};

/// A mail transaction.
#[derive(Debug)]
pub(super) struct MailTransaction {
    return_path: Option<Address>,
    recipients: Vec<Address>,
    /// Whether it is a report: all recipients are our own return paths.
    pub(super) is_report: bool,
    size: usize,
    smtputf8: bool,
    /// The chunks that were received so far, between two BDAT commands.
    chunks: Option<Body>,
}

impl SmtpSession {
    /// Why MAIL is not allowed; `None` if it is.
    pub(super) fn obstacle(&self) -> Option<SmtpReply> {
        if self.client.is_none() {
            return Some(SmtpReply::new(503, "5.5.1", "say EHLO first"));
        }
        if !self.needs_login() || self.user.is_some() {
            return None;
        }
        let text = if self.may_log_in() {
            "log in first"
        } else {
            "begin with STARTTLS, then log in"
        };
        Some(SmtpReply::new(530, "5.7.0", text))
    }

    pub(super) fn mail(&mut self, return_path: Option<Address>, size: usize, smtputf8: bool) {
        let most = self.context.limits.message_size;
        // A client that may only submit reports is refused at RCPT, when the recipient is known.
        let may_report = self.client.is_some() && self.context.returns.is_some();

        if let Some(obstacle) = self.obstacle().filter(|_| !may_report) {
            self.mistake(CommandError::Command(obstacle));
        } else if self.transaction.is_some() {
            self.mistake_of(503, "5.5.1", "a mail is begun already; RSET forgets it");
        } else if size > most {
            let text = format!("the message has {size} bytes; at most {most} are accepted");
            self.reply(&SmtpReply::new(552, "5.3.4", text));
        } else {
            let recipients = Vec::new();
            self.transaction = Some(MailTransaction {
                return_path,
                recipients,
                is_report: false,
                size,
                smtputf8,
                chunks: None,
            });
            self.say(250, "2.1.0", "sender ok");
        }
    }

    pub(super) fn rcpt(&mut self, recipient: Address) {
        let most = self.context.limits.recipients;
        let returns = self.context.returns.as_ref();
        let is_return = returns.is_some_and(|returns| returns.is_of_domain(&recipient));
        let is_ours = returns.is_some_and(|returns| returns.is_ours(&recipient));

        let obstacle = self.obstacle().filter(|_| !is_return);
        match &mut self.transaction {
            None => self.mistake_of(503, "5.5.1", "MAIL comes first"),
            Some(t) if t.chunks.is_some() => self.mistake_of(503, "5.5.1", "the message has begun"),
            Some(t) if !t.smtputf8 && !recipient.is_ascii() => {
                self.mistake(command::needs_smtputf8())
            }
            Some(_) if is_return && !is_ours => {
                self.mistake_of(550, "5.1.1", "no mail has this return path");
            }
            Some(_) if obstacle.is_some() => {
                obstacle.into_iter().for_each(|obstacle| {
                    self.mistake(CommandError::Command(obstacle));
                });
            }
            Some(t) if !t.recipients.is_empty() && t.is_report != is_return => {
                self.say(452, "4.5.3", "a report goes in a transaction of its own");
            }
            Some(t) if t.recipients.len() >= most => {
                let text = format!(
                    "a mail has no more than {most} recipients here; send another to the rest"
                );
                self.reply(&SmtpReply::new(452, "4.5.3", text));
            }
            Some(t) => {
                t.is_report = is_return;
                t.recipients.push(recipient);
                self.say(250, "2.1.5", "recipient ok");
            }
        }
    }

    /// Why a message is not allowed; `None` if it is.
    pub(super) fn obstacle_to_message(&self) -> Option<SmtpReply> {
        match &self.transaction {
            None => Some(
                self.obstacle()
                    .unwrap_or_else(|| SmtpReply::new(503, "5.5.1", "MAIL comes first")),
            ),
            Some(t) if t.recipients.is_empty() => {
                Some(SmtpReply::new(554, "5.5.1", "there is no recipient"))
            }
            Some(_) => None,
        }
    }

    pub(super) fn data(&mut self, now: Timestamp) {
        if let Some(obstacle) = self.obstacle_to_message() {
            return self.mistake(CommandError::Command(obstacle));
        }
        if self
            .transaction
            .as_ref()
            .is_some_and(|t| t.chunks.is_some())
        {
            return self.mistake_of(
                503,
                "5.5.1",
                "a message that began with BDAT goes on with BDAT",
            );
        }

        self.expects = ExpectedInput::Data(DotReader::default(), self.begin_message(now));
        self.say(354, "", "go on; a line with a dot alone ends it");
    }

    /// One chunk (RFC 3030 §2). Its octets follow at once, so they are read even if the command is
    /// refused.
    pub(super) fn bdat(&mut self, left: usize, last: bool, now: Timestamp) {
        let begun = self.transaction.as_mut().and_then(|t| t.chunks.take());
        let body = match (begun, self.obstacle_to_message()) {
            (Some(body), _) => body,
            (None, None) => self.begin_message(now),
            (None, Some(reply)) => Body::refused(
                self.context.limits.message_size,
                self.context.budget.clone(),
                reply,
            ),
        };
        self.expects = ExpectedInput::Chunk { left, last, body };
    }

    pub(super) fn begin_message(&self, now: Timestamp) -> Body {
        let (size, smtputf8) = self
            .transaction
            .as_ref()
            .map_or((0, false), |t| (t.size, t.smtputf8));

        let mut body = Body::new(
            self.context.limits.message_size,
            size,
            self.context.budget.clone(),
        );

        let trace = Trace {
            client: self.client.as_ref().map_or("unknown", |c| &c.name),
            extended: self.client.as_ref().is_none_or(|c| c.extended),
            peer: self.peer,
            hostname: &self.context.hostname,
            tls: self.security == ConnectionSecurity::Tls,
            login: self.user.is_some(),
            smtputf8,
        };

        body.begin(trace.field(now).as_bytes());
        body
    }

    /// Waits for more of a message, unless it is refused and too long.
    pub(super) fn read_on(&mut self) -> Option<SessionStep> {
        let (ExpectedInput::Data(_, body) | ExpectedInput::Chunk { body, .. }) = &self.expects
        else {
            return None;
        };
        let Some(reply) = body.refusal().filter(|_| body.is_hopeless()).cloned() else {
            return Some(SessionStep::Read);
        };
        self.reply(&reply);
        self.closing = true;
        None
    }

    /// Handles the end of a message, or of one chunk.
    pub(super) fn message_ends(&mut self) -> Option<SessionStep> {
        self.commands += 1;
        let (body, last) = match std::mem::replace(&mut self.expects, ExpectedInput::SmtpCommand) {
            ExpectedInput::Data(_, body) => (body, true),
            ExpectedInput::Chunk { body, last, .. } => (body, last),
            ExpectedInput::SmtpCommand | ExpectedInput::Login(_) => return None,
        };

        // The same check as while it was received, so that the result does not depend on how the
        // bytes were split.
        self.closing |= body.is_hopeless();
        let refusal = body.refusal().cloned();
        match (refusal, self.transaction.take()) {
            (
                None,
                Some(MailTransaction {
                    return_path,
                    recipients,
                    is_report,
                    ..
                }),
            ) if last => {
                return Some(SessionStep::Submit(Submission {
                    return_path,
                    recipients,
                    body,
                    user: self.user.clone(),
                    is_report,
                }));
            }
            (refusal, Some(transaction)) if !last => {
                let text = format!("{} octets so far", body.came());
                self.transaction = Some(MailTransaction {
                    chunks: Some(body),
                    ..transaction
                });
                self.reply(&refusal.unwrap_or_else(|| SmtpReply::new(250, "2.0.0", text)));
            }
            (Some(reply), Some(_)) => self.reply(&reply),
            (Some(reply), None) => self.mistake(CommandError::Command(reply)),
            (None, _) => {}
        }

        None
    }
}

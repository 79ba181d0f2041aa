//! One open connection, and whether it may be used again.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use lettre::transport::smtp::client::AsyncSmtpConnection;

use super::Smtp;
use super::extensions::{self, Extensions};
use super::memory::Memory;
use super::reply::{ServerReply, nonsense};
use super::wire::{Unwritten, Wire};
use crate::delivery::{Outcome, Phase, TlsUse};
use crate::mail::{Address, MailId, ascii_header, seven_bit};
use crate::transport::{Connection, TimeOuts, Transaction};

/// How long a farewell may take.
const QUIT_TIMEOUT: Duration = Duration::from_secs(2);

/// A message of up to so many bytes is converted where it is; a larger one on a thread for such
/// work.
const CONVERTED_AT_ONCE: usize = 64 * 1024;

/// A connection that is greeted, secured and authenticated.
pub(super) struct SmtpConnection {
    pub(super) dialogue: AsyncSmtpConnection,
    pub(super) wire: Wire,
    pub(super) extensions: Extensions,
    pub(super) timeouts: TimeOuts,
    pub(super) memory: Arc<Memory>,
    /// Where the server is.
    peer: SocketAddr,
    /// How many more mails may be sent.
    pub(super) left: u32,
    /// The mail whose commands were sent behind the message before it.
    pub(super) begun: Option<MailId>,
    /// Those commands.
    pub(super) begun_commands: Vec<u8>,
    /// Whether a mail was put to it before.
    was_used: bool,
    /// Whether the server still holds an envelope that came to nothing.
    pub(super) needs_reset: bool,
    /// What is to be written next; kept for its memory.
    pub(super) out: Vec<u8>,
    /// False while a mail is being sent, so that a send that was dropped midway leaves it so, and
    /// for ever after a failure.
    in_step: bool,
}

impl SmtpConnection {
    pub(super) fn new(
        dialogue: AsyncSmtpConnection,
        wire: Wire,
        extensions: Extensions,
        smtp: &Smtp,
        peer: SocketAddr,
    ) -> Self {
        SmtpConnection {
            dialogue,
            wire,
            extensions,
            timeouts: smtp.server.timeouts,
            memory: Arc::clone(&smtp.memory),
            peer,
            left: smtp.server.messages_per_connection,
            begun: None,
            begun_commands: Vec::new(),
            was_used: false,
            needs_reset: false,
            out: Vec::new(),
            in_step: true,
        }
    }

    /// Whether commands may be written before those ahead of them are answered.
    pub(super) fn may_pipeline(&self) -> bool {
        self.extensions.pipelining && !self.memory.wants_lock_step()
    }

    /// Reads the next reply. The error says why there is none; nothing can be read after it.
    pub(super) async fn answer(&mut self, time_limit: Duration) -> Result<ServerReply, String> {
        self.wire.wait_up_to(time_limit);
        let heard = self.dialogue.read_response().await;
        let reply = ServerReply::read(heard)
            .map_err(|error| self.wire.fault().unwrap_or_else(|| nonsense(&error)))?;
        Ok(match self.wire.code() {
            Some(code) => reply.with_code(code),
            None => reply,
        })
    }

    /// Sends a mail to the recipients whom the server can be told of; the others are refused here.
    async fn send_to_others(
        &mut self,
        mail: &Transaction,
        rest: &Transaction,
        next: Option<&Transaction>,
    ) -> Vec<Outcome> {
        let mut told = self.send(rest, next).await.into_iter();
        let recipients = mail.recipients.iter();
        let outcomes = recipients.map(|to| match to.is_ascii() {
            true => told.next().unwrap_or_else(no_verdict),
            false => extensions::needs_smtputf8(),
        });
        outcomes.collect()
    }

    /// Writes what is in `out`.
    pub(super) async fn write(&mut self, time_limit: Duration) -> Result<(), Unwritten> {
        self.wire.wait_up_to(time_limit);
        self.wire.write(&self.out).await
    }
}

fn no_verdict() -> Outcome {
    Outcome::InDoubt("no outcome was given".into())
}

#[async_trait]
impl Connection for SmtpConnection {
    async fn send(&mut self, mail: &Transaction, next: Option<&Transaction>) -> Vec<Outcome> {
        let unusable = |reason: &str| {
            let outcome = Outcome::Unavailable(Phase::MailFrom, reason.to_owned());
            vec![outcome; mail.recipients.len()]
        };

        if !self.is_usable() {
            return unusable("the connection is used up");
        }
        let converted = self.convert(mail).await;
        let mail = converted.as_ref().unwrap_or(mail);
        if self.begun.is_none()
            && let Some(rest) = self.extensions.without_utf8_recipients(mail)
        {
            return self.send_to_others(mail, &rest, next).await;
        }

        self.in_step = false;
        if self.begun.is_some() && !self.has_begun(mail) {
            return unusable("another mail was begun on this connection");
        }

        if self.begun.is_none()
            && let Some(refusal) = self.extensions.refuse(mail)
        {
            self.in_step = true;
            return vec![refusal; mail.recipients.len()];
        }

        let is_first = !self.was_used;
        self.was_used = true;
        self.left -= 1;
        let (outcomes, in_step) = self.transact(mail, next).await;

        self.in_step = in_step;
        // A server that breaks off before it has heard of any mail is not to be spoken to there.
        if let Some(Outcome::Unavailable(_, reason)) = outcomes.first().filter(|_| is_first) {
            self.memory.is_bad(self.peer, reason);
        }
        outcomes
    }

    async fn convert(&mut self, mail: &Transaction) -> Option<Transaction> {
        let header = self.extensions.wants_ascii_header(mail);
        let body = self.extensions.wants_seven_bit(mail);
        if self.begun.is_some() || !(header || body) {
            return None;
        }

        let message = mail.message.clone();
        let convert = move || {
            let message = if header {
                ascii_header(&message)?
            } else {
                message
            };
            match body {
                true => seven_bit(&message).or(header.then_some(message)),
                false => Some(message),
            }
        };
        let message = match mail.message.len() > CONVERTED_AT_ONCE {
            true => tokio::task::spawn_blocking(convert).await.ok()??,
            false => convert()?,
        };

        let recipients_need_it = !mail.recipients.iter().all(Address::is_ascii);
        Some(Transaction {
            eight_bit: mail.eight_bit && !message.is_ascii(),
            smtputf8: mail.smtputf8 && (!header || recipients_need_it),
            message,
            ..mail.clone()
        })
    }

    fn tls(&self) -> Option<TlsUse> {
        self.wire.tls()
    }

    fn is_usable(&self) -> bool {
        self.in_step && self.left > 0
    }

    async fn close(mut self: Box<Self>) {
        // A mail that was begun may have been answered with 354 already: QUIT would be its first
        // line, and a dot would deliver it empty. Hanging up is the only way out that sends
        // nothing.
        if self.in_step && self.begun.is_none() {
            self.wire.wait_up_to(QUIT_TIMEOUT);
            let _ = self.dialogue.quit().await;
        }
    }
}

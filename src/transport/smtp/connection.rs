//! One open connection: sends mails over it and knows whether it can be used again.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use lettre::transport::smtp::client::AsyncSmtpConnection;

use super::Smtp;
use super::connect::reason_of;
use super::extensions::{self, Extensions};
use super::memory::Memory;
use super::reply::{ServerReply, why_malformed};
use super::wire::{Wire, WriteFailure};
use crate::delivery::{Circumstances, Fault, Outcome, Phase, TlsUse};
use crate::mail::{Address, MailId, ascii_header, seven_bit};
use crate::transport::{AnnouncedLimits, Connection, TimeOuts, Transaction};

/// How long to wait for the answer to QUIT.
const QUIT_TIMEOUT: Duration = Duration::from_secs(2);

/// Messages up to this many bytes are converted on the async thread; larger ones on a blocking
/// thread.
const INLINE_CONVERSION: usize = 64 * 1024;

/// A connection after greeting, TLS and login.
pub(super) struct SmtpConnection {
    pub(super) dialogue: AsyncSmtpConnection,
    pub(super) wire: Wire,
    pub(super) extensions: Extensions,
    pub(super) timeouts: TimeOuts,
    pub(super) memory: Arc<Memory>,
    /// The server's address.
    peer: SocketAddr,
    /// How many more mails may be sent over this connection.
    pub(super) left: u32,
    /// The mail whose commands were already sent, right behind the previous message.
    pub(super) begun: Option<MailId>,
    /// The bytes of those commands.
    pub(super) begun_commands: Vec<u8>,
    /// Whether a mail was sent over it before.
    was_used: bool,
    /// Whether the server still holds the envelope of a mail that was not sent, so that RSET must
    /// come first.
    pub(super) needs_reset: bool,
    /// The buffer of bytes to write next; reused between mails.
    pub(super) out: Vec<u8>,
    /// False while a mail is being sent. It therefore stays false if a send is dropped midway, and
    /// it is never set again after a failure.
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
            left: extensions
                .limits
                .mails
                .unwrap_or(u32::MAX)
                .min(smtp.server.messages_per_connection),
            begun: None,
            begun_commands: Vec::new(),
            was_used: false,
            needs_reset: false,
            out: Vec::new(),
            in_step: true,
        }
    }

    /// Whether a command may be written before the previous one is answered.
    pub(super) fn may_pipeline(&self) -> bool {
        self.extensions.pipelining && !self.memory.must_await_each_reply()
    }

    /// Reads the next reply. The error says why there is none; the connection cannot be read after
    /// it.
    pub(super) async fn answer(&mut self, time_limit: Duration) -> Result<ServerReply, String> {
        self.wire.wait_up_to(time_limit);
        let heard = self.dialogue.read_response().await;
        let reply = ServerReply::read(heard)
            .map_err(|error| self.wire.fault().unwrap_or_else(|| why_malformed(&error)))?;
        Ok(match self.wire.code() {
            Some(code) => reply.with_code(code),
            None => reply,
        })
    }

    /// Sends `rest`, which is the mail with only the recipients for whom `goes` is true. The other
    /// recipients get the outcome `otherwise`. Returns the outcomes in the order of `goes`.
    async fn send_to_some(
        &mut self,
        rest: &Transaction,
        next: Option<&Transaction>,
        goes: impl Iterator<Item = bool> + Send,
        otherwise: fn() -> Outcome,
    ) -> Vec<Outcome> {
        let mut sent = self.send(rest, next).await.into_iter();
        let outcomes = goes.map(|goes| match goes {
            true => sent.next().unwrap_or_else(no_verdict),
            false => otherwise(),
        });
        outcomes.collect()
    }

    /// Writes the content of `out`.
    pub(super) async fn write(&mut self, time_limit: Duration) -> Result<(), WriteFailure> {
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

        // Without SMTPUTF8, send to the recipients whose addresses are in ASCII.
        if self.begun.is_none()
            && let Some(rest) = self.extensions.without_utf8_recipients(mail)
        {
            let goes = mail.recipients.iter().map(Address::is_ascii);
            let otherwise = extensions::needs_smtputf8;
            return self.send_to_some(&rest, next, goes, otherwise).await;
        }

        // Send to no more recipients at once than the server has announced.
        if self.begun.is_none()
            && let Some(goes) = self.extensions.limits.part(&mail.recipients)
        {
            let to = mail.recipients.iter().zip(&goes);
            let to = to.filter(|(_, goes)| **goes).map(|(to, _)| to.clone());
            let rest = mail.clone().for_recipients(to.collect());
            // The remaining recipients of this mail are sent next, before any other mail.
            let otherwise = extensions::has_no_room;
            return self
                .send_to_some(&rest, None, goes.into_iter(), otherwise)
                .await;
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
        // This server refuses every mail from us, so its address is tried last from now on.
        let circumstances = Circumstances {
            has_carried_mail: !is_first,
            ..Circumstances::default()
        };
        let is_the_relays = |one: &&Outcome| one.judge(circumstances).fault == Fault::Relay;
        if let Some(outcome) = outcomes.iter().find(is_the_relays) {
            self.memory.mark_bad(self.peer, &reason_of(outcome));
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
        let message = match mail.message.len() > INLINE_CONVERSION {
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

    fn announced(&self) -> AnnouncedLimits {
        self.extensions.limits
    }

    fn is_usable(&self) -> bool {
        self.in_step && self.left > 0
    }

    async fn close(mut self: Box<Self>) {
        // The next mail may already have been answered with 354. QUIT would then become the first
        // line of its message, and a dot would deliver it empty. Closing the connection is the only
        // way to send nothing.
        if self.in_step && self.begun.is_none() {
            self.wire.wait_up_to(QUIT_TIMEOUT);
            let _ = self.dialogue.quit().await;
        }
    }
}

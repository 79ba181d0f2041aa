//! HOW a mail leaves. A [`Transport`] opens connections to one relay; a [`Connection`] sends one
//! mail after another. The only caller is a sender actor (and `send_now`), which owns its
//! connection alone.
//!
//! *Invariants made here:* success is exactly what the relay said to the final dot; every wait has
//! a time-out; a connection that is out of step, timed out or broken is never used again; an
//! [`Outcome`] says truthfully whether the relay may have taken the mail.

#[cfg(feature = "providers")]
mod api;
mod capture;
pub mod dkim;
#[cfg(feature = "server")]
mod fetch;
#[cfg(feature = "providers")]
pub(crate) mod http;
#[cfg(feature = "providers")]
pub mod oauth2;
#[cfg(feature = "providers")]
mod reach;
mod relay;
mod server;
pub mod smtp;

#[cfg(feature = "providers")]
pub use api::{ApiServer, Credentials};
pub use capture::{Capture, Captured};
#[cfg(feature = "server")]
pub use fetch::{Fetch, PublicPages};
#[cfg(feature = "notify")]
pub(crate) use reach::Reach;
pub(crate) use relay::Kind;
pub use relay::{Relay, RelayError};
pub use server::{Auth, Security, Server, TimeOuts, TokenSource};

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use memchr::memmem;

use crate::delivery::{Outcome, TlsUse};
use crate::mail::{Address, MailId};

/// One mail for one connection, with those of its recipients that go together.
#[derive(Clone, Debug)]
pub struct Transaction {
    /// The mail's name, for logs.
    pub mail: MailId,
    /// The envelope's sender; `None` for the null reverse-path.
    pub return_path: Option<Address>,
    /// The recipients; never empty.
    pub recipients: Vec<Address>,
    /// The frozen message.
    pub message: Bytes,
    /// Whether it needs 8BITMIME (RFC 6152).
    pub eight_bit: bool,
    /// Whether it needs SMTPUTF8 (RFC 6531).
    pub smtputf8: bool,
    /// Whether it is not to be sent after all: to be asked right before the end of the message is
    /// written.
    pub recall: Recall,
}

impl Transaction {
    /// The same for these recipients. It needs SMTPUTF8 only if one of them does, or all would.
    pub(crate) fn for_recipients(mut self, recipients: Vec<Address>) -> Transaction {
        self.smtputf8 = self.smtputf8
            && (!recipients.iter().all(Address::is_ascii) || self.needs_smtputf8_for_all());
        self.recipients = recipients;
        self
    }

    /// Whether SMTPUTF8 is needed whoever the recipients are: for the return path, or for the
    /// header section.
    fn needs_smtputf8_for_all(&self) -> bool {
        !self.has_ascii_return_path() || !self.has_ascii_header()
    }

    pub(crate) fn has_ascii_return_path(&self) -> bool {
        self.return_path.as_ref().is_none_or(Address::is_ascii)
    }

    pub(crate) fn has_ascii_header(&self) -> bool {
        let header = match memmem::find(&self.message, b"\r\n\r\n") {
            Some(end) => &self.message[..end],
            None => &self.message,
        };
        header.is_ascii()
    }
}

/// Cancels a mail that a connection is sending, until the end of its message is written.
#[derive(Clone, Default)]
pub struct Recall(Option<Arc<dyn Fn() -> bool + Send + Sync>>);

impl Recall {
    /// The mail is recalled while this says so.
    pub fn when(recalled: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        Recall(Some(Arc::new(recalled)))
    }

    /// Whether the mail is not to be sent. Then its outcome is [`Outcome::Withdrawn`], and the
    /// connection is not usable.
    pub fn is_recalled(&self) -> bool {
        self.0.as_ref().is_some_and(|recalled| recalled())
    }
}

impl fmt::Debug for Recall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Recall({})", self.is_recalled())
    }
}

/// What a server takes, as it says beforehand (LIMITS, RFC 9422 §4); `None` where it does not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AnnouncedLimits {
    /// Transactions in one session.
    pub mails: Option<u32>,
    /// Recipients in one transaction.
    pub recipients: Option<u32>,
    /// Domains of the recipients in one transaction.
    pub domains: Option<u32>,
}

/// A way to reach one relay.
#[async_trait]
pub trait Transport: Send + Sync + 'static {
    /// Opens a connection that is ready to send: greeted, secured and authenticated.
    ///
    /// # Errors
    /// Always an [`Outcome::Unavailable`]: before a mail is in question, only the relay can be at
    /// fault.
    async fn connect(&self) -> Result<Box<dyn Connection>, Outcome>;
}

/// One open connection to a relay.
#[async_trait]
pub trait Connection: Send {
    /// Sends one mail and returns one outcome for each recipient, in order.
    ///
    /// `next` is the mail that will be sent after this one. A connection that can pipeline may
    /// begin it while this one is still being answered (RFC 2920 §3.1); the caller then either
    /// sends exactly that mail next, or closes.
    ///
    /// A reused connection that turns out to be closed before MAIL was answered gives
    /// [`Outcome::Unavailable`] for every recipient: the caller opens another and sends again, and
    /// nothing was lost.
    async fn send(&mut self, mail: &Transaction, next: Option<&Transaction>) -> Vec<Outcome>;

    /// The mail as it is sent over this connection, where that is not as it is: whoever signs it
    /// asks first.
    async fn convert(&mut self, _mail: &Transaction) -> Option<Transaction> {
        None
    }

    /// How it is secured; `None` where it is not, or where that is not known.
    fn tls(&self) -> Option<TlsUse> {
        None
    }

    /// What the server said beforehand that it takes.
    fn announced(&self) -> AnnouncedLimits {
        AnnouncedLimits::default()
    }

    /// Whether another mail may be sent over it. False after an error, after 421, and once
    /// `messages_per_connection` were sent.
    fn is_usable(&self) -> bool;

    /// Says QUIT, briefly, and closes.
    async fn close(self: Box<Self>);
}

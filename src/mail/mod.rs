//! The mail that is sent: message, envelope, options. Pure: no I/O, and a mail never changes after
//! it is built.
//!
//! Every listener makes a [`Mail`] in one of three ways: [`Mail::builder`], [`Mail::from_lettre`],
//! [`Mail::from_rfc5322`]. All three end in `freeze`, which ensures the *invariant* of this layer:
//! the bytes are valid RFC 5322 with CRLF line ends, a Message-ID and a Date, and never change;
//! every attempt sends the same bytes.

mod address;
mod address_list;
mod addressees;
mod characters;
mod compose;
mod content;
mod directives;
mod envelope;
mod error;
mod field;
mod findings;
mod fingerprint;
mod freeze;
mod header;
mod id;
mod mailbox;
mod mending;
mod mime;
mod options;
mod reading;
mod span;
mod structured;
mod subject;
mod submitter;
mod time;

pub use address::{Address, AddressError};
pub use addressees::Addressees;
pub(crate) use characters::is_harmless;
#[cfg(feature = "templates")]
pub(crate) use characters::is_invisible;
#[cfg(feature = "server")]
pub(crate) use compose::is_list_name;
pub use compose::{Alternative, Attachment, MailBuilder};
pub use content::{Content, TemplateUse};
pub use directives::take_directives;
pub use envelope::{Envelope, MAX_RECIPIENTS};
pub use error::MailError;
pub use id::{MailId, MailIdError};
pub use mending::{Intake, ascii_header, seven_bit};
pub use options::{Guarantee, Options, Priority, UnknownName, When};
#[cfg(feature = "server")]
pub(crate) use reading::beginning;
pub(crate) use reading::has_too_many_pieces;
#[cfg(any(feature = "providers", feature = "server"))]
pub(crate) use reading::parse as parsed;
pub use reading::{HeaderField, Part, PartInfo, Reading};
pub use span::{EXPECTED as SPAN_EXPECTED, parse_span, parse_span_with_unit};
pub use submitter::{Submitter, SubmitterError};
pub use time::{Timestamp, TimestampError, days, hours, minutes, seconds};

use bytes::Bytes;

/// One mail: envelope, frozen message and options.
///
/// A clone is the same mail: if it is unknown whether a mail was accepted, submitting it again does
/// not send it twice.
#[derive(Clone, Debug)]
pub struct Mail {
    id: MailId,
    envelope: Envelope,
    options: Options,
    message: freeze::FrozenMessage,
    /// The fingerprint of everything except the options. `None` to use the message's own, which is
    /// computed only if there is an idempotency key.
    content: Option<u128>,
    template: Option<TemplateUse>,
    /// Notes about what was mended in the submitted message.
    mended: Vec<String>,
}

impl Mail {
    /// Starts composing a mail from its parts.
    pub fn builder() -> MailBuilder {
        MailBuilder::default()
    }

    /// Makes a mail of a finished message and its envelope.
    ///
    /// Line ends become CRLF; a missing Date or Message-ID is added, and a missing From if there is
    /// a return path; Bcc is removed. Mistakes of other programs are mended, as [`Mail::mended`]
    /// reports: non-ASCII characters in the header section, lines that are too long, a missing
    /// empty line after the header section, undeclared 8-bit text, and more. A message that needs
    /// none of this is not even copied, and the header section of a signed message is not mended.
    ///
    /// # Errors
    /// The error names the field (`headers.NAME`, `from`, `body`): a header section that is not
    /// valid RFC 5322, a field that occurs twice and may not, a header line of more than 998 bytes
    /// that cannot be folded, a CR or a control character in a header line, a NUL that no encoding
    /// can carry.
    pub fn from_rfc5322(envelope: Envelope, message: impl Into<Bytes>) -> Result<Self, MailError> {
        let intake = Intake::default();
        let mended = mending::mend(message.into(), &envelope, intake);
        Mail::from_mended(envelope, mended.message, mended.acts, intake)
    }

    /// Makes a mail of a message that another program has written, as the listeners do. Also
    /// returns the options from its `X-Postrider-*` fields, to be passed to [`Mail::with_options`].
    ///
    /// # Errors
    /// The same as [`Mail::from_rfc5322`] and [`take_directives`].
    pub fn handed_in(
        envelope: Envelope,
        message: impl Into<Bytes>,
        intake: Intake<'_>,
    ) -> Result<(Self, Options), MailError> {
        let mended = mending::mend(message.into(), &envelope, intake);
        let (message, asked) = take_directives(mended.message)?;
        let mail = Mail::from_mended(envelope, message, mended.acts, intake)?;
        Ok((mail, asked))
    }

    fn from_mended(
        envelope: Envelope,
        message: Bytes,
        mut mended: Vec<String>,
        intake: Intake<'_>,
    ) -> Result<Self, MailError> {
        let id = MailId::generate();
        // The sender of a message with neither From nor return path.
        let daemon = intake
            .domain
            .or(intake.host)
            .and_then(|domain| Address::parse(&format!("MAILER-DAEMON@{domain}")).ok());

        let sender = envelope.return_path().or(daemon.as_ref());
        let message = freeze::freeze(message, sender, id)?;
        mended.extend(
            message
                .made
                .iter()
                .map(|name| format!("{name}: added, because there was none")),
        );

        Ok(Mail {
            id,
            envelope,
            options: Options::default(),
            message,
            content: None,
            template: None,
            mended,
        })
    }

    /// Makes a mail of a message that was built with lettre, with lettre's envelope.
    ///
    /// # Errors
    /// The same as [`Mail::from_rfc5322`].
    pub fn from_lettre(message: &lettre::Message) -> Result<Self, MailError> {
        compose::from_lettre(message)
    }

    /// The same mail with this id, which the caller already knows.
    pub(crate) fn named(mut self, id: MailId) -> Self {
        self.id = id;
        self
    }

    /// The same mail with these options.
    ///
    /// # Errors
    /// A tag or an idempotency key that is empty, too long, or has a control character; more than
    /// 20 tags; a mail that would expire before it may be sent.
    pub fn with_options(mut self, options: Options) -> Result<Self, MailError> {
        compose::check_options(&options)?;
        self.options = options;
        // Computed here, because callers do this for large messages outside the async workers.
        if self.options.idempotency_key.is_some() {
            self.content = Some(self.content());
        }
        Ok(self)
    }

    /// Its id; it never changes.
    pub fn id(&self) -> MailId {
        self.id
    }

    /// Return path and recipients.
    pub fn envelope(&self) -> &Envelope {
        &self.envelope
    }

    /// The options.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// The template that it was made from.
    pub fn template(&self) -> Option<&TemplateUse> {
        self.template.as_ref()
    }

    /// The frozen message: header section and body, with CRLF line ends.
    pub fn message(&self) -> &Bytes {
        &self.message.bytes
    }

    /// All addresses in From and Sender.
    pub(crate) fn authors(&self) -> Result<Vec<Address>, MailError> {
        Addressees::authors_of(&self.message.bytes, "localhost")
    }

    /// The Message-ID, with its angle brackets.
    pub fn message_id(&self) -> &str {
        &self.message.message_id
    }

    /// The decoded Subject; empty if there is none.
    pub fn subject(&self) -> &str {
        &self.message.subject
    }

    /// Whether the message has bytes above 127, so that it needs 8BITMIME (RFC 6152).
    pub fn is_eight_bit(&self) -> bool {
        self.message.eight_bit
    }

    /// Whether it needs SMTPUTF8 (RFC 6531): an address or the header section has non-ASCII
    /// characters.
    pub fn needs_smtputf8(&self) -> bool {
        self.message.utf8_header
            || !self
                .envelope
                .recipients()
                .iter()
                .chain(self.envelope.return_path())
                .all(Address::is_ascii)
    }

    /// Notes about what was changed in the message to conform to RFC 5322; usually empty.
    pub fn mended(&self) -> &[String] {
        &self.mended
    }

    /// Equal for two mails with the same content and options, even if Date, Message-ID and MIME
    /// boundaries differ. The idempotency key does not count, nor do absolute points in time, which
    /// a caller may compute anew.
    pub fn fingerprint(&self) -> u128 {
        fingerprint::with_options(self.content(), &self.options)
    }

    fn content(&self) -> u128 {
        self.content
            .unwrap_or_else(|| fingerprint::of_message(&self.envelope, &self.message.bytes))
    }
}

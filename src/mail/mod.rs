//! WHAT is sent. Pure: nothing here does I/O, and nothing here changes after a mail is built.
//!
//! Every door makes a [`Mail`] by one of three ways: [`Mail::builder`], [`Mail::from_lettre`],
//! [`Mail::from_rfc5322`]. All three end in `freeze`, which is where the invariant of this layer is
//! made: *the bytes are valid RFC 5322 with CRLF line ends, a Message-ID and a Date, and never
//! change again*; every retry sends the same bytes.

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

/// One mail: its envelope, its frozen message and what its sender asks for.
///
/// A clone is the same mail: whoever does not know whether it was accepted submits it once more,
/// and it is sent once.
#[derive(Clone, Debug)]
pub struct Mail {
    id: MailId,
    envelope: Envelope,
    options: Options,
    message: freeze::FrozenMessage,
    /// The fingerprint of all but the options. `None` where it is the message's own, which is
    /// computed only where a key asks for it.
    content: Option<u128>,
    template: Option<TemplateUse>,
    /// What was done to the message as it was submitted.
    mended: Vec<String>,
}

impl Mail {
    /// Starts composing a mail from its parts.
    pub fn builder() -> MailBuilder {
        MailBuilder::default()
    }

    /// Takes a message that is already written, with the envelope that it is to be sent under.
    ///
    /// Line ends become CRLF; a Date and a Message-ID are added where they are missing, and a From
    /// where there is none but a return path; Bcc is removed. What other programs write wrong is
    /// mended, as [`Mail::mended`] tells: characters beyond ASCII in the header section, lines that
    /// are too long, a header section that no empty line ends, 8-bit text that nothing calls so,
    /// and more. A message that needs none of this is not even copied, and the header section of a
    /// signed one is not mended.
    ///
    /// # Errors
    /// Names the field (`headers.NAME`, `from`, `body`): a header section that is not valid RFC
    /// 5322, a field that stands there twice and may not, a header line of more than 998 bytes that
    /// cannot be folded, a CR within a header line, a control character in it, a NUL that no
    /// encoding can carry.
    pub fn from_rfc5322(envelope: Envelope, message: impl Into<Bytes>) -> Result<Self, MailError> {
        let intake = Intake::default();
        let mended = mending::mend(message.into(), &envelope, intake);
        Mail::of_mended(envelope, mended.message, mended.acts, intake)
    }

    /// Takes a message that another program has written, as a door does: what its `X-Postrider-*`
    /// fields ask for comes back beside the mail, and is for [`Mail::with_options`].
    ///
    /// # Errors
    /// As [`Mail::from_rfc5322`] and [`take_directives`].
    pub fn handed_in(
        envelope: Envelope,
        message: impl Into<Bytes>,
        intake: Intake<'_>,
    ) -> Result<(Self, Options), MailError> {
        let mended = mending::mend(message.into(), &envelope, intake);
        let (message, asked) = take_directives(mended.message)?;
        let mail = Mail::of_mended(envelope, message, mended.acts, intake)?;
        Ok((mail, asked))
    }

    fn of_mended(
        envelope: Envelope,
        message: Bytes,
        mut mended: Vec<String>,
        intake: Intake<'_>,
    ) -> Result<Self, MailError> {
        let id = MailId::generate();
        // Who a message without a sender and without a return path is from.
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
                .map(|name| format!("{name}: made, as there was none")),
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

    /// Takes a message that was built with lettre, with the envelope that lettre derived.
    ///
    /// # Errors
    /// As [`Mail::from_rfc5322`].
    pub fn from_lettre(message: &lettre::Message) -> Result<Self, MailError> {
        compose::from_lettre(message)
    }

    /// The same mail under this name, which it was promised under.
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
        // Now, since whoever hands a large message in does this off the workers that serve others.
        if self.options.idempotency_key.is_some() {
            self.content = Some(self.content());
        }
        Ok(self)
    }

    /// Its name, from now on and for ever.
    pub fn id(&self) -> MailId {
        self.id
    }

    /// Who it is from and for.
    pub fn envelope(&self) -> &Envelope {
        &self.envelope
    }

    /// What its sender asks for.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// The template that it was made from.
    pub fn template(&self) -> Option<&TemplateUse> {
        self.template.as_ref()
    }

    /// The frozen message: header section and body, CRLF line ends.
    pub fn message(&self) -> &Bytes {
        &self.message.bytes
    }

    /// Everybody whom its header names in From and Sender.
    pub(crate) fn authors(&self) -> Result<Vec<Address>, MailError> {
        Addressees::authors_of(&self.message.bytes, "localhost")
    }

    /// The Message-ID, with its angle brackets.
    pub fn message_id(&self) -> &str {
        &self.message.message_id
    }

    /// The Subject as a person reads it; empty where there is none.
    pub fn subject(&self) -> &str {
        &self.message.subject
    }

    /// Whether the message has bytes above 127, and so needs 8BITMIME (RFC 6152).
    pub fn is_eight_bit(&self) -> bool {
        self.message.eight_bit
    }

    /// Whether it needs SMTPUTF8 (RFC 6531): an address or the header section has characters beyond
    /// ASCII.
    pub fn needs_smtputf8(&self) -> bool {
        self.message.utf8_header
            || !self
                .envelope
                .recipients()
                .iter()
                .chain(self.envelope.return_path())
                .all(Address::is_ascii)
    }

    /// What was done to the message, so that it is as RFC 5322 wants it; empty for nearly all.
    pub fn mended(&self) -> &[String] {
        &self.mended
    }

    /// Equal for two mails that ask for the same thing, whatever Date, Message-ID and MIME
    /// boundaries they were given. The idempotency key does not count, nor do points in time that a
    /// caller computes anew.
    pub fn fingerprint(&self) -> u128 {
        fingerprint::with_options(self.content(), &self.options)
    }

    fn content(&self) -> u128 {
        self.content
            .unwrap_or_else(|| fingerprint::of_message(&self.envelope, &self.message.bytes))
    }
}

//! Composes a mail from its parts: the builder, and the way in for lettre's own messages.

use std::time::Duration;

use bytes::Bytes;

use super::{Guarantee, Mail, MailError, Options, Priority, Timestamp, When};

/// A file that goes with a mail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// The name that the reader sees.
    pub filename: String,
    /// Its media type, such as `application/pdf`.
    pub content_type: String,
    /// Its bytes.
    pub content: Bytes,
    /// For an image inside the HTML: the id that `<img src="cid:…">` names.
    pub inline_id: Option<String>,
}

/// Composes a [`Mail`]. Every error is reported by [`build`](MailBuilder::build).
#[derive(Clone, Debug, Default)]
pub struct MailBuilder {
    from: Option<String>,
    to: Vec<String>,
    cc: Vec<String>,
    bcc: Vec<String>,
    reply_to: Vec<String>,
    return_path: Option<String>,
    subject: Option<String>,
    text: Option<String>,
    html: Option<String>,
    headers: Vec<(String, String)>,
    attachments: Vec<Attachment>,
    options: Options,
}

impl MailBuilder {
    /// Who it is from: `shop@example.com` or `Shop <shop@example.com>`.
    pub fn from(mut self, mailbox: impl Into<String>) -> Self {
        self.from = Some(mailbox.into());
        self
    }

    /// Adds a recipient.
    pub fn to(mut self, mailbox: impl Into<String>) -> Self {
        self.to.push(mailbox.into());
        self
    }

    /// Adds a recipient of a copy.
    pub fn cc(mut self, mailbox: impl Into<String>) -> Self {
        self.cc.push(mailbox.into());
        self
    }

    /// Adds a recipient whom the others do not see.
    pub fn bcc(mut self, mailbox: impl Into<String>) -> Self {
        self.bcc.push(mailbox.into());
        self
    }

    /// Adds an address for answers.
    pub fn reply_to(mut self, mailbox: impl Into<String>) -> Self {
        self.reply_to.push(mailbox.into());
        self
    }

    /// Where bounces go, if not to `from`.
    pub fn return_path(mut self, address: impl Into<String>) -> Self {
        self.return_path = Some(address.into());
        self
    }

    /// The subject.
    pub fn subject(mut self, subject: impl Into<String>) -> Self {
        self.subject = Some(subject.into());
        self
    }

    /// The body as plain text. With [`html`](Self::html) too, the reader's program chooses.
    pub fn text(mut self, text: impl Into<String>) -> Self {
        self.text = Some(text.into());
        self
    }

    /// The body as HTML.
    pub fn html(mut self, html: impl Into<String>) -> Self {
        self.html = Some(html.into());
        self
    }

    /// Adds a header field of your own.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Adds a file, or an inline image where it has an `inline_id`.
    pub fn attachment(mut self, attachment: Attachment) -> Self {
        self.attachments.push(attachment);
        self
    }

    /// How urgent it is.
    pub fn priority(mut self, priority: Priority) -> Self {
        self.options.priority = priority;
        self
    }

    /// Not to be sent before this time.
    pub fn send_at(mut self, at: Timestamp) -> Self {
        self.options.send = Some(When::At(at));
        self
    }

    /// Not to be sent before this long after accept.
    pub fn delay(mut self, span: Duration) -> Self {
        self.options.send = Some(When::In(span));
        self
    }

    /// Worthless this long after accept: it becomes dead as `expired`.
    pub fn expires_in(mut self, span: Duration) -> Self {
        self.options.expires = Some(When::In(span));
        self
    }

    /// Worthless after this time.
    pub fn expires_at(mut self, at: Timestamp) -> Self {
        self.options.expires = Some(When::At(at));
        self
    }

    /// Two mails with one key are one mail, across restarts.
    pub fn idempotency_key(mut self, key: impl Into<String>) -> Self {
        self.options.idempotency_key = Some(key.into());
        self
    }

    /// Adds a word to find it by, and for routes to match.
    pub fn tag(mut self, tag: impl Into<String>) -> Self {
        self.options.tags.push(tag.into());
        self
    }

    /// What to do when it cannot be known whether a server took it.
    pub fn guarantee(mut self, guarantee: Guarantee) -> Self {
        self.options.guarantee = guarantee;
        self
    }

    /// Composes and freezes the mail, with a Message-ID and a Date.
    ///
    /// # Errors
    /// Names the field that is wrong: an address, a header with CR or LF, no recipient, neither text nor html …
    pub fn build(self) -> Result<Mail, MailError> {
        unimplemented!()
    }
}

pub(super) fn from_lettre(message: &lettre::Message) -> Result<Mail, MailError> {
    let _ = message;
    unimplemented!()
}

pub(super) fn check_options(options: &Options) -> Result<(), MailError> {
    let _ = options;
    unimplemented!()
}

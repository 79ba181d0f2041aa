//! Composes a mail from its parts ([`MailBuilder`]), or takes one that was composed with lettre.

use std::time::Duration;

use bytes::Bytes;

use super::fingerprint::{self, PartHasher};
use super::mailbox::Mailbox;
use super::mime::Parts;
use super::{
    Address, Content, Envelope, Guarantee, Intake, Mail, MailError, MailId, Options, Priority,
    TemplateUse, Timestamp, When,
};
use super::{field, freeze, structured};

/// The most tags of a mail, and the most characters of each.
const MAX_TAGS: usize = 20;
const MAX_TAG: usize = 64;
/// The most characters of an idempotency key.
const MAX_KEY: usize = 255;
/// The most characters of a list's name.
const MAX_LIST: usize = 100;
/// The most bytes of a field's name.
const MAX_NAME: usize = 76;

/// The fields that are made from the builder's own settings, or that trace a mail's path.
const RESERVED_FIELDS: [&str; 17] = [
    "From",
    "To",
    "Cc",
    "Bcc",
    "Reply-To",
    "Subject",
    "MIME-Version",
    "Return-Path",
    "Received",
    "Resent-Bcc",
    "Delivered-To",
    "Content-Type",
    "Content-Transfer-Encoding",
    "Content-Disposition",
    "Content-ID",
    "Content-MD5",
    "Content-Length",
];

/// A file that is attached to a mail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// The name of the file, as the recipient sees it.
    pub filename: String,
    /// Its media type, such as `application/pdf`.
    pub content_type: String,
    /// The content.
    pub content: Bytes,
    /// For an image inside the HTML: the id that `<img src="cid:…">` names.
    pub inline_id: Option<String>,
}

/// The same content in another form, such as an invitation for calendars.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alternative {
    /// Its media type, such as `text/calendar; method=REQUEST`.
    pub content_type: String,
    /// The content; text in UTF-8.
    pub content: Bytes,
}

/// Composes a [`Mail`]. All errors are returned by [`build`](MailBuilder::build).
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
    alternatives: Vec<Alternative>,
    attachments: Vec<Attachment>,
    options: Options,
    /// The template that made subject, text and HTML, and the fingerprint of the request.
    template: Option<(TemplateUse, u128)>,
}

impl MailBuilder {
    /// Sets the sender: `shop@example.com` or `Shop <shop@example.com>`.
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

    /// Adds a recipient whom the other recipients do not see.
    pub fn bcc(mut self, mailbox: impl Into<String>) -> Self {
        self.bcc.push(mailbox.into());
        self
    }

    /// Adds an address for replies.
    pub fn reply_to(mut self, mailbox: impl Into<String>) -> Self {
        self.reply_to.push(mailbox.into());
        self
    }

    /// Sets the address for bounces, if it is not `from`; `<>` for mail that must not bounce (RFC
    /// 5321 §4.5.5).
    pub fn return_path(mut self, address: impl Into<String>) -> Self {
        self.return_path = Some(address.into());
        self
    }

    /// Sets the subject.
    pub fn subject(mut self, subject: impl Into<String>) -> Self {
        self.subject = Some(subject.into());
        self
    }

    /// Sets the body as plain text. If there is [`html`](Self::html) as well, the recipient's
    /// program chooses.
    pub fn text(mut self, text: impl Into<String>) -> Self {
        self.text = Some(text.into());
        self
    }

    /// Sets the body as HTML.
    pub fn html(mut self, html: impl Into<String>) -> Self {
        self.html = Some(html.into());
        self
    }

    /// Sets subject, HTML and text from a rendered template. A subject that is set afterwards
    /// replaces the template's.
    pub fn content(mut self, content: Content) -> Self {
        let Content {
            subject,
            html,
            text,
            template,
            request,
        } = content;
        self.subject = subject.or(self.subject);
        self.html = html;
        self.text = text;
        self.template = Some((template, request));
        self
    }

    /// Adds a header field. A `Date` or a `Message-ID` replaces the generated one.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Adds the same content in another form, after text and HTML: a reader shows the last form
    /// that it supports (RFC 2046 §5.1.4).
    pub fn alternative(mut self, alternative: Alternative) -> Self {
        self.alternatives.push(alternative);
        self
    }

    /// Adds a file, or an inline image if it has an `inline_id`.
    pub fn attachment(mut self, attachment: Attachment) -> Self {
        self.attachments.push(attachment);
        self
    }

    /// Sets the priority.
    pub fn priority(mut self, priority: Priority) -> Self {
        self.options.priority = priority;
        self
    }

    /// Sets the earliest time at which it is sent.
    pub fn send_at(mut self, at: Timestamp) -> Self {
        self.options.send = Some(When::At(at));
        self
    }

    /// Delays sending until this long after acceptance.
    pub fn delay(mut self, span: Duration) -> Self {
        self.options.send = Some(When::In(span));
        self
    }

    /// Sets how long after acceptance it expires: deliveries that are not finished by then are dead
    /// as `expired`.
    pub fn expires_in(mut self, span: Duration) -> Self {
        self.options.expires = Some(When::In(span));
        self
    }

    /// Sets the time at which it expires.
    pub fn expires_at(mut self, at: Timestamp) -> Self {
        self.options.expires = Some(When::At(at));
        self
    }

    /// Sets the idempotency key: two mails with the same key are one mail, even across restarts.
    pub fn idempotency_key(mut self, key: impl Into<String>) -> Self {
        self.options.idempotency_key = Some(key.into());
        self
    }

    /// Adds a tag, for searching and for routes.
    pub fn tag(mut self, tag: impl Into<String>) -> Self {
        self.options.tags.push(tag.into());
        self
    }

    /// Sets the mailing list that it belongs to, such as `news`: its recipients can unsubscribe
    /// from that list and still get other mail.
    pub fn list(mut self, list: impl Into<String>) -> Self {
        self.options.list = Some(list.into());
        self
    }

    /// Sets what to do if it is unknown whether a server accepted it.
    pub fn guarantee(mut self, guarantee: Guarantee) -> Self {
        self.options.guarantee = guarantee;
        self
    }

    /// Composes and freezes the mail, with a Message-ID and a Date.
    ///
    /// # Errors
    /// The error names the wrong field: an address (`to[1]`), a header with CR or LF
    /// (`headers.X-Id`), no recipient, neither text nor HTML nor a file, a media type
    /// (`attachments[0].content_type`), a tag …
    pub fn build(self) -> Result<Mail, MailError> {
        check_options(&self.options)?;
        let from = self
            .from
            .as_deref()
            .ok_or_else(|| MailError::new("from", "the mail has no sender"))?;
        let from = Mailbox::parse(from).map_err(|reason| MailError::new("from", reason))?;
        let to = mailboxes("to", &self.to)?;
        let cc = mailboxes("cc", &self.cc)?;
        let bcc = mailboxes("bcc", &self.bcc)?;
        let reply_to = mailboxes("reply_to", &self.reply_to)?;

        let return_path = match self.return_path.as_deref().map(str::trim) {
            None => Some(from.address.clone()),
            Some("" | "<>") => None,
            Some(path) => {
                Some(Address::read(path).map_err(|reason| MailError::new("return_path", reason))?)
            }
        };

        if self
            .subject
            .as_ref()
            .is_some_and(|subject| subject.chars().any(char::is_control))
        {
            return Err(MailError::new(
                "subject",
                "has a line break or another control character",
            ));
        }

        self.headers
            .iter()
            .try_for_each(|(name, value)| check_header(name, value))?;
        let recipients = [&to, &cc, &bcc]
            .into_iter()
            .flatten()
            .map(|mailbox| mailbox.address.clone())
            .collect();
        let envelope = Envelope::new(return_path, recipients)?;
        let content = self.fingerprint(&envelope);
        let id = MailId::generate();

        let mut header = String::with_capacity(1024);
        field::write_mailboxes(&mut header, "From", std::slice::from_ref(&from));
        field::write_mailboxes(&mut header, "To", &to);
        field::write_mailboxes(&mut header, "Cc", &cc);
        field::write_mailboxes(&mut header, "Reply-To", &reply_to);
        if let Some(subject) = &self.subject {
            field::write_text(&mut header, "Subject", subject);
        }

        let given = |name: &str| {
            self.headers
                .iter()
                .any(|(given, _)| given.eq_ignore_ascii_case(name))
        };

        if !given("Date") {
            header.push_str(&format!("Date: {}\r\n", Timestamp::now().to_rfc5322()));
        }
        if !given("Message-ID") {
            header.push_str(&format!(
                "Message-ID: {}\r\n",
                freeze::message_id(id, Some(from.address.domain()))
            ));
        }

        for (name, value) in &self.headers {
            structured::write(&mut header, name, value)
                .map_err(|reason| MailError::new(format!("headers.{name}"), reason))?;
        }

        header.push_str("MIME-Version: 1.0\r\n");
        let mut message = header.into_bytes();
        message.append(
            &mut Parts {
                text: self.text,
                html: self.html,
                alternatives: self.alternatives,
                attachments: self.attachments,
            }
            .format()?,
        );

        let message = freeze::freeze(message.into(), envelope.return_path(), id)
            .map_err(with_builder_name)?;
        Ok(Mail {
            id,
            envelope,
            options: self.options,
            message,
            content: Some(content),
            template: self.template.map(|(template, _)| template),
            mended: Vec::new(),
        })
    }

    /// The fingerprint of the builder's settings, so that it does not change when another version
    /// composes the message differently.
    fn fingerprint(&self, envelope: &Envelope) -> u128 {
        let mut print = PartHasher::new();
        print.envelope(envelope);
        print
            .add_addresses(self.from.as_slice())
            .add_addresses(&self.to)
            .add_addresses(&self.cc)
            .add_addresses(&self.reply_to);

        match &self.template {
            // The template may change before a request is repeated, so its output does not count.
            Some((template, request)) => print.add(&template.name).add(request.to_le_bytes()),
            None => print
                .add_all(self.subject.iter())
                .add_all(self.text.iter())
                .add_all(self.html.iter()),
        };

        let headers = self
            .headers
            .iter()
            .filter(|(name, _)| !fingerprint::is_made_anew(name));

        headers.for_each(|(name, value)| {
            print.add(name).add(value);
        });
        for alternative in &self.alternatives {
            print
                .add("alternative")
                .add(&alternative.content_type)
                .add(&alternative.content);
        }

        for attachment in &self.attachments {
            print
                .add(&attachment.filename)
                .add(&attachment.content_type)
                .add(&attachment.content);
            print.add_all(attachment.inline_id.iter());
        }

        print.finish()
    }
}

pub(super) fn from_lettre(message: &lettre::Message) -> Result<Mail, MailError> {
    let envelope = Envelope::from_lettre(message.envelope())?;
    // lettre's message is not mended: a line in it that is no field was meant to be one, and is an
    // error.
    let message = message.formatted().into();
    Mail::from_mended(envelope, message, Vec::new(), Intake::default())
}

pub(super) fn check_options(options: &Options) -> Result<(), MailError> {
    if options.tags.len() > MAX_TAGS {
        return Err(MailError::new(
            "tags",
            format!(
                "there are {}; at most {MAX_TAGS} are allowed",
                options.tags.len()
            ),
        ));
    }

    for (i, tag) in options.tags.iter().enumerate() {
        check_word(tag, MAX_TAG).map_err(|reason| MailError::new(format!("tags[{i}]"), reason))?;
    }
    if let Some(key) = &options.idempotency_key {
        check_word(key, MAX_KEY).map_err(|reason| MailError::new("idempotency_key", reason))?;
    }

    if let Some(list) = &options.list
        && !is_list_name(list)
    {
        let reason =
            format!("is not a list's name: 1 to {MAX_LIST} letters, digits, `-`, `_` and `.`");
        return Err(MailError::new("list", reason));
    }

    let too_early = match (options.send, options.expires) {
        (_, Some(When::In(Duration::ZERO))) => true,
        (Some(When::At(send)), Some(When::At(expires))) => expires <= send,
        (Some(When::In(send)), Some(When::In(expires))) => expires <= send,
        _ => false,
    };

    if too_early {
        return Err(MailError::new(
            "expires_in",
            "the mail would expire before it may be sent",
        ));
    }

    Ok(())
}

/// Whether this is a valid name of a list: it is used in a header field and in URLs.
pub(crate) fn is_list_name(name: &str) -> bool {
    (1..=MAX_LIST).contains(&name.len())
        && !name.starts_with('.')
        && !name.ends_with('.')
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

fn check_word(word: &str, max: usize) -> Result<(), String> {
    if word.trim().is_empty() {
        return Err("is empty".to_owned());
    }
    if word.chars().any(char::is_control) {
        return Err("has a control character".to_owned());
    }
    match word.chars().count() {
        count if count > max => Err(format!("has {count} characters; at most {max} are allowed")),
        _ => Ok(()),
    }
}

fn mailboxes(field: &str, given: &[String]) -> Result<Vec<Mailbox>, MailError> {
    let read = |(i, text): (usize, &String)| {
        Mailbox::parse(text).map_err(|reason| MailError::new(format!("{field}[{i}]"), reason))
    };
    given.iter().enumerate().map(read).collect()
}

fn check_header(name: &str, value: &str) -> Result<(), MailError> {
    let shown: String = name.chars().take(MAX_NAME).collect();
    let field = format!("headers.{}", shown.escape_debug());
    if name.is_empty()
        || name.len() > MAX_NAME
        || !name
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && byte != b':')
    {
        let reason = format!(
            "is not a field name: 1 to {MAX_NAME} visible ASCII characters without a colon"
        );
        return Err(MailError::new(field, reason));
    }

    if value.chars().any(char::is_control) {
        return Err(MailError::new(
            field,
            "has a line break or another control character",
        ));
    }

    let starts = |prefix: &str| {
        name.get(..prefix.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(prefix))
    };

    if RESERVED_FIELDS
        .iter()
        .any(|ours| ours.eq_ignore_ascii_case(name))
    {
        return Err(MailError::new(
            field,
            "is made by Postrider: set the mail's own field instead",
        ));
    }

    if starts("X-Postrider-") {
        return Err(MailError::new(
            field,
            "would have no effect here: set the mail's own field instead",
        ));
    }

    // An empty one would be replaced by a generated one, which is not what was asked for.
    let is_needed = ["Message-ID", "Date"]
        .iter()
        .any(|needed| name.eq_ignore_ascii_case(needed));

    if is_needed && value.trim().is_empty() {
        return Err(MailError::new(field, "is empty"));
    }
    Ok(())
}

/// Names a field as the builder does, for an error that was found while composing.
fn with_builder_name(error: MailError) -> MailError {
    let given = match error.field() {
        "headers.From" => "from",
        "headers.To" => "to",
        "headers.Cc" => "cc",
        "headers.Reply-To" => "reply_to",
        "headers.Subject" => "subject",
        _ => return error,
    };
    MailError::new(given, error.reason())
}

//! The JSON form of a mail, and how it becomes a [`Mail`]. `reading.rs` parses it.

use serde::Deserialize;
use utoipa::ToSchema;

use super::data::TemplateData;
use super::fields::{Base64, Headers, OneOrMany, Span, few, name};
use super::problem::{FieldError, Problem};
use crate::mail::{
    Alternative, Attachment, Content, Guarantee, Mail, MailError, Options, Priority, Timestamp,
    When,
};
use crate::{TemplateError, Templates};

/// The most alternative forms of one mail.
const MAX_ALTERNATIVES: usize = 20;

/// The most files of one mail.
const MAX_ATTACHMENTS: usize = 1_000;

/// The most tags that are parsed; a mail may have fewer.
const MAX_TAGS: usize = 1_000;

/// A mail to be sent.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "a mail as an object")]
pub(super) struct MailRequest {
    /// Who it is from: `shop@example.com` or `Shop <shop@example.com>`.
    #[schema(required = true, nullable = false, example = "Shop <shop@example.com>")]
    from: Option<String>,
    /// Who gets it; at least one recipient is needed in `to`, `cc` or `bcc`.
    to: Option<OneOrMany>,
    /// Who gets a copy.
    cc: Option<OneOrMany>,
    /// Who gets a copy that the others do not see.
    bcc: Option<OneOrMany>,
    /// Where replies go.
    reply_to: Option<OneOrMany>,
    /// Where bounces go, if not to `from`.
    return_path: Option<String>,
    /// The subject.
    #[schema(example = "Your code")]
    subject: Option<String>,
    /// The body as plain text; one of `text`, `html` and `template` is needed.
    #[schema(example = "123456")]
    text: Option<String>,
    /// The body as HTML.
    html: Option<String>,
    /// A template that makes the subject and the body; a `subject` beside it wins.
    template: Option<TemplateRequest>,
    /// Header fields of your own.
    headers: Option<Headers>,
    /// The same content in other forms, such as an invitation for calendars; at most 20.
    #[serde(default, deserialize_with = "few::<_, _, MAX_ALTERNATIVES>")]
    #[schema(max_items = 20)]
    alternatives: Option<Vec<AlternativeRequest>>,
    /// Files; at most 1,000.
    #[serde(default, deserialize_with = "few::<_, _, MAX_ATTACHMENTS>")]
    #[schema(max_items = 1000)]
    attachments: Option<Vec<AttachmentRequest>>,
    /// How urgent it is; `default` when absent.
    #[serde(default, deserialize_with = "name")]
    priority: Option<Priority>,
    /// Not to be sent before this time (RFC 3339).
    #[schema(value_type = Option<String>, format = DateTime)]
    send_at: Option<Timestamp>,
    /// Not to be sent before this long after it was accepted.
    delay: Option<Span>,
    /// Expires this long after it was accepted.
    expires_in: Option<Span>,
    /// Two mails with the same key are one mail. The same as the header field `Idempotency-Key`.
    idempotency_key: Option<String>,
    /// Words to find it by, and for routes to match.
    #[serde(default, deserialize_with = "few::<_, _, MAX_TAGS>")]
    tags: Option<Vec<String>>,
    /// What to do when it is unknown whether a server took the mail; `at_least_once` when absent.
    #[serde(default, deserialize_with = "name")]
    guarantee: Option<Guarantee>,
    /// The mailing list that it belongs to; recipients can unsubscribe from that list alone.
    #[schema(example = "news")]
    list: Option<String>,
}

/// A template with its data.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "a template as an object")]
pub(super) struct TemplateRequest {
    /// Its name; in a batch, the batch's template when absent.
    #[schema(required = true, nullable = false, example = "welcome")]
    name: Option<String>,
    /// The values of its variables; in a batch, in addition to the batch's.
    data: Option<TemplateData>,
    /// The language; the closest available one is used.
    #[schema(example = "pt-BR")]
    locale: Option<String>,
}

/// What a mail is composed with besides its request.
#[derive(Clone, Copy)]
pub(super) struct ComposeContext<'a> {
    /// The available templates.
    pub templates: &'a Templates,
    /// The template of the batch, for all its mails.
    pub shared: Option<&'a TemplateRequest>,
}

/// Why a request cannot become a mail.
pub(super) enum SubmissionError {
    Mail(MailError),
    Template(TemplateError),
}

/// The same content in another form.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "an alternative as an object")]
pub(super) struct AlternativeRequest {
    /// Its media type.
    #[schema(
        required = true,
        nullable = false,
        example = "text/calendar; method=REQUEST"
    )]
    content_type: Option<String>,
    /// Its text; either this or `content` is needed.
    text: Option<String>,
    /// Its bytes in base64.
    content: Option<Base64>,
}

/// A file that goes with a mail.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "an attachment as an object")]
pub(super) struct AttachmentRequest {
    /// The name that the reader sees.
    #[schema(required = true, nullable = false, example = "bill.pdf")]
    filename: Option<String>,
    /// Its media type; `application/octet-stream` when absent.
    #[schema(example = "application/pdf")]
    content_type: Option<String>,
    /// Its bytes in base64.
    #[schema(required = true, nullable = false)]
    content: Option<Base64>,
    /// For an image inside the HTML: the id that `<img src="cid:…">` names.
    inline_id: Option<String>,
}

impl MailRequest {
    pub(super) fn into_mail(
        self,
        key: Option<&str>,
        context: ComposeContext<'_>,
    ) -> Result<Mail, SubmissionError> {
        let content = self.content(context)?;
        let send = match (self.send_at, self.delay) {
            (Some(_), Some(_)) => {
                return Err(SubmissionError::Mail(MailError::new(
                    "delay",
                    "give either `send_at` or `delay`, not both",
                )));
            }
            (Some(at), None) => Some(When::At(at)),
            (None, delay) => delay.map(|Span(span)| When::In(span)),
        };

        let idempotency_key = match (self.idempotency_key, key) {
            (Some(field), Some(header)) if field != header => {
                return Err(SubmissionError::Mail(MailError::new(
                    "idempotency_key",
                    "differs from the header Idempotency-Key",
                )));
            }
            (field, header) => field.or_else(|| header.map(str::to_owned)),
        };

        let options = Options {
            priority: self.priority.unwrap_or_default(),
            send,
            expires: self.expires_in.map(|Span(span)| When::In(span)),
            idempotency_key,
            tags: self.tags.unwrap_or_default(),
            guarantee: self.guarantee.unwrap_or_default(),
            list: self.list,
        };

        let mut mail = Mail::builder();
        if let Some(from) = self.from {
            mail = mail.from(from);
        }
        for one in self.to.unwrap_or_default().0 {
            mail = mail.to(one);
        }
        for one in self.cc.unwrap_or_default().0 {
            mail = mail.cc(one);
        }
        for one in self.bcc.unwrap_or_default().0 {
            mail = mail.bcc(one);
        }
        for one in self.reply_to.unwrap_or_default().0 {
            mail = mail.reply_to(one);
        }
        if let Some(address) = self.return_path {
            mail = mail.return_path(address);
        }
        if let Some(content) = content {
            mail = mail.content(content);
        }
        if let Some(subject) = self.subject {
            mail = mail.subject(subject);
        }
        if let Some(text) = self.text {
            mail = mail.text(text);
        }
        if let Some(html) = self.html {
            mail = mail.html(html);
        }
        for (name, value) in self.headers.unwrap_or_default().0 {
            mail = mail.header(name, value);
        }

        for (place, alternative) in self
            .alternatives
            .unwrap_or_default()
            .into_iter()
            .enumerate()
        {
            mail = mail.alternative(alternative.into_alternative(place)?);
        }

        for (place, attachment) in self.attachments.unwrap_or_default().into_iter().enumerate() {
            mail = mail.attachment(attachment.into_attachment(place)?);
        }
        Ok(mail.build()?.with_options(options)?)
    }

    /// The rendered template, if the request names one.
    fn content(&self, context: ComposeContext<'_>) -> Result<Option<Content>, SubmissionError> {
        let says_itself = self.text.is_some() || self.html.is_some();
        let template = match (&self.template, context.shared) {
            (Some(_), _) if says_itself => {
                let reason = "makes text and HTML: leave `text` and `html` out";
                return Err(SubmissionError::Mail(MailError::new("template", reason)));
            }
            (None, None) => return Ok(None),
            (None, Some(_)) if says_itself => return Ok(None),
            (Some(own), None) => own.clone(),
            (None, Some(shared)) => shared.clone(),
            (Some(own), Some(shared)) => own.on_top_of(shared),
        };

        let missing = || MailError::new("template.name", "is missing");
        let name = template.name.ok_or_else(missing)?;
        let data = template.data.unwrap_or_default();
        let locale = template
            .locale
            .as_deref()
            .filter(|locale| !locale.is_empty());

        let content = context.templates.render(&name, data.0, locale)?;
        Ok(Some(content))
    }
}

impl TemplateRequest {
    /// The template of a mail, with the values of the batch where it gives none.
    fn on_top_of(&self, shared: &TemplateRequest) -> TemplateRequest {
        let mut data = shared.data.clone().unwrap_or_default();
        let own = self.data.iter().flat_map(|data| &data.0);
        data.0
            .extend(own.map(|(name, value)| (name.clone(), value.clone())));
        TemplateRequest {
            name: self.name.clone().or_else(|| shared.name.clone()),
            data: Some(data),
            locale: self.locale.clone().or_else(|| shared.locale.clone()),
        }
    }
}

impl From<MailError> for SubmissionError {
    fn from(error: MailError) -> Self {
        SubmissionError::Mail(error)
    }
}

impl From<TemplateError> for SubmissionError {
    fn from(error: TemplateError) -> Self {
        SubmissionError::Template(error)
    }
}

impl From<SubmissionError> for Problem {
    fn from(mistake: SubmissionError) -> Self {
        match mistake {
            SubmissionError::Mail(error) => error.into(),
            SubmissionError::Template(error) => Problem::of_template(error, "/template"),
        }
    }
}

impl From<SubmissionError> for FieldError {
    fn from(mistake: SubmissionError) -> Self {
        match mistake {
            SubmissionError::Mail(error) => error.into(),
            SubmissionError::Template(error) => FieldError::of_template(&error, "/template"),
        }
    }
}

impl AlternativeRequest {
    fn into_alternative(self, place: usize) -> Result<Alternative, MailError> {
        let wrong = |field: &str, reason: &str| {
            MailError::new(format!("alternatives[{place}].{field}"), reason)
        };
        let content = match (self.text, self.content) {
            (Some(text), None) => text.into(),
            (None, Some(Base64(bytes))) => bytes,
            (None, None) => return Err(wrong("text", "is missing")),
            (Some(_), Some(_)) => return Err(wrong("content", "give either `text` or this")),
        };

        Ok(Alternative {
            content_type: self
                .content_type
                .ok_or_else(|| wrong("content_type", "is missing"))?,
            content,
        })
    }
}

impl AttachmentRequest {
    fn into_attachment(self, place: usize) -> Result<Attachment, MailError> {
        let missing =
            |field: &str| MailError::new(format!("attachments[{place}].{field}"), "is missing");
        Ok(Attachment {
            filename: self.filename.ok_or_else(|| missing("filename"))?,
            content_type: self
                .content_type
                .unwrap_or_else(|| "application/octet-stream".to_owned()),
            content: self.content.ok_or_else(|| missing("content"))?.0,
            inline_id: self.inline_id,
        })
    }
}

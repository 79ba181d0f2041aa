//! A mail as JSON, and how it becomes a [`Mail`].
//!
//! Reading stops at the first mistake, which costs valid mail nothing. Only then is the request
//! looked at again, as plain JSON, with each mistake noted and mended in turn until no more is
//! found: so one answer names every bad field.
//!
//! *Invariant:* what is made of a request is bounded while it is read, whatever it says: lists
//! where they are read, texts before (`outline`), and nothing large is explained.

use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::data::Data;
use super::fields::{Base64, Headers, OneOrMany, Span, few};
use super::outline::{self, RequestKind};
use super::problem::{FieldError, Kind, Problem, escape};
use crate::mail::{
    Alternative, Attachment, Content, Guarantee, Mail, MailError, Options, Priority, Timestamp,
    When,
};
use crate::{TemplateError, Templates};

/// The most mistakes that one answer names.
const MAX_ERRORS: usize = 32;

/// The most other forms of one mail.
const MAX_ALTERNATIVES: usize = 20;

/// Requests above this size have only their first mistake named: looking for all of them takes as
/// many turns. The mails of a batch have this together.
pub(super) const MAX_EXPLAINED: usize = 256 * 1024;

/// Requests with more values than this have only their first mistake named: as plain JSON each
/// value takes many times what it takes in the request.
const MAX_VALUES: usize = 100_000;

/// The most files of one mail.
const MAX_ATTACHMENTS: usize = 1_000;

/// More tags than a mail may have, so that too many of them are counted and not read without end.
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
    /// Where answers go.
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
    priority: Option<Priority>,
    /// Not to be sent before this time (RFC 3339).
    #[schema(value_type = Option<String>, format = DateTime)]
    send_at: Option<Timestamp>,
    /// Not to be sent before this long after it was accepted.
    delay: Option<Span>,
    /// Expires this long after it was accepted.
    expires_in: Option<Span>,
    /// Two mails with one key are one mail. Equals the header `Idempotency-Key`.
    idempotency_key: Option<String>,
    /// Words to find it by, and for routes to match.
    #[serde(default, deserialize_with = "few::<_, _, MAX_TAGS>")]
    tags: Option<Vec<String>>,
    /// What to do when it cannot be known whether a server took it; `at_least_once` when absent.
    guarantee: Option<Guarantee>,
    /// The list that it is mail of; its recipients can leave that list alone.
    #[schema(example = "news")]
    list: Option<String>,
}

/// A template, and what it is to say.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "a template as an object")]
pub(super) struct TemplateRequest {
    /// Its name; in a batch, the batch's own where it is absent.
    #[schema(required = true, nullable = false, example = "welcome")]
    name: Option<String>,
    /// The values of its variables; in a batch, on top of the batch's own.
    data: Option<Data>,
    /// The language; the nearest that there is is taken.
    #[schema(example = "pt-BR")]
    locale: Option<String>,
}

/// What a request is composed with.
#[derive(Clone, Copy)]
pub(super) struct Composing<'a> {
    /// The templates there are.
    pub templates: &'a Templates,
    /// What a batch says of all its mails.
    pub shared: Option<&'a TemplateRequest>,
}

/// Why a request does not become a mail.
enum Mistake {
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
    /// Reads a mail, one that may carry its key in the header `Idempotency-Key`.
    ///
    /// # Errors
    /// A problem that names every bad field.
    pub fn read(json: &[u8], key: Option<&str>, composing: Composing<'_>) -> Result<Mail, Problem> {
        MailRequest::read_within(json, key, composing, &mut { MAX_EXPLAINED })
    }

    /// As [`MailRequest::read`]; explains what is wrong as long as there is something of
    /// `time_limit` left, in bytes.
    ///
    /// # Errors
    /// A problem that names every bad field, or the first.
    pub fn read_within(
        json: &[u8],
        key: Option<&str>,
        composing: Composing<'_>,
        time_limit: &mut usize,
    ) -> Result<Mail, Problem> {
        let is_dense = match json.len() > outline::SMALL {
            true => outline::count(json, RequestKind::Mail)? > MAX_VALUES,
            false => false,
        };

        let mut explain = |first: Problem| match is_dense {
            true => Err(first),
            false => explain(json, key, composing, first, time_limit),
        };

        match serde_json::from_slice::<MailRequest>(json) {
            // A list of all values in order would be read too, and nobody means that.
            Ok(_) if json.trim_ascii_start().first() != Some(&b'{') => Err(Problem::invalid_field(
                "",
                "is a list, and a mail is an object",
            )),
            Ok(request) => request
                .into_mail(key, composing)
                .or_else(|error| explain(error.into())),
            Err(error) if error.is_data() => explain(first_misshapen(json, &error)),
            Err(error) => Err(malformed(&error)),
        }
    }

    fn into_mail(self, key: Option<&str>, composing: Composing<'_>) -> Result<Mail, Mistake> {
        let content = self.content(composing)?;
        let send = match (self.send_at, self.delay) {
            (Some(_), Some(_)) => {
                return Err(Mistake::Mail(MailError::new(
                    "delay",
                    "give either `send_at` or `delay`, not both",
                )));
            }
            (Some(at), None) => Some(When::At(at)),
            (None, delay) => delay.map(|Span(span)| When::In(span)),
        };

        let idempotency_key = match (self.idempotency_key, key) {
            (Some(field), Some(header)) if field != header => {
                return Err(Mistake::Mail(MailError::new(
                    "idempotency_key",
                    "is not what the header Idempotency-Key says",
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

    /// What the template makes, where one is asked for.
    fn content(&self, composing: Composing<'_>) -> Result<Option<Content>, Mistake> {
        let says_itself = self.text.is_some() || self.html.is_some();
        let template = match (&self.template, composing.shared) {
            (Some(_), _) if says_itself => {
                let reason = "makes text and HTML: leave `text` and `html` out";
                return Err(Mistake::Mail(MailError::new("template", reason)));
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

        let content = composing.templates.render(&name, data.0, locale)?;
        Ok(Some(content))
    }
}

impl TemplateRequest {
    /// What one mail of a batch says, where it says something, and what the batch says of all.
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

impl From<MailError> for Mistake {
    fn from(error: MailError) -> Self {
        Mistake::Mail(error)
    }
}

impl From<TemplateError> for Mistake {
    fn from(error: TemplateError) -> Self {
        Mistake::Template(error)
    }
}

impl From<Mistake> for Problem {
    fn from(mistake: Mistake) -> Self {
        match mistake {
            Mistake::Mail(error) => error.into(),
            Mistake::Template(error) => Problem::of_template(error, "/template"),
        }
    }
}

impl From<Mistake> for FieldError {
    fn from(mistake: Mistake) -> Self {
        match mistake {
            Mistake::Mail(error) => error.into(),
            Mistake::Template(error) => FieldError::of_template(&error, "/template"),
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

/// What is said of JSON that is none.
pub(super) fn malformed(error: &serde_json::Error) -> Problem {
    Problem::new(Kind::Malformed, format!("the body is not JSON: {error}"))
}

/// What is said of JSON that is no mail, with the pointer to where it is none.
fn first_misshapen(json: &[u8], error: &serde_json::Error) -> Problem {
    let mut reader = serde_json::Deserializer::from_slice(json);
    match serde_path_to_error::deserialize::<_, MailRequest>(&mut reader) {
        Err(error) => Problem::invalid(vec![misshapen(error)]),
        Ok(_) => Problem::invalid_field("", error.to_string()),
    }
}

/// The problem of a value that does not have the shape that is asked for, with the pointer to where
/// it has not.
pub(super) fn misshapen(error: serde_path_to_error::Error<serde_json::Error>) -> FieldError {
    FieldError {
        pointer: pointer(error.path()),
        detail: error.into_inner().to_string(),
    }
}

/// A path in JSON as a pointer.
pub(super) fn pointer(path: &serde_path_to_error::Path) -> String {
    use serde_path_to_error::Segment;
    let mut pointer = String::new();
    for segment in path {
        match segment {
            Segment::Seq { index } => pointer.push_str(&format!("/{index}")),
            Segment::Map { key } => pointer.push_str(&format!("/{}", escape(key))),
            Segment::Enum { .. } | Segment::Unknown => {}
        }
    }
    pointer
}

/// Finds every mistake in a mail of which `first` is known.
fn explain(
    json: &[u8],
    key: Option<&str>,
    composing: Composing<'_>,
    first: Problem,
    time_limit: &mut usize,
) -> Result<Mail, Problem> {
    if !first.is(Kind::Invalid) || *time_limit == 0 {
        return Err(first);
    }
    let mut value: Value = serde_json::from_slice(json).map_err(|error| malformed(&error))?;
    let weight = weigh(&mut value, json.len());
    let thorough = weight <= *time_limit;
    *time_limit = time_limit.saturating_sub(weight);

    let mut errors: Vec<FieldError> = Vec::new();
    while let Err(error) = attempt(&value, key, composing) {
        let error = FieldError {
            pointer: as_written(error.pointer, &value),
            ..error
        };
        if errors.iter().any(|known| known.pointer == error.pointer) {
            break;
        }
        let mended = mend(&mut value, &error.pointer);
        errors.push(error);
        if !mended || !thorough || errors.len() == MAX_ERRORS {
            break;
        }
    }

    // What only the text shows, such as a field that is given twice, is gone in `value`.
    for told in first.into_errors() {
        let pointer = as_written(told.pointer.clone(), &value);
        if !errors.iter().any(|known| known.pointer == pointer) {
            errors.insert(0, told);
        }
    }

    errors.truncate(MAX_ERRORS);
    Err(Problem::invalid(errors))
}

/// The first mistake in a mail.
fn attempt(value: &Value, key: Option<&str>, composing: Composing<'_>) -> Result<(), FieldError> {
    let request: MailRequest = serde_path_to_error::deserialize(value).map_err(misshapen)?;
    let made = request.into_mail(key, composing);
    made.map(drop).map_err(FieldError::from)
}

/// The pointer to what was given: one address that is no list is not the list's first.
fn as_written(pointer: String, mail: &Value) -> String {
    match pointer.strip_suffix("/0") {
        Some(one) if mail.pointer(one).is_some_and(Value::is_string) => one.to_owned(),
        _ => pointer,
    }
}

/// Empties the files that are in order, because nothing more is to be found in them; returns how
/// large the rest is.
fn weigh(mail: &mut Value, mut size: usize) -> usize {
    for attachment in mail
        .get_mut("attachments")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
    {
        if let Some(content) = attachment
            .get_mut("content")
            .filter(|content| content.is_string())
            && let Some(text) = content.as_str()
            && Base64::decode(text).is_ok()
        {
            size = size.saturating_sub(text.len());
            *content = "".into();
        }
    }

    size
}

/// Puts something valid where a mistake was, so that the next one shows. False where that cannot be
/// done.
fn mend(mail: &mut Value, pointer: &str) -> bool {
    let Some((parent, place)) = pointer.rsplit_once('/') else {
        return false;
    };
    let list = list_of(parent);

    let place = place.replace("~1", "/").replace("~0", "~");
    match mail.pointer_mut(parent) {
        Some(Value::Array(items)) => match place
            .parse()
            .ok()
            .and_then(|place: usize| items.get_mut(place))
        {
            Some(item) => {
                *item = match list {
                    "attachments" => serde_json::json!({"filename": "x", "content": ""}),
                    "alternatives" => {
                        serde_json::json!({"content_type": "text/plain", "text": "x"})
                    }
                    "tags" => "x".into(),
                    _ => "x@example.org".into(),
                };
                true
            }
            None => false,
        },
        Some(Value::Object(fields)) => {
            let valid = match place.as_str() {
                _ if parent == "/template/data" => Some("x"),
                "from" | "to" => Some("x@example.org"),
                "text" | "filename" => Some("x"),
                // It stands beside a text, which is enough.
                "content" if list_of(parent) == "alternatives" && fields.contains_key("text") => {
                    None
                }
                "content" => Some(""),
                "content_type" => Some("text/plain"),
                _ => None,
            };
            match valid {
                Some(valid) => {
                    fields.insert(place, valid.into());
                    true
                }
                None => fields.remove(&place).is_some(),
            }
        }
        _ => false,
    }
}

/// The last name in a pointer that is no place in a list.
fn list_of(pointer: &str) -> &str {
    let mut names = pointer.rsplit('/');
    names
        .find(|name| !name.bytes().all(|byte| byte.is_ascii_digit()))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    fn read(mail: &Value, key: Option<&str>) -> Result<Mail, Problem> {
        let composing = Composing {
            templates: &Templates::default(),
            shared: None,
        };
        MailRequest::read(mail.to_string().as_bytes(), key, composing)
    }

    fn refused(mail: &Value) -> Vec<String> {
        let problem = read(mail, None).unwrap_err();
        let problem = serde_json::to_value(problem).unwrap();
        let errors = problem["errors"]
            .as_array()
            .unwrap_or_else(|| panic!("{problem}"));
        errors
            .iter()
            .map(|error| error["pointer"].as_str().unwrap().to_owned())
            .collect()
    }

    #[test]
    fn mistakes_of_shape_and_of_meaning_are_named_together() {
        let mail = json!({
            "from": 5, "to": ["ada@example.org", "at@@example.org", 7], "text": "hi",
            "headers": {"X-A": "a\nb", "X-B": 1},
            "attachments": [{"filename": "", "content": "aGk="}, {"content": "?"}], "tags": "spring", "tag": "x",
        });

        let mut pointers = refused(&mail);
        pointers.sort();
        let mut expected = [
            "/from",
            "/to/1",
            "/to/2",
            "/headers/X-A",
            "/headers/X-B",
            "/attachments/0/filename",
        ]
        .to_vec();

        expected.extend([
            "/attachments/1/content",
            "/attachments/1/filename",
            "/tags",
            "/tag",
        ]);
        expected.sort_unstable();

        assert_eq!(pointers, expected);
    }

    #[test]
    fn a_request_with_nothing_but_mistakes_is_answered_in_bounded_time() {
        let mail = json!({"from": "a@example.org", "to": vec!["nobody"; 5000], "text": "t"});
        assert_eq!(refused(&mail).len(), MAX_ERRORS);
        let large = json!({"from": "nobody", "to": "nobody", "text": "x".repeat(MAX_EXPLAINED)});
        assert_eq!(refused(&large), ["/from"]);
        let file = json!({"filename": "a", "content": "A".repeat(4 * MAX_EXPLAINED)});
        let with_file =
            json!({"from": "nobody", "to": "nobody", "text": "t", "attachments": [file]});
        assert_eq!(refused(&with_file), ["/from", "/to"]);
    }

    #[test]
    fn an_invitation_is_another_form_of_the_text() {
        let calendar = "BEGIN:VCALENDAR\nMETHOD:REQUEST\nEND:VCALENDAR\n";
        let kind = "text/calendar; method=REQUEST";
        for given in [
            json!({"content_type": kind, "text": calendar}),
            json!({"content_type": kind, "content": "QkVHSU46VkNBTEVOREFSCk1FVEhPRDpSRVFVRVNUCkVORDpWQ0FMRU5EQVIK"}),
        ] {
            let mail = json!({"from": "a@example.org", "to": "b@example.org", "text": "Lunch?", "html": "<p>Lunch?",
                "alternatives": [given]});
            let mail = read(&mail, None).unwrap();
            let message = String::from_utf8(mail.message().to_vec()).unwrap();
            let form = message.find("multipart/alternative").unwrap();
            let html = message.find("text/html").unwrap();
            let invitation = message
                .find("Content-Type: text/calendar; method=REQUEST")
                .unwrap();
            assert!(form < html && html < invitation, "{message}");
            assert!(
                message.contains("BEGIN:VCALENDAR\r\nMETHOD:REQUEST\r\n"),
                "{message}"
            );
        }

        let wrong = json!({"from": "a@example.org", "to": "b@example.org", "text": "x",
            "alternatives": [{"content_type": "calendar", "text": "x"}, {"text": "x"}, {"content_type": kind}]});
        // What is missing is found before what is no media type.
        let mut named = refused(&wrong);

        named.sort();
        assert_eq!(
            named,
            [
                "/alternatives/0/content_type",
                "/alternatives/1/content_type",
                "/alternatives/2/text"
            ]
        );
    }

    #[test]
    fn the_header_and_the_field_are_one_key() {
        let mail = json!({"from": "a@example.org", "to": "b@example.org", "text": "t", "idempotency_key": "k"});
        let read = |key| read(&mail, key);
        assert_eq!(
            read(Some("k"))
                .unwrap()
                .options()
                .idempotency_key
                .as_deref(),
            Some("k")
        );

        assert_eq!(
            read(None).unwrap().options().idempotency_key.as_deref(),
            Some("k")
        );

        assert!(read(Some("l")).unwrap_err().is(Kind::Invalid));
    }
}

//! The form of every refusal: a problem document (RFC 9457), with a JSON pointer (RFC 6901) for
//! each wrong field.

use std::fmt;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::TemplateError;
use crate::dispatch::Error;
use crate::mail::{MailError, MailId, beginning};
use crate::spool::SpoolError;

/// The media type of every error (RFC 9457 §3).
pub(super) const PROBLEM_JSON: &str = "application/problem+json";

/// The `Retry-After` in seconds while the queue is full: about the time in which some of it is
/// sent.
const RETRY_FULL: u64 = 5;

/// The `Retry-After` in seconds when an operator has to fix something.
const RETRY_MENDED: u64 = 30;

/// The most bytes of one explanation; a long quotation from the request is cut off.
const MAX_TOLD: usize = 500;

/// The most wrong fields that an answer explains, so that it is not much longer than the request.
const MOST_TOLD: usize = 100;

/// The `Retry-After` in seconds for a client that exceeds a limit.
const RETRY_FEWER: u64 = 60;

/// Why a request is refused: a problem document, which is what it serializes to.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Problem {
    /// The kind of problem, for programs.
    #[schema(example = "urn:postrider:problem:invalid")]
    r#type: &'static str,
    /// The kind of problem, for people.
    title: &'static str,
    /// The HTTP status.
    #[schema(minimum = 400, maximum = 599)]
    status: u16,
    /// What is wrong with this request, and what to do.
    detail: String,
    /// Each field that is wrong.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    errors: Vec<FieldError>,
    /// The mails that a name matches, if it is ambiguous or may be.
    #[serde(flatten)]
    #[schema(value_type = Named)]
    named: Option<Box<Named>>,
    #[serde(skip)]
    retry_after: Option<u64>,
}

/// The mails that a name matches.
#[derive(Clone, Debug, Serialize, ToSchema)]
struct Named {
    /// Some of them.
    #[schema(required = false)]
    mails: Vec<MailId>,
    /// The `cursor` with which to continue, if not all mail was searched.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
    /// How many mails were searched, likewise.
    #[serde(skip_serializing_if = "Option::is_none")]
    looked_at: Option<u64>,
}

/// One field that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(super) struct FieldError {
    /// A pointer to it in the request's JSON (RFC 6901), or to the query parameter, such as
    /// `/limit`.
    #[schema(example = "/to/1")]
    pub pointer: String,
    /// What is wrong with it.
    pub detail: String,
}

impl fmt::Display for FieldError {
    /// An empty pointer means the request as a whole.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pointer.as_str() {
            "" => f.write_str(&self.detail),
            pointer => write!(f, "{pointer}: {}", self.detail),
        }
    }
}

/// The name of a kind of problems.
macro_rules! urn {
    ($name:literal) => {
        concat!("urn:postrider:problem:", $name)
    };
}

/// The kinds of problems.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Malformed,
    Unauthorized,
    Unproved,
    Forbidden,
    ForeignOrigin,
    NotFound,
    Ambiguous,
    NotAllSeen,
    Gone,
    MethodNotAllowed,
    TimedOut,
    TooLate,
    TooLarge,
    MediaType,
    Invalid,
    KeyReused,
    NoRoute,
    TooMany,
    Internal,
    NotImplemented,
    Full,
    Quota,
    SenderRefused,
    Unavailable,
    AnswerTimedOut,
}

impl Kind {
    /// Its status, its type, and its title.
    fn facts(self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Kind::Malformed => (
                StatusCode::BAD_REQUEST,
                urn!("malformed"),
                "The request cannot be read",
            ),
            Kind::Unauthorized => (
                StatusCode::UNAUTHORIZED,
                urn!("unauthorized"),
                "A valid token is needed",
            ),
            Kind::Unproved => (
                StatusCode::UNAUTHORIZED,
                urn!("unproved"),
                "Where it is from is not proved",
            ),
            Kind::Forbidden => (
                StatusCode::FORBIDDEN,
                urn!("forbidden"),
                "The token's scope does not allow this",
            ),
            Kind::ForeignOrigin => (
                StatusCode::FORBIDDEN,
                urn!("foreign-origin"),
                "Not for web pages of other origins",
            ),
            Kind::NotFound => (StatusCode::NOT_FOUND, urn!("not-found"), "Not found"),
            Kind::Ambiguous => (
                StatusCode::CONFLICT,
                urn!("ambiguous"),
                "The name fits several mails",
            ),
            Kind::NotAllSeen => (
                StatusCode::CONFLICT,
                urn!("not-all-seen"),
                "Not all mail was looked at",
            ),
            Kind::Gone => (StatusCode::GONE, urn!("gone"), "Not kept any more"),
            Kind::MethodNotAllowed => (
                StatusCode::METHOD_NOT_ALLOWED,
                urn!("method-not-allowed"),
                "Not with this method",
            ),
            Kind::TimedOut => (
                StatusCode::REQUEST_TIMEOUT,
                urn!("request-timeout"),
                "The request took too long",
            ),
            Kind::TooLate => (StatusCode::CONFLICT, urn!("too-late"), "Too late"),
            Kind::TooLarge => (
                StatusCode::PAYLOAD_TOO_LARGE,
                urn!("too-large"),
                "Too large",
            ),
            Kind::MediaType => (
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                urn!("media-type"),
                "Media type not supported",
            ),
            Kind::Invalid => (
                StatusCode::UNPROCESSABLE_ENTITY,
                urn!("invalid"),
                "The request is not valid",
            ),
            Kind::KeyReused => (
                StatusCode::UNPROCESSABLE_ENTITY,
                urn!("key-reused"),
                "The idempotency key is taken",
            ),
            Kind::NoRoute => (
                StatusCode::UNPROCESSABLE_ENTITY,
                urn!("no-route"),
                "No route to a recipient",
            ),
            Kind::TooMany => (
                StatusCode::TOO_MANY_REQUESTS,
                urn!("too-many"),
                "Too many of these",
            ),
            Kind::Internal => (
                StatusCode::INTERNAL_SERVER_ERROR,
                urn!("internal"),
                "Something went wrong here",
            ),
            Kind::NotImplemented => (
                StatusCode::NOT_IMPLEMENTED,
                urn!("not-implemented"),
                "Not understood here",
            ),
            Kind::Full => (
                StatusCode::SERVICE_UNAVAILABLE,
                urn!("full"),
                "The queue is full",
            ),
            Kind::Quota => (
                StatusCode::TOO_MANY_REQUESTS,
                urn!("quota"),
                "What is allowed is used up",
            ),
            Kind::SenderRefused => (
                StatusCode::FORBIDDEN,
                urn!("sender-refused"),
                "Not allowed to send from this address",
            ),
            Kind::Unavailable => (
                StatusCode::SERVICE_UNAVAILABLE,
                urn!("unavailable"),
                "Not available now",
            ),
            Kind::AnswerTimedOut => (
                StatusCode::GATEWAY_TIMEOUT,
                urn!("timeout"),
                "The answer took too long",
            ),
        }
    }
}

impl Problem {
    /// Its HTTP status.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// The wrong fields, as JSON pointers into the request.
    pub fn pointers(&self) -> impl Iterator<Item = &str> {
        self.errors.iter().map(|error| error.pointer.as_str())
    }

    /// A problem of this kind; `detail` says what is wrong with this request.
    pub(super) fn new(kind: Kind, detail: impl Into<String>) -> Self {
        let (status, r#type, title) = kind.facts();
        let retry_after = match kind {
            Kind::Full => Some(RETRY_FULL),
            Kind::Unavailable => Some(RETRY_MENDED),
            Kind::TooMany => Some(RETRY_FEWER),
            _ => None,
        };

        Problem {
            r#type,
            title,
            status: status.as_u16(),
            detail: cut(detail.into()),
            errors: Vec::new(),
            named: None,
            retry_after,
        }
    }

    /// The same with a further sentence.
    pub(super) fn and(self, more: &str) -> Self {
        Problem {
            detail: format!("{}; {more}", self.detail),
            ..self
        }
    }

    /// The problem of wrong fields; there must be at least one.
    pub(super) fn invalid(errors: Vec<FieldError>) -> Self {
        let cut_off = |error: FieldError| FieldError {
            pointer: cut(error.pointer),
            detail: cut(error.detail),
        };

        let errors: Vec<_> = errors.into_iter().take(MOST_TOLD).map(cut_off).collect();
        let detail = match errors.as_slice() {
            [only] => only.to_string(),
            many => format!("{} fields are not valid; `errors` names each", many.len()),
        };

        Problem {
            errors,
            ..Problem::new(Kind::Invalid, detail)
        }
    }

    /// One field that is not valid.
    pub(super) fn invalid_field(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Problem::invalid(vec![FieldError {
            pointer: pointer.into(),
            detail: detail.into(),
        }])
    }

    /// Why a template was not rendered; `at` points to the field that named it.
    pub(super) fn of_template(error: TemplateError, at: &str) -> Self {
        if let TemplateError::Unknown(_) = error {
            return Problem {
                errors: vec![FieldError::of_template(&error, at)],
                ..Problem::new(Kind::NotFound, error.to_string())
            };
        }
        Problem::invalid(vec![FieldError::of_template(&error, at)])
    }

    /// The problem for an error response of the router.
    pub(super) fn of_status(status: StatusCode) -> Self {
        match status {
            StatusCode::NOT_FOUND => Problem::new(
                Kind::NotFound,
                "there is nothing at this path; /openapi.json tells what there is",
            ),
            StatusCode::METHOD_NOT_ALLOWED => Problem::new(
                Kind::MethodNotAllowed,
                "this path does not take the method; Allow tells which it takes",
            ),
            _ => Problem {
                r#type: "about:blank",
                title: status.canonical_reason().unwrap_or("Error"),
                status: status.as_u16(),
                ..Problem::new(Kind::Internal, "the request was refused")
            },
        }
    }

    /// The same problem, found inside a larger document at `base`.
    pub(super) fn below(mut self, base: &str) -> Self {
        for error in &mut self.errors {
            error.pointer.insert_str(0, base);
        }
        self
    }

    /// What is wrong.
    pub(super) fn detail(&self) -> &str {
        &self.detail
    }

    /// Each field that is wrong.
    pub(super) fn into_errors(self) -> Vec<FieldError> {
        self.errors
    }

    /// Whether it is of this kind.
    pub(super) fn is(&self, kind: Kind) -> bool {
        self.r#type == kind.facts().1
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.title, self.detail)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = serde_json::to_vec(&self).unwrap_or_default();
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, [(header::CONTENT_TYPE, PROBLEM_JSON)], body).into_response();
        if let Some(seconds) = self.retry_after {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

impl From<MailError> for Problem {
    fn from(error: MailError) -> Self {
        if error.is_too_large() {
            return Problem::new(Kind::TooLarge, format!("the message {}", error.reason()));
        }
        Problem::invalid(vec![FieldError::from(error)])
    }
}

impl FieldError {
    /// The mistake in a template that the field at this pointer has named.
    pub fn of_template(error: &TemplateError, at: &str) -> Self {
        let pointer = match error {
            TemplateError::Unknown(_) => format!("{at}/name"),
            TemplateError::Data(_) => format!("{at}/data"),
            TemplateError::Locale(_) => format!("{at}/locale"),
            TemplateError::Render {
                variable: Some(variable),
                ..
            } => format!("{at}/data/{}", variable.replace('.', "/")),
            TemplateError::Render { .. } => at.to_owned(),
        };

        FieldError {
            pointer,
            detail: error.to_string(),
        }
    }
}

impl From<MailError> for FieldError {
    fn from(error: MailError) -> Self {
        FieldError {
            pointer: pointer_to(error.field()),
            detail: error.reason().to_owned(),
        }
    }
}

impl Problem {
    /// The problem in one sentence, with the wrong fields.
    pub(super) fn sentence(&self) -> String {
        let fields = self.errors.iter().map(FieldError::to_string);
        let fields: Vec<String> = fields.collect();
        match fields.is_empty() {
            true => self.detail.clone(),
            false => fields.join("; "),
        }
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let detail = error.to_string();
        match error {
            Error::Mail(error) => error.into(),
            Error::Full { .. } | Error::SpoolFull { .. } => Problem::new(Kind::Full, detail),
            Error::Quota { again_in, .. } => Problem {
                retry_after: Some(again_in.as_secs()),
                ..Problem::new(Kind::Quota, detail)
            },
            Error::SenderRefused { .. } => Problem {
                errors: vec![FieldError {
                    pointer: "/from".to_owned(),
                    detail: detail.clone(),
                }],
                ..Problem::new(Kind::SenderRefused, detail)
            },
            Error::KeyReused(_) => Problem {
                errors: vec![FieldError {
                    pointer: "/idempotency_key".to_owned(),
                    detail: detail.clone(),
                }],
                ..Problem::new(Kind::KeyReused, detail)
            },
            Error::NoRoute(_) => Problem::new(Kind::NoRoute, detail),
            Error::UnknownMail(_) | Error::UnknownName(_) | Error::UnknownRelay(_) => {
                Problem::new(Kind::NotFound, detail)
            }
            Error::Ambiguous { mails, .. } => Problem {
                named: Some(Box::new(Named {
                    mails,
                    next: None,
                    looked_at: None,
                })),
                ..Problem::new(Kind::Ambiguous, detail)
            },
            Error::NotAllSeen {
                mail,
                next,
                looked_at,
                ..
            } => Problem {
                named: Some(Box::new(Named {
                    mails: mail.into_iter().collect(),
                    next: Some(next),
                    looked_at: Some(looked_at),
                })),
                ..Problem::new(
                    Kind::NotAllSeen,
                    detail + ": repeat the call with `next` as its `cursor`",
                )
            },
            Error::Forgotten(_) => Problem::new(Kind::Gone, detail),
            Error::TooLate { .. } => Problem::new(Kind::TooLate, detail),
            Error::TooManyJobs(_) => Problem::new(Kind::Unavailable, detail),
            Error::BadCursor => Problem::invalid_field("/cursor", detail),
            Error::Spool(SpoolError::Unreadable(_)) => Problem::new(Kind::Internal, detail),
            Error::Spool(_) | Error::NotSent { .. } | Error::Stopped(_) => {
                Problem::new(Kind::Unavailable, detail)
            }
            Error::Configuration(_) | Error::Relay { .. } => Problem::new(Kind::Internal, detail),
        }
    }
}

fn cut(mut text: String) -> String {
    if text.len() > MAX_TOLD {
        text.truncate(beginning(&text, MAX_TOLD).len());
        text.push('…');
        text.shrink_to_fit();
    }
    text
}

/// The JSON pointer of a field that [`MailError`] names: `to[1]` → `/to/1`, `headers.X-Id` →
/// `/headers/X-Id`, `attachments[0].filename` → `/attachments/0/filename`.
fn pointer_to(field: &str) -> String {
    // A header field's name may contain dots and brackets.
    if let Some(name) = field.strip_prefix("headers.") {
        return format!("/headers/{}", escape(name));
    }
    field
        .split(['.', '[', ']'])
        .filter(|part| !part.is_empty())
        .map(|part| format!("/{}", escape(part)))
        .collect()
}

/// One token of a pointer (RFC 6901 §3).
pub(super) fn escape(token: &str) -> String {
    token.replace('~', "~0").replace('/', "~1")
}

/// The problem of malformed JSON.
pub(super) fn malformed(error: &serde_json::Error) -> Problem {
    Problem::new(Kind::Malformed, format!("the body is not JSON: {error}"))
}

/// The error of a JSON value with the wrong type or form, with a pointer to it.
pub(super) fn misshapen(error: serde_path_to_error::Error<serde_json::Error>) -> FieldError {
    let pointer = pointer(error.path());
    let mut detail = error.into_inner().to_string();
    // The field is more useful than the line and column.
    if let Some(at) = detail.rfind(" at line ") {
        detail.truncate(at);
    }
    FieldError { pointer, detail }
}

/// The longest name in a pointer, in bytes: a request may contain a name of megabytes, which each
/// copy would repeat.
const LONGEST_NAME: usize = 1024;

/// A path in JSON as a pointer.
pub(super) fn pointer(path: &serde_path_to_error::Path) -> String {
    use serde_path_to_error::Segment;
    let mut pointer = String::new();
    for segment in path {
        match segment {
            Segment::Seq { index } => pointer.push_str(&format!("/{index}")),
            Segment::Map { key } => {
                pointer.push_str(&format!("/{}", escape(beginning(key, LONGEST_NAME))));
            }
            Segment::Enum { .. } | Segment::Unknown => {}
        }
    }
    pointer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fields_name_becomes_a_pointer() {
        assert_eq!(pointer_to("from"), "/from");
        assert_eq!(pointer_to("to[1]"), "/to/1");
        assert_eq!(
            pointer_to("attachments[0].filename"),
            "/attachments/0/filename"
        );
        assert_eq!(pointer_to("headers.X-Id"), "/headers/X-Id");
        assert_eq!(pointer_to("headers.X.a[0]/~"), "/headers/X.a[0]~1~0");
    }

    #[test]
    fn what_quotes_a_request_is_cut_off() {
        let long = "é".repeat(100_000);
        let problem = Problem::invalid_field(long.clone(), long.clone());
        assert!(problem.pointers().all(|pointer| pointer.len() < 600));
        assert!(serde_json::to_string(&problem).is_ok_and(|json| json.len() < 3000));
        assert!(Problem::new(Kind::Malformed, long).detail.ends_with('…'));
    }

    #[test]
    fn what_passes_by_itself_says_when_to_come_back() {
        let full = Problem::from(Error::Full { pending: 5, max: 5 }).into_response();
        assert_eq!(full.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(full.headers().contains_key(header::RETRY_AFTER));
        let closed = Problem::from(Error::Spool(SpoolError::Closed)).into_response();
        assert_eq!(closed.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(closed.headers().contains_key(header::RETRY_AFTER));
    }
}

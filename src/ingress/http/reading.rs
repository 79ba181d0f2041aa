//! Parses a mail from JSON, and names all wrong fields.
//!
//! Parsing stops at the first mistake, so that valid mail costs nothing extra. Only then is the
//! request parsed again as a plain JSON value; each mistake is noted and replaced by something
//! valid, until no more is found. So one answer names every wrong field.
//!
//! *Invariant:* the memory for a request is bounded while it is parsed: lists by their parsers,
//! texts by the scan before (`outline`), and the mistakes of large requests are not searched for.

use serde_json::Value;

use super::fields::Base64;
use super::outline::{self, RequestKind};
use super::problem::{FieldError, Kind, Problem, malformed, misshapen};
use super::request::{ComposeContext, MailRequest};
use crate::mail::Mail;

/// The most mistakes that one answer names.
const MAX_ERRORS: usize = 32;

/// Above this size only the first mistake is named: finding all of them parses the request once for
/// each. The mails of a batch share this limit.
pub(super) const MAX_EXPLAINED: usize = 256 * 1024;

/// With more values than this only the first mistake is named: as a plain JSON value each takes
/// many times its size in the request.
const MAX_VALUES: usize = 100_000;

impl MailRequest {
    /// Parses a mail; its key may be in the header field `Idempotency-Key`.
    ///
    /// # Errors
    /// A problem that names every wrong field.
    pub fn read(
        json: &[u8],
        key: Option<&str>,
        context: ComposeContext<'_>,
    ) -> Result<Mail, Problem> {
        MailRequest::read_within(json, key, context, &mut { MAX_EXPLAINED })
    }

    /// As [`MailRequest::read`]; searches for further mistakes as long as `time_limit`, in bytes,
    /// is not used up.
    ///
    /// # Errors
    /// A problem that names every wrong field, or the first.
    pub fn read_within(
        json: &[u8],
        key: Option<&str>,
        context: ComposeContext<'_>,
        time_limit: &mut usize,
    ) -> Result<Mail, Problem> {
        let is_dense = match json.len() > outline::SMALL_REQUEST {
            true => outline::count(json, RequestKind::Mail)? > MAX_VALUES,
            false => false,
        };

        let mut explain = |first: Problem| match is_dense {
            true => Err(first),
            false => explain(json, key, context, first, time_limit),
        };

        match serde_json::from_slice::<MailRequest>(json) {
            // serde would also accept a list of all values in order, which is a mistake here.
            Ok(_) if json.trim_ascii_start().first() != Some(&b'{') => Err(Problem::invalid_field(
                "",
                "is a list, and a mail is an object",
            )),
            Ok(request) => request
                .into_mail(key, context)
                .or_else(|error| explain(error.into())),
            Err(error) if error.is_data() => explain(first_misshapen(json, &error)),
            Err(error) => Err(malformed(&error)),
        }
    }
}

/// The problem of JSON that is not a mail, with a pointer to the mistake.
fn first_misshapen(json: &[u8], error: &serde_json::Error) -> Problem {
    let mut reader = serde_json::Deserializer::from_slice(json);
    match serde_path_to_error::deserialize::<_, MailRequest>(&mut reader) {
        Err(error) => Problem::invalid(vec![misshapen(error)]),
        Ok(_) => Problem::invalid_field("", error.to_string()),
    }
}

/// Finds all mistakes in a mail of which `first` is known.
fn explain(
    json: &[u8],
    key: Option<&str>,
    context: ComposeContext<'_>,
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
    while let Err(error) = attempt(&value, key, context) {
        let error = FieldError {
            pointer: as_written(error.pointer, &value),
            ..error
        };
        if errors.iter().any(|known| known.pointer == error.pointer) {
            break;
        }
        let mended = replace_mistake(&mut value, &error.pointer);
        errors.push(error);
        if !mended || !thorough || errors.len() == MAX_ERRORS {
            break;
        }
    }

    // Mistakes that only the text shows, such as a repeated field, are not in `value`.
    for error in first.into_errors() {
        let pointer = as_written(error.pointer.clone(), &value);
        if !errors.iter().any(|known| known.pointer == pointer) {
            errors.insert(0, error);
        }
    }

    errors.truncate(MAX_ERRORS);
    Err(Problem::invalid(errors))
}

/// The first mistake in a mail.
fn attempt(
    value: &Value,
    key: Option<&str>,
    context: ComposeContext<'_>,
) -> Result<(), FieldError> {
    let request: MailRequest = serde_path_to_error::deserialize(value).map_err(misshapen)?;
    let made = request.into_mail(key, context);
    made.map(drop).map_err(FieldError::from)
}

/// The pointer to the value as given: for a single address, not that of a list's first entry.
fn as_written(pointer: String, mail: &Value) -> String {
    match pointer.strip_suffix("/0") {
        Some(one) if mail.pointer(one).is_some_and(Value::is_string) => one.to_owned(),
        _ => pointer,
    }
}

/// Empties files that are valid, since they contain no further mistake; returns the size of the
/// rest.
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

/// Replaces a mistake by a valid value, so that the next mistake is found. False if that is not
/// possible.
fn replace_mistake(mail: &mut Value, pointer: &str) -> bool {
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
                // There is a text besides it, which is sufficient.
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

/// The last name in a pointer that is not an index of a list.
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
    use crate::Templates;
    use serde_json::json;

    fn read(mail: &Value, key: Option<&str>) -> Result<Mail, Problem> {
        let context = ComposeContext {
            templates: &Templates::default(),
            shared: None,
        };
        MailRequest::read(mail.to_string().as_bytes(), key, context)
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
            "attachments": [{"filename": "", "content": "aGk="}, {"content": "?"}],
            "tags": "spring", "tag": "x",
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
            json!({
                "content_type": kind,
                "content": "QkVHSU46VkNBTEVOREFSCk1FVEhPRDpSRVFVRVNUCkVORDpWQ0FMRU5EQVIK",
            }),
        ] {
            let mail = json!({"from": "a@example.org", "to": "b@example.org", "text": "Lunch?",
                "html": "<p>Lunch?",
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
            "alternatives": [{"content_type": "calendar", "text": "x"}, {"text": "x"},
                {"content_type": kind}]});
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
        let mail = json!({"from": "a@example.org", "to": "b@example.org", "text": "t",
            "idempotency_key": "k"});
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

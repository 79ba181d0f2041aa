//! Options in the header section, for programs that can only write a message: the fields
//! `X-Postrider-Priority`, `-Key`, `-Send-At`, `-Expires-In`, `-List` and `-Tag` mean the same as
//! the fields of the JSON API. They are removed before the mail is sent.

use bytes::Bytes;

use super::header::{Field, Section, refuse};
use super::span::parse_span;
use super::{MailError, Options, When, compose};

const PREFIX: &str = "X-Postrider-";

/// Removes these fields from a message.
///
/// Returns the message without them, which is the same `Bytes` if there are none, and the options.
/// `-Send-At` is a time in RFC 3339; `-Expires-In` a span such as `5m`, or seconds; `-Tag` may
/// occur several times and contain several tags separated by commas.
///
/// # Errors
/// The error names the field (`headers.X-Postrider-Priority`): its value is invalid, it occurs
/// twice, or it is not one of these. The header section must be valid as for
/// [`Mail::from_rfc5322`](super::Mail::from_rfc5322).
///
/// ```
/// # fn main() -> Result<(), postrider::MailError> {
/// let written = "X-Postrider-Priority: critical\r\nX-Postrider-Tag: otp\r\n\
///                Subject: Your code\r\n\r\n123456\r\n";
/// let (message, options) = postrider::mail::take_directives(written.into())?;
/// assert_eq!(message, "Subject: Your code\r\n\r\n123456\r\n");
/// assert_eq!(options.priority, postrider::Priority::Critical);
/// assert_eq!(options.tags, ["otp"]);
/// # Ok(())
/// # }
/// ```
pub fn take_directives(message: Bytes) -> Result<(Bytes, Options), MailError> {
    let mut options = Options::default();
    let section = Section::read(&message)?;
    if !section.fields.iter().any(is_directive) {
        return Ok((message, options));
    }

    let mut rest = Vec::with_capacity(message.len());
    let mut seen: Vec<&str> = Vec::new();
    for field in &section.fields {
        if !is_directive(field) {
            rest.extend_from_slice(field.raw);
            continue;
        }
        let what = &field.name[PREFIX.len()..];
        if !what.eq_ignore_ascii_case("Tag")
            && seen
                .iter()
                .any(|earlier| earlier.eq_ignore_ascii_case(what))
        {
            return Err(refuse(field.name, "occurs twice"));
        }
        seen.push(what);
        read(field, what, &mut options)?;
    }

    let header: usize = section.fields.iter().map(|field| field.raw.len()).sum();
    rest.extend_from_slice(&message[header..]);
    compose::check_options(&options)?;
    Ok((Bytes::from(rest), options))
}

fn is_directive(field: &Field<'_>) -> bool {
    field
        .name
        .get(..PREFIX.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(PREFIX))
}

fn read(field: &Field<'_>, what: &str, options: &mut Options) -> Result<(), MailError> {
    let value = field.value();
    let value = value.trim();
    let fail = |reason: String| refuse(field.name, reason);
    match what.to_ascii_lowercase().as_str() {
        "priority" => {
            options.priority = value.parse().map_err(|error| refuse(field.name, error))?
        }
        "key" => options.idempotency_key = Some(value.to_owned()),
        "send-at" => {
            options.send = Some(When::At(
                value.parse().map_err(|error| refuse(field.name, error))?,
            ))
        }
        "list" => options.list = Some(value.to_owned()),
        "expires-in" => options.expires = Some(When::In(span(value).map_err(fail)?)),
        "tag" => {
            let tags = value
                .split(',')
                .map(str::trim)
                .filter(|tag| !tag.is_empty());
            options.tags.extend(tags.map(str::to_owned));
        }
        _ => {
            return Err(fail(format!(
                "is unknown; there are {PREFIX}Priority, -Key, -Send-At, -Expires-In, -List and \
                 -Tag"
            )));
        }
    }

    Ok(())
}

fn span(value: &str) -> Result<std::time::Duration, String> {
    parse_span(value).map_err(|why| {
        let value: String = value.chars().take(64).collect();
        format!("`{}` {why}", value.escape_debug())
    })
}

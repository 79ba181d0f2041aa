//! The body of a composed mail: text, HTML and files, nested as RFC 2046 and RFC 2387 require.
//!
//! From the outside in: `mixed` contains the message and the files; `alternative` the text and the
//! HTML, the better one last; `related` the HTML and its images. Each is omitted if it would
//! contain only one part.

use bytes::Bytes;
use lettre::message::header::{ContentTransferEncoding, ContentType};
use lettre::message::{Attachment as Part, Body, MultiPart, SinglePart};

use super::compose::{Alternative, Attachment};
use super::{MailError, freeze, mending};

/// The parts of a body.
#[derive(Debug, Default)]
pub(super) struct Parts {
    pub text: Option<String>,
    pub html: Option<String>,
    pub alternatives: Vec<Alternative>,
    pub attachments: Vec<Attachment>,
}

enum Node {
    Single(SinglePart),
    Multi(MultiPart),
}

impl Parts {
    /// The MIME fields, the empty line and the body.
    pub fn format(self) -> Result<Vec<u8>, MailError> {
        self.check()?;
        let (mut inline, mut files) = (Vec::new(), Vec::new());
        for (i, attachment) in self.attachments.into_iter().enumerate() {
            let list = if attachment.inline_id.is_some() {
                &mut inline
            } else {
                &mut files
            };
            list.push(part(attachment, i)?);
        }

        let text = self
            .text
            .map(|text| Node::Single(SinglePart::plain(with_crlf(text))));
        // Readers that prefer HTML would show an empty one instead of the text.
        let is_needed = text.is_none() || !inline.is_empty();
        let html = self
            .html
            .filter(|html| is_needed || !html.trim().is_empty())
            .map(|html| Node::Single(SinglePart::html(with_crlf(html))));

        let html = html.map(|html| gather(MultiPart::related().build(), html, inline));
        let mut forms: Vec<Node> = text.into_iter().chain(html).collect();
        for (i, alternative) in self.alternatives.into_iter().enumerate() {
            forms.push(Node::Single(other_form(alternative, i)?));
        }

        let message = match forms.len() {
            0 | 1 => forms.pop(),
            _ => Some(Node::Multi(
                forms
                    .into_iter()
                    .fold(MultiPart::alternative().build(), add),
            )),
        };

        let first = match message {
            Some(message) => message,
            None if files.is_empty() => {
                return Err(MailError::new(
                    "text",
                    "the mail has no text, no html and no file",
                ));
            }
            None => Node::Single(files.remove(0)),
        };

        Ok(match gather(MultiPart::mixed().build(), first, files) {
            Node::Single(part) => part.formatted(),
            Node::Multi(part) => part.formatted(),
        })
    }

    fn check(&self) -> Result<(), MailError> {
        for (field, text) in [("text", &self.text), ("html", &self.html)] {
            if text.as_ref().is_some_and(|text| text.contains('\0')) {
                return Err(MailError::new(field, "has a NUL character"));
            }
        }

        let mut ids = std::collections::HashSet::new();
        for (i, attachment) in self.attachments.iter().enumerate() {
            check_attachment(attachment, i)?;
            let Some(id) = &attachment.inline_id else {
                continue;
            };
            let field = format!("attachments[{i}].inline_id");
            if self.html.is_none() {
                return Err(MailError::new(field, "there is no html to show it in"));
            }
            if !ids.insert(id) {
                return Err(MailError::new(field, "another attachment has the same id"));
            }
        }

        Ok(())
    }
}

fn check_attachment(attachment: &Attachment, i: usize) -> Result<(), MailError> {
    let name = &attachment.filename;

    let fail = |field: &str, reason: &str| {
        Err(MailError::new(format!("attachments[{i}].{field}"), reason))
    };
    if name.chars().any(char::is_control) {
        return fail("filename", "has a control character");
    }
    if name.trim().is_empty() && attachment.inline_id.is_none() {
        return fail("filename", "is empty");
    }
    if name.len() > 255 {
        return fail("filename", "has more than 255 bytes");
    }

    let is_id = |id: &String| {
        !id.is_empty()
            && id.len() <= 255
            && id
                .bytes()
                .all(|byte| byte.is_ascii_graphic() && !b"<>\"".contains(&byte))
    };

    if !attachment.inline_id.as_ref().is_none_or(is_id) {
        return fail(
            "inline_id",
            "must be 1 to 255 visible ASCII characters without <, > and double quotes",
        );
    }

    Ok(())
}

/// Parses the media type of a part that is not multipart.
fn media_type(given: &str) -> Result<ContentType, String> {
    let given = given.trim();
    let is_plain = |byte: u8| byte == b' ' || byte.is_ascii_graphic();
    if given.len() > 255 || !given.bytes().all(is_plain) {
        return Err("must be at most 255 printable ASCII characters".to_owned());
    }

    let essence = given.split(';').next().unwrap_or_default().trim_end();
    let is_whole = !essence.starts_with('/') && !essence.ends_with('/');
    let parsed = Some(given).filter(|_| is_whole).map(ContentType::parse);
    let content_type = parsed
        .and_then(Result::ok)
        .ok_or_else(|| format!("`{given}` is not a media type, such as application/pdf"))?;

    if essence
        .get(..10)
        .is_some_and(|start| start.eq_ignore_ascii_case("multipart/"))
    {
        return Err("cannot be multipart".to_owned());
    }

    Ok(content_type)
}

/// A part of `multipart/alternative`.
fn other_form(alternative: Alternative, i: usize) -> Result<SinglePart, MailError> {
    let content_type = media_type(&alternative.content_type)
        .map_err(|reason| MailError::new(format!("alternatives[{i}].content_type"), reason))?;
    let fail = |reason: &str| MailError::new(format!("alternatives[{i}].content"), reason);
    if alternative.content.is_empty() {
        return Err(fail("is empty"));
    }

    let is_text = alternative.content_type.trim_start().get(..5);
    let body = match is_text.is_some_and(|start| start.eq_ignore_ascii_case("text/")) {
        false => Body::new(Vec::from(alternative.content)),
        true => match String::from_utf8(alternative.content.into()) {
            Ok(text) if text.contains('\0') => return Err(fail("has a NUL character")),
            Ok(text) => Body::new(with_crlf(text)),
            Err(_) => return Err(fail("is not UTF-8")),
        },
    };

    Ok(SinglePart::builder().header(content_type).body(body))
}

fn part(attachment: Attachment, i: usize) -> Result<SinglePart, MailError> {
    let content_type = media_type(&attachment.content_type)
        .map_err(|reason| MailError::new(format!("attachments[{i}].content_type"), reason))?;
    let essence = attachment
        .content_type
        .split(';')
        .next()
        .unwrap_or_default()
        .trim();
    let essence = essence.to_ascii_lowercase();

    let name = attachment.filename;
    let part = match attachment.inline_id {
        None => Part::new(name),
        Some(id) if name.trim().is_empty() => Part::new_inline(id),
        Some(id) => Part::new_inline_with_name(id, name),
    };

    let content = match essence {
        // RFC 6532 §3.7 allows this type to be encoded.
        kind if kind.starts_with("message/") && !kind.starts_with("message/global") => {
            message(&attachment.content)
                .map_err(|reason| MailError::new(format!("attachments[{i}].content"), reason))?
        }
        _ => Body::new_with_encoding(
            Vec::from(attachment.content),
            ContentTransferEncoding::Base64,
        )
        .expect("base64 encodes everything"),
    };

    Ok(part.body(content, content_type))
}

/// An attached message, of which only the parts may be encoded (RFC 2046 §5.2.1).
fn message(content: &Bytes) -> Result<Body, String> {
    let mut whole = Vec::with_capacity(content.len() + content.len() / 32);
    freeze::write_crlf(&mending::embedded(content.clone()), &mut whole);
    if whole.contains(&0) || mending::has_long_line(&whole) {
        let reason = "is a message with a NUL or a line of more than 998 bytes that cannot be \
                      encoded: attach it as application/octet-stream";
        return Err(reason.to_owned());
    }
    let encoding = match whole.is_ascii() {
        true => ContentTransferEncoding::SevenBit,
        false => ContentTransferEncoding::EightBit,
    };
    Ok(Body::dangerous_pre_encoded(whole, encoding))
}

/// `first` alone, or in `multi` with the others.
fn gather(multi: MultiPart, first: Node, others: Vec<SinglePart>) -> Node {
    if others.is_empty() {
        return first;
    }
    Node::Multi(
        others
            .into_iter()
            .fold(add(multi, first), MultiPart::singlepart),
    )
}

fn add(multi: MultiPart, part: Node) -> MultiPart {
    match part {
        Node::Single(part) => multi.singlepart(part),
        Node::Multi(part) => multi.multipart(part),
    }
}

/// The text with CRLF line ends. lettre would do that in quadratic time.
fn with_crlf(text: String) -> String {
    if !text.contains(['\r', '\n']) {
        return text;
    }
    let mut out = Vec::with_capacity(text.len() + text.len() / 32);
    freeze::write_crlf(text.as_bytes(), &mut out);
    String::from_utf8(out).expect("text stays text when line ends are replaced")
}

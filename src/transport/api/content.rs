//! A frozen message taken apart, for the providers that build their own from the parts; and, for
//! those that read the recipients from the header, a copy whose header says the envelope.
//!
//! *Invariant:* what a provider cannot be told is refused here, by name, before anything is sent;
//! and nobody becomes a recipient who is none in the envelope.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mail_parser::{Message, MessagePart, MimeHeaders, PartType};

use super::RequestMail;
use crate::mail::{Address, parsed};
use crate::transport::Transaction;

/// The most levels of parts within parts.
const MAX_DEPTH: usize = 16;

/// Fields that say what the provider is told in other ways, or that it writes itself.
const OMITTED_FIELDS: [&str; 14] = [
    "from",
    "to",
    "cc",
    "bcc",
    "reply-to",
    "subject",
    "date",
    "mime-version",
    "received",
    "return-path",
    "dkim-signature",
    "authentication-results",
    "x-mailer",
    "sender",
];

/// Parameters of a content type that are not passed on.
const OMITTED_PARAMETERS: [&str; 5] = ["name", "charset", "boundary", "format", "delsp"];

/// A mailbox of the header.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Mailbox {
    pub name: Option<String>,
    pub address: String,
}

impl Mailbox {
    /// `"Ada" <ada@example.org>` in one string, as RFC 5322 §3.4 writes it.
    pub fn text(&self) -> String {
        match &self.name {
            Some(name) => {
                let quoted = name.replace('\\', "\\\\").replace('"', "\\\"");
                format!("\"{quoted}\" <{}>", self.address)
            }
            None => self.address.clone(),
        }
    }
}

/// A file that comes with the mail.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ContentAttachment {
    pub filename: String,
    pub content_type: String,
    /// In base64.
    pub content: String,
    /// What `cid:` names, where the HTML shows it.
    pub inline_id: Option<String>,
}

/// A message in parts, addressed to exactly the recipients of one request.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct MessageContent {
    pub from: Option<Mailbox>,
    pub to: Vec<Mailbox>,
    pub cc: Vec<Mailbox>,
    pub bcc: Vec<Mailbox>,
    pub reply_to: Vec<Mailbox>,
    pub subject: String,
    pub text: Option<String>,
    pub html: Option<String>,
    pub attachments: Vec<ContentAttachment>,
    /// The other fields of the header, in order, each on one line.
    pub headers: Vec<(String, String)>,
}

impl MessageContent {
    /// Takes a mail apart.
    ///
    /// # Errors
    /// What cannot be said in parts.
    pub fn of(mail: &RequestMail<'_>) -> Result<Self, String> {
        let message = parse(mail)?;
        let mut content = MessageContent {
            from: message.from().and_then(|from| first(from.iter())),
            reply_to: message.reply_to().map(mailboxes).unwrap_or_default(),
            subject: message.subject().unwrap_or_default().to_owned(),
            headers: other_fields(&message)?,
            ..MessageContent::default()
        };

        if content.from.is_none() {
            return Err("the message has no From with an address".into());
        }
        if message.from().is_some_and(|from| from.iter().count() > 1) {
            return Err("the message has several authors in From".into());
        }
        content.address(&message, mail.recipients);
        content.take_part(&message, 0, 0)?;

        Ok(content)
    }

    /// Sorts the recipients into To, Cc and Bcc as the header does; whom it does not name is Bcc.
    fn address(&mut self, message: &Message<'_>, recipients: &[Address]) {
        let named =
            |list: Option<&mail_parser::Address<'_>>| list.map(mailboxes).unwrap_or_default();
        let (to, cc) = (named(message.to()), named(message.cc()));

        for recipient in recipients {
            let is = |mailbox: &&Mailbox| is_same(&mailbox.address, recipient);
            if let Some(mailbox) = to.iter().find(is) {
                self.to.push(mailbox.clone());
            } else if let Some(mailbox) = cc.iter().find(is) {
                self.cc.push(mailbox.clone());
            } else {
                self.bcc.push(Mailbox {
                    name: None,
                    address: recipient.as_str().to_owned(),
                });
            }
        }
    }

    fn take_part(&mut self, message: &Message<'_>, index: u32, depth: usize) -> Result<(), String> {
        if depth > MAX_DEPTH {
            return Err(format!("the message has parts {MAX_DEPTH} levels deep"));
        }
        let Some(part) = message.part(index) else {
            return Ok(());
        };
        let PartType::Multipart(children) = &part.body else {
            return self.take_leaf(part);
        };

        let kind = part.content_type().and_then(|kind| kind.subtype());
        match kind.unwrap_or("mixed").to_ascii_lowercase().as_str() {
            kind @ ("signed" | "encrypted" | "report") => Err(format!(
                "the message is multipart/{kind}, which would not survive being built anew"
            )),
            "alternative" => {
                for child in children {
                    if let Some(kind) = message.part(*child).and_then(unknown_alternative) {
                        return Err(format!("the message has an alternative of type {kind}"));
                    }
                    self.take_part(message, *child, depth + 1)?;
                }
                Ok(())
            }
            _ => children
                .iter()
                .try_for_each(|child| self.take_part(message, *child, depth + 1)),
        }
    }

    fn take_leaf(&mut self, part: &MessagePart<'_>) -> Result<(), String> {
        let is_file = part
            .content_disposition()
            .is_some_and(|disposition| disposition.is_attachment())
            || part.attachment_name().is_some();

        match &part.body {
            PartType::Text(text) if !is_file && is_plain(part) && self.text.is_none() => {
                self.text = Some(text.to_string());
            }
            PartType::Html(html) if !is_file && self.html.is_none() => {
                self.html = Some(html.to_string());
            }
            _ => self
                .attachments
                .push(attachment(part, self.attachments.len())),
        }

        Ok(())
    }
}

/// Which recipients go together in one request of a provider that wants somebody in `to`: those
/// whom the header names, and with them as many hidden ones as there is room for. Each hidden one
/// that is left goes alone, so that it stands in `to` and nobody else sees it.
pub(super) fn groups(mail: &Transaction, limit: usize) -> Vec<Vec<usize>> {
    let parsed = parsed(&mail.message[..]);
    let named: Vec<Mailbox> = parsed
        .iter()
        .flat_map(|message| [message.to(), message.cc()])
        .flatten()
        .flat_map(mailboxes)
        .collect();

    let is_named = |place: &usize| {
        let recipient = &mail.recipients[*place];
        named
            .iter()
            .any(|mailbox| is_same(&mailbox.address, recipient))
    };
    let (named, hidden): (Vec<usize>, Vec<usize>) = (0..mail.recipients.len()).partition(is_named);

    let mut groups: Vec<Vec<usize>> = named.chunks(limit).map(<[usize]>::to_vec).collect();
    let mut hidden = hidden.into_iter();
    if let Some(last) = groups.last_mut() {
        let room = limit - last.len();
        last.extend(hidden.by_ref().take(room));
    }

    groups.extend(hidden.map(|place| vec![place]));
    groups
}

/// The mailboxes for `to` and for `bcc`: somebody who is hidden and alone in a request may well
/// see himself.
pub(super) fn with_somebody_in_to(content: &MessageContent) -> (&[Mailbox], &[Mailbox]) {
    match content.to.is_empty() && content.cc.is_empty() {
        true => (&content.bcc, &[]),
        false => (&content.to, &content.bcc),
    }
}

/// A copy of the message whose To, Cc and Bcc name exactly the envelope's recipients.
///
/// # Errors
/// Where the header names somebody who is no recipient of this request: they would get it too.
pub(super) fn with_envelope_in_header(mail: &RequestMail<'_>) -> Result<Vec<u8>, String> {
    let message = parse(mail)?;
    let named: Vec<Mailbox> = [message.to(), message.cc(), message.bcc()]
        .into_iter()
        .flatten()
        .flat_map(mailboxes)
        .collect();

    let all = &mail.transaction.recipients;
    let stranger = named
        .iter()
        .find(|mailbox| !all.iter().any(|to| is_same(&mailbox.address, to)));
    if let Some(stranger) = stranger {
        return Err(format!(
            "the provider reads the recipients from the header, and {} is in it but is no \
             recipient of this mail on this route",
            stranger.address
        ));
    }

    if mail.recipients.len() < all.len() && !named.is_empty() {
        return Err(format!(
            "the provider takes {} recipients of one message, and this one has {}",
            mail.recipients.len(),
            all.len()
        ));
    }

    let hidden: Vec<&str> = mail
        .recipients
        .iter()
        .filter(|to| !named.iter().any(|mailbox| is_same(&mailbox.address, to)))
        .map(Address::as_str)
        .collect();

    let mut copy = Vec::with_capacity(mail.transaction.message.len() + 64 * hidden.len());
    // In front: Gmail does not see what stands behind Content-Type.
    if !hidden.is_empty() {
        copy.extend_from_slice(b"Bcc: ");
        copy.extend_from_slice(hidden.join(",\r\n ").as_bytes());
        copy.extend_from_slice(b"\r\n");
    }

    copy.extend_from_slice(&mail.transaction.message);
    Ok(copy)
}

fn parse<'a>(mail: &RequestMail<'a>) -> Result<Message<'a>, String> {
    parsed(&mail.transaction.message[..]).ok_or_else(|| {
        "the message cannot be parsed, or too many messages are nested in it".to_owned()
    })
}

fn mailboxes(list: &mail_parser::Address<'_>) -> Vec<Mailbox> {
    list.iter().filter_map(|address| first([address])).collect()
}

fn first<'a, 'b: 'a>(list: impl IntoIterator<Item = &'a mail_parser::Addr<'b>>) -> Option<Mailbox> {
    let address = list.into_iter().next()?;
    Some(Mailbox {
        name: address
            .name()
            .filter(|name| !name.is_empty())
            .map(str::to_owned),
        address: address.address()?.to_owned(),
    })
}

fn is_same(written: &str, recipient: &Address) -> bool {
    Address::parse(written)
        .is_ok_and(|address| address.as_str().eq_ignore_ascii_case(recipient.as_str()))
}

/// The fields that are passed on as they are.
fn other_fields(message: &Message<'_>) -> Result<Vec<(String, String)>, String> {
    let mut fields: Vec<(String, String)> = Vec::new();
    for (name, value) in message.headers_raw() {
        let lower = name.to_ascii_lowercase();
        if OMITTED_FIELDS.contains(&lower.as_str()) || lower.starts_with("content-") {
            continue;
        }
        if fields
            .iter()
            .any(|(known, _)| known.eq_ignore_ascii_case(name))
        {
            return Err(format!("the message has two {name} fields"));
        }
        let unfolded: Vec<&str> = value.lines().map(str::trim).collect();
        let value = unfolded.join(" ").trim().to_owned();
        fields.push((name.to_owned(), value));
    }

    Ok(fields)
}

/// The type of an alternative that is neither text nor HTML.
fn unknown_alternative(part: &MessagePart<'_>) -> Option<String> {
    let known = match &part.body {
        PartType::Html(_) | PartType::Multipart(_) => true,
        PartType::Text(_) => is_plain(part),
        _ => false,
    };
    (!known).then(|| content_type(part))
}

fn is_plain(part: &MessagePart<'_>) -> bool {
    matches!(content_type(part).as_str(), "text/plain")
}

fn content_type(part: &MessagePart<'_>) -> String {
    match part.content_type() {
        Some(kind) => {
            let (kind, subtype) = (kind.ctype(), kind.subtype().unwrap_or("octet-stream"));
            format!("{kind}/{subtype}").to_ascii_lowercase()
        }
        None if part.is_text() => "text/plain".into(),
        None => "application/octet-stream".into(),
    }
}

/// A file's type with its parameters, such as an invitation's `method`. Text was decoded, and is
/// UTF-8 from here on.
fn file_type(part: &MessagePart<'_>) -> String {
    let mut kind = content_type(part);
    let parameters = part.content_type().and_then(|kind| kind.attributes());
    for parameter in parameters.into_iter().flatten() {
        let name = parameter.name.to_ascii_lowercase();
        if !OMITTED_PARAMETERS.contains(&name.as_str()) && parameter.value.is_ascii() {
            let value = parameter.value.replace('\\', "\\\\").replace('"', "\\\"");
            kind.push_str(&format!("; {name}=\"{value}\""));
        }
    }

    if matches!(&part.body, PartType::Text(_) | PartType::Html(_)) {
        kind.push_str("; charset=\"utf-8\"");
    }
    kind
}

fn attachment(part: &MessagePart<'_>, number: usize) -> ContentAttachment {
    let content_type = file_type(part);
    let content = match &part.body {
        PartType::Message(message) => message.raw_message(),
        _ => part.contents(),
    };

    let is_attachment = part
        .content_disposition()
        .is_some_and(|disposition| disposition.is_attachment());
    ContentAttachment {
        filename: part
            .attachment_name()
            .map_or_else(|| format!("attachment-{}", number + 1), str::to_owned),
        content_type,
        content: STANDARD.encode(content),
        inline_id: part
            .content_id()
            .filter(|_| !is_attachment)
            .map(str::to_owned),
    }
}

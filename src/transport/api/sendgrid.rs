//! SendGrid, `mail/send`: the message is built anew from its parts.

use std::time::Duration;

use serde_json::{Value, json};

use super::content::{ContentAttachment, Mailbox, MessageContent, groups, with_somebody_in_to};
use super::{ProviderApi, Request, RequestLimits, RequestMail, Verdict, by_status, retry_after};
use crate::mail::Timestamp;
use crate::transport::Transaction;
use crate::transport::http::HttpAnswer;

pub(super) struct SendGrid {
    key: String,
}

impl SendGrid {
    pub(super) fn new(key: String) -> Self {
        SendGrid { key }
    }
}

impl ProviderApi for SendGrid {
    fn limits(&self) -> RequestLimits {
        RequestLimits {
            recipients: 1000,
            bytes: 20 * 1024 * 1024,
        }
    }

    fn requests(&self, mail: &Transaction) -> Vec<Vec<usize>> {
        groups(mail, self.limits().recipients)
    }

    fn request(&self, mail: &RequestMail<'_>) -> Result<Request, String> {
        let content = MessageContent::of(mail)?;
        let (to, bcc) = with_somebody_in_to(&content);
        let mut envelope = json!({});
        for (key, list) in [("to", to), ("cc", &content.cc), ("bcc", bcc)] {
            if !list.is_empty() {
                envelope[key] = list.iter().map(mailbox).collect();
            }
        }

        let mut body = json!({
            "personalizations": [envelope],
            "from": content.from.as_ref().map(mailbox),
            "subject": content.subject,
        });

        // Text before HTML, as SendGrid demands.
        let parts = [("text/plain", &content.text), ("text/html", &content.html)];
        let parts = parts.iter().filter_map(|(kind, value)| {
            let value = value.as_deref().filter(|value| !value.is_empty())?;
            Some(json!({"type": kind, "value": value}))
        });

        let parts: Vec<Value> = parts.collect();
        if parts.is_empty() {
            return Err("SendGrid takes no message without a text".into());
        }
        body["content"] = parts.into();

        match content.reply_to.as_slice() {
            [] => {}
            [one] => body["reply_to"] = mailbox(one),
            several => body["reply_to_list"] = several.iter().map(mailbox).collect(),
        }

        if !content.headers.is_empty() {
            let fields = content.headers.iter();
            let fields: serde_json::Map<String, Value> = fields
                .map(|(name, value)| (name.clone(), value.as_str().into()))
                .collect();
            body["headers"] = fields.into();
        }

        if !content.attachments.is_empty() {
            body["attachments"] = content.attachments.iter().map(attachment).collect();
        }
        Ok(Request::json("/v3/mail/send", &body)
            .header("authorization", format!("Bearer {}", self.key)))
    }

    fn judge(&self, answer: &HttpAnswer) -> Verdict {
        if answer.status == 202 {
            return Verdict::accepted(answer.header("x-message-id"));
        }
        let body = answer.json();
        let messages = body["errors"]
            .as_array()
            .map(Vec::as_slice)
            .unwrap_or_default();
        let messages: Vec<&str> = messages
            .iter()
            .filter_map(|error| error["message"].as_str())
            .collect();

        let text = messages.join("; ");
        match answer.status {
            429 => Verdict::TooFast(retry_after(answer).or_else(|| reset(answer)), text),
            _ => by_status(answer, text),
        }
    }
}

/// `X-RateLimit-Reset` says when, in seconds since 1970.
fn reset(answer: &HttpAnswer) -> Option<Duration> {
    let at: i64 = answer.header("x-ratelimit-reset")?.trim().parse().ok()?;
    let wait = at - Timestamp::now().as_millis() / 1000;
    Some(Duration::from_secs(u64::try_from(wait).unwrap_or(0).max(1)))
}

fn mailbox(mailbox: &Mailbox) -> Value {
    match &mailbox.name {
        Some(name) => json!({"name": name, "email": mailbox.address}),
        None => json!({"email": mailbox.address}),
    }
}

fn attachment(file: &ContentAttachment) -> Value {
    let mut json = json!({
        "filename": file.filename,
        "type": file.content_type,
        "content": file.content,
        "disposition": "attachment",
    });
    if let Some(id) = &file.inline_id {
        json["disposition"] = "inline".into();
        json["content_id"] = id.as_str().into();
    }
    json
}

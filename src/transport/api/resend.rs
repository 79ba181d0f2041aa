//! Resend, `emails`: the message is built anew from its parts.

use serde_json::{Value, json};

use super::content::{ContentAttachment, Mailbox, MessageContent, groups, with_somebody_in_to};
use super::{ProviderApi, Request, RequestLimits, RequestMail, Verdict, by_status, retry_after};
use crate::transport::Transaction;
use crate::transport::http::HttpAnswer;

pub(super) struct Resend {
    key: String,
}

impl Resend {
    pub(super) fn new(key: String) -> Self {
        Resend { key }
    }
}

impl ProviderApi for Resend {
    fn limits(&self) -> RequestLimits {
        RequestLimits {
            recipients: 50,
            bytes: 28 * 1024 * 1024,
        }
    }

    fn requests(&self, mail: &Transaction) -> Vec<Vec<usize>> {
        groups(mail, self.limits().recipients)
    }

    fn request(&self, mail: &RequestMail<'_>) -> Result<Request, String> {
        let content = MessageContent::of(mail)?;
        let (to, bcc) = with_somebody_in_to(&content);
        let mut body = json!({
            "from": content.from.as_ref().map(Mailbox::text),
            "subject": content.subject,
        });

        for (key, list) in [
            ("to", to),
            ("cc", &content.cc),
            ("bcc", bcc),
            ("reply_to", &content.reply_to),
        ] {
            if !list.is_empty() {
                body[key] = list.iter().map(Mailbox::text).collect();
            }
        }

        for (key, text) in [("text", &content.text), ("html", &content.html)] {
            if let Some(text) = text {
                body[key] = text.as_str().into();
            }
        }

        let fields = content.headers.iter();
        let fields: serde_json::Map<String, Value> = fields
            .map(|(name, value)| (name.clone(), value.as_str().into()))
            .collect();
        body["headers"] = fields.into();
        if !content.attachments.is_empty() {
            body["attachments"] = content.attachments.iter().map(attachment).collect();
        }

        Ok(Request::json("/emails", &body)
            .header("authorization", format!("Bearer {}", self.key))
            .header("idempotency-key", mail.key.as_str()))
    }

    fn judge(&self, answer: &HttpAnswer) -> Verdict {
        let body = answer.json();
        if answer.status == 200 {
            return Verdict::accepted(body["id"].as_str());
        }

        let name = body["name"].as_str().unwrap_or_default();
        let text = format!("{name} {}", body["message"].as_str().unwrap_or_default());
        match name {
            // The first request with this key said something else; it may have arrived.
            "invalid_idempotent_request" => Verdict::PerhapsTaken(text),
            "concurrent_idempotent_requests" => Verdict::Repeat(text),
            "daily_quota_exceeded"
            | "monthly_quota_exceeded"
            | "invalid_api_key"
            | "missing_api_key"
            | "restricted_api_key" => Verdict::Account(text),
            "rate_limit_exceeded" => Verdict::TooFast(retry_after(answer), text),
            _ => by_status(answer, text),
        }
    }

    fn knows_repeats(&self) -> bool {
        true
    }

    fn knows_late_repeats(&self) -> bool {
        true
    }
}

fn attachment(file: &ContentAttachment) -> Value {
    let mut json = json!({
        "filename": file.filename,
        "content_type": file.content_type,
        "content": file.content,
    });
    if let Some(id) = &file.inline_id {
        json["content_id"] = id.as_str().into();
    }
    json
}

//! Brevo, `smtp/email`: the message is built anew from its parts.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::content::{Mailbox, MessageContent, groups, with_somebody_in_to};
use super::{ProviderApi, Request, RequestLimits, RequestMail, Verdict, by_status};
use crate::transport::Transaction;
use crate::transport::http::HttpAnswer;

pub(super) struct Brevo {
    key: String,
}

impl Brevo {
    pub(super) fn new(key: String) -> Self {
        Brevo { key }
    }
}

impl ProviderApi for Brevo {
    fn limits(&self) -> RequestLimits {
        RequestLimits {
            recipients: 99,
            bytes: 20 * 1024 * 1024,
        }
    }

    fn requests(&self, mail: &Transaction) -> Vec<Vec<usize>> {
        groups(mail, self.limits().recipients)
    }

    fn request(&self, mail: &RequestMail<'_>) -> Result<Request, String> {
        let content = MessageContent::of(mail)?;
        if content
            .attachments
            .iter()
            .any(|file| file.inline_id.is_some())
        {
            return Err("Brevo has no images inside the HTML".into());
        }

        // It decodes encoded words, and sends what was in them as it is.
        let is_mangled = |value: &str| !value.is_ascii() || value.contains("=?");
        if let Some((name, _)) = content.headers.iter().find(|(_, value)| is_mangled(value)) {
            return Err(format!("Brevo mangles {name}, which is not ASCII"));
        }
        if content.reply_to.len() > 1 {
            return Err("Brevo takes one address in Reply-To".into());
        }

        let mut headers: serde_json::Map<String, Value> = content
            .headers
            .iter()
            .map(|(name, value)| (name.clone(), value.as_str().into()))
            .collect();

        headers.insert("idempotencyKey".into(), mail.key.as_str().into());
        let mut body = json!({
            "sender": content.from.as_ref().map(mailbox),
            "subject": content.subject,
            "headers": headers,
        });

        let (to, bcc) = with_somebody_in_to(&content);
        for (key, list) in [("to", to), ("cc", &content.cc), ("bcc", bcc)] {
            if !list.is_empty() {
                body[key] = list.iter().map(mailbox).collect();
            }
        }

        if let Some(reply_to) = content.reply_to.first() {
            body["replyTo"] = mailbox(reply_to);
        }
        if let Some(text) = &content.text {
            body["textContent"] = text.as_str().into();
        }
        if let Some(html) = &content.html {
            body["htmlContent"] = html.as_str().into();
        }
        if !content.attachments.is_empty() {
            let file = |file: &super::content::ContentAttachment| {
                json!({"name": file.filename,
                "content": file.content})
            };
            body["attachment"] = content.attachments.iter().map(file).collect();
        }

        Ok(Request::json("/v3/smtp/email", &body).header("api-key", self.key.as_str()))
    }

    fn judge(&self, answer: &HttpAnswer) -> Verdict {
        let body = answer.json();
        if answer.status == 201 {
            return Verdict::accepted(body["messageId"].as_str());
        }

        let code = body["code"].as_str().unwrap_or_default();
        let text = format!("{code} {}", body["message"].as_str().unwrap_or_default());
        match code {
            "unauthorized"
            | "not_enough_credits"
            | "permission_denied"
            | "account_under_validation" => Verdict::Account(text),
            _ if answer.status == 429 => {
                let reset = answer.header("x-sib-ratelimit-reset");
                let seconds = reset.and_then(|seconds| seconds.trim().parse().ok());
                Verdict::TooFast(seconds.map(Duration::from_secs), text)
            }
            "duplicate_request" => Verdict::accepted(body["messageId"].as_str()),
            "invalid_parameter" | "missing_parameter" | "out_of_range" | "document_not_found" => {
                Verdict::Rejected(text)
            }
            _ => by_status(answer, text),
        }
    }

    fn knows_repeats(&self) -> bool {
        true
    }
}

/// Brevo drops a name beyond ASCII that has characters which RFC 5322 §3.2.3 wants quoted, unless
/// it comes in encoded words.
fn mailbox(mailbox: &Mailbox) -> Value {
    let is_special = |c: char| "()<>@,:;\".[]\\".contains(c);
    match &mailbox.name {
        Some(name) if !name.is_ascii() && name.contains(is_special) => {
            json!({"name": encoded_words(name), "email": mailbox.address})
        }
        Some(name) => json!({"name": name, "email": mailbox.address}),
        None => json!({"email": mailbox.address}),
    }
}

/// Text as words of RFC 2047, none longer than its 75 characters (§2).
fn encoded_words(text: &str) -> String {
    let mut words: Vec<String> = Vec::new();
    let mut word = String::new();
    for c in text.chars() {
        if word.len() + c.len_utf8() > 45 {
            words.push(std::mem::take(&mut word));
        }
        word.push(c);
    }

    words.push(word);

    let encoded = words
        .iter()
        .map(|word| format!("=?utf-8?b?{}?=", STANDARD.encode(word)));
    encoded.collect::<Vec<_>>().join(" ")
}

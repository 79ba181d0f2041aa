//! Postmark, `email`: the message is built anew from its parts.

use serde_json::{Value, json};

use super::content::{ContentAttachment, Mailbox, MessageContent, groups, with_somebody_in_to};
use super::{ProviderApi, Request, RequestLimits, RequestMail, Verdict, by_status, retry_after};
use crate::transport::Transaction;
use crate::transport::http::HttpAnswer;

pub(super) struct Postmark {
    key: String,
}

impl Postmark {
    pub(super) fn new(key: String) -> Self {
        Postmark { key }
    }
}

impl ProviderApi for Postmark {
    fn limits(&self) -> RequestLimits {
        RequestLimits {
            recipients: 50,
            bytes: 10 * 1024 * 1024,
        }
    }

    fn requests(&self, mail: &Transaction) -> Vec<Vec<usize>> {
        groups(mail, self.limits().recipients)
    }

    fn request(&self, mail: &RequestMail<'_>) -> Result<Request, String> {
        let content = MessageContent::of(mail)?;
        let (to, bcc) = with_somebody_in_to(&content);
        let mut body = json!({
            "From": content.from.as_ref().map(Mailbox::text),
            "Subject": content.subject,
        });

        for (key, list) in [
            ("To", to),
            ("Cc", &content.cc),
            ("Bcc", bcc),
            ("ReplyTo", &content.reply_to),
        ] {
            if !list.is_empty() {
                let list: Vec<String> = list.iter().map(Mailbox::text).collect();
                body[key] = list.join(", ").into();
            }
        }

        for (key, text) in [("TextBody", &content.text), ("HtmlBody", &content.html)] {
            if let Some(text) = text {
                body[key] = text.as_str().into();
            }
        }

        // Its events bring back what stands here, and no field of the header.
        let is_token = |field: &&(String, String)| field.0.eq_ignore_ascii_case("x-return-token");
        if let Some((_, token)) = content.headers.iter().find(is_token) {
            body["Metadata"] = json!({"return-token": token});
        }

        let fields = content.headers.iter();
        let mut fields: Vec<Value> = fields
            .map(|(name, value)| json!({"Name": name, "Value": value}))
            .collect();
        // Without it Postmark writes a Message-ID of its own.
        fields.push(json!({"Name": "X-PM-KeepID", "Value": "true"}));
        body["Headers"] = fields.into();
        if !content.attachments.is_empty() {
            body["Attachments"] = content.attachments.iter().map(attachment).collect();
        }

        Ok(Request::json("/email", &body).header("x-postmark-server-token", self.key.as_str()))
    }

    fn judge(&self, answer: &HttpAnswer) -> Verdict {
        let body = answer.json();
        let Some(code) = body["ErrorCode"].as_i64() else {
            // A 403 in HTML is a firewall's.
            return by_status(answer, String::new());
        };

        let message = body["Message"].as_str().unwrap_or_default();
        let text = format!("{code} {message}");
        match code {
            0 if answer.status == 200 => match partly_refused(message) {
                Some(except) => Verdict::Accepted {
                    id: body["MessageID"].as_str().map(str::to_owned),
                    except,
                    reason: text,
                },
                None => Verdict::accepted(body["MessageID"].as_str()),
            },
            10 | 400 | 401 | 405 | 412 | 413 => Verdict::Account(text),
            300 | 406 => Verdict::Rejected(text),
            100 | 429 => Verdict::TooFast(retry_after(answer), text),
            _ => by_status(answer, text),
        }
    }
}

/// `Message OK, but will not deliver to these inactive addresses: a@example.org, b@example.org`
fn partly_refused(message: &str) -> Option<Vec<String>> {
    let (_, list) = message.split_once("inactive addresses:")?;
    let addresses = list.split(',').map(|address| {
        let address = address.split_whitespace().next().unwrap_or_default();
        address.trim_end_matches('.').to_owned()
    });
    Some(addresses.filter(|address| address.contains('@')).collect())
}

fn attachment(file: &ContentAttachment) -> Value {
    let mut json = json!({
        "Name": file.filename,
        "ContentType": file.content_type,
        "Content": file.content,
    });
    if let Some(id) = &file.inline_id {
        json["ContentID"] = format!("cid:{id}").into();
    }
    json
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_does_not_get_it_is_read_from_the_message() {
        let message = "Message OK, but will not deliver to these inactive addresses: \
                       a@example.org, b@example.org. Inactive recipients are ones that have hard \
                       bounced.";
        assert_eq!(
            partly_refused(message),
            Some(vec!["a@example.org".into(), "b@example.org".into()])
        );
        assert_eq!(partly_refused("OK"), None);
    }
}

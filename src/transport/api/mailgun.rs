//! Mailgun, `messages.mime`: the message's bytes stay.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::{ProviderApi, Request, RequestLimits, RequestMail, Verdict, by_status};
use crate::transport::http::HttpAnswer;

pub(super) struct Mailgun {
    domain: String,
    key: String,
}

impl Mailgun {
    pub(super) fn new(domain: String, key: String) -> Self {
        Mailgun { domain, key }
    }
}

impl ProviderApi for Mailgun {
    fn limits(&self) -> RequestLimits {
        RequestLimits {
            recipients: 1000,
            bytes: 25 * 1024 * 1024,
        }
    }

    fn request(&self, mail: &RequestMail<'_>) -> Result<Request, String> {
        let recipients: Vec<&str> = mail.recipients.iter().map(|to| to.as_str()).collect();
        // A line of a message that looks like it would end the part: the key is not in any.
        let boundary = format!("postrider-{}", mail.key);

        let mut body = Vec::with_capacity(mail.transaction.message.len() + 1024);
        body.extend_from_slice(
            format!(
                "--{boundary}\r\nContent-Disposition: form-data; name=\"to\"\r\n\r\n{}\r\n\
                 --{boundary}\r\nContent-Disposition: form-data; name=\"message\"; \
                 filename=\"message.eml\"\r\nContent-Type: message/rfc822\r\n\r\n",
                recipients.join(",")
            )
            .as_bytes(),
        );

        body.extend_from_slice(&mail.transaction.message);
        body.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());

        let login = STANDARD.encode(format!("api:{}", self.key));
        let request = Request {
            path: format!("/v3/{}/messages.mime", self.domain),
            content_type: format!("multipart/form-data; boundary={boundary}"),
            headers: Vec::new(),
            body,
        };

        Ok(request.header("authorization", format!("Basic {login}")))
    }

    fn judge(&self, answer: &HttpAnswer) -> Verdict {
        let body = answer.json();
        let text = body["message"].as_str().unwrap_or_default().to_owned();
        match answer.status {
            200 if text.starts_with("Queued") => Verdict::accepted(body["id"].as_str()),
            // A wrong path answers 200 `Mailgun Magnificent API`.
            200 => Verdict::Account(format!("nothing was queued: {} {text}", answer.text())),
            // A domain that is not set up, or an account that is not active yet.
            400 if text.contains("not allowed to send") => Verdict::Account(text),
            _ => by_status(answer, text),
        }
    }
}

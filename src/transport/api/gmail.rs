//! Gmail, `messages/send` with the message in base64url: the bytes stay.
//!
//! Gmail reads the recipients from To, Cc and Bcc.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::json;

use super::content::with_envelope_in_header;
use super::{ProviderApi, Request, RequestLimits, RequestMail, Verdict, by_status, retry_after};
use crate::transport::http::HttpAnswer;

pub(super) struct Gmail {
    user: String,
}

impl Gmail {
    pub(super) fn new(user: String) -> Self {
        Gmail { user }
    }
}

impl ProviderApi for Gmail {
    fn limits(&self) -> RequestLimits {
        RequestLimits {
            recipients: 500,
            bytes: 25 * 1024 * 1024,
        }
    }

    fn request(&self, mail: &RequestMail<'_>) -> Result<Request, String> {
        let message = with_envelope_in_header(mail)?;
        let user = utf8_percent_encode(&self.user, NON_ALPHANUMERIC);
        let path = format!("/gmail/v1/users/{user}/messages/send");
        Ok(Request::json(
            &path,
            &json!({"raw": URL_SAFE.encode(message)}),
        ))
    }

    fn judge(&self, answer: &HttpAnswer) -> Verdict {
        let body = answer.json();
        if answer.status == 200 {
            return Verdict::accepted(body["id"].as_str());
        }

        let error = &body["error"];
        let reason = error["errors"][0]["reason"].as_str().unwrap_or_default();
        let text = format!("{reason} {}", error["message"].as_str().unwrap_or_default());
        match (answer.status, reason) {
            (403 | 429, "rateLimitExceeded" | "userRateLimitExceeded" | "quotaExceeded") => {
                Verdict::TooFast(retry_after(answer), text)
            }
            (403, "dailyLimitExceeded") => Verdict::Account(text),
            _ => by_status(answer, text),
        }
    }
}

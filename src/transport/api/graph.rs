//! Microsoft Graph, `sendMail` with the message in base64: the bytes stay.
//!
//! Graph reads the recipients from To, Cc and Bcc, and keeps a copy in Sent.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::content::with_envelope_in_header;
use super::{ProviderApi, Request, RequestLimits, RequestMail, Verdict, by_status, retry_after};
use crate::transport::http::HttpAnswer;

pub(super) struct Graph {
    user: String,
}

impl Graph {
    pub(super) fn new(user: String) -> Self {
        Graph { user }
    }
}

impl ProviderApi for Graph {
    fn limits(&self) -> RequestLimits {
        // 4 MB a request, in base64.
        RequestLimits {
            recipients: 500,
            bytes: 3_000_000,
        }
    }

    fn request(&self, mail: &RequestMail<'_>) -> Result<Request, String> {
        let message = with_envelope_in_header(mail)?;
        let user = utf8_percent_encode(&self.user, NON_ALPHANUMERIC);
        Ok(Request {
            path: format!("/v1.0/users/{user}/sendMail"),
            content_type: "text/plain".into(),
            headers: Vec::new(),
            body: STANDARD.encode(message).into_bytes(),
        })
    }

    fn judge(&self, answer: &HttpAnswer) -> Verdict {
        if answer.status == 202 {
            return Verdict::accepted(None);
        }
        let body = answer.json();

        let error = &body["error"];
        let code = error["code"].as_str().unwrap_or_default();
        let text = format!("{code} {}", error["message"].as_str().unwrap_or_default());
        match code {
            "ErrorExceededMessageLimit"
            | "ErrorMessageSubmissionBlocked"
            | "MailboxNotEnabledForRESTAPI"
            | "ErrorQuotaExceeded" => Verdict::Account(text),
            "ErrorSendAsDenied" | "ErrorInvalidRecipients" | "ErrorMessageSizeExceeded" => {
                Verdict::Rejected(text)
            }
            "ApplicationThrottled" | "ErrorMailboxConcurrencyExceeded" => {
                Verdict::TooFast(retry_after(answer), text)
            }
            _ => by_status(answer, text),
        }
    }
}

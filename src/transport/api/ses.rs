//! Amazon SES v2, `SendEmail` with raw content: the message's bytes stay, but for Date, Message-ID
//! and Return-Path, which SES writes anew.
//!
//! `FromEmailAddress` is left out, because it would replace From.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};

use super::sigv4::{SigningScope, authorization};
use super::{ProviderApi, Request, RequestLimits, RequestMail, Verdict, by_status, retry_after};
use crate::mail::{Address, Timestamp};
use crate::transport::http::HttpAnswer;

const SEND_PATH: &str = "/v2/email/outbound-emails";

pub(super) struct Ses {
    region: String,
    access_key_id: String,
    secret: SecretString,
    host: String,
}

impl Ses {
    pub(super) fn new(region: String, id: String, secret: SecretString, base: String) -> Self {
        let host = base
            .split_once("://")
            .map_or(base.as_str(), |(_, rest)| rest);
        let host = host.split('/').next().unwrap_or_default().to_owned();
        Ses {
            region,
            access_key_id: id,
            secret,
            host,
        }
    }
}

impl ProviderApi for Ses {
    fn limits(&self) -> RequestLimits {
        // 40 MB once it is in base64; 50 recipients of one call.
        RequestLimits {
            recipients: 50,
            bytes: 29 * 1024 * 1024,
        }
    }

    fn cannot_reach(&self, recipient: &Address) -> Option<String> {
        let reason = "SES takes no address whose local part has characters beyond ASCII";
        (!recipient.is_ascii()).then(|| reason.to_owned())
    }

    fn request(&self, mail: &RequestMail<'_>) -> Result<Request, String> {
        let message = &mail.transaction.message;
        if mail.transaction.smtputf8 {
            let reason = "SES takes no header section and no sender with addresses beyond ASCII";
            return Err(reason.into());
        }

        let longest = message.split(|byte| *byte == b'\n').map(<[u8]>::len).max();
        if longest.unwrap_or_default() > 1001 {
            return Err("SES takes no line of more than 1,000 characters".into());
        }

        let recipients: Vec<&str> = mail.recipients.iter().map(|to| to.as_str()).collect();
        let body = json!({
            "Content": {"Raw": {"Data": STANDARD.encode(message)}},
            "Destination": {"ToAddresses": recipients},
        });
        let request = Request::json(SEND_PATH, &body);

        let time = amz_date(Timestamp::now());
        let headers = [
            ("content-type", request.content_type.as_str()),
            ("host", self.host.as_str()),
            ("x-amz-date", time.as_str()),
        ];

        let scope = SigningScope {
            access_key_id: &self.access_key_id,
            secret_access_key: self.secret.expose_secret(),
            region: &self.region,
            service: "ses",
        };

        let signed = authorization(&scope, SEND_PATH, &headers, &request.body, &time);
        Ok(request
            .header("authorization", signed)
            .header("x-amz-date", time.clone()))
    }

    fn judge(&self, answer: &HttpAnswer) -> Verdict {
        let body = answer.json();
        if answer.status == 200 {
            return Verdict::accepted(body["MessageId"].as_str());
        }

        // `MessageRejected:http://…` in the header, or `__type` in the body.
        let name = answer
            .header("x-amzn-errortype")
            .or(body["__type"].as_str());
        let name = name.unwrap_or_default();
        let name = name.split(':').next().unwrap_or_default();
        let name = name.rsplit('#').next().unwrap_or_default();

        let said = |key: &str| body[key].as_str().map(str::to_owned);
        let text = said("message").or(said("Message")).unwrap_or_default();
        let text = format!("{name} {text}");
        match name {
            "MessageRejected" if is_about_the_account(&body) => Verdict::Account(text),
            "MessageRejected" | "BadRequestException" | "ValidationException" => {
                Verdict::Rejected(text)
            }
            "TooManyRequestsException"
            | "LimitExceededException"
            | "Throttling"
            | "ThrottlingException" => Verdict::TooFast(retry_after(answer), text),
            "AccountSuspendedException"
            | "SendingPausedException"
            | "MailFromDomainNotVerifiedException"
            | "NotFoundException" => Verdict::Account(text),
            _ => by_status(answer, text),
        }
    }
}

/// SES says `MessageRejected` also of an address of ours that was not verified.
fn is_about_the_account(body: &Value) -> bool {
    let text = body["message"].as_str().or(body["Message"].as_str());
    text.is_some_and(|text| text.contains("not verified") || text.contains("sandbox"))
}

/// `20150830T123600Z`.
fn amz_date(now: Timestamp) -> String {
    let text = now.to_string();
    let seconds = text.split('.').next().unwrap_or_default();
    let digits: String = seconds
        .chars()
        .filter(|c| c.is_ascii_digit() || *c == 'T')
        .collect();
    digits + "Z"
}

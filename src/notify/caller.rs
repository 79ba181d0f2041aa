//! Sends one message to an endpoint: a signed POST request that follows no redirects and is bounded
//! in time and bytes. `endpoint_run` calls it, and `endpoint` for a test.

use std::time::{Duration, Instant};

use bytes::Bytes;
use url::Url;

use super::message::WebhookMessage;
use super::secrets::Secrets;
use super::webhook::{Webhook, WebhookError};
use crate::delivery::printable;
use crate::mail::Timestamp;
use crate::transport::http::{HttpClient, Post};
use crate::transport::{Reach, TimeOuts};

/// The longest wait that is accepted from an endpoint's `Retry-After`.
const LONGEST_WAIT: Duration = Duration::from_secs(24 * 60 * 60);
/// The most characters of an error that are kept.
const REASON_CHARACTERS: usize = 200;

/// Sends messages to one endpoint.
pub(super) struct WebhookClient {
    client: HttpClient,
    secrets: Secrets,
    url: String,
    timeout: Duration,
}

/// The result of a call.
#[derive(Clone, Debug)]
pub(super) struct CallResult {
    /// The HTTP status, if there was an answer.
    pub status: Option<u16>,
    /// What went wrong, if the message was not taken.
    pub error: Option<String>,
    /// The endpoint's `Retry-After`.
    pub retry_after: Option<Duration>,
    pub took: Duration,
}

impl CallResult {
    /// Whether the message was taken.
    pub(super) fn is_taken(&self) -> bool {
        self.error.is_none()
    }

    /// Whether the endpoint says that it is gone for good.
    pub(super) fn is_gone(&self) -> bool {
        self.status == Some(410)
    }

    /// Whether the endpoint, or a proxy before it, wants fewer messages.
    pub(super) fn is_too_much(&self) -> bool {
        matches!(self.status, Some(429 | 502 | 503 | 504))
    }
}

impl WebhookClient {
    pub(super) fn new(webhook: &Webhook) -> Result<Self, WebhookError> {
        let mistake = |key, reason: String| WebhookError {
            webhook: webhook.name.clone(),
            key,
            reason,
        };

        let secrets = Secrets::read(&webhook.secret)
            .map_err(|reason| mistake("secret", reason.to_owned()))?;
        let reach = match webhook.allow_private {
            true => Reach::Anywhere,
            false => Reach::PublicOnly,
        };

        let timeouts = TimeOuts {
            data: Duration::from_secs(5).min(webhook.timeout),
            ..TimeOuts::default()
        };

        let client = HttpClient::within(webhook.ca_file.as_deref(), timeouts, reach)
            .map_err(|error| mistake("ca_file", error.to_string()))?;
        Ok(WebhookClient {
            client,
            secrets,
            // In the form that was checked: one address can be written in several ways.
            url: Url::parse(&webhook.url).map_or_else(|_| webhook.url.clone(), String::from),
            timeout: webhook.timeout,
        })
    }

    /// Sends a message; `now` is the wall clock's time of this call, which is signed with it.
    pub(super) async fn call(&self, message: &WebhookMessage, now: Timestamp) -> CallResult {
        let seconds = now.as_millis() / 1000;
        let post = Post {
            url: self.url.clone(),
            content_type: "application/json".to_owned(),
            headers: vec![
                ("webhook-id", message.id.clone()),
                ("webhook-timestamp", seconds.to_string()),
                (
                    "webhook-signature",
                    self.secrets.sign(&message.id, seconds, &message.body),
                ),
            ],
            body: Bytes::from(message.body.clone()),
        };

        let began = Instant::now();
        let answered = self.client.post_for_status(post, self.timeout).await;
        let took = began.elapsed();

        match answered {
            Ok(answer) => CallResult {
                status: Some(answer.status),
                error: match answer.status {
                    200..=299 => None,
                    300..=399 => Some(format!(
                        "{}, a redirect, which is not followed",
                        answer.status
                    )),
                    other => Some(format!("answered with {other}")),
                },
                retry_after: answer
                    .header("retry-after")
                    .and_then(|text| read_retry_after(text, now)),
                took,
            },
            Err(error) => CallResult {
                status: None,
                error: Some(
                    printable(&error.reason)
                        .chars()
                        .take(REASON_CHARACTERS)
                        .collect(),
                ),
                retry_after: None,
                took,
            },
        }
    }
}

/// Reads `Retry-After`: seconds or a date (RFC 9110 §10.2.3).
fn read_retry_after(text: &str, now: Timestamp) -> Option<Duration> {
    let text = text.trim();
    let span = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let at = jiff::fmt::rfc2822::DateTimeParser::new()
                .parse_timestamp(text)
                .ok()?;
            Timestamp::from_millis(at.as_millisecond()).since(now)
        }
    };
    Some(span.min(LONGEST_WAIT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn when_to_come_back_is_read_in_both_forms_and_bounded() {
        let now = Timestamp::from_millis(784_111_777_000);
        let read = |text| read_retry_after(text, now);
        assert_eq!(read("120"), Some(Duration::from_secs(120)));
        assert_eq!(
            read("Sun, 06 Nov 1994 08:50:37 GMT"),
            Some(Duration::from_secs(60))
        );
        assert_eq!(read("99999999999"), Some(LONGEST_WAIT));
        assert_eq!(read("Sun, 06 Nov 1994 08:00:00 GMT"), Some(Duration::ZERO));
        assert_eq!(read("soon"), None);
    }
}

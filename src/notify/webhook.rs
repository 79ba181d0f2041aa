//! A webhook's settings, and its status.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use url::Url;

use super::Filter;
use crate::mail::{Timestamp, days, hours, minutes, seconds};

/// The longest name.
const LONGEST_NAME: usize = 64;
/// The most calls at once.
const MOST_CALLS: usize = 64;

/// An address that gets a message about each event that it wants.
#[derive(Clone, Debug)]
pub struct Webhook {
    /// Its name; its position in the journal is kept under it.
    pub name: String,
    /// Where its messages are sent: an http or https URL.
    pub url: String,
    /// The secret that signs its messages: `whsec_` and base64. While it is being replaced, both
    /// secrets are given, separated by white space, and each signs.
    pub secret: SecretString,
    /// Which events it reports.
    pub filter: Filter,
    /// Whether the address may be a private one.
    pub allow_private: bool,
    /// The certificate authority to trust instead of the public ones.
    pub ca_file: Option<PathBuf>,
    /// How long a call may take.
    pub timeout: Duration,
    /// The most calls at once. With 1, messages that do not fail arrive in order.
    pub connections: usize,
    /// The delays before a message that failed is sent again; the last repeats.
    pub retry: Vec<Duration>,
    /// How long a failed message is sent again; after this long without a success, the webhook is
    /// switched off.
    pub give_up_after: Duration,
}

impl Webhook {
    /// A webhook for the events `delivered`, `dead`, `bounced`, `complained`, `unsubscribed` and
    /// `relay_down`.
    pub fn new(
        name: impl Into<String>,
        url: impl Into<String>,
        secret: impl Into<SecretString>,
    ) -> Self {
        Webhook {
            name: name.into(),
            url: url.into(),
            secret: secret.into(),
            filter: Filter {
                events: Webhook::usual_events(),
                tags: Vec::new(),
            },
            allow_private: false,
            ca_file: None,
            timeout: seconds(15),
            connections: 4,
            retry: Webhook::usual_retry(),
            give_up_after: days(3),
        }
    }

    /// The events of a webhook whose configuration names none.
    pub fn usual_events() -> Vec<String> {
        let usual = [
            "delivered",
            "dead",
            "bounced",
            "complained",
            "unsubscribed",
            "relay_down",
        ];
        usual.map(str::to_owned).to_vec()
    }

    /// The delays that Standard Webhooks recommends.
    pub fn usual_retry() -> Vec<Duration> {
        vec![
            seconds(5),
            minutes(5),
            minutes(30),
            hours(2),
            hours(5),
            hours(10),
            hours(14),
            hours(20),
            hours(24),
        ]
    }

    /// Why it cannot be used.
    pub fn mistakes(&self) -> Vec<WebhookError> {
        let mut mistakes = Vec::new();
        let mut add = |key, reason: String| {
            mistakes.push(WebhookError {
                webhook: self.name.clone(),
                key,
                reason,
            });
        };

        let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if self.name.is_empty() || self.name.len() > LONGEST_NAME || !self.name.chars().all(is_name)
        {
            let reason = format!("must be 1 to {LONGEST_NAME} letters, digits, `-`, `_` and `.`");
            add("name", reason);
        }

        if let Some(reason) = self.url_mistake() {
            add("url", reason);
        }
        for event in &self.filter.events {
            if !super::EVENTS.contains(&event.as_str()) {
                add(
                    "events",
                    format!(
                        "`{}` is not one of {}",
                        event.escape_debug(),
                        super::EVENTS.join(", ")
                    ),
                );
            }
        }

        if self.filter.events.is_empty() {
            add(
                "events",
                "is empty, so that nothing would be reported".to_owned(),
            );
        }

        if self.timeout.is_zero() {
            add("timeout", "must be above zero".to_owned());
        }
        if self.connections == 0 || self.connections > MOST_CALLS {
            add("connections", format!("must be 1 to {MOST_CALLS}"));
        }
        if self.retry.is_empty() || self.retry.iter().any(Duration::is_zero) {
            let reason = "must be delays above zero";
            add("retry", reason.to_owned());
        }

        if let Err(reason) = super::secrets::Secrets::read(&self.secret) {
            add("secret", reason.to_owned());
        }
        mistakes
    }

    fn url_mistake(&self) -> Option<String> {
        let Ok(url) = Url::parse(&self.url) else {
            return Some("is not a URL such as https://shop.example.com/hooks/mail".to_owned());
        };
        if !matches!(url.scheme(), "https" | "http") || url.host_str().is_none() {
            return Some("must begin with https:// or http://, and name a host".to_owned());
        }
        if !url.username().is_empty() || url.password().is_some() {
            let reason = "holds a login, which is not sent: a receiver checks the signature";
            return Some(reason.to_owned());
        }
        None
    }

    /// The URL without the parts that may be secret.
    pub(super) fn shown_url(&self) -> String {
        match Url::parse(&self.url) {
            Ok(mut url) => {
                if url.query().is_some() {
                    url.set_query(Some("…"));
                }
                url.set_fragment(None);
                url.to_string()
            }
            Err(_) => String::new(),
        }
    }
}

/// A webhook that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("webhook {}: {key}: {reason}", .webhook.escape_debug())]
pub struct WebhookError {
    /// The webhook's name.
    pub webhook: String,
    /// The key of the setting.
    pub key: &'static str,
    /// What is wrong with it, and the way out.
    pub reason: String,
}

/// The state of a webhook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum WebhookState {
    /// It accepts its messages.
    Active,
    /// Its last calls failed; the messages are sent again.
    Failing,
    /// Nothing is sent to it until an operator has messages sent again.
    Off,
}

impl WebhookState {
    /// Its name in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            WebhookState::Active => "active",
            WebhookState::Failing => "failing",
            WebhookState::Off => "off",
        }
    }
}

impl fmt::Display for WebhookState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a webhook answered last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct LastAnswer {
    /// When it answered.
    pub at: Timestamp,
    /// The message's id.
    pub id: String,
    /// The HTTP status; absent if there was no answer.
    pub status: Option<u16>,
    /// What went wrong; absent if the message was accepted.
    pub error: Option<String>,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
}

/// The status of a webhook.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct WebhookStatus {
    /// Its name.
    pub name: String,
    /// Where its messages are sent, without the query of the URL.
    pub url: String,
    /// The events that it is sent.
    pub events: Vec<String>,
    /// It reports only events of mail with one of these tags; if empty, of all mail.
    pub tags: Vec<String>,
    /// Its state.
    pub state: WebhookState,
    /// Why it is switched off.
    pub reason: Option<String>,
    /// Since when it is switched off.
    pub off_since: Option<Timestamp>,
    /// When the first of its failures in a row happened; absent if the last call succeeded.
    pub failing_since: Option<Timestamp>,
    /// Its backlog: failed messages that are sent again, and events that it has not read yet,
    /// wanted or not.
    pub backlog: u64,
    /// The failed messages of the backlog.
    pub waiting: u64,
    /// Messages that were given up; they are kept, and can be sent again.
    pub given_up: u64,
    /// When the next failed message is sent again.
    pub next_attempt_at: Option<Timestamp>,
    /// What it answered this node last.
    pub last: Option<LastAnswer>,
    /// Messages from this node that it accepted since the service was started.
    pub delivered: u64,
    /// Calls from this node that failed since the service was started.
    pub failed: u64,
}

/// A webhook's answer to a test message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct Tested {
    /// Whether it accepted the message.
    pub delivered: bool,
    /// Its answer.
    #[serde(flatten)]
    pub answer: LastAnswer,
}

/// Which messages are to be sent to a webhook again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Redeliver {
    /// All failed messages, now.
    Failed,
    /// All events from this time on.
    Since(Timestamp),
    /// The message with this id.
    Message(String),
}

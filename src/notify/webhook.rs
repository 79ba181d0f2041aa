//! A webhook as it is configured, and as it is.

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

/// Where messages about what happens are sent.
#[derive(Clone, Debug)]
pub struct Webhook {
    /// Names it, over restarts: where it is in the journal is kept under this name.
    pub name: String,
    /// Where its messages go: an http or https URL.
    pub url: String,
    /// What they are signed with: `whsec_` and base64; several with white space between them each
    /// sign, while one is replaced by another.
    pub secret: SecretString,
    /// Which events it is sent.
    pub filter: Filter,
    /// Whether the address may be a private one.
    pub allow_private: bool,
    /// The certificate authority to trust instead of the public ones.
    pub ca_file: Option<PathBuf>,
    /// How long a call may take.
    pub timeout: Duration,
    /// How many calls there may be at once. With one, messages that do not fail come in order.
    pub connections: usize,
    /// The delays before a message that failed is sent again; the last repeats.
    pub retry: Vec<Duration>,
    /// How long a message is tried, and after how long without a success the webhook is switched
    /// off.
    pub give_up_after: Duration,
}

impl Webhook {
    /// A webhook that is told of dead letters, what was delivered, bounces, complaints, those who
    /// unsubscribe and relays that are down.
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

    /// The events of a webhook that does not say which it wants.
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

    /// Why it cannot be used, by the key that says so.
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
            let reason = "must be delays, each longer than no time";
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

    /// The URL, without what may be a secret in it.
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
    /// Which.
    pub webhook: String,
    /// What of it.
    pub key: &'static str,
    /// Why.
    pub reason: String,
}

/// The state of a webhook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum WebhookState {
    /// It accepts its messages.
    Active,
    /// Its last messages failed; they are sent again.
    Failing,
    /// Nothing is sent to it until somebody has messages delivered again.
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
    /// When.
    pub at: Timestamp,
    /// The message's id.
    pub id: String,
    /// The status; absent where there was no answer.
    pub status: Option<u16>,
    /// What went wrong; absent where the message was taken.
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
    /// Where its messages go; without what stands behind a question mark.
    pub url: String,
    /// The events that it is sent.
    pub events: Vec<String>,
    /// The tags of the mail that it is told of; none: of all mail.
    pub tags: Vec<String>,
    /// How it is.
    pub state: WebhookState,
    /// Why it is off.
    pub reason: Option<String>,
    /// Since when.
    pub off_since: Option<Timestamp>,
    /// Since when it has taken nothing, where its last message failed.
    pub failing_since: Option<Timestamp>,
    /// How much is before it: messages that are to be sent again, and events that it has not been
    /// asked about yet, whether it wants them or not.
    pub backlog: u64,
    /// The messages among it that failed and are sent again.
    pub waiting: u64,
    /// Messages that were given up; they are kept, and can be delivered again.
    pub given_up: u64,
    /// When the next of those that failed is sent again.
    pub next_attempt_at: Option<Timestamp>,
    /// What it answered this node last.
    pub last: Option<LastAnswer>,
    /// Messages that it has taken of this node, since the service has started.
    pub delivered: u64,
    /// Calls of this node that failed, since the service has started.
    pub failed: u64,
}

/// What a webhook answered to a test.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct Tested {
    /// Whether it took the message.
    pub delivered: bool,
    /// What it answered.
    #[serde(flatten)]
    pub answer: LastAnswer,
}

/// Which messages a webhook is to be sent again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Redeliver {
    /// All that failed, at once.
    Failed,
    /// Everything that happened at this time or later.
    Since(Timestamp),
    /// The message of this id.
    Message(String),
}

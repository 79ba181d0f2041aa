//! Events: what happened to a mail, a delivery, a relay or the service, and who did it if a person
//! or program did. The spool's journal stores an event in the commit of the change itself.

use serde::{Deserialize, Serialize};

use super::{Attempt, DeadReason};
use crate::mail::{Address, MailId, Submitter, Timestamp};

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct Event {
    /// Its number in the journal. Numbers increase, survive restarts, and are never reused.
    pub seq: u64,
    /// When it happened.
    pub at: Timestamp,
    /// The mail that it is about.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub mail: Option<MailId>,
    /// The recipient that it is about.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub recipient: Option<Address>,
    /// The relay that it is about.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub relay: Option<String>,
    /// The mail's Message-ID, with its angle brackets.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub message_id: Option<String>,
    /// The mail's tags.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub tags: Vec<String>,
    /// The mail's idempotency key.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub key: Option<String>,
    /// When the mail was accepted, if the event is about one of its deliveries.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub accepted_at: Option<Timestamp>,
    /// Who did it, if a person or program did; else who submitted the mail. As text: `local`,
    /// `token:NAME` or `user:NAME`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    #[cfg_attr(feature = "server", schema(value_type = Option<String>, example = "token:app"))]
    pub who: Option<Submitter>,
    /// The network address from which it was done.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub from: Option<String>,
    /// Who submitted the mail.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    #[cfg_attr(feature = "server", schema(value_type = Option<String>, example = "token:app"))]
    pub submitter: Option<Submitter>,
    /// What happened.
    #[serde(flatten)]
    pub kind: EventKind,
}

impl Event {
    /// An event without a number.
    pub fn new(at: Timestamp, kind: EventKind) -> Self {
        Event {
            seq: 0,
            at,
            mail: None,
            recipient: None,
            relay: None,
            message_id: None,
            tags: Vec::new(),
            key: None,
            accepted_at: None,
            who: None,
            from: None,
            submitter: None,
            kind,
        }
    }

    /// The same event, about this relay.
    pub fn of_relay(self, relay: &str) -> Self {
        Event {
            relay: Some(relay.to_owned()),
            ..self
        }
    }

    /// The same event, done by this requester.
    pub fn by(self, by: &Requester) -> Self {
        Event {
            who: by.who.clone(),
            from: by.from.clone(),
            ..self
        }
    }
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum EventKind {
    /// A mail was stored durably.
    Accepted,
    /// A delivery was attempted.
    Attempted {
        /// The attempt.
        attempt: Attempt,
    },
    /// A delivery will be attempted again.
    Deferred {
        /// The time of the next attempt.
        next_attempt_at: Timestamp,
    },
    /// A relay accepted the mail.
    Delivered,
    /// A delivery failed for good.
    Dead {
        /// The reason.
        reason: DeadReason,
    },
    /// A user cancelled a delivery.
    Cancelled,
    /// A user had a delivery retried.
    Retried,
    /// A user deleted a finished mail.
    Purged,
    /// A relay that was down is up again.
    RelayUp,
    /// A relay is down; mail waits or takes the route's next relay.
    RelayDown {
        /// The last error or reply.
        reason: String,
    },
    /// A user paused a relay.
    RelayPaused {
        /// The reason, if one was given.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        reason: Option<String>,
    },
    /// A user resumed a relay.
    RelayResumed,
    /// The configuration was reloaded.
    Reloaded {
        /// Why the new configuration was not used, if it was not; nothing has changed then.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        error: Option<String>,
    },
    /// The service started.
    Started {
        /// Its version.
        version: String,
    },
    /// The service stopped.
    Stopped,
    /// A webhook was turned off; nothing is sent to it until a user redelivers messages to it.
    WebhookOff {
        /// Its name.
        webhook: String,
        /// Why.
        reason: String,
    },
    /// A login was refused.
    LoginRefused {
        /// How many logins were refused since the last such event.
        count: u64,
    },
    /// The mail bounced after a relay had accepted it.
    Bounced {
        /// The enhanced status code, such as `5.1.1`, if the report has one.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        status: Option<String>,
        /// The explanation in the report.
        text: String,
        /// The source: `report`, or a provider's name.
        by: String,
        /// Whether the failure is permanent.
        permanent: bool,
    },
    /// The recipient marked the mail as unwanted at a mailbox provider.
    Complained {
        /// The type of complaint, such as `abuse`, if the report has one.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        status: Option<String>,
        /// The explanation in the report.
        text: String,
        /// The source: `report`, or a provider's name.
        by: String,
    },
    /// The recipient unsubscribed from a list.
    Unsubscribed {
        /// The list; all mail if absent.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        list: Option<String>,
    },
    /// A user changed many mails at once; there is an event for each of them, too.
    Act {
        /// The action: `cancel`, `retry`, `purge`, `suppress`, `unsuppress`.
        act: String,
        /// The number of mails or addresses.
        count: u64,
        /// The filter that selected them, if they were not named.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        filter: Option<String>,
    },
}

impl EventKind {
    /// Its name in JSON and in Server-Sent Events.
    pub fn as_str(&self) -> &'static str {
        match self {
            EventKind::Accepted => "accepted",
            EventKind::Attempted { .. } => "attempted",
            EventKind::Deferred { .. } => "deferred",
            EventKind::Delivered => "delivered",
            EventKind::Dead { .. } => "dead",
            EventKind::Cancelled => "cancelled",
            EventKind::Retried => "retried",
            EventKind::Purged => "purged",
            EventKind::RelayUp => "relay_up",
            EventKind::RelayDown { .. } => "relay_down",
            EventKind::RelayPaused { .. } => "relay_paused",
            EventKind::RelayResumed => "relay_resumed",
            EventKind::Reloaded { .. } => "reloaded",
            EventKind::Started { .. } => "started",
            EventKind::Stopped => "stopped",
            EventKind::WebhookOff { .. } => "webhook_off",
            EventKind::LoginRefused { .. } => "login_refused",
            EventKind::Bounced { .. } => "bounced",
            EventKind::Complained { .. } => "complained",
            EventKind::Unsubscribed { .. } => "unsubscribed",
            EventKind::Act { .. } => "act",
        }
    }

    /// The action of an event that belongs to the audit trail; `None` for events about mail.
    pub fn act(&self) -> Option<&str> {
        match self {
            EventKind::RelayPaused { .. } => Some("pause"),
            EventKind::RelayResumed => Some("resume"),
            EventKind::Reloaded { .. } => Some("reload"),
            EventKind::Started { .. } => Some("start"),
            EventKind::Stopped => Some("stop"),
            EventKind::LoginRefused { .. } => Some("login_refused"),
            EventKind::Act { act, .. } => Some(act),
            _ => None,
        }
    }
}

/// Who requests an action, and from where.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Requester {
    /// The submitter; `None` for the program itself.
    pub who: Option<Submitter>,
    /// The network address of the request.
    pub from: Option<String>,
    /// Whether the action is part of a larger one, which has its own event.
    pub is_part: bool,
}

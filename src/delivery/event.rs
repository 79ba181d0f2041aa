//! What happened to a mail, a delivery, a relay or the service, and which person or program did it,
//! if one did. The spool's journal stores it in the commit of the change itself.

use serde::{Deserialize, Serialize};

use super::{Attempt, DeadReason};
use crate::mail::{Address, MailId, Submitter, Timestamp};

/// Something that happened, with all that a reader needs to know of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct Event {
    /// Its number in the journal: it grows with each event, holds over restarts, and is never given
    /// twice.
    pub seq: u64,
    /// When.
    pub at: Timestamp,
    /// The mail it is about.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub mail: Option<MailId>,
    /// The recipient it is about.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub recipient: Option<Address>,
    /// The relay it is about.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub relay: Option<String>,
    /// The mail's Message-ID, with its angle brackets.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub message_id: Option<String>,
    /// The mail's tags.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub tags: Vec<String>,
    /// The mail's idempotency key, as it was given.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub key: Option<String>,
    /// When the mail was accepted, where the event is about one of its deliveries.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub accepted_at: Option<Timestamp>,
    /// Who did it, where a person or a program did; else whose mail it is about. As text: `local`,
    /// `token:NAME` or `user:NAME`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    #[cfg_attr(feature = "server", schema(value_type = Option<String>, example = "token:app"))]
    pub who: Option<Submitter>,
    /// From which address.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub from: Option<String>,
    /// Who submitted the mail.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    #[cfg_attr(feature = "server", schema(value_type = Option<String>, example = "token:app"))]
    pub submitter: Option<Submitter>,
    /// What.
    #[serde(flatten)]
    pub kind: EventKind,
}

impl Event {
    /// Something that has no number yet.
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

    /// The same, about this relay.
    pub fn of_relay(self, relay: &str) -> Self {
        Event {
            relay: Some(relay.to_owned()),
            ..self
        }
    }

    /// The same, done by this one.
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
    /// A mail was made durable.
    Accepted,
    /// A delivery was tried.
    Attempted {
        /// How it went.
        attempt: Attempt,
    },
    /// A delivery will be tried again.
    Deferred {
        /// When.
        next_attempt_at: Timestamp,
    },
    /// A relay took it.
    Delivered,
    /// A delivery failed for good.
    Dead {
        /// Why.
        reason: DeadReason,
    },
    /// A user withdrew it.
    Cancelled,
    /// A user had a delivery tried again.
    Retried,
    /// A user had a mail deleted that had ended.
    Purged,
    /// A relay that was down answered again.
    RelayUp,
    /// A relay does not answer; mail waits or takes the route's next one.
    RelayDown {
        /// What it did last.
        reason: String,
    },
    /// A user stopped sending over a relay.
    RelayPaused {
        /// Why, where that was said.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        reason: Option<String>,
    },
    /// A user had sending over a relay go on.
    RelayResumed,
    /// The configuration was read anew.
    Reloaded {
        /// Why it could not be used, where it could not: all is as it was.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        error: Option<String>,
    },
    /// The service has started.
    Started {
        /// Its version.
        version: String,
    },
    /// The service stops.
    Stopped,
    /// Nothing more is sent to a webhook, until somebody has messages sent to it again.
    WebhookOff {
        /// Its name.
        webhook: String,
        /// Why.
        reason: String,
    },
    /// Somebody who wanted to log in was refused.
    LoginRefused {
        /// How many times, since the one before this was told.
        count: u64,
    },
    /// It came back after a relay had taken it.
    Bounced {
        /// The enhanced status code, such as `5.1.1`, where it said one.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        status: Option<String>,
        /// What was said.
        text: String,
        /// Who said it: `report`, or a provider's name.
        by: String,
        /// Whether it failed for good.
        permanent: bool,
    },
    /// Its recipient told a mailbox provider that it was unwanted.
    Complained {
        /// What kind of complaint, such as `abuse`, where it said one.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        status: Option<String>,
        /// What was said.
        text: String,
        /// Who said it: `report`, or a provider's name.
        by: String,
    },
    /// Its recipient wants no more mail of this list.
    Unsubscribed {
        /// The list; all mail where it is absent.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        list: Option<String>,
    },
    /// A user did something to mails: it is told of each as well.
    Act {
        /// What: `cancel`, `retry`, `purge`, `suppress`, `unsuppress`.
        act: String,
        /// To how many mails, or addresses.
        count: u64,
        /// Which were meant, where they were not named.
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

    /// What somebody did, where that is what it tells: it belongs to the audit trail then, and not
    /// to what came of mail.
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

/// Who does something, and from where.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Requester {
    /// Who; `None` for the program itself.
    pub who: Option<Submitter>,
    /// The address it came from.
    pub from: Option<String>,
    /// Whether it is part of a larger act, which is told by itself.
    pub is_part: bool,
}

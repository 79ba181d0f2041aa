//! What users are told: receipts, a mail's status, the engine's numbers.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::failures::{error_of, normalised};
use super::series::RecentDeliveries;
use super::waiting::{self, Waits};
use crate::delivery::{Attempt, DeadReason, Feedback, MailState, Outcome, State};
use crate::mail::{Address, Guarantee, MailId, Priority, Submitter, TemplateUse, Timestamp};
use crate::policy::BreakerState;
use crate::spool::{Durability, Record};

/// The result of `submit`: the mail is accepted, and this says how it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Receipt {
    /// The mail's name; that of the earlier mail where the key was seen before.
    pub id: MailId,
    /// What is promised.
    pub durability: Durability,
    /// Whether the idempotency key was seen before, so that nothing new was accepted.
    pub duplicate: bool,
    /// The recipients that are not to get mail, and whose deliveries are dead as `suppressed`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub suppressed: Vec<Address>,
}

/// All that is known of a mail.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct MailStatus {
    /// The mail's name.
    pub id: MailId,
    /// Its state, summed up from its deliveries.
    pub state: MailState,
    /// When it was accepted.
    pub created_at: Timestamp,
    /// When its last delivery ended.
    pub finished_at: Option<Timestamp>,
    /// When it expires.
    pub expires_at: Timestamp,
    /// Where a bounce goes.
    pub return_path: Option<Address>,
    /// The subject.
    pub subject: String,
    /// The Message-ID, with its angle brackets.
    pub message_id: String,
    /// How urgent it is.
    pub priority: Priority,
    /// What to do in doubt.
    pub guarantee: Guarantee,
    /// Words to find it by.
    pub tags: Vec<String>,
    /// The key under which it is one mail, among those of whoever submitted it.
    pub idempotency_key: Option<String>,
    /// Who submitted it: `local`, `token:NAME` or `user:NAME`; absent where that was not kept yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "server", schema(value_type = Option<String>, example = "token:app"))]
    pub submitter: Option<Submitter>,
    /// What was done to the message as it was submitted, so that it is as RFC 5322 wants it; absent
    /// for nearly all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mended: Vec<String>,
    /// The template that it was made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<TemplateUse>,
    /// The list that it is mail of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub list: Option<String>,
    /// The message's size in bytes.
    pub size: u64,
    /// One for each recipient, in the envelope's order.
    pub deliveries: Vec<DeliveryStatus>,
}

/// One recipient's progress.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct DeliveryStatus {
    /// Who gets it.
    pub recipient: Address,
    /// Where it is.
    pub state: State,
    /// Why it is dead.
    pub reason: Option<DeadReason>,
    /// The relays it may take, in order.
    pub relays: Vec<String>,
    /// The last tries, the oldest first.
    pub attempts: Vec<Attempt>,
    /// What was said last where it is dead or tried again, without what differs from mail to mail:
    /// the search `error:"…"` finds the others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// How many tries count against `max_attempts`.
    pub attempts_counted: u32,
    /// When it is tried next.
    pub next_attempt_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// Why it waits, where it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits: Option<Waits>,
    /// What came back after a relay had taken it: bounces, complaints.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub feedback: Vec<Feedback>,
}

impl MailStatus {
    /// The record of a mail, with these relays as they are now; without any, nobody is told why it
    /// waits.
    pub(super) fn of(record: Record, now: Timestamp, relays: &[RelayStatus]) -> Self {
        let priority = record.manifest.priority;
        let states: Vec<State> = record.states(now).collect();
        let finished_at = record.finished_at();
        let deliveries = record
            .deliveries
            .into_iter()
            .zip(&states)
            .map(|(delivery, state)| DeliveryStatus {
                state: *state,
                error: match state {
                    State::Dead | State::Deferred => {
                        Some(normalised(&error_of(&delivery))).filter(|error| !error.is_empty())
                    }
                    _ => None,
                },
                waits: match relays.is_empty() {
                    true => None,
                    false => waiting::why(&delivery, *state, priority, relays),
                },
                reason: match delivery.stage {
                    crate::delivery::Stage::Dead { reason, .. } => Some(reason),
                    _ => None,
                },
                relays: delivery.route.whole().relays().map(str::to_owned).collect(),
                attempts_counted: delivery.counted,
                next_attempt_at: delivery.stage.due(),
                finished_at: delivery.stage.finished_at(),
                recipient: delivery.recipient,
                attempts: delivery.attempts,
                feedback: Vec::new(),
            });

        let mut deliveries: Vec<DeliveryStatus> = deliveries.collect();
        for (index, feedback) in record.feedback {
            if let Some(delivery) = deliveries.get_mut(usize::from(index)) {
                delivery.feedback.push(feedback);
            }
        }

        let manifest = record.manifest;
        let submitter = manifest.owner();
        let idempotency_key = manifest.given_key().map(str::to_owned);
        MailStatus {
            submitter,
            mended: manifest.mended,
            id: manifest.id,
            state: MailState::of(states),
            created_at: manifest.accepted_at,
            finished_at,
            expires_at: manifest.expires_at,
            return_path: manifest.return_path,
            subject: manifest.subject,
            message_id: manifest.message_id,
            priority: manifest.priority,
            guarantee: manifest.guarantee,
            tags: manifest.tags,
            idempotency_key,
            template: manifest.template,
            list: manifest.list,
            size: manifest.size,
            deliveries,
        }
    }
}

/// One page of mails.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct StatusPage {
    /// The mails; possibly none although there are more, when many had to be looked at.
    pub mails: Vec<MailStatus>,
    /// The cursor of the next page; `None` on the last one.
    pub next: Option<String>,
    /// How many mails were looked at for this page.
    #[serde(default)]
    pub looked_at: u64,
}

/// The outcome of one synchronous attempt, for each recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SentNow {
    /// The mail's name. It was not kept.
    pub id: MailId,
    /// Each recipient, with what the relay said.
    pub outcomes: Vec<(Address, Outcome)>,
}

impl SentNow {
    /// Whether every recipient's mail was taken.
    pub fn all_delivered(&self) -> bool {
        self.outcomes
            .iter()
            .all(|(_, outcome)| matches!(outcome, Outcome::Delivered(_)))
    }
}

/// The engine's numbers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct Stats {
    /// Deliveries by state.
    pub deliveries: std::collections::BTreeMap<String, u64>,
    /// Pending deliveries by priority.
    pub pending_by_priority: std::collections::BTreeMap<String, u64>,
    /// Pending deliveries.
    pub pending: u64,
    /// The most that may be pending.
    pub max_pending: u64,
    /// For how many seconds the longest-waiting due delivery has been due.
    pub oldest_queued_seconds: Option<f64>,
    /// Mails accepted since start.
    pub accepted: u64,
    /// Deliveries that a relay accepted since start.
    pub delivered: u64,
    /// Deliveries that failed for good since start.
    pub dead: u64,
    /// Deliveries deferred since start.
    pub deferred: u64,
    /// Deliveries accepted by relays each second, over the last minute.
    pub delivered_per_second: f64,
    /// Records set aside because they could not be read.
    pub quarantined: u64,
    /// Bytes on disk.
    pub spool_bytes: u64,
    /// The relays.
    pub relays: Vec<RelayStatus>,
}

/// Whether mail goes over a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum RelayState {
    /// It does.
    Up,
    /// The relay has failed again and again: its mail waits, or takes the route's next one.
    Down,
    /// A user has paused it, likewise.
    Paused,
}

impl RelayState {
    /// Its name in JSON and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            RelayState::Up => "up",
            RelayState::Down => "down",
            RelayState::Paused => "paused",
        }
    }
}

impl PartialEq<&str> for RelayState {
    fn eq(&self, name: &&str) -> bool {
        self.as_str() == *name
    }
}

impl fmt::Display for RelayState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How mail gets there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum RelayKind {
    /// A mail server.
    #[default]
    Smtp,
    /// A provider's API.
    Api,
    /// Nowhere: it keeps the mail, for people to look at.
    Capture,
    /// A program of the user's own.
    Custom,
}

/// The status of a relay.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct RelayStatus {
    /// Its name.
    pub name: String,
    /// How mail gets there.
    #[serde(default)]
    pub kind: RelayKind,
    /// Whether mail goes over it.
    pub state: RelayState,
    /// What is let through to it.
    pub breaker: BreakerState,
    /// The most connections it may have.
    pub connections: usize,
    /// Of these, how many are sending.
    pub busy: usize,
    /// Its rate limit.
    pub rate: Option<String>,
    /// Pending deliveries that take it first.
    pub backlog: u64,
    /// What it did when it last failed.
    pub last_failure: Option<String>,
    /// Since when it is down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// The domains that cannot be reached over it now.
    #[serde(default)]
    pub resting_domains: Vec<RestingStatus>,
    /// How many mails it takes in one session, where it has said (RFC 9422) or shown that.
    #[serde(default)]
    pub messages_per_session: Option<u32>,
    /// How many recipients it takes in one transaction, where it has said or shown that.
    #[serde(default)]
    pub recipients_per_transaction: Option<usize>,
    /// What became of its mail in the last ten minutes; absent where there was none, and in
    /// [`Stats`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recent: Option<RecentDeliveries>,
}

/// A domain to which a relay currently sends nothing but a probe now and then.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct RestingStatus {
    /// The domain.
    pub domain: String,
    /// What was said, or happened.
    pub reason: String,
    /// Since when it rests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
}

/// Whether the engine can do its work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Health {
    /// Whether mail is accepted.
    pub ready: bool,
    /// Why not.
    pub reason: Option<String>,
    /// What keeps accepted mail from being sent: the relays of a route of which none is up, and
    /// what they say.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

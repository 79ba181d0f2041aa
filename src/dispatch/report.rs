//! The types that users get: receipts, the status of a mail, statistics.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::failures::{error_of, normalised};
use super::series::RecentDeliveries;
use super::waiting::{self, Waits};
use crate::delivery::{Attempt, DeadReason, Feedback, MailState, Outcome, State};
use crate::mail::{Address, Guarantee, MailId, Priority, Submitter, TemplateUse, Timestamp};
use crate::policy::BreakerState;
use crate::spool::{Durability, Record};

/// The result of `submit`: the mail is accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Receipt {
    /// The mail's id; that of the earlier mail if the key was used before.
    pub id: MailId,
    /// How durably it is stored.
    pub durability: Durability,
    /// Whether the idempotency key was used before, so that nothing new was accepted.
    pub duplicate: bool,
    /// The suppressed recipients, whose deliveries are dead as `suppressed`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub suppressed: Vec<Address>,
}

/// The status of a mail.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct MailStatus {
    /// The mail's id.
    pub id: MailId,
    /// Its state, derived from its deliveries.
    pub state: MailState,
    /// When it was accepted.
    pub created_at: Timestamp,
    /// When its last delivery was finished.
    pub finished_at: Option<Timestamp>,
    /// When it expires.
    pub expires_at: Timestamp,
    /// The address for bounces.
    pub return_path: Option<Address>,
    /// The subject.
    pub subject: String,
    /// The Message-ID, with its angle brackets.
    pub message_id: String,
    /// Its priority.
    pub priority: Priority,
    /// What to do if the outcome is unknown.
    pub guarantee: Guarantee,
    /// Tags for searching.
    pub tags: Vec<String>,
    /// The idempotency key, which is unique for its submitter.
    pub idempotency_key: Option<String>,
    /// Who submitted it: `local`, `token:NAME` or `user:NAME`; absent for mail of versions that did
    /// not store that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "server", schema(value_type = Option<String>, example = "token:app"))]
    pub submitter: Option<Submitter>,
    /// Notes about what was mended in the message to conform to RFC 5322; usually absent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mended: Vec<String>,
    /// The template that it was made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<TemplateUse>,
    /// The list that it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub list: Option<String>,
    /// The message's size in bytes.
    pub size: u64,
    /// One for each recipient, in the order of the envelope.
    pub deliveries: Vec<DeliveryStatus>,
}

/// One recipient's progress.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct DeliveryStatus {
    /// The recipient.
    pub recipient: Address,
    /// Its state.
    pub state: State,
    /// Why it is dead.
    pub reason: Option<DeadReason>,
    /// The relays that it may use, in order of preference.
    pub relays: Vec<String>,
    /// The last attempts, the oldest first.
    pub attempts: Vec<Attempt>,
    /// The last error if it is dead or deferred, without the parts that differ from mail to mail:
    /// the search `error:"…"` finds all deliveries with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// How many attempts count against `max_attempts`.
    pub attempts_counted: u32,
    /// When it is attempted next.
    pub next_attempt_at: Option<Timestamp>,
    /// When it was finished.
    pub finished_at: Option<Timestamp>,
    /// Why it waits, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits: Option<Waits>,
    /// Feedback after a relay accepted it: bounces, complaints.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub feedback: Vec<Feedback>,
}

impl MailStatus {
    /// The status of a mail. `relays` is their current status, for the reason why it waits; if it
    /// is empty, that is left out.
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
    /// The mails. The page may be empty although there are more, because the number of mails that
    /// are read for a page is limited.
    pub mails: Vec<MailStatus>,
    /// The cursor of the next page; `None` on the last one.
    pub next: Option<String>,
    /// How many mails were read for this page.
    #[serde(default)]
    pub looked_at: u64,
}

/// The outcomes of sending without the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SentNow {
    /// The mail's id. It was not stored.
    pub id: MailId,
    /// The recipients, each with its outcome.
    pub outcomes: Vec<(Address, Outcome)>,
}

impl SentNow {
    /// Whether all recipients were delivered.
    pub fn all_delivered(&self) -> bool {
        self.outcomes
            .iter()
            .all(|(_, outcome)| matches!(outcome, Outcome::Delivered(_)))
    }
}

/// Statistics of the engine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct Stats {
    /// Deliveries by state.
    pub deliveries: std::collections::BTreeMap<String, u64>,
    /// Pending deliveries by priority.
    pub pending_by_priority: std::collections::BTreeMap<String, u64>,
    /// Pending deliveries.
    pub pending: u64,
    /// The maximum of pending deliveries.
    pub max_pending: u64,
    /// How long the delivery that is due longest has been due, in seconds.
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
    /// Bytes of the spool on disk.
    pub spool_bytes: u64,
    /// The relays.
    pub relays: Vec<RelayStatus>,
}

/// The state of a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum RelayState {
    /// Mail is sent over it.
    Up,
    /// It has failed repeatedly: its mail waits, or uses the route's next relay.
    Down,
    /// A user paused it: its mail waits, or uses the route's next relay.
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

/// The kind of a relay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum RelayKind {
    /// A mail server.
    #[default]
    Smtp,
    /// A provider's API.
    Api,
    /// It keeps the mail for inspection, and sends nothing.
    Capture,
    /// A custom transport.
    Custom,
}

/// The status of a relay.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct RelayStatus {
    /// Its name.
    pub name: String,
    /// Its kind.
    #[serde(default)]
    pub kind: RelayKind,
    /// Its state.
    pub state: RelayState,
    /// What its circuit breaker permits.
    pub breaker: BreakerState,
    /// The maximum number of connections.
    pub connections: usize,
    /// How many of them are sending.
    pub busy: usize,
    /// Its rate limit.
    pub rate: Option<String>,
    /// The number of pending deliveries whose route begins with it.
    pub backlog: u64,
    /// The last error or reply when it failed.
    pub last_failure: Option<String>,
    /// Since when it has been down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// The domains that cannot be reached over it now.
    #[serde(default)]
    pub resting_domains: Vec<RestingStatus>,
    /// How many mails it accepts in one session, if that was announced (RFC 9422) or learned.
    #[serde(default)]
    pub messages_per_session: Option<u32>,
    /// How many recipients it accepts in one transaction, if that was announced or learned.
    #[serde(default)]
    pub recipients_per_transaction: Option<usize>,
    /// Its deliveries in the last ten minutes; absent if there were none, and in [`Stats`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recent: Option<RecentDeliveries>,
}

/// A domain to which a relay currently sends only probes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct RestingStatus {
    /// The domain.
    pub domain: String,
    /// The reply or error of the last failure.
    pub reason: String,
    /// Since when it has been resting.
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
    /// Problems that prevent accepted mail from being sent, such as the errors of the relays of a
    /// route when none of them is up.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

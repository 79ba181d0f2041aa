//! A webhook's messages: an event as JSON, in the form of the Standard Webhooks specification.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::delivery::{Attempt, Event, EventKind, State};
use crate::dispatch::{Error, JournalHandle};
use crate::mail::Timestamp;

/// One message, the same however often it is sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct WebhookMessage {
    /// Made of the journal's name and the event's number, so that it is always the same for an
    /// event.
    pub id: String,
    /// The number of its event.
    pub seq: u64,
    pub body: String,
}

impl WebhookMessage {
    /// The message about an event; `tried` is the attempt that caused it.
    pub(super) fn about(event: &Event, tried: Option<&Attempt>, journal: &str) -> Self {
        let body = json!({
            "type": event.kind.as_str(),
            "timestamp": event.at,
            "data": data(event, tried),
        });
        WebhookMessage {
            id: format!("msg_{journal}_{}", event.seq),
            seq: event.seq,
            body: body.to_string(),
        }
    }

    /// The message about the event of this number; `None` if the journal no longer has it.
    pub(super) async fn again(journal: &JournalHandle, seq: u64) -> Result<Option<Self>, Error> {
        let events = journal.after(seq.saturating_sub(2), 2).await?.events;
        let Some(event) = events.iter().find(|event| event.seq == seq) else {
            return Ok(None);
        };
        let before = events.iter().find(|before| before.seq + 1 == seq);
        let tried = before.and_then(|before| attempt_of(before, event));
        Ok(Some(WebhookMessage::about(event, tried, &journal.name())))
    }

    /// A message that only shows that messages arrive.
    pub(super) fn test(webhook: &str, now: Timestamp) -> Self {
        let body = json!({
            "type": "test",
            "timestamp": now,
            "data": {"webhook": webhook},
        });
        WebhookMessage {
            id: format!("msg_test_{}", uuid::Uuid::now_v7().simple()),
            seq: 0,
            body: body.to_string(),
        }
    }

    /// The number of the event that a message of this journal is about.
    pub(super) fn seq_of(id: &str, journal: &str) -> Option<u64> {
        let number = id.strip_prefix("msg_")?.strip_prefix(journal)?;
        number.strip_prefix('_')?.parse().ok()
    }
}

/// The attempt that caused an event, if the event before it is that attempt.
pub(super) fn attempt_of<'a>(before: &'a Event, event: &Event) -> Option<&'a Attempt> {
    let is_of_it = before.mail == event.mail && before.recipient == event.recipient;
    match &before.kind {
        EventKind::Attempted { attempt } if is_of_it && before.seq + 1 == event.seq => {
            Some(attempt)
        }
        _ => None,
    }
}

/// The event's own fields, and those that most receivers need under fixed names.
fn data(event: &Event, tried: Option<&Attempt>) -> Map<String, Value> {
    let mut data = match serde_json::to_value(event) {
        Ok(Value::Object(fields)) => fields,
        _ => Map::new(),
    };

    for name in ["event", "at", "attempt"] {
        data.remove(name);
    }

    let mail = data.remove("mail");
    if event.mail.is_none() {
        return data;
    }

    let own = match &event.kind {
        EventKind::Attempted { attempt } => Some(attempt),
        _ => tried,
    };

    data.insert("id".to_owned(), mail.unwrap_or_default());
    data.insert("state".to_owned(), state(&event.kind).into());
    data.entry("recipient").or_insert(Value::Null);
    data.entry("key").or_insert(Value::Null);
    data.entry("relay").or_insert(Value::Null);
    data.entry("tags").or_insert_with(|| json!([]));

    let code = own.and_then(|attempt| attempt.code);
    data.entry("code").or_insert(json!(code));
    let enhanced = own.and_then(|attempt| attempt.enhanced.clone());
    data.entry("enhanced").or_insert(json!(enhanced));

    let text = own.map(|attempt| attempt.text.clone());
    data.entry("text").or_insert(json!(text));
    data
}

/// The state of the delivery, or of the mail, after the event.
fn state(kind: &EventKind) -> &'static str {
    match kind {
        EventKind::Accepted | EventKind::Retried => State::Queued.as_str(),
        EventKind::Attempted { .. } => State::Sending.as_str(),
        other => other.as_str(),
    }
}

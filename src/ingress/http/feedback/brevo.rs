//! Brevo's events: one object each, or a list of them. They are authenticated by the password or
//! token that Brevo was configured to send in `Authorization`.

use bytes::Bytes;
use serde_json::Value;

use super::provider::{EventReading, given, text};
use crate::FeedbackKind;
use crate::dispatch::ProviderEvent;

pub(super) fn read(event: &Value) -> EventReading {
    let Some(name) = event["event"].as_str() else {
        return EventReading::Unknown;
    };
    let (kind, permanent) = match name {
        "delivered" => (FeedbackKind::Delivered, false),
        "hard_bounce" | "invalid_email" => (FeedbackKind::Bounced, true),
        "soft_bounce" | "blocked" | "error" => (FeedbackKind::Bounced, false),
        "spam" | "complaint" => (FeedbackKind::Complained, false),
        "unsubscribe" | "unsubscribed" => (FeedbackKind::Unsubscribed, false),
        "request" | "sent" | "deferred" | "opened" | "unique_opened" | "proxy_open"
        | "unique_proxy_open" | "click" => return EventReading::Nothing,
        _ => return EventReading::Unknown,
    };

    let times = [&event["ts_epoch"], &event["ts_event"], &event["date"]];
    let time = times.into_iter().find_map(given).unwrap_or_default();
    EventReading::event(ProviderEvent {
        id: format!("{name} {time}"),
        kind,
        permanent,
        status: None,
        text: given(&event["reason"]).unwrap_or_else(|| name.to_owned()),
        recipient: text(&event["email"]),
        names_recipient: true,
        message_id: given(&event["message-id"]),
        provider_id: given(&event["message-id"]),
        raw: Bytes::new(),
    })
}

//! Postmark's events: one object each. They are authenticated by the password that Postmark was
//! configured to send.

use bytes::Bytes;
use serde_json::Value;

use super::provider::{EventReading, given, text};
use crate::FeedbackKind;
use crate::dispatch::ProviderEvent;

pub(super) fn read(event: &Value) -> EventReading {
    let Some(name) = event["RecordType"].as_str() else {
        return EventReading::Unknown;
    };
    let (kind, permanent) = match (name, event["Type"].as_str()) {
        ("Delivery", _) => (FeedbackKind::Delivered, false),
        ("SpamComplaint", _) | ("Bounce", Some("SpamComplaint")) => {
            (FeedbackKind::Complained, false)
        }
        ("Bounce", Some("HardBounce" | "BadEmailAddress")) => (FeedbackKind::Bounced, true),
        (
            "Bounce",
            Some(
                "SoftBounce"
                | "Blocked"
                | "SpamNotification"
                | "DMARCPolicy"
                | "DnsError"
                | "Undeliverable"
                | "ManuallyDeactivated"
                | "SMTPApiError"
                | "VirusNotification",
            ),
        ) => (FeedbackKind::Bounced, false),
        ("Bounce", Some("Unsubscribe")) => (FeedbackKind::Unsubscribed, false),
        // The other changes follow from bounces and complaints, which are events of their own.
        ("SubscriptionChange", _)
            if event["SuppressSending"] == true
                && event["SuppressionReason"] == "ManualSuppression" =>
        {
            (FeedbackKind::Unsubscribed, false)
        }
        // Automatic replies, bounces that Postmark retries, and reading statistics.
        ("Bounce", Some("Transient" | "AutoResponder" | "AddressChange" | "Subscribe"))
        | ("SubscriptionChange" | "Open" | "Click" | "SMTPApiError", _) => {
            return EventReading::Nothing;
        }
        _ => return EventReading::Unknown,
    };

    let texts = [&event["Details"], &event["Description"], &event["Type"]];
    let own = given(&event["MessageID"]);
    let times = [
        &event["ID"],
        &event["ChangedAt"],
        &event["DeliveredAt"],
        &event["BouncedAt"],
    ];
    let time = times.into_iter().find_map(given).unwrap_or_default();
    EventReading::event(ProviderEvent {
        id: format!("{} {time}", own.as_deref().unwrap_or_default()),
        kind,
        permanent,
        status: None,
        text: texts
            .into_iter()
            .find_map(given)
            .unwrap_or_else(|| name.to_owned()),
        recipient: given(&event["Email"]).unwrap_or_else(|| text(&event["Recipient"])),
        names_recipient: true,
        message_id: None,
        provider_id: own,
        raw: Bytes::new(),
    })
}

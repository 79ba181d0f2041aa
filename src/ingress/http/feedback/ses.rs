//! Amazon SES's events, which arrive in SNS messages: one object each, which may name several
//! recipients.

use bytes::Bytes;
use serde_json::Value;

use super::provider::{EventReading, MOST_RECIPIENTS, given, text};
use crate::FeedbackKind;
use crate::dispatch::ProviderEvent;

pub(super) fn read(event: &Value) -> EventReading {
    // Feedback notifications and event publishing use different names for it.
    let names = [&event["eventType"], &event["notificationType"]];

    match names.into_iter().find_map(Value::as_str) {
        Some("Bounce") => bounce(event),
        Some("Complaint") => complaint(event),
        Some("Delivery") => {
            let delivery = &event["delivery"];
            let recipients = list(&delivery["recipients"]).iter().map(text);
            let of_one = |recipient| ProviderEvent {
                kind: FeedbackKind::Delivered,
                text: text(&delivery["smtpResponse"]),
                ..about(event, recipient, text(&delivery["timestamp"]))
            };
            EventReading::Events(recipients.map(of_one).collect())
        }
        Some(name @ ("Reject" | "Rendering Failure")) => {
            let reasons = [
                &event["reject"]["reason"],
                &event["failure"]["errorMessage"],
            ];
            let reason = reasons.into_iter().find_map(given);
            let of_one = |recipient| ProviderEvent {
                text: reason.clone().unwrap_or_else(|| name.to_owned()),
                ..about(event, recipient, name.to_owned())
            };
            let recipients = list(&event["mail"]["destination"]).iter().map(text);
            EventReading::Events(recipients.map(of_one).collect())
        }
        Some("Subscription") => subscription(event),
        Some("Send" | "Open" | "Click" | "DeliveryDelay") => EventReading::Nothing,
        _ => EventReading::Unknown,
    }
}

fn bounce(event: &Value) -> EventReading {
    let bounce = &event["bounce"];
    let sub_type = bounce["bounceSubType"].as_str().unwrap_or_default();
    let is_final = bounce["bounceType"] == "Permanent" && is_of_the_address(sub_type);

    let of_one = |one: &Value| ProviderEvent {
        permanent: is_final,
        status: given(&one["status"]),
        text: given(&one["diagnosticCode"]).unwrap_or_else(|| sub_type.to_owned()),
        ..about(
            event,
            text(&one["emailAddress"]),
            text(&bounce["feedbackId"]),
        )
    };
    let recipients = list(&bounce["bouncedRecipients"]).iter();
    EventReading::Events(recipients.map(of_one).collect())
}

/// Whether a bounce of this kind is permanent for the address. If SES itself has suppressed the
/// mail, that is no news about the address, and a full mailbox may be emptied. Resend's bounces
/// have the same kinds.
pub(super) fn is_of_the_address(sub_type: &str) -> bool {
    !matches!(
        sub_type,
        "Suppressed" | "OnAccountSuppressionList" | "UnsubscribedRecipient" | "MailboxFull"
    )
}

fn complaint(event: &Value) -> EventReading {
    let complaint = &event["complaint"];
    let status = given(&complaint["complaintFeedbackType"]);
    if status.as_deref() == Some("not-spam") {
        return EventReading::Nothing;
    }

    let said = [
        &complaint["complaintSubType"],
        &complaint["complaintFeedbackType"],
    ];
    let said = said.into_iter().find_map(given).unwrap_or_default();
    let of_one = |one: &Value| ProviderEvent {
        kind: FeedbackKind::Complained,
        status: status.clone(),
        text: said.clone(),
        ..about(
            event,
            text(&one["emailAddress"]),
            text(&complaint["feedbackId"]),
        )
    };

    // For a mail to several recipients, SES names everybody who may have complained.
    match list(&complaint["complainedRecipients"]) {
        [one] => EventReading::event(of_one(one)),
        _ => EventReading::Unknown,
    }
}

fn subscription(event: &Value) -> EventReading {
    let preferences = &event["subscription"]["newTopicPreferences"];
    let off = |topic: &Value| topic["subscriptionStatus"] == "OptOut";
    let has_left = preferences["unsubscribeAll"] == true
        || list(&preferences["topicSubscriptionStatus"])
            .iter()
            .any(off);

    match list(&event["mail"]["destination"]) {
        [one] if has_left => EventReading::event(ProviderEvent {
            kind: FeedbackKind::Unsubscribed,
            text: "Subscription".to_owned(),
            ..about(event, text(one), text(&event["subscription"]["timestamp"]))
        }),
        _ => EventReading::Nothing,
    }
}

/// A temporary bounce of this recipient, as the base of all events of a mail.
fn about(event: &Value, recipient: String, id: String) -> ProviderEvent {
    let mail = &event["mail"];
    // SES replaces the Message-ID; the original one is in the header.
    let is_name = |field: &&Value| {
        field["name"]
            .as_str()
            .is_some_and(|name| name.eq_ignore_ascii_case("message-id"))
    };
    let field = list(&mail["headers"]).iter().find(is_name);
    let in_header = field.and_then(|field| given(&field["value"]));

    ProviderEvent {
        id,
        kind: FeedbackKind::Bounced,
        permanent: false,
        status: None,
        text: String::new(),
        recipient,
        names_recipient: true,
        message_id: in_header.or_else(|| given(&mail["commonHeaders"]["messageId"])),
        provider_id: given(&mail["messageId"]),
        raw: Bytes::new(),
    }
}

fn list(value: &Value) -> &[Value] {
    let all = value.as_array().map_or(&[][..], Vec::as_slice);
    &all[..all.len().min(MOST_RECIPIENTS)]
}

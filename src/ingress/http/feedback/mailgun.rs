//! Mailgun's events: one object each, with its signature (HMAC-SHA256). The signature covers a time
//! and a token, but not the event, so each token is accepted once.

use bytes::Bytes;
use ring::hmac;
use serde::Deserialize;
use serde_json::Value;

use super::proof::{ProofError, ProviderRequest, Stamp};
use super::provider::{EventReading, given, text};
use crate::FeedbackKind;
use crate::dispatch::ProviderEvent;

/// The signed parts. Nothing else of a body is parsed before it is authenticated.
#[derive(Deserialize)]
struct Signed {
    signature: Signature,
}

#[derive(Deserialize)]
struct Signature {
    timestamp: Value,
    token: Value,
    signature: Value,
}

pub(super) fn prove(claimed: ProviderRequest<'_>, key: &str) -> Result<Stamp, ProofError> {
    let body: Signed = serde_json::from_slice(claimed.body).map_err(|_| ProofError::Missing)?;
    let said = |value: &Value| given(value).ok_or(ProofError::Missing);
    let (time, token) = (
        said(&body.signature.timestamp)?,
        said(&body.signature.token)?,
    );
    let signature = hex(&said(&body.signature.signature)?).ok_or(ProofError::Wrong)?;

    let key = hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes());
    let signed = format!("{time}{token}");
    hmac::verify(&key, signed.as_bytes(), &signature).map_err(|_| ProofError::Wrong)?;
    Stamp::of_seconds(&time, signed.as_bytes())
}

fn hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    if !digits.len().is_multiple_of(2) || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    digits.chunks(2).map(byte).collect()
}

pub(super) fn read(body: &Value) -> EventReading {
    let event = &body["event-data"];
    let Some(name) = event["event"].as_str() else {
        return EventReading::Unknown;
    };
    let (kind, permanent) = match (name, event["severity"].as_str()) {
        ("delivered", _) => (FeedbackKind::Delivered, false),
        ("failed", Some("permanent")) => (FeedbackKind::Bounced, true),
        ("rejected", _) => (FeedbackKind::Bounced, false),
        ("complained", _) => (FeedbackKind::Complained, false),
        ("unsubscribed", _) => (FeedbackKind::Unsubscribed, false),
        // Mailgun retries temporary failures itself.
        ("failed" | "accepted" | "opened" | "clicked" | "stored", _) => {
            return EventReading::Nothing;
        }
        _ => return EventReading::Unknown,
    };

    let status = &event["delivery-status"];
    let texts = [
        &status["message"],
        &status["description"],
        &event["reject"]["reason"],
        &event["reason"],
    ];
    let said = texts
        .into_iter()
        .find_map(given)
        .unwrap_or_else(|| name.to_owned());
    let said = match given(&status["code"]).filter(|code| !said.contains(code.as_str())) {
        Some(code) => format!("{code} {said}"),
        None => said,
    };

    // Mailgun does not send to an address that has bounced before, which is no news about the
    // address.
    let is_known_there = event["reason"]
        .as_str()
        .is_some_and(|reason| reason.starts_with("suppress-"));
    EventReading::event(ProviderEvent {
        id: text(&event["id"]),
        kind,
        permanent: permanent && !is_known_there,
        status: given(&status["enhanced-code"]).filter(|_| kind == FeedbackKind::Bounced),
        text: said,
        recipient: text(&event["recipient"]),
        names_recipient: true,
        message_id: given(&event["message"]["headers"]["message-id"]),
        provider_id: given(&event["message"]["headers"]["message-id"]),
        raw: Bytes::new(),
    })
}

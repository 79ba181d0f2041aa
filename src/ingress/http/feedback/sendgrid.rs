//! SendGrid's events: a list of objects. They are signed (ECDSA P-256) over the time and the body.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use serde_json::Value;

use super::proof::{ProofError, ProviderRequest, Stamp};
use super::provider::{EventReading, given, text};
use crate::FeedbackKind;
use crate::dispatch::ProviderEvent;

pub(super) fn prove(claimed: ProviderRequest<'_>, key: &str) -> Result<Stamp, ProofError> {
    let time = claimed.header("x-twilio-email-event-webhook-timestamp")?;
    let signature = claimed.header("x-twilio-email-event-webhook-signature")?;
    let signature = BASE64_STANDARD.decode(signature);
    let signature = signature.map_err(|_| ProofError::Wrong)?;
    let key = public_key(key).ok_or(ProofError::Wrong)?;

    let signed = [time.as_bytes(), claimed.body].concat();
    let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key);
    key.verify(&signed, &signature)
        .map_err(|_| ProofError::Wrong)?;
    Stamp::of_seconds(time, &signed)
}

/// The key point in the public key that SendGrid displays: a SubjectPublicKeyInfo in base64 (RFC
/// 5480 §2), which for this curve is a constant of 26 bytes followed by an uncompressed point.
pub(super) fn public_key(shown: &str) -> Option<Vec<u8>> {
    let lines = shown.lines().map(str::trim);
    let base64: String = lines.filter(|line| !line.starts_with("-----")).collect();
    let der = BASE64_STANDARD.decode(base64).ok()?;
    let point = der.get(26..)?;
    (der.len() == 91 && point[0] == 4).then(|| point.to_vec())
}

pub(super) fn read(event: &Value) -> EventReading {
    let Some(name) = event["event"].as_str() else {
        return EventReading::Unknown;
    };
    let (kind, permanent) = match (name, event["type"].as_str()) {
        ("delivered", _) => (FeedbackKind::Delivered, false),
        ("bounce", Some("blocked")) | ("blocked" | "dropped", _) => (FeedbackKind::Bounced, false),
        ("bounce", _) => (FeedbackKind::Bounced, true),
        ("spamreport", _) => (FeedbackKind::Complained, false),
        ("unsubscribe" | "group_unsubscribe", _) => (FeedbackKind::Unsubscribed, false),
        ("processed" | "deferred" | "open" | "click" | "group_resubscribe", _) => {
            return EventReading::Nothing;
        }
        _ => return EventReading::Unknown,
    };

    let texts = [&event["reason"], &event["response"]];
    let own = given(&event["sg_message_id"]);
    let status = given(&event["status"]).filter(|_| kind == FeedbackKind::Bounced);
    EventReading::event(ProviderEvent {
        id: text(&event["sg_event_id"]),
        kind,
        permanent,
        status,
        text: texts
            .into_iter()
            .find_map(given)
            .unwrap_or_else(|| name.to_owned()),
        recipient: text(&event["email"]),
        names_recipient: true,
        message_id: given(&event["smtp-id"]),
        // SendGrid's answer to the request contained the part before the first dot.
        provider_id: own.map(|own| own.split('.').next().unwrap_or_default().to_owned()),
        raw: Bytes::new(),
    })
}

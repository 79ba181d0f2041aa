//! Resend's events: one object each. They are signed as Standard Webhooks say, with header fields
//! that begin with `svix-` or `webhook-`.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use ring::hmac;
use serde_json::Value;

use super::proof::{ProofError, ProviderRequest, Stamp};
use super::provider::{EventReading, MOST_RECIPIENTS, given, text};
use super::ses::is_of_the_address;
use crate::FeedbackKind;
use crate::dispatch::ProviderEvent;

/// How many signatures of a request are checked: there are two while a secret is replaced.
const MOST_SIGNATURES: usize = 10;

pub(super) fn prove(claimed: ProviderRequest<'_>, secret: &str) -> Result<Stamp, ProofError> {
    let field = |name: &str| {
        let named = claimed.header(&format!("svix-{name}"));
        named.or_else(|_| claimed.header(&format!("webhook-{name}")))
    };
    let (id, time, signatures) = (field("id")?, field("timestamp")?, field("signature")?);

    let key = signing_key(secret).ok_or(ProofError::Wrong)?;
    let key = hmac::Key::new(hmac::HMAC_SHA256, &key);
    let signed = [id.as_bytes(), b".", time.as_bytes(), b".", claimed.body].concat();
    let is_right = |one: &str| {
        let signature = one.strip_prefix("v1,")?;
        let signature = BASE64_STANDARD.decode(signature).ok()?;
        hmac::verify(&key, &signed, &signature).ok()
    };

    let right = signatures
        .split(' ')
        .take(MOST_SIGNATURES)
        .find_map(is_right);
    right.ok_or(ProofError::Wrong)?;
    Stamp::of_seconds(time, &signed)
}

/// The key in a signing secret such as `whsec_…`.
pub(super) fn signing_key(secret: &str) -> Option<Vec<u8>> {
    let base64 = secret.trim().strip_prefix("whsec_")?;
    let key = BASE64_STANDARD.decode(base64).ok()?;
    (key.len() >= 16).then_some(key)
}

pub(super) fn read(event: &Value) -> EventReading {
    let Some(name) = event["type"].as_str() else {
        return EventReading::Unknown;
    };
    let data = &event["data"];
    let bounce = &data["bounce"];
    let (kind, permanent) = match name {
        "email.delivered" => (FeedbackKind::Delivered, false),
        "email.bounced" => {
            let sub_type = bounce["subType"].as_str().unwrap_or_default();
            let is_final = bounce["type"] == "Permanent" && is_of_the_address(sub_type);
            (FeedbackKind::Bounced, is_final)
        }
        "email.failed" | "email.suppressed" => (FeedbackKind::Bounced, false),
        "email.complained" => (FeedbackKind::Complained, false),
        "email.sent"
        | "email.scheduled"
        | "email.delivery_delayed"
        | "email.opened"
        | "email.clicked" => return EventReading::Nothing,
        _ => return EventReading::Unknown,
    };

    let recipients: Vec<String> = match &data["to"] {
        Value::Array(all) => all.iter().take(MOST_RECIPIENTS).map(text).collect(),
        one => vec![text(one)],
    };

    // What one of several recipients did is reported for the whole mail, and recipients in Cc and
    // Bcc are not named (<https://github.com/resend/resend-python/issues/68>). So such an event is
    // assigned to nobody. A mail that was never sent failed for all of them.
    let names_recipient = name == "email.failed";

    let texts = [
        &bounce["message"],
        &data["failed"]["reason"],
        &data["suppressed"]["message"],
    ];
    let said = texts
        .into_iter()
        .find_map(given)
        .unwrap_or_else(|| name.to_owned());
    let own = given(&data["email_id"]);
    let of_one = |recipient: String| ProviderEvent {
        id: format!("{} {name}", own.as_deref().unwrap_or_default()),
        kind,
        permanent,
        status: None,
        text: said.clone(),
        recipient,
        names_recipient,
        message_id: given(&data["message_id"]),
        provider_id: own.clone(),
        raw: Bytes::new(),
    };
    EventReading::Events(recipients.into_iter().map(of_one).collect())
}

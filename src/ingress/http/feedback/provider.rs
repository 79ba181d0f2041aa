//! Receives the events of providers. Each event is authenticated, by the body as received, and says
//! what happened to a mail.
//!
//! *Invariants:* nothing of an event is parsed before it is authenticated; a dated proof is
//! accepted once, and only while it is recent; events that could not be stored are not
//! acknowledged, so that the provider sends them again.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Extension, Path, Request, State};
use axum::http::StatusCode;
use bytes::Bytes;
use parking_lot::RwLock;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use serde_json::value::RawValue;

use super::proof::{ProofError, ProviderRequest, SeenProofs, Stamp};
use super::sns::{Certificates, SnsMessage, Topic};
use super::{Taken, brevo, mailgun, postmark, resend, sendgrid, ses};
use crate::dispatch::ProviderEvent;
use crate::ingress::Networks;
use crate::ingress::http::SharedDoor;
use crate::ingress::http::access::{Caller, TOO_MANY_FAILED};
use crate::ingress::http::params::Params;
use crate::ingress::http::problem::{Kind, Problem};
use crate::ingress::http::server::delay_guesser;
use crate::mail::Timestamp;
use crate::{Fetch, PublicPages};

/// The largest accepted body.
const MAX_BODY: usize = 4 * 1024 * 1024;
/// The most recipients of one event that are read: no provider accepts a mail to so many.
pub(super) const MOST_RECIPIENTS: usize = 1000;

/// A provider whose events are received.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Provider {
    /// Brevo: authenticated by Basic or Bearer, or by its addresses.
    Brevo,
    /// SendGrid: by ECDSA over time and body.
    Sendgrid,
    /// Mailgun: by HMAC over time and token.
    Mailgun,
    /// Amazon SES: by RSA over the fields of an SNS message.
    Ses,
    /// Postmark: by Basic, or by its addresses.
    Postmark,
    /// Resend: by Standard Webhooks.
    Resend,
}

impl Provider {
    /// Every provider.
    pub const ALL: [Provider; 6] = [
        Provider::Brevo,
        Provider::Sendgrid,
        Provider::Mailgun,
        Provider::Ses,
        Provider::Postmark,
        Provider::Resend,
    ];

    /// Its name in paths, in the configuration and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Provider::Brevo => "brevo",
            Provider::Sendgrid => "sendgrid",
            Provider::Mailgun => "mailgun",
            Provider::Ses => "ses",
            Provider::Postmark => "postmark",
            Provider::Resend => "resend",
        }
    }

    /// Whether its requests contain the secret itself and no signature.
    fn sends_its_secret(self) -> bool {
        matches!(self, Provider::Brevo | Provider::Postmark)
    }
}

/// How the events of one provider are authenticated.
#[derive(Clone, Debug)]
pub struct ProviderSettings {
    /// Which provider.
    pub provider: Provider,
    /// The password or token that it sends; SendGrid's public key; Mailgun's signing key; Resend's
    /// signing secret. SES has none.
    pub secret: Option<SecretString>,
    /// The networks from which its requests come; if empty, any.
    pub networks: Networks,
    /// The SNS topics of SES's events.
    pub topics: Vec<String>,
    /// How old a signed event may be.
    pub max_age: Duration,
}

impl ProviderSettings {
    /// The defaults for a provider.
    pub fn new(provider: Provider) -> Self {
        ProviderSettings {
            provider,
            secret: None,
            networks: Networks::default(),
            topics: Vec::new(),
            max_age: match provider {
                // When SNS repeats a message, it keeps the time of the first try.
                Provider::Ses => Duration::from_secs(60 * 60),
                _ => Duration::from_secs(5 * 60),
            },
        }
    }

    /// All mistakes in them: the key, and the reason.
    pub fn mistakes(&self) -> Vec<(&'static str, String)> {
        let mut mistakes = Vec::new();
        let mut add = |key, reason: &str| mistakes.push((key, reason.to_owned()));
        let secret = self.secret.as_ref().map(ExposeSecret::expose_secret);
        match (self.provider, secret) {
            (Provider::Ses, Some(_)) => add("secret", "is not needed: SNS signs its messages"),
            (Provider::Ses, None) if self.topics.is_empty() => {
                add(
                    "topics",
                    "is missing: the ARN of each topic that brings events",
                );
            }
            (Provider::Ses, None) => {
                for topic in self
                    .topics
                    .iter()
                    .filter(|topic| Topic::read(topic).is_none())
                {
                    let shown = topic.escape_debug();
                    let reason = format!(
                        "`{shown}` is not an ARN such as arn:aws:sns:eu-west-1:123456789012:NAME"
                    );
                    add("topics", &reason);
                }
            }
            (Provider::Sendgrid, Some(key)) if sendgrid::public_key(key).is_none() => add(
                "secret",
                "is not the verification key that SendGrid shows, a P-256 key in base64",
            ),
            (Provider::Resend, Some(secret)) if resend::signing_key(secret).is_none() => {
                add("secret", "is not a signing secret such as whsec_…");
            }
            (provider, None) if !provider.sends_its_secret() || self.networks.is_empty() => {
                add("secret_file", "is missing; or add `secret`");
            }
            (_, Some("")) => add("secret", "is empty"),
            _ => {}
        }

        if self.provider != Provider::Ses && !self.topics.is_empty() {
            add("topics", "is a key of [feedback.ses] alone");
        }
        if self.max_age.is_zero() {
            add("max_age", "is zero, so that nothing would be believed");
        }

        mistakes
    }
}

/// The providers whose events are received. Clones share them, so that they can be replaced while
/// the listener runs; accepted proofs are remembered.
#[derive(Clone)]
pub struct Providers(Arc<ProviderRegistry>);

struct ProviderRegistry {
    heard: RwLock<HashMap<Provider, Arc<ProviderSettings>>>,
    seen: SeenProofs,
    certificates: Certificates,
}

impl Default for Providers {
    fn default() -> Self {
        let web = PublicPages::new().inspect_err(
            |error| tracing::warn!(%error, "certificates of Amazon SNS cannot be fetched"),
        );
        Providers::made(web.ok().map(|web| Arc::new(web) as Arc<dyn Fetch>))
    }
}

impl fmt::Debug for Providers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let heard = self.0.heard.read();
        let names = heard.keys().map(|provider| provider.as_str());
        f.debug_set().entries(names).finish()
    }
}

impl Providers {
    /// None at first. What must be fetched to verify a signature is read with `web`.
    pub fn fetching_with(web: Arc<dyn Fetch>) -> Self {
        Providers::made(Some(web))
    }

    fn made(web: Option<Arc<dyn Fetch>>) -> Self {
        Providers(Arc::new(ProviderRegistry {
            heard: RwLock::default(),
            seen: SeenProofs::default(),
            certificates: Certificates::new(web),
        }))
    }

    /// Receives the events of these providers from the next request on, and of no others.
    pub fn replace(&self, settings: impl IntoIterator<Item = ProviderSettings>) {
        let settings = settings.into_iter();
        let heard = settings.map(|one| (one.provider, Arc::new(one)));
        *self.0.heard.write() = heard.collect();
    }

    fn named(&self, name: &str) -> Option<Arc<ProviderSettings>> {
        let provider = Provider::ALL.into_iter().find(|one| one.as_str() == name)?;
        self.0.heard.read().get(&provider).cloned()
    }

    /// Verifies that a request is authentic; returns the stamp of its proof, if it is dated.
    async fn prove(
        &self,
        settings: &ProviderSettings,
        claimed: ProviderRequest<'_>,
        message: Option<&SnsMessage>,
        now: Timestamp,
    ) -> Result<Option<Stamp>, ProofError> {
        let secret = settings.secret.as_ref().map(ExposeSecret::expose_secret);
        let needed = secret.ok_or(ProofError::Missing);

        match (settings.provider, message) {
            (Provider::Ses, Some(message)) => {
                let certificates = &self.0.certificates;
                let proved = certificates.prove(message, &settings.topics, now);
                proved.await.map(Some)
            }
            (Provider::Ses, None) => Err(ProofError::Missing),
            (Provider::Brevo | Provider::Postmark, _) => match secret {
                Some(secret) => claimed.shows(secret).map(|()| None),
                None if settings.networks.is_empty() => Err(ProofError::Missing),
                None => Ok(None),
            },
            (Provider::Sendgrid, _) => sendgrid::prove(claimed, needed?).map(Some),
            (Provider::Mailgun, _) => mailgun::prove(claimed, needed?).map(Some),
            (Provider::Resend, _) => resend::prove(claimed, needed?).map(Some),
        }
    }
}

/// The result of parsing one event.
pub(super) enum EventReading {
    /// It says what happened to mail.
    Events(Vec<ProviderEvent>),
    /// It is known, and has no consequence.
    Nothing,
    /// It is not understood.
    Unknown,
}

impl EventReading {
    pub(super) fn event(event: ProviderEvent) -> Self {
        EventReading::Events(vec![event])
    }
}

/// Receives the events of a provider. They authenticate themselves, so no token is needed.
///
/// The section `[feedback.…]` contains the keys to verify them. An event that is not understood, or
/// that is about a mail that is not stored here, is counted and changes nothing. The same event
/// twice counts once.
#[utoipa::path(
    post, path = "/v1/feedback/{provider}", tag = "feedback",
    params((
        "provider" = String, Path,
        description = "brevo, sendgrid, mailgun, ses, postmark or resend, as far as `[feedback]` \
                       has it",
    )),
    request_body(content = Value, content_type = "application/json"),
    responses(
        (status = 202, description = "The result", body = Taken),
        (status = 401,
            description = "It does not prove whose it is, is not of now, or was taken before"),
        (status = 404, description = "This provider has no section in `[feedback]`"),
        (status = 429,
            description = "Too many wrong passwords or signatures came from this address"),
    ),
)]
pub(in crate::ingress::http) async fn take(
    State(door): State<SharedDoor>,
    Path(name): Path<String>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<(StatusCode, Json<Taken>), Problem> {
    let Some(settings) = door.providers.named(&name) else {
        let detail = "no events of this provider are heard; `[feedback]` names those that are";
        return Err(Problem::new(Kind::NotFound, detail));
    };
    let (parts, body) = request.into_parts();
    Params::of(parts.uri.query()).finish()?;
    let held = door.collect(body, MAX_BODY).await?;
    let claimed = ProviderRequest {
        headers: &parts.headers,
        body: &held.bytes,
    };
    let heard = receive_events(&door, &settings, &caller, claimed).await;
    // A request that is delayed because its proof is wrong must hold no memory.
    drop(held);

    match heard {
        Ok(taken) => Ok((StatusCode::ACCEPTED, Json(taken))),
        Err(EventRefusal::Refused(refusal)) => Err(refused(&door, &name, &caller, refusal).await),
        Err(EventRefusal::Problem(problem)) => Err(problem),
    }
}

/// Why a request is refused.
enum EventRefusal {
    /// It is not authentic.
    Refused(ProofError),
    /// It is authentic, but not valid.
    Problem(Problem),
}

impl From<ProofError> for EventRefusal {
    fn from(refusal: ProofError) -> Self {
        EventRefusal::Refused(refusal)
    }
}

/// Logs a request that is not authentic. A wrong proof counts against its address as a wrong token
/// does.
async fn refused(door: &SharedDoor, name: &str, caller: &Caller, refusal: ProofError) -> Problem {
    door.dispatcher.feedback().count_unknown(name, "refused");
    tracing::warn!(by = name, peer = ?caller.peer, reason = %refusal, "events are not believed");

    if let (true, Some(peer)) = (refusal.is_guess(), caller.peer) {
        door.dispatcher.turned_away("login");
        if delay_guesser(door, peer).await {
            return Problem::new(Kind::TooMany, TOO_MANY_FAILED);
        }
    }
    match refusal {
        ProofError::NotNow => Problem::new(Kind::Unavailable, "it cannot be checked now"),
        _ => Problem::new(
            Kind::Unproved,
            format!("what claims to be of {name} {refusal}"),
        ),
    }
}

/// Accepts the events of a request, if it is authentic.
async fn receive_events(
    door: &SharedDoor,
    settings: &ProviderSettings,
    caller: &Caller,
    claimed: ProviderRequest<'_>,
) -> Result<Taken, EventRefusal> {
    let is_from_there = |peer| settings.networks.contain(peer);
    if !settings.networks.is_empty() && !caller.peer.is_some_and(is_from_there) {
        return Err(ProofError::Network.into());
    }

    let message = match settings.provider {
        Provider::Ses => Some(SnsMessage::read(claimed.body)?),
        _ => None,
    };
    let now = Timestamp::now();
    let providers = &door.providers;
    let stamp = providers
        .prove(settings, claimed, message.as_ref(), now)
        .await?;
    let take = |stamp: &Stamp| providers.0.seen.take(stamp, settings.max_age, now);
    let taking = stamp.as_ref().map(take).transpose()?;

    let name = settings.provider.as_str();
    let dispatcher = caller.acts_on(&door.dispatcher);
    let feedback = dispatcher.feedback();
    let events = match &message {
        Some(message) if message.is_handshake() => {
            providers.0.certificates.confirm(message).await?;
            Vec::new()
        }
        // The message by which AWS confirms a topic is not JSON.
        Some(message) => match read(door, settings.provider, message.message.as_bytes()) {
            Ok(events) => events,
            Err(_) => {
                feedback.count_unknown(name, "ignored");
                Vec::new()
            }
        },
        None => read(door, settings.provider, claimed.body).map_err(|error| {
            let detail = format!("the body is not JSON: {error}");
            EventRefusal::Problem(Problem::new(Kind::Malformed, detail))
        })?,
    };

    let taken = feedback.take_events(name, events).await;
    let receipts = taken.map_err(|error| EventRefusal::Problem(error.into()))?;
    if let Some(taking) = taking {
        taking.keep();
    }
    Ok(Taken::of(receipts))
}

/// The events of a body, which is one event or a list. They are parsed one at a time, so that only
/// one is in memory.
fn listed(body: &[u8]) -> Result<Vec<&RawValue>, serde_json::Error> {
    match body.trim_ascii_start().first() {
        Some(b'[') => serde_json::from_slice(body),
        _ => serde_json::from_slice(body).map(|one| vec![one]),
    }
}

/// Parses an event.
fn reading(provider: Provider, event: &RawValue) -> EventReading {
    let read: fn(&Value) -> EventReading = match provider {
        Provider::Brevo => brevo::read,
        Provider::Sendgrid => sendgrid::read,
        Provider::Mailgun => mailgun::read,
        Provider::Ses => ses::read,
        Provider::Postmark => postmark::read,
        Provider::Resend => resend::read,
    };
    match serde_json::from_str(event.get()).map(|said| read(&said)) {
        Ok(EventReading::Events(of_nobody)) if of_nobody.is_empty() => EventReading::Unknown,
        Ok(reading) => reading,
        Err(_) => EventReading::Unknown,
    }
}

/// Parses the events of a body. Events without a consequence are counted.
fn read(
    door: &SharedDoor,
    provider: Provider,
    body: &[u8],
) -> Result<Vec<ProviderEvent>, serde_json::Error> {
    let count = |what| {
        door.dispatcher
            .feedback()
            .count_unknown(provider.as_str(), what)
    };
    let mut events = Vec::new();
    for one in listed(body)? {
        match reading(provider, one) {
            EventReading::Events(of_one) => {
                let raw = Bytes::copy_from_slice(one.get().as_bytes());
                events.extend(of_one.into_iter().map(|event| ProviderEvent {
                    raw: raw.clone(),
                    ..event
                }));
            }
            EventReading::Nothing => count("nothing"),
            EventReading::Unknown => count("ignored"),
        }
    }

    Ok(events)
}

/// Verifies and parses a body as that of each provider, for fuzz tests.
#[cfg(feature = "testing")]
pub(in crate::ingress::http) fn exercise(body: &[u8]) {
    let headers = axum::http::HeaderMap::new();
    let claimed = ProviderRequest {
        headers: &headers,
        body,
    };
    let _ = mailgun::prove(claimed, "key");
    if let Ok(message) = SnsMessage::read(body) {
        let _ = message.signed();
        let events = listed(message.message.as_bytes()).unwrap_or_default();
        for event in events {
            reading(Provider::Ses, event);
        }
    }
    for event in listed(body).unwrap_or_default() {
        for provider in Provider::ALL {
            if let EventReading::Events(events) = reading(provider, event) {
                assert!(!events.is_empty(), "{event}");
            }
        }
    }
}

/// A text in an event; empty if absent.
pub(super) fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => String::new(),
    }
}

/// A text in an event, if present.
pub(super) fn given(value: &Value) -> Option<String> {
    Some(text(value)).filter(|text| !text.is_empty())
}

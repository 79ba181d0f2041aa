//! Events of providers: each proves that it is theirs, over the bytes as they came, and says what
//! became of a mail. Which providers are heard, and the call that hears them.
//!
//! *Invariants:* nothing is read of what has not proved whose it is; a proof that is dated is taken
//! once, and soon; what could not be kept is not taken, so that the provider sends it again.

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
use crate::ingress::http::server::guessed;
use crate::mail::Timestamp;
use crate::{Fetch, PublicPages};

/// The largest body that is looked at.
const MAX_BODY: usize = 4 * 1024 * 1024;
/// The most recipients of one event that are looked at: no provider takes a mail to as many.
pub(super) const MOST_RECIPIENTS: usize = 1000;

/// A provider whose events are heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Provider {
    /// Brevo: Basic or Bearer, or its addresses.
    Brevo,
    /// SendGrid: ECDSA over time and body.
    Sendgrid,
    /// Mailgun: HMAC over time and token.
    Mailgun,
    /// Amazon SES: RSA over the fields of a message of SNS.
    Ses,
    /// Postmark: Basic, or its addresses.
    Postmark,
    /// Resend: Standard Webhooks.
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

    /// Whether its requests show a secret as it is, with nothing signed.
    fn shows_its_secret(self) -> bool {
        matches!(self, Provider::Brevo | Provider::Postmark)
    }
}

/// How the events of one provider are checked.
#[derive(Clone, Debug)]
pub struct ProviderSettings {
    /// Which provider.
    pub provider: Provider,
    /// The password or token that it shows; SendGrid's public key; Mailgun's signing key; Resend's
    /// signing secret. SES has none.
    pub secret: Option<SecretString>,
    /// The networks that its requests come from; none: they may come from anywhere.
    pub networks: Networks,
    /// The topics of SNS that bring SES's events.
    pub topics: Vec<String>,
    /// How old a signed event may be.
    pub max_age: Duration,
}

impl ProviderSettings {
    /// Those of a provider that nothing is known of.
    pub fn new(provider: Provider) -> Self {
        ProviderSettings {
            provider,
            secret: None,
            networks: Networks::default(),
            topics: Vec::new(),
            max_age: match provider {
                // What SNS sends again bears the time of the first try.
                Provider::Ses => Duration::from_secs(60 * 60),
                _ => Duration::from_secs(5 * 60),
            },
        }
    }

    /// Everything that is wrong with them: the key, and the reason.
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
            (provider, None) if !provider.shows_its_secret() || self.networks.is_empty() => {
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

/// The providers whose events are heard. Clones share them, so that they can be replaced while the
/// door runs; what was taken stays known.
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
    /// None yet. What has to be fetched to check what they say is read with `web`.
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

    /// Hears these from the next request on, and no others.
    pub fn replace(&self, settings: impl IntoIterator<Item = ProviderSettings>) {
        let settings = settings.into_iter();
        let heard = settings.map(|one| (one.provider, Arc::new(one)));
        *self.0.heard.write() = heard.collect();
    }

    fn named(&self, name: &str) -> Option<Arc<ProviderSettings>> {
        let provider = Provider::ALL.into_iter().find(|one| one.as_str() == name)?;
        self.0.heard.read().get(&provider).cloned()
    }

    /// Whether a request is of the provider; what its proof is dated with, where it is dated.
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

/// What was read of one event.
pub(super) enum EventReading {
    /// It says what became of mail.
    Events(Vec<ProviderEvent>),
    /// It is known, and nothing follows from it.
    Nothing,
    /// It is not understood.
    Unknown,
}

impl EventReading {
    pub(super) fn event(event: ProviderEvent) -> Self {
        EventReading::Events(vec![event])
    }
}

/// Takes the events of a provider, which prove themselves that they are its: no token is needed.
///
/// What they are checked with stands in `[feedback.…]`. An event that is not understood, or of a
/// mail that is not kept here, is counted and changes nothing; the same event twice is one.
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
    let heard = hear(&door, &settings, &caller, claimed).await;
    // Whoever waits because the proof is wrong holds no memory meanwhile.
    drop(held);

    match heard {
        Ok(taken) => Ok((StatusCode::ACCEPTED, Json(taken))),
        Err(EventRefusal::Refused(refusal)) => Err(refused(&door, &name, &caller, refusal).await),
        Err(EventRefusal::Problem(problem)) => Err(problem),
    }
}

/// Why nothing came of a request.
enum EventRefusal {
    /// It is not believed.
    Refused(ProofError),
    /// It is believed.
    Problem(Problem),
}

impl From<ProofError> for EventRefusal {
    fn from(refusal: ProofError) -> Self {
        EventRefusal::Refused(refusal)
    }
}

/// Tells of a request that is not believed. One whose proof is wrong costs its address what a wrong
/// token does.
async fn refused(door: &SharedDoor, name: &str, caller: &Caller, refusal: ProofError) -> Problem {
    door.dispatcher.feedback().count_unknown(name, "refused");
    tracing::warn!(by = name, peer = ?caller.peer, reason = %refusal, "events are not believed");

    if let (true, Some(peer)) = (refusal.is_guess(), caller.peer) {
        door.dispatcher.turned_away("login");
        if guessed(door, peer).await {
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

/// Takes the events of a request, if it is the provider's.
async fn hear(
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
        // What tells that a topic was connected is no JSON.
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

/// The events of a body, one or a list of them, as they were written. Each is read by itself, so
/// that what is made of them takes no more memory than one does.
fn listed(body: &[u8]) -> Result<Vec<&RawValue>, serde_json::Error> {
    match body.trim_ascii_start().first() {
        Some(b'[') => serde_json::from_slice(body),
        _ => serde_json::from_slice(body).map(|one| vec![one]),
    }
}

/// What an event says.
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

/// What a body says. Events that nothing follows from are counted.
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

/// Checks and reads a body as each provider's, whosever it is. For tests that feed it rubbish.
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

/// A text in an event; empty where there is none.
pub(super) fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => String::new(),
    }
}

/// A text in an event, if there is one.
pub(super) fn given(value: &Value) -> Option<String> {
    Some(text(value)).filter(|text| !text.is_empty())
}

//! Relays that are a provider's HTTP API: the same lanes, rates, breakers and attempts as SMTP, for
//! programs that may only go out over HTTPS.
//!
//! One file a provider says three things: the [`Request`] for a mail, what an answer means
//! ([`Verdict`]), and its [`RequestLimits`]. This file is what they share: recipients over the
//! limit become several requests, a relay that says "too fast" is given the time it asks for, and
//! each verdict becomes an [`Outcome`] of each recipient.
//!
//! *Invariant:* a request that may have reached the provider and was not answered is in doubt, and
//! repeated only where the provider can tell two hand-overs of one mail apart. What such a
//! repetition meets, save a success, takes the doubt away from nobody.

mod brevo;
mod content;
mod gmail;
mod graph;
mod mailgun;
mod postmark;
mod resend;
mod sendgrid;
mod ses;
mod sigv4;
mod url;

pub use url::{ApiServer, Credentials};

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::http::{HttpAnswer, HttpClient, Post, RequestFailure, RequestProgress};
use super::{Connection, RelayError, Transaction, Transport};
use crate::delivery::{Outcome, Phase, Reply, printable};
use crate::mail::{Address, MailId};

/// The longest that a sender waits itself for a relay that said "too fast". Beyond it the relay is
/// left alone, so that the route's next one can be asked.
const MAX_WAIT: Duration = Duration::from_secs(60);
/// How long to wait where the answer does not say.
const DEFAULT_WAIT: Duration = Duration::from_secs(5);
/// How often a request is repeated at once where the provider tells repetitions apart.
const MOST_REPEATS: u32 = 2;
/// How often somebody who waits looks whether the mail is still wanted.
const CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// What a provider takes in one request.
#[derive(Clone, Copy, Debug)]
struct RequestLimits {
    /// Recipients of one request.
    recipients: usize,
    /// Bytes of the message.
    bytes: usize,
}

/// A mail on its way to a provider, with those of its recipients that go in one request.
struct RequestMail<'a> {
    transaction: &'a Transaction,
    recipients: &'a [Address],
    /// Distinguishes this request from every other one, and is the same when it is repeated.
    key: String,
}

/// How a provider is asked.
struct Request {
    /// Below the provider's address, with its leading slash.
    path: String,
    content_type: String,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

impl Request {
    fn json(path: &str, body: &serde_json::Value) -> Self {
        Request {
            path: path.to_owned(),
            content_type: "application/json".to_owned(),
            headers: vec![("accept", "application/json".to_owned())],
            body: body.to_string().into_bytes(),
        }
    }

    fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

/// What an answer means.
#[derive(Clone, Debug, PartialEq)]
enum Verdict {
    /// It was taken, under this id; but not for these addresses, for this reason.
    Accepted {
        id: Option<String>,
        except: Vec<String>,
        reason: String,
    },
    /// This mail will never be taken.
    Rejected(String),
    /// This mail may be taken later.
    Deferred(String),
    /// Too fast, or too much at once: ask again after this time.
    TooFast(Option<Duration>, String),
    /// The account, its login or its credit: no mail would be taken.
    Account(String),
    /// It may have been taken.
    InDoubt(String),
    /// An earlier request may have been taken, and to ask again under the same key would tell
    /// nothing more.
    PerhapsTaken(String),
    /// Another request with the same key is still being worked on: ask again with the same key.
    Repeat(String),
}

impl Verdict {
    fn accepted(id: Option<&str>) -> Self {
        Verdict::Accepted {
            id: id.map(|id| id.trim_matches(['<', '>']).to_owned()),
            except: Vec::new(),
            reason: String::new(),
        }
    }

    /// What it is worth with this status. A server that says that it failed has refused no mail,
    /// whatever else it says; nor is its status taken for a code of SMTP.
    fn with_status(self, status: u16) -> Self {
        match self {
            Verdict::Rejected(text) | Verdict::Deferred(text) if status >= 500 => {
                Verdict::InDoubt(text)
            }
            verdict => verdict,
        }
    }
}

/// One provider.
trait ProviderApi: Send + Sync {
    fn limits(&self) -> RequestLimits;

    /// The request for this mail; what cannot be said in it is named and refused.
    fn request(&self, mail: &RequestMail<'_>) -> Result<Request, String>;

    /// Why this one of the mail's recipients cannot be told to it, whoever else gets the mail.
    fn cannot_reach(&self, _recipient: &Address) -> Option<String> {
        None
    }

    /// Which of the mail's recipients, by their places, go together in one request.
    fn requests(&self, mail: &Transaction) -> Vec<Vec<usize>> {
        let places: Vec<usize> = (0..mail.recipients.len()).collect();
        places
            .chunks(self.limits().recipients)
            .map(<[usize]>::to_vec)
            .collect()
    }

    /// What an answer means.
    fn judge(&self, answer: &HttpAnswer) -> Verdict;

    /// Whether it tells two requests with the same key apart from two mails.
    fn knows_repeats(&self) -> bool {
        false
    }

    /// Whether it still does so for a request that is repeated hours later.
    fn knows_late_repeats(&self) -> bool {
        false
    }
}

/// A relay over a provider's API.
pub(super) struct Api {
    shared: Arc<ApiState>,
}

struct ApiState {
    client: HttpClient,
    /// The provider's address, without a slash at its end.
    base: String,
    provider: Box<dyn ProviderApi>,
    server: ApiServer,
    /// Until when the provider wants to be left alone.
    rests_until: Mutex<Option<Instant>>,
}

impl Api {
    pub(super) fn new(server: ApiServer) -> Result<Self, RelayError> {
        let client = HttpClient::new(server.ca_file.as_deref(), server.timeouts)?;
        let provider = server.provider()?;
        let base = server.base();
        Ok(Api {
            shared: Arc::new(ApiState {
                client,
                base,
                provider,
                server,
                rests_until: Mutex::new(None),
            }),
        })
    }
}

#[async_trait]
impl Transport for Api {
    /// Nothing is opened before there is a mail: the pool of connections is the client's. What a
    /// token needs is fetched here, so that a login that fails is the relay's fault.
    async fn connect(&self) -> Result<Box<dyn Connection>, Outcome> {
        let shared = Arc::clone(&self.shared);
        if let Some(outcome) = shared.rests_too_long() {
            return Err(outcome);
        }
        shared.token(None).await?;
        Ok(Box::new(ApiConnection {
            shared,
            usable: true,
        }))
    }
}

impl ApiState {
    fn rests_for(&self) -> Duration {
        let until = *self.rests_until.lock();
        until.map_or(Duration::ZERO, |until| {
            until.saturating_duration_since(Instant::now())
        })
    }

    /// What becomes of a mail while the provider wants to be left alone for longer than anybody
    /// waits.
    fn rests_too_long(&self) -> Option<Outcome> {
        let wait = self.rests_for();
        (wait > MAX_WAIT).then(|| {
            let span = humantime::format_duration(Duration::from_secs(wait.as_secs()));
            let reason = format!("the provider asked to be left alone for {span} more");
            Outcome::Unavailable(Phase::Connect, reason)
        })
    }

    fn rest(&self, span: Duration) {
        let until = Instant::now() + span;
        let mut rests_until = self.rests_until.lock();
        *rests_until = Some(rests_until.map_or(until, |before| before.max(until)));
    }

    /// The access token, where the provider wants one.
    async fn token(&self, refused: Option<&str>) -> Result<Option<String>, Outcome> {
        let Some(source) = &self.server.token else {
            return Ok(None);
        };
        let fetched = source.fetch(refused).await;
        fetched.map(Some).map_err(|reason| {
            Outcome::Unavailable(
                Phase::Auth,
                printable(&format!("no access token: {reason}")),
            )
        })
    }
}

struct ApiConnection {
    shared: Arc<ApiState>,
    usable: bool,
}

#[async_trait]
impl Connection for ApiConnection {
    async fn send(&mut self, mail: &Transaction, _next: Option<&Transaction>) -> Vec<Outcome> {
        let limits = self.shared.provider.limits();
        if mail.message.len() > limits.bytes {
            let text = format!(
                "5.3.4 the message has {} bytes, and the provider takes {}",
                mail.message.len(),
                limits.bytes
            );
            return vec![refused_here(552, &text); mail.recipients.len()];
        }

        let provider = &self.shared.provider;
        let unreachable: Vec<Option<String>> = mail
            .recipients
            .iter()
            .map(|recipient| provider.cannot_reach(recipient))
            .collect();
        if unreachable.iter().any(Option::is_some) {
            return self.send_to_others(mail, unreachable).await;
        }

        let not_sent = Outcome::Unavailable(Phase::Connect, "it was not its turn".into());
        let mut outcomes = vec![not_sent; mail.recipients.len()];
        let mut stopped = None;
        for places in self.shared.provider.requests(mail) {
            let recipients: Vec<Address> = places
                .iter()
                .map(|place| mail.recipients[*place].clone())
                .collect();
            let sent = match &stopped {
                None => {
                    let part = RequestMail {
                        transaction: mail,
                        key: request_key(mail.mail, &recipients),
                        recipients: &recipients,
                    };
                    self.send_part(&part).await
                }
                Some(outcome) => vec![Outcome::clone(outcome); recipients.len()],
            };
            // What is the relay's doing, the next request would meet as well.
            if let Some(outcome @ (Outcome::Unavailable(..) | Outcome::Withdrawn)) = sent.first() {
                stopped = Some(outcome.clone());
            }
            for (place, outcome) in places.into_iter().zip(sent) {
                outcomes[place] = outcome;
            }
        }

        outcomes
    }

    fn is_usable(&self) -> bool {
        self.usable
    }

    async fn close(self: Box<Self>) {}
}

impl ApiConnection {
    /// Sends a mail to those recipients of whom the provider can be told; the others are refused
    /// here, each with the reason why.
    async fn send_to_others(
        &mut self,
        mail: &Transaction,
        unreachable: Vec<Option<String>>,
    ) -> Vec<Outcome> {
        let recipients = mail.recipients.iter().zip(&unreachable);
        let others: Vec<Address> = recipients
            .filter(|(_, reason)| reason.is_none())
            .map(|(recipient, _)| recipient.clone())
            .collect();

        let mut sent = match others.is_empty() {
            true => Vec::new(),
            false => self.send(&mail.clone().for_recipients(others), None).await,
        }
        .into_iter();

        let outcomes = unreachable.into_iter().map(|reason| match reason {
            Some(reason) => refused_here(550, &format!("5.6.7 {reason}")),
            None => sent
                .next()
                .unwrap_or_else(|| Outcome::InDoubt("no outcome was given".into())),
        });
        outcomes.collect()
    }

    async fn send_part(&mut self, mail: &RequestMail<'_>) -> Vec<Outcome> {
        let mut doubt = None;
        let outcomes = self.hand_over(mail, &mut doubt).await;
        let Some(doubt) = doubt else {
            return outcomes;
        };

        let outcomes = outcomes.into_iter().map(|outcome| match outcome {
            Outcome::Delivered(_) | Outcome::InDoubt(_) | Outcome::Lost(Phase::FinalDot, _) => {
                outcome
            }
            // An earlier request may have been taken, whatever became of the one after it.
            _ => self.in_doubt(&doubt),
        });
        outcomes.collect()
    }

    /// Asks until there is an answer that settles it, or there is no use in asking again. `doubt`
    /// is why an earlier request than the last may have been taken.
    async fn hand_over(
        &mut self,
        mail: &RequestMail<'_>,
        doubt: &mut Option<String>,
    ) -> Vec<Outcome> {
        let all = |outcome: Outcome| vec![outcome; mail.recipients.len()];
        let mut repeats = 0;

        let mut refused_token = None;
        loop {
            if let Err(outcome) = self.wait_its_turn(mail).await {
                return all(outcome);
            }
            let token = match self.shared.token(refused_token.as_deref()).await {
                Ok(token) => token,
                Err(outcome) => return all(outcome),
            };
            let request = match self.shared.provider.request(mail) {
                Ok(request) => request,
                Err(reason) => return all(refused_here(554, &format!("5.6.0 {reason}"))),
            };

            let answered = self.ask(request, token.as_deref()).await;
            let can_repeat = repeats < MOST_REPEATS && self.shared.provider.knows_repeats();
            let (verdict, code) = match answered {
                // A token that was taken back early is fetched anew, once.
                Ok(answer) if answer.status == 401 && token.is_some() => {
                    if refused_token.is_none() {
                        refused_token = token;
                        continue;
                    }
                    (self.shared.provider.judge(&answer), answer.status)
                }
                Ok(answer) => (self.shared.provider.judge(&answer), answer.status),
                Err(unanswered) if unanswered.reached == RequestProgress::Whole => {
                    (Verdict::InDoubt(unanswered.reason), 0)
                }
                Err(RequestFailure { reached, reason }) => {
                    self.usable = false;
                    let reason = printable(&reason);
                    return all(match reached {
                        RequestProgress::Nothing => Outcome::Unavailable(Phase::Connect, reason),
                        _ => Outcome::Lost(Phase::Body, reason),
                    });
                }
            };

            match verdict.with_status(code) {
                Verdict::InDoubt(reason) | Verdict::Repeat(reason) if can_repeat => {
                    doubt.get_or_insert(reason);
                    repeats += 1;
                    tokio::time::sleep(Duration::from_secs(u64::from(repeats))).await;
                }
                Verdict::TooFast(wait, reason) => {
                    let wait = wait.unwrap_or(DEFAULT_WAIT);
                    self.shared.rest(wait);
                    if wait > MAX_WAIT {
                        self.usable = false;
                        return all(Outcome::Unavailable(Phase::Connect, printable(&reason)));
                    }
                }
                verdict => return self.outcomes(mail, verdict, code),
            }
        }
    }

    /// Waits while the provider wants to be left alone; its mail may expire or be cancelled
    /// meanwhile.
    async fn wait_its_turn(&mut self, mail: &RequestMail<'_>) -> Result<(), Outcome> {
        loop {
            if mail.transaction.recall.is_recalled() {
                self.usable = false;
                return Err(Outcome::Withdrawn);
            }
            // Another connection may have been told so meanwhile.
            if let Some(outcome) = self.shared.rests_too_long() {
                self.usable = false;
                return Err(outcome);
            }
            match self.shared.rests_for() {
                Duration::ZERO => return Ok(()),
                wait => tokio::time::sleep(wait.min(CHECK_INTERVAL)).await,
            }
        }
    }

    async fn ask(
        &self,
        request: Request,
        token: Option<&str>,
    ) -> Result<HttpAnswer, RequestFailure> {
        let mut post = Post {
            url: format!("{}{}", self.shared.base, request.path),
            content_type: request.content_type,
            headers: request.headers,
            body: request.body.into(),
        };
        if let Some(token) = token {
            post.headers
                .push(("authorization", format!("Bearer {token}")));
        }
        self.shared.client.post(post).await
    }

    /// What becomes of a mail that may have been taken.
    fn in_doubt(&self, reason: &str) -> Outcome {
        let reason = printable(reason);
        // Tried again later under the same key, it is the same mail to the provider.
        match self.shared.provider.knows_late_repeats() {
            true => Outcome::Lost(Phase::FinalDot, reason),
            false => Outcome::InDoubt(reason),
        }
    }

    fn outcomes(&mut self, mail: &RequestMail<'_>, verdict: Verdict, code: u16) -> Vec<Outcome> {
        let all = |outcome: Outcome| vec![outcome; mail.recipients.len()];
        let answer = |text: &str| Reply::new(code, text);

        match verdict {
            Verdict::Accepted { id, except, reason } => {
                let text =
                    id.map_or_else(|| "accepted".to_owned(), |id| format!("accepted as {id}"));
                let is_excepted = |recipient: &Address| {
                    except
                        .iter()
                        .any(|address| address.eq_ignore_ascii_case(recipient.as_str()))
                };
                let outcome = |recipient: &Address| match is_excepted(recipient) {
                    // The request was taken; this recipient was not.
                    true => Outcome::Rejected(Phase::FinalDot, Reply::new(550, &reason)),
                    false => Outcome::Delivered(answer(&text)),
                };
                mail.recipients.iter().map(outcome).collect()
            }
            Verdict::Rejected(text) => all(Outcome::Rejected(Phase::FinalDot, answer(&text))),
            Verdict::Deferred(text) => all(Outcome::Deferred(Phase::FinalDot, answer(&text))),
            Verdict::Account(text) => {
                self.usable = false;
                let text = format!("the provider refused ({code}): {text}");
                all(Outcome::Unavailable(Phase::Auth, printable(&text)))
            }
            Verdict::InDoubt(text) | Verdict::Repeat(text) => {
                self.usable = false;
                all(self.in_doubt(&text))
            }
            Verdict::PerhapsTaken(text) => all(Outcome::InDoubt(printable(&text))),
            Verdict::TooFast(_, text) => {
                all(Outcome::Unavailable(Phase::Connect, printable(&text)))
            }
        }
    }
}

/// Nothing was sent: the provider could not be told this mail.
fn refused_here(code: u16, text: &str) -> Outcome {
    Outcome::Rejected(Phase::Local, Reply::new(code, text))
}

/// The same for each try with the same recipients: a UUID made of the mail's, so that it fits
/// wherever one is wanted.
fn request_key(mail: MailId, recipients: &[Address]) -> String {
    let mut hash = ring::digest::Context::new(&ring::digest::SHA256);
    hash.update(mail.to_string().as_bytes());
    for recipient in recipients {
        hash.update(recipient.as_str().as_bytes());
        hash.update(b"\n");
    }
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash.finish().as_ref()[..16]);
    uuid::Builder::from_random_bytes(bytes)
        .into_uuid()
        .to_string()
}

/// What every provider's answers have in common; each asks this for what it does not know better.
fn by_status(answer: &HttpAnswer, text: String) -> Verdict {
    let text = match text.trim() {
        "" => format!("HTTP status {}", answer.status),
        text => text.to_owned(),
    };
    match answer.status {
        401..=403 | 404 | 405 | 406 | 415 => Verdict::Account(text),
        408 => Verdict::Deferred(text),
        429 => Verdict::TooFast(retry_after(answer), text),
        400 | 409 | 410 | 413 | 414 | 422 => Verdict::Rejected(text),
        500..=599 => Verdict::InDoubt(text),
        _ => Verdict::Account(format!("an answer that makes no sense here: {text}")),
    }
}

/// `Retry-After` in seconds (RFC 9110 §10.2.3); a date is as good as none, since its clock may not
/// be ours.
fn retry_after(answer: &HttpAnswer) -> Option<Duration> {
    let seconds = answer.header("retry-after")?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

//! The HTTP door: mail comes in as JSON or as finished messages, and people and programs look into
//! the dispatcher.
//!
//! [`HttpDoor::bind`] takes the address, [`HttpDoor::serve`] opens. The walk of a request: `server`
//! takes the connection, `access` lets it in, `openapi` knows which call it is, the call reads it
//! (`body`, `params`, `request`) and asks the dispatcher; `problem` is what every refusal looks
//! like.
//!
//! *Invariants made here:* mail is answered for only after the dispatcher made it durable; every
//! error is a problem document (RFC 9457); nothing waits for a client without a time-out; what
//! clients can make the service hold in memory is bounded; a door that others than this machine can
//! reach does not open without a token.

mod access;
mod audit;
mod body;
mod body_stream;
mod data;
mod events;
#[cfg(feature = "testing")]
pub mod exercise;
mod export;
mod feedback;
mod fields;
mod inbox;
mod jobs;
mod large_answer;
mod openapi;
mod operate;
mod origin;
mod outbox;
mod outline;
mod page;
mod params;
mod preview;
mod problem;
mod progress;
mod reading;
mod records;
mod request;
mod schedules;
mod series;
mod server;
mod session;
mod settings;
mod status;
mod submit;
mod suppression_file;
mod suppressions;
mod templates;
mod token;
mod unsubscribe;
mod webhooks;

pub use access::TokenTable;
pub use feedback::provider::{Provider, ProviderSettings, Providers};
pub use outbox::serve_outbox;
pub use problem::Problem;
pub use schedules::read_scheduled;
pub use settings::{HttpError, HttpSettings, Limits, Security};
pub use status::{MIN_STATUS_SECRET, StatusPages, StatusSettings};
pub use token::{Scope, Token};

use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::RwLock;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;

use super::TlsFiles;
use super::admission::Admission;
use super::guard::LoginGuard;
use super::log_throttle::LogThrottle;
use crate::dispatch::Dispatcher;
use crate::mail::Mail;
use crate::{Notices, Templates};

/// A door that has its address and is not open yet.
#[derive(Debug)]
pub struct HttpDoor {
    listener: TcpListener,
    local_addr: SocketAddr,
    tokens: TokenTable,
    guard: LoginGuard,
    tls: Certificate,
    limits: Limits,
    has_page: bool,
    status: Option<StatusPages>,
    notices: Option<Notices>,
    configuration: Configuration,
    providers: Providers,
}

impl HttpDoor {
    /// Takes the address. Clients can connect from now on; they are served once [`HttpDoor::serve`]
    /// runs.
    ///
    /// # Errors
    /// The settings would let strangers in, a token cannot be one, or the address cannot be had.
    pub async fn bind(settings: HttpSettings) -> Result<Self, HttpError> {
        HttpDoor::bind_secured(settings, Security::default()).await
    }

    /// As [`HttpDoor::bind`], secured by more than tokens.
    ///
    /// # Errors
    /// As [`HttpDoor::bind`]; or the certificate cannot be used.
    pub async fn bind_secured(
        settings: HttpSettings,
        security: Security,
    ) -> Result<Self, HttpError> {
        if let Some(mistake) = settings.mistakes(&security).into_iter().next() {
            return Err(mistake);
        }
        let HttpSettings {
            listen,
            tokens,
            limits,
        } = settings;
        let tls = Certificate::new(security.acceptor()?);
        let failed = |error| HttpError::Listen { listen, error };
        let listener = TcpListener::bind(listen).await.map_err(failed)?;
        let local_addr = listener.local_addr().map_err(failed)?;

        let trusted = security.trusted_networks;
        Ok(HttpDoor {
            listener,
            local_addr,
            guard: LoginGuard::new(limits.ban_after, limits.ban_time, trusted.clone()),
            tokens: TokenTable::trusting(listen, tokens, trusted)?,
            tls,
            limits,
            has_page: true,
            status: None,
            notices: None,
            configuration: Configuration::default(),
            providers: Providers::default(),
        })
    }

    /// Serves no page for browsers, only the API.
    pub fn without_page(mut self) -> Self {
        self.has_page = false;
        self
    }

    /// Lets end users ask what became of a mail, with the address that its receipt bears.
    pub fn with_status(mut self, settings: &StatusSettings) -> Self {
        let scheme = if self.tls.is_on() { "https" } else { "http" };
        let own_url = format!("{scheme}://{}", self.local_addr);
        // Half of all connections are left to those who have more to do than watch.
        let watchers = self.limits.connections / 2;
        self.status = StatusPages::new(settings, &own_url, watchers);
        self
    }

    /// Makes the addresses for end users, where they may ask.
    pub fn status_pages(&self) -> Option<StatusPages> {
        self.status.clone()
    }

    /// The same door, which shows these notices and has them told again.
    pub fn with_notices(self, notices: Notices) -> Self {
        HttpDoor {
            notices: Some(notices),
            ..self
        }
    }

    /// Hears these providers' events.
    pub fn with_providers(self, providers: Providers) -> Self {
        HttpDoor { providers, ..self }
    }

    /// The providers whose events it hears; none at first. They can be replaced while it runs.
    pub fn providers(&self) -> Providers {
        self.providers.clone()
    }

    /// What it tells of how the service is configured; nothing at first. It can be replaced
    /// while the door runs.
    pub fn configuration(&self) -> Configuration {
        self.configuration.clone()
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Its tokens, which can be replaced while it runs.
    pub fn tokens(&self) -> TokenTable {
        self.tokens.clone()
    }

    /// Its certificate, which can be replaced while it runs.
    pub fn certificate(&self) -> Certificate {
        self.tls.clone()
    }

    /// Serves until `shutdown` holds true; then takes no more, finishes what has begun, and
    /// returns.
    pub async fn serve(self, dispatcher: Dispatcher, shutdown: watch::Receiver<bool>) {
        let held_bytes = self.limits.permits();
        let door = Arc::new(Door {
            dispatcher: dispatcher.for_door("http"),
            tokens: self.tokens,
            guard: self.guard,
            admission: Admission::new(self.limits.connections, self.limits.connections_per_peer),
            log_throttle: LogThrottle::new(),
            sessions: session::Sessions::new(self.local_addr.port()),
            tls: self.tls,
            limits: self.limits,
            status: self.status,
            configuration: self.configuration,
            providers: self.providers,
            room: Arc::new(Semaphore::new(held_bytes)),
            answers: Arc::new(Semaphore::new(held_bytes)),
            readers: Arc::new(Semaphore::new(
                std::thread::available_parallelism().map_or(2, |cores| cores.get().clamp(2, 8)),
            )),
            followers: Arc::new(Semaphore::new(MOST_FOLLOWERS)),
            files: Arc::new(Semaphore::new(MOST_FILES)),
            run: format!("{:08x}", rand::random::<u32>()),
            journal: dispatcher.journal().name(),
            notices: self.notices.unwrap_or_else(|| Notices::of(&dispatcher)),
            shutdown,
        });

        door.dispatcher.keep_series();
        let router = openapi::router(self.has_page).with_state(door.clone());
        tracing::info!(listen = %self.local_addr, "HTTP door open");
        server::run(self.listener, door, router).await;
        tracing::info!(listen = %self.local_addr, "HTTP door closed");
    }
}

/// The configuration that `GET /v1/configuration` returns. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Configuration(Arc<RwLock<serde_json::Value>>);

impl Configuration {
    /// Replaces it. `settings` must contain no secret.
    pub fn replace(&self, settings: serde_json::Value) {
        *self.0.write() = settings;
    }

    fn current(&self) -> serde_json::Value {
        self.0.read().clone()
    }
}

/// The certificate of a running door, if it has one. Clones share it, so that it can be replaced
/// while the door runs; connections that are open keep theirs.
#[derive(Clone)]
pub struct Certificate(Arc<RwLock<Option<TlsAcceptor>>>);

impl Certificate {
    fn new(acceptor: Option<TlsAcceptor>) -> Self {
        Certificate(Arc::new(RwLock::new(acceptor)))
    }

    fn acceptor(&self) -> Option<TlsAcceptor> {
        self.0.read().clone()
    }

    fn is_on(&self) -> bool {
        self.0.read().is_some()
    }

    /// Reads the files and takes what is in them from the next connection on.
    ///
    /// # Errors
    /// They cannot be used; the old certificate stays then.
    pub fn replace(&self, files: Option<&TlsFiles>) -> Result<(), HttpError> {
        *self.0.write() = settings::acceptor(files)?;
        Ok(())
    }
}

impl std::fmt::Debug for Certificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Certificate").field(&self.is_on()).finish()
    }
}

/// Takes the address and serves: [`HttpDoor::bind`] and [`HttpDoor::serve`] in one.
///
/// # Errors
/// As [`HttpDoor::bind`].
pub async fn serve(
    dispatcher: Dispatcher,
    settings: HttpSettings,
    shutdown: watch::Receiver<bool>,
) -> Result<(), HttpError> {
    HttpDoor::bind(settings)
        .await?
        .serve(dispatcher, shutdown)
        .await;
    Ok(())
}

/// Reads a mail from JSON as `POST /v1/mails` does, for programs that take it over a door of their
/// own.
///
/// # Errors
/// A problem that names every bad field.
pub fn read_mail(json: &[u8]) -> Result<Mail, Problem> {
    let context = request::ComposeContext {
        templates: &Templates::default(),
        shared: None,
    };
    request::MailRequest::read(json, None, context)
}

/// So many may follow what happens at once: each is a connection that does not end, and holds some
/// of what it has not taken yet.
const MOST_FOLLOWERS: usize = 512;

/// So many files may come in at once: each keeps a thread for as long as its client takes to send
/// it, of the 512 that Tokio has for everything that blocks.
const MOST_FILES: usize = 8;

/// What every request can reach.
struct Door {
    dispatcher: Dispatcher,
    tokens: TokenTable,
    guard: LoginGuard,
    admission: Admission,
    log_throttle: LogThrottle,
    sessions: session::Sessions,
    tls: Certificate,
    limits: Limits,
    /// What end users are told with, where they may ask.
    status: Option<StatusPages>,
    /// How the service is configured.
    configuration: Configuration,
    /// The providers whose events are heard.
    providers: Providers,
    /// What is left of `limits.held_bytes` for requests.
    room: Arc<Semaphore>,
    /// What is left of as much for answers, apart from that, so that who does not take an answer
    /// keeps no mail out.
    answers: Arc<Semaphore>,
    /// How many more large bodies may be read at this moment: what is made of one takes several
    /// times its size for as long as that lasts.
    readers: Arc<Semaphore>,
    /// How many more may follow what happens.
    followers: Arc<Semaphore>,
    /// How many more files may come in.
    files: Arc<Semaphore>,
    /// Names this run of the service.
    run: String,
    /// Names the journal, in which events are counted.
    journal: String,
    /// What is told to the outside.
    notices: Notices,
    shutdown: watch::Receiver<bool>,
}

type SharedDoor = Arc<Door>;

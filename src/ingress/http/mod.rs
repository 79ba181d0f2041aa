//! The HTTP listener: programs submit mail as JSON or as finished messages, and look at and operate
//! the dispatcher.
//!
//! [`HttpDoor::bind`] opens the socket, [`HttpDoor::serve`] serves. The path of a request: `server`
//! accepts the connection, `access` authenticates, `openapi` routes it to its handler, the handler
//! parses it (`body`, `params`, `request`) and calls the dispatcher; `problem` is the form of every
//! refusal.
//!
//! *Invariants:* mail is acknowledged only after the dispatcher has made it durable; every error is
//! a problem document (RFC 9457); every wait for a client has a time-out; the memory that clients
//! can make the service use is bounded; a listener that other machines can reach does not open
//! without a token.

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
mod suppression_exports;
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

/// A listener that is bound and not serving yet.
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
    /// Opens the socket. Clients can connect from now on; they are served once [`HttpDoor::serve`]
    /// runs.
    ///
    /// # Errors
    /// If the settings would let anybody in, if a token is not valid, or if the address cannot be
    /// bound.
    pub async fn bind(settings: HttpSettings) -> Result<Self, HttpError> {
        HttpDoor::bind_secured(settings, Security::default()).await
    }

    /// As [`HttpDoor::bind`], with TLS and trusted networks.
    ///
    /// # Errors
    /// As [`HttpDoor::bind`]; or if the certificate cannot be used.
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

    /// Serves only the API, without the page for browsers.
    pub fn without_page(mut self) -> Self {
        self.has_page = false;
        self
    }

    /// Lets end users query the status of a mail, by the URL in its receipt.
    pub fn with_status(mut self, settings: &StatusSettings) -> Self {
        let scheme = if self.tls.is_on() { "https" } else { "http" };
        let own_url = format!("{scheme}://{}", self.local_addr);
        // Half of all connections are reserved for other requests.
        let watchers = self.limits.connections / 2;
        self.status = StatusPages::new(settings, &own_url, watchers);
        self
    }

    /// Creates the URLs for end users, if they may query the status.
    pub fn status_pages(&self) -> Option<StatusPages> {
        self.status.clone()
    }

    /// The same listener, with the API for these webhooks, alerts and schedules.
    pub fn with_notices(self, notices: Notices) -> Self {
        HttpDoor {
            notices: Some(notices),
            ..self
        }
    }

    /// Receives the events of these providers.
    pub fn with_providers(self, providers: Providers) -> Self {
        HttpDoor { providers, ..self }
    }

    /// The providers whose events it receives; none at first. They can be replaced while it runs.
    pub fn providers(&self) -> Providers {
        self.providers.clone()
    }

    /// The configuration that it returns; empty at first. It can be replaced while the listener
    /// runs.
    pub fn configuration(&self) -> Configuration {
        self.configuration.clone()
    }

    /// The address on which it listens.
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

    /// Serves until `shutdown` becomes true; then accepts no more requests, finishes those that
    /// have begun, and returns.
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

/// The certificate of a running listener, if it has one. Clones share it, so that it can be
/// replaced while the listener runs; open connections keep theirs.
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

    /// Reads the files and uses them from the next connection on.
    ///
    /// # Errors
    /// If they cannot be used; the old certificate stays then.
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

/// Binds and serves: [`HttpDoor::bind`] and [`HttpDoor::serve`] in one.
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

/// Parses a mail from JSON as `POST /v1/mails` does, for programs that receive it by other means.
///
/// # Errors
/// A problem that names every wrong field.
pub fn read_mail(json: &[u8]) -> Result<Mail, Problem> {
    let context = request::ComposeContext {
        templates: &Templates::default(),
        shared: None,
    };
    request::MailRequest::read(json, None, context)
}

/// How many event streams may be open: each is a connection that does not end, and buffers events.
const MOST_FOLLOWERS: usize = 512;

/// How many files may be uploaded at once: each occupies a thread for as long as its client takes,
/// of the 512 that Tokio has for blocking work.
const MOST_FILES: usize = 8;

/// The state that all requests share.
struct Door {
    dispatcher: Dispatcher,
    tokens: TokenTable,
    guard: LoginGuard,
    admission: Admission,
    log_throttle: LogThrottle,
    sessions: session::Sessions,
    tls: Certificate,
    limits: Limits,
    /// The settings for end users' status URLs, if they are enabled.
    status: Option<StatusPages>,
    /// How the service is configured.
    configuration: Configuration,
    /// The providers whose events are heard.
    providers: Providers,
    /// The rest of `limits.held_bytes` for requests.
    room: Arc<Semaphore>,
    /// The same for answers, separately, so that clients that do not read their answers do not
    /// block new mail.
    answers: Arc<Semaphore>,
    /// How many more large bodies may be parsed at the moment: while it is parsed, a body takes
    /// several times its size.
    readers: Arc<Semaphore>,
    /// How many more event streams may be opened.
    followers: Arc<Semaphore>,
    /// How many more files may be uploaded.
    files: Arc<Semaphore>,
    /// An id of this run of the service.
    run: String,
    /// The name of the journal that numbers the events.
    journal: String,
    /// Webhooks, alerts and schedules.
    notices: Notices,
    shutdown: watch::Receiver<bool>,
}

type SharedDoor = Arc<Door>;

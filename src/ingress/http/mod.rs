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
mod body;
mod events;
mod fields;
mod openapi;
mod operate;
mod params;
mod problem;
mod records;
mod request;
mod server;
mod session;
mod submit;

pub use access::{Scope, Token, TokenTable};
pub use problem::Problem;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

use crate::dispatch::Dispatcher;
use crate::mail::Mail;

/// How the door is set up.
#[derive(Clone, Debug)]
pub struct HttpSettings {
    /// Where it listens; port 0 takes any that is free.
    pub listen: SocketAddr,
    /// Who may do what. None is allowed on loopback only, and lets every program on this machine do
    /// everything.
    pub tokens: Vec<Token>,
    /// What one client can take.
    pub limits: Limits,
}

/// What clients can take of the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The most connections; one more is told to come back later.
    pub connections: usize,
    /// How long a request's head may take to arrive, and a connection may stay idle.
    pub header_timeout: Duration,
    /// How long a request's body may take to arrive.
    pub body_timeout: Duration,
    /// How long an answer may take from the request's head on, the body's arrival included.
    pub answer_timeout: Duration,
    /// How long a client may refuse to take more of an answer.
    pub write_timeout: Duration,
    /// How long requests that have begun may go on when the door closes.
    pub drain_timeout: Duration,
    /// The most bytes that the bodies of all requests together take.
    pub held_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connections: 8192,
            header_timeout: Duration::from_secs(30),
            body_timeout: Duration::from_secs(60),
            answer_timeout: Duration::from_secs(90),
            write_timeout: Duration::from_secs(30),
            drain_timeout: Duration::from_secs(10),
            held_bytes: 256 * 1024 * 1024,
        }
    }
}

/// Why the door cannot be opened, or its tokens not be replaced.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// Others than this machine could hand in mail without a token.
    #[error(
        "`http.listen` is {0}, which others than this machine can reach, and `http.tokens` is empty; add a token, or \
         listen on 127.0.0.1"
    )]
    OpenDoor(SocketAddr),
    /// A secret that no header can carry.
    #[error(
        "the token `{}` in `http.tokens` must have 1 to 256 visible ASCII characters without spaces", .0.escape_debug()
    )]
    BadToken(String),
    /// The address cannot be had.
    #[error("cannot listen on `http.listen` = {listen}: {error}")]
    Listen {
        /// The address.
        listen: SocketAddr,
        /// Why not.
        error: std::io::Error,
    },
}

/// A door that has its address and is not open yet.
#[derive(Debug)]
pub struct HttpDoor {
    listener: TcpListener,
    local_addr: SocketAddr,
    tokens: TokenTable,
    limits: Limits,
}

impl HttpDoor {
    /// Takes the address. Clients can connect from now on; they are served once [`HttpDoor::serve`]
    /// runs.
    ///
    /// # Errors
    /// The settings would let strangers in, a token cannot be one, or the address cannot be had.
    pub async fn bind(settings: HttpSettings) -> Result<Self, HttpError> {
        let HttpSettings {
            listen,
            tokens,
            limits,
        } = settings;
        let tokens = TokenTable::new(listen, tokens)?;
        let failed = |error| HttpError::Listen { listen, error };
        let listener = TcpListener::bind(listen).await.map_err(failed)?;
        let local_addr = listener.local_addr().map_err(failed)?;
        Ok(HttpDoor {
            listener,
            local_addr,
            tokens,
            limits,
        })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Its tokens, which can be replaced while it runs.
    pub fn tokens(&self) -> TokenTable {
        self.tokens.clone()
    }

    /// Serves until `shutdown` holds true; then takes no more, finishes what has begun, and
    /// returns.
    pub async fn serve(self, dispatcher: Dispatcher, shutdown: watch::Receiver<bool>) {
        let door = Arc::new(Door {
            dispatcher: dispatcher.for_door("http"),
            tokens: self.tokens,
            sessions: session::Sessions::new(self.local_addr.port()),
            limits: self.limits,
            room: Arc::new(Semaphore::new(
                self.limits.held_bytes.min(Semaphore::MAX_PERMITS),
            )),
            run: format!("{:08x}", rand::random::<u32>()),
            shutdown,
        });
        let router = openapi::router().with_state(door.clone());
        tracing::info!(listen = %self.local_addr, "HTTP door open");
        server::run(self.listener, door, router).await;
        tracing::info!(listen = %self.local_addr, "HTTP door closed");
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
    request::MailRequest::read(json, None)
}

/// What every request can reach.
struct Door {
    dispatcher: Dispatcher,
    tokens: TokenTable,
    sessions: session::Sessions,
    limits: Limits,
    /// What is left of `limits.held_bytes`.
    room: Arc<Semaphore>,
    /// Names this run of the service, because events are counted anew in each.
    run: String,
    shutdown: watch::Receiver<bool>,
}

type Shared = Arc<Door>;

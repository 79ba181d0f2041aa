//! Sign-in from a browser: a token is exchanged for a cookie, so that no token is in a URL, in
//! storage that a script can read, or in requests of the page's scripts.
//!
//! *Invariants:* a cookie permits what its token permits at that moment, and nothing once the token
//! was removed; it is accepted only from this listener's own page.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json, extract::State};
use parking_lot::Mutex;
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use tokio::time::Instant;
use utoipa::ToSchema;

use super::access::Caller;
use super::token::{Scope, Token};
use super::{SharedDoor, problem::Problem};

/// How long a session lasts.
const SESSION_LIFETIME: Duration = Duration::from_secs(12 * 60 * 60);

/// The most sessions at once; a further one replaces the one that ends first.
const MAX_SESSIONS: usize = 1000;

/// The open sessions. Clones share them.
#[derive(Clone)]
pub(super) struct Sessions {
    /// The cookie's name. It contains the port, because browsers send a host's cookies to all its
    /// ports.
    cookie: String,
    open: Arc<Mutex<HashMap<String, LoginSession>>>,
}

/// A session, with the token that was presented.
struct LoginSession {
    name: String,
    secret: SecretString,
    until: Instant,
}

impl Sessions {
    /// No session yet, for the listener on this port.
    pub fn new(port: u16) -> Self {
        Sessions {
            cookie: format!("postrider-{port}"),
            open: Arc::default(),
        }
    }

    /// Begins a session for a token. Returns the cookie.
    pub fn sign_in(&self, token: &Token, is_secure: bool) -> String {
        let key: String = (0..4)
            .map(|_| format!("{:016x}", rand::random::<u64>()))
            .collect();
        let now = Instant::now();

        let mut open = self.open.lock();
        open.retain(|_, session| session.until > now);
        if open.len() >= MAX_SESSIONS {
            let first = open.iter().min_by_key(|(_, session)| session.until);
            if let Some(first) = first.map(|(key, _)| key.clone()) {
                open.remove(&first);
            }
        }

        let session = LoginSession {
            name: token.name.clone(),
            secret: token.secret.clone(),
            until: now + SESSION_LIFETIME,
        };

        open.insert(key.clone(), session);
        self.cookie(&key, SESSION_LIFETIME, is_secure)
    }

    /// Ends the session of these cookies. Returns the cookie that deletes it in the browser.
    pub fn sign_out(&self, headers: &HeaderMap, is_secure: bool) -> String {
        if let Some(key) = self.key(headers) {
            self.open.lock().remove(key);
        }
        self.cookie("", Duration::ZERO, is_secure)
    }

    /// Whether a cookie of this listener is there.
    pub fn is_named(&self, headers: &HeaderMap) -> bool {
        self.key(headers).is_some()
    }

    /// The token of the cookie's session, if it is still one of `tokens`.
    pub fn token<'a>(&self, tokens: &'a [Token], headers: &HeaderMap) -> Option<&'a Token> {
        let key = self.key(headers)?;
        let open = self.open.lock();
        let session = open
            .get(key)
            .filter(|session| session.until > Instant::now())?;
        tokens.iter().find(|token| {
            token.name == session.name
                && token.secret.expose_secret() == session.secret.expose_secret()
        })
    }

    fn key<'a>(&self, headers: &'a HeaderMap) -> Option<&'a str> {
        let cookies = headers.get_all(header::COOKIE).iter();
        let mut pairs = cookies
            .filter_map(|cookies| cookies.to_str().ok())
            .flat_map(|cookies| cookies.split(';'))
            .filter_map(|pair| pair.trim().split_once('='));
        let ours = |name: &str| name.strip_prefix("__Host-").unwrap_or(name) == self.cookie;
        pairs.find(|(name, _)| ours(name)).map(|(_, key)| key)
    }

    /// The cookie, by RFC 6265bis: not readable for scripts, not sent from other sites, and with
    /// TLS bound to this host.
    fn cookie(&self, key: &str, age: Duration, is_secure: bool) -> String {
        let (prefix, secure) = if is_secure {
            ("__Host-", "; Secure")
        } else {
            ("", "")
        };
        format!(
            "{prefix}{}={key}; Path=/; HttpOnly; SameSite=Strict; Max-Age={}{secure}",
            self.cookie,
            age.as_secs()
        )
    }
}

/// Whether the browser uses TLS, which a proxy before this listener may terminate.
fn is_secure(headers: &HeaderMap) -> bool {
    let starts = |name: &str, with: &str| {
        headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .is_some_and(|value| value.starts_with(with))
    };
    starts("origin", "https://") || starts("x-forwarded-proto", "https")
}

/// The caller, its scope, and the service that answers.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct WhoAmI {
    /// The token's name; null if the listener has no tokens.
    name: Option<String>,
    /// The token's scope.
    scope: Scope,
    /// An id of this run of the service.
    instance: String,
    /// The machine that it runs on.
    node: String,
    /// The service's version.
    version: &'static str,
    /// The id of the newest event: an event stream `since` this one misses nothing. Null for the
    /// scope `send`.
    event: Option<String>,
}

fn who(door: &SharedDoor, visitor: Caller) -> Json<WhoAmI> {
    let last = door.dispatcher.journal().last();
    let event = last.ok().map(|last| format!("{}-{last}", door.journal));
    Json(WhoAmI {
        event: event.filter(|_| visitor.scope != Scope::Send),
        name: visitor.token.map(|token| token.name),
        scope: visitor.scope,
        instance: door.run.clone(),
        node: whoami::hostname().unwrap_or_else(|_| "localhost".to_owned()),
        version: env!("CARGO_PKG_VERSION"),
    })
}

/// Signs in: exchanges a token for a cookie that no script can read.
///
/// The cookie permits what the token permits, for twelve hours, and only to this listener's own
/// page. If the listener has no tokens, no cookie is set.
#[utoipa::path(
    post, path = "/v1/session", tag = "service", operation_id = "sign_in",
    responses((
        status = 200, description = "Who is signed in", body = WhoAmI,
        headers(("Set-Cookie" = String, description = "The credentials")),
    )),
)]
pub(super) async fn sign_in(
    State(door): State<SharedDoor>,
    Extension(visitor): Extension<Caller>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let cookie = visitor.token.as_ref().map(|token| {
        door.sessions
            .sign_in(token, door.tls.is_on() || is_secure(&headers))
    });
    let mut response = who(&door, visitor).into_response();
    set_cookie(&mut response, cookie);
    Ok(response)
}

/// The caller, its scope, and the service that answers.
#[utoipa::path(
    get, path = "/v1/session", tag = "service", operation_id = "session",
    responses((status = 200, description = "Who asks", body = WhoAmI)),
)]
pub(super) async fn session(
    State(door): State<SharedDoor>,
    Extension(visitor): Extension<Caller>,
) -> Json<WhoAmI> {
    who(&door, visitor)
}

/// Signs out: the cookie is invalid from now on.
#[utoipa::path(
    delete, path = "/v1/session", tag = "service", operation_id = "sign_out",
    responses((status = 204, description = "Signed out")),
)]
pub(super) async fn sign_out(State(door): State<SharedDoor>, headers: HeaderMap) -> Response {
    let cookie = door
        .sessions
        .sign_out(&headers, door.tls.is_on() || is_secure(&headers));
    let mut response = StatusCode::NO_CONTENT.into_response();
    set_cookie(&mut response, Some(cookie));
    response
}

fn set_cookie(response: &mut Response, cookie: Option<String>) {
    if let Some(Ok(cookie)) = cookie.map(|cookie| HeaderValue::from_str(&cookie)) {
        response.headers_mut().insert(header::SET_COOKIE, cookie);
    }
}

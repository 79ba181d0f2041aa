//! Who may do what: which scope a request needs, and whether its token, session or address grants
//! it.
//!
//! *Invariant:* without a token only programs on this machine are served. Any web page can make a
//! browser on this machine send requests here. A request that says that it comes from a page of
//! another origin is therefore refused, and so is one for a host name that is not this machine's
//! (whose DNS points to loopback, "DNS rebinding"); see `origin.rs`.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, Uri, header};
use axum::response::{IntoResponse, Response};
use parking_lot::RwLock;

use super::origin::{from_a_program, from_own_page, is_private_name, is_this_machine};
use super::problem::{Kind, Problem};
use super::session::Sessions;
use super::token::{Scope, Token, find};
use super::{HttpError, SharedDoor, settings};
use crate::dispatch::Dispatcher;
use crate::ingress::Networks;
use crate::mail::Submitter;

/// The answer to a banned address.
pub(super) const TOO_MANY_FAILED: &str =
    "too many wrong tokens came from your address; try again later";

/// How often to check that the client of a stream still has access.
const RECHECK_INTERVAL: Duration = Duration::from_millis(500);

/// The tokens of a running listener. Clones share them, so that they can be replaced while it runs.
#[derive(Clone, Debug)]
pub struct TokenTable {
    listen: SocketAddr,
    tokens: Arc<RwLock<Vec<Token>>>,
    trusted: Networks,
}

impl TokenTable {
    /// The tokens of a listener on `listen`.
    #[cfg(test)]
    pub(super) fn new(listen: SocketAddr, tokens: Vec<Token>) -> Result<Self, HttpError> {
        TokenTable::trusting(listen, tokens, Networks::default())
    }

    /// The tokens of a listener on `listen`, and the networks whose programs need none.
    ///
    /// # Errors
    /// If `listen` can be reached from other machines and there is neither a token nor a trusted
    /// network; if a token is not valid.
    pub(super) fn trusting(
        listen: SocketAddr,
        tokens: Vec<Token>,
        trusted: Networks,
    ) -> Result<Self, HttpError> {
        let table = TokenTable {
            listen,
            tokens: Arc::default(),
            trusted,
        };
        table.replace(tokens)?;
        Ok(table)
    }

    /// Replaces all tokens, from the next request on.
    ///
    /// # Errors
    /// As when the listener was bound; the old tokens stay then.
    pub fn replace(&self, tokens: Vec<Token>) -> Result<(), HttpError> {
        let is_open = self.trusted.is_empty();
        let mistakes = settings::token_mistakes(self.listen, &tokens, is_open);
        if let Some(mistake) = mistakes.into_iter().next() {
            return Err(mistake);
        }
        *self.tokens.write() = tokens;
        Ok(())
    }

    /// Checks whether a request is allowed, and returns who makes it.
    ///
    /// # Errors
    /// The response that refuses it.
    pub(super) fn admit(
        &self,
        sessions: &Sessions,
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
        peer: IpAddr,
    ) -> Result<Caller, AccessRefusal> {
        let needed = RequiredScope::of(method, uri.path());
        let tokens = self.tokens.read();
        let shows_who = headers.contains_key(header::AUTHORIZATION) || sessions.is_named(headers);
        let is_trusted = self.trusted.contain(peer) && (tokens.is_empty() || !shows_who);

        let is_local = self.trusted.is_empty() && tokens.is_empty();
        if is_trusted || is_local {
            let own_name = if is_trusted {
                is_private_name
            } else {
                is_this_machine
            };
            let of_the_world = needed == RequiredScope::Nothing { of_the_world: true };
            return match from_a_program(uri, headers, own_name) {
                Err(detail) if !of_the_world => Err(AccessRefusal::foreign(detail)),
                _ => Ok(Caller::anybody(Scope::Admin)),
            };
        }

        if let RequiredScope::Nothing { .. } = needed {
            return Ok(Caller::anybody(Scope::Send));
        }
        if tokens.is_empty() {
            return Err(AccessRefusal {
                problem: Problem::new(
                    Kind::Forbidden,
                    "without `http.tokens` only `http.trusted_networks` are served, and your \
                     address is in none of them",
                ),
                challenge: Challenge::Nothing,
            });
        }

        let token = match headers.get(header::AUTHORIZATION) {
            Some(given) => find(&tokens, given).ok_or_else(|| AccessRefusal {
                problem: Problem::new(Kind::Unauthorized, "the token is not one of `http.tokens`"),
                challenge: Challenge::RightToken,
            }),
            None if sessions.is_named(headers) => {
                // The browser adds the cookie to every request, whichever page has caused it.
                from_own_page(uri, headers).map_err(AccessRefusal::foreign)?;
                sessions
                    .token(&tokens, headers)
                    .ok_or_else(|| AccessRefusal {
                        problem: Problem::new(
                            Kind::Unauthorized,
                            "the session has ended; sign in again with a token of `http.tokens`",
                        ),
                        challenge: Challenge::Token,
                    })
            }
            None => Err(AccessRefusal {
                problem: Problem::new(
                    Kind::Unauthorized,
                    "send `Authorization: Bearer` with a token of `http.tokens`",
                ),
                challenge: Challenge::Token,
            }),
        }?;

        match needed {
            RequiredScope::Own(_) if token.scope == Scope::Send => Ok(Caller::with(token)),
            RequiredScope::Scope(needed) | RequiredScope::Own(needed)
                if !token.scope.allows(needed) =>
            {
                Err(AccessRefusal {
                    problem: Problem::new(
                        Kind::Forbidden,
                        format!(
                            "the token `{}` has the scope `{}`, and this needs {}",
                            token.name.escape_debug(),
                            token.scope,
                            needed.wanted()
                        ),
                    ),
                    challenge: Challenge::Scope,
                })
            }
            _ => Ok(Caller::with(token)),
        }
    }
}

/// Who makes a request.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    /// The token that was presented; `None` if none is needed.
    pub token: Option<Token>,
    /// What it allows.
    pub scope: Scope,
    /// The address from which the request came.
    pub peer: Option<IpAddr>,
}

impl Caller {
    fn anybody(scope: Scope) -> Self {
        Caller {
            token: None,
            scope,
            peer: None,
        }
    }

    /// The dispatcher, acting for this caller.
    pub(super) fn acts_on(&self, dispatcher: &Dispatcher) -> Dispatcher {
        let dispatcher = dispatcher.on_behalf_of(self.submitter());
        match self.peer {
            Some(peer) => dispatcher.from_address(peer),
            None => dispatcher,
        }
    }

    fn with(token: &Token) -> Self {
        Caller {
            token: Some(token.clone()),
            scope: token.scope,
            peer: None,
        }
    }

    /// Whether the other is the same caller with the same scope.
    fn is(&self, other: &Caller) -> bool {
        let name = |caller: &Caller| caller.token.as_ref().map(|token| token.name.clone());
        name(self) == name(other) && self.scope == other.scope
    }

    /// The submitter to whose mail this caller is restricted; `None` if it may see all mail.
    pub(super) fn sees_only(&self) -> Option<Submitter> {
        (self.scope == Scope::Send).then(|| self.submitter())
    }

    /// The submitter of the mail that this caller submits.
    pub(super) fn submitter(&self) -> Submitter {
        match &self.token {
            Some(token) => Submitter::token(&token.name),
            None => Submitter::Local,
        }
    }
}

/// Waits until the caller of a request has lost its access: its session has ended, or its token was
/// removed or has another scope now.
pub(super) async fn access_lost(door: SharedDoor, visitor: Caller, request: Parts) {
    let Some(peer) = visitor.peer else {
        return std::future::pending().await;
    };
    let Parts {
        method,
        uri,
        headers,
        ..
    } = request;

    loop {
        tokio::time::sleep(RECHECK_INTERVAL).await;
        let now = door
            .tokens
            .admit(&door.sessions, &method, &uri, &headers, peer);
        if !now.is_ok_and(|now| now.is(&visitor)) {
            return;
        }
    }
}

/// The access that a request needs if the listener has tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RequiredScope {
    /// None: the answer contains nothing about mail, or the path contains a secret token of its
    /// own.
    Nothing {
        /// Whether pages of other origins may send the request.
        of_the_world: bool,
    },
    /// Any token.
    Token,
    /// A token of this scope.
    Scope(Scope),
    /// A token of this scope; or of the scope `send`, if the request is about the token's own mail.
    Own(Scope),
}

impl RequiredScope {
    fn of(method: &Method, path: &str) -> Self {
        let reads = method == Method::GET || method == Method::HEAD;
        match path {
            "/health/live" | "/health/ready" | "/openapi.json" => RequiredScope::Nothing {
                of_the_world: false,
            },
            path if reads && super::page::is_of_page(path) => RequiredScope::Nothing {
                of_the_world: false,
            },
            path if super::status::is_for_end_users(path) => {
                RequiredScope::Nothing { of_the_world: true }
            }
            // The token in the path authenticates the request; mail programs send nothing else.
            path if path.starts_with("/u/") => RequiredScope::Nothing { of_the_world: true },
            // Each event authenticates itself.
            path if method == Method::POST && super::feedback::is_of_a_provider(path) => {
                RequiredScope::Nothing { of_the_world: true }
            }
            "/v1/session" => RequiredScope::Token,
            // It changes nothing, and whoever may send could see the same by sending the mail.
            path if path.starts_with("/v1/templates/") && path.ends_with("/render") => {
                RequiredScope::Token
            }
            "/v1/mails" | "/v1/mails/batch" if method == Method::POST => {
                RequiredScope::Scope(Scope::Send)
            }
            "/v1/mails" | "/v1/mails/count" | "/v1/events" if reads => {
                RequiredScope::Own(Scope::Read)
            }
            _ if reads && mail_of(path).is_some() => RequiredScope::Own(Scope::Read),
            _ if method == Method::POST
                && mail_of(path).is_some_and(|(_, call)| call == "cancel") =>
            {
                RequiredScope::Own(Scope::Admin)
            }
            _ if reads => RequiredScope::Scope(Scope::Read),
            _ => RequiredScope::Scope(Scope::Admin),
        }
    }
}

/// The mail that a path names, as written in the path, and the operation.
pub(super) fn mail_of(path: &str) -> Option<(&str, &str)> {
    let rest = path.strip_prefix("/v1/mails/")?;
    let (named, call) = rest.split_once('/').unwrap_or((rest, ""));
    let is_call = matches!(
        named,
        "" | "batch" | "count" | "export" | "cancel" | "retry"
    );
    (!is_call).then_some((named, call))
}

/// A refused request.
#[derive(Debug)]
pub(super) struct AccessRefusal {
    problem: Problem,
    challenge: Challenge,
}

/// What a refused request lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Challenge {
    /// Nothing that a token could provide.
    Nothing,
    /// A token.
    Token,
    /// A correct token: the client may be guessing.
    RightToken,
    /// A token with another scope.
    Scope,
}

impl Challenge {
    /// The header field `WWW-Authenticate` (RFC 6750 §3).
    fn text(self) -> Option<&'static str> {
        match self {
            Challenge::Nothing => None,
            Challenge::Token => Some("Bearer realm=\"postrider\""),
            Challenge::RightToken => Some("Bearer realm=\"postrider\", error=\"invalid_token\""),
            Challenge::Scope => Some("Bearer realm=\"postrider\", error=\"insufficient_scope\""),
        }
    }
}

impl AccessRefusal {
    fn foreign(detail: String) -> Self {
        AccessRefusal {
            problem: Problem::new(Kind::ForeignOrigin, detail),
            challenge: Challenge::Nothing,
        }
    }

    /// The answer to a client that has guessed too often.
    pub(super) fn too_many() -> Self {
        AccessRefusal {
            problem: Problem::new(Kind::TooMany, TOO_MANY_FAILED),
            challenge: Challenge::Nothing,
        }
    }

    /// Whether a wrong token was presented.
    pub(super) fn is_guess(&self) -> bool {
        self.challenge == Challenge::RightToken
    }

    /// The reason, for the client.
    pub(super) fn reason(&self) -> &str {
        self.problem.detail()
    }

    /// The label under which the refusal is counted.
    pub(super) fn counted(&self) -> &'static str {
        match self.problem.status() {
            _ if self.is_guess() => "login",
            401 => "nobody",
            429 => "banned",
            _ => "scope",
        }
    }
}

impl IntoResponse for AccessRefusal {
    fn into_response(self) -> Response {
        let mut response = self.problem.into_response();
        if let Some(challenge) = self.challenge.text() {
            response.headers_mut().insert(
                header::WWW_AUTHENTICATE,
                HeaderValue::from_static(challenge),
            );
        }
        response
    }
}

#[cfg(test)]
mod tests;

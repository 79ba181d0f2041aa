//! Who may do what: which scope a request needs, and whether its token, session or address grants
//! it.
//!
//! *Invariant:* without a token only programs on this machine are served. A browser on it can be
//! led here by any web page, so what says that it comes from a page of another origin is refused,
//! and so is a name that is not this machine's (a name that a stranger's DNS points at loopback):
//! see `origin.rs`.

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

/// What an address is told that has shown too many wrong tokens.
pub(super) const TOO_MANY_FAILED: &str =
    "too many wrong tokens came from your address; try again later";

/// How often it is asked whether somebody who follows what happens still may.
const RECHECK_INTERVAL: Duration = Duration::from_millis(500);

/// The tokens of a running door. Clones share them, so that they can be replaced while it runs.
#[derive(Clone, Debug)]
pub struct TokenTable {
    listen: SocketAddr,
    tokens: Arc<RwLock<Vec<Token>>>,
    trusted: Networks,
}

impl TokenTable {
    /// The tokens of a door that listens on `listen`.
    #[cfg(test)]
    pub(super) fn new(listen: SocketAddr, tokens: Vec<Token>) -> Result<Self, HttpError> {
        TokenTable::trusting(listen, tokens, Networks::default())
    }

    /// The tokens of a door that listens on `listen`, and the networks whose programs need none.
    ///
    /// # Errors
    /// Neither a token nor a trusted network although others than this machine can reach `listen`,
    /// or a token that cannot be one.
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
    /// As when the door was bound; the old tokens stay then.
    pub fn replace(&self, tokens: Vec<Token>) -> Result<(), HttpError> {
        let is_open = self.trusted.is_empty();
        let mistakes = settings::token_mistakes(self.listen, &tokens, is_open);
        if let Some(mistake) = mistakes.into_iter().next() {
            return Err(mistake);
        }
        *self.tokens.write() = tokens;
        Ok(())
    }

    /// Whether a request may go on, and who makes it.
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
                // A cookie comes with every request to this door, whoever made the browser send
                // it.
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
    /// The token that was shown; none where none is needed.
    pub token: Option<Token>,
    /// What it allows.
    pub scope: Scope,
    /// From which address.
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

    /// The dispatcher in this one's hands.
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

    /// Whether it is the same one, who may do the same.
    fn is(&self, other: &Caller) -> bool {
        let name = |caller: &Caller| caller.token.as_ref().map(|token| token.name.clone());
        name(self) == name(other) && self.scope == other.scope
    }

    /// Whose mail it sees, where it does not see all.
    pub(super) fn sees_only(&self) -> Option<Submitter> {
        (self.scope == Scope::Send).then(|| self.submitter())
    }

    /// Whose the mail is that is submitted.
    pub(super) fn submitter(&self) -> Submitter {
        match &self.token {
            Some(token) => Submitter::token(&token.name),
            None => Submitter::Local,
        }
    }
}

/// Waits until a request that was let in would not be let in any more as it was: its session has
/// ended, or its token is gone or allows something else.
pub(super) async fn turned_out(door: SharedDoor, visitor: Caller, request: Parts) {
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

/// What a request needs to be let in where the door has tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RequiredScope {
    /// Nothing: it says nothing about any mail, or bears its own proof in its path.
    Nothing {
        /// Whether pages of other origins may ask, too.
        of_the_world: bool,
    },
    /// Any token.
    Token,
    /// A token of this scope.
    Scope(Scope),
    /// Likewise; or one of the scope `send`, where it is about its own mail.
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
            // The token in the path is the proof, and mail programs ask without any other.
            path if path.starts_with("/u/") => RequiredScope::Nothing { of_the_world: true },
            // Each event proves by itself whose it is.
            path if method == Method::POST && super::feedback::is_of_a_provider(path) => {
                RequiredScope::Nothing { of_the_world: true }
            }
            "/v1/session" => RequiredScope::Token,
            // It changes nothing, and a sender could send the mail and look at that.
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

/// The mail that a path is about, as it stands there, and what is asked of it.
pub(super) fn mail_of(path: &str) -> Option<(&str, &str)> {
    let rest = path.strip_prefix("/v1/mails/")?;
    let (named, call) = rest.split_once('/').unwrap_or((rest, ""));
    let is_call = matches!(
        named,
        "" | "batch" | "count" | "export" | "cancel" | "retry"
    );
    (!is_call).then_some((named, call))
}

/// A request that is not let in.
#[derive(Debug)]
pub(super) struct AccessRefusal {
    problem: Problem,
    challenge: Challenge,
}

/// What a request that is not let in lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Challenge {
    /// Nothing that a token could give.
    Nothing,
    /// A token.
    Token,
    /// One that is right: somebody may be guessing.
    RightToken,
    /// One with another scope.
    Scope,
}

impl Challenge {
    /// What `WWW-Authenticate` says (RFC 6750 §3).
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

    /// What is said to somebody who has guessed too often.
    pub(super) fn too_many() -> Self {
        AccessRefusal {
            problem: Problem::new(Kind::TooMany, TOO_MANY_FAILED),
            challenge: Challenge::Nothing,
        }
    }

    /// Whether a token was shown that is none.
    pub(super) fn is_guess(&self) -> bool {
        self.challenge == Challenge::RightToken
    }

    /// What is wrong.
    pub(super) fn reason(&self) -> &str {
        self.problem.detail()
    }

    /// What such refusals are counted as.
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

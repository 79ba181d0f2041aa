//! Who may do what: bearer tokens with scopes, and where there are none, the walls that keep web
//! pages out.
//!
//! *Invariant:* without a token only programs on this machine are served. A browser on it can be
//! led here by any web page, so what says that it comes from a page of another origin is refused,
//! and so is a name that is not this machine's (a name that a stranger's DNS points at loopback).

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::http::{HeaderMap, HeaderValue, Method, Uri, header};
use axum::response::{IntoResponse, Response};
use parking_lot::RwLock;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use subtle::{Choice, ConstantTimeEq};

use super::problem::{Kind, Problem};
use super::session::Sessions;
use super::{HttpError, settings};
use crate::dispatch::Dispatcher;
use crate::ingress::Networks;
use crate::mail::Submitter;

/// The longest secret, in bytes. All are compared at this length, so that the time tells nothing.
pub(super) const MAX_SECRET: usize = 256;

/// What an address is told that has shown too many wrong tokens.
pub(super) const TOO_MANY_FAILED: &str =
    "too many wrong tokens came from your address; try again later";

/// What a token allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Handing in mail, and for that mail alone: looking at it, following it, withdrawing it.
    Send,
    /// Looking at everything, mails' contents included.
    Read,
    /// Everything.
    Admin,
}

impl Scope {
    /// Its name in files and in errors.
    pub fn as_str(self) -> &'static str {
        match self {
            Scope::Send => "send",
            Scope::Read => "read",
            Scope::Admin => "admin",
        }
    }

    /// The scopes that allow what needs this one, in words.
    fn wanted(self) -> String {
        match self {
            Scope::Admin => "`admin`".to_owned(),
            other => format!("`{other}` or `admin`"),
        }
    }

    fn allows(self, needed: Scope) -> bool {
        self == Scope::Admin || self == needed
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A secret that lets its holder in.
#[derive(Clone, Debug)]
pub struct Token {
    /// Names it in errors and logs.
    pub name: String,
    /// What `Authorization: Bearer` must carry.
    pub secret: SecretString,
    /// What it allows.
    pub scope: Scope,
}

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
    ) -> Result<Caller, Refusal> {
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
                Err(detail) if !of_the_world => Err(Refusal::foreign(detail)),
                _ => Ok(Caller::anybody(Scope::Admin)),
            };
        }
        if let RequiredScope::Nothing { .. } = needed {
            return Ok(Caller::anybody(Scope::Send));
        }
        if tokens.is_empty() {
            return Err(Refusal {
                problem: Problem::new(
                    Kind::Forbidden,
                    "without `http.tokens` only `http.trusted_networks` are served, and your \
                     address is in none of them",
                ),
                challenge: Challenge::Nothing,
            });
        }

        let token = match headers.get(header::AUTHORIZATION) {
            Some(given) => find(&tokens, given).ok_or_else(|| Refusal {
                problem: Problem::new(Kind::Unauthorized, "the token is none of `http.tokens`"),
                challenge: Challenge::RightToken,
            }),
            None if sessions.is_named(headers) => {
                // A cookie comes with every request to this door, whoever made the browser send it.
                from_own_page(uri, headers).map_err(Refusal::foreign)?;
                sessions.token(&tokens, headers).ok_or_else(|| Refusal {
                    problem: Problem::new(
                        Kind::Unauthorized,
                        "the session has ended; sign in again with a token of `http.tokens`",
                    ),
                    challenge: Challenge::Token,
                })
            }
            None => Err(Refusal {
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
                Err(Refusal {
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

    /// Whose mail it sees, where it does not see all.
    pub(super) fn sees_only(&self) -> Option<Submitter> {
        (self.scope == Scope::Send).then(|| self.submitter())
    }

    /// Whose the mail is that is handed in.
    pub(super) fn submitter(&self) -> Submitter {
        match &self.token {
            Some(token) => Submitter::token(&token.name),
            None => Submitter::Local,
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
pub(super) struct Refusal {
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

impl Refusal {
    fn foreign(detail: String) -> Self {
        Refusal {
            problem: Problem::new(Kind::ForeignOrigin, detail),
            challenge: Challenge::Nothing,
        }
    }

    /// What is said to somebody who has guessed too often.
    pub(super) fn too_many() -> Self {
        Refusal {
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

impl IntoResponse for Refusal {
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

/// The token whose secret was given. Every one is looked at, in the same time whether it matches or
/// not.
fn find<'a>(tokens: &'a [Token], given: &HeaderValue) -> Option<&'a Token> {
    let (scheme, secret) = given.to_str().ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let given = PaddedSecret::of(secret.trim());
    let mut found = None;
    for token in tokens {
        if bool::from(given.equals(&PaddedSecret::of(token.secret.expose_secret()))) {
            found = Some(token);
        }
    }
    found
}

/// A secret at the length at which all are compared.
struct PaddedSecret {
    bytes: [u8; MAX_SECRET],
    length: u64,
}

impl PaddedSecret {
    fn of(secret: &str) -> Self {
        let mut bytes = [0; MAX_SECRET];
        let kept = secret.len().min(MAX_SECRET);
        bytes[..kept].copy_from_slice(&secret.as_bytes()[..kept]);
        PaddedSecret {
            bytes,
            length: secret.len() as u64,
        }
    }

    fn equals(&self, other: &PaddedSecret) -> Choice {
        self.bytes.ct_eq(&other.bytes) & self.length.ct_eq(&other.length)
    }
}

/// Whether a request without a token comes from a program, and not from a web page through a
/// browser: `own_name` tells the names by which such programs call the door.
fn from_a_program(
    uri: &Uri,
    headers: &HeaderMap,
    own_name: fn(&str) -> bool,
) -> Result<(), String> {
    let host = host(uri, headers);
    // Only HTTP/1.0 leaves the host out, and no browser speaks that.
    if let Some(host) = host
        && !own_name(name_of(host))
    {
        return Err(format!(
            "without a token the door answers to an address or a local name such as localhost, \
             not to `{}`",
            host.escape_debug()
        ));
    }
    if let Some(site) = headers.get("sec-fetch-site")
        && site != "same-origin"
        && site != "none"
    {
        return Err("without `http.tokens` no web page of another origin is served".to_owned());
    }
    if let Some(origin) = headers.get(header::ORIGIN)
        && !is_own(origin, host)
    {
        return Err("without `http.tokens` no web page of another origin is served".to_owned());
    }
    Ok(())
}

/// Whether a request with a cookie was made by a page of this door: the browser says so, or, where
/// it leaves that out, names the origin.
fn from_own_page(uri: &Uri, headers: &HeaderMap) -> Result<(), String> {
    let origin = headers.get(header::ORIGIN);
    let is_own_origin = origin.map(|origin| is_own(origin, host(uri, headers)));
    let is_own = match headers.get("sec-fetch-site") {
        Some(site) => site == "same-origin" && is_own_origin != Some(false),
        None => is_own_origin == Some(true),
    };
    if is_own {
        return Ok(());
    }
    Err(
        "a session serves the page of this door only, over TLS or on this machine; programs send \
         `Authorization: Bearer`"
            .to_owned(),
    )
}

fn host<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> Option<&'a str> {
    match uri.authority() {
        Some(authority) => Some(authority.as_str()),
        None => headers
            .get(header::HOST)
            .map(|host| host.to_str().unwrap_or("?")),
    }
}

/// Whether an origin is this door's, by the name under which it was asked.
fn is_own(origin: &HeaderValue, host: Option<&str>) -> bool {
    let origin = origin.to_str().ok();
    let authority = origin.and_then(|origin| origin.split_once("://"));
    authority.is_some_and(|(_, authority)| Some(authority) == host)
}

/// The name or the address in `host`, without its port.
fn name_of(host: &str) -> &str {
    match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    }
}

/// Whether this is a name or an address of loopback.
fn is_this_machine(name: &str) -> bool {
    if let Ok(address) = name.parse::<IpAddr>() {
        return address.to_canonical().is_loopback();
    }
    let name = name.to_ascii_lowercase();
    name == "localhost" || name.ends_with(".localhost")
}

/// Whether this is an address, or a name that nobody can have in the public DNS: a stranger's page
/// could make a browser call the door by any other name.
fn is_private_name(name: &str) -> bool {
    if name.parse::<IpAddr>().is_ok() {
        return true;
    }
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    match name.rsplit_once('.') {
        None => !name.is_empty(),
        Some((_, last)) => matches!(last, "localhost" | "local" | "internal" | "lan"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn token(name: &str, secret: &str, scope: Scope) -> Token {
        Token {
            name: name.into(),
            secret: secret.to_owned().into(),
            scope,
        }
    }

    fn headers(given: &[(&'static str, &str)]) -> HeaderMap {
        given
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_str(value).unwrap()))
            .collect()
    }

    fn admitted(
        table: &TokenTable,
        method: Method,
        path: &'static str,
        given: &[(&'static str, &str)],
    ) -> u16 {
        let sessions = Sessions::new(8025);
        let (uri, peer) = (Uri::from_static(path), [127, 0, 0, 1].into());
        match table.admit(&sessions, &method, &uri, &headers(given), peer) {
            Ok(_) => 200,
            Err(refusal) => refusal.into_response().status().as_u16(),
        }
    }

    #[test]
    fn a_door_that_others_can_reach_does_not_open_without_a_token() {
        let error = TokenTable::new("0.0.0.0:8025".parse().unwrap(), Vec::new())
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("http.listen") && error.contains("http.tokens"),
            "{error}"
        );
        assert!(TokenTable::new("[::]:8025".parse().unwrap(), Vec::new()).is_err());
        assert!(TokenTable::new("[::1]:8025".parse().unwrap(), Vec::new()).is_ok());
        let table = TokenTable::new(
            "192.0.2.1:1".parse().unwrap(),
            vec![token("app", "s3cret", Scope::Send)],
        )
        .unwrap();
        assert!(
            table.replace(Vec::new()).is_err(),
            "a reload must not open it either"
        );
        assert_eq!(
            admitted(
                &table,
                Method::POST,
                "/v1/mails",
                &[("authorization", "Bearer s3cret")]
            ),
            200
        );
    }

    #[test]
    fn a_secret_that_no_header_can_carry_is_refused() {
        let listen: SocketAddr = "127.0.0.1:0".parse().unwrap();
        for secret in ["", "with space", "line\nbreak", "ä", &"x".repeat(257)] {
            let error = TokenTable::new(listen, vec![token("app", secret, Scope::Send)])
                .unwrap_err()
                .to_string();
            assert!(error.contains("`app`"), "{error}");
            assert!(secret.is_empty() || !error.contains(secret), "{error}");
        }
    }

    #[test]
    fn each_scope_allows_its_own_and_admin_allows_all() {
        let tokens = vec![
            token("s", "send-secret", Scope::Send),
            token("r", "read-secret", Scope::Read),
            token("a", "admin-secret", Scope::Admin),
        ];
        let table = TokenTable::new("127.0.0.1:0".parse().unwrap(), tokens).unwrap();
        let id = "/v1/mails/0199c0de-0000-7000-8000-000000000000";
        let raw = "/v1/mails/0199c0de-0000-7000-8000-000000000000/raw";
        let cancel = "/v1/mails/0199c0de-0000-7000-8000-000000000000/cancel";
        let retry = "/v1/mails/0199c0de-0000-7000-8000-000000000000/retry";
        let cases = [
            (Method::POST, "/v1/mails", [200, 403, 200]),
            (Method::POST, "/v1/mails/batch", [200, 403, 200]),
            (Method::GET, "/v1/mails", [200, 200, 200]),
            (Method::GET, "/v1/mails/count", [200, 200, 200]),
            (Method::GET, "/v1/mails/export", [403, 200, 200]),
            (Method::GET, "/v1/events", [200, 200, 200]),
            (Method::GET, id, [200, 200, 200]),
            (Method::GET, raw, [200, 200, 200]),
            (Method::POST, cancel, [200, 403, 200]),
            (Method::POST, retry, [403, 403, 200]),
            (Method::POST, "/v1/mails/cancel", [403, 403, 200]),
            (Method::DELETE, "/v1/mails", [403, 403, 200]),
            (Method::DELETE, id, [403, 403, 200]),
            (Method::GET, "/v1/stats", [403, 200, 200]),
            (Method::GET, "/metrics", [403, 200, 200]),
            (Method::DELETE, "/v1/dead", [403, 403, 200]),
            (Method::POST, "/v1/dead/retry", [403, 403, 200]),
            (Method::POST, "/v1/relays/primary/pause", [403, 403, 200]),
            (Method::GET, "/health/ready", [200, 200, 200]),
        ];
        for (method, path, expected) in cases {
            for (secret, expected) in ["send-secret", "read-secret", "admin-secret"]
                .into_iter()
                .zip(expected)
            {
                let given = format!("Bearer {secret}");
                let status = admitted(&table, method.clone(), path, &[("authorization", &given)]);
                assert_eq!(status, expected, "{method} {path} with {secret}");
            }
        }
        for wrong in [
            "Bearer send-secre",
            "Bearer send-secret1",
            "Bearer ",
            "Basic send-secret",
            "send-secret",
        ] {
            assert_eq!(
                admitted(
                    &table,
                    Method::POST,
                    "/v1/mails",
                    &[("authorization", wrong)]
                ),
                401,
                "{wrong}"
            );
        }
        assert_eq!(
            admitted(
                &table,
                Method::POST,
                "/v1/mails",
                &[("authorization", "bearer  send-secret ")]
            ),
            200
        );
        assert_eq!(admitted(&table, Method::POST, "/v1/mails", &[]), 401);
        assert_eq!(admitted(&table, Method::GET, "/health/live", &[]), 200);
    }

    #[test]
    fn without_tokens_no_web_page_and_no_foreign_name_gets_in() {
        let table = TokenTable::new("127.0.0.1:0".parse().unwrap(), Vec::new()).unwrap();
        let post =
            |given: &[(&'static str, &str)]| admitted(&table, Method::POST, "/v1/mails", given);
        for host in [
            "localhost:8025",
            "127.0.0.1:8025",
            "[::1]:8025",
            "127.8.9.1",
            "mail.localhost",
            "LOCALHOST",
        ] {
            assert_eq!(post(&[("host", host)]), 200, "{host}");
        }
        for host in [
            "evil.example",
            "localhost.evil.example",
            "192.0.2.7:8025",
            "[2001:db8::1]",
            "",
            "127.0.0.1.nip.io",
        ] {
            assert_eq!(post(&[("host", host)]), 403, "{host}");
        }
        let host = ("host", "localhost:8025");
        assert_eq!(post(&[host, ("origin", "http://localhost:8025")]), 200);
        assert_eq!(post(&[host, ("origin", "http://localhost:3000")]), 403);
        assert_eq!(post(&[host, ("origin", "https://evil.example")]), 403);
        assert_eq!(post(&[host, ("origin", "null")]), 403);
        assert_eq!(post(&[host, ("sec-fetch-site", "same-origin")]), 200);
        assert_eq!(post(&[host, ("sec-fetch-site", "none")]), 200);
        assert_eq!(post(&[host, ("sec-fetch-site", "cross-site")]), 403);
        assert_eq!(post(&[host, ("sec-fetch-site", "same-site")]), 403);
        for path in [
            "/health/live",
            "/openapi.json",
            "/v1/session",
            "/metrics",
            "/nothing",
        ] {
            let get = |given: &[(&'static str, &str)]| admitted(&table, Method::GET, path, given);
            assert_eq!(get(&[host]), 200, "{path}");
            assert_eq!(get(&[("host", "evil.example")]), 403, "{path}");
            assert_eq!(
                get(&[host, ("origin", "https://evil.example")]),
                403,
                "{path}"
            );
        }
    }

    #[test]
    fn a_cookie_is_believed_from_the_doors_own_page_only_and_as_long_as_its_token_is_there() {
        let eye = token("eye", "read-secret", Scope::Read);
        let table = TokenTable::new("127.0.0.1:0".parse().unwrap(), vec![eye.clone()]).unwrap();
        let sessions = Sessions::new(8025);
        let signed_in = sessions.sign_in(&eye, false);
        assert!(
            signed_in.contains("HttpOnly; SameSite=Strict") && !signed_in.contains("read-secret")
        );
        let cookie = signed_in.split(';').next().unwrap();
        assert!(cookie.starts_with("postrider-8025="), "{cookie}");
        let ask = |method, path, given: &[(&'static str, &str)]| {
            let given = [given, &[("cookie", cookie), ("host", "mail.example")]].concat();
            let admitted = table.admit(
                &sessions,
                &method,
                &Uri::from_static(path),
                &headers(&given),
                [127, 0, 0, 1].into(),
            );
            admitted.map_or_else(|refusal| refusal.into_response().status().as_u16(), |_| 200)
        };
        let own = [("sec-fetch-site", "same-origin")];
        assert_eq!(ask(Method::GET, "/v1/mails", &own), 200);
        assert_eq!(ask(Method::GET, "/v1/session", &own), 200);
        assert_eq!(
            ask(Method::DELETE, "/v1/dead", &own),
            403,
            "its scope is the token's"
        );
        assert_eq!(
            ask(
                Method::GET,
                "/v1/mails",
                &[("origin", "https://mail.example")]
            ),
            200
        );
        for foreign in [
            &[][..],
            &[("sec-fetch-site", "same-site")],
            &[("sec-fetch-site", "cross-site")],
            &[("sec-fetch-site", "none")],
            &[("origin", "https://evil.example")],
            &[("origin", "null")],
            &[
                ("sec-fetch-site", "same-origin"),
                ("origin", "https://evil.example"),
            ],
        ] {
            assert_eq!(ask(Method::GET, "/v1/mails", foreign), 403, "{foreign:?}");
        }

        table
            .replace(vec![token("eye", "other-secret", Scope::Read)])
            .unwrap();
        assert_eq!(
            ask(Method::GET, "/v1/mails", &own),
            401,
            "its token is gone"
        );
        table.replace(vec![eye]).unwrap();
        assert_eq!(ask(Method::GET, "/v1/mails", &own), 200);
        sessions.sign_out(&headers(&[("cookie", cookie)]), false);
        assert_eq!(ask(Method::GET, "/v1/mails", &own), 401, "signed out");

        let eye = token("eye", "read-secret", Scope::Read);
        let secure = sessions.sign_in(&eye, true);
        assert!(
            secure.starts_with("__Host-postrider-8025=") && secure.ends_with("; Secure"),
            "{secure}"
        );
    }
}

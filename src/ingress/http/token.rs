//! Tokens and their scopes.

use std::fmt;

use axum::http::HeaderValue;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

use crate::ingress::secrets::{COMPARED_LENGTH, ClaimedSecret};

/// The longest secret in bytes: up to this length, the time of a comparison reveals nothing.
pub(super) const MAX_SECRET: usize = COMPARED_LENGTH;

/// What a token permits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// To submit mail; and for that mail alone, to read, follow and cancel it.
    Send,
    /// To read everything, the content of mails included.
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

    /// The scopes that include this one, in words.
    pub(super) fn wanted(self) -> String {
        match self {
            Scope::Admin => "`admin`".to_owned(),
            other => format!("`{other}` or `admin`"),
        }
    }

    pub(super) fn allows(self, needed: Scope) -> bool {
        self == Scope::Admin || self == needed
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A secret that gives access.
#[derive(Clone, Debug)]
pub struct Token {
    /// Names it in errors and logs.
    pub name: String,
    /// The secret that `Authorization: Bearer` must contain.
    pub secret: SecretString,
    /// What it allows.
    pub scope: Scope,
}

/// The token with this secret. All tokens are compared, in a time that does not depend on the
/// result.
pub(super) fn find<'a>(tokens: &'a [Token], given: &HeaderValue) -> Option<&'a Token> {
    let (scheme, secret) = given.to_str().ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let claimed = ClaimedSecret::new(secret.trim().as_bytes());
    let mut found = None;
    for token in tokens {
        if bool::from(claimed.is(token.secret.expose_secret().as_bytes())) {
            found = Some(token);
        }
    }
    found
}

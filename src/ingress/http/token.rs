//! Tokens, and what each allows.

use std::fmt;

use axum::http::HeaderValue;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use subtle::{Choice, ConstantTimeEq};

/// The longest secret, in bytes. All are compared at this length, so that the time tells nothing.
pub(super) const MAX_SECRET: usize = 256;

/// What a token allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Submitting mail, and for that mail alone: looking at it, following it, withdrawing it.
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

/// The token whose secret was given. Every one is looked at, in the same time whether it matches or
/// not.
pub(super) fn find<'a>(tokens: &'a [Token], given: &HeaderValue) -> Option<&'a Token> {
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

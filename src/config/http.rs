//! `[http]`: the HTTP door.

use std::path::PathBuf;

use secrecy::SecretString;
use serde::Deserialize;

use super::mistake::Report;
use super::{Listen, secret};

/// The HTTP door.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Http {
    /// Where it listens.
    pub listen: Listen,
    /// Who may come in; nobody need show a token where there is none.
    pub tokens: Vec<Token>,
}

/// Somebody who may come in.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Token {
    /// Whose it is, for logs.
    pub name: String,
    /// The token.
    pub token: Option<SecretString>,
    /// The file that it is in.
    pub token_file: Option<PathBuf>,
    /// What it allows.
    pub scope: Scope,
}

/// What a token allows; each allows what the one before allows, too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// To hand in mail.
    #[default]
    Send,
    /// To look at what became of it.
    Read,
    /// To change it.
    Admin,
}

impl Default for Http {
    fn default() -> Self {
        Http { listen: Listen::At(([127, 0, 0, 1], 8025).into()), tokens: Vec::new() }
    }
}

impl Http {
    pub(super) fn check(&mut self, report: &mut Report<'_>) {
        if self.tokens.is_empty() && !self.listen.is_private() {
            report.add("http.tokens", "is missing, and http.listen is not a loopback address: everybody could send mail; add a token, or listen on 127.0.0.1");
        }
        for n in 0..self.tokens.len() {
            let at = format!("http.tokens[{n}]");
            let (earlier, rest) = self.tokens.split_at_mut(n);
            let token = &mut rest[0];
            secret::settle(&mut token.token, token.token_file.as_deref(), (&at, "token"), report);
            if token.token.is_none() {
                report.add(format!("{at}.token_file"), "is missing; or add `token`");
            }
            check_name(&token.name, earlier.iter().map(|other| other.name.as_str()), &at, report);
        }
    }
}

/// Whether somebody who may come in has a name of their own.
pub(super) fn check_name<'a>(
    name: &str,
    mut earlier: impl Iterator<Item = &'a str>,
    at: &str,
    report: &mut Report<'_>,
) {
    if name.is_empty() {
        report.add(format!("{at}.name"), "is missing");
    } else if earlier.any(|other| other == name) {
        report.add(format!("{at}.name"), format!("`{}` is there twice; give each its own", name.escape_debug()));
    }
}

//! `[smtp]`: the SMTP submission door.

use std::path::PathBuf;

use secrecy::SecretString;
use serde::Deserialize;

use super::http::check_name;
use super::mistake::Report;
use super::{Listen, pem, secret};

/// The SMTP submission door.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Smtp {
    /// Where it listens.
    pub listen: Listen,
    /// Who may come in; nobody need log in where there is none.
    pub users: Vec<User>,
    /// What STARTTLS is done with.
    pub tls: Option<Tls>,
}

/// Somebody who may come in.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct User {
    /// What AUTH calls them.
    pub name: String,
    /// Their password.
    pub password: Option<SecretString>,
    /// The file that it is in.
    pub password_file: Option<PathBuf>,
}

/// A certificate and its key, in PEM files.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tls {
    /// The certificate, and those that vouch for it.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

impl Default for Smtp {
    fn default() -> Self {
        Smtp { listen: Listen::At(([127, 0, 0, 1], 2525).into()), users: Vec::new(), tls: None }
    }
}

impl Smtp {
    pub(super) fn check(&mut self, report: &mut Report<'_>) {
        if !self.listen.is_private() {
            if self.users.is_empty() {
                report.add("smtp.users", "is missing, and smtp.listen is not a loopback address: everybody could send mail; add a user, or listen on 127.0.0.1");
            }
            if self.tls.is_none() {
                report.add("smtp.tls", "is missing, and smtp.listen is not a loopback address: passwords would be sent in the clear; add `tls`, or listen on 127.0.0.1");
            }
        }
        for n in 0..self.users.len() {
            let at = format!("smtp.users[{n}]");
            let (earlier, rest) = self.users.split_at_mut(n);
            let user = &mut rest[0];
            secret::settle(&mut user.password, user.password_file.as_deref(), (&at, "password"), report);
            if user.password.is_none() {
                report.add(format!("{at}.password_file"), "is missing; or add `password`");
            }
            check_name(&user.name, earlier.iter().map(|other| other.name.as_str()), &at, report);
        }
        if let Some(tls) = &self.tls {
            tls.check("smtp.tls", report);
        }
    }
}

impl Tls {
    fn check(&self, at: &str, report: &mut Report<'_>) {
        for (key, path) in [("cert", &self.cert), ("key", &self.key)] {
            if path.as_os_str().is_empty() {
                report.add(format!("{at}.{key}"), "is missing; name a PEM file");
            }
        }
        pem::check_certificates(&self.cert, format!("{at}.cert"), report);
        pem::check_key(&self.key, format!("{at}.key"), report);
    }
}

//! The file of a service's users, which the command line reads: the service's address, and a token
//! for it.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use secrecy::SecretString;
use serde::Deserialize;

use super::mistake::{Mistake, Mistakes};

/// The file that all users of this machine share.
const MACHINE_FILE: &str = "/etc/postrider/client.toml";

/// The contents of the file.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClientFile {
    /// The service's address.
    pub url: Option<String>,
    /// The token to send.
    pub token: Option<SecretString>,
    /// The file with the token.
    pub token_file: Option<PathBuf>,
    /// A PEM file with the certificate authority of the service's certificate.
    pub ca_file: Option<PathBuf>,
}

impl ClientFile {
    /// The first file that exists, the user's or else the machine's, with its contents. The default
    /// if neither exists.
    ///
    /// # Errors
    /// If the file cannot be read or is not valid.
    pub fn find() -> Result<(PathBuf, Self), Mistakes> {
        let users = env::var_os("XDG_CONFIG_HOME")
            .filter(|dir| !dir.is_empty())
            .map(PathBuf::from)
            // The system knows the home directory even if HOME is not set, as in a daemon's
            // environment.
            .or_else(|| env::home_dir().map(|home| home.join(".config")))
            .map(|dir| dir.join("postrider.toml"));

        for path in users.into_iter().chain([PathBuf::from(MACHINE_FILE)]) {
            let text = match fs::read_to_string(&path) {
                Ok(text) => text,
                // A daemon may not be allowed to look into its home directory; that is no mistake.
                Err(_) if !path.exists() => continue,
                Err(error) => return Err(mistake(&path, format!("cannot be read: {error}"))),
            };
            let file = toml::from_str(&text).map_err(|error| {
                // The line itself is not quoted, because it may contain the token.
                let line = error.span().map_or(1, |span| {
                    text[..span.start.min(text.len())].matches('\n').count() + 1
                });
                let message = error.message().replace('\n', ", ");
                mistake(&path, format!("line {line}: {message}"))
            })?;
            return Ok((path, file));
        }

        Ok((PathBuf::new(), ClientFile::default()))
    }
}

fn mistake(path: &Path, reason: String) -> Mistakes {
    Mistakes(vec![Mistake {
        source: path.to_string_lossy().escape_debug().to_string(),
        path: String::new(),
        reason,
    }])
}

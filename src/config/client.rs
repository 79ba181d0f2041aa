//! The file of those who use a service: its address, and the token for it.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use secrecy::SecretString;
use serde::Deserialize;

use super::mistake::{Mistake, Mistakes};

/// What all users of this machine share.
const MACHINE_FILE: &str = "/etc/postrider/client.toml";

/// What a file says.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClientFile {
    /// The service's address.
    pub url: Option<String>,
    /// The token that it asks for.
    pub token: Option<SecretString>,
    /// The file that the token is in.
    pub token_file: Option<PathBuf>,
    /// The authority that the service's certificate comes from.
    pub ca_file: Option<PathBuf>,
}

impl ClientFile {
    /// The first file that is there, and what it says: the user's, or else the machine's. Nothing
    /// where there is none.
    ///
    /// # Errors
    /// The file cannot be read or understood.
    pub fn find() -> Result<(PathBuf, Self), Mistakes> {
        let users = env::var_os("XDG_CONFIG_HOME")
            .filter(|dir| !dir.is_empty())
            .map(PathBuf::from)
            // Asks the system where the variable HOME is not set, as in a daemon's environment.
            .or_else(|| env::home_dir().map(|home| home.join(".config")))
            .map(|dir| dir.join("postrider.toml"));

        for path in users.into_iter().chain([PathBuf::from(MACHINE_FILE)]) {
            let text = match fs::read_to_string(&path) {
                Ok(text) => text,
                // A home that a daemon may not even look into says nothing either.
                Err(_) if !path.exists() => continue,
                Err(error) => return Err(mistake(&path, format!("cannot be read: {error}"))),
            };
            let file = toml::from_str(&text).map_err(|error| {
                // The line itself may hold the token.
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

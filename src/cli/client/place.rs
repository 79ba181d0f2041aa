//! The service's address and the token for it: flags win over variables, variables over the user's
//! file `~/.config/postrider.toml`, and that over the machine's `/etc/postrider/client.toml`.
//!
//! *Invariant:* a token is sent only to the address that was given in the same place.

use std::env::{self, VarError};
use std::fmt::Display;
use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use secrecy::{ExposeSecret, SecretString};
use ureq::http::header::HeaderValue;
use ureq::tls::{Certificate, PemItem, parse_pem};
use url::Url;

use crate::cli::Failure;
use crate::cli::screen::escaped;
use crate::config::{ClientFile, Mistake, Mistakes};

const DEFAULT_URL: &str = "http://127.0.0.1:8025";

/// The options for the service's address and token.
#[derive(Args, Clone, Debug, Default)]
pub struct ServiceOptions {
    /// The service's address [env: POSTRIDER_URL] [default: http://127.0.0.1:8025]
    #[arg(long, help_heading = "Service")]
    url: Option<String>,
    /// The token for the service; given here, other users of this machine can see it [env:
    /// POSTRIDER_TOKEN]
    #[arg(long, help_heading = "Service", conflicts_with = "token_file")]
    token: Option<SecretString>,
    /// The file that holds the token [env: POSTRIDER_TOKEN_FILE]
    #[arg(long, value_name = "FILE", help_heading = "Service")]
    token_file: Option<PathBuf>,
    /// A PEM file with the authority that issued the service's certificate, instead of the public
    /// ones [env: POSTRIDER_CA_FILE]
    #[arg(long, value_name = "FILE", help_heading = "Service")]
    ca_file: Option<PathBuf>,
}

/// The service's address and token, after flags, variables and files were merged.
pub(super) struct ServiceAddress {
    pub url: Url,
    /// The value of the header field `Authorization`.
    pub authorization: Option<HeaderValue>,
    /// The certificate authorities to trust; `None` for the public ones.
    pub authorities: Option<Vec<Certificate<'static>>>,
}

/// A setting, and where it was given.
#[derive(Clone)]
struct Setting<T> {
    value: T,
    by: SettingSource,
}

/// Where a setting was given.
#[derive(Clone)]
enum SettingSource {
    Flag(&'static str),
    Variable(&'static str),
    File(PathBuf, &'static str),
}

impl SettingSource {
    /// The error that a setting from here is wrong.
    fn wrong(&self, reason: impl Display) -> Failure {
        match self {
            SettingSource::Flag(flag) => Failure::Usage(format!("{flag} {reason}")),
            SettingSource::Variable(name) => {
                Failure::Usage(format!("the variable {name} {reason}"))
            }
            SettingSource::File(path, key) => mistake(path, key, &reason.to_string()),
        }
    }
}

impl ServiceOptions {
    /// Whether an address was given on the command line or in the environment.
    pub(super) fn names_a_place(&self) -> bool {
        self.url.is_some() || env::var_os("POSTRIDER_URL").is_some_and(|url| !url.is_empty())
    }

    /// Merges flags, variables and files.
    pub(super) fn place(&self) -> Result<ServiceAddress, Failure> {
        let (file, written) = ClientFile::find()?;
        let in_file = |key| SettingSource::File(file.clone(), key);

        let of_file = written.url.map(|value| Setting {
            value,
            by: in_file("url"),
        });

        let beside = of_file.clone();
        let given = said(self.url.clone(), "--url", "POSTRIDER_URL")?;
        let url = match given.or(of_file) {
            Some(said) => parsed(&said)?,
            None => parsed(&Setting {
                value: DEFAULT_URL.to_owned(),
                by: SettingSource::Flag("--url"),
            })?,
        };
        let is_the_files = beside.is_none_or(|said| parsed(&said).is_ok_and(|of| of == url));

        let mut token = self.given_token()?;
        if token.is_none() && is_the_files {
            token = match (written.token, written.token_file) {
                (Some(_), Some(_)) => {
                    let reason = "is given beside `token`; keep one of them";
                    return Err(in_file("token_file").wrong(reason));
                }
                (Some(value), None) => Some(Setting {
                    value,
                    by: in_file("token"),
                }),
                (None, Some(path)) => Some(read_token(
                    &beside_file(&file, path),
                    in_file("token_file"),
                )?),
                (None, None) => None,
            };
        }

        let path = self.ca_file.as_ref().map(|path| path.display().to_string());
        let mut authority = said(path, "--ca-file", "POSTRIDER_CA_FILE")?.map(|said| Setting {
            value: PathBuf::from(said.value),
            by: said.by,
        });

        if authority.is_none() && is_the_files {
            authority = written.ca_file.map(|path| Setting {
                value: beside_file(&file, path),
                by: in_file("ca_file"),
            });
        }

        Ok(ServiceAddress {
            url,
            authorization: token.map(|token| bearer(&token)).transpose()?,
            authorities: authority.map(|said| authorities(&said)).transpose()?,
        })
    }

    fn given_token(&self) -> Result<Option<Setting<SecretString>>, Failure> {
        if let Some(token) = &self.token {
            let by = SettingSource::Flag("--token");
            let value = token.clone();
            // An empty token means that none is sent.
            return Ok(Some(Setting { value, by }));
        }

        if let Some(path) = &self.token_file {
            return read_token(path, SettingSource::Flag("--token-file")).map(Some);
        }
        if let Some(token) = said(None, "", "POSTRIDER_TOKEN")? {
            return Ok(Some(Setting {
                value: token.value.into(),
                by: token.by,
            }));
        }

        match said(None, "", "POSTRIDER_TOKEN_FILE")? {
            Some(path) => read_token(Path::new(&path.value), path.by).map(Some),
            None => Ok(None),
        }
    }
}

/// The value of a flag, or else of a variable, unless that is empty.
fn said(
    flag: Option<String>,
    name: &'static str,
    variable: &'static str,
) -> Result<Option<Setting<String>>, Failure> {
    if let Some(value) = flag {
        let by = SettingSource::Flag(name);
        return Ok(Some(Setting { value, by }));
    }
    let by = SettingSource::Variable(variable);
    match env::var(variable) {
        Ok(value) if !value.is_empty() => Ok(Some(Setting { value, by })),
        Ok(_) | Err(VarError::NotPresent) => Ok(None),
        Err(VarError::NotUnicode(_)) => Err(by.wrong("is not UTF-8")),
    }
}

fn parsed(said: &Setting<String>) -> Result<Url, Failure> {
    let wrong = |why: &str| said.by.wrong(format!("`{}` {why}", escaped(&said.value)));
    let mut url = Url::parse(&said.value)
        .map_err(|_| wrong(&format!("is not a URL such as {DEFAULT_URL}")))?;
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
        return Err(wrong("must begin with http:// or https://"));
    }

    if !url.username().is_empty() || url.password().is_some() {
        return Err(said.by.wrong(
            "has a user or a password, where the service takes a token: use --token or \
             --token-file",
        ));
    }

    url.set_query(None);
    url.set_fragment(None);
    Ok(url)
}

fn bearer(token: &Setting<SecretString>) -> Result<HeaderValue, Failure> {
    let value = format!("Bearer {}", token.value.expose_secret());
    let mut value = HeaderValue::from_str(&value).map_err(|_| {
        token
            .by
            .wrong("contains a character that no token can have; see --token and --token-file")
    })?;
    value.set_sensitive(true);
    Ok(value)
}

fn read_token(path: &Path, by: SettingSource) -> Result<Setting<SecretString>, Failure> {
    let shown = escaped(&path.to_string_lossy());
    let text = fs::read_to_string(path)
        .map_err(|error| by.wrong(format!("names {shown}, which cannot be read: {error}")))?;
    let token = text.trim_end_matches(['\r', '\n']);
    if token.is_empty() {
        return Err(by.wrong(format!("names {shown}, which is empty")));
    }
    Ok(Setting {
        value: token.to_owned().into(),
        by,
    })
}

fn authorities(said: &Setting<PathBuf>) -> Result<Vec<Certificate<'static>>, Failure> {
    let shown = escaped(&said.value.to_string_lossy());
    let pem = fs::read(&said.value).map_err(|error| {
        said.by
            .wrong(format!("names {shown}, which cannot be read: {error}"))
    })?;

    let found: Vec<_> = parse_pem(&pem)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect();

    if found.is_empty() {
        return Err(said
            .by
            .wrong(format!("names {shown}, which contains no certificate")));
    }

    Ok(found)
}

fn mistake(path: &Path, key: &str, reason: &str) -> Failure {
    Failure::Configuration(Mistakes(vec![Mistake {
        source: escaped(&path.to_string_lossy()),
        path: key.to_owned(),
        reason: reason.to_owned(),
    }]))
}

/// A path in a file: relative to the home directory if it begins with `~/`, else to the file's own
/// directory.
fn beside_file(file: &Path, path: PathBuf) -> PathBuf {
    if let (Ok(rest), Some(home)) = (path.strip_prefix("~"), env::home_dir()) {
        return home.join(rest);
    }
    file.parent().map_or(path.clone(), |dir| dir.join(&path))
}

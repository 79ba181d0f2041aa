//! The sources of settings, merged: the file, and above it the environment.
//!
//! `POSTRIDER_SMTP__LISTEN` is `smtp.listen`, `POSTRIDER_RELAYS__0__PASSWORD` is
//! `relays[0].password`. Variables of that prefix without a double underscore belong to others (the
//! client's `POSTRIDER_URL`, what Kubernetes sets for a service named postrider), except for the
//! two lists `POSTRIDER_RELAYS` and `POSTRIDER_ROUTES`.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use config::{Config, ConfigError, Environment, File, FileFormat, Source, Value, ValueKind};
use serde_json::Value as Json;

use super::mistake::{Mistake, Mistakes};

const PREFIX: &str = "POSTRIDER";
/// The variable that names the file if the command line does not.
const FILE_VARIABLE: &str = "POSTRIDER_CONFIG";
/// The variable that wins over `log.level`, as in every program that logs with `tracing`.
pub(super) const LOG_VARIABLE: &str = "RUST_LOG";

/// The files that are tried in this order if none is named.
const USUAL_FILES: [&str; 3] = [
    "postrider.toml",
    "config/postrider.toml",
    "/etc/postrider/postrider.toml",
];

/// The file that is read when none is named: the first of `postrider.toml`, `config/postrider.toml`
/// and `/etc/postrider/postrider.toml` that exists.
pub fn default_file() -> Option<PathBuf> {
    USUAL_FILES
        .into_iter()
        .map(PathBuf::from)
        .find(|path| path.is_file())
}

/// The sources to read.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The file; without one, there are only the defaults and the environment.
    pub file: Option<PathBuf>,
    /// The environment's variables.
    pub environment: BTreeMap<String, String>,
}

impl Sources {
    /// This file, or the usual one, and this process's environment.
    pub fn of_process(file: Option<PathBuf>) -> Self {
        // A variable that is not Unicode belongs to another program: no setting has one.
        let environment = std::env::vars_os().filter_map(|(name, value)| {
            let name = name
                .into_string()
                .ok()
                .filter(|name| name.starts_with(PREFIX) || name == LOG_VARIABLE)?;
            Some((name, value.to_string_lossy().into_owned()))
        });

        let named = std::env::var_os(FILE_VARIABLE).filter(|name| !name.is_empty());
        Sources {
            file: file.or(named.map(PathBuf::from)).or_else(default_file),
            environment: environment.collect(),
        }
    }
}

/// All settings as one tree, and where each came from.
pub(super) struct Layers {
    pub(super) tree: Json,
    pub(super) origins: Origins,
}

/// Where settings came from: the file, and the variables that win over it.
#[derive(Clone, Default)]
pub(super) struct Origins {
    file: String,
    /// Keys that the environment set, with their variables.
    variables: BTreeMap<String, String>,
}

impl std::fmt::Debug for Origins {
    /// Not shown: the same settings from another source are equal.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Origins")
    }
}

impl Origins {
    /// The variable that set this key, or one above it.
    pub(super) fn variable(&self, path: &str) -> Option<&str> {
        let above = |key: &str| {
            path.strip_prefix(key)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        };
        self.variables
            .iter()
            .find(|(key, _)| above(key))
            .map(|(_, variable)| variable.as_str())
    }

    /// The file, if it sets this key.
    pub(super) fn file_of(&self, path: &str) -> Option<&Path> {
        match self.variable(path) {
            Some(_) => None,
            None => Some(Path::new(&self.file)),
        }
    }

    /// The file or the variable that sets this key, for a mistake's message.
    pub(super) fn source_of(&self, path: &str) -> String {
        self.variable(path).unwrap_or(&self.file).to_owned()
    }
}

pub(super) fn gather(sources: &Sources) -> Result<Layers, Mistakes> {
    let file = sources
        .file
        .as_deref()
        .map_or("no file".to_owned(), |path| path.display().to_string());

    let whole = |reason: String| {
        Mistakes(vec![Mistake {
            source: file.clone(),
            path: String::new(),
            reason,
        }])
    };

    let mut layered = Config::builder();
    if let Some(path) = &sources.file {
        let text = read_toml(path).map_err(|reason| {
            let named = sources.environment.get(FILE_VARIABLE);
            let by_variable = named.is_some_and(|named| Path::new(named) == path);
            whole(match by_variable && !path.is_file() {
                true => format!("{reason}; the variable {FILE_VARIABLE} names it"),
                false => reason,
            })
        })?;
        layered = layered.add_source(File::from_str(&text, FileFormat::Toml));
    }

    let mut variables = BTreeMap::new();
    if let Some(level) = sources.environment.get(LOG_VARIABLE)
        && !level.is_empty()
    {
        layered = layered
            .set_override("log.level", level.as_str())
            .map_err(|e| whole(e.to_string()))?;
        variables.insert("log.level".to_owned(), LOG_VARIABLE.to_owned());
    }

    for (key, (variable, value)) in
        environment(&sources.environment).map_err(|e| whole(e.to_string()))?
    {
        layered = layered.set_override(&key, value).map_err(|_| {
            let reason =
                "no key can be named so; POSTRIDER_SMTP__LISTEN, for example, is smtp.listen"
                    .to_owned();
            Mistakes(vec![Mistake {
                source: variable.clone(),
                path: String::new(),
                reason,
            }])
        })?;
        variables.insert(key, variable);
    }

    let meant = nearly_settings(&sources.environment);
    if !meant.is_empty() {
        return Err(Mistakes(meant));
    }

    let tree = layered.build().map_err(|e| whole(e.to_string()))?;
    Ok(Layers {
        tree: json(tree.cache),
        origins: Origins { file, variables },
    })
}

/// The file's text. It is parsed here only for the position of a mistake; the line itself is not
/// quoted, because it may contain a secret.
fn read_toml(path: &Path) -> Result<String, String> {
    let text = std::fs::read_to_string(path).map_err(|e| format!("cannot be read: {e}"))?;
    match text.parse::<toml::Table>() {
        Ok(_) => Ok(text),
        Err(e) => {
            let before = &text[..e.span().map_or(0, |span| span.start.min(text.len()))];
            let line = before.matches('\n').count() + 1;
            let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
            Err(format!(
                "is not valid TOML at line {line}, column {column}: {}",
                e.message().replace('\n', ", ")
            ))
        }
    }
}

/// The variables that are settings, by key.
fn environment(
    all: &BTreeMap<String, String>,
) -> Result<BTreeMap<String, (String, Value)>, ConfigError> {
    let mut found = BTreeMap::new();
    for (name, value) in all {
        let one = HashMap::from([(name.clone(), value.clone())]);
        let source = Environment::with_prefix(PREFIX)
            .prefix_separator("_")
            .separator("__")
            .source(Some(one));
        for (dotted, value) in source.collect()? {
            if dotted.contains('.') || matches!(dotted.as_str(), "relays" | "routes") {
                found.insert(indexed(&dotted), (name.clone(), value));
            }
        }
    }

    Ok(found)
}

/// Variables that would be a setting if they had one more underscore: otherwise they would be
/// ignored silently. `POSTRIDER_SERVICE_HOST`, which Kubernetes sets for a service named postrider,
/// is none.
fn nearly_settings(all: &BTreeMap<String, String>) -> Vec<Mistake> {
    let flat = |name: &str| -> String {
        let parts = name
            .split(['_', '.'])
            .filter(|part| !part.is_empty() && !part.bytes().all(|byte| byte.is_ascii_digit()));
        parts.collect::<Vec<_>>().join("_").to_uppercase()
    };

    let keys: BTreeMap<String, String> = template_keys()
        .map(|key| (format!("{PREFIX}_{}", flat(&key)), key))
        .collect();

    let mut meant = Vec::new();
    for name in all.keys().filter(|name| !name.contains("__")) {
        let Some(key) = keys.get(&flat(name)) else {
            continue;
        };
        let (section, key) = key.rsplit_once('.').unwrap_or(("", key));
        let index = if matches!(section, "relays" | "routes") {
            "0__"
        } else {
            ""
        };
        let section = section.replace('.', "__").to_uppercase();
        let variable = format!("{PREFIX}_{section}__{index}{}", key.to_uppercase());
        meant.push(Mistake {
            source: name.clone(),
            path: String::new(),
            reason: format!(
                "sets nothing: two underscores stand between a section and its key; did you mean \
                 {variable}?"
            ),
        });
    }

    meant
}

/// Every key of the file that `postrider init` writes, with its section.
fn template_keys() -> impl Iterator<Item = String> {
    let mut section = "";
    super::TEMPLATE.lines().filter_map(move |line| {
        let line = line.strip_prefix('#').unwrap_or(line);
        if line.starts_with('[') {
            section = line.trim_matches(['[', ']']);
            return None;
        }
        let (key, _) = line.split_once(" = ")?;
        let is_key = key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
        is_key.then(|| format!("{section}.{key}"))
    })
}

/// `relays.0.url` → `relays[0].url`.
fn indexed(dotted: &str) -> String {
    let mut key = String::new();
    for part in dotted.split('.') {
        if !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()) {
            key.push_str(&format!("[{part}]"));
        } else {
            key.push_str(if key.is_empty() { "" } else { "." });
            key.push_str(part);
        }
    }
    key
}

fn json(value: Value) -> Json {
    match value.kind {
        // A gap in a list: `relays[0]`, if the environment has `relays[1]` only.
        ValueKind::Nil => Json::Object(serde_json::Map::new()),
        ValueKind::Boolean(it) => it.into(),
        ValueKind::I64(it) => it.into(),
        ValueKind::U64(it) => it.into(),
        ValueKind::Float(it) => it.into(),
        ValueKind::I128(it) => it.to_string().into(),
        ValueKind::U128(it) => it.to_string().into(),
        ValueKind::String(it) => it.into(),
        ValueKind::Array(items) => items.into_iter().map(json).collect(),
        ValueKind::Table(entries) => entries
            .into_iter()
            .map(|(key, it)| (key, json(it)))
            .collect(),
    }
}

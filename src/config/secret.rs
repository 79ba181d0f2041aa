//! Secrets, given in the configuration or in a file.

use std::path::Path;

use secrecy::{ExposeSecret, SecretString};

use super::mistake::MistakeReport;
use crate::private;

/// Reads a secret from the file of its `*_file` key, if one is given. `at` is the table's path,
/// `key` the secret's. It is a mistake to give both.
pub(super) fn settle(
    secret: &mut Option<SecretString>,
    file: Option<&Path>,
    (at, key): (&str, &str),
    report: &mut MistakeReport<'_>,
) {
    let twin = format!("{at}.{key}_file");
    match file {
        Some(_) if secret.is_some() => {
            report.add(twin, format!("is given beside `{key}`; keep one of them"))
        }
        Some(path) => match std::fs::read_to_string(path) {
            Ok(text) => {
                let text = text.strip_suffix('\n').unwrap_or(&text);
                *secret = Some(text.strip_suffix('\r').unwrap_or(text).to_owned().into());
                if is_empty(secret) {
                    report.add(&twin, format!("the file {} is empty", path.display()));
                }
                keep(&twin, path, report);
            }
            Err(e) => report.add(twin, format!("cannot read {}: {e}", path.display())),
        },
        None if is_empty(secret) => report.add(format!("{at}.{key}"), "is empty"),
        None if secret.is_some() => {
            let key = format!("{at}.{key}");
            if let Some(file) = report.file_of(&key)
                && private::is_readable_by_all(file)
            {
                let reason = format!("{} {READABLE_BY_OTHERS}", file.display());
                report.warn(key, reason);
            }
        }
        None => {}
    }
}

/// Warns if a file with a secret can be read by everybody.
pub(super) fn keep(key: &str, file: &Path, report: &mut MistakeReport<'_>) {
    if private::is_readable_by_all(file) {
        report.warn(
            key,
            format!("the file {} {READABLE_BY_OTHERS}", file.display()),
        );
    }
}

const READABLE_BY_OTHERS: &str =
    "holds a secret and can be read by every user of this machine; `chmod 600` it";

fn is_empty(secret: &Option<SecretString>) -> bool {
    secret
        .as_ref()
        .is_some_and(|secret| secret.expose_secret().is_empty())
}

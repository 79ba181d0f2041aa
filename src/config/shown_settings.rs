//! The settings as they may be shown: the merged tree without any secret.

use serde_json::Value as Json;
use url::Url;

/// Shown in place of a secret.
const HIDDEN: &str = "(set, not shown)";

/// Words in the names of keys whose values are never shown; the paths of files with secrets are.
const SECRET_WORDS: [&str; 6] = [
    "password",
    "token",
    "secret",
    "key",
    "credential",
    "passphrase",
];

/// The given settings without secrets.
#[derive(Clone, Default)]
pub(super) struct ShownSettings(Json);

impl std::fmt::Debug for ShownSettings {
    /// Not shown: settings are equal whether a default is written out or not.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ShownSettings")
    }
}

impl ShownSettings {
    pub fn of(tree: &Json) -> Self {
        ShownSettings(without_secrets(tree))
    }

    pub fn shown(&self) -> &Json {
        &self.0
    }
}

/// The tree, without secrets.
fn without_secrets(tree: &Json) -> Json {
    match tree {
        Json::Object(entries) => {
            let shown = entries.iter().map(|(key, value)| {
                let shown = match value {
                    Json::Object(_) | Json::Array(_) => without_secrets(value),
                    Json::String(text) => Json::from(shown(key, text)),
                    _ => value.clone(),
                };
                (key.clone(), shown)
            });
            Json::Object(shown.collect())
        }
        Json::Array(items) => items.iter().map(without_secrets).collect(),
        _ => tree.clone(),
    }
}

fn shown(key: &str, text: &str) -> String {
    let names_file = key.ends_with("_file") || key.ends_with("_id");
    if !names_file && SECRET_WORDS.iter().any(|word| key.contains(word)) {
        return HIDDEN.to_owned();
    }

    // A URL may contain a password, and so may text that only looks like a URL.
    if !text.contains("://") && !text.contains('@') {
        return text.to_owned();
    }

    match Url::parse(text) {
        Ok(mut url) => {
            if url.password().is_some() && url.set_password(Some("…")).is_err() {
                return HIDDEN.to_owned();
            }
            if key == "url" {
                url.set_query(None);
            }
            url.to_string().replace("%E2%80%A6", "…")
        }
        Err(_) if text.contains("://") => HIDDEN.to_owned(),
        Err(_) => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_secret_is_shown_and_what_is_none_is() {
        let tree = serde_json::json!({
            "relays": [{"name": "a", "url": "smtps://user:hunter2@example.com:465",
                "password": "hunter2",
                "api_key": "hunter2", "oauth2": {"client_id": "app", "client_secret": "hunter2",
                    "key_file": "/k"}}],
            "http": {"tokens": [{"name": "app", "token": "hunter2", "token_file": "/run/t",
                "scope": "read"}]},
            "status": {"secret": "hunter2", "base_url": "https://mail.example.com"},
            "spool": {"url": "postgres://u:hunter2@db1,db2/app?password=hunter2",
                "password": "hunter2"},
        });

        let shown = without_secrets(&tree).to_string();
        assert!(!shown.contains("hunter2"), "{shown}");
        for part in [
            "smtps://user:…@example.com:465",
            "app",
            "/run/t",
            "https://mail.example.com",
        ] {
            assert!(shown.contains(part), "{shown} lacks {part}");
        }
    }
}

//! `[templates]`: the folder of the templates that mail is made from.

use std::path::PathBuf;

use serde::Deserialize;

use super::mistake::MistakeReport;
use crate::content;

/// Where the templates are.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Templates {
    /// The folder; none when absent.
    pub path: Option<PathBuf>,
    /// The language to use where a template does not have the requested one.
    pub default_locale: String,
    /// The templates in the folder.
    #[serde(skip)]
    loaded: content::Templates,
}

impl Default for Templates {
    fn default() -> Self {
        Templates {
            path: None,
            default_locale: "en".to_owned(),
            loaded: content::Templates::default(),
        }
    }
}

impl Templates {
    /// The templates, read and compiled when the settings were loaded.
    pub fn loaded(&self) -> content::Templates {
        self.loaded.clone()
    }

    /// The same; `None` if they cannot be used, which is reported as a mistake of its own.
    pub(super) fn usable(&self) -> Option<&content::Templates> {
        (self.path.is_none() || !self.loaded.list().is_empty()).then_some(&self.loaded)
    }

    pub(super) fn check(&mut self, report: &mut MistakeReport<'_>) {
        if !content::is_locale(&self.default_locale) {
            let locale = self.default_locale.escape_debug();
            let reason = format!("`{locale}` is not a locale such as en or pt-BR");
            return report.add("templates.default_locale", reason);
        }

        let Some(path) = &self.path else { return };
        match content::Templates::load(path, &self.default_locale) {
            Ok(loaded) => self.loaded = loaded,
            Err(mistakes) => {
                let mistakes: Vec<String> = mistakes.0.iter().map(ToString::to_string).collect();
                report.add("templates.path", mistakes.join("; "));
            }
        }
    }
}

//! Mistakes in the configuration: collected while it is read and checked, and reported all at once.

use std::fmt;
use std::path::Path;

use serde::Serialize;

use super::layers::Origins;

/// A mistake in the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Mistake {
    /// The file or the environment variable with the mistake.
    #[serde(rename = "file")]
    pub source: String,
    /// The key, such as `relays[0].url`; empty if the whole source is meant.
    #[serde(rename = "key")]
    pub path: String,
    /// What is wrong, and the way out.
    pub reason: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.path.as_str() {
            "" => write!(f, "{}: {}", self.source, self.reason),
            path => write!(f, "{}: {path}: {}", self.source, self.reason),
        }
    }
}

/// All mistakes; displayed one per line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Mistakes(pub Vec<Mistake>);

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, mistake) in self.0.iter().enumerate() {
            write!(f, "{}{mistake}", if n > 0 { "\n" } else { "" })?;
        }
        Ok(())
    }
}

/// Collects mistakes and warnings.
pub(super) struct MistakeReport<'a> {
    origins: &'a Origins,
    mistakes: Vec<Mistake>,
    warnings: Vec<Mistake>,
}

impl<'a> MistakeReport<'a> {
    pub(super) fn new(origins: &'a Origins) -> Self {
        MistakeReport {
            origins,
            mistakes: Vec::new(),
            warnings: Vec::new(),
        }
    }

    /// Adds a mistake, unless it follows from one that is known already.
    pub(super) fn add(&mut self, path: impl Into<String>, reason: impl fmt::Display) {
        let path = path.into();
        if !self.has(&path) {
            let mistake = Mistake {
                source: self.origins.source_of(&path),
                path,
                reason: reason.to_string(),
            };
            self.mistakes.push(mistake);
        }
    }

    /// Adds a warning: something that works but should be corrected.
    pub(super) fn warn(&mut self, path: impl Into<String>, reason: impl fmt::Display) {
        let path = path.into();
        let warning = Mistake {
            source: self.origins.source_of(&path),
            path,
            reason: reason.to_string(),
        };
        if !self.warnings.contains(&warning) {
            self.warnings.push(warning);
        }
    }

    /// Takes the warnings out.
    pub(super) fn take_warnings(&mut self) -> Vec<Mistake> {
        std::mem::take(&mut self.warnings)
    }

    /// The configuration's file, if it sets this key.
    pub(super) fn file_of(&self, path: &str) -> Option<&'a Path> {
        self.origins.file_of(path)
    }

    /// Whether something is wrong with this key, with one above it or with one below it.
    pub(super) fn has(&self, path: &str) -> bool {
        let covers = |upper: &str, lower: &str| {
            lower
                .strip_prefix(upper)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        };
        self.mistakes
            .iter()
            .any(|known| covers(&known.path, path) || covers(path, &known.path))
    }

    /// Only the mistakes in this section.
    pub(super) fn only(mut self, section: &str) -> Self {
        let of_it = |mistake: &Mistake| mistake.path.split(['.', '[']).next() == Some(section);
        self.mistakes.retain(of_it);
        self
    }

    /// The file or the variable that sets this key.
    pub(super) fn source_of(&self, path: &str) -> String {
        self.origins.source_of(path)
    }

    pub(super) fn finish(self) -> Result<(), Mistakes> {
        if self.mistakes.is_empty() {
            Ok(())
        } else {
            Err(Mistakes(self.mistakes))
        }
    }
}

//! Mistakes in a folder of templates, and errors of a render.

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

/// A mistake in a template's files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TemplateMistake {
    /// The file.
    pub file: PathBuf,
    /// The line, if the mistake has one.
    pub line: Option<usize>,
    /// What is wrong, and the way out.
    pub reason: String,
}

impl fmt::Display for TemplateMistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}: {}", self.file.display(), self.reason),
            None => write!(f, "{}: {}", self.file.display(), self.reason),
        }
    }
}

/// All mistakes in a folder of templates; displayed one per line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct TemplateMistakes(pub Vec<TemplateMistake>);

impl fmt::Display for TemplateMistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, mistake) in self.0.iter().enumerate() {
            write!(f, "{}{mistake}", if n > 0 { "\n" } else { "" })?;
        }
        Ok(())
    }
}

/// Why a template was not rendered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// There is no template of this name.
    #[error("there is no template named `{}`", .0.escape_debug())]
    Unknown(String),
    /// The data is not an object, or is too large.
    #[error("the data {0}")]
    Data(String),
    /// The locale is not valid.
    #[error("`{}` is not a locale such as en or pt-BR", .0.escape_debug())]
    Locale(String),
    /// The template failed for this data, for example because a variable is missing.
    #[error("{file}{}: {reason}", .line.map(|line| format!(", line {line}")).unwrap_or_default())]
    Render {
        /// The file, below the folder of templates.
        file: String,
        /// The line in the file.
        line: Option<usize>,
        /// The variable that is missing, with its dots: `user.name`.
        variable: Option<String>,
        /// What is wrong.
        reason: String,
    },
}

//! The error for input that is not a valid mail.

use std::fmt::Display;

/// Input that is refused before anything is stored. It names the field that is wrong, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct MailError {
    field: String,
    reason: String,
    too_large: bool,
}

impl MailError {
    /// An error about one field, named as in the input (`to[1]`, `headers.X-Id`,
    /// `attachments[0].filename`).
    pub fn new(field: impl Into<String>, reason: impl Display) -> Self {
        MailError {
            field: field.into(),
            reason: reason.to_string(),
            too_large: false,
        }
    }

    /// The message has more bytes than `max`.
    pub fn too_large(size: usize, max: usize) -> Self {
        MailError {
            field: "message".into(),
            reason: format!("has {size} bytes; at most {max} are accepted"),
            too_large: true,
        }
    }

    /// The field that is wrong.
    pub fn field(&self) -> &str {
        &self.field
    }

    /// What is wrong with it.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// Whether the message is too large.
    pub fn is_too_large(&self) -> bool {
        self.too_large
    }
}

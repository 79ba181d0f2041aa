//! What a template made, on its way into a mail.

use serde::{Deserialize, Serialize};

use super::fingerprint::PartHasher;

/// The template that a mail was made from, as its record keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct TemplateUse {
    /// The template's name.
    pub name: String,
    /// The language that was taken, which may be another one than was asked for.
    #[serde(default)]
    pub locale: Option<String>,
    /// Equal as long as the template's files, and those that it includes, are the same.
    pub hash: String,
}

/// A rendered template: what a mail says, and what it was made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// The subject, where the template has one.
    pub subject: Option<String>,
    /// The body as HTML, where the template has one.
    pub html: Option<String>,
    /// The body as plain text.
    pub text: Option<String>,
    /// What it was made from.
    pub template: TemplateUse,
    /// Equal where the same was asked for: name, data and locale. An idempotency key compares this,
    /// and not what a template, which may have changed meanwhile, made of it.
    pub request: u128,
}

impl Content {
    /// What [`Content::request`] is for these: the name, the locale that is asked for, and the data
    /// in a form that does not depend on the order of its keys.
    pub fn request_of(name: &str, locale: Option<&str>, data: &str) -> u128 {
        let mut print = PartHasher::new();
        print.add(name).add_all(locale.iter()).add(data).finish()
    }
}

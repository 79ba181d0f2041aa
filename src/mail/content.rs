//! A rendered template, to be put into a mail.

use serde::{Deserialize, Serialize};

use super::fingerprint::PartHasher;

/// The template that a mail was made from, as it is stored with the mail.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct TemplateUse {
    /// The template's name.
    pub name: String,
    /// The locale that was used, which may differ from the requested one.
    #[serde(default)]
    pub locale: Option<String>,
    /// A hash of the template's files, including those that it includes.
    pub hash: String,
}

/// A rendered template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// The subject, if the template has one.
    pub subject: Option<String>,
    /// The body as HTML, if the template has one.
    pub html: Option<String>,
    /// The body as plain text.
    pub text: Option<String>,
    /// The template.
    pub template: TemplateUse,
    /// A fingerprint of the request: name, data and locale. It is what an idempotency key compares,
    /// rather than the output of a template that may have changed.
    pub request: u128,
}

impl Content {
    /// The [`Content::request`] of these: the template's name, the requested locale, and the data
    /// in a form that does not depend on the order of keys.
    pub fn request_of(name: &str, locale: Option<&str>, data: &str) -> u128 {
        let mut print = PartHasher::new();
        print.add(name).add_all(locale.iter()).add(data).finish()
    }
}

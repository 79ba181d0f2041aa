//! What a mail says: templates, which become the subject, the HTML and the text of a mail.
//!
//! Whoever builds a mail asks [`Templates`]; `dispatch` keeps them for the doors. A folder is read
//! and checked whole (`folder`, `walk`, `places`), compiled once (`engine`, with `checks`), and
//! what was rendered becomes a document that mail programs show (`document`).
//!
//! *Invariants made here:* nothing of the data breaks out of its place; a render ends, and takes
//! bounded time and memory, whatever the data; a set of templates is in force whole, or not at all.

mod checks;
mod document;
mod engine;
mod folder;
mod locale;
mod mistake;
mod places;
mod template_set;
mod templates;
#[cfg(test)]
mod tests;
mod walk;

pub use locale::is_locale;
pub use mistake::{TemplateError, TemplateMistake, TemplateMistakes};
pub use templates::{TemplateInfo, Templates};

//! Templates, from which a mail's subject, HTML and text are rendered.
//!
//! Applications call [`Templates`]; `dispatch` keeps them for the listeners. A folder is read
//! (`folder`), and each place where a template writes a value into HTML is found and checked
//! (`walk`, `places`); then the templates are compiled (`engine`). At each render, values in
//! dangerous places are checked (`checks`), and the result becomes a document that mail programs
//! can show (`document`).
//!
//! *Invariants:* no value of the data can change the structure of a document; every render ends, in
//! bounded time and memory, whatever the data; a set of templates is used as a whole, or not at
//! all.

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

//! The templates in force: read from a folder, checked whole, and swapped whole.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::mistake::{TemplateError, TemplateMistakes};
use super::template_set::TemplateSet;
use crate::mail::{Content, Mail, MailBuilder};

/// A folder of templates. Cheap to clone; clones share what is in force, so that a reload reaches
/// all.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # std::fs::create_dir(folder.path().join("welcome"))?;
/// # std::fs::write(folder.path().join("welcome/subject.txt"), "Welcome, {{ name }}")?;
/// # std::fs::write(folder.path().join("welcome/body.html"), "<p>Hello {{ name }}</p>")?;
/// # let folder = folder.path();
/// use postrider::Templates;
///
/// let templates = Templates::load(folder, "en")?;
/// let data = serde_json::json!({"name": "Ada & Co"});
/// let mail = templates.mail("welcome", &data, None)?;
/// let mail = mail.from("shop@example.com").to("ada@example.org").build()?;
/// assert_eq!(mail.subject(), "Welcome, Ada & Co");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Default)]
pub struct Templates {
    in_force: Arc<RwLock<Arc<TemplateSet>>>,
}

/// What is known of a template.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct TemplateInfo {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub description: Option<String>,
    /// The languages that it has of its own.
    pub locales: Vec<String>,
    /// The variables that it names, with their dots: `user.name`.
    pub variables: Vec<String>,
    /// Equal as long as its files, and those that it includes, are the same.
    pub hash: String,
    /// Whether it brings data to try it with.
    pub has_sample: bool,
}

impl Templates {
    /// Reads, compiles and checks a folder of templates: every file, and each template with its
    /// sample, if it has one, in every language.
    ///
    /// # Errors
    /// Everything that is wrong, each with its file and line.
    pub fn load(
        folder: impl AsRef<Path>,
        default_locale: &str,
    ) -> Result<Templates, TemplateMistakes> {
        let compiled = TemplateSet::load(folder.as_ref(), default_locale)?;
        Ok(Templates {
            in_force: Arc::new(RwLock::new(Arc::new(compiled))),
        })
    }

    /// Reads the folder again and puts it in force, whole.
    ///
    /// # Errors
    /// As [`Templates::load`]; what was in force stays so.
    pub fn reload(&self) -> Result<(), TemplateMistakes> {
        let now = self.now();
        if now.engine.is_some() {
            let again = TemplateSet::load(&now.root, &now.default_locale)?;
            *self.in_force.write() = Arc::new(again);
        }
        Ok(())
    }

    /// Puts others in force instead, whole.
    pub fn replace(&self, others: &Templates) {
        let others = others.now();
        *self.in_force.write() = others;
    }

    /// All of them, by name.
    pub fn list(&self) -> Vec<TemplateInfo> {
        let now = self.now();
        now.templates.values().map(|one| one.info.clone()).collect()
    }

    /// Renders a template with this data, in this language or the nearest to it that there is.
    ///
    /// # Errors
    /// There is no such template; the data is no object or is too much; a variable is missing; or
    /// something in the template fails for this data.
    pub fn render(
        &self,
        name: &str,
        data: impl Serialize,
        locale: Option<&str>,
    ) -> Result<Content, TemplateError> {
        let data = serde_json::to_value(data)
            .map_err(|error| TemplateError::Data(format!("is not JSON: {error}")))?;
        self.now().render(name, data, locale)
    }

    /// Renders a template with the sample that it brings.
    ///
    /// # Errors
    /// As [`Templates::render`].
    pub fn render_sample(
        &self,
        name: &str,
        locale: Option<&str>,
    ) -> Result<Content, TemplateError> {
        let now = self.now();
        let data = now.sample(name, locale)?.unwrap_or_default();
        now.render(name, Value::Object(data), locale)
    }

    /// A mail that says what the template makes of the data; addresses are still to be given.
    ///
    /// # Errors
    /// As [`Templates::render`].
    pub fn mail(
        &self,
        name: &str,
        data: impl Serialize,
        locale: Option<&str>,
    ) -> Result<MailBuilder, TemplateError> {
        Ok(Mail::builder().content(self.render(name, data, locale)?))
    }

    fn now(&self) -> Arc<TemplateSet> {
        Arc::clone(&self.in_force.read())
    }
}

impl fmt::Debug for Templates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let now = self.now();
        f.debug_struct("Templates")
            .field("root", &now.root)
            .field("names", &now.templates.keys().collect::<Vec<_>>())
            .finish()
    }
}

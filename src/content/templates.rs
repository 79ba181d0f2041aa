//! The templates in use: loaded from a folder, checked and replaced as a whole.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::mistake::{TemplateError, TemplateMistakes};
use super::template_set::TemplateSet;
use crate::mail::{Content, Mail, MailBuilder};

/// A folder of templates. Cheap to clone; clones share the templates, so that a reload reaches all
/// of them.
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

/// A template's description.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct TemplateInfo {
    /// Its name.
    pub name: String,
    /// Its description.
    pub description: Option<String>,
    /// The locales that it has files for.
    pub locales: Vec<String>,
    /// The variables that it uses, with their dots: `user.name`.
    pub variables: Vec<String>,
    /// A hash of its files and of those that it includes.
    pub hash: String,
    /// Whether it has sample data.
    pub has_sample: bool,
}

impl Templates {
    /// Reads, compiles and checks a folder of templates: every file, and each template with its
    /// sample, if it has one, in every language.
    ///
    /// # Errors
    /// All mistakes, each with its file and line.
    pub fn load(
        folder: impl AsRef<Path>,
        default_locale: &str,
    ) -> Result<Templates, TemplateMistakes> {
        let compiled = TemplateSet::load(folder.as_ref(), default_locale)?;
        Ok(Templates {
            in_force: Arc::new(RwLock::new(Arc::new(compiled))),
        })
    }

    /// Loads the folder again, and uses its templates from now on.
    ///
    /// # Errors
    /// As [`Templates::load`]; then the old templates stay in use.
    pub fn reload(&self) -> Result<(), TemplateMistakes> {
        let now = self.now();
        if now.engine.is_some() {
            let again = TemplateSet::load(&now.root, &now.default_locale)?;
            *self.in_force.write() = Arc::new(again);
        }
        Ok(())
    }

    /// Uses other templates from now on.
    pub fn replace(&self, others: &Templates) {
        let others = others.now();
        *self.in_force.write() = others;
    }

    /// All templates, by name.
    pub fn list(&self) -> Vec<TemplateInfo> {
        let now = self.now();
        now.templates.values().map(|one| one.info.clone()).collect()
    }

    /// Renders a template with this data, in this locale or the nearest that the template has.
    ///
    /// # Errors
    /// If there is no such template; if the data is not an object or is too large; if a variable is
    /// missing, or the template fails for this data in another way.
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

    /// Renders a template with its sample data.
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

    /// A mail with the rendered subject and body; its addresses are still to be set.
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

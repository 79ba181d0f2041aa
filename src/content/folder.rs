//! Reads a folder of templates: `NAME/{subject.txt,body.html|body.mjml,body.txt,template.toml}`,
//! `NAME/LOCALE/` with the same files, and `layouts/` and `partials/`, which all templates may use.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};

use super::locale;
use super::mistake::TemplateMistake;

/// The largest file of a template, in bytes.
const LARGEST_FILE: u64 = 1024 * 1024;
/// How deep folders below `layouts` and `partials` may be nested.
const DEEPEST_FOLDER: usize = 8;
/// The folders that are not templates.
const SHARED_FOLDERS: [&str; 2] = ["layouts", "partials"];
/// The longest name of a template, in bytes.
const LONGEST_NAME: usize = 100;

/// The contents of a folder.
#[derive(Debug, Default)]
pub(super) struct Folder {
    /// Every file that can be rendered or included, by its path below the folder.
    pub files: BTreeMap<String, String>,
    /// The templates by name.
    pub templates: BTreeMap<String, TemplateSources>,
    /// The mistakes in it.
    pub mistakes: Vec<TemplateMistake>,
}

/// One template's files, by locale; those without a locale under the empty one.
#[derive(Debug, Default)]
pub(super) struct TemplateSources {
    pub description: Option<String>,
    pub variants: BTreeMap<String, Variant>,
}

/// The files of one locale.
#[derive(Debug, Default)]
pub(super) struct Variant {
    /// The locale as the folder spells it; `None` for the template's own files.
    pub locale: Option<String>,
    pub subject: Option<String>,
    pub html: Option<Html>,
    pub text: Option<String>,
    pub defaults: Map<String, Value>,
    pub sample: Option<Map<String, Value>>,
}

/// The file of the HTML part.
#[derive(Clone, Debug)]
pub(super) struct Html {
    pub file: String,
    pub is_mjml: bool,
}

impl Variant {
    pub fn has_body(&self) -> bool {
        self.html.is_some() || self.text.is_some()
    }
}

/// The contents of a `template.toml`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct TemplateSettings {
    /// A description, shown in lists.
    description: Option<String>,
    /// The values of variables that the data does not have.
    defaults: Map<String, Value>,
    /// Sample data.
    sample: Option<Map<String, Value>>,
}

impl Folder {
    /// Reads the whole folder; mistakes are in `mistakes`.
    pub fn read(root: &Path) -> Self {
        let mut folder = Folder::default();
        for entry in folder.entries(root) {
            if !entry.path.is_dir() {
                continue;
            }
            if SHARED_FOLDERS.contains(&entry.name.as_str()) {
                folder.read_shared(&entry.path, &entry.name, 0);
            } else if is_name(&entry.name) {
                folder.read_template(&entry);
            } else {
                folder.wrong(
                    &entry.path,
                    format!(
                        "is no name for a template: 1 to {LONGEST_NAME} letters, digits, `-`, `_` \
                         and `.`"
                    ),
                );
            }
        }

        folder
    }

    fn read_template(&mut self, entry: &FolderEntry) {
        let mut sources = TemplateSources::default();
        let base = self.read_variant(&entry.path, &entry.name, None, &mut sources);
        sources.variants.insert(String::new(), base);

        for inner in self.entries(&entry.path) {
            if !inner.path.is_dir() {
                continue;
            }
            let Some(locale) = locale::normal(&inner.name) else {
                self.wrong(&inner.path, "is not named as a locale, such as en or pt-BR");
                continue;
            };
            let place = format!("{}/{}", entry.name, inner.name);
            let variant = self.read_variant(&inner.path, &place, Some(inner.name), &mut sources);
            if sources.variants.insert(locale, variant).is_some() {
                self.wrong(&inner.path, "is a locale that exists twice");
            }
        }

        let files = |variant: &Variant| variant.has_body() || variant.subject.is_some();
        if !sources.variants.values().any(files) {
            return self.wrong(
                &entry.path,
                "has neither subject.txt nor body.html, body.mjml or body.txt",
            );
        }

        self.templates.insert(entry.name.clone(), sources);
    }

    fn read_variant(
        &mut self,
        path: &Path,
        place: &str,
        locale: Option<String>,
        sources: &mut TemplateSources,
    ) -> Variant {
        let mut variant = Variant {
            locale,
            ..Variant::default()
        };

        for entry in self.entries(path) {
            if entry.path.is_dir() {
                continue;
            }
            let file = format!("{place}/{}", entry.name);
            match entry.name.as_str() {
                "subject.txt" if self.take(&entry.path, &file) => variant.subject = Some(file),
                "body.txt" if self.take(&entry.path, &file) => variant.text = Some(file),
                "body.html" | "body.mjml" if variant.html.is_some() => {
                    self.wrong(&entry.path, "exists beside body.html: keep one of them");
                }
                "body.html" | "body.mjml" if self.take(&entry.path, &file) => {
                    variant.html = Some(Html {
                        is_mjml: entry.name == "body.mjml",
                        file,
                    });
                }
                "template.toml" => self.read_settings(&entry.path, &mut variant, sources),
                "subject.txt" | "body.txt" | "body.html" | "body.mjml" => {}
                other
                    if ["subject.", "body.", "template."]
                        .iter()
                        .any(|p| other.starts_with(p)) =>
                {
                    self.wrong(
                        &entry.path,
                        "is not one of subject.txt, body.html, body.mjml, body.txt and \
                         template.toml",
                    );
                }
                _ => {}
            }
        }

        variant
    }

    fn read_settings(&mut self, path: &Path, variant: &mut Variant, sources: &mut TemplateSources) {
        let Some(text) = self.text(path) else { return };
        match toml::from_str::<TemplateSettings>(&text) {
            Ok(settings) => {
                variant.defaults = settings.defaults;
                variant.sample = settings.sample;
                if variant.locale.is_none() {
                    sources.description = settings.description;
                }
            }
            Err(error) => self.mistakes.push(TemplateMistake {
                file: path.to_owned(),
                line: error.span().map(|span| line_at(&text, span.start)),
                reason: error.message().to_owned(),
            }),
        }
    }

    /// Reads files that all templates may include.
    fn read_shared(&mut self, path: &Path, place: &str, depth: usize) {
        for entry in self.entries(path) {
            let below = format!("{place}/{}", entry.name);
            if !entry.path.is_dir() {
                self.take(&entry.path, &below);
            } else if depth < DEEPEST_FOLDER {
                self.read_shared(&entry.path, &below, depth + 1);
            } else {
                self.wrong(&entry.path, "is nested too deep");
            }
        }
    }

    /// Reads a file that can be rendered.
    fn take(&mut self, path: &Path, name: &str) -> bool {
        match self.text(path) {
            Some(text) => {
                self.files.insert(name.to_owned(), text);
                true
            }
            None => false,
        }
    }

    fn text(&mut self, path: &Path) -> Option<String> {
        let read = fs::metadata(path).and_then(|found| match found.len() {
            // A pipe or a device might never end.
            _ if !found.is_file() => Err(std::io::Error::other("is not a file")),
            0..=LARGEST_FILE => fs::read(path),
            _ => Err(std::io::Error::other(format!(
                "has more than {LARGEST_FILE} bytes"
            ))),
        });

        match read.map(String::from_utf8) {
            Ok(Ok(text)) => {
                // Editors on Windows write a byte order mark, which must not get into a mail.
                Some(
                    text.strip_prefix('\u{feff}')
                        .map(str::to_owned)
                        .unwrap_or(text),
                )
            }
            Ok(Err(_)) => {
                self.wrong(path, "is not text in UTF-8");
                None
            }
            Err(error) => {
                self.wrong(path, format!("cannot be read: {error}"));
                None
            }
        }
    }

    /// The entries of a folder, except hidden files, in the order of their names.
    fn entries(&mut self, path: &Path) -> Vec<FolderEntry> {
        let listed = fs::read_dir(path).and_then(|found| found.collect::<Result<Vec<_>, _>>());
        let found = match listed {
            Ok(found) => found,
            Err(error) => {
                self.wrong(path, format!("cannot be read: {error}"));
                return Vec::new();
            }
        };

        let mut entries = Vec::new();
        for one in found {
            match one.file_name().into_string() {
                Ok(name) if name.starts_with('.') || name.ends_with('~') => {}
                Ok(name) => entries.push(FolderEntry {
                    path: one.path(),
                    name,
                }),
                Err(_) => self.wrong(&one.path(), "has a name that is not UTF-8"),
            }
        }

        entries.sort_by(|a, b| a.name.cmp(&b.name));
        entries
    }

    fn wrong(&mut self, path: &Path, reason: impl Into<String>) {
        self.mistakes.push(TemplateMistake {
            file: path.to_owned(),
            line: None,
            reason: reason.into(),
        });
    }
}

struct FolderEntry {
    path: PathBuf,
    name: String,
}

fn is_name(name: &str) -> bool {
    name.len() <= LONGEST_NAME
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

/// The line of this byte, counted from 1.
pub(super) fn line_at(text: &str, offset: usize) -> usize {
    let before = text.as_bytes().iter().take(offset);
    before.filter(|byte| **byte == b'\n').count() + 1
}

//! A folder's templates, compiled. A set is checked as a whole when it is loaded, and never
//! changes; `templates` replaces it by another.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use minijinja::value::Serde;
use ring::digest::{Context, SHA256};
use serde_json::{Map, Value};

use super::engine::{OutputKind, TemplateEngine};
use super::folder::{Folder, Html, TemplateSources, Variant};
use super::mistake::{TemplateError, TemplateMistake, TemplateMistakes};
use super::templates::TemplateInfo;
use super::{document, locale, walk};
use crate::mail::{Content, TemplateUse};

/// The most bytes of one mail's data, as JSON.
const MAX_DATA: usize = 1024 * 1024;
/// How many bytes of a template's digest are its hash.
const HASH_BYTES: usize = 8;

/// A set of templates, compiled.
#[derive(Default)]
pub(super) struct TemplateSet {
    pub root: PathBuf,
    pub default_locale: String,
    pub engine: Option<TemplateEngine>,
    pub templates: BTreeMap<String, Template>,
}

pub(super) struct Template {
    sources: TemplateSources,
    pub info: TemplateInfo,
}

/// The sources of a mail's parts for one locale.
struct LocaleParts<'a> {
    subject: Option<&'a str>,
    body: Option<&'a Variant>,
    locale: Option<String>,
}

impl TemplateSet {
    pub(super) fn load(root: &Path, default_locale: &str) -> Result<Self, TemplateMistakes> {
        let mut folder = Folder::read(root);
        let mut walked = walk::walk(&folder.files);
        let misplaced = std::mem::take(&mut walked.mistakes);
        let (engine, errors) = TemplateEngine::compile(&folder.files, walked);
        let mut mistakes = std::mem::take(&mut folder.mistakes);
        mistakes.extend(errors.into_iter().map(|error| in_file(root, root, error)));
        let default_locale = locale::normal(default_locale).unwrap_or_default();

        let mut compiled = TemplateSet {
            root: root.to_owned(),
            default_locale,
            engine: Some(engine),
            templates: BTreeMap::new(),
        };

        let mut references = BTreeMap::new();
        for (file, source) in &folder.files {
            references.insert(file.clone(), included(source));
        }

        for (file, names) in &references {
            for (line, name) in names {
                if !folder.files.contains_key(name) {
                    mistakes.push(TemplateMistake {
                        file: root.join(file),
                        line: Some(*line),
                        reason: format!("there is no {name} in the folder of templates"),
                    });
                }
            }
        }

        for (file, line, reason) in misplaced {
            mistakes.push(TemplateMistake {
                file: root.join(file),
                line: Some(line),
                reason,
            });
        }

        for (name, sources) in std::mem::take(&mut folder.templates) {
            let info = compiled.info(&name, &sources, &folder.files, &references);
            compiled.templates.insert(name, Template { sources, info });
        }

        if mistakes.is_empty() {
            mistakes = compiled.try_samples();
        }
        if mistakes.is_empty() {
            Ok(compiled)
        } else {
            Err(TemplateMistakes(mistakes))
        }
    }

    fn info(
        &self,
        name: &str,
        sources: &TemplateSources,
        files: &BTreeMap<String, String>,
        references: &BTreeMap<String, Vec<(usize, String)>>,
    ) -> TemplateInfo {
        let mut used: BTreeSet<String> = BTreeSet::new();
        let mut open: Vec<String> = sources.variants.values().flat_map(own_files).collect();
        while let Some(file) = open.pop() {
            let inner = references.get(&file).into_iter().flatten();
            open.extend(
                inner
                    .map(|(_, name)| name.clone())
                    .filter(|name| !used.contains(name)),
            );
            used.insert(file);
        }

        let mut digest = Context::new(&SHA256);
        let mut variables = BTreeSet::new();
        for file in &used {
            for part in [file.as_str(), files.get(file).map_or("", String::as_str)] {
                digest.update(&(part.len() as u64).to_le_bytes());
                digest.update(part.as_bytes());
            }
            if let Some(engine) = &self.engine {
                variables.extend(engine.variables(file));
            }
        }

        for (locale, variant) in &sources.variants {
            let defaults = serde_json::to_string(&variant.defaults).unwrap_or_default();
            digest.update(format!("{locale}={defaults}\n").as_bytes());
        }

        // Of `user.name` and `user` only the former is listed.
        let all = variables.clone();
        let is_part = |one: &String| {
            all.iter()
                .any(|other| other.starts_with(&format!("{one}.")))
        };
        variables.retain(|one| !is_part(one) && !BUILT_IN_NAMES.contains(&one.as_str()));

        let hash = digest.finish();
        TemplateInfo {
            name: name.to_owned(),
            description: sources.description.clone(),
            locales: sources
                .variants
                .values()
                .filter_map(|one| one.locale.clone())
                .collect(),
            variables: variables.into_iter().collect(),
            hash: hash.as_ref()[..HASH_BYTES]
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect(),
            has_sample: sources.variants.values().any(|one| one.sample.is_some()),
        }
    }

    /// The mistakes that show when each template is rendered with its sample.
    fn try_samples(&self) -> Vec<TemplateMistake> {
        let mut mistakes: Vec<TemplateMistake> = Vec::new();
        for (name, template) in &self.templates {
            let own = self.root.join(name);
            let locales = template
                .sources
                .variants
                .values()
                .map(|one| one.locale.as_deref());
            for locale in locales {
                let chosen = self.choose(template, locale.and_then(locale::normal).as_deref());
                if chosen.body.is_none() {
                    let reason = match locale {
                        Some(locale) => format!("has no body in {locale}, nor one to use instead"),
                        None => "has no body to use for locales that it does not have".to_owned(),
                    };
                    mistakes.push(TemplateMistake {
                        file: own.clone(),
                        line: None,
                        reason,
                    });
                    continue;
                }
                let Ok(Some(sample)) = self.sample(name, locale) else {
                    continue;
                };
                if let Err(error) = self.render(name, Value::Object(sample), locale) {
                    let mistake = in_file(&self.root, &own.join("template.toml"), error);
                    if !mistakes.contains(&mistake) {
                        mistakes.push(mistake);
                    }
                }
            }
        }

        mistakes
    }

    /// A template's sample for this locale, merged from all its variants; the nearest locale wins.
    pub(super) fn sample(
        &self,
        name: &str,
        locale: Option<&str>,
    ) -> Result<Option<Map<String, Value>>, TemplateError> {
        let template = self.template(name)?;
        let mut sample = None;
        for variant in self
            .variants(template, asked(locale)?.as_deref())
            .iter()
            .rev()
        {
            if let Some(given) = &variant.sample {
                merge(sample.get_or_insert_with(Map::new), given);
            }
        }
        Ok(sample)
    }

    pub(super) fn render(
        &self,
        name: &str,
        data: Value,
        locale: Option<&str>,
    ) -> Result<Content, TemplateError> {
        let template = self.template(name)?;
        let data = match data {
            Value::Object(data) => data,
            Value::Null => Map::new(),
            _ => return Err(TemplateError::Data("is not an object".to_owned())),
        };

        let written = in_order(&Value::Object(data.clone()));
        if written.len() > MAX_DATA {
            let reason = format!("has {} bytes, and {MAX_DATA} are the most", written.len());
            return Err(TemplateError::Data(reason));
        }

        let request = Content::request_of(name, locale, &written);
        let locale = asked(locale)?;
        let chosen = self.choose(template, locale.as_deref());

        let mut context = Map::new();
        context.insert("locale".to_owned(), chosen.locale.clone().into());
        for variant in self.variants(template, locale.as_deref()).iter().rev() {
            merge(&mut context, &variant.defaults);
        }
        merge(&mut context, &data);
        let context = minijinja::Value::from(Serde(&context));

        let subject = chosen
            .subject
            .map(|file| self.part(file, OutputKind::Text, &context));
        let subject = subject.transpose()?.map(|subject| one_line(&subject));
        let html = chosen.body.and_then(|body| body.html.as_ref());
        let html = html.map(|html| self.html(html, &context)).transpose()?;

        let text = chosen.body.and_then(|body| body.text.as_deref());
        let text = match (text, &html) {
            (Some(file), _) => Some(self.part(file, OutputKind::Text, &context)?),
            (None, Some((file, html))) => {
                Some(document::as_text(html).map_err(|reason| failed(file, reason))?)
            }
            (None, None) => None,
        };

        Ok(Content {
            subject,
            html: html.map(|(_, html)| html),
            text,
            template: TemplateUse {
                name: name.to_owned(),
                locale: chosen.locale,
                hash: template.info.hash.clone(),
            },
            request,
        })
    }

    fn html<'a>(
        &self,
        source: &'a Html,
        context: &minijinja::Value,
    ) -> Result<(&'a str, String), TemplateError> {
        let file = source.file.as_str();
        let rendered = self.part(file, OutputKind::Html, context)?;
        let html = if source.is_mjml {
            document::from_mjml(&rendered)
        } else {
            document::with_css_inlined(rendered)
        };
        Ok((file, html.map_err(|reason| failed(file, reason))?))
    }

    fn part(
        &self,
        file: &str,
        kind: OutputKind,
        context: &minijinja::Value,
    ) -> Result<String, TemplateError> {
        match &self.engine {
            Some(engine) => engine.render(file, kind, context),
            None => Err(failed(file, "there are no templates".to_owned())),
        }
    }

    fn template(&self, name: &str) -> Result<&Template, TemplateError> {
        let found = self.templates.get(name);
        found.ok_or_else(|| TemplateError::Unknown(name.chars().take(100).collect()))
    }

    /// The variants to use for a locale, the nearest first.
    fn variants<'a>(&self, template: &'a Template, locale: Option<&str>) -> Vec<&'a Variant> {
        let variants = &template.sources.variants;
        let chain = locale::chain(locale, &self.default_locale);
        let chain = chain.iter().map(String::as_str).chain([""]);
        chain.filter_map(|locale| variants.get(locale)).collect()
    }

    /// The subject and the body for a locale, each from the nearest variant that has one. HTML and
    /// text come from the same variant, so that a mail has one language.
    fn choose<'a>(&self, template: &'a Template, locale: Option<&str>) -> LocaleParts<'a> {
        let variants = self.variants(template, locale);
        let body = variants.iter().find(|one| one.has_body()).copied();
        let shown = body.or(variants.first().copied());
        let default = (!self.default_locale.is_empty()).then(|| self.default_locale.clone());
        LocaleParts {
            subject: variants.iter().find_map(|one| one.subject.as_deref()),
            body,
            locale: shown.and_then(|one| one.locale.clone()).or(default),
        }
    }
}

/// Names in templates that are not variables.
const BUILT_IN_NAMES: [&str; 7] = [
    "locale",
    "range",
    "dict",
    "namespace",
    "debug",
    "lipsum",
    "super",
];

/// The requested locale in the form in which locales are compared.
fn asked(locale: Option<&str>) -> Result<Option<String>, TemplateError> {
    let Some(given) = locale else { return Ok(None) };
    match locale::normal(given) {
        Some(locale) => Ok(Some(locale)),
        None => Err(TemplateError::Locale(given.chars().take(50).collect())),
    }
}

fn own_files(variant: &Variant) -> Vec<String> {
    let html = variant.html.as_ref().map(|html| html.file.clone());
    let others = [&variant.subject, &variant.text]
        .into_iter()
        .flatten()
        .cloned();
    html.into_iter().chain(others).collect()
}

/// The files that a source names in `include`, `extends`, `import` and `from`, each with the line.
fn included(source: &str) -> Vec<(usize, String)> {
    let source = &without_comments(source);
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(start) = source[at..].find("{%").map(|start| at + start + 2) {
        let end = source[start..]
            .find("%}")
            .map_or(source.len(), |end| start + end);
        let block = source[start..end].trim_start_matches(['-', '+']).trim();
        at = end;
        let Some((word, rest)) = block.split_once(char::is_whitespace) else {
            continue;
        };
        let is_lenient = rest.contains("ignore missing");
        if !["include", "extends", "import", "from"].contains(&word) || is_lenient {
            continue;
        }
        let rest = rest.trim_start();
        let quote = rest.chars().next().filter(|c| *c == '"' || *c == '\'');
        if let Some((name, after)) = quote.and_then(|quote| rest[1..].split_once(quote))
            && !after.trim_start().starts_with(['~', '|', '+'])
        {
            found.push((super::folder::line_at(source, start), name.to_owned()));
        }
    }

    found
}

/// The source without comments (`{# #}`), with the same line numbers.
fn without_comments(source: &str) -> String {
    let mut rest = source;
    let mut kept = String::with_capacity(source.len());
    while let Some((before, comment)) = rest.split_once("{#") {
        kept.push_str(before);
        let (inside, after) = comment.split_once("#}").unwrap_or((comment, ""));
        kept.extend(inside.chars().filter(|c| *c == '\n'));
        rest = after;
    }
    kept.push_str(rest);
    kept
}

/// Merges `over` into `below`: objects are merged, everything else is replaced.
fn merge(below: &mut Map<String, Value>, over: &Map<String, Value>) {
    for (key, value) in over {
        match (below.get_mut(key), value) {
            (Some(Value::Object(below)), Value::Object(over)) => merge(below, over),
            _ => {
                below.insert(key.clone(), value.clone());
            }
        }
    }
}

/// JSON with sorted keys, so that equal data has equal text.
fn in_order(value: &Value) -> String {
    match value {
        Value::Object(fields) => {
            let mut keys: Vec<&String> = fields.keys().collect();
            keys.sort_unstable();
            let fields = keys.into_iter().map(|key| {
                let name = Value::from(key.as_str());
                format!("{name}:{}", in_order(&fields[key]))
            });
            format!("{{{}}}", fields.collect::<Vec<_>>().join(","))
        }
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(in_order).collect();
            format!("[{}]", items.join(","))
        }
        other => other.to_string(),
    }
}

/// A subject as one line: line ends and other white space become single spaces.
fn one_line(subject: &str) -> String {
    let is_space = |c: char| c.is_control() || c.is_whitespace();
    let words = subject.split(is_space).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join(" ")
}

fn failed(file: &str, reason: String) -> TemplateError {
    TemplateError::Render {
        file: file.to_owned(),
        line: None,
        variable: None,
        reason,
    }
}

/// An error as a mistake in a file; in `otherwise` if the error names no file.
fn in_file(root: &Path, otherwise: &Path, error: TemplateError) -> TemplateMistake {
    match error {
        TemplateError::Render {
            file, line, reason, ..
        } => TemplateMistake {
            file: root.join(file),
            line,
            reason,
        },
        other => TemplateMistake {
            file: otherwise.to_owned(),
            line: None,
            reason: other.to_string(),
        },
    }
}

//! `postrider template`: lists, checks and renders templates.
//!
//! `check` reads the files themselves, so that mistakes are found before a service uses them;
//! `list` and `render` ask the service, or with `--config` read the files too.

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::service::Payload;
use super::{Failure, ServiceArgs, send};
use crate::cli::ConfigFile;
use crate::cli::screen::{ColumnFit, Screen, escaped, plain};
use crate::config::{Mistake, Mistakes, Settings, Sources};
use crate::content::{TemplateError, TemplateInfo, TemplateMistake, Templates};
use crate::mail::Content;

/// `postrider template`.
#[derive(Subcommand)]
pub enum TemplateCommand {
    /// List the templates and the variables that each needs
    List(ListTemplates),
    /// Check the templates' files for mistakes
    Check(CheckTemplates),
    /// Render a template and print it; nothing is sent
    Render(Render),
}

/// `postrider template list`.
#[derive(Args)]
pub struct ListTemplates {
    #[command(flatten)]
    files: Files,
    #[command(flatten)]
    asking: ServiceArgs,
}

/// `postrider template check`.
#[derive(Args)]
pub struct CheckTemplates {
    #[command(flatten)]
    file: ConfigFile,
    /// The folder of templates, instead of the one in the configuration
    #[arg(value_name = "FOLDER", conflicts_with = "config")]
    folder: Option<std::path::PathBuf>,
    /// Print the findings as JSON
    #[arg(long)]
    json: bool,
}

/// `postrider template render`.
#[derive(Args)]
pub struct Render {
    /// The template
    name: String,
    /// The template's data, as JSON: an object, @FILE, or `-` for standard input; its own sample
    /// when absent
    #[arg(long, value_name = "JSON")]
    data: Option<String>,
    /// The language, such as pt-BR; the closest one that exists is used
    #[arg(long, value_name = "LOCALE")]
    locale: Option<String>,
    /// Print only this part, unchanged
    #[arg(long, value_enum, value_name = "PART")]
    part: Option<OutputPart>,
    #[command(flatten)]
    files: Files,
    #[command(flatten)]
    asking: ServiceArgs,
}

/// Reads the files instead of asking a service.
#[derive(Args)]
struct Files {
    /// Read the files that this configuration names, instead of asking the service
    #[arg(long, value_name = "FILE")]
    config: Option<std::path::PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum OutputPart {
    Subject,
    Html,
    Text,
}

/// The service's answer with its templates.
#[derive(Deserialize, Serialize)]
struct TemplateNames {
    templates: Vec<TemplateInfo>,
}

/// The service's answer with a rendered template.
#[derive(Deserialize, Serialize)]
struct Rendered {
    name: String,
    locale: Option<String>,
    hash: String,
    subject: Option<String>,
    html: Option<String>,
    text: Option<String>,
}

/// The findings as `--json` prints them.
#[derive(Serialize)]
struct TemplateFindings {
    ok: bool,
    templates: usize,
    mistakes: Vec<TemplateMistake>,
}

impl TemplateCommand {
    pub(super) fn run(self, screen: &mut Screen) -> Result<ExitCode, Failure> {
        match self {
            TemplateCommand::List(list) => list.run(screen),
            TemplateCommand::Check(check) => check.run(screen),
            TemplateCommand::Render(render) => render.run(screen),
        }
    }
}

impl ListTemplates {
    fn run(self, screen: &mut Screen) -> Result<ExitCode, Failure> {
        let listed = match self.files.templates()? {
            Some(templates) => TemplateNames {
                templates: templates.list(),
            },
            None => {
                let client = self.asking.service.client()?;
                client.get(&["v1", "templates"], &vec![])?.decode()?
            }
        };

        if self.asking.json {
            print_json(&listed, screen)?;
            return Ok(ExitCode::SUCCESS);
        }

        let row = |one: &TemplateInfo| {
            vec![
                plain(&one.name),
                plain(one.locales.join(" ")),
                plain(one.variables.join(" ")),
                plain(one.description.as_deref().unwrap_or_default()),
            ]
        };

        let rows = listed.templates.iter().map(row).collect();
        screen.table(
            &["NAME", "LOCALES", "VARIABLES", "FOR"],
            rows,
            ColumnFit::Wrap,
        )?;

        Ok(ExitCode::SUCCESS)
    }
}

impl CheckTemplates {
    fn run(self, screen: &mut Screen) -> Result<ExitCode, Failure> {
        let (folder, locale) = match self.folder {
            Some(folder) => (folder, "en".to_owned()),
            None => {
                let sources = self.file.sources();
                configured(&sources)?
            }
        };

        let (templates, mistakes) = match Templates::load(&folder, &locale) {
            Ok(templates) => (templates.list().len(), Vec::new()),
            Err(mistakes) => (0, mistakes.0),
        };

        let ok = mistakes.is_empty();
        if self.json {
            let findings = TemplateFindings {
                ok,
                templates,
                mistakes,
            };
            print_json(&findings, screen)?;
        } else if ok {
            let folder = folder.display();
            screen.line(&[plain(format_args!(
                "{folder}: no mistakes found (templates: {templates})"
            ))])?;
        } else {
            return Err(as_mistakes(mistakes).into());
        }

        Ok(if ok {
            ExitCode::SUCCESS
        } else {
            ExitCode::from(2)
        })
    }
}

impl Render {
    fn run(self, screen: &mut Screen) -> Result<ExitCode, Failure> {
        let given = self.data.as_deref().map(data).transpose()?;
        let rendered = match self.files.templates()? {
            Some(templates) => {
                let locale = self.locale.as_deref();
                let content = match given {
                    Some(given) => templates.render(&self.name, given, locale),
                    None => templates.render_sample(&self.name, locale),
                };
                Rendered::of(content.map_err(failed)?)
            }
            None => {
                let mut request = Map::new();
                request.extend(given.map(|given| ("data".to_owned(), given)));
                request.extend(
                    self.locale
                        .map(|locale| ("locale".to_owned(), locale.into())),
                );
                let client = self.asking.service.client()?;
                let path = ["v1", "templates", &self.name, "render"];
                let payload = Payload::Json(Value::Object(request));
                client.post(&path, &vec![], payload)?.decode()?
            }
        };

        if let Some(part) = self.part {
            let text = match part {
                OutputPart::Subject => rendered.subject,
                OutputPart::Html => rendered.html,
                OutputPart::Text => rendered.text,
            };
            let missing = || Failure::Failed("the template has no such part".to_owned());
            screen.message(text.ok_or_else(missing)?.as_bytes())?;
            return Ok(ExitCode::SUCCESS);
        }

        if self.asking.json {
            print_json(&rendered, screen)?;
            return Ok(ExitCode::SUCCESS);
        }

        let subject = rendered.subject.unwrap_or_default();
        screen.line(&[plain(format_args!("Subject: {subject}"))])?;
        for part in [rendered.text, rendered.html].into_iter().flatten() {
            screen.line(&[plain("")])?;
            for line in part.lines() {
                screen.line(&[plain(line)])?;
            }
        }

        Ok(ExitCode::SUCCESS)
    }
}

impl Rendered {
    fn of(content: Content) -> Self {
        Rendered {
            name: content.template.name,
            locale: content.template.locale,
            hash: content.template.hash,
            subject: content.subject,
            html: content.html,
            text: content.text,
        }
    }
}

impl Files {
    /// The templates that the configuration names; `None` if the service is to be asked.
    fn templates(&self) -> Result<Option<Templates>, Failure> {
        let Some(file) = &self.config else {
            return Ok(None);
        };
        let (folder, locale) = configured(&Sources::of_process(Some(file.clone())))?;
        let loaded = Templates::load(&folder, &locale);
        Ok(Some(loaded.map_err(|mistakes| as_mistakes(mistakes.0))?))
    }
}

/// Reads a template's data: JSON, or a file with JSON.
pub(super) fn data(given: &str) -> Result<Value, Failure> {
    let text = match (given, given.strip_prefix('@')) {
        ("-", _) => send::read(Path::new("-"))?,
        (_, Some(file)) => fs::read(file)
            .map_err(|error| Failure::Failed(format!("cannot read {}: {error}", escaped(file))))?,
        (text, None) => text.as_bytes().to_vec(),
    };
    match serde_json::from_slice(&text) {
        Ok(data @ Value::Object(_)) => Ok(data),
        Ok(_) => Err(Failure::Usage("--data is not a JSON object".to_owned())),
        Err(error) => Err(Failure::Usage(format!("--data is not JSON: {error}"))),
    }
}

/// The folder that the configuration names, and its default locale.
fn configured(sources: &Sources) -> Result<(std::path::PathBuf, String), Failure> {
    let templates = Settings::templates(sources)?;
    let missing = || Failure::Usage("the configuration has no templates.path".to_owned());
    Ok((
        templates.path.ok_or_else(missing)?,
        templates.default_locale,
    ))
}

/// Mistakes in templates in the form of mistakes in the configuration.
fn as_mistakes(mistakes: Vec<TemplateMistake>) -> Mistakes {
    let as_mistake = |mistake: TemplateMistake| Mistake {
        source: match mistake.line {
            Some(line) => format!("{}:{line}", mistake.file.display()),
            None => mistake.file.display().to_string(),
        },
        path: String::new(),
        reason: mistake.reason,
    };
    Mistakes(mistakes.into_iter().map(as_mistake).collect())
}

fn failed(error: TemplateError) -> Failure {
    Failure::Failed(error.to_string())
}

fn print_json(value: &impl Serialize, screen: &mut Screen) -> Result<(), Failure> {
    let text = serde_json::to_vec(&json!(value)).map_err(|e| Failure::Failed(e.to_string()))?;
    Ok(screen.json(&text)?)
}

//! The template language: compiles templates and renders them, bounded in time, memory and output.
//! `template_set` calls it.
//!
//! There are two environments over the same files: in one all data is escaped for HTML, in the
//! other it is not. The part of the mail that is rendered decides which one is used, not the file:
//! so the same partial is escaped in HTML and not escaped in a subject.

use std::collections::BTreeMap;
use std::io;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{
    AutoEscape, Environment, Error, ErrorKind, Output, State, UndefinedBehavior, escape_formatter,
};

use super::checks::{self, UnfitValue};
use super::mistake::TemplateError;
use super::walk::{FILTER, WalkResult};

/// How much one render may do: about this many instructions, and at most 64 bytes of memory for
/// each.
const FUEL: u64 = 1_000_000;
/// How deep includes and macros may nest.
const MAX_NESTING: usize = 100;
/// The most bytes that one part of a mail can become.
pub(super) const MAX_OUTPUT: usize = 4 * 1024 * 1024;
/// The most bytes of JSON that one render may make, whether they are written or not.
const MOST_JSON: usize = 16 * MAX_OUTPUT;

/// The kind of text that is rendered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OutputKind {
    /// HTML, or MJML, which becomes HTML.
    Html,
    /// The subject, or plain text.
    Text,
}

pub(super) struct TemplateEngine {
    html: Environment<'static>,
    text: Environment<'static>,
}

impl TemplateEngine {
    /// Compiles these files; for HTML, in the form to which `walk` has added checks. Returns an
    /// error for each file that cannot be compiled.
    pub fn compile(
        files: &BTreeMap<String, String>,
        mut walked: WalkResult,
    ) -> (Self, Vec<TemplateError>) {
        let mut errors = Vec::new();
        let mut engine = TemplateEngine {
            html: environment(AutoEscape::Html),
            text: environment(AutoEscape::None),
        };
        let places = std::mem::take(&mut walked.places);
        engine
            .html
            .add_filter(FILTER, move |value: Value, place: usize| {
                if let Some(place) = places.get(place) {
                    checks::check(&value, place)?;
                }
                Ok::<Value, Error>(value)
            });

        for (name, source) in files {
            let html = walked.sources.remove(name);
            let html = html.unwrap_or_else(|| source.clone());
            // The original first: its errors quote what the author wrote.
            let compiled = engine
                .text
                .add_template_owned(name.clone(), source.clone())
                .and_then(|()| engine.html.add_template_owned(name.clone(), html));
            if let Err(error) = compiled {
                errors.push(template_error(&error, name));
            }
        }

        (engine, errors)
    }

    /// Renders a file.
    pub fn render(
        &self,
        file: &str,
        kind: OutputKind,
        data: &Value,
    ) -> Result<String, TemplateError> {
        let environment = match kind {
            OutputKind::Html => &self.html,
            OutputKind::Text => &self.text,
        };

        let mut out = BoundedWriter(Vec::new());
        environment
            .get_template(file)
            .and_then(|template| {
                template
                    .render_captured_to(data.clone(), &mut out)
                    .map(drop)
            })
            .map_err(|error| template_error(&error, file))?;

        String::from_utf8(out.0).map_err(|_| TemplateError::Render {
            file: file.to_owned(),
            line: None,
            variable: None,
            reason: "did not become text in UTF-8".to_owned(),
        })
    }

    /// The variables that a file uses itself, with their dots.
    pub fn variables(&self, file: &str) -> impl Iterator<Item = String> + use<> {
        let found = self.text.get_template(file);
        let found = found.map(|template| template.undeclared_variables(true));
        found.unwrap_or_default().into_iter()
    }
}

/// A writer that accepts at most [`MAX_OUTPUT`] bytes.
struct BoundedWriter(Vec<u8>);

impl io::Write for BoundedWriter {
    fn write(&mut self, more: &[u8]) -> io::Result<usize> {
        if self.0.len() + more.len() > MAX_OUTPUT {
            return Err(io::Error::other(format!(
                "it became more than {MAX_OUTPUT} bytes"
            )));
        }
        self.0.extend_from_slice(more);
        Ok(more.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn environment(escape: AutoEscape) -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_auto_escape_callback(move |_| escape.clone());

    // A missing variable is false in `{% if nickname %}`; to print one is a mistake.
    environment.set_undefined_behavior(UndefinedBehavior::SemiStrict);
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(MAX_NESTING);
    environment.set_syntax(syntax());

    environment.add_filter("tojson", to_json);

    // Without it an error does not name the missing variable.
    environment.set_debug(true);
    environment.set_formatter(|out, state, value| match value {
        // null prints nothing; minijinja would print the word "none".
        null if null.is_none() => Ok(()),
        value if *state.auto_escape() == AutoEscape::Html && !value.is_safe() => {
            write_escaped(out, &value.to_string())
        }
        value => escape_formatter(out, state, value),
    });

    environment
}

/// The bytes of JSON that one render has made so far.
#[derive(Default)]
struct JsonMade(usize);

/// The filter `tojson`, bounded. The built-in filter indents by any width, and its output counts
/// only after it was made; here the size is estimated before.
fn to_json(
    state: &mut State,
    value: &Value,
    indent: Option<Value>,
    args: Kwargs,
) -> Result<Value, Error> {
    let asked: Option<Value> = indent.clone().or_else(|| args.peek("indent").ok());
    let width = asked.and_then(|width| usize::try_from(width).ok());
    let mut room = MAX_OUTPUT;
    if let Some(width) = width
        && !has_room(value, width, 1, &mut room)?
    {
        let detail = format!("an indentation of {width} makes more than {MAX_OUTPUT} bytes");
        return Err(Error::new(ErrorKind::InvalidOperation, detail));
    }

    let json = minijinja::filters::tojson(value, indent, args)?;
    let made = state.get_or_insert_extension(JsonMade::default());
    made.0 += json.as_str().map_or(0, str::len);
    match made.0 > MOST_JSON {
        true => Err(ErrorKind::OutOfFuel.into()),
        false => Ok(json),
    }
}

/// Whether `room` is enough for the white space before each line of a value.
fn has_room(value: &Value, width: usize, depth: usize, room: &mut usize) -> Result<bool, Error> {
    if !matches!(
        value.kind(),
        ValueKind::Seq | ValueKind::Map | ValueKind::Iterable
    ) {
        return Ok(true);
    }
    for item in value.try_iter()? {
        let Some(left) = room.checked_sub(width.saturating_mul(depth)) else {
            return Ok(false);
        };
        *room = left;
        let within = match value.kind() {
            ValueKind::Map => value.get_item(&item)?,
            _ => item,
        };
        if !has_room(&within, width, depth + 1, room)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Escapes text for HTML and its quoted attributes. A `/` is not escaped: programs that rewrite
/// links in mail would not find them.
fn write_escaped(out: &mut Output<'_>, text: &str) -> Result<(), Error> {
    let mut rest = text;
    while let Some(at) = rest.find(['&', '<', '>', '"', '\'']) {
        let escaped = match rest.as_bytes()[at] {
            b'&' => "&amp;",
            b'<' => "&lt;",
            b'>' => "&gt;",
            b'"' => "&quot;",
            _ => "&#39;",
        };
        out.write_str(&rest[..at])?;
        out.write_str(escaped)?;
        rest = &rest[at + 1..];
    }

    Ok(out.write_str(rest)?)
}

/// A line with nothing but a block leaves no empty line, which a text part would show.
fn syntax() -> SyntaxConfig {
    let built = SyntaxConfig::builder()
        .trim_blocks(true)
        .lstrip_blocks(true)
        .build();
    built.unwrap_or_default()
}

/// The innermost error, with its file and line.
fn template_error(error: &Error, file: &str) -> TemplateError {
    let mut inner = error;
    while let Some(cause) = std::error::Error::source(inner).and_then(|e| e.downcast_ref::<Error>())
    {
        inner = cause;
    }

    let cause = std::error::Error::source(inner);
    if let Some(unfit) = cause.and_then(|cause| cause.downcast_ref::<UnfitValue>()) {
        let name = Some(&unfit.expression).filter(|expression| is_path(expression));
        return TemplateError::Render {
            file: inner.name().or(error.name()).unwrap_or(file).to_owned(),
            line: inner.line().or(error.line()),
            variable: name.cloned(),
            reason: unfit.to_string(),
        };
    }

    let variable = inner.detail().and_then(meant);
    let reason = match (inner.kind(), &variable) {
        (_, Some(variable)) => format!("`{variable}` is missing"),
        (ErrorKind::OutOfFuel, _) => "does too much, and was stopped".to_owned(),
        (ErrorKind::WriteFailure, _) => format!("became more than {MAX_OUTPUT} bytes"),
        _ => match inner.detail() {
            Some(detail) => format!("{}: {detail}", inner.kind()),
            None => inner.kind().to_string(),
        },
    };

    TemplateError::Render {
        file: inner.name().or(error.name()).unwrap_or(file).to_owned(),
        line: inner.line().or(error.line()),
        variable,
        reason,
    }
}

/// The name of a missing variable in minijinja's message, if it is a name with dots.
fn meant(detail: &str) -> Option<String> {
    let (before, _) = detail.split_once("` is undefined")?;
    let name = before.rsplit('`').next()?;
    is_path(name).then(|| name.to_owned())
}

/// Whether this is a name with dots.
fn is_path(text: &str) -> bool {
    let is_name = |part: &str| {
        part.starts_with(|c: char| c.is_alphabetic() || c == '_')
            && part.chars().all(|c| c.is_alphanumeric() || c == '_')
    };
    text.split('.').all(is_name)
}

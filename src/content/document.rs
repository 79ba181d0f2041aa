//! Turns the rendered text into a document for mail programs: MJML becomes HTML, CSS is moved into
//! the elements, and a text part is made if the template has none. `template_set` calls it.

use mrml::prelude::parser::ParserOptions;
use mrml::prelude::parser::noop_loader::NoopIncludeLoader;
use mrml::prelude::render::RenderOptions;

use super::engine::MAX_OUTPUT;

/// The longest line of a text part that is made from HTML (RFC 5322 §2.1.1 recommends 78).
const TEXT_WIDTH: usize = 76;

/// Placeholders for `&lt;` and `&gt;` while libraries parse HTML and write it again: the parser
/// decodes them, and not every writer encodes them again within an attribute. These characters of
/// the private use area are removed from the input first.
const GUARDS: [(&str, char); 2] = [("&lt;", '\u{f7e1}'), ("&gt;", '\u{f7e2}')];

/// Converts MJML to HTML.
pub(super) fn from_mjml(mjml: &str) -> Result<String, String> {
    let html = converted(&guarded(mjml))?;
    within_bounds(unguarded(html))
}

fn converted(mjml: &str) -> Result<String, String> {
    let options = ParserOptions {
        include_loader: Box::new(NoopIncludeLoader),
    };
    let parsed = mrml::parse_with_options(mjml, &options).map_err(|error| reason(&error))?;
    let html = parsed.element.render(&RenderOptions::default());
    html.map_err(|error| reason(&error))
}

/// The HTML with the rules of its `<style>` elements moved into the `style` attributes of the
/// matching elements, since many mail programs drop `<style>`. Media queries stay where they are.
pub(super) fn with_css_inlined(html: String) -> Result<String, String> {
    let has_style = html
        .as_bytes()
        .windows(6)
        .any(|tag| tag.eq_ignore_ascii_case(b"<style"));

    if !has_style {
        return Ok(html);
    }
    let inliner = css_inline::CSSInliner::options()
        .load_remote_stylesheets(false)
        .keep_at_rules(true)
        .build();

    let inlined = inliner
        .inline(&guarded(&html))
        .map_err(|error| error.to_string())?;
    within_bounds(unguarded(inlined))
}

fn guarded(html: &str) -> String {
    let mut html = html.replace(GUARDS.map(|(_, guard)| guard), "\u{fffd}");
    for (escape, guard) in GUARDS {
        html = html.replace(escape, guard.encode_utf8(&mut [0; 4]));
    }
    html
}

fn unguarded(mut html: String) -> String {
    for (escape, guard) in GUARDS {
        html = html.replace(guard, escape);
    }
    html
}

/// The HTML as plain text.
pub(super) fn as_text(html: &str) -> Result<String, String> {
    let reader = html2text::config::plain()
        .no_table_borders()
        .no_link_wrapping()
        .allow_width_overflow();
    let text = reader
        .string_from_read(html.as_bytes(), TEXT_WIDTH)
        .map_err(|error| error.to_string())?;
    let mut tidy = String::with_capacity(text.len());

    let mut empty = 0;
    for line in text.lines().map(str::trim_end) {
        empty = if line.is_empty() { empty + 1 } else { 0 };
        // Layout by tables leaves many empty lines.
        if empty <= 1 && !(tidy.is_empty() && line.is_empty()) {
            tidy.push_str(line);
            tidy.push('\n');
        }
    }

    tidy.truncate(tidy.trim_end().len());
    tidy.push('\n');
    within_bounds(tidy)
}

fn within_bounds(text: String) -> Result<String, String> {
    if text.len() > MAX_OUTPUT {
        return Err(format!("it became more than {MAX_OUTPUT} bytes"));
    }
    Ok(text)
}

/// An error with its causes.
fn reason(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(&format!(": {inner}"));
        cause = inner.source();
    }
    text
}

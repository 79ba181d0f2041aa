//! Writes the fields of a log line as text, `name=value`, so that no value can look like another
//! field, whoever wrote it.

use std::fmt::{self, Debug};

use tracing::field::{Field, Visit};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::Writer;

use crate::delivery::{LogValue, escape, without_fields};
use crate::mail::is_harmless;

/// Formats the fields of a line; `logging` passes it to `tracing-subscriber`.
pub(super) struct LogFields;

impl<'writer> FormatFields<'writer> for LogFields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'writer>, fields: R) -> fmt::Result {
        let mut line = LogLine {
            writer,
            is_empty: true,
            result: Ok(()),
        };
        fields.record(&mut line);
        line.result
    }
}

struct LogLine<'writer> {
    writer: Writer<'writer>,
    is_empty: bool,
    result: fmt::Result,
}

impl LogLine<'_> {
    fn write(&mut self, field: &Field, value: fmt::Arguments<'_>) {
        if self.result.is_err() {
            return;
        }
        let space = if self.is_empty { "" } else { " " };
        self.is_empty = false;
        let name = field.name();
        let name = name.strip_prefix("r#").unwrap_or(name);
        self.result = match name {
            "message" => write!(self.writer, "{space}{value}"),
            _ => write!(self.writer, "{space}{name}={value}"),
        };
    }
}

impl Visit for LogLine<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            return self.write(field, format_args!("{value}"));
        }
        let mut quoted = String::with_capacity(value.len() + 2);
        // Writing to a string cannot fail.
        let _ = escape(value, &mut quoted);
        self.write(field, format_args!("\"{quoted}\""));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let text = format!("{value:?}");
        if field.name() == "message" {
            self.write(field, format_args!("{text}"));
        } else if is_sound(&text) {
            self.write(field, format_args!("{}", without_fields(&text)));
        } else {
            self.write(field, format_args!("{}", LogValue(&text)));
        }
    }
}

/// Whether a value that was formatted by its own type cannot look like a field: outside of closed
/// strings it has no `=`. So a word, a sentence and a list of quoted words stay as they are.
fn is_sound(text: &str) -> bool {
    let mut in_string = false;
    let mut escaped = false;
    for c in text.chars() {
        match c {
            _ if escaped => escaped = false,
            '\\' if in_string => escaped = true,
            '"' => in_string = !in_string,
            '=' if !in_string => return false,
            c if !is_harmless(c) => return false,
            _ => {}
        }
    }

    !in_string
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_could_pass_for_a_field_is_quoted() {
        for sound in [
            "12",
            "Some(250)",
            "[\"a\", \"b\"]",
            "two words",
            "\"a \\\" b\"",
        ] {
            assert!(is_sound(sound), "{sound}");
        }
        for forged in ["a peer=1", "\"", "[\"a\", b=1]", "say \"b"] {
            assert!(!is_sound(forged), "{forged}");
        }
    }
}

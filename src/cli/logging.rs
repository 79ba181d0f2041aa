//! Log lines on standard error, as `[log]` says; the variable RUST_LOG wins over `log.level`.

use std::io::{IsTerminal, Write, stderr};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt;

use super::Failure;
use super::log_fields::LogFields;
use super::screen::note;
use crate::config::{Log, LogFormat};
use crate::mail::is_harmless;

/// Begins to log.
pub(super) fn start(log: &Log) -> Result<(), Failure> {
    // The variable RUST_LOG has been laid over the level already, and both have been checked.
    let filter = EnvFilter::try_new(directives(&log.level))
        .map_err(|e| Failure::Usage(format!("log.level cannot be read: {e}")))?;
    let filter = match log.accepted {
        true => filter,
        false => filter.add_directive(
            "postrider::accepted=off"
                .parse()
                .map_err(|e| Failure::Failed(format!("cannot log: {e}")))?,
        ),
    };

    let colours = log.format == LogFormat::Text
        && stderr().is_terminal()
        && std::env::var_os("NO_COLOR").is_none();
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(move || SanitizedWriter(stderr(), colours));
    let started = match log.format {
        LogFormat::Json => lines.json().flatten_event(true).finish().try_init(),
        LogFormat::Text => lines
            .with_ansi(colours)
            .fmt_fields(LogFields)
            .finish()
            .try_init(),
    };

    started.map_err(|e| Failure::Failed(format!("cannot log: {e}")))
}

/// What is left of what libraries say where everything is wanted.
const LIBRARIES: &str = "sled=warn,rustls=warn,hyper=info,hyper_util=info,h2=info,ractor=info,\
                         html5ever=info,tokio_postgres=info";

/// What is worth a line. Where everything is wanted, that is everything of the service: what its
/// libraries say of their pages, handshakes and frames is left out unless it is named.
fn directives(level: &str) -> String {
    let mut named = level.split(',').map(|one| one.trim().to_ascii_lowercase());
    match named.any(|one| ["debug", "trace"].contains(&one.as_str())) {
        true => format!("{LIBRARIES},{level}"),
        false => level.to_owned(),
    }
}

/// Writes lines in which no character moves the cursor, ends the line or turns the reading around,
/// whatever part of a line it came in and in whatever format. Where there are colours, which begin
/// with ESC, that one passes: values have it escaped already.
struct SanitizedWriter<W>(W, bool);

impl<W: Write> Write for SanitizedWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        let passes = |c: char| c == '\n' || is_harmless(c) || (self.1 && c == '\u{1b}');
        if text.chars().all(passes) {
            self.0.write_all(bytes)?;
            return Ok(bytes.len());
        }

        let mut line = String::with_capacity(text.len());
        for c in text.chars() {
            match passes(c) {
                true => line.push(c),
                // What JSON writes, too; everything here is below U+10000.
                false => line.push_str(&format!("\\u{:04x}", u32::from(c))),
            }
        }

        self.0.write_all(line.as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}

/// A panic is a bug of ours, told in one line: in the log where there is one. An actor that panics
/// is re-created.
pub(super) fn report_panics_in_one_line() {
    std::panic::set_hook(Box::new(|panic| {
        let payload = panic.payload();
        let reason = payload
            .downcast_ref::<&str>()
            .copied()
            .or(payload.downcast_ref::<String>().map(String::as_str));
        let reason = crate::delivery::printable(reason.unwrap_or("no reason given"));
        let place = panic
            .location()
            .map(ToString::to_string)
            .unwrap_or_default();
        if tracing::dispatcher::has_been_set() {
            tracing::error!(place, reason, "a bug in postrider: please report it");
        } else {
            note(format_args!(
                "postrider: a bug, please report it: {reason} (at {place})"
            ));
        }
    }));
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn no_line_has_a_character_that_a_terminal_obeys() {
        let written = |text: &str, colours| {
            let mut line = Vec::new();
            SanitizedWriter(&mut line, colours)
                .write_all(text.as_bytes())
                .unwrap();
            String::from_utf8(line).unwrap()
        };

        assert_eq!(
            written("to \u{202e}adA\u{7}\r\n", false),
            "to \\u202eadA\\u0007\\u000d\n"
        );

        assert_eq!(written("\u{1b}[1mgrün\n", true), "\u{1b}[1mgrün\n");
        assert_eq!(written("\u{1b}[1m", false), "\\u001b[1m");
    }
}
